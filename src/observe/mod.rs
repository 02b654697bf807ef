//! What is seen from outside: the status page's data, the metrics for Prometheus, the samples of the history.

mod backend_status;
mod cache_status;
pub mod certificates;
mod families;
mod last_minute;
pub(crate) mod misconfiguration;
mod process;
pub(crate) mod prometheus;
pub mod sampler;
mod source_status;
pub(crate) mod status;
mod verdict;
mod zone_status;
