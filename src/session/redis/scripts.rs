//! SCRIPT LOAD and SCRIPT EXISTS. A script that a client has sent is known at every server: one that lacks it gets it
//! when it is met, or when a client asks for the script there.

use super::replies::Answered;
use super::session::Session;
use crate::health::BackendState;
use crate::resp::{Command, reply, write};

/// Start of the error that a server has for what is no script.
const NO_SCRIPT_AT_ALL: &[u8] = b"-ERR Error compiling script";

impl Session<'_> {
    /// The client's server says what it thinks of the script; the others get it as well.
    #[inline(never)]
    pub(super) fn script_load(&mut self, command: &Command) -> Answered {
        self.run_batch()?;
        let reply = self.short_exchange(command.bytes())?;
        if !reply.starts_with(b"-") {
            let asked = self.local_reply.served_by.as_ref().map(|(backend, _)| backend.id);
            for backend in self.balancer.backends().iter() {
                let is_up = backend.health.state() == BackendState::Up;
                if is_up && Some(backend.id) != asked {
                    // One that fails gets it when a client asks for it there.
                    let _ = backend.load_script(command.bytes());
                }
            }
        }
        if reply.starts_with(NO_SCRIPT_AT_ALL) {
            self.balancer.scripts.forget(command);
        }
        self.answer_raw(&reply);
        Ok(())
    }

    /// A script exists if the client's server has it, or can get it.
    #[inline(never)]
    pub(super) fn script_exists(&mut self, command: &Command) -> Answered {
        self.run_batch()?;
        let reply = self.short_exchange(command.bytes())?;
        let scripts = &self.balancer.scripts;
        let known = command.args().skip(2).map(|digest| scripts.knows(digest));
        let with_known = with_known(&reply, known);
        self.answer_raw(with_known.as_deref().unwrap_or(&reply));
        Ok(())
    }
}

/// A reply to SCRIPT EXISTS in which those exist that are known; `None` if it is no such reply.
fn with_known(mut reply: &[u8], known: impl ExactSizeIterator<Item = bool>) -> Option<Vec<u8>> {
    let mut changed = Vec::new();
    let count = reply::array(&mut reply).ok()?;
    if count != known.len() as u64 {
        return None;
    }
    write::array(&mut changed, known.len());
    for is_known in known {
        let there = reply::integer(&mut reply).ok()??;
        write::integer(&mut changed, there.max(is_known.into()));
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_exists() {
        let known = |reply: &[u8], known: &[bool]| with_known(reply, known.iter().copied());
        let reply = b"*3\r\n:0\r\n:1\r\n:0\r\n";
        let expected = b"*3\r\n:1\r\n:1\r\n:0\r\n".to_vec();
        assert_eq!(known(reply, &[true, false, false]), Some(expected));
        for other in [&b"-ERR no\r\n"[..], b"*2\r\n:0\r\n:0\r\n", b"*3\r\n:0\r\n+OK\r\n:0\r\n"] {
            assert_eq!(known(other, &[true, false, false]), None);
        }
    }
}
