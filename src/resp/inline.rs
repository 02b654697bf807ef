//! Splits an inline command into words, as Redis's `sdssplitargs` (sds.c) does.

/// Returns the words of an inline command; `None` if a quote is not closed, or its end is not the
/// end of the word.
pub(super) fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|&&byte| is_space(byte)).count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return Some(words);
        }
        let word;
        (word, rest) = take_word(rest)?;
        words.push(word);
    }
}

/// Takes the word at the start of `line`; returns it and the rest of the line. A quote may open
/// within a word, but closing it ends the word.
fn take_word(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = line;
    loop {
        rest = match rest {
            // Fewer characters than in `is_space`: a vertical tab or form feed is part of a word.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [b'"', quoted @ ..] => return take_double_quoted(word, quoted),
            [b'\'', quoted @ ..] => return take_single_quoted(word, quoted),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn take_double_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'"', after @ ..] => return end_quoted(word, after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) * 16 + hex_digit(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn take_single_quoted(mut word: Vec<u8>, quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted;
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'\'', after @ ..] => return end_quoted(word, after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

/// Ends a word at its closing quote, after which a blank or nothing must follow.
fn end_quoted(word: Vec<u8>, after: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    after.first().is_none_or(|&byte| is_space(byte)).then_some((word, after))
}

/// Implements C's `isspace`, which unlike Rust's includes the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

/// Returns the byte that a backslash and `byte` mean within double quotes.
fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => b'\x08',
        b'a' => b'\x07',
        other => other,
    }
}

/// Returns the value of a hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
