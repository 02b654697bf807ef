//! The loader: a CSV file's rows into every server, read back and compared.

pub mod dataset;
mod progress;
pub mod seed;
mod server;
mod transaction;
