//! The parts that the pages of all types have in common.

use std::fmt::Display;
use std::io::Write;

use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::http::target::{KeyQuery, link_to_key};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{attribute, line, text};
use crate::render::json::TextOrBase64;
use crate::resp::value_type::ValueType;
use crate::resp::{self, CommandBuilder, command, reply};
use crate::session::http::browse::element::Element;
use crate::session::http::browse::error_page::write_error_page;
use crate::session::http::browse::layout::{Frame, shortened_to, write_next_link};
use crate::session::http::browse::units;
use crate::session::http::exchange::Exchange;
use crate::session::http::key_info::{KeyInfo, if_permitted, look_at};
use crate::session::http::outcome::{ReadError, ReadOutcome};

/// Elements on one page. A hash or set that has no more is shown whole, without a cursor.
pub(super) const PAGE_ELEMENTS: u64 = 500;
const _: () = assert!(PAGE_ELEMENTS <= MAX_SCAN_COUNT);

/// Told to a client whose `from` is not a number.
pub(super) const NO_NUMBER: &str = "from is the number of an element or byte, from 0 on";

/// Longest name of a key that the headline shows whole.
const HEADLINE_BYTES: usize = 2000;

/// The longest name of an encoding that is shown.
const MAX_ENCODING_BYTES: usize = 64;

/// Longest element that is shown whole, in bytes.
const ELEMENT_BYTES: usize = 4 * 1024;

/// What is known of a key besides its value.
pub(super) struct KeyFacts {
    pub info: KeyInfo,
    /// Milliseconds until the key expires; negative if it does not.
    pub ttl: Option<i64>,
    pub encoding: Option<String>,
}

impl KeyFacts {
    /// Returns the commands whose replies [`read`](Self::read) reads.
    pub fn look_at(key: &[u8]) -> Vec<u8> {
        let mut commands = look_at(&[key]);
        command("PTTL").arg(key).append_to(&mut commands);
        command("OBJECT").arg("ENCODING").arg(key).append_to(&mut commands);
        commands
    }

    pub fn read(exchange: &mut Exchange) -> Result<Self, resp::Error> {
        let from = exchange.connection.replies();
        let info = KeyInfo::read(from)?;
        let ttl = if_permitted(reply::integer(from))?.flatten();
        let encoding = match if_permitted(Element::read(from, MAX_ENCODING_BYTES)) {
            Ok(encoding) => encoding.flatten(),
            // Some versions reply with an error if the key is gone.
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error),
        };
        let encoding = encoding.map(|name| String::from_utf8_lossy(&name.bytes).into_owned());
        Ok(Self { info, ttl, encoding })
    }
}

pub(super) struct KeyPage<'p, 'e, W: Write> {
    pub query: &'p KeyQuery,
    pub frame: Frame,
    pub backend: &'p str,
    pub exchange: &'p mut Exchange<'e>,
    pub facts: &'p KeyFacts,
    pub response: &'p mut ResponseWriter<W>,
}

impl<W: Write> KeyPage<'_, '_, W> {
    /// Writes an error in place of the page.
    pub fn refuse(&mut self, status: u16, why: &str) -> Result<ReadOutcome, ReadError> {
        let error = ErrorBody {
            key: Some(TextOrBase64(&self.query.key)),
            field: self.query.field.as_deref().map(TextOrBase64),
            kind: (status != 404).then_some(&self.facts.info.type_name),
            ..ErrorBody::new(why.to_owned())
        };
        write_error_page(self.frame, status, &error, self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Writes what is known of a key whose value can't be shown.
    pub fn write_unserved(&mut self) -> Result<ReadOutcome, ReadError> {
        self.response.status(415);
        self.begin(None)?;
        writeln!(self.response, "<p>Values of this type can’t be shown.</p>")?;
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Begins the page with the key and what is known of it.
    pub fn begin(&mut self, length: Option<(ValueType, u64)>) -> Result<(), ReadError> {
        let (key, facts) = (&self.query.key, self.facts);
        self.frame.begin(self.response, &[key, " – redis-lb".as_bytes()].concat(), b"")?;
        let name = shortened_to(HEADLINE_BYTES, key);
        writeln!(self.response, "<h1 class=\"mono key\">{name}</h1>\n<dl>")?;
        self.write_fact("Type", line(&facts.info.type_name))?;
        if let Some((value_type, length)) = length {
            self.write_fact("Length", units::length(value_type, length))?;
        }
        if let Some(ttl) = facts.ttl {
            self.write_fact("Expires", units::expiry(ttl))?;
        }
        if facts.info.bytes > 0 {
            self.write_fact("Memory", format_args!("about {}", units::size(facts.info.bytes)))?;
        }
        if let Some(encoding) = &facts.encoding {
            self.write_fact("Encoding", line(encoding))?;
        }
        self.write_fact("Served by", line(self.backend))?;
        self.response.write_all(b"</dl>\n")?;
        match length {
            Some((ValueType::String, _)) => self.write_forms(&[], true),
            Some(_) => self.write_forms(&[], false),
            None => Ok(()),
        }
    }

    pub fn write_fact(&mut self, name: &str, fact: impl Display) -> Result<(), ReadError> {
        Ok(writeln!(self.response, "<div><dt>{name}</dt><dd>{fact}</dd></div>")?)
    }

    /// Writes links to the other forms of the value, or of the field that the parameters name.
    pub fn write_forms(
        &mut self,
        parameters: &[(&str, &[u8])],
        is_raw: bool,
    ) -> Result<(), ReadError> {
        let link = |format: &[u8]| {
            let parameters = [parameters, &[("format", format)]].concat();
            link_to_key(&self.query.key, &parameters)
        };
        let (json, raw) = (link(b"json"), link(b"raw"));
        write!(self.response, "<p class=\"forms\"><a href=\"{}\">JSON</a>", attribute(&json))?;
        if is_raw {
            write!(self.response, " <a href=\"{}\">Raw bytes</a>", attribute(&raw))?;
        }
        Ok(self.response.write_all(b"</p>\n")?)
    }

    /// Ends the page, with a link to the next one if this parameter leads to one.
    pub fn end(&mut self, next: Option<(&str, &[u8])>) -> Result<ReadOutcome, ReadError> {
        let is_first = self.query.from.is_none() && self.query.cursor.is_none();
        let next = next.map(|parameter| link_to_key(&self.query.key, &[parameter]));
        write_next_link(self.response, next.as_deref())?;
        if !is_first {
            let first = link_to_key(&self.query.key, &[]);
            writeln!(self.response, "<p><a href=\"{}\">First page</a></p>", attribute(&first))?;
        }
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Returns where the page begins; `None` if `from` is not a number that Redis takes.
    pub fn from(&self) -> Option<u64> {
        let Some(from) = &self.query.from else { return Some(0) };
        let number: i64 = std::str::from_utf8(from).ok()?.parse().ok()?;
        u64::try_from(number).ok()
    }

    /// Sends the command that reads one page of a value with `length` elements.
    pub fn request_page(&mut self, command: CommandBuilder, length: u64) -> Result<(), ReadError> {
        let bytes = self.facts.info.bytes;
        let page_bytes = (bytes / length.max(1)).saturating_mul(PAGE_ELEMENTS).min(bytes);
        self.exchange.read_value(&command.into_bytes(), page_bytes)?;
        Ok(())
    }

    pub fn read_element(&mut self) -> Result<Element, ReadError> {
        Ok(Element::expect(self.exchange.connection.replies(), ELEMENT_BYTES)?)
    }

    /// Writes an element. If it is cut, says how long it is, and links to the whole `field`.
    pub fn write_element(
        &mut self,
        element: &Element,
        field: Option<&Element>,
    ) -> Result<(), ReadError> {
        if element.length == 0 {
            return Ok(self.response.write_all(b"<i>empty</i>")?);
        }
        write!(self.response, "{}", text(&element.bytes))?;
        if !element.is_cut() {
            return Ok(());
        }
        write!(self.response, "… <span class=\"more\">cut, of {} bytes", element.length)?;
        if let Some(field) = field.filter(|field| !field.is_cut()) {
            let parameters = [("field", &field.bytes[..]), ("format", b"raw")];
            let link = link_to_key(&self.query.key, &parameters);
            write!(self.response, ": <a href=\"{}\">all of it</a>", attribute(&link))?;
        }
        Ok(self.response.write_all(b"</span>")?)
    }
}
