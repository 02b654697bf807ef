//! Tells when a request's head that arrives in pieces is worth parsing.

use super::request::{MAX_HEADER_BYTES, MAX_REQUEST_LINE_BYTES};

/// Says when it is worth while to [parse](super::parse) a head that arrives in pieces.
///
/// Parsing begins at the first byte each time. So it is done once at first, when a line has ended, and when the head is
/// too long: about a hundred times at most, however small the pieces are.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Number of bytes that were there at the last look.
    seen: usize,
    /// Where the request line ends.
    line_end: Option<usize>,
}

impl HeadScan {
    /// Whether what has come since the last look may make the head whole, or show that it never will be. `begun` is all
    /// of the head that is there.
    pub fn may_decide(&mut self, begun: &[u8]) -> bool {
        let is_first = self.seen == 0;
        // An empty line before the request line does not end it.
        let from = self.seen.max(2).min(begun.len());
        if self.line_end.is_none() {
            let at = begun[from..].iter().position(|&byte| byte == b'\n');
            self.line_end = at.map(|at| from + at);
        }
        let max = self.line_end.map_or(MAX_REQUEST_LINE_BYTES, |at| at + MAX_HEADER_BYTES);
        let has_line = begun[self.seen.min(begun.len())..].contains(&b'\n');
        self.seen = begun.len();
        is_first || has_line || begun.len() > max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse;

    /// The number of times that a head is parsed whose bytes come one by one, until it is whole or refused.
    fn parsed(head: &[u8]) -> usize {
        let (mut scan, mut parsed) = (HeadScan::default(), 0);
        for end in 1..=head.len() {
            if scan.may_decide(&head[..end]) {
                parsed += 1;
                if !matches!(parse(&head[..end]), Ok(None)) {
                    return parsed;
                }
            } else if head.len() < 100 {
                assert!(matches!(parse(&head[..end]), Ok(None)), "at {end}");
            }
        }
        panic!("neither whole nor refused: {}", head.len());
    }

    #[test]
    fn a_long_head_in_small_pieces_is_parsed_a_bounded_number_of_times() {
        let line = |length: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(length));
        let longest = line(MAX_REQUEST_LINE_BYTES - 100);
        for (head, most) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 4),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 5),
            (format!("{longest}Host: a\r\n\r\n"), 4),
            (format!("{longest}Host: a\r\n{}\r\n", "b: c\r\n".repeat(99)), 103),
            (format!("{longest}Host: a\r\n{}\r\n", "b: c\r\n".repeat(5000)), 103),
            (format!("{longest}Host: a\r\nX: {}", "b".repeat(MAX_HEADER_BYTES)), 5),
            (line(MAX_REQUEST_LINE_BYTES), 4),
            (format!("\r\n{}", line(MAX_REQUEST_LINE_BYTES)), 5),
        ] {
            let times = parsed(head.as_bytes());
            assert!(times <= most, "{times} times: {head:.20}");
        }
    }
}
