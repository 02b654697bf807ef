//! Whether an error in reply to a script is the server's or one that the script has made up.

use super::errors::ForwardError;
use super::replies::short_reply_unchecked;
use crate::backend::{Inability, PooledConnection, inability, said};
use crate::resp::{self, CommandParser};

/// What stands in the place of a script that does nothing, by the command that calls it: a source, a
/// digest that no script has, a name that no function can have.
const NOTHING: [(&[u8], &[u8]); 3] = [
    (b"eval_ro", b"return 1"),
    (b"evalsha_ro", b"0000000000000000000000000000000000000000"),
    (b"fcall_ro", b"-"),
];

/// Answer of a server to a script that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// That it can't answer.
    Confirms,
    /// That it could have.
    Denies,
}

/// Asks the server of a script that has returned an error which claims an inability of the server,
/// whether that is so: by the command that has called the script, with its keys, for a script that does
/// nothing, and by a PING. Nothing else may be under way on the connection.
pub fn witness(
    connection: &mut PooledConnection,
    command: &[u8],
    claimed: Inability,
) -> Result<Witness, ForwardError> {
    connection.send(&questions(command))?;
    let mut is_so = false;
    for of_anything in [false, true] {
        let reply = short_reply_unchecked(connection)?;
        let said = said(&reply).and_then(|error| inability(&error));
        // Rights to PING say nothing of rights to call the script.
        is_so |= match of_anything {
            true => said.is_some_and(|said| said != Inability::Request),
            false => said == Some(claimed),
        };
    }
    Ok(if is_so { Witness::Confirms } else { Witness::Denies })
}

fn questions(called: &[u8]) -> Vec<u8> {
    let mut questions = Vec::new();
    // It was whole when it was sent.
    let mut parser = CommandParser::new(usize::MAX);
    if let Ok((_, Some(called))) = parser.parse(called) {
        let is_called = |(name, _): &&(&[u8], &[u8])| called.name().eq_ignore_ascii_case(name);
        let nothing = NOTHING.iter().find(is_called).map_or(&b"-"[..], |(_, nothing)| nothing);
        let count = called.arg(2).unwrap_or(b"0");
        let number = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
        let keys = called.args().skip(3).take(number.unwrap_or(0));
        let probe = resp::command(called.name()).arg(nothing).arg(count).args(keys);
        probe.append_to(&mut questions);
    }
    resp::command("PING").append_to(&mut questions);
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_does_nothing_has_the_keys_of_the_one_in_question() {
        let encoded = |words: &[&str]| resp::command(words[0]).args(&words[1..]).into_bytes();
        for (called, expected) in [
            (
                &["EVAL_RO", "return redis.error_reply('BUSY x')", "2", "a", "b", "c"][..],
                &["EVAL_RO", "return 1", "2", "a", "b"][..],
            ),
            (
                &["evalsha_ro", "0123", "0", "c"],
                &["evalsha_ro", "0000000000000000000000000000000000000000", "0"],
            ),
            (&["Fcall_RO", "f", "1", "a"], &["Fcall_RO", "-", "1", "a"]),
        ] {
            let expected = [encoded(expected), encoded(&["PING"])].concat();
            assert_eq!(questions(&encoded(called)), expected, "{called:?}");
        }
    }
}
