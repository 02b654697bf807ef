//! Opens the source of the rows: a file, or standard input, which is kept in a temporary file because rows are read several
//! times.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::dataset::DatasetError;
use crate::config::hints;

/// The name of standard input on the command line, and in messages.
const DASH: &str = "-";
const STANDARD_INPUT: &str = "standard input";

/// Most bytes of standard input that are kept.
const MAX_KEPT_BYTES: u64 = 64 << 30;

/// How much of standard input is read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// A file's size and time, which change with it.
pub(super) type FileVersion = (u64, SystemTime);

/// The rows to load, which can be read as often as needed.
#[derive(Debug)]
pub struct Input {
    name: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Path(PathBuf),
    /// A file without a name, which is gone when the process ends.
    Kept(Arc<File>),
}

impl Input {
    /// Takes a file, or reads standard input to its end if the name is `-`.
    ///
    /// # Errors
    /// Standard input can't be read or kept. A file is looked at later.
    pub fn open(file: &Path) -> Result<Self, DatasetError> {
        if file != Path::new(DASH) {
            let (name, place) = (file.display().to_string(), Place::Path(file.into()));
            return Ok(Self { name, place });
        }
        if io::stdin().is_terminal() {
            // It is a help, and no more.
            let _ = writeln!(io::stderr(), "reads rows from the keyboard; Ctrl-D ends them");
        }
        let kept = keep(io::stdin().lock(), MAX_KEPT_BYTES)
            .map_err(|problem| DatasetError::new(format!("{STANDARD_INPUT}: {problem}")))?;
        Ok(Self { name: STANDARD_INPUT.to_owned(), place: Place::Kept(Arc::new(kept)) })
    }

    /// Returns its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the version that it has now.
    pub(super) fn version(&self) -> Result<FileVersion, DatasetError> {
        let metadata = match &self.place {
            // Checked before it is opened: opening a named pipe could wait without end.
            Place::Path(path) => fs::metadata(path),
            Place::Kept(file) => file.metadata(),
        };
        let metadata = metadata.map_err(|error| self.unreadable(&error))?;
        if metadata.is_dir() {
            return Err(self.problem("is a directory; name a file in it"));
        }
        if !metadata.is_file() {
            return Err(self.problem(
                "is not a regular file; it is read several times, so save the rows to a file and \
                 name that one, or write seed - and give them to its standard input",
            ));
        }
        let modified = metadata.modified().map_err(|error| self.unreadable(&error))?;
        Ok((metadata.len(), modified))
    }

    /// Reads it from its first byte on, whoever else reads it.
    pub(super) fn reader(&self) -> io::Result<InputReader> {
        let file = match &self.place {
            Place::Path(path) => Arc::new(File::open(path)?),
            Place::Kept(file) => Arc::clone(file),
        };
        Ok(InputReader { file, at: 0 })
    }

    /// Makes the error of a problem of the whole file.
    pub(super) fn problem(&self, problem: impl Display) -> DatasetError {
        DatasetError::new(format!("{}: {problem}", self.name))
    }

    /// Makes the error of a file that can't be read.
    pub(super) fn unreadable(&self, error: &io::Error) -> DatasetError {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        let advice = match is_missing {
            true if hints::is_server(&self.name) => {
                "a server is named by --backend: seed FILE --backend HOST:PORT"
            }
            true => "check the name: seed FILE loads another",
            false => "check its permissions",
        };
        self.problem(format_args!("cannot be read ({error}); {advice}"))
    }

    /// Makes the error of a file that is another one than before.
    pub(super) fn changed(&self) -> DatasetError {
        self.problem("was changed while it was being read; run seed again when nothing changes it")
    }
}

/// Reads what is kept of standard input, or a file.
#[derive(Debug)]
pub(super) struct InputReader {
    file: Arc<File>,
    at: u64,
}

impl Read for InputReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Copies at most `max` bytes to a temporary file without a name. The error says what is wrong and what to do.
fn keep(mut from: impl Read, max: u64) -> Result<File, String> {
    let unkept = |error: io::Error| {
        let folder = std::env::temp_dir();
        format!(
            "cannot be kept in {} ({error}); name a folder that has room by TMPDIR",
            folder.display()
        )
    };
    let mut kept = tempfile::tempfile().map_err(unkept)?;
    let (mut piece, mut length) = (vec![0; PIECE_BYTES], 0);
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(kept),
            Ok(count) => {
                length += count as u64;
                if length > max {
                    return Err(format!("is longer than {} GiB; save it to a file", max >> 30));
                }
                kept.write_all(&piece[..count]).map_err(unkept)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot be read ({error})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read_twice_and_has_a_limit() {
        let kept = Arc::new(keep(&b"id,name\n"[..], 8).expect("kept"));
        for _ in 0..2 {
            let mut reader = InputReader { file: Arc::clone(&kept), at: 0 };
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("text");
            assert_eq!(text, "id,name\n");
        }
        let error = keep(&b"id,name\n1"[..], 8).expect_err("too long");
        assert!(error.contains("is longer than"), "{error}");
    }
}
