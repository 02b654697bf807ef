//! Sockets: which protocol a client speaks.

pub mod protocol;
