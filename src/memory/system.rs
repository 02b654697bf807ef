//! How much memory the machine, or the control group of this process, has.

use std::fs;
use std::path::{Path, PathBuf};

use super::MIN_BYTES;

/// Part of the memory that there is, as its denominator, which is the default of `--max-memory`. The rest is for
/// threads, connections, the kernel's buffers, and others.
const DEFAULT_PART: u64 = 4;

/// Memory that is assumed where the system does not say.
const ASSUMED_BYTES: u64 = 1024 * 1024 * 1024;

/// Returns the default of `--max-memory`: a quarter of what there is.
pub(crate) fn default_bytes() -> u64 {
    (available_bytes() / DEFAULT_PART).max(MIN_BYTES)
}

/// Returns how much memory there is.
pub(crate) fn available_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let machine = meminfo.or_else(kernel_total);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups, Path::new("/sys/fs/cgroup"));
    let limits = limits.iter().filter_map(|file| fs::read_to_string(file).ok());
    // "max" stands for no limit.
    let limits = limits.filter_map(|text| text.trim().parse().ok());
    limits.chain(machine).min().unwrap_or(ASSUMED_BYTES)
}

/// Returns the machine's memory, as `/proc/meminfo` names it.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the machine's memory, as the kernel says without `/proc/meminfo`: systemd's `ProcSubset=pid` hides that.
#[cfg(target_os = "linux")]
fn kernel_total() -> Option<u64> {
    let info = rustix::system::sysinfo();
    Some(info.totalram * u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn kernel_total() -> Option<u64> {
    None
}

/// Returns the files that may hold the limits of our control group and of those around it, for both versions of
/// control groups. In a container, the group's own path may not be there, but its root is.
fn limit_files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            return Some((root.to_owned(), path.to_owned(), "memory.max"));
        }
        let is_memory = controllers.split(',').any(|name| name == "memory");
        is_memory.then(|| (root.join("memory"), path.to_owned(), "memory.limit_in_bytes"))
    };
    let mut files = Vec::new();
    for (root, path, file) in groups.lines().filter_map(group) {
        let own = root.join(path);
        let around = own.ancestors().take_while(|path| path.starts_with(&root));
        files.extend(around.map(|path| path.join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read() {
        let text = "MemTotal:       24683520 kB\nMemFree:        15178752 kB\n";
        assert_eq!(total(text), Some(24_683_520 * 1024));
        assert_eq!(total("MemFree: 1 kB"), None);
        assert_eq!(total("MemTotal: x kB"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_says_the_same_where_the_file_is_hidden() {
        let file = fs::read_to_string("/proc/meminfo").expect("Linux has it");
        let (file, kernel) = (total(&file).expect("a size"), kernel_total().expect("a size"));
        assert!(file.abs_diff(kernel) < 4096, "{file} {kernel}");
    }

    #[test]
    fn limits_of_the_control_group_and_of_those_around_it_are_found() {
        let files = |groups| limit_files(groups, Path::new("/cg"));
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            files("0::/system.slice/lb.service\n"),
            paths(&[
                "/cg/system.slice/lb.service/memory.max",
                "/cg/system.slice/memory.max",
                "/cg/memory.max"
            ])
        );
        assert_eq!(
            files("9:cpu,cpuacct:/a\n4:memory:/a\n0::/\n"),
            paths(&[
                "/cg/memory/a/memory.limit_in_bytes",
                "/cg/memory/memory.limit_in_bytes",
                "/cg/memory.max"
            ])
        );
        assert_eq!(files("nonsense\n:\n"), paths(&[]));
    }

    #[test]
    fn there_is_a_default_on_each_machine() {
        assert!(default_bytes() >= MIN_BYTES);
    }
}
