//! The headers of a request that we heed.

use super::host::checked_host;
use super::{RequestError, Version};

/// The headers of a request.
pub(super) struct Headers<'a>(pub(super) &'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }

    /// Returns the value of a header that may occur only once.
    fn only(&self, name: &'static str) -> Result<Option<&'a str>, RequestError> {
        let mut values = self.all(name);
        let first = values.next().map(text).transpose()?;
        match values.next() {
            Some(_) => {
                Err(RequestError::Malformed("a header that may occur only once occurs twice"))
            }
            None => Ok(first),
        }
    }

    /// Returns all values of a list header as one list. An ETag may contain bytes that are not UTF-8;
    /// then it is none of ours.
    pub(super) fn joined(&self, name: &'static str) -> Option<String> {
        let values: Vec<_> = self.all(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Returns the host, which only HTTP/1.0 may leave out.
    pub(super) fn host(&self, version: Version) -> Result<Option<String>, RequestError> {
        match self.only("host")? {
            None if version == Version::Http11 => Err(RequestError::Malformed("Host is missing")),
            None => Ok(None),
            Some(host) => checked_host(host).map(Some),
        }
    }

    /// Whether the client wants to keep the connection.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        let list = self.joined("connection").unwrap_or_default().to_ascii_lowercase();
        let says = |option| list.split(',').any(|listed| listed.trim() == option);
        !says("close") && (version == Version::Http11 || says("keep-alive"))
    }

    /// Whether `Accept` names `text/html` with a quality above 0.
    pub(super) fn accepts_html(&self) -> bool {
        let list = self.joined("accept").unwrap_or_default();
        list.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
            let quality = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>())
            });
            is_html && quality.is_none_or(|quality| quality.is_ok_and(|quality| quality > 0.0))
        })
    }

    /// Whether a body follows.
    pub(super) fn has_body(&self, version: Version) -> Result<bool, RequestError> {
        let length = self.only("content-length")?;
        let coding = self.only("transfer-encoding")?;
        match (length, coding) {
            (None, None) => Ok(false),
            (Some(_), Some(_)) => {
                Err(RequestError::Malformed("Content-Length together with Transfer-Encoding"))
            }
            (Some(length), None) => {
                let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                match length.parse::<u64>() {
                    Ok(length) if is_number => Ok(length > 0),
                    _ => Err(RequestError::Malformed("a Content-Length that is no number")),
                }
            }
            (None, Some(coding)) => {
                if version != Version::Http11 || !coding.eq_ignore_ascii_case("chunked") {
                    return Err(RequestError::Malformed("a Transfer-Encoding other than chunked"));
                }
                Ok(true)
            }
        }
    }
}

fn text(value: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(value).map_err(|_| RequestError::Malformed("a header that is not UTF-8"))
}
