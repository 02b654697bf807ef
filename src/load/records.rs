//! Reads the records of a CSV file, and notices when the file changes.

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use csv::{ByteRecord, StringRecord};

use super::MAX_ROW_BYTES;
use super::error::{DatasetError, LineProblem};

/// How much of the file is read at a time, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes that are read after the end of the file. If the last row is not exactly these, a quote was still open:
/// the `csv` crate closes it silently.
const SENTINEL: &[u8] = b"\nend\n";

/// A file's size and time, which change with it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct FileVersion {
    bytes: u64,
    modified: SystemTime,
}

impl FileVersion {
    /// The version that the file has now.
    pub fn of(path: &Path) -> Result<Self, DatasetError> {
        // Checked before it is opened: opening a named pipe could wait without end.
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

/// Reads the records of a file, with the header.
pub(super) struct Records {
    path: PathBuf,
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
    pub fn open(path: &Path, version: FileVersion) -> Result<Self, DatasetError> {
        if FileVersion::of(path)? != version {
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
        Ok(Self { path: path.into(), reader, last_start: 0, end, has_ended: false })
    }

    /// Reads the next record; false after the last one.
    pub fn read(&mut self, record: &mut ByteRecord) -> Result<bool, DatasetError> {
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
            return if is_empty { Ok(false) } else { Err(self.changed()) };
        }
        if self.reader.position().byte() < self.end {
            return Ok(true);
        }
        self.has_ended = record.len() == 1 && record[0] == *SENTINEL.trim_ascii();
        if self.has_ended { Ok(false) } else { Err(self.at_last(LineProblem::OpenQuote)) }
    }

    /// Reads the next record as text; an error if it is not UTF-8.
    pub fn read_text(&mut self, record: &mut StringRecord) -> Result<bool, DatasetError> {
        let mut bytes = std::mem::take(record).into_byte_record();
        let found = self.read(&mut bytes)?;
        *record = StringRecord::from_byte_record(bytes)
            .map_err(|error| self.at_last(LineProblem::NotUtf8(error.utf8_error().field() + 1)))?;
        Ok(found)
    }

    pub fn changed(&self) -> DatasetError {
        DatasetError::Changed(self.path.clone())
    }

    fn read_error(&self, error: csv::Error) -> DatasetError {
        if self.reader.get_ref().row_bytes > MAX_ROW_BYTES {
            return self.at_last(LineProblem::TooLong);
        }
        unreadable(&self.path, error.into())
    }

    /// Makes the error of a problem in the last record, with the line in which that begins.
    pub fn at_last(&self, problem: LineProblem) -> DatasetError {
        match line_of(&self.path, self.last_start) {
            Ok(line) => DatasetError::Line { path: self.path.clone(), line, problem },
            Err(error) => unreadable(&self.path, error),
        }
    }
}

/// Reads the file and the sentinel after it; fails at a row without end.
struct Source {
    inner: io::Chain<io::Take<File>, &'static [u8]>,
    /// Bytes that were read since the last complete row.
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

/// The number, from 1, of the line with the first character from byte `start` on that is no line
/// break. The `csv` crate counts one too few after a CRLF, and after empty lines.
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
