//! A CSV file as rows to load: checked whole before the first use, then streamed as often as
//! wanted without ever being held in memory.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use csv::{ByteRecord, StringRecord};

/// The longest row, in bytes of the file. What is longer is most likely an open quote, and would
/// otherwise be collected in memory up to the end of the file.
pub const MAX_ROW_BYTES: u64 = 64 << 20;

/// A batch ends early when its rows hold this many bytes, however few they are, so that long rows
/// cannot fill the memory.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// How much of the file is read at a time, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Read behind the end of the file. If the last row does not consist of exactly this, a quote was
/// still open there; the `csv` crate closes it silently.
const SENTINEL: &[u8] = b"\nend\n";

/// A checked CSV file with a header. Each row is a hash: one column is its id, the others are its
/// fields.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    columns: Vec<String>,
    id_index: usize,
    rows: u64,
    version: Version,
}

/// Why a file cannot be loaded: what is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum DatasetError {
    #[error("{}: cannot be read ({source}); check the name and the permissions", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{}: is not a regular file; it has to be read several times, so save the rows to a file \
         and name that one",
        .0.display()
    )]
    NotAFile(PathBuf),
    #[error("{}: is empty; its first line has to name the columns", .0.display())]
    Empty(PathBuf),
    #[error("{}: has a header but no rows; add at least one", .0.display())]
    NoRows(PathBuf),
    #[error(
        "{}: was changed while it was being read; run this again when it stays as it is",
        .0.display()
    )]
    Changed(PathBuf),
    #[error("{}:{line}: {problem}", .path.display())]
    Line { path: PathBuf, line: u64, problem: Problem },
}

/// What is wrong with one line of the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum Problem {
    #[error("no column {id:?}; the columns are {columns}: name the one with the ids by --id")]
    NoIdColumn { id: String, columns: String },
    #[error("there is no column besides {0:?}, but a row needs at least one field; add a column")]
    OnlyIdColumn(String),
    #[error("there are two columns {0:?}; rename or remove one")]
    DuplicateColumn(String),
    #[error("the id (column {0:?}) is empty; every row needs one")]
    EmptyId(String),
    #[error("the id {0:?} was in an earlier row already; every row needs its own")]
    DuplicateId(String),
    #[error(
        "the row has {found} columns, the header {expected}; look for a missing or superfluous \
         comma or quote"
    )]
    Ragged { found: usize, expected: usize },
    #[error("column {0} is not valid UTF-8; save the file as UTF-8")]
    NotUtf8(usize),
    #[error("a quote is opened in this row and never closed; close it, or double a literal quote")]
    OpenQuote,
    #[error("the row is longer than {} MiB; look for a missing quote", MAX_ROW_BYTES >> 20)]
    TooLong,
}

/// What tells one state of a file from the next.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Version {
    bytes: u64,
    modified: SystemTime,
}

impl Dataset {
    /// Reads the whole file at `path` once and checks every row; `id` names the column with the
    /// ids. Needs memory for the ids of all rows meanwhile.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the file, with its line where it has one.
    pub fn check(path: &Path, id: &str) -> Result<Self, DatasetError> {
        let version = Version::of(path)?;
        let mut records = Records::open(path, version)?;
        let mut record = StringRecord::new();
        if !records.read_text(&mut record)? {
            return Err(DatasetError::Empty(path.into()));
        }
        let columns: Vec<String> = record.iter().map(str::to_owned).collect();
        let id_index = find_id(&columns, id).map_err(|problem| records.at_last(problem))?;
        let rows = check_rows(&mut records, &columns, id_index)?;
        if rows == 0 {
            return Err(DatasetError::NoRows(path.into()));
        }
        Ok(Self { path: path.into(), columns, id_index, rows, version })
    }

    /// How many rows the file has, without the header; at least 1.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The names of the fields that every row has, in the order of the file: all columns but the
    /// one with the ids. At least one.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().enumerate();
        columns.filter(|(index, _)| *index != self.id_index).map(|(_, name)| name.as_str())
    }

    /// Reads the rows again from the first one on, in batches of at most `batch_rows` (at least 1)
    /// and, unless a single row is longer, roughly [`MAX_BATCH_BYTES`].
    ///
    /// # Errors
    ///
    /// The file cannot be read any more, or is not what was checked.
    pub fn batches(&self, batch_rows: usize) -> Result<Batches<'_>, DatasetError> {
        let mut records = Records::open(&self.path, self.version)?;
        records.read(&mut ByteRecord::new())?; // the header
        let row = Row { record: ByteRecord::new(), id_index: self.id_index };
        Ok(Batches { dataset: self, records, batch_rows, rows_left: self.rows, row })
    }
}

/// The rows of a [`Dataset`], batch by batch.
pub struct Batches<'a> {
    dataset: &'a Dataset,
    records: Records,
    batch_rows: usize,
    rows_left: u64,
    /// The row that was read last: one memory for all of them.
    row: Row,
}

impl Batches<'_> {
    /// Hands the next rows to `each`; returns how many there were, 0 behind the last one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or was changed since it was checked.
    pub fn next_batch(&mut self, mut each: impl FnMut(&Row)) -> Result<usize, DatasetError> {
        let (mut rows, mut bytes) = (0, 0);
        while rows < self.batch_rows && bytes < MAX_BATCH_BYTES {
            if !self.records.read(&mut self.row.record)? {
                self.check_end()?;
                break;
            }
            let record = &self.row.record;
            if record.len() != self.dataset.columns.len() || self.rows_left == 0 {
                return Err(self.records.changed());
            }
            self.rows_left -= 1;
            rows += 1;
            bytes += record.as_slice().len();
            each(&self.row);
        }
        Ok(rows)
    }

    fn check_end(&self) -> Result<(), DatasetError> {
        let unchanged = Version::of(&self.dataset.path)? == self.dataset.version;
        if unchanged && self.rows_left == 0 { Ok(()) } else { Err(self.records.changed()) }
    }
}

/// One row of the file.
#[derive(Debug, Clone)]
pub struct Row {
    record: ByteRecord,
    id_index: usize,
}

impl Row {
    /// What the id column holds; not empty.
    pub fn id(&self) -> &[u8] {
        &self.record[self.id_index]
    }

    /// Makes `key` the row's key, which begins with `prefix`.
    pub fn write_key(&self, prefix: &str, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(prefix.as_bytes());
        key.push(b':');
        key.extend_from_slice(self.id());
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

/// Where the id column is, if the header is one that rows can be loaded with.
fn find_id(columns: &[String], id: &str) -> Result<usize, Problem> {
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
        return Err(Problem::DuplicateColumn(twice.clone()));
    }
    let Some(index) = columns.iter().position(|name| name == id) else {
        let names: Vec<String> = columns.iter().map(|name| format!("{name:?}")).collect();
        return Err(Problem::NoIdColumn { id: id.to_owned(), columns: names.join(", ") });
    };
    if columns.len() == 1 {
        return Err(Problem::OnlyIdColumn(id.to_owned()));
    }
    Ok(index)
}

/// Checks every row behind the header; returns how many there are.
fn check_rows(
    records: &mut Records,
    columns: &[String],
    id_index: usize,
) -> Result<u64, DatasetError> {
    let mut ids: HashSet<Box<str>> = HashSet::new();
    let mut record = StringRecord::new();
    let mut rows = 0;
    while records.read_text(&mut record)? {
        let problem = if record.len() != columns.len() {
            Problem::Ragged { found: record.len(), expected: columns.len() }
        } else if record[id_index].is_empty() {
            Problem::EmptyId(columns[id_index].clone())
        } else if !ids.insert(record[id_index].into()) {
            Problem::DuplicateId(record[id_index].to_owned())
        } else {
            rows += 1;
            continue;
        };
        return Err(records.at_last(problem));
    }
    Ok(rows)
}

impl Version {
    /// The file's present state.
    fn of(path: &Path) -> Result<Self, DatasetError> {
        // Before it is opened, which would wait for ever on a named pipe.
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
        if !metadata.is_file() {
            return Err(DatasetError::NotAFile(path.into()));
        }
        Self::new(&metadata).map_err(|error| unreadable(path, error))
    }

    fn new(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { bytes: metadata.len(), modified: metadata.modified()? })
    }
}

/// The records of a file, the header included.
struct Records {
    path: PathBuf,
    reader: csv::Reader<Source>,
    /// Where the record that was read last begins, in bytes from the start of the file. The line
    /// breaks before it may be counted in.
    last_start: u64,
    /// Where the sentinel ends, counted like `last_start`.
    end: u64,
    /// Whether the sentinel was read.
    ended: bool,
}

impl Records {
    /// From the start of the file, if that is (still) in the state `version`.
    fn open(path: &Path, version: Version) -> Result<Self, DatasetError> {
        if Version::of(path)? != version {
            return Err(DatasetError::Changed(path.into()));
        }
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let source = Source { inner: file.take(version.bytes).chain(SENTINEL), row_bytes: 0 };
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(source);
        let end = version.bytes + SENTINEL.len() as u64;
        Ok(Self { path: path.into(), reader, last_start: 0, end, ended: false })
    }

    /// Reads the next record as it is; false behind the last one.
    fn read(&mut self, record: &mut ByteRecord) -> Result<bool, DatasetError> {
        if self.ended {
            return Ok(false);
        }
        self.last_start = self.reader.position().byte();
        let read = self.reader.read_byte_record(record);
        let found = read.map_err(|error| self.read_error(error))?;
        self.reader.get_mut().row_bytes = 0;
        if !found {
            // The sentinel was not reached: nothing but a BOM is in the file, or less than was.
            let is_empty = self.last_start == 0;
            return if is_empty { Ok(false) } else { Err(self.changed()) };
        }
        if self.reader.position().byte() < self.end {
            return Ok(true);
        }
        self.ended = record.len() == 1 && record[0] == *SENTINEL.trim_ascii();
        if self.ended { Ok(false) } else { Err(self.at_last(Problem::OpenQuote)) }
    }

    /// The same for text; an error if the record is not UTF-8.
    fn read_text(&mut self, record: &mut StringRecord) -> Result<bool, DatasetError> {
        let mut bytes = std::mem::take(record).into_byte_record();
        let found = self.read(&mut bytes)?;
        *record = StringRecord::from_byte_record(bytes)
            .map_err(|error| self.at_last(Problem::NotUtf8(error.utf8_error().field() + 1)))?;
        Ok(found)
    }

    fn changed(&self) -> DatasetError {
        DatasetError::Changed(self.path.clone())
    }

    fn read_error(&self, error: csv::Error) -> DatasetError {
        if self.reader.get_ref().row_bytes > MAX_ROW_BYTES {
            return self.at_last(Problem::TooLong);
        }
        unreadable(&self.path, error.into())
    }

    /// `problem`, with the line in which the record that was read last begins.
    fn at_last(&self, problem: Problem) -> DatasetError {
        match line_of(&self.path, self.last_start) {
            Ok(line) => DatasetError::Line { path: self.path.clone(), line, problem },
            Err(error) => unreadable(&self.path, error),
        }
    }
}

/// The file and the sentinel behind it; refuses to deliver an endless row.
struct Source {
    inner: io::Chain<io::Take<File>, &'static [u8]>,
    /// What was read since the last complete row, in bytes.
    row_bytes: u64,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row_bytes > MAX_ROW_BYTES {
            return Err(io::Error::other("row too long"));
        }
        let count = self.inner.read(buffer)?;
        self.row_bytes += count as u64;
        Ok(count)
    }
}

impl fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("rows_left", &self.rows_left).finish_non_exhaustive()
    }
}

/// The number, from 1, of the line with the first character at or behind byte `start` that is no
/// line break. The `csv` crate's own count is one too low behind a CRLF, and behind empty lines.
fn line_of(path: &Path, start: u64) -> io::Result<u64> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = 1;
    let mut before = file.by_ref().take(start);
    loop {
        let chunk = before.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        line += chunk.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let length = chunk.len();
        before.consume(length);
    }
    for byte in file.bytes() {
        match byte? {
            b'\n' => line += 1,
            b'\r' => {}
            _ => break,
        }
    }
    Ok(line)
}

fn unreadable(path: &Path, source: io::Error) -> DatasetError {
    DatasetError::Unreadable { path: path.into(), source }
}
