//! Where a page begins, and where the pages before it began, as links say it.

/// Longest id of a server process in a cursor.
pub(super) const MAX_RUN_ID_BYTES: usize = 64;

/// Longest [`Trail`] in a link: some thirty pages of the largest databases, hundreds of small ones.
const MAX_TRAIL_BYTES: usize = 640;

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
        let is_id = (1..=MAX_RUN_ID_BYTES).contains(&run_id.len())
            && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then_some(())?;
        Some(Self { run_id: run_id.to_owned(), position: position.parse().ok()? })
    }
}

/// Where the pages before this one began, the last of them at the end: cursors of Redis and ids of entries
/// only lead on, so a link back has to carry where it leads. In a URL, dots separate the positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail(String);

impl Trail {
    /// The position of a first page.
    pub(crate) const FIRST: &str = "0";

    /// Parses it from a URL.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let is_trail = text.len() <= MAX_TRAIL_BYTES
            && text.iter().all(|byte| byte.is_ascii_digit() || b"-.".contains(byte));
        let text = std::str::from_utf8(text).ok().filter(|_| is_trail)?;
        text.split('.').all(|position| !position.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Returns it as it is in a URL; nothing for a first page.
    pub(crate) fn to_text(&self) -> &str {
        &self.0
    }

    /// Returns the trail of the page after one that begins at `position`. The oldest are forgotten when there are too
    /// many.
    #[must_use]
    pub(crate) fn then(&self, position: &str) -> Self {
        let mut text = match self.0.is_empty() {
            true => position.to_owned(),
            false => format!("{}.{position}", self.0),
        };
        while text.len() > MAX_TRAIL_BYTES {
            let Some((_, rest)) = text.split_once('.') else { break };
            text = rest.to_owned();
        }
        Self(text)
    }

    /// Returns where the page before began, and the trail of that page; `None` if that is not known.
    pub(crate) fn back(&self) -> Option<(&str, Self)> {
        match self.0.rsplit_once('.') {
            Some((earlier, last)) => Some((last, Self(earlier.to_owned()))),
            None if self.0.is_empty() => None,
            None => Some((&self.0, Self::default())),
        }
    }

    /// Returns the number of the page, from 1 on; `None` if that is not known.
    pub(crate) fn page_number(&self) -> Option<usize> {
        let mut positions = self.0.split('.');
        (positions.next() == Some(Self::FIRST)).then(|| positions.count() + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_the_way_there() {
        let second = Trail::default().then(Trail::FIRST);
        let third = second.then("17");
        assert_eq!((third.to_text(), third.page_number()), ("0.17", Some(3)));
        assert_eq!(third.back(), Some(("17", second.clone())));
        assert_eq!(second.back(), Some(("0", Trail::default())));
        assert_eq!((Trail::default().back(), Trail::default().page_number()), (None, None));
    }

    #[test]
    fn a_long_way_forgets_its_beginning() {
        let mut trail = Trail::default().then(Trail::FIRST);
        for page in 1_000_000..1_001_000 {
            trail = trail.then(&page.to_string());
        }
        assert!(trail.to_text().len() <= MAX_TRAIL_BYTES && trail.page_number().is_none());
        assert_eq!(trail.back().map(|(last, _)| last), Some("1000999"));
        assert_eq!(Trail::parse(trail.to_text().as_bytes()), Some(trail));
    }

    #[test]
    fn only_positions_are_a_trail() {
        for text in [&b""[..], b".", b"0.", b"0..1", b"a", b"0 1", b"\xff", &[b'1'; 1000]] {
            assert_eq!(Trail::parse(text), None, "{}", text.escape_ascii());
        }
        assert_eq!(Trail::parse(b"0.17-1"), Some(Trail("0.17-1".to_owned())));
    }
}
