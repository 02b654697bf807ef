//! What a request's path and query ask for.

mod cursor;
mod glob;
mod link;
mod query;

use self::query::{Query, decode};

pub use cursor::Cursor;
pub(crate) use link::link_to_key;

/// The form in which data are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON, for programs.
    Json,
    /// HTML, for people: the data browser.
    Html,
    /// The bytes of a string as they are.
    Raw,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A path below `/-/`.
    Admin(AdminTarget),
    /// `/favicon.ico`
    Favicon,
    /// The value of a key. There is a listing as well if the path ends in `:` and asks for the whole
    /// value: if there is no such key, it shows the keys that begin with it.
    Key(KeyQuery, Option<PageQuery>),
    /// A page of keys with their values.
    Page(PageQuery),
}

/// A path below `/-/`, where the balancer shows its own state.
#[derive(Debug, PartialEq, Eq)]
pub enum AdminTarget {
    /// `/-/`
    Page,
    /// `/-/status.json`
    Status {
        /// Number of the last sample that the client has; it wants those after it.
        since: u64,
    },
    /// `/-/metrics`
    Metrics,
    /// `/-/ping`
    Ping,
    /// `/-/health`
    Health,
    /// `/-/ready`
    Ready,
    /// Any other path.
    Unknown,
}

/// A request for a value or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// One field of a hash, if not the whole value is requested.
    pub field: Option<Vec<u8>>,
    /// The form of the response.
    pub format: Format,
    /// HTML: the element, byte or entry with which the page begins, where these have numbers or ids.
    pub from: Option<Vec<u8>>,
    /// HTML: where an earlier page of a hash or set ended.
    pub cursor: Option<Cursor>,
}

impl KeyQuery {
    /// Whether the bytes of a string are requested as they are.
    pub(crate) fn is_raw(&self) -> bool {
        self.format == Format::Raw
    }
}

/// A request for a page of keys.
#[derive(Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// The path's prefix, for links to other pages.
    pub prefix: Vec<u8>,
    /// Pattern for `SCAN MATCH`: the escaped prefix and then the `match`. `None` for all keys.
    pub pattern: Option<Vec<u8>>,
    /// The `match` as it was given.
    pub matching: Option<Vec<u8>>,
    /// The `search` as it was given: a glob, or without wildcards the beginning of a key.
    pub search: Option<Vec<u8>>,
    /// Whether the format was given by name: then the links name it, too.
    pub is_format_named: bool,
    /// Number of keys that a page should have.
    pub limit: usize,
    /// The place where an earlier page ended.
    pub cursor: Option<Cursor>,
    /// The form of the response: never raw.
    pub format: Format,
}

/// Whether the response to this target, or its error, is for a person to read: `format` goes before
/// what the client accepts. This is decided nowhere else.
pub(crate) fn wants_html(target: &str, accepts_html: bool) -> bool {
    let (_, query) = target.split_once('?').unwrap_or((target, ""));
    match Query::parse(query).ok().and_then(|mut query| query.take("format")) {
        Some(format) => format == b"html",
        None => accepts_html,
    }
}

/// Whether the target is below `/-/`.
pub(crate) fn is_admin(target: &str) -> bool {
    target.starts_with("/-/")
}

/// Parses the path and query of a request; `html` is the result of `wants_html`.
///
/// # Errors
/// Says what is wrong, for a status 400.
pub fn parse(target: &str, html: bool) -> Result<Target, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(path) = path.strip_prefix("/-/") {
        return admin(path, query).map(Target::Admin);
    }
    if path == "/favicon.ico" {
        return Ok(Target::Favicon);
    }
    let name = decode(path.strip_prefix('/').unwrap_or(path))?;
    let mut query = Query::parse(query)?;
    let format = query.format(html)?;
    let target = if name.is_empty() {
        match query.take("key") {
            Some(key) => Target::Key(query.key(key, format, true)?, None),
            None => Target::Page(query.page(Vec::new(), format)?),
        }
    } else if name.ends_with(b":") {
        // A cursor belongs to the listing: links to such keys have the other form.
        let key = query.key(name.clone(), format, false)?;
        let is_whole = key.field.is_none() && !key.is_raw() && key.from.is_none();
        let listing = if is_whole { Some(query.page(name, format)?) } else { None };
        Target::Key(key, listing)
    } else {
        Target::Key(query.key(name, format, true)?, None)
    };
    query.end()?;
    Ok(target)
}

/// Parses a path below `/-/`. Probes may add any parameters.
fn admin(path: &str, query: &str) -> Result<AdminTarget, String> {
    Ok(match path {
        "" => AdminTarget::Page,
        "status.json" => {
            let mut query = Query::parse(query)?;
            let since = query.number("since", 0..=u64::MAX)?.unwrap_or(0);
            AdminTarget::Status { since }
        }
        "metrics" => AdminTarget::Metrics,
        "ping" => AdminTarget::Ping,
        "health" => AdminTarget::Health,
        "ready" => AdminTarget::Ready,
        _ => AdminTarget::Unknown,
    })
}

#[cfg(test)]
mod tests;
