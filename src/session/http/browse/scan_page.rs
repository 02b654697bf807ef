//! Pages that a cursor leads through: hashes and sets, and what is searched for in them and in sorted sets.

use std::io::Write;
use std::time::{Duration, Instant};

use super::key_page::{KeyPage, PAGE_ELEMENTS};
use super::page::{Pages, end_table, parts};
use crate::backend::BackendError;
use crate::http::target::Cursor;
use crate::resp::value_type::ValueType;
use crate::resp::{command, reply};
use crate::session::http::exchange::{ReadError, ReadOutcome};
use crate::session::http::page_keys::read_server_run_id;
use crate::text::figures::{count, grouped};

/// Highest `COUNT` of one step of a search: few enough not to keep Redis from others for long.
const MAX_STEP_ELEMENTS: u64 = 1000;

/// Lowest `COUNT` of one step of a search.
const MIN_STEP_ELEMENTS: u64 = 10;

/// About how many bytes of a value one step of a search looks through.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// A page of a search ends once so many elements were looked through.
const MAX_SEARCHED: u64 = 100_000;

/// A page of a search ends after this time.
const PAGE_SEARCH_TIME: Duration = Duration::from_secs(3);

impl<'q, W: Write> KeyPage<'q, '_, '_, W> {
    /// Writes a hash or set that fits on one page, one page of a longer one, or what a page of a search has found. The
    /// cursor of the next page means something to this server only.
    pub fn write_scanned(&mut self, value_type: ValueType) -> Result<ReadOutcome<'q>, ReadError> {
        let (key, cursor) = (&self.query.key, self.query.cursor.as_ref());
        let is_first = cursor.is_none() && self.query.search.is_none();
        if is_first && self.length <= PAGE_ELEMENTS {
            let read = value_type.read_command(key).into_bytes();
            self.exchange.read_value(&read, self.info.bytes)?;
            let strings = self.read_array()?;
            self.begin_elements(value_type)?;
            self.write_rows(value_type, 0, strings)?;
            end_table(self.response)?;
            return self.end(&Pages::default());
        }
        self.exchange.send_quick(&command("INFO").arg("server").into_bytes())?;
        let run_id = read_server_run_id(self.exchange)?;
        if cursor.is_some_and(|cursor| cursor.run_id != run_id) {
            return Err(ReadError::OtherBackend);
        }
        let here = cursor.map_or(0, |cursor| cursor.position);
        let next = match self.query.search {
            None => self.write_scan_step(value_type, here)?,
            Some(_) => self.write_search_results(value_type, here)?,
        };
        let (here, next) = (here.to_string(), (next != 0).then(|| next.to_string()));
        let to_value = |position: &str| {
            let (run_id, position) = (run_id.clone(), position.parse().unwrap_or(0));
            Cursor { run_id, position }.to_text()
        };
        let pages = self.chained_pages(&here, next.as_deref(), "cursor", to_value);
        self.end(&pages)
    }

    /// Writes one page of a long hash or set. Returns where the next one begins, 0 at the end.
    fn write_scan_step(&mut self, value_type: ValueType, position: u64) -> Result<u64, ReadError> {
        let (next, strings) = self.scan(value_type, position, PAGE_ELEMENTS)?;
        self.begin_elements(value_type)?;
        let page = self.query.trail.page_number().map(|page| format!("page {page}: "));
        let page = page.unwrap_or_default();
        let rows = rows_of(value_type, strings);
        let (rows, all) = (grouped(rows), count(self.length, parts(value_type).1));
        let note = format!("{page}{rows} of {all}, in no order");
        self.write_rows(value_type, 0, strings)?;
        end_table(self.response)?;
        writeln!(self.response, "<p class=\"facts\">{note}.</p>")?;
        Ok(next)
    }

    /// Writes what a search finds from `position` on, up to the limits of a page. Returns where the next one begins, 0 at
    /// the end.
    fn write_search_results(
        &mut self,
        value_type: ValueType,
        position: u64,
    ) -> Result<u64, ReadError> {
        let began = Instant::now();
        let step = STEP_BYTES / self.bytes_of(1).max(1);
        let step = step.clamp(MIN_STEP_ELEMENTS, MAX_STEP_ELEMENTS);
        let (mut next, mut strings) = self.scan(value_type, position, step)?;
        self.begin_elements(value_type)?;
        let (mut found, mut searched) = (0, 0);
        loop {
            self.write_rows(value_type, 0, strings)?;
            found += rows_of(value_type, strings);
            searched += step;
            if next == 0
                || found >= PAGE_ELEMENTS
                || searched >= MAX_SEARCHED
                || began.elapsed() >= PAGE_SEARCH_TIME
            {
                break;
            }
            (next, strings) = self.scan(value_type, next, step).map_err(changed)?;
        }
        end_table(self.response)?;
        let (thing, found) = (parts(value_type).1, grouped(found));
        let all = count(self.length, thing);
        let note = match (next, position) {
            (0, 0) => format!("{found} found among {all}, in no order."),
            (0, _) => format!("{found} found here, in no order. All {all} are searched."),
            (_, _) => {
                let searched = grouped(searched.min(self.length));
                format!(
                    "{found} found among about {searched} of {all}, in no order. There is more to be searched."
                )
            }
        };
        writeln!(self.response, "<p class=\"facts\">{note}</p>")?;
        Ok(next)
    }

    /// Asks for some elements from a position on. Returns the next position, and how many strings of elements the reply
    /// goes on with.
    fn scan(
        &mut self,
        value_type: ValueType,
        position: u64,
        elements: u64,
    ) -> Result<(u64, u64), ReadError> {
        let name = match value_type {
            ValueType::Hash => "HSCAN",
            ValueType::Zset => "ZSCAN",
            _ => "SSCAN",
        };
        let mut scan = command(name).arg(&self.query.key).number(position);
        if let Some(pattern) = self.query.pattern() {
            scan = scan.arg("MATCH").arg(pattern);
        }
        self.request_elements(scan.arg("COUNT").number(elements), elements)?;
        let next = reply::scan_cursor(self.exchange.replies()?)?;
        Ok((next, self.read_array()?))
    }
}

/// Returns how many rows of a table this number of strings makes.
fn rows_of(value_type: ValueType, strings: u64) -> u64 {
    if value_type == ValueType::Set { strings } else { strings / 2 }
}

/// A page that has begun is not written again where the value has become one of another type.
fn changed(error: ReadError) -> ReadError {
    if error.is_wrong_type() { BackendError::Changed.into() } else { error }
}
