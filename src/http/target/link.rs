//! Links to keys and to pages of keys.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::query::limits;
use super::{Cursor, Format, PageQuery};

/// Characters that are percent-encoded in a link. A hyphen is among them because `/-/` is ours, and a
/// slash because `//` would begin the name of a host and clients remove `/../`.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'_').remove(b'.');

/// Returns the path and query that lead to `key`, whatever its bytes, with these parameters (names and
/// values).
pub(crate) fn link_to_key(key: &[u8], parameters: &[(&str, &[u8])]) -> String {
    let encode = |bytes| percent_encode(bytes, LINK);
    // To us or to browsers, these paths mean something else.
    let is_special = key.ends_with(b":") || [&b""[..], b".", b"..", b"favicon.ico"].contains(&key);
    let (mut link, mut separator) = match is_special {
        true => (format!("/?key={}", encode(key)), '&'),
        false => (format!("/{}", encode(key)), '?'),
    };
    for (name, value) in parameters {
        link += &format!("{separator}{name}={}", encode(value));
        separator = '&';
    }
    link
}

impl PageQuery {
    /// Returns the path and query of the page that goes on at `cursor`.
    pub fn link(&self, cursor: &Cursor) -> String {
        let encode = |bytes| percent_encode(bytes, LINK);
        let mut link = format!("/{}?", encode(&self.prefix));
        if let Some(matching) = &self.matching {
            link += &format!("match={}&", encode(matching));
        }
        if let Some(search) = &self.search {
            link += &format!("search={}&", encode(search));
        }
        if self.is_format_named {
            link += if self.format == Format::Html { "format=html&" } else { "format=json&" };
        }
        if self.limit != limits(self.format).0 {
            link += &format!("limit={}&", self.limit);
        }
        link + "cursor=" + &cursor.to_text()
    }
}
