//! The passwords of a user, which are kept as SHA-256 alone.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::Wrong;

/// Limit of passwords of one user. Every attempt to authenticate is compared with as many as the user has who has
/// most. Two are enough to change one without a gap.
const MAX_PASSWORDS: usize = 32;

/// A SHA-256 digest.
pub(super) type PasswordDigest = [u8; 32];

/// The passwords of one user.
#[derive(Default, Clone, PartialEq, Eq)]
pub(super) struct Passwords {
    /// Whether any password is right: `nopass`.
    pub any: bool,
    digests: Vec<PasswordDigest>,
}

impl Passwords {
    /// Any password: `nopass`.
    pub fn any() -> Self {
        Self { any: true, digests: Vec::new() }
    }

    pub fn count(&self) -> usize {
        self.digests.len()
    }

    pub fn add(&mut self, digest: PasswordDigest) -> Result<(), Wrong> {
        if !self.digests.contains(&digest) {
            if self.digests.len() >= MAX_PASSWORDS {
                let why =
                    format!("it is one too many: a user has at most {MAX_PASSWORDS} passwords");
                return Err(Wrong::secret(why));
            }
            self.digests.push(digest);
        }
        self.any = false;
        Ok(())
    }

    pub fn remove(&mut self, digest: PasswordDigest) -> Result<(), Wrong> {
        let place = self.digests.iter().position(|own| *own == digest);
        let Some(place) = place else {
            return Err(Wrong::secret("the user has no such password to take away"));
        };
        self.digests.remove(place);
        Ok(())
    }

    /// Compares a digest with all passwords, in the time that `times` comparisons take: at least as many as there are
    /// passwords.
    pub fn compare(&self, digest: &PasswordDigest, times: usize) -> Choice {
        // It stands in for passwords that the user lacks, and no match with it counts.
        let filler = [0; 32];
        let mut matches = Choice::from(u8::from(self.any));
        for number in 0..times {
            let own = self.digests.get(number);
            let is_own = Choice::from(u8::from(own.is_some()));
            matches |= own.unwrap_or(&filler).ct_eq(digest) & is_own;
        }
        matches
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.digests.len();
        f.debug_struct("Passwords").field("any", &self.any).field("count", &count).finish()
    }
}

/// The digest of a password.
pub(super) fn digest(password: &[u8]) -> PasswordDigest {
    Sha256::digest(password).into()
}

/// Reads a digest as Redis writes it: 64 hexadecimal digits, in lower case.
pub(super) fn read_digest(text: &str) -> Result<PasswordDigest, Wrong> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
    let bytes =
        digits.map(|digits| digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect());
    let digest = bytes.and_then(|bytes: Vec<u8>| bytes.try_into().ok());
    let digest = digest.filter(|_| text.len() == 64);
    digest.ok_or_else(|| {
        let why = "a password's SHA-256 has exactly 64 digits, 0 to 9 and a to f in lower case";
        Wrong::secret(why)
    })
}
