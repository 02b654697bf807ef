//! The role that clients are told: by ROLE, HELLO and INFO alike, whatever the roles of the servers are.
//!
//! As a replica, `lb` names itself as its primary, by the address that the client has connected to. The servers'
//! addresses would lead clients around it. In INFO and ROLE a replica is a `slave`, in HELLO a `replica`, as in Redis.

use std::net::SocketAddr;

use super::replies::Answered;
use super::session::Session;
use crate::config::role::Role;
use crate::resp::write;

/// Line with which INFO's section begins.
const HEADER: &str = "# Replication\r\n";

/// End of that section's lines that both roles have.
const NO_REPLICATION: &str = "connected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
    master_replid:0000000000000000000000000000000000000000\r\n\
    master_replid2:0000000000000000000000000000000000000000\r\n\
    master_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\nrepl_backlog_size:0\r\n\
    repl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n";

impl Session<'_> {
    /// The address of ours that the client has connected to.
    fn own_address(&self) -> SocketAddr {
        self.state.local_address.unwrap_or_else(|| self.balancer.config().listen)
    }

    pub(super) fn role(&mut self) -> Answered {
        let (role, address) = (self.balancer.config().role, self.own_address());
        self.answer(|out| write_role(out, role, address));
        Ok(())
    }

    /// INFO of a server, with our role in the place of its own.
    pub(super) fn with_own_role(&self, info: &[u8]) -> Vec<u8> {
        with_replication(info, &replication(self.balancer.config().role, self.own_address()))
    }
}

fn write_role(out: &mut Vec<u8>, role: Role, address: SocketAddr) {
    match role {
        Role::Master => {
            write::array(out, 3);
            write::bulk(out, b"master");
            write::integer(out, 0);
            write::array(out, 0);
        }
        Role::Replica => {
            write::array(out, 5);
            write::bulk(out, b"slave");
            write::bulk(out, host(address).as_bytes());
            write::integer(out, address.port().into());
            write::bulk(out, b"connected");
            write::integer(out, 0);
        }
    }
}

fn host(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// The lines of INFO's section. As a replica, it is connected and never to be promoted.
fn replication(role: Role, address: SocketAddr) -> String {
    match role {
        Role::Master => format!("role:master\r\n{NO_REPLICATION}"),
        Role::Replica => format!(
            "role:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\nmaster_link_status:up\r\n\
             master_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:0\r\n\
             slave_repl_offset:0\r\nslave_priority:0\r\nslave_read_only:1\r\nreplica_announced:1\r\n\
             {NO_REPLICATION}",
            host(address),
            address.port()
        ),
    }
}

/// Puts these lines in the place of the section's, where INFO has it.
fn with_replication(info: &[u8], lines: &str) -> Vec<u8> {
    let begins = |at: &usize| {
        info[*at..].starts_with(HEADER.as_bytes()) && (*at == 0 || info[..*at].ends_with(b"\n"))
    };
    let Some(begin) = (0..info.len()).find(begins).map(|at| at + HEADER.len()) else {
        return info.to_vec();
    };
    // An empty line ends a section, or the end of all.
    let blank = info[begin..].windows(4).position(|window| window == b"\r\n\r\n");
    let end = blank.map_or(info.len(), |length| begin + length + 2);
    [&info[..begin], lines.as_bytes(), &info[end..]].concat()
}

/// A greeting with our role in the place of a server's.
pub(super) fn with_role(greeting: &[u8], role: Role) -> Vec<u8> {
    const BEFORE: &[u8] = b"$4\r\nrole\r\n";
    let shown = match role {
        Role::Master => b"master".as_slice(),
        Role::Replica => b"replica",
    };
    let found = greeting.windows(BEFORE.len()).position(|window| window == BEFORE);
    let Some(begin) = found.map(|at| at + BEFORE.len()) else { return greeting.to_vec() };
    // The length of the word, and the word.
    let lines = greeting[begin..].split_inclusive(|&byte| byte == b'\n').take(2);
    let end = begin + lines.map(<[u8]>::len).sum::<usize>();
    let mut with_role = greeting[..begin].to_vec();
    write::bulk(&mut with_role, shown);
    with_role.extend_from_slice(&greeting[end..]);
    with_role
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_role_is_shown_wherever_a_server_shows_its_own() {
        let lines = "role:master\r\nconnected_slaves:0\r\n";
        for (info, expected) in [
            ("# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\n", "# Replication\r\n{}"),
            (
                "# Stats\r\na:# Replication\r\n\r\n# Replication\r\nrole:slave\r\n\r\n# CPU\r\nb:1\r\n",
                "# Stats\r\na:# Replication\r\n\r\n# Replication\r\n{}\r\n# CPU\r\nb:1\r\n",
            ),
            ("# CPU\r\nb:1\r\n", "# CPU\r\nb:1\r\n"),
            ("", ""),
        ] {
            let found = String::from_utf8(with_replication(info.as_bytes(), lines)).expect("text");
            assert_eq!(found, expected.replace("{}", lines), "{info:?}");
        }
        let greeting = "%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
        let replica = greeting.replace("$6\r\nmaster", "$7\r\nreplica");
        assert_eq!(with_role(greeting.as_bytes(), Role::Replica), replica.as_bytes());
        assert_eq!(with_role(replica.as_bytes(), Role::Master), greeting.as_bytes());
        assert_eq!(with_role(b"-ERR no\r\n", Role::Master), b"-ERR no\r\n");
    }
}
