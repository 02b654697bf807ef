//! What the process takes of the machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What the process takes of the machine; `None` for what the system does not say.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// Its threads.
    pub threads: Option<u64>,
    /// Memory that it has in RAM.
    pub resident_bytes: Option<u64>,
    /// Processor time of all its threads since the start.
    pub cpu_seconds: f64,
}

impl Usage {
    /// As it is now.
    pub fn now() -> Self {
        // As in proc(5); other systems have no such file.
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
