//! A CSV file as rows to load. It is checked as a whole before its first use, and then streamed as often as
//! needed.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use csv::{ByteRecord, StringRecord};

use super::delimiter::{Delimiter, HEAD_BYTES};
use super::input::{FileVersion, Input, InputReader};
use super::other_formats;
use super::quoting::Quoting;

/// Limit of a row, in bytes of the file. A longer one most likely has an open quote, and would be collected in
/// memory up to the end of the file.
const MAX_ROW_BYTES: u64 = 64 << 20;

/// How much of the file is read at a time, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes that are read after the end of the file. If the last row is not exactly these, a quote was still open:
/// the `csv` crate closes it silently.
const SENTINEL: &[u8] = b"\nend\n";

/// Limit of a batch's rows: it ends early, so that long rows cannot fill the memory.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Error of a file that cannot be loaded: its name, the line if it has one, the problem, and what to do about
/// it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(String);

impl DatasetError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// A checked CSV file with a header. Each row becomes a hash: one column is its id, the others are its
/// fields.
#[derive(Debug)]
pub struct Dataset {
    input: Arc<Input>,
    delimiter: Delimiter,
    columns: Vec<String>,
    id_index: usize,
    rows: u64,
    version: FileVersion,
}

impl Dataset {
    /// Reads the whole input and checks every row; `id` names the column with the ids. Without a `delimiter`, that is
    /// recognised by the header. All ids are in memory meanwhile.
    ///
    /// # Errors
    ///
    /// The first problem of the file, with its line if it has one.
    pub fn check(
        input: Input,
        id: &str,
        delimiter: Option<Delimiter>,
    ) -> Result<Self, DatasetError> {
        let input = Arc::new(input);
        let version = input.version()?;
        let head = head(&input)?;
        if let Some(problem) = other_formats::problem(&head) {
            return Err(input.problem(problem));
        }
        let delimiter = delimiter.unwrap_or_else(|| Delimiter::recognise(&head, id));
        let mut records = Records::open(&input, version, delimiter)?;
        records.reader.get_mut().quoting = Some(Quoting::new(delimiter.byte()));
        let mut record = StringRecord::new();
        if !records.read_text(&mut record)? {
            return Err(input.problem("is empty; its first line has to name the columns"));
        }
        let columns: Vec<String> = record.iter().map(str::to_owned).collect();
        let id_index =
            find_id(&columns, id, delimiter).map_err(|problem| records.at_last(problem))?;
        let rows = check_rows(&mut records, &columns, id_index)?;
        if rows == 0 {
            return Err(input.problem("has a header but no rows; add at least one"));
        }
        Ok(Self { input, delimiter, columns, id_index, rows, version })
    }

    /// Returns the name of the file.
    pub fn name(&self) -> &str {
        self.input.name()
    }

    /// Returns by what values are separated, if not by commas.
    pub fn unusual_delimiter(&self) -> Option<Delimiter> {
        (self.delimiter != Delimiter::COMMA).then_some(self.delimiter)
    }

    /// The number of rows without the header; at least 1.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The names of the fields, in the order of the file: all columns but the one with the ids. There is at
    /// least one.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().enumerate();
        columns.filter(|(index, _)| *index != self.id_index).map(|(_, name)| name.as_str())
    }

    /// Reads the rows again from the first one on, in batches of at most `batch_rows` (at least 1) and
    /// roughly [`MAX_BATCH_BYTES`]. Fails if the file has changed.
    pub(super) fn batches(&self, batch_rows: usize) -> Result<Batches<'_>, DatasetError> {
        let mut records = Records::open(&self.input, self.version, self.delimiter)?;
        records.read(&mut ByteRecord::new())?; // the header
        let row = Row { record: ByteRecord::new(), id_index: self.id_index };
        Ok(Batches { dataset: self, records, batch_rows, rows_left: self.rows, row })
    }
}

/// Reads the rows of a [`Dataset`], batch by batch.
pub(super) struct Batches<'a> {
    dataset: &'a Dataset,
    records: Records,
    batch_rows: usize,
    rows_left: u64,
    /// The last row; its memory is used for all of them.
    row: Row,
}

impl Batches<'_> {
    /// Hands the next rows to `each`; returns how many there were, 0 after the last one. Fails if the
    /// file has changed.
    pub fn next_batch(&mut self, mut each: impl FnMut(&Row)) -> Result<usize, DatasetError> {
        let (mut rows, mut bytes) = (0, 0);
        while rows < self.batch_rows && bytes < MAX_BATCH_BYTES {
            if !self.records.read(&mut self.row.record)? {
                self.check_end()?;
                break;
            }
            let record = &self.row.record;
            if record.len() != self.dataset.columns.len() || self.rows_left == 0 {
                return Err(self.dataset.input.changed());
            }
            self.rows_left -= 1;
            rows += 1;
            bytes += record.as_slice().len();
            each(&self.row);
        }
        Ok(rows)
    }

    fn check_end(&self) -> Result<(), DatasetError> {
        let input = &self.dataset.input;
        let unchanged = input.version()? == self.dataset.version;
        if unchanged && self.rows_left == 0 { Ok(()) } else { Err(input.changed()) }
    }
}

/// One row of the file.
#[derive(Debug, Clone)]
pub(super) struct Row {
    record: ByteRecord,
    id_index: usize,
}

impl Row {
    /// Returns the row's key, which begins with `prefix`.
    pub fn key(&self, prefix: &str) -> Vec<u8> {
        [prefix.as_bytes(), b":", &self.record[self.id_index]].concat()
    }

    /// The values of the other columns, in the order of [`Dataset::fields`].
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let values = self.record.iter().enumerate();
        values.filter(|(index, _)| *index != self.id_index).map(|(_, value)| value)
    }

    /// The value of field number `index`, counted from 0 in the order of [`Dataset::fields`].
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        self.record.get(index + usize::from(index >= self.id_index))
    }
}

/// What is wrong with a name that begins or ends with a space: nobody finds a key or a field by it.
const OUTER_SPACE: &str = "begins or ends with a space, which would be a part of it; take away the spaces beside what separates values";

fn has_outer_space(name: &str) -> bool {
    name.trim() != name
}

/// Returns the index of the id column, or says why rows cannot be loaded with this header.
fn find_id(columns: &[String], id: &str, delimiter: Delimiter) -> Result<usize, String> {
    if let Some(nameless) = columns.iter().position(|name| name.trim().is_empty()) {
        let (number, one) = (nameless + 1, delimiter.one());
        return Err(format!(
            "column {number} has no name; name it, or take it away (is there a {one} too many?)"
        ));
    }
    if let Some(at) = columns.iter().position(|name| has_outer_space(name)) {
        let (number, name) = (at + 1, &columns[at]);
        return Err(format!("the name of column {number}, {name:?}, {OUTER_SPACE}"));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("there are two columns {twice:?}; rename or remove one"));
    }
    let Some(index) = columns.iter().position(|name| name == id) else {
        let names: Vec<String> = columns.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        if let Some(meant) = columns.iter().find(|name| name.eq_ignore_ascii_case(id)) {
            return Err(format!("no column {id:?}, but {meant:?}: write --id {meant}"));
        }
        return Err(format!(
            "no column {id:?}; the columns are {names}: name the one with the ids with --id, or what \
             separates them with --delimiter"
        ));
    };
    if columns.len() == 1 {
        return Err(format!(
            "there is no column besides {id:?}, but a row needs at least one field; add a column"
        ));
    }
    Ok(index)
}

/// Checks every row after the header; returns how many there are.
fn check_rows(
    records: &mut Records,
    columns: &[String],
    id_index: usize,
) -> Result<u64, DatasetError> {
    let mut ids: HashSet<Box<str>> = HashSet::new();
    let mut record = StringRecord::new();
    while records.read_text(&mut record)? {
        let (found, expected) = (record.len(), columns.len());
        if found != expected {
            return Err(records.at_last(format!(
                "the row has {found} columns, the header {expected}; look for a missing or extra \
                 {} or quote",
                records.delimiter.one()
            )));
        }
        let (column, id) = (&columns[id_index], &record[id_index]);
        if id.is_empty() {
            let problem = format!("the id (column {column:?}) is empty; every row needs one");
            return Err(records.at_last(problem));
        }
        if has_outer_space(id) {
            return Err(records.at_last(format!("the id {id:?} {OUTER_SPACE}")));
        }
        if !ids.insert(id.into()) {
            let problem = "was in an earlier row already; every row needs its own";
            return Err(records.at_last(format!("the id {id:?} {problem}")));
        }
    }
    Ok(ids.len() as u64)
}

/// Returns the beginning of a file, where its header is.
fn head(input: &Input) -> Result<Vec<u8>, DatasetError> {
    let mut head = Vec::new();
    let reader = input.reader().map(|reader| reader.take(HEAD_BYTES as u64));
    let read = reader.and_then(|mut reader| reader.read_to_end(&mut head));
    read.map_err(|error| input.unreadable(&error))?;
    Ok(head)
}

/// Reads the records of a file, with the header.
struct Records {
    input: Arc<Input>,
    delimiter: Delimiter,
    reader: csv::Reader<Source>,
    /// Where the last record begins, in bytes from the start of the file, perhaps with the line breaks
    /// before it.
    last_start: u64,
    /// Where the sentinel ends, in bytes from the start of the file.
    end: u64,
    /// Whether the sentinel was read.
    has_ended: bool,
}

impl Records {
    /// Opens the file, unless it has changed since `version`.
    fn open(
        input: &Arc<Input>,
        version: FileVersion,
        delimiter: Delimiter,
    ) -> Result<Self, DatasetError> {
        if input.version()? != version {
            return Err(input.changed());
        }
        let file = input.reader().map_err(|error| input.unreadable(&error))?;
        let inner = file.take(version.0).chain(SENTINEL);
        let source = Source { inner, row_bytes: 0, quoting: None };
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter.byte())
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(source);
        let end = version.0 + SENTINEL.len() as u64;
        let input = Arc::clone(input);
        Ok(Self { input, delimiter, reader, last_start: 0, end, has_ended: false })
    }

    /// Reads the next record; false after the last one.
    fn read(&mut self, record: &mut ByteRecord) -> Result<bool, DatasetError> {
        if self.has_ended {
            return Ok(false);
        }
        self.last_start = self.reader.position().byte();
        let read = self.reader.read_byte_record(record);
        let found = read.map_err(|error| self.read_error(error))?;
        self.reader.get_mut().row_bytes = 0;
        if !found {
            // The sentinel was not reached: the file has only a BOM, or has become shorter.
            let is_empty = self.last_start == 0;
            return if is_empty { Ok(false) } else { Err(self.input.changed()) };
        }
        if self.reader.position().byte() < self.end {
            return Ok(true);
        }
        self.has_ended = record.len() == 1 && record[0] == *SENTINEL.trim_ascii();
        if self.has_ended {
            return Ok(false);
        }
        Err(self.at_last(
            "a quote is opened in this row and never closed; close it, or double a quote that is \
             text",
        ))
    }

    /// Reads the next record as text; an error if it is not UTF-8.
    fn read_text(&mut self, record: &mut StringRecord) -> Result<bool, DatasetError> {
        let mut bytes = std::mem::take(record).into_byte_record();
        let found = self.read(&mut bytes)?;
        self.check_quotes()?;
        *record = StringRecord::from_byte_record(bytes).map_err(|error| {
            let column = error.utf8_error().field() + 1;
            self.at_last(format!("column {column} is not valid UTF-8; save the file as UTF-8"))
        })?;
        Ok(found)
    }

    /// Fails if a quote is wrong in what was read so far.
    fn check_quotes(&self) -> Result<(), DatasetError> {
        let quoting = self.reader.get_ref().quoting.as_ref();
        let end = self.reader.position().byte();
        let Some(mistake) = quoting.and_then(|quoting| quoting.mistake_before(end)) else {
            return Ok(());
        };
        let begins = match mistake.value_line == mistake.line {
            true => String::new(),
            false => format!(" (it begins in line {})", mistake.value_line),
        };
        let (name, line, text) = (self.input.name(), mistake.line, mistake.text);
        Err(DatasetError(format!("{name}:{line}: {text}{begins}")))
    }

    fn read_error(&self, error: csv::Error) -> DatasetError {
        if self.reader.get_ref().row_bytes > MAX_ROW_BYTES {
            let mib = MAX_ROW_BYTES >> 20;
            return self
                .at_last(format!("the row is longer than {mib} MiB; look for a missing quote"));
        }
        self.input.unreadable(&error.into())
    }

    /// Makes the error of a problem in the last record, with the line in which that begins.
    fn at_last(&self, problem: impl Display) -> DatasetError {
        match line_of(&self.input, self.last_start) {
            Ok(line) => DatasetError(format!("{}:{line}: {problem}", self.input.name())),
            Err(error) => self.input.unreadable(&error),
        }
    }
}

/// Reads the file and the sentinel after it; fails at a row without end.
struct Source {
    inner: io::Chain<io::Take<InputReader>, &'static [u8]>,
    /// Bytes that were read since the last complete row.
    row_bytes: u64,
    /// What was found out about the quotes; `None` once they were checked.
    quoting: Option<Quoting>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row_bytes > MAX_ROW_BYTES {
            return Err(io::Error::other("row too long"));
        }
        let count = self.inner.read(buffer)?;
        self.row_bytes += count as u64;
        if let Some(quoting) = &mut self.quoting {
            quoting.look_at(&buffer[..count]);
        }
        Ok(count)
    }
}

/// The number, from 1, of the line with the first character from byte `start` on that is no line
/// break. The `csv` crate counts one too few after a CRLF, and after empty lines.
fn line_of(input: &Input, start: u64) -> io::Result<u64> {
    let mut line = 1;
    for (at, byte) in (0..).zip(BufReader::new(input.reader()?).bytes()) {
        match byte? {
            b'\n' => line += 1,
            b'\r' => {}
            _ if at < start => {}
            _ => break,
        }
    }
    Ok(line)
}
