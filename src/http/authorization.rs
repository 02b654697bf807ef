//! The credentials of a request: Basic authentication (RFC 7617).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The value of `Authorization`. Nothing shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(String);

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

impl Authorization {
    pub(super) fn new(value: &[u8]) -> Self {
        Self(String::from_utf8_lossy(value).into_owned())
    }

    /// Returns the user's name and password.
    ///
    /// # Errors
    /// Says what is wrong with the value.
    pub fn basic(&self) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let (scheme, encoded) = self.0.split_once(' ').unwrap_or((&self.0, ""));
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err("Authorization: only Basic is served here");
        }
        let decoded = STANDARD.decode(encoded.trim());
        let decoded = decoded.map_err(|_| "Authorization: what follows Basic is no base64")?;
        let colon = decoded.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or("Authorization: the name has no colon and password after it")?;
        Ok((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
    }

    /// Returns what tells it from others without being it.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_ends_at_the_first_colon_and_nothing_shows_the_password() {
        for (value, expected) in [
            // app:hunter2
            ("Basic YXBwOmh1bnRlcjI=", Some(("app", "hunter2"))),
            ("bAsIc  YXBwOmh1bnRlcjI= ", Some(("app", "hunter2"))),
            // app:a:b, :x, a:
            ("Basic YXBwOmE6Yg==", Some(("app", "a:b"))),
            ("Basic Ong=", Some(("", "x"))),
            ("Basic YTo=", Some(("a", ""))),
            ("Basic YXBw", None),
            ("Basic !!", None),
            ("Basic", None),
            ("", None),
            ("Bearer YXBwOmh1bnRlcjI=", None),
        ] {
            let authorization = Authorization::new(value.as_bytes());
            let read = authorization.basic().ok();
            let expected = expected.map(|(name, password)| (name.into(), password.into()));
            assert_eq!(read, expected, "{value}");
            assert!(!format!("{authorization:?}").contains("YXBw"));
        }
    }
}
