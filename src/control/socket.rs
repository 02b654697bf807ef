//! The control socket: how it is made, who may use it, and its end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Config;
use crate::config::control::SocketOwner;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 16;

/// Rights of the socket: its owner alone may connect.
const OWNER_ONLY: u32 = 0o600;

/// Rights of a socket whose group was named: the members of that may connect, too.
const WITH_GROUP: u32 = 0o660;

/// Why there can be no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process listens there.
    #[error(
        "{0} is the control socket of another process that runs; choose another with --control"
    )]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} is no socket, and is left as it is; choose another path with --control")]
    NoSocket(PathBuf),
    /// It can't be made.
    #[error("can't make the control socket {path} (--control)")]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is no such user or group.
    #[error("there is no {kind} {name} (--control-owner)")]
    Unknown {
        /// User or group.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The owner can't be set.
    #[error(
        "can't give the control socket {path} to the owner of --control-owner, which takes root or the group's member"
    )]
    Owner {
        /// Where it should be.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// The socket of this process. It is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Its device and its number there: another process may have made another by then.
    file: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket that the configuration names, if it does. One that a dead process has left is replaced.
    ///
    /// It is bound under another name, gets its rights and its owner there, listens, and only then gets its name. So
    /// nobody can connect at any moment who may not.
    ///
    /// # Errors
    /// Another process listens there, something else than a socket is there, or the system refuses.
    pub fn open(config: &Config) -> Result<Option<Self>, ControlError> {
        let Some(path) = &config.control else { return Ok(None) };
        let failed = |source| ControlError::Io { path: path.clone(), source };
        let owner = config.control_owner.as_ref().map(resolve).transpose()?;
        let temporary = temporary(path);
        // Of a process with our number that has ended.
        remove_socket(&temporary);
        let made = make(&temporary, path, owner);
        let placed = made.and_then(|socket| {
            place(&temporary, path)?;
            Ok(socket)
        });
        if placed.is_err() {
            remove_socket(&temporary);
        }
        let socket = placed?;
        let file = fs::symlink_metadata(path).map_err(failed)?;
        let file = (file.dev(), file.ino());
        let listener = std::os::fd::OwnedFd::from(socket).into();
        Ok(Some(Self { listener, path: path.clone(), file }))
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // It is of no use to anybody, but does no harm either.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name under which the socket is made, in the folder where it will be.
fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!(".lb-{}", std::process::id()))
}

/// Removes a socket, if one is there, and nothing else.
fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        // Where it can't be removed, no other can be made.
        let _ = fs::remove_file(path);
    }
}

/// The numbers of a user and a group; none stays as it is.
type Owner = (Option<u32>, Option<u32>);

/// Returns the numbers of an owner, which may be written as numbers.
fn resolve(owner: &SocketOwner) -> Result<Owner, ControlError> {
    let unknown = |kind, name: &str| ControlError::Unknown { kind, name: name.to_owned() };
    let user = |name: &String| match name.parse() {
        Ok(number) => Ok(number),
        Err(_) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            _ => Err(unknown("user", name)),
        },
    };
    let group = |name: &String| match name.parse() {
        Ok(number) => Ok(number),
        Err(_) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            _ => Err(unknown("group", name)),
        },
    };
    Ok((owner.user.as_ref().map(user).transpose()?, owner.group.as_ref().map(group).transpose()?))
}

/// Makes a socket at `temporary` that listens, with the rights and the owner that it will have at `path`.
fn make(temporary: &Path, path: &Path, owner: Option<Owner>) -> Result<Socket, ControlError> {
    let failed = |source| ControlError::Io { path: path.to_owned(), source };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    let address = SockAddr::unix(temporary).map_err(failed)?;
    socket.bind(&address).map_err(failed)?;
    // Nobody can connect before it listens.
    let has_group = owner.is_some_and(|(_, group)| group.is_some());
    let mode = if has_group { WITH_GROUP } else { OWNER_ONLY };
    fs::set_permissions(temporary, fs::Permissions::from_mode(mode)).map_err(failed)?;
    if let Some((user, group)) = owner {
        let failed = |source| ControlError::Owner { path: path.to_owned(), source };
        lchown(temporary, user, group).map_err(failed)?;
    }
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket)
}

/// Gives the socket its name, where a dead process may have left another.
fn place(temporary: &Path, path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Unlike `rename`, it replaces nothing that has just come there.
            fs::hard_link(temporary, path).map_err(failed)?;
            fs::remove_file(temporary).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => Err(ControlError::NoSocket(path.to_owned())),
        Ok(_) if is_alive(path).map_err(failed)? => Err(ControlError::InUse(path.to_owned())),
        Ok(_) => fs::rename(temporary, path).map_err(failed),
    }
}

/// Returns whether a process listens on a socket.
fn is_alive(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Without a wait: it may be busy.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path, more: &[&str]) -> Config {
        let control = format!("--control={}", path.display());
        let arguments = ["lb", &control].into_iter().chain(more.iter().copied());
        Config::from_arguments(arguments).expect("right")
    }

    #[test]
    fn what_a_dead_process_has_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let config = config(&path, &[]);
        let open = || ControlSocket::open(&config).map(|socket| socket.expect("it is named"));
        let socket = open().expect("nothing is there");
        let mode = |path: &Path| fs::symlink_metadata(path).expect("a file").mode() & 0o7777;
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(open(), Err(ControlError::InUse(_))));
        // The end of the process without its cleaning up.
        let left = folder.path().join("left");
        fs::hard_link(&path, &left).expect("a link");
        drop(socket);
        assert!(!path.exists());
        fs::rename(&left, &path).expect("a file");
        let socket = open().expect("nobody listens");
        // Another has taken its place: that stays.
        fs::remove_file(&path).expect("a file");
        fs::write(&path, "precious").expect("a file");
        drop(socket);
        assert!(matches!(open(), Err(ControlError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
        let files: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[test]
    fn an_owner_is_a_name_or_a_number_and_a_group_may_use_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let own = format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid());
        let owner = format!("--control-owner={own}");
        let socket = ControlSocket::open(&config(&path, &[&owner])).expect("ours");
        let file = fs::symlink_metadata(&path).expect("a file");
        assert_eq!((file.mode() & 0o7777, format!("{}:{}", file.uid(), file.gid())), (0o660, own));
        drop(socket);
        for owner in ["--control-owner=no-such-user", "--control-owner=:no-such-group"] {
            let error = ControlSocket::open(&config(&path, &[owner])).expect_err(owner);
            assert!(error.to_string().contains("no-such-"), "{error}");
        }
    }
}
