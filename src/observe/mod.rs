//! What is seen from outside: the status page's data, the metrics for Prometheus, the samples of the history.

mod backend_status;
mod families;
pub mod misconfiguration;
pub mod process;
pub mod prometheus;
pub mod sampler;
pub mod status;
