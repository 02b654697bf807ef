//! The resources that the process uses.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The resources that the process uses. A value is `None` if the system does not tell it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// The number of its threads.
    pub threads: Option<u64>,
    /// Its memory in RAM.
    pub resident_bytes: Option<u64>,
    /// Processor time of all its threads since the start.
    pub cpu_seconds: f64,
}

impl Usage {
    /// Asks the system.
    pub fn now() -> Self {
        // See proc(5); only Linux has this file.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        Self {
            threads: field("Threads:"),
            resident_bytes: field("VmRSS:").map(|kib| kib * 1024),
            cpu_seconds: (cpu.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }
}

/// Returns the number of open file descriptors; `None` if the system does not tell it.
pub fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    // Since 6.2, Linux says the number at once. Of very many, to list them takes long.
    let told = std::fs::metadata(FOLDER).map_or(0, |folder| folder.len());
    if cfg!(target_os = "linux") && told > 0 {
        return Some(told);
    }
    // One of them is that of the list.
    let listed = std::fs::read_dir(FOLDER).ok()?.count() as u64;
    Some(listed.saturating_sub(1))
}

/// Returns how many file descriptors may be open; `None` if the system does not tell it.
pub fn max_descriptors() -> Option<u64> {
    rlimit::Resource::NOFILE.get_soft().ok()
}
