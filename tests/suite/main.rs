//! The whole system, tested with real `redis-server` processes and the real binaries.

mod seed;
mod support;
