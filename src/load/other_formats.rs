//! Files that are no CSV, told by how they begin, with what to do about each.

/// How files of other kinds begin, and what to do about them.
static SIGNS: [(&[u8], &str); 13] = [
    (b"\x1f\x8b", "is compressed: gzip -dc FILE | seed -"),
    (b"\xfd7zXZ\0", "is compressed: xz -dc FILE | seed -"),
    (b"\x28\xb5\x2f\xfd", "is compressed: zstd -dc FILE | seed -"),
    (b"BZh91AY&SY", "is compressed: bzip2 -dc FILE | seed -"),
    (
        b"PK\x03\x04",
        "is a ZIP archive or a workbook of Excel (.xlsx): save what is in it as CSV in UTF-8",
    ),
    (b"\xd0\xcf\x11\xe0", "is a workbook of Excel (.xls): save it as CSV in UTF-8"),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (b"SQLite format 3\0", "is a database of SQLite: write its rows as CSV (sqlite3 -header -csv)"),
    (b"PAR1", "is a Parquet file: write its rows as CSV"),
    (b"REDIS0", "is a dump of Redis: a server loads that at its start"),
    (b"%PDF-", "is a PDF: seed reads CSV"),
    (b"sep=", "begins with a line for Excel alone, sep=…; take it away"),
];

const UTF_16: &str = "is UTF-16: save it as UTF-8";
const JSON: &str = "is JSON: write its rows as CSV, for example with @csv of jq";
const MARKUP: &str = "is HTML or XML: seed reads CSV";

/// Returns what is wrong with a file that begins so and is no CSV, if that is known.
pub(super) fn problem(head: &[u8]) -> Option<&'static str> {
    if let Some((_, problem)) = SIGNS.iter().find(|(sign, _)| head.starts_with(sign)) {
        return Some(problem);
    }
    let text = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start();
    let is_json = |rest: &[u8]| {
        let next = rest.trim_ascii_start().first();
        next.is_some_and(|byte| b"{[\"]}".contains(byte))
    };
    match text {
        // A letter of ASCII in UTF-16 has a zero beside it.
        [0, other, ..] | [other, 0, ..] if *other != 0 => Some(UTF_16),
        [b'{' | b'[', rest @ ..] if is_json(rest) => Some(JSON),
        [b'<', b'!' | b'?' | b'h' | b'H', ..] => Some(MARKUP),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_kinds_are_told_from_csv() {
        for (head, expected) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip -dc"),
            (b"PK\x03\x04\x14\0", "Excel"),
            (b"\xff\xfei\0d\0", "UTF-16"),
            (b"i\0d\0,\0", "UTF-16"),
            (b"\0i\0d", "UTF-16"),
            (b"[\n  {\"id\": 1}]", "JSON"),
            (b"{\"id\": 1}\n{\"id\": 2}\n", "JSON"),
            (b"\xef\xbb\xbf[{\"id\":1}]", "JSON"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"<?xml version=\"1.0\"?>", "XML"),
            (b"sep=;\nid;name\n", "sep="),
        ] {
            let found = problem(head).unwrap_or_else(|| panic!("{}", head.escape_ascii()));
            assert!(found.contains(expected), "{}: {found}", head.escape_ascii());
        }
        for head in
            [&b""[..], b"id,name\n", b"\xef\xbb\xbfid", b"[id],name\n", b"{id},a\n", b"<id>,a\n"]
        {
            assert_eq!(problem(head), None, "{}", head.escape_ascii());
        }
    }
}
