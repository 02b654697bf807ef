//! TLS wherever a test speaks with the balancer, and the balancer with its servers, if `TLS=1` is set.

use std::process::Command;
use std::sync::OnceLock;

use super::certificates::Certificates;

/// The certificates of a run with `TLS=1`; `None` in any other.
pub fn certificates() -> Option<&'static Certificates> {
    static CERTIFICATES: OnceLock<Option<Certificates>> = OnceLock::new();
    let make = || std::env::var_os("TLS").map(|_| Certificates::new("the tests' CA"));
    CERTIFICATES.get_or_init(make).as_ref()
}

/// Has a balancer trust the servers of a run with `TLS=1`.
pub fn configure(command: &mut Command) {
    if let Some(certificates) = certificates() {
        command.env("LB_BACKEND_TLS_CA", certificates.ca());
    }
}
