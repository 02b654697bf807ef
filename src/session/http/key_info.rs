//! A look at a key before its value is read: its type and about how large it is.

use std::io::BufRead;

use crate::backend::is_not_permitted;
use crate::resp::value_type::ValueType;
use crate::resp::{self, command, reply};

/// How often one request looks at a key whose type changes before its value is read. Each look is
/// short, so that even a key that is replaced all the time can be read.
pub(super) const MAX_LOOKS: usize = 10;

/// The longest type name that is kept. A module's type has nine characters.
const MAX_TYPE_NAME_CHARS: usize = 64;

/// Returns the commands whose replies [`KeyInfo::read`] reads, for each key. They take Redis the
/// same short time whatever the size of the value.
pub(super) fn look_at<K: AsRef<[u8]>>(keys: &[K]) -> Vec<u8> {
    let mut commands = Vec::new();
    for key in keys {
        command("TYPE").arg(key).append_to(&mut commands);
        let usage = command("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").number(1);
        usage.append_to(&mut commands);
    }
    commands
}

/// What is known of a key before its value is read.
pub(super) struct KeyInfo {
    /// The type as `TYPE` names it.
    pub type_name: String,
    /// About how many bytes of memory the value takes; 0 if the backend does not say.
    pub bytes: u64,
}

impl KeyInfo {
    /// Reads the replies for one key of [`look_at`].
    pub fn read(from: &mut impl BufRead) -> Result<Self, resp::Error> {
        let type_name = reply::simple(from)?.chars().take(MAX_TYPE_NAME_CHARS).collect();
        let bytes = match reply::integer(from) {
            Ok(bytes) => bytes.unwrap_or(0).unsigned_abs(),
            // The server does not know `MEMORY`, or our user may not use it: no value is large then.
            Err(resp::Error::Redis(_)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { type_name, bytes })
    }

    /// Whether there is no such key.
    pub fn is_missing(&self) -> bool {
        self.type_name == "none"
    }

    /// Returns the type, if it is one that we serve.
    pub fn value_type(&self) -> Option<ValueType> {
        ValueType::from_name(&self.type_name)
    }
}

/// A fact that our user may not ask for is left out.
pub(super) fn if_permitted<T>(reply: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match reply {
        Err(resp::Error::Redis(text)) if is_not_permitted(&text) => Ok(None),
        reply => reply.map(Some),
    }
}
