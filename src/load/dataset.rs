//! A CSV file as rows to load. It is checked as a whole before its first use, and then streamed as often as
//! needed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, StringRecord};

use super::error::{DatasetError, LineProblem};
use super::records::{FileVersion, Records};

/// Limit of a batch's rows: it ends early, so that long rows cannot fill the memory.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// A checked CSV file with a header. Each row becomes a hash: one column is its id, the others are its
/// fields.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    columns: Vec<String>,
    id_index: usize,
    rows: u64,
    version: FileVersion,
}

impl Dataset {
    /// Reads the whole file and checks every row; `id` names the column with the ids. All ids are in memory
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// The first problem of the file, with its line if it has one.
    pub fn check(path: &Path, id: &str) -> Result<Self, DatasetError> {
        let version = FileVersion::of(path)?;
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
        let mut records = Records::open(&self.path, self.version)?;
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
        let unchanged = FileVersion::of(&self.dataset.path)? == self.dataset.version;
        if unchanged && self.rows_left == 0 { Ok(()) } else { Err(self.records.changed()) }
    }
}

/// One row of the file.
#[derive(Debug, Clone)]
pub(super) struct Row {
    record: ByteRecord,
    id_index: usize,
}

impl Row {
    /// The content of the id column; not empty.
    fn id(&self) -> &[u8] {
        &self.record[self.id_index]
    }

    /// Replaces `key` by the row's key, which begins with `prefix`.
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

/// The index of the id column; an error if rows cannot be loaded with this header.
fn find_id(columns: &[String], id: &str) -> Result<usize, LineProblem> {
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|name| !seen.insert(*name)) {
        return Err(LineProblem::DuplicateColumn(twice.clone()));
    }
    let Some(index) = columns.iter().position(|name| name == id) else {
        let names: Vec<String> = columns.iter().map(|name| format!("{name:?}")).collect();
        return Err(LineProblem::NoIdColumn { id: id.to_owned(), columns: names.join(", ") });
    };
    if columns.len() == 1 {
        return Err(LineProblem::OnlyIdColumn(id.to_owned()));
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
    let mut rows = 0;
    while records.read_text(&mut record)? {
        let problem = if record.len() != columns.len() {
            LineProblem::Ragged { found: record.len(), expected: columns.len() }
        } else if record[id_index].is_empty() {
            LineProblem::EmptyId(columns[id_index].clone())
        } else if !ids.insert(record[id_index].into()) {
            LineProblem::DuplicateId(record[id_index].to_owned())
        } else {
            rows += 1;
            continue;
        };
        return Err(records.at_last(problem));
    }
    Ok(rows)
}
