//! What a verdict becomes for the user who sent the command. Every command passes here: on a shared connection and on
//! one of its own, in a transaction, and when it is judged again.

use super::Policy;
use super::users::User;
use super::verdict::{LocalCommand, Refused, Subscription, Verdict};
use crate::metrics::Refusal;
use crate::resp::Command;

/// Error for a client that has to log in, in Redis's own words.
const NOAUTH: &str = "NOAUTH Authentication required.";

/// Channels on which a server tells which keys change begin so.
const KEYSPACE: &[u8] = b"__key";

/// Characters with which the variable part of a pattern begins.
const WILDCARDS: &[u8] = b"*?[\\";

/// Error for channels that name keys. Redis has none.
const KEYSPACE_ERROR: &str = "NOPERM No permissions to access a channel: keyspace notifications name any key, and this \
    user may not read all keys. Subscribe to channels, or to patterns, that do not begin with __key";

/// Turns the verdict about a command into that for the user who sent it; nobody is a client that has to log in.
///
/// As in Redis, a command that does not exist or has a wrong number of arguments is refused first, then one of a client
/// that has to log in, then one that the user may not send, then one that nobody may.
pub(super) fn for_user(
    policy: &Policy,
    user: Option<&User>,
    command: &Command,
    verdict: Verdict,
) -> Verdict {
    match user {
        Some(user) if user.is_unrestricted() => verdict,
        _ if !is_of_users(&verdict) => verdict,
        None if is_before_login(&verdict) => verdict,
        None => refuse(command, Refusal::NotLoggedIn, NOAUTH.into()),
        Some(user) => match policy.permits(user, command) {
            Err(denied) => refuse(command, Refusal::NotPermitted, denied.error),
            Ok(()) if names_keys(user, command, &verdict) => {
                refuse(command, Refusal::NotPermitted, KEYSPACE_ERROR.into())
            }
            Ok(()) => verdict,
        },
    }
}

/// Whether a verdict depends on the user.
fn is_of_users(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Forward | Verdict::Local(_) => true,
        Verdict::Refuse(Refused { why, .. }) => {
            !matches!(why, Refusal::UnknownCommand | Refusal::BadRequest)
        }
        Verdict::Close => false,
    }
}

/// Whether a client may send this before it has logged in.
fn is_before_login(verdict: &Verdict) -> bool {
    use LocalCommand::{Auth, Hello, Quit, Reset};
    matches!(verdict, Verdict::Local(Auth | Hello | Quit | Reset))
}

/// Whether a subscription, or a list of channels, would tell a user of keys that it may not read.
fn names_keys(user: &User, command: &Command, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Local(LocalCommand::Subscribe(kind)) => {
            command.args().skip(1).any(|name| tells_keys(user, name, *kind))
        }
        // It lists the channels of all clients.
        _ if command.is(0, b"pubsub") && command.is(1, b"channels") => {
            tells_keys(user, command.arg(2).unwrap_or(b"*"), Subscription::Pattern)
        }
        _ => false,
    }
}

/// Whether what comes on a channel, or on those of a pattern, may name keys that the user may not read.
pub(crate) fn tells_keys(user: &User, name: &[u8], kind: Subscription) -> bool {
    if user.sees_all_keys() {
        return false;
    }
    let fixed = match kind {
        Subscription::Pattern => name.split(|byte| WILDCARDS.contains(byte)).next().unwrap_or(name),
        Subscription::Channel | Subscription::Shard => return name.starts_with(KEYSPACE),
    };
    fixed.starts_with(KEYSPACE) || KEYSPACE.starts_with(fixed) && fixed.len() < name.len()
}

fn refuse(command: &Command, why: Refusal, error: Vec<u8>) -> Verdict {
    // An EXEC that is refused ends its transaction even so.
    let error = match command.is(0, b"exec") {
        true => [b"EXECABORT Transaction discarded because of: ", &*error].concat(),
        false => error,
    };
    Verdict::Refuse(Refused::new(why, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::users::Users;
    use crate::policy::{Allowed, CommandTable};
    use crate::resp::{CommandParser, command};

    /// A part of what a Redis lists: GET, SET, KEYS.
    const TABLE: &[u8] = b"*3\r\n\
        *6\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n\
        *6\r\n$3\r\nset\r\n:-3\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n\
        *6\r\n$4\r\nkeys\r\n:2\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n";

    fn user(rules: &str) -> Arc<User> {
        let users = Users::from_entries(&[("u".to_owned(), rules.to_owned())]).expect(rules);
        Arc::clone(users.get(b"u").expect("the user"))
    }

    #[test]
    fn refusals_come_in_the_order_of_redis() {
        let table = Arc::new(CommandTable::parse(TABLE).expect("a table"));
        let policy = Policy::new(&[table], Allowed { keys: false, scripts: false });
        let (all, some) = (user("on nopass ~* &* +@all"), user("on nopass ~a* &* +get +exec"));
        let (nobody, some, all) = (None, Some(&*some), Some(&*all));
        for (user, words, expected) in [
            (nobody, "nosuch", "ERR unknown command"),
            (nobody, "get", "ERR wrong number"),
            (nobody, "get a", "NOAUTH "),
            (nobody, "set a 1", "NOAUTH "),
            (nobody, "ping", "NOAUTH "),
            (nobody, "exec", "EXECABORT Transaction discarded because of: NOAUTH "),
            (nobody, "auth x", "Local(Auth)"),
            (nobody, "hello", "Local(Hello)"),
            (nobody, "reset", "Local(Reset)"),
            (nobody, "quit", "Local(Quit)"),
            (nobody, "post", "Close"),
            (some, "nosuch", "ERR unknown command"),
            (some, "get a", "Forward"),
            (some, "get b", "NOPERM No permissions to access a key"),
            (some, "set a 1", "NOPERM User u has no permissions to run the 'set' command"),
            (some, "multi", "NOPERM User u has no permissions to run the 'multi' command"),
            (some, "exec", "Local(Exec)"),
            (all, "set a 1", "READONLY "),
            (all, "keys *", "ERR KEYS is not served"),
            (all, "get b", "Forward"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let bytes = command(words[0]).args(&words[1..]).into_bytes();
            let mut parser = CommandParser::new(usize::MAX);
            let parsed = parser.parse(&bytes).expect("valid").1.expect("whole");
            let shown = match policy.verdict_for(user, &parsed) {
                Verdict::Refuse(refused) => String::from_utf8(refused.error).expect("text"),
                verdict => format!("{verdict:?}"),
            };
            assert!(shown.starts_with(expected), "{words:?}: {shown}, not {expected}");
        }
    }

    #[test]
    fn channels_that_name_keys_are_for_users_who_may_read_all() {
        let (all, some) = (user("on nopass ~* &* +@all"), user("on nopass ~a:* &* +@all"));
        use Subscription::{Channel, Pattern, Shard};
        for (name, kind, tells) in [
            ("__keyspace@0__:a:1", Channel, true),
            ("__keyevent@0__:set", Shard, true),
            ("news", Channel, false),
            ("*", Channel, false),
            ("*", Pattern, true),
            ("__*", Pattern, true),
            ("__key*__:*", Pattern, true),
            ("__keyevent@0__:set", Pattern, true),
            ("\\__keyevent@0__:set", Pattern, true),
            ("[_]_key*", Pattern, true),
            ("?_key*", Pattern, true),
            ("__k", Pattern, false),
            ("news*", Pattern, false),
            ("__news*", Pattern, false),
        ] {
            assert_eq!(tells_keys(&some, name.as_bytes(), kind), tells, "{name} {kind:?}");
            assert!(!tells_keys(&all, name.as_bytes(), kind));
        }
    }
}
