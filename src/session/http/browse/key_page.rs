//! A key's page: what is known of the key, and what the pages of all types have in common.

use std::io::Write;
use std::time::Duration;

use super::page::{
    Element, Frame, count, link, link_if_any, parts, shortened_to, size, write_facts,
    write_next_link,
};
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::http::target::{KeyQuery, link_to_key};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{line, text};
use crate::resp::value_type::ValueType;
use crate::resp::{CommandBuilder, reply};
use crate::session::http::exchange::{Exchange, KeyInfo, ReadError, ReadOutcome};

/// Elements on one page. A hash or set that has no more is shown whole, without a cursor.
pub(super) const PAGE_ELEMENTS: u64 = 500;
const _: () = assert!(PAGE_ELEMENTS <= MAX_SCAN_COUNT);

/// Longest name of a key that the headline shows whole.
const HEADLINE_BYTES: usize = 2000;

/// Longest element that is shown whole, in bytes.
const ELEMENT_BYTES: usize = 4 * 1024;

pub(super) struct KeyPage<'q, 'p, 'e, W: Write> {
    pub query: &'q KeyQuery,
    pub frame: Frame,
    pub backend: &'p str,
    pub exchange: &'p mut Exchange<'e>,
    pub info: KeyInfo,
    /// Milliseconds until the key expires; negative if it does not.
    pub ttl: Option<i64>,
    /// How the server encodes the value, as HTML.
    pub encoding: Option<String>,
    /// Number of elements, or bytes, of a value that can be shown.
    pub length: u64,
    pub response: &'p mut ResponseWriter<W>,
}

impl<'q, W: Write> KeyPage<'q, '_, '_, W> {
    pub fn refused(&self, status: u16, why: &'static str) -> ReadOutcome<'q> {
        let kind = (status != 404).then(|| self.info.type_name.clone());
        ReadOutcome::Refused(status, ErrorBody { kind, ..self.query.error(why) })
    }

    /// Begins the page with the key and what is known of it.
    pub fn begin(&mut self) -> Result<(), ReadError> {
        let (key, info) = (&self.query.key, &self.info);
        self.frame.begin(self.response, &[key, " – redis-lb".as_bytes()].concat(), b"")?;
        writeln!(
            self.response,
            "<h1 class=\"mono key\">{}</h1>",
            shortened_to(HEADLINE_BYTES, key)
        )?;
        let value_type = info.value_type();
        let facts = [
            ("Type", Some(line(&info.type_name).to_string())),
            ("Length", value_type.map(|value_type| length(value_type, self.length))),
            ("Expires", self.ttl.map(expiry)),
            ("Memory", (info.bytes > 0).then(|| format!("about {}", size(info.bytes)))),
            ("Encoding", self.encoding.clone()),
            ("Database", self.query.database.map(|number| number.to_string())),
            ("Served by", Some(line(self.backend).to_string())),
        ];
        write_facts(self.response, "", &facts)?;
        match value_type {
            Some(value_type) => self.write_forms(&[], value_type == ValueType::String),
            None => Ok(()),
        }
    }

    /// Returns a link to this key, if it is not too long.
    fn link(&self, parameters: &[(&str, &[u8])]) -> Option<String> {
        link_to_key(&self.query.key, self.query.database, parameters)
    }

    /// Writes links to the other forms of the value, or of the field that the parameters name.
    pub fn write_forms(
        &mut self,
        parameters: &[(&str, &[u8])],
        is_raw: bool,
    ) -> Result<(), ReadError> {
        let form = |format: &[u8], name| {
            let parameters = [parameters, &[("format", format)]].concat();
            self.link(&parameters).map(|to| link(&to, name))
        };
        // A link that would be too long is left out.
        let raw = if is_raw { form(b"raw", "Raw bytes") } else { None };
        let forms: Vec<String> = [form(b"json", "JSON"), raw].into_iter().flatten().collect();
        Ok(writeln!(self.response, "<p class=\"forms\">{}</p>", forms.join(" "))?)
    }

    /// Ends the page, with a link to the next one if this parameter leads to one.
    pub fn end(&mut self, next: Option<(&str, &[u8])>) -> Result<ReadOutcome<'q>, ReadError> {
        let is_first = self.query.from.is_none() && self.query.cursor.is_none();
        let next_link = next.and_then(|parameter| self.link(&[parameter]));
        if next.is_some() && next_link.is_none() {
            writeln!(self.response, "<p>There is more, but the link to it would be too long.</p>")?;
        }
        write_next_link(self.response, next_link.as_deref())?;
        if !is_first {
            let first = link_if_any(self.link(&[]).as_deref(), "First page");
            writeln!(self.response, "<p>{first}</p>")?;
        }
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Sends the command that reads one page of elements.
    pub fn request_page(&mut self, command: CommandBuilder) -> Result<(), ReadError> {
        let bytes = self.info.bytes;
        let page_bytes = (bytes / self.length.max(1)).saturating_mul(PAGE_ELEMENTS).min(bytes);
        self.exchange.read_value(&command.into_bytes(), page_bytes)?;
        Ok(())
    }

    /// Reads the head of an array; returns the number of its elements.
    pub fn read_array(&mut self) -> Result<u64, ReadError> {
        Ok(reply::array(self.exchange.replies()?)?)
    }

    pub fn read_element(&mut self) -> Result<Element, ReadError> {
        Ok(Element::expect(self.exchange.replies()?, ELEMENT_BYTES)?)
    }

    /// Reads an element, and returns it as HTML.
    pub fn read_shown(&mut self) -> Result<String, ReadError> {
        let element = self.read_element()?;
        Ok(self.shown(&element, None))
    }

    /// Returns an element as HTML. If it is cut, says how long it is, and links to the whole `field`.
    pub fn shown(&self, element: &Element, field: Option<&Element>) -> String {
        if element.length == 0 {
            return "<i>empty</i>".to_owned();
        }
        let shown = text(&element.bytes);
        if !element.is_cut() {
            return shown.to_string();
        }
        let whole = field.filter(|field| !field.is_cut()).map_or(String::new(), |field| {
            let parameters = [("field", &field.bytes[..]), ("format", b"raw")];
            let link = self.link(&parameters).map(|to| link(&to, "all of it"));
            link.map_or(String::new(), |link| format!(": {link}"))
        });
        let length = element.length;
        format!("{shown}… <span class=\"more\">cut, of {length} bytes{whole}</span>")
    }
}

/// The length of a value, as HTML.
pub(super) fn length(value_type: ValueType, length: u64) -> String {
    match value_type {
        ValueType::String if length >= 1024 => {
            format!("{} <small>{length} bytes</small>", size(length))
        }
        _ => count(length, parts(value_type).1),
    }
}

/// When a key with this `PTTL` expires, as HTML.
fn expiry(ttl: i64) -> String {
    let Ok(milliseconds) = u64::try_from(ttl) else { return "never".to_owned() };
    let left = Duration::from_secs(milliseconds / 1000);
    format!("in {} <small>{milliseconds} ms</small>", humantime::format_duration(left))
}
