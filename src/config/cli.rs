//! Errors of both command lines.

use std::io::Write;

/// Returns `text` without the user and password of any URL in it, for errors that repeat what was
/// typed.
pub fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        let end = url.find([' ', '\'', '"', '\n']).unwrap_or(url.len());
        redacted += before;
        // The last @, because one in a password may not be encoded.
        let login = url[..end].rfind('@').unwrap_or(0);
        redacted += if login > 0 { "…" } else { "" };
        rest = &url[login..];
    }
    redacted + rest
}

/// Ends the process with help or an error, as `clap` would, but shows no password that was typed in
/// the wrong place.
pub fn exit_with(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    // Standard error may be closed.
    let _ = write!(std::io::stderr(), "{}", redact(&error.to_string()));
    std::process::exit(error.exit_code());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_repeated_has_no_login() {
        for (text, redacted) in [
            ("unexpected 'redis://u:hunter2@h:1' found", "unexpected 'redis://…@h:1' found"),
            ("a://u:p@q@h b://h/@ c://:p@h", "a://…@h b://…@ c://…@h"),
            ("no URL, but a@b", "no URL, but a@b"),
        ] {
            assert_eq!(redact(text), redacted);
        }
    }
}
