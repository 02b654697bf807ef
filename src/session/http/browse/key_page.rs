//! A key's page: what is known of the key, and what the pages of all types have in common.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use super::crumbs::{Subject, write_crumbs};
use super::element::Element;
use super::page::{Frame, Pages, link, parts, shortened, shortened_to, type_badge, write_facts};
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::http::target::{KeyQuery, Trail, link_to_key};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::{attribute, cut, line, text};
use crate::render::layout::Layout;
use crate::resp::value_type::ValueType;
use crate::resp::{CommandBuilder, reply};
use crate::session::http::exchange::{Exchange, KeyInfo, ReadError, ReadOutcome};
use crate::text::figures::{count, duration, grouped, size};
use crate::text::is_hidden;

/// Elements on one page. A hash or set that has no more is shown whole, without a cursor.
pub(super) const PAGE_ELEMENTS: u64 = 500;
const _: () = assert!(PAGE_ELEMENTS <= MAX_SCAN_COUNT);

/// No date is shown for what is further off: calendars have no such years.
const MAX_DATED: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// Longest name of a key or field that the headline shows whole.
const HEADLINE_BYTES: usize = 200;

/// Longest element that is shown whole, in bytes.
const ELEMENT_BYTES: usize = 4 * 1024;

/// Longest JSON in an element that stands on one line.
const MAX_JSON_LINE_BYTES: u64 = 60;

/// Longest link to a field's page. A page has one for each field.
const MAX_FIELD_LINK_BYTES: usize = 2048;

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
        self.frame.begin(self.response, &[key], b"")?;
        write_crumbs(self.response, Subject::Key(key), self.query.database)?;
        write_name(self.response, key, "key")?;
        let value_type = info.value_type();
        let facts = [
            ("Type", Some(type_badge(&info.type_name))),
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
    pub fn link(&self, parameters: &[(&str, &[u8])]) -> Option<String> {
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

    /// Writes the form that searches the fields or members of the value. A key that no form can name has none.
    pub fn write_search(&mut self, thing: &str) -> Result<(), ReadError> {
        let Some(link) = link_to_key(&self.query.key, None, &[]) else { return Ok(()) };
        // A form leaves out the query of the address that it is sent to.
        let is_in_query = link.starts_with("/?");
        let is_plain = |key: &[u8]| {
            std::str::from_utf8(key)
                .is_ok_and(|key| !key.contains(|c: char| c.is_control() || is_hidden(c)))
        };
        if is_in_query && !is_plain(&self.query.key) {
            return Ok(());
        }
        let hidden = |name: &str, value: &[u8]| {
            format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", attribute(value))
        };
        let key = if is_in_query { hidden("key", &self.query.key) } else { String::new() };
        let database =
            self.query.database.map(|number| hidden("db", number.to_string().as_bytes()));
        Ok(writeln!(
            self.response,
            "<form role=\"search\" class=\"within\" aria-label=\"Search {thing}\" action=\"{}\">{key}{}\
             <label class=\"unseen\" for=\"within\">Search {thing}</label>\
             <input id=\"within\" name=\"search\" type=\"search\" value=\"{}\" \
             placeholder=\"Begins with … or is like *name*\" autocapitalize=\"none\" \
             autocomplete=\"off\" spellcheck=\"false\"><button>Search {thing}</button></form>",
            if is_in_query { "/" } else { &link },
            database.unwrap_or_default(),
            attribute(self.query.search.as_deref().unwrap_or_default()),
        )?)
    }

    /// Ends the page, with links to others.
    pub fn end(&mut self, pages: &Pages) -> Result<ReadOutcome<'q>, ReadError> {
        pages.write(self.response)?;
        self.frame.end(self.response)?;
        Ok(ReadOutcome::Written(None))
    }

    /// Returns the links of the page that begins with element or byte `from`, where a page has `step` of them.
    pub fn numbered_pages(&self, from: u64, step: u64) -> Pages {
        let last = self.length.saturating_sub(1) / step * step;
        let has_next = from.saturating_add(step) < self.length;
        let page = |is_there: bool, from: u64| {
            let from = from.to_string();
            is_there.then(|| self.link(&[("from", from.as_bytes())])).flatten()
        };
        Pages {
            first: page(from > 0, 0),
            previous: page(from > 0, from.saturating_sub(step).min(last)),
            next: page(has_next, from.saturating_add(step)),
            last: page(has_next, last),
            ..Pages::default()
        }
    }

    /// Returns the links of the page that begins `here`, where a page knows only where the `next` one begins. A position
    /// becomes the value of the parameter `name` by `to_value`.
    pub fn chained_pages(
        &self,
        here: &str,
        next: Option<&str>,
        name: &str,
        to_value: impl Fn(&str) -> String,
    ) -> Pages {
        let (search, trail) = (self.query.search.as_deref(), &self.query.trail);
        let page = |position: &str, trail: &Trail| {
            let value = to_value(position);
            let mut parameters = Vec::new();
            parameters.extend(search.map(|search| ("search", search)));
            if position != Trail::FIRST {
                parameters.push((name, value.as_bytes()));
            }
            let without_trail = self.link(&parameters);
            parameters.push(("previous", trail.to_text().as_bytes()));
            let with_trail = if *trail == Trail::default() { None } else { self.link(&parameters) };
            with_trail.or(without_trail)
        };
        let next_link = next.and_then(|position| page(position, &trail.then(here)));
        Pages {
            first: (here != Trail::FIRST).then(|| page(Trail::FIRST, &Trail::default())).flatten(),
            previous: trail.back().and_then(|(position, trail)| page(position, &trail)),
            is_next_too_long: next.is_some() && next_link.is_none(),
            next: next_link,
            last: None,
            is_search: search.is_some(),
        }
    }

    /// Returns about how many bytes this number of elements take.
    pub fn bytes_of(&self, elements: u64) -> u64 {
        let bytes = self.info.bytes;
        (bytes / self.length.max(1)).saturating_mul(elements).min(bytes)
    }

    /// Sends the command that reads so many elements.
    pub fn request_elements(
        &mut self,
        command: CommandBuilder,
        elements: u64,
    ) -> Result<(), ReadError> {
        let page_bytes = self.bytes_of(elements);
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

    /// Returns an element as HTML: JSON also laid out. If it is cut, says how long it is, and links to the whole `field`.
    pub fn shown(&self, element: &Element, field: Option<&Element>) -> String {
        if element.length == 0 {
            return "<i>empty</i>".to_owned();
        }
        let shown = text(&element.bytes);
        if !element.is_cut() {
            return match Layout::of(&element.bytes) {
                Ok(layout) if element.length > MAX_JSON_LINE_BYTES => {
                    let begin = text(cut(&element.bytes, MAX_JSON_LINE_BYTES as usize));
                    format!("<details><summary>{begin}…</summary><pre>{layout}</pre></details>")
                }
                _ => shown.to_string(),
            };
        }
        let whole = field.filter(|field| !field.is_cut()).map_or(String::new(), |field| {
            let parameters = [("field", &field.bytes[..]), ("format", b"raw")];
            let link = self.link(&parameters).map(|to| link(&to, "all of it"));
            link.map_or(String::new(), |link| format!(": {link}"))
        });
        let length = grouped(element.length);
        format!("{shown}… <span class=\"more\">cut, of {length} bytes{whole}</span>")
    }

    /// Returns the name of a field as HTML, shortened: a link to its page, unless that would be long.
    pub fn shown_field(&self, field: &Element) -> String {
        let name = shortened(&field.bytes);
        let to = (!field.is_cut()).then(|| self.link(&[("field", &field.bytes)])).flatten();
        match to.filter(|to| to.len() <= MAX_FIELD_LINK_BYTES) {
            Some(to) => link(&to, name),
            None => {
                let whole = self.shown(field, None);
                format!("<details><summary>{name}</summary>{whole}</details>")
            }
        }
    }
}

/// Writes the name of a key or field as the headline. One that is too long for that can be opened.
pub(super) fn write_name(response: &mut impl Write, name: &[u8], thing: &str) -> io::Result<()> {
    writeln!(response, "<h1 class=\"mono key\">{}</h1>", shortened_to(HEADLINE_BYTES, name))?;
    if name.len() <= HEADLINE_BYTES {
        return Ok(());
    }
    let length = grouped(name.len() as u64);
    writeln!(
        response,
        "<details class=\"name\"><summary>The whole {thing}, {length} bytes</summary>\
         <div class=\"box mono\" role=\"region\" aria-label=\"The whole {thing}\" tabindex=\"0\">{}</div></details>",
        line(name)
    )
}

/// The length of a value, as HTML.
pub(super) fn length(value_type: ValueType, length: u64) -> String {
    match value_type {
        ValueType::String if length >= 1024 => {
            format!("{} <small>{} bytes</small>", size(length), grouped(length))
        }
        _ => {
            let order = match value_type {
                ValueType::Hash | ValueType::Set if length > 1 => " <small>in no order</small>",
                ValueType::Zset if length > 1 => " <small>by score</small>",
                _ => "",
            };
            count(length, parts(value_type).1) + order
        }
    }
}

/// When a key with this `PTTL` expires, as HTML.
fn expiry(ttl: i64) -> String {
    let Ok(milliseconds) = u64::try_from(ttl) else { return "never".to_owned() };
    let off = Duration::from_millis(milliseconds);
    let date = date_in(off, SystemTime::now());
    let date = date.map_or(String::new(), |date| format!(" <small>{date}</small>"));
    format!("in {}{date}", duration(off))
}

/// Returns the date and the time after so much time: `2026-11-27 20:00:00 UTC`.
fn date_in(off: Duration, now: SystemTime) -> Option<String> {
    let at = now.checked_add(Some(off).filter(|off| *off < MAX_DATED)?)?;
    let date = humantime::format_rfc3339_seconds(at).to_string();
    Some(date.replace('T', " ").replace('Z', " UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_far_off_has_no_date() {
        let day = Some("1970-01-02 00:00:00 UTC".to_owned());
        assert_eq!(date_in(Duration::from_secs(86_400), SystemTime::UNIX_EPOCH), day);
        assert_eq!(date_in(Duration::from_millis(u64::MAX), SystemTime::UNIX_EPOCH), None);
    }
}
