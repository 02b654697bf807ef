//! Links to what the balancer serves: paths and queries that [`target::parse`](super::target::parse) reads.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::cursor::{Cursor, Trail};
use super::request::MAX_REQUEST_LINE_BYTES;
use super::target::{Format, PageQuery, escape_glob, limits, search_glob};

/// Longest path and query of a link of ours: the rest of a request line is for its method and version, and for a host,
/// which some proxies name there.
pub(crate) const MAX_LINK_BYTES: usize = MAX_REQUEST_LINE_BYTES - 512;

/// Room in a link to a key for the parameters that lead to its other forms and pages. Fields are not among them.
pub(super) const LINK_PARAMETER_BYTES: usize = 256;

/// Characters that are percent-encoded in a link. A hyphen is among them because `/-/` is ours, and a
/// slash because `//` would begin the name of a host and clients remove `/../`.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'_').remove(b'.');

impl PageQuery {
    /// Returns the path and query of the page that goes on at `cursor`.
    pub fn link(&self, cursor: &Cursor) -> String {
        let position = self.cursor.as_ref().map_or(0, |cursor| cursor.position).to_string();
        let trail = match self.format {
            Format::Html => self.trail.then(&position),
            _ => Trail::default(),
        };
        self.link_to(self.format, Some(cursor), &trail)
    }

    /// Returns the path and query of the first page.
    pub(crate) fn first_link(&self) -> String {
        self.link_to(self.format, None, &Trail::default())
    }

    /// Returns the path and query of the page before this one, if it is known.
    pub(crate) fn previous_link(&self) -> Option<String> {
        let (position, trail) = self.trail.back()?;
        let run_id = self.cursor.as_ref()?.run_id.clone();
        let cursor = Cursor { run_id, position: position.parse().ok()? };
        // The first page has one, too: another server has its keys in another order.
        Some(self.link_to(self.format, Some(&cursor), &trail))
    }

    /// Returns the path and query of this page as JSON.
    pub(crate) fn json_link(&self) -> String {
        self.link_to(Format::Json, self.cursor.as_ref(), &Trail::default())
    }

    fn link_to(&self, format: Format, cursor: Option<&Cursor>, trail: &Trail) -> String {
        let encode = |bytes| percent_encode(bytes, LINK);
        let mut parameters = Vec::new();
        if let Some(database) = self.database {
            parameters.push(format!("db={database}"));
        }
        if let Some(matching) = &self.matching {
            parameters.push(format!("match={}", encode(matching)));
        }
        if let Some(search) = &self.search {
            parameters.push(format!("search={}", encode(search)));
        }
        if self.is_format_named || format != self.format {
            let format = if format == Format::Html { "html" } else { "json" };
            parameters.push(format!("format={format}"));
        }
        if self.is_array {
            parameters.push("shape=array".to_owned());
        }
        if self.limit != limits(format).0 {
            parameters.push(format!("limit={}", self.limit));
        }
        if let Some(cursor) = cursor {
            parameters.push("cursor=".to_owned() + &cursor.to_text());
        }
        let path = format!("/{}", encode(&self.prefix));
        let link = match parameters.is_empty() {
            true => path,
            false => format!("{path}?{}", parameters.join("&")),
        };
        let trail = trail.to_text();
        let room = MAX_LINK_BYTES.saturating_sub(link.len() + "&previous=".len());
        if trail.is_empty() || trail.len() > room {
            link
        } else {
            format!("{link}&previous={trail}")
        }
    }
}

/// Returns the path and query that lead to the first page of this database's keys.
pub(crate) fn link_to_keys(database: Option<i64>) -> String {
    database.map_or("/".to_owned(), |database| format!("/?db={database}"))
}

/// Returns the path and query that lead to the keys of this database that begin with `prefix`. It is no path that ends
/// in `:`, because there may be a key of that name.
pub(crate) fn link_to_prefix(prefix: &[u8], database: Option<i64>) -> String {
    let is_plain = search_glob(prefix) == [escape_glob(prefix), b"*".to_vec()].concat();
    let search =
        if is_plain { prefix.to_vec() } else { [escape_glob(prefix), b"*".to_vec()].concat() };
    let database = database.map_or(String::new(), |database| format!("db={database}&"));
    format!("/?{database}search={}", percent_encode(&search, LINK))
}

/// Returns the path and query that lead to `key` in this database, whatever its bytes, with these parameters (names and
/// values); `None` if that would be longer than what is served. A key that has a link has one for each of its pages.
pub(crate) fn link_to_key(
    key: &[u8],
    database: Option<i64>,
    parameters: &[(&str, &[u8])],
) -> Option<String> {
    // Not encoded in vain.
    if key.len() > MAX_LINK_BYTES {
        return None;
    }
    let encode = |bytes| percent_encode(bytes, LINK);
    // To us or to browsers, these paths mean something else.
    let is_special = key.ends_with(b":") || [&b""[..], b".", b"..", b"favicon.ico"].contains(&key);
    let (mut link, mut separator) = match is_special {
        true => (format!("/?key={}", encode(key)), '&'),
        false => (format!("/{}", encode(key)), '?'),
    };
    if let Some(database) = database {
        link += &format!("{separator}db={database}");
        separator = '&';
    }
    for (name, value) in parameters {
        link += &format!("{separator}{name}={}", encode(value));
        separator = '&';
    }
    let room = if parameters.is_empty() { LINK_PARAMETER_BYTES } else { 0 };
    (link.len() + room <= MAX_LINK_BYTES).then_some(link)
}
