//! Patterns for `SCAN MATCH`.

/// Returns the pattern that finds what is searched for.
pub(super) fn search_glob(search: &[u8]) -> Vec<u8> {
    match search.iter().any(|byte| b"*?[".contains(byte)) {
        true => search.to_vec(),
        false => [escape_glob(search), b"*".to_vec()].concat(),
    }
}

/// Escapes the characters that `MATCH` takes for wildcards.
pub(super) fn escape_glob(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if b"*?[]\\^-".contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}
