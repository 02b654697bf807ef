//! What is seen from outside: the status page's figures, Prometheus' text, the history behind both.

pub mod process;
pub mod prometheus;
pub mod sampler;
pub mod status;
