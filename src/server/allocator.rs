//! How the system's allocator gives freed memory back.

/// Length from which glibc's allocator maps a block of its own, which goes back to the system when it is freed.
/// glibc raises this to up to 32 MiB when such a block is freed, and then keeps hundreds of MiB of what clients
/// made us hold once. A fixed threshold stops that; 256 KiB is above the buffers of usual requests.
#[cfg(target_env = "gnu")]
const TUNABLES: &str = "glibc.malloc.mmap_threshold=262144:glibc.malloc.trim_threshold=262144";

/// Variable of the environment that glibc reads when a program starts.
#[cfg(target_env = "gnu")]
const TUNABLES_VARIABLE: &str = "GLIBC_TUNABLES";

/// Variable by which the program knows that it has been started again.
#[cfg(target_env = "gnu")]
const STARTED_VARIABLE: &str = "LB_ALLOCATOR";

/// Has freed memory go back to the system, where the allocator is glibc's: it reads its settings once, before `main`,
/// so the program is started again in its own place, as the same process, with the settings in the environment.
/// `LB_ALLOCATOR` in the environment, or a threshold of the user's own in `GLIBC_TUNABLES`, leaves all as it is.
#[cfg(target_env = "gnu")]
pub fn keep_freed_memory_low() {
    use std::env;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    let own = env::var(TUNABLES_VARIABLE).unwrap_or_default();
    if env::var_os(STARTED_VARIABLE).is_some() || own.contains("mmap_threshold") {
        return;
    }
    let tunables = if own.is_empty() { TUNABLES.to_owned() } else { format!("{own}:{TUNABLES}") };
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut again = Command::new(program);
    again.arg0(arguments.next().unwrap_or_else(|| "lb".into())).args(arguments);
    // It only returns where the program can't be started; it serves as well with more memory.
    let error = again.env(TUNABLES_VARIABLE, tunables).env(STARTED_VARIABLE, "fixed").exec();
    log::debug!("freed memory may not go back to the system: {error}");
}

/// Other allocators give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory_low() {}
