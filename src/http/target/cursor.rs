//! The cursor of a listing.

/// The place where a listing goes on. A `SCAN` cursor means something only to the server process that
/// gave it, so it carries that process's `run_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The `run_id` of `INFO server`: 40 hexadecimal digits.
    pub run_id: String,
    /// The cursor that `SCAN` returned.
    pub position: u64,
}

impl Cursor {
    /// Returns it as it is in a URL: `RUN_ID-POSITION`.
    pub fn to_text(&self) -> String {
        format!("{}-{}", self.run_id, self.position)
    }

    /// Parses it from a URL.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (run_id, position) = text.rsplit_once('-')?;
        let is_id = (1..=64).contains(&run_id.len())
            && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then_some(())?;
        Some(Self { run_id: run_id.to_owned(), position: position.parse().ok()? })
    }
}
