//! One address in front of several Redis servers that hold the same data.
pub mod address;
pub mod backend;
pub mod balance;
pub mod http;
pub mod json;
pub mod resp;
pub mod value;
