//! Errors of loading.

use std::io;
use std::path::PathBuf;

use super::{MAX_ROW_BYTES, REPLICA_TIMEOUT};

/// Error of a file that cannot be loaded: the problem, its place, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum DatasetError {
    #[error("{}: cannot be read ({source}); check the name and the permissions", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{}: is not a regular file; it is read several times, so save the rows to a file and name \
         that one",
        .0.display()
    )]
    NotAFile(PathBuf),
    #[error("{}: is empty; its first line has to name the columns", .0.display())]
    Empty(PathBuf),
    #[error("{}: has a header but no rows; add at least one", .0.display())]
    NoRows(PathBuf),
    #[error(
        "{}: was changed while it was being read; run seed again when nothing changes it",
        .0.display()
    )]
    Changed(PathBuf),
    #[error("{}:{line}: {problem}", .path.display())]
    Line { path: PathBuf, line: u64, problem: LineProblem },
}

/// Problem of one line of the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum LineProblem {
    #[error("no column {id:?}; the columns are {columns}: name the one with the ids with --id")]
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
        "the row has {found} columns, the header {expected}; look for a missing or extra comma or \
         quote"
    )]
    Ragged { found: usize, expected: usize },
    #[error("column {0} is not valid UTF-8; save the file as UTF-8")]
    NotUtf8(usize),
    #[error(
        "a quote is opened in this row and never closed; close it, or double a quote that is text"
    )]
    OpenQuote,
    #[error("the row is longer than {} MiB; look for a missing quote", MAX_ROW_BYTES >> 20)]
    TooLong,
}

/// Error of a backend that does not hold the rows.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum SeedError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    Redis(String),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("this is not how Redis replies to {command}; is it a Redis server?")]
    Reply { command: &'static str },
    #[error("key {key:?} {difference} after loading; does another program write to it?")]
    Mismatch { key: String, difference: String },
    #[error("its primary {0} was not filled; see the error of that one")]
    Primary(String),
    #[error(
        "key {key:?} {difference}; this is a replica of {primary}: is that one among the \
         backends, and was it filled?"
    )]
    ForeignPrimary { key: String, difference: String, primary: String },
    #[error(
        "it is a replica of {primary} and made no progress for {} s ({state}); see its log",
        REPLICA_TIMEOUT.as_secs()
    )]
    Stuck { primary: String, state: &'static str },
}
