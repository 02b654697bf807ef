//! One address in front of several Redis servers that hold the same data.
pub mod address;
pub mod dataset;
pub mod seed;
