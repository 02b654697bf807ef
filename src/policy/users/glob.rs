//! Patterns of keys and channels, which match exactly as in Redis.

/// Limit of stars in a pattern beyond which Redis lets it match nothing. (It needs the limit for its stack.)
const MAX_STARS: usize = 1000;

/// Longest pattern: no key that anybody types a pattern for is longer.
const MAX_BYTES: usize = 1024;

/// A pattern of keys on its own, outside the rules of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGlob(Box<[u8]>);

/// Error in a pattern of keys. Redis takes such a pattern, and reads it otherwise than its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyGlobError {
    /// It has no bytes, and no key is empty.
    #[error("a pattern of keys can't be empty")]
    Empty,
    /// It has too many bytes.
    #[error("a pattern of keys has at most {MAX_BYTES} bytes")]
    TooLong,
    /// A class of characters has no end.
    #[error("a [ without ] in a pattern of keys; write \\[ for the character itself")]
    UnclosedClass,
    /// Nothing comes after the last backslash.
    #[error(
        "nothing comes after the last \\ of this pattern of keys; write \\\\ for the character itself"
    )]
    LoneBackslash,
}

impl KeyGlob {
    /// Takes a pattern, which may be any bytes.
    ///
    /// # Errors
    /// It is empty, too long, or breaks off.
    pub fn parse(pattern: &[u8]) -> Result<Self, KeyGlobError> {
        match pattern.len() {
            0 => return Err(KeyGlobError::Empty),
            1..=MAX_BYTES => {}
            _ => return Err(KeyGlobError::TooLong),
        }
        let mut rest = pattern;
        while let [byte, after @ ..] = rest {
            rest = match (byte, after) {
                (b'\\', []) => return Err(KeyGlobError::LoneBackslash),
                (b'\\', [_, after @ ..]) => after,
                (b'[', _) => after_class(after).ok_or(KeyGlobError::UnclosedClass)?,
                _ => after,
            };
        }
        Ok(Self(pattern.into()))
    }

    /// Returns whether it matches this key.
    pub fn matches(&self, key: &[u8]) -> bool {
        matches(&self.0, key)
    }
}

/// Whether a pattern matches a text as `stringmatchlen` of Redis says, with its peculiarities: `*` does not match
/// the empty text, and a class that is not closed ends with the pattern.
///
/// The time is bounded by the product of both lengths: only the last star that was met can take more text.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last star, and the text from which on it was tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    let mut stars = 0;
    while !pattern.is_empty() && !text.is_empty() {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            pattern = without_stars(rest);
            if pattern.is_empty() {
                return true;
            }
            stars += 1;
            if stars > MAX_STARS {
                return false;
            }
            star = Some((pattern, text));
            continue;
        }
        let (is_match, rest) = match_byte(pattern, text[0]);
        let text_left = &text[1..];
        let rest = if text_left.is_empty() { without_stars(rest) } else { rest };
        let is_at_wrong_end = rest.is_empty() && !text_left.is_empty();
        if is_match && !is_at_wrong_end {
            (pattern, text) = (rest, text_left);
            continue;
        }
        let Some((after_star, tried)) = star else { return false };
        (pattern, text) = (after_star, &tried[1..]);
        star = Some((pattern, text));
    }
    pattern.is_empty() && text.is_empty()
}

fn without_stars(pattern: &[u8]) -> &[u8] {
    let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
    &pattern[stars..]
}

/// Matches one byte with the beginning of a pattern that is no star, and returns what follows.
fn match_byte(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    match pattern {
        [b'?', rest @ ..] => (true, rest),
        [b'[', b'^', rest @ ..] => {
            let (is_in, rest) = match_class(rest, byte);
            (!is_in, rest)
        }
        [b'[', rest @ ..] => match_class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte, rest),
        [] => (false, pattern),
    }
}

/// Returns what follows the end of a class, if it has one.
fn after_class(class: &[u8]) -> Option<&[u8]> {
    let mut class = class;
    loop {
        class = match class {
            [b'\\', _, rest @ ..] => rest,
            [b']', rest @ ..] => return Some(rest),
            [_, b'-', _, rest @ ..] | [_, rest @ ..] => rest,
            [] => return None,
        };
    }
}

/// Matches one byte with a class, and returns what follows its end.
fn match_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut class = class;
    let mut is_in = false;
    loop {
        class = match class {
            [b'\\', literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => return (is_in, rest),
            [] => return (is_in, class),
            [one, b'-', other, rest @ ..] => {
                is_in |= is_between(*one, byte, *other);
                rest
            }
            [literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
        };
    }
}

/// Whether a byte is within a range, whose ends may be in either order. Bytes are signed, as those of Redis are on
/// most machines.
fn is_between(one: u8, byte: u8, other: u8) -> bool {
    let [one, byte, other] = [one, byte, other].map(u8::cast_signed);
    (one.min(other)..=one.max(other)).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", false),
            ("*", "a", true),
            ("a*", "a", true),
            ("a***", "a", true),
            ("a**b**", "ab", true),
            ("a*b", "aXbXb", true),
            ("a*b", "aXbXc", false),
            ("*a*b*c", "xaybzc", true),
            ("*a*b*c", "xaybzcd", false),
            ("*ab", "aab", true),
            ("user:?", "user:1", true),
            ("user:?", "user:12", false),
            ("?", "", false),
            ("[abc]", "b", true),
            ("[^abc]", "b", false),
            ("[^abc]", "d", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-]", "b", false),
            ("[a-]", "a", true),
            ("[a", "a", true),
            ("[a", "b", false),
            ("[", "a", false),
            ("[^", "a", true),
            ("[]a", "a", false),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            ("a\\", "a\\", true),
            ("A", "a", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
        assert!(matches(b"[a-\xff]", b"A"), "bytes are signed");
        assert!(!matches(b"[a-\xff]", b"b"));
        assert!(matches("é?".as_bytes(), b"\xc3\xa9\xff"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_a_moment_only() {
        let text = [b'a'; 5000];
        assert!(!matches(["a*".repeat(500).as_bytes(), b"b"].concat().as_slice(), &text));
        assert!(!matches(["*a".repeat(900).as_bytes(), b"b"].concat().as_slice(), &text));
        assert!(matches("*a".repeat(900).as_bytes(), &text));
        assert!(!matches("*a".repeat(1001).as_bytes(), &text));
    }

    #[test]
    fn a_pattern_that_breaks_off_is_refused() {
        let long = "a".repeat(MAX_BYTES);
        let longer = "a".repeat(MAX_BYTES + 1);
        for (pattern, expected) in [
            ("session:*", Ok(())),
            ("a[bc]d", Ok(())),
            ("a[^\\]]d", Ok(())),
            ("a]", Ok(())),
            ("a\\[", Ok(())),
            ("a\\\\", Ok(())),
            (&long, Ok(())),
            ("", Err(KeyGlobError::Empty)),
            (&longer, Err(KeyGlobError::TooLong)),
            ("a[bc", Err(KeyGlobError::UnclosedClass)),
            ("a[bc\\]", Err(KeyGlobError::UnclosedClass)),
            ("a[b-]", Err(KeyGlobError::UnclosedClass)),
            ("a[b-]]c", Ok(())),
            ("a\\", Err(KeyGlobError::LoneBackslash)),
        ] {
            let parsed = KeyGlob::parse(pattern.as_bytes());
            assert_eq!(parsed.as_ref().map(|_| ()).map_err(|why| *why), expected, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_on_its_own_matches_bytes_that_are_no_text() {
        let glob = KeyGlob::parse(b"a\xff[\x00-\x02]*").expect("a pattern");
        assert!(glob.matches(b"a\xff\x01b"));
        assert!(!glob.matches(b"a\xff\x03b"));
    }
}
