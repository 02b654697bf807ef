//! The texts of errors, where possible in Redis's own bytes.

use super::rules;
use super::verdict::Refused;
use crate::metrics::Refusal;
use crate::resp::Command;

/// Redis quotes at most so much of an unknown command's name, and of its arguments together.
const MAX_QUOTED_BYTES: usize = 128;

pub(super) fn unknown_command(command: &Command) -> Vec<u8> {
    let mut args = Vec::new();
    for arg in command.args().skip(1) {
        let left = MAX_QUOTED_BYTES.saturating_sub(args.len());
        if left == 0 {
            break;
        }
        args.extend_from_slice(&[b"'", c_string(arg, left), b"' "].concat());
    }
    let name = c_string(command.name(), MAX_QUOTED_BYTES);
    one_line([b"ERR unknown command '", name, b"', with args beginning with: ", &args].concat())
}

pub(super) fn unknown_subcommand(container: &[u8], name: &[u8]) -> Vec<u8> {
    let name = c_string(name, MAX_QUOTED_BYTES);
    let container = container.to_ascii_uppercase();
    one_line([b"ERR unknown subcommand '", name, b"'. Try ", &container, b" HELP."].concat())
}

pub(super) fn not_in_transaction(command: &Command) -> Refused {
    let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
    let error = format!(
        "ERR {name} is not served inside MULTI by redis-lb: send it before MULTI or after EXEC"
    );
    Refused::new(Refusal::NotServed, error)
}

pub(super) fn not_served(shown: &str, why: &str) -> Refused {
    Refused::new(Refusal::NotServed, format!("ERR {shown} is not served by redis-lb: {why}"))
}

/// While no backend has answered `COMMAND`.
pub(super) fn no_table() -> Refused {
    Refused::new(Refusal::Unanswered, rules::NO_TABLE)
}

/// Cuts text as C's `%.*s` does: at most `max` bytes, up to a NUL.
pub(super) fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    bytes.iter().position(|&byte| byte == 0).map_or(bytes, |end| &bytes[..end])
}

/// Replaces line breaks: an error is one line of the protocol.
pub(super) fn one_line(mut text: Vec<u8>) -> Vec<u8> {
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    text
}
