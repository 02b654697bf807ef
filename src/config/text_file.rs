//! Small files that the configuration is read from: itself, and those that hold a password or certificates.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use crate::net::tls::certificates::CertificateFileError;
use crate::text::figures::size;

/// Largest file that holds a password, in bytes: far more than anybody types, and no mistake for a log or a device.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// Largest file of certificates or a key, in bytes. All CAs that systems trust together take 250 KiB.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// A file's text, and whether every user of the machine may read it.
#[derive(Debug)]
pub(super) struct TextFile {
    pub bytes: Vec<u8>,
    pub is_open_to_all: bool,
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// It can't be read, is no file, or is larger. The text goes on from the file's name.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<TextFile, String> {
    let unreadable = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => "; let the user read it who runs lb (chown, chmod)",
            _ => "",
        };
        format!("can't be read: {error}{advice}")
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // To open a pipe could wait for ever, and nothing can be read from it again.
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "is a directory" } else { "is not a regular file" };
        return Err(what.to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("is larger than {}", size(max_bytes)));
    }
    Ok(TextFile { bytes, is_open_to_all: is_open_to_all(&metadata) })
}

/// Reads a file of certificates or a key in PEM; returns what `parse` makes of it, and the file.
///
/// # Errors
/// As [`read`], or as `parse` fails.
pub(super) fn read_pem<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, CertificateFileError>,
) -> Result<(T, TextFile), String> {
    let file = read(path, MAX_PEM_BYTES)?;
    let contents = parse(&file.bytes).map_err(|error| error.to_string())?;
    Ok((contents, file))
}

/// Reads a password. The end of its line is no part of it.
///
/// # Errors
/// As [`read`], or there is not exactly one line of text.
pub(super) fn read_password(path: &Path) -> Result<(String, bool), String> {
    let TextFile { bytes, is_open_to_all } = read(path, MAX_PASSWORD_BYTES)?;
    let mut text = String::from_utf8(bytes).map_err(|_| "is not text in UTF-8".to_owned())?;
    let kept = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(kept.unwrap_or(text.len()));
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    match text.contains('\n') {
        true => Err("has more than one line".to_owned()),
        false => Ok((text, is_open_to_all)),
    }
}

/// Returns the warning about a file with a password that all may read.
pub(super) fn warning(path: &Path) -> String {
    warning_of(path, "a password")
}

/// Returns the warning about a file with a secret that all may read.
pub(super) fn warning_of(path: &Path, secret: &str) -> String {
    let path = path.display();
    format!("{path} holds {secret}, and every user of this machine can read it: chmod o-r {path}")
}

#[cfg(unix)]
fn is_open_to_all(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Metadata) -> bool {
    false
}
