//! What a request's path and query ask for, and links that ask for it.

use std::borrow::Cow;

use super::cursor::MAX_RUN_ID_BYTES;
pub use super::cursor::{Cursor, Trail};
use super::links::MAX_LINK_BYTES;
pub(crate) use super::links::{link_to_key, link_to_keys, link_to_prefix};
use super::query::NamedKeys;
pub(crate) use super::query::{Query, decode};
use super::{ErrorBody, Request};

/// Keys on one page of a listing unless `limit` says otherwise.
const DEFAULT_PAGE_KEYS: usize = 10_000;

/// Highest `limit` of a listing.
const MAX_PAGE_KEYS: usize = 100_000;

/// Keys on one page of the data browser unless `limit` says otherwise, so that a small data set fits
/// on one page, in natural order.
const DEFAULT_HTML_KEYS: usize = 2000;

/// Highest `limit` of such a page: browsers are slow with longer tables.
const MAX_HTML_KEYS: usize = 10_000;

/// Highest number of a database: Redis takes no higher one.
const MAX_DATABASE: i64 = i32::MAX as i64;

/// The number of a sample that never comes: the status after it has none of the history.
pub const NO_HISTORY: u64 = u64::MAX;

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
    /// The values of several keys.
    Keys(KeysQuery),
    /// A page of keys with their values.
    Page(PageQuery),
    /// What may be asked: `OPTIONS`.
    Options,
}

impl Target {
    /// Returns the database that is named, if one is.
    pub(crate) fn database(&self) -> Option<i64> {
        match self {
            Self::Key(KeyQuery { database, .. }, _)
            | Self::Keys(KeysQuery { database, .. })
            | Self::Page(PageQuery { database, .. }) => *database,
            Self::Admin(_) | Self::Favicon | Self::Options => None,
        }
    }
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
    /// `/-/openapi.json`
    OpenApi,
    /// `/-/ping`
    Ping,
    /// `/-/health`
    Health,
    /// `/-/ready`
    Ready,
    /// Any other path.
    Unknown,
}

impl AdminTarget {
    /// Whether it is open to everybody, by whatever name: it says no more than that there is a balancer, and whether that
    /// can serve.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Ping | Self::Health | Self::Ready)
    }
}

/// A request for a value or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The database, if not that of each backend's URL.
    pub database: Option<i64>,
    /// One field of a hash, if not the whole value is requested.
    pub field: Option<Vec<u8>>,
    /// The form of the response.
    pub format: Format,
    /// HTML: the element, byte or entry with which the page begins, where these have numbers or ids.
    pub from: Option<Vec<u8>>,
    /// HTML: where an earlier page of a hash or set ended.
    pub cursor: Option<Cursor>,
    /// HTML: which fields or members are searched for, as [`PageQuery::search`] says it.
    pub search: Option<Vec<u8>>,
    /// HTML: where the pages before this one began.
    pub trail: Trail,
}

impl KeyQuery {
    /// Whether the bytes of a string are requested as they are.
    pub(crate) fn is_raw(&self) -> bool {
        self.format == Format::Raw
    }

    /// Returns the pattern for `MATCH` that finds what is searched for in the value.
    pub(crate) fn pattern(&self) -> Option<Vec<u8>> {
        self.search.as_deref().map(search_glob)
    }

    /// Returns an error about what it asks for.
    pub(crate) fn error<'a>(&'a self, why: impl Into<Cow<'a, str>>) -> ErrorBody<'a> {
        ErrorBody::about(&self.key, self.field.as_deref(), why)
    }
}

/// A request for the values of several keys, as JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct KeysQuery {
    /// The keys, in the order of the answer, each once.
    pub keys: Vec<Vec<u8>>,
    /// Whether the data are an array, whatever the keys are.
    pub is_array: bool,
    /// The database, if not that of each backend's URL.
    pub database: Option<i64>,
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
    /// HTML: where the pages before this one began.
    pub trail: Trail,
    /// The form of the response: never raw.
    pub format: Format,
    /// Whether the data are an array in JSON, whatever the keys are.
    pub is_array: bool,
    /// The database, if not that of each backend's URL.
    pub database: Option<i64>,
}

/// Whether the target is below `/-/`.
pub(crate) fn is_admin(target: &str) -> bool {
    target.starts_with("/-/")
}

/// Parses the path and query of a request, for a client that wants HTML or not.
///
/// # Errors
/// Says what is wrong, for a status 400.
pub fn parse(target: &str, html: bool) -> Result<Target, String> {
    parse_with(target, &Query::of(target), html)
}

/// Parses the target of a request whose query is parsed already.
pub(crate) fn parse_request(request: &Request) -> Result<Target, String> {
    parse_with(&request.target, &request.query, request.wants_html())
}

fn parse_with(target: &str, query: &Result<Query, String>, html: bool) -> Result<Target, String> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if let Some(path) = path.strip_prefix("/-/") {
        return admin(path, query).map(Target::Admin);
    }
    if path == "/favicon.ico" {
        return Ok(Target::Favicon);
    }
    let name = decode(path.strip_prefix('/').unwrap_or(path))?;
    let mut query = query.clone()?;
    let format = query.format(html)?;
    query.database = query.number("db", 0..=MAX_DATABASE)?;
    let target = if name.is_empty() {
        match query.take_keys() {
            NamedKeys::One(key) => Target::Key(query.key(key, format, true)?, None),
            NamedKeys::Several(keys) => Target::Keys(query.several(keys, format)?),
            NamedKeys::No => Target::Page(query.page(Vec::new(), format)?),
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
fn admin(path: &str, query: &Result<Query, String>) -> Result<AdminTarget, String> {
    Ok(match path {
        "" => AdminTarget::Page,
        "status.json" => {
            let since = query.clone()?.number("since", 0..=u64::MAX)?.unwrap_or(0);
            AdminTarget::Status { since }
        }
        "metrics" => AdminTarget::Metrics,
        "openapi.json" => AdminTarget::OpenApi,
        "ping" => AdminTarget::Ping,
        "health" => AdminTarget::Health,
        "ready" => AdminTarget::Ready,
        _ => AdminTarget::Unknown,
    })
}

/// Returns the default and the highest `limit` of a page.
pub(super) fn limits(format: Format) -> (usize, usize) {
    match format {
        Format::Html => (DEFAULT_HTML_KEYS, MAX_HTML_KEYS),
        _ => (DEFAULT_PAGE_KEYS, MAX_PAGE_KEYS),
    }
}

impl Query {
    /// Takes the format; `html` is the default for a client that accepts it.
    fn format(&mut self, html: bool) -> Result<Format, String> {
        let named = self.take("format");
        self.is_format_named = named.is_some();
        match named.as_deref() {
            None | Some(b"html") if html => Ok(Format::Html),
            None | Some(b"json") => Ok(Format::Json),
            Some(b"raw") => Ok(Format::Raw),
            Some(_) => Err("format is json, html or (a value's) raw".to_owned()),
        }
    }

    /// Takes the parameters of a key.
    fn key(
        &mut self,
        key: Vec<u8>,
        format: Format,
        takes_cursor: bool,
    ) -> Result<KeyQuery, String> {
        let is_paged = format == Format::Html;
        let from = if is_paged { self.take("from") } else { None };
        let cursor = if is_paged && takes_cursor { self.cursor()? } else { None };
        let search = if is_paged && takes_cursor { self.take("search") } else { None };
        let trail = if is_paged && takes_cursor { self.trail()? } else { Trail::default() };
        Ok(KeyQuery {
            key,
            database: self.database,
            field: self.take("field"),
            format,
            from,
            cursor,
            search: search.filter(|search| !search.is_empty()),
            trail,
        })
    }

    /// Takes the parameters of several keys.
    fn several(&mut self, keys: Vec<Vec<u8>>, format: Format) -> Result<KeysQuery, String> {
        // A browser that was not asked for a format gets JSON, too.
        if self.is_format_named && format != Format::Json {
            return Err("several keys are answered as JSON: leave format out, or ask for one key"
                .to_owned());
        }
        if self.take("field").is_some() {
            return Err("a field is one of one key: ask for one key, or leave field out".to_owned());
        }
        let is_array = self.is_array(Format::Json)?;
        Ok(KeysQuery { keys, is_array, database: self.database })
    }

    /// Takes the shape of the data.
    fn is_array(&mut self, format: Format) -> Result<bool, String> {
        match self.take("shape").as_deref() {
            None => Ok(false),
            Some(b"array") if format == Format::Json => Ok(true),
            Some(b"array") => Err("shape is for JSON: add format=json".to_owned()),
            Some(_) => Err("shape is array, or is left out".to_owned()),
        }
    }

    fn cursor(&mut self) -> Result<Option<Cursor>, String> {
        let Some(text) = self.take("cursor") else { return Ok(None) };
        let cursor = std::str::from_utf8(&text).ok().and_then(Cursor::parse);
        cursor.map(Some).ok_or_else(|| "cursor is what an earlier page's \"next\" says".to_owned())
    }

    fn trail(&mut self) -> Result<Trail, String> {
        let Some(text) = self.take("previous") else { return Ok(Trail::default()) };
        Trail::parse(&text).ok_or_else(|| "previous is what the links of a page say".to_owned())
    }

    /// Takes the parameters of a page of keys that begin with `prefix`.
    fn page(&mut self, prefix: Vec<u8>, format: Format) -> Result<PageQuery, String> {
        if format == Format::Raw {
            return Err("a listing's format is json or html".to_owned());
        }
        let (default, most) = limits(format);
        let limit = self.number("limit", 1..=most)?.unwrap_or(default);
        let (cursor, is_array) = (self.cursor()?, self.is_array(format)?);
        let trail = if format == Format::Html { self.trail()? } else { Trail::default() };
        let search = self.take("search");
        let matching = self.take("match");
        let glob = match (&matching, &search) {
            (Some(_), Some(_)) => return Err("either match or search, not both".to_owned()),
            (Some(glob), None) => Some(glob.clone()),
            (None, Some(search)) => Some(search_glob(search)),
            (None, None) => None,
        };
        let pattern = match (glob, prefix.is_empty()) {
            (None, true) => None,
            (glob, _) => {
                Some([escape_glob(&prefix), glob.unwrap_or_else(|| b"*".to_vec())].concat())
            }
        };
        let is_format_named = self.is_format_named;
        let page = PageQuery {
            prefix,
            pattern,
            matching,
            search,
            is_format_named,
            limit,
            cursor,
            trail,
            format,
            is_array,
            database: self.database,
        };
        let last = Cursor { run_id: "0".repeat(MAX_RUN_ID_BYTES), position: u64::MAX };
        if page.link(&last).len() > MAX_LINK_BYTES {
            let why = "what the keys begin with, and match or search, are too long: the link to the next page would be \
                       longer than what is served";
            return Err(why.to_owned());
        }
        Ok(page)
    }

    /// Fails if a parameter has not been taken.
    fn end(self) -> Result<(), String> {
        self.left_over().map_or(Ok(()), |name| {
            Err(format!(
                "the parameter {name} is not one that this path takes: a key takes field and format, several keys shape, \
                 a listing match, search, limit, cursor, shape and format, and each of them db"
            ))
        })
    }
}

/// Returns the pattern that finds what is searched for.
pub(super) fn search_glob(search: &[u8]) -> Vec<u8> {
    match search.iter().any(|byte| b"*?[".contains(byte)) {
        true => search.to_vec(),
        false => [escape_glob(search), b"*".to_vec()].concat(),
    }
}

/// Escapes the characters that `MATCH` takes for wildcards.
pub(super) fn escape_glob(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if b"*?[]\\^-".contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
