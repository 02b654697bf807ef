//! The control socket's flags, and the command line of `lb ctl`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

/// Longest path of the control socket, in bytes. A Unix socket's has 107 at most (sun_path in unix(7)); a socket is made
/// under another name in its folder first, which may be longer by some bytes.
const MAX_PATH_BYTES: usize = 90;

const EXAMPLES: &str = "\
Examples:
  lb ctl --control /run/redis-lb/control status
      the backends of a balancer that runs with --control /run/redis-lb/control
  lb ctl drain 10.0.0.2:6379
      before maintenance of a server; LB_CONTROL, or the file of --config, names the socket
  lb ctl --json clients
      the clients, as JSON
  echo redis://reader:secret@10.0.0.4:6379 | lb ctl add -
      adds a backend whose password is not to be seen in the list of processes

BACKEND is written as the status shows it: HOST:PORT, or the path of its socket.

Exit code: 0 if it is done, 1 if it was refused or failed, 2 if the command line is wrong.";

/// Who owns the control socket: names or numbers, as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user; `None` if it is lb's own.
    pub user: Option<String>,
    /// The group whose members may use the socket.
    pub group: Option<String>,
}

impl FromStr for SocketOwner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let owner = Self { user: part(user), group: part(group) };
        let is_wrong = group.contains(':') || text.ends_with(':') || text.contains(' ');
        match is_wrong || (owner.user.is_none() && owner.group.is_none()) {
            true => Err("write USER, USER:GROUP or :GROUP, by names or numbers".to_owned()),
            false => Ok(owner),
        }
    }
}

/// Parses the path of the control socket.
pub(super) fn control_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("write the path of a socket".to_owned()),
        text if text.len() > MAX_PATH_BYTES => {
            Err(format!("the path of a socket has at most {MAX_PATH_BYTES} bytes"))
        }
        text if text.ends_with('/') => Err("write the path of a socket, not a folder".to_owned()),
        text => Ok(text.into()),
    }
}

/// What is asked of a balancer that runs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CtlArgs {
    /// The socket of that balancer [default: LB_CONTROL, or `control` in the file]
    #[arg(long, value_name = "PATH", value_parser = control_path, global = true)]
    pub(super) control: Option<PathBuf>,

    /// Prints the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// The wish.
    #[command(subcommand)]
    pub action: CtlAction,
}

/// A wish for a balancer that runs.
#[derive(Debug, Subcommand)]
pub enum CtlAction {
    /// Shows the backends and what was set at run time
    Status,
    /// Sends no new clients to a backend and moves its sessions to others; it is still checked
    Drain {
        /// The backend's name, as status shows it
        backend: String,
    },
    /// Takes a backend out of service: it is neither read from nor checked
    Maint {
        /// The backend's name, as status shows it
        backend: String,
    },
    /// Ends what was set of a backend at run time: drain, maint, weight, remove
    Ready {
        /// The backend's name, as status shows it
        backend: String,
    },
    /// Sets the weight of a backend
    Weight {
        /// The backend's name, as status shows it
        backend: String,
        /// From 0 to 256; with 0 it is checked and not read from
        #[arg(value_parser = super::backend::weight)]
        weight: u16,
    },
    /// Adds a backend
    Add {
        /// As for --backend; - reads it from standard input
        url: String,
    },
    /// Removes a backend, whose sessions move to others
    Remove {
        /// The backend's name, as status shows it
        backend: String,
    },
    /// Reads the configuration file again
    Reload,
    /// Sets the level of the log
    Log {
        /// The least severe level that is logged; `default` is the configured one
        #[arg(value_parser = ["error", "warn", "info", "debug", "default"])]
        level: String,
    },
    /// Lists the clients: since when, at which backend, doing what
    Clients {
        /// Most clients that are listed, the oldest first
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        limit: usize,
    },
    /// Closes the connection of a client
    Kill {
        /// The client's number in the list, or its address
        client: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for (text, expected) in [
            ("root", Some((Some("root"), None))),
            ("0:12", Some((Some("0"), Some("12")))),
            (":ops", Some((None, Some("ops")))),
            ("", None),
            (":", None),
            ("root:", None),
            ("a:b:c", None),
            ("a b", None),
        ] {
            let owner = text.parse::<SocketOwner>().ok();
            let parts = owner.as_ref().map(|owner| (owner.user.as_deref(), owner.group.as_deref()));
            assert_eq!(parts, expected, "{text}");
        }
    }

    #[test]
    fn the_path_of_a_socket_is_short_and_no_folder() {
        for (text, is_right) in [
            ("/run/lb", true),
            ("lb", true),
            ("", false),
            ("/run/", false),
            (&"x".repeat(91), false),
        ] {
            assert_eq!(control_path(text).is_ok(), is_right, "{text}");
        }
    }
}
