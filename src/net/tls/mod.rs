//! TLS for clients and backends, without a socket of its own.
//!
//! [`TlsSession`](session::TlsSession) stands beside a socket: bytes of the socket go in, plain text comes out, and the
//! other way. [`ClientStream`](super::client_stream::ClientStream) and
//! [`BackendStream`](super::backend_stream::BackendStream) have one if they speak TLS; nobody else knows.

pub mod certificates;
pub mod error;
pub mod expiry;
pub mod listener;
pub(super) mod session;
#[cfg(test)]
pub(super) mod test_support;
#[cfg(test)]
mod tests;

pub use self::error::TlsError;
pub use self::session::TlsSummary;
