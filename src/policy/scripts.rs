//! The scripts that clients send: the forms in which they go to servers, how long each may be, how many different ones
//! there may be, and the store of their sources.
//!
//! A server keeps the source of every script that it got, before Redis 7.4 until it ends. Sources count
//! towards its `maxmemory`. Without a limit a client could fill that, and a server that evicts keys would then
//! lose all of them. From the store each server gets the scripts that it lacks.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use sha1::{Digest as _, Sha1};

use super::verdict::{LocalCommand, Refused, Verdict};
use crate::metrics::Refusal;
use crate::resp::{Command, CommandParser, write};
use crate::sync::lock;

/// Commands that run a script or a function, and the forms in which they are sent: a server lets those only read.
pub(super) const READ_ONLY_FORMS: [(&str, &str); 3] =
    [("eval", "eval_ro"), ("evalsha", "evalsha_ro"), ("fcall", "fcall_ro")];

/// Limit of one script's source.
const MAX_SCRIPT_BYTES: usize = 64 * 1024;

/// Limit of different scripts since the start of the process.
const MAX_SCRIPTS: usize = 500;

/// Limit of all their sources together.
const MAX_ALL_SCRIPTS_BYTES: usize = 1024 * 1024;

/// Digest by which servers know a script.
type Digest = [u8; 20];

/// All scripts that clients have sent since the start of the process. None is forgotten: the servers keep
/// them as well.
#[derive(Debug, Default)]
pub struct Scripts {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By their digests, as servers keep them: of two scripts with one digest, a server knows the first.
    sources: HashMap<Digest, Arc<[u8]>>,
    bytes: usize,
}

impl Scripts {
    /// Remembers a new script that the policy lets pass, or refuses it if it is too long or one too many.
    ///
    /// `EVALSHA` and `FCALL` are not concerned: they name a script that a server has already.
    pub fn admit(&self, command: &Command, verdict: Verdict) -> Verdict {
        let passes = matches!(verdict, Verdict::Forward | Verdict::Local(LocalCommand::ScriptLoad));
        let Some(source) = source(command).filter(|_| passes) else { return verdict };
        match self.add(source) {
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
        let digest = Sha1::digest(source).into();
        let mut known = lock(&self.known);
        if known.sources.contains_key(&digest) {
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
        known.sources.insert(digest, source.into());
        Ok(())
    }

    /// Forgets what a command has sent as a script, and no server takes.
    pub fn forget(&self, command: &Command) {
        let Some(source) = source(command) else { return };
        let digest: Digest = Sha1::digest(source).into();
        let mut known = lock(&self.known);
        if known.sources.remove(&digest).is_some() {
            known.bytes -= source.len();
        }
    }

    /// Returns whether a client has sent the script with this digest, which is given as text.
    pub fn knows(&self, digest: &[u8]) -> bool {
        self.source(digest).is_some()
    }

    fn source(&self, digest: &[u8]) -> Option<Arc<[u8]>> {
        lock(&self.known).sources.get(&parse_digest(digest)?).cloned()
    }

    /// Returns all sources.
    pub fn sources(&self) -> Vec<Arc<[u8]>> {
        lock(&self.known).sources.values().cloned().collect()
    }

    /// Returns a whole `EVALSHA` as the `EVAL_RO` that brings the source along; `None` if that is not known, or if it
    /// is another command.
    pub fn whole(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        parse(bytes, |command| self.with_source(command)).flatten()
    }

    fn with_source(&self, command: &Command) -> Option<Vec<u8>> {
        if !is_by_digest(command) {
            return None;
        }
        let source = self.source(command.arg(1)?)?;
        Some(changed(command, &[b"EVAL_RO", &source]))
    }

    /// Returns the commands of a transaction as they are sent: scripts in the forms that only read. Nobody can send a
    /// script again after its error within EXEC's reply, so the first `EVALSHA` of each script whose source is known
    /// brings it along. Digests of those are added to `brought`.
    pub fn as_sent(&self, commands: &[u8], brought: &mut HashSet<Vec<u8>>) -> Vec<u8> {
        let mut sent = Vec::with_capacity(commands.len());
        let mut parser = CommandParser::new(usize::MAX);
        let mut rest = commands;
        while let Ok((length, Some(command))) = parser.parse(rest) {
            let digest = || command.arg(1).unwrap_or_default().to_ascii_lowercase();
            let is_first = is_by_digest(&command) && brought.insert(digest());
            let whole = if is_first { self.with_source(&command) } else { None };
            match whole.or_else(|| read_only_form(&command)) {
                Some(form) => sent.extend_from_slice(&form),
                None => sent.extend_from_slice(command.bytes()),
            }
            rest = &rest[length..];
        }
        sent
    }
}

/// Returns one whole command as it is sent: a script in the form that only reads.
pub(crate) fn as_read_only(bytes: &[u8]) -> Cow<'_, [u8]> {
    parse(bytes, read_only_form).flatten().map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// Whether a whole command names a script by its digest.
pub(crate) fn names_digest(bytes: &[u8]) -> bool {
    parse(bytes, is_by_digest).unwrap_or(false)
}

/// Runs a function with the command that stands at the beginning of these bytes.
fn parse<T>(bytes: &[u8], work: impl FnOnce(&Command) -> T) -> Option<T> {
    let mut parser = CommandParser::new(usize::MAX);
    let (_, command) = parser.parse(bytes).ok()?;
    command.map(|command| work(&command))
}

fn read_only_form(command: &Command) -> Option<Vec<u8>> {
    let is_it = |(name, _): &&(&str, &str)| command.is(0, name.as_bytes());
    let (_, read_only) = READ_ONLY_FORMS.iter().find(is_it)?;
    Some(changed(command, &[read_only.as_bytes()]))
}

fn is_by_digest(command: &Command) -> bool {
    command.is(0, b"evalsha") || command.is(0, b"evalsha_ro")
}

/// The command with other arguments in the place of the first.
fn changed(command: &Command, first: &[&[u8]]) -> Vec<u8> {
    let (count, changed) = (command.arg_count(), first.len());
    let mut bytes = Vec::with_capacity(command.bytes().len() + 64);
    write::array(&mut bytes, count);
    first.iter().for_each(|arg| write::bulk(&mut bytes, arg));
    if changed < count {
        bytes.extend_from_slice(command.encoded_args(changed, count - 1));
    }
    bytes
}

/// The source that a command brings along.
fn source<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    match command.name() {
        name if name.eq_ignore_ascii_case(b"eval") || name.eq_ignore_ascii_case(b"eval_ro") => {
            command.arg(1)
        }
        name if name.eq_ignore_ascii_case(b"script") && command.is(1, b"load") => command.arg(2),
        _ => None,
    }
}

/// Parses a digest as Redis does: forty digits, in upper or lower case.
fn parse_digest(text: &[u8]) -> Option<Digest> {
    let mut digest = Digest::default();
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(digest)
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
        for named in [&b"EVALSHA_RO"[..], b"EVALSHA", b"FCALL_RO", b"FCALL", b"GET"] {
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

    fn encoded(words: &str) -> Vec<u8> {
        words.split(' ').collect::<CommandBuilder>().into_bytes()
    }

    /// The digest of `return 1`.
    const ONE: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn scripts_are_sent_in_the_forms_that_only_read() {
        for (words, sent) in [
            ("EVAL s 1 k a", "eval_ro s 1 k a"),
            ("EvalSha d 0", "evalsha_ro d 0"),
            ("fcall f 0 a", "fcall_ro f 0 a"),
            ("EVAL_RO s 0", "EVAL_RO s 0"),
            ("evalsha_ro d 0", "evalsha_ro d 0"),
            ("GET eval", "GET eval"),
            ("eval", "eval_ro"),
        ] {
            assert_eq!(*as_read_only(&encoded(words)), *encoded(sent), "{words}");
        }
    }

    #[test]
    fn a_script_is_known_by_its_digest_however_it_came() {
        for command in [&[&b"EVAL"[..], b"return 1", b"0"][..], &[b"script", b"LOAD", b"return 1"]]
        {
            let scripts = Scripts::default();
            assert!(!scripts.knows(ONE.as_bytes()));
            assert_eq!(admit(&scripts, command), Ok(()));
            assert!(scripts.knows(ONE.as_bytes()) && scripts.knows(ONE.to_uppercase().as_bytes()));
            for other in [&ONE[..39], "", &ONE.replace('e', "g"), &format!("{ONE}00")] {
                assert!(!scripts.knows(other.as_bytes()), "{other}");
            }
            let whole = |words: &str| scripts.whole(&encoded(words));
            let expected: CommandBuilder = ["EVAL_RO", "return 1", "1", "k"].iter().collect();
            let expected = Some(expected.into_bytes());
            for name in ["evalsha", "EVALSHA_RO"] {
                assert_eq!(whole(&format!("{name} {ONE} 1 k")), expected);
            }
            assert_eq!(whole(&format!("FCALL {ONE} 0")), None);
            assert_eq!(scripts.sources(), [Arc::from(&b"return 1"[..])]);
        }
    }

    #[test]
    fn a_transaction_brings_each_source_along_once() {
        let scripts = Scripts::default();
        assert_eq!(admit(&scripts, &[b"EVAL", b"return 1", b"0"]), Ok(()));
        let (other, mut brought) = ("0".repeat(40), HashSet::new());
        let queued = [
            encoded("MULTI"),
            encoded(&format!("EVALSHA {ONE} 0")),
            encoded(&format!("evalsha_ro {} 0", ONE.to_uppercase())),
            encoded(&format!("EVALSHA {other} 0")),
            encoded("GET a"),
        ];
        let whole: CommandBuilder = ["EVAL_RO", "return 1", "0"].iter().collect();
        let expected = [
            encoded("MULTI"),
            whole.into_bytes(),
            encoded(&format!("evalsha_ro {} 0", ONE.to_uppercase())),
            encoded(&format!("evalsha_ro {other} 0")),
            encoded("GET a"),
        ];
        assert_eq!(scripts.as_sent(&queued.concat(), &mut brought), expected.concat());
        // In a later piece of it, too.
        let later = scripts.as_sent(&encoded(&format!("EVALSHA {ONE} 0")), &mut brought);
        assert_eq!(later, encoded(&format!("evalsha_ro {ONE} 0")));
    }
}
