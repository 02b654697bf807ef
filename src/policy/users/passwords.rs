//! The passwords of a user, which are kept as SHA-256 alone.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

/// A SHA-256 digest.
pub(super) type PasswordDigest = [u8; 32];

/// The passwords of one user.
#[derive(Default, Clone, PartialEq, Eq)]
pub(super) struct Passwords {
    /// Any password is right.
    pub any: bool,
    pub digests: Vec<PasswordDigest>,
}

impl Passwords {
    pub fn count(&self) -> usize {
        self.digests.len()
    }

    /// Compares a digest with all passwords, in the time that `times` comparisons take: at least as many as there are
    /// passwords.
    pub fn compare(&self, digest: &PasswordDigest, times: usize) -> Choice {
        // No SHA-256 of a known password; and what it equals does not count.
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
