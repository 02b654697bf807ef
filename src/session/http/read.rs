//! An HTTP request for data.

use std::io::Write;
use std::time::Instant;

use super::browse::{self, Frame};
use super::outcome::{ReadError, ReadOutcome};
use super::{listing, value};
use crate::balance::Lease;
use crate::balance::failover::Attempt;
use crate::balance::slow::{self, Kinds, ReadKey, ReadProfile};
use crate::http::target::{Format, KeyQuery, PageQuery};
use crate::http::{Request, ResponseWriter, Version};

/// A request for data, until it is answered.
pub(super) struct HttpRead {
    pub request: Request,
    pub query: ReadQuery,
    /// When the request had arrived.
    pub began: Instant,
    /// The lease of the first attempt, if it was taken already.
    pub lease: Option<Lease>,
    /// The name under which the slow lane knows the read, unless every server answers it at once.
    pub key: Option<ReadKey>,
    /// What is known of how long the read takes.
    pub profile: ReadProfile,
}

impl HttpRead {
    /// Returns what is asked for, if it is the whole value of a key, as JSON.
    pub fn whole_value(&self) -> Option<&KeyQuery> {
        let ReadQuery::Key(query, None) = &self.query else { return None };
        let is_whole = query.format == Format::Json
            && query.field.is_none()
            && self.request.version != Version::Http09;
        is_whole.then_some(query)
    }
}

/// What a client wants to read.
#[derive(Debug)]
pub(super) enum ReadQuery {
    /// A key's value. If there is no such key, the page of keys, if there is one.
    Key(KeyQuery, Option<PageQuery>),
    /// A page of keys with their values.
    Page(PageQuery),
}

impl ReadQuery {
    /// Whether it has a cursor, which means something to one backend only.
    pub fn has_cursor(&self) -> bool {
        match self {
            Self::Page(page) | Self::Key(_, Some(page)) => page.cursor.is_some(),
            Self::Key(key, None) => key.cursor.is_some(),
        }
    }

    /// Returns the name under which the slow lane knows it; `None` if every server answers it at once.
    pub fn read_key(&self, kinds: &Kinds) -> Option<ReadKey> {
        match self {
            Self::Key(query, _) if query.field.is_some() || query.is_raw() => None,
            // Pages for people show a bounded part of a value.
            Self::Key(KeyQuery { format: Format::Html, .. }, _) => None,
            Self::Page(PageQuery { format: Format::Html, .. }) => None,
            Self::Key(query, _) => Some(kinds.http_key("value", &query.key, b"")),
            Self::Page(query) => {
                let pattern = query.pattern.as_deref().unwrap_or_default();
                let position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
                Some(kinds.http_key("listing", pattern, &position.to_le_bytes()))
            }
        }
    }

    /// Returns its name in the log.
    pub fn label(&self) -> String {
        match self {
            Self::Key(query, _) => slow::shown(b"GET", &query.key),
            Self::Page(query) => {
                slow::shown(b"listing", query.pattern.as_deref().unwrap_or_default())
            }
        }
    }

    /// Reads from one backend, and writes the response.
    pub fn read_from<W: Write>(
        &self,
        attempt: &Attempt,
        frame: Frame,
        response: &mut ResponseWriter<W>,
    ) -> Result<ReadOutcome, ReadError> {
        match self {
            Self::Key(query, page) if query.format == Format::Html => {
                browse::write_key_page(attempt, query, page.as_ref(), frame, response)
            }
            Self::Page(query) if query.format == Format::Html => {
                browse::write_listing_page(attempt, query, frame, response)
            }
            Self::Key(query, page) => value::write_value(attempt, query, page.as_ref(), response),
            Self::Page(query) => listing::write_listing(attempt, query, response),
        }
    }
}
