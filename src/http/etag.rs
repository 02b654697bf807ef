//! `ETag` and `If-None-Match`.

use std::fmt;

use super::encoding::Encoding;

/// The ETag of a body: what is in it, how long its form is, and how it is compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct ETag {
    pub digest: u64,
    pub length: usize,
    pub encoding: Option<Encoding>,
}

impl ETag {
    /// Whether it is one of the tags of an `If-None-Match` (weak comparison, RFC 9110, section 8.8.3.2).
    pub fn is_in(self, list: &str) -> bool {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = opaque(&self.to_string());
        list.split(',').any(|tag| tag.trim() == "*" || opaque(tag) == own)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let (mark, encoding) = match self.encoding {
            Some(encoding) => ("-", encoding.name()),
            None => ("", ""),
        };
        write!(to, "W/\"{:016x}-{:x}{mark}{encoding}\"", self.digest, self.length)
    }
}
