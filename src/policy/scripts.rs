//! Limits for the scripts that clients send: how long each may be, and how many different ones.
//!
//! A server keeps the source of every script that it got, before Redis 7.4 until it ends. Sources count
//! towards its `maxmemory`. Without a limit a client could fill that, and a server that evicts keys would then
//! lose all of them.

use std::collections::HashSet;
use std::sync::Mutex;

use super::verdict::{Refused, Verdict};
use crate::metrics::Refusal;
use crate::resp::Command;
use crate::sync::lock;

/// Limit of one script's source.
const MAX_SCRIPT_BYTES: usize = 64 * 1024;

/// Limit of different scripts since the start of the process.
const MAX_SCRIPTS: usize = 500;

/// Limit of all their sources together.
const MAX_ALL_SCRIPTS_BYTES: usize = 1024 * 1024;

/// All scripts that clients have sent since the start of the process. None is forgotten: the servers keep
/// them as well.
#[derive(Debug, Default)]
pub struct Scripts {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The sources themselves: digests could be made to collide.
    sources: HashSet<Box<[u8]>>,
    bytes: usize,
}

impl Scripts {
    /// Remembers a new script that the policy lets pass, or refuses it if it is too long or one too many.
    ///
    /// `EVALSHA_RO` and `FCALL_RO` are not concerned: they name a script that a server has already.
    pub fn admit(&self, command: &Command, verdict: Verdict) -> Verdict {
        if verdict != Verdict::Forward || !command.is(0, b"eval_ro") {
            return verdict;
        }
        match self.add(command.arg(1).unwrap_or_default()) {
            Ok(()) => verdict,
            Err(error) => Verdict::Refuse(Refused::new(Refusal::NotServed, error)),
        }
    }

    fn add(&self, source: &[u8]) -> Result<(), String> {
        if source.len() > MAX_SCRIPT_BYTES {
            return Err(format!(
                "ERR this script has {} bytes: at most {} KiB are served by redis-lb",
                source.len(),
                MAX_SCRIPT_BYTES / 1024
            ));
        }
        let mut known = lock(&self.known);
        if known.sources.contains(source) {
            return Ok(());
        }
        if known.sources.len() >= MAX_SCRIPTS || known.bytes + source.len() > MAX_ALL_SCRIPTS_BYTES
        {
            return Err(format!(
                "ERR too many different scripts: at most {MAX_SCRIPTS}, and {} KiB in all, are served \
                 by redis-lb from its start to its end. Send the parts that vary as KEYS and ARGV",
                MAX_ALL_SCRIPTS_BYTES / 1024
            ));
        }
        known.bytes += source.len();
        known.sources.insert(source.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{CommandBuilder, CommandParser};

    fn admit(scripts: &Scripts, args: &[&[u8]]) -> Result<(), String> {
        let bytes = args.iter().collect::<CommandBuilder>().into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        let command = parser.parse(&bytes).expect("valid").1.expect("whole");
        match scripts.admit(&command, Verdict::Forward) {
            Verdict::Forward => Ok(()),
            Verdict::Refuse(refused) => Err(String::from_utf8(refused.error).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_script_may_be_as_long_as_allowed() {
        let scripts = Scripts::default();
        let longest = vec![b'-'; MAX_SCRIPT_BYTES];
        assert_eq!(admit(&scripts, &[b"EVAL_RO", &longest, b"0"]), Ok(()));
        let longer = vec![b'-'; MAX_SCRIPT_BYTES + 1];
        let error = admit(&scripts, &[b"eval_ro", &longer, b"0"]).expect_err("too long");
        assert!(error.contains("65537 bytes: at most 64 KiB"), "{error}");
    }

    #[test]
    fn there_may_be_so_many_different_scripts_and_those_stay_known() {
        let scripts = Scripts::default();
        let run = |number: usize| admit(&scripts, &[b"EVAL_RO", number.to_string().as_bytes()]);
        (0..MAX_SCRIPTS).for_each(|number| assert_eq!(run(number), Ok(())));
        assert!(run(MAX_SCRIPTS).expect_err("one too many").contains("at most 500"));
        (0..MAX_SCRIPTS).for_each(|number| assert_eq!(run(number), Ok(())));
        for named in [&b"EVALSHA_RO"[..], b"FCALL_RO", b"GET"] {
            assert_eq!(admit(&scripts, &[named, b"new", b"0"]), Ok(()));
        }
    }

    #[test]
    fn all_scripts_together_may_be_so_long() {
        let scripts = Scripts::default();
        let run = |number: u8, length| admit(&scripts, &[b"EVAL_RO", &vec![number; length]]);
        for number in 0..15 {
            assert_eq!(run(number, MAX_SCRIPT_BYTES), Ok(()));
        }
        assert_eq!(run(15, MAX_SCRIPT_BYTES - 1), Ok(()));
        assert!(run(16, 2).expect_err("a byte too many").contains("1024 KiB in all"));
        assert_eq!(run(17, 1), Ok(()));
        assert!(run(18, 1).is_err());
        assert_eq!(run(15, MAX_SCRIPT_BYTES - 1), Ok(()), "it is known");
    }

    #[test]
    fn what_does_not_pass_anyway_is_not_taken_note_of() {
        let scripts = Scripts::default();
        let mut parser = CommandParser::new(1024);
        let bytes = b"*2\r\n$7\r\nEVAL_RO\r\n$1\r\ns\r\n";
        let command = parser.parse(bytes).expect("valid").1.expect("whole");
        assert_eq!(scripts.admit(&command, Verdict::Close), Verdict::Close);
        assert!(lock(&scripts.known).sources.is_empty());
    }
}
