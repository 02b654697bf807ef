//! Bytes of clients and of backends.

use super::striped::Striped;
use crate::net::client_stream::ByteCounter;

const RECEIVED: usize = 0;
const SENT: usize = 1;

/// The bytes of clients of one protocol, or of one backend: within TLS those that are encrypted.
#[derive(Debug, Default)]
pub struct Traffic(Striped<2>);

impl Traffic {
    /// How many bytes have come from them.
    pub fn received_bytes(&self) -> u64 {
        self.0.get(RECEIVED)
    }

    /// How many bytes have gone to them.
    pub fn sent_bytes(&self) -> u64 {
        self.0.get(SENT)
    }
}

impl ByteCounter for Traffic {
    fn received(&self, bytes: usize) {
        self.0.add(RECEIVED, bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.0.add(SENT, bytes as u64);
    }
}
