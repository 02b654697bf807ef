//! The configuration of `lb`: flags go before the environment, that before the file, and that before the defaults.

pub mod address;
mod address_query;
pub mod backend;
pub mod backend_tls;
mod commands;
pub mod control;
mod effective;
pub mod environment;
mod file;
mod file_backends;
mod file_users;
mod flags;
mod foreign_flags;
pub mod hints;
mod http;
mod keys;
mod listen;
mod live;
mod mistyped;
mod no_effect;
pub mod rewrite;
pub mod role;
mod show;
pub mod source;
mod text_file;
mod tls;
pub mod top;
pub mod users;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use log::LevelFilter;

use self::address::BackendAddress;
use self::backend::BackendConfig;
use self::backend_tls::{CredentialStore, MissingFile, TlsFiles, TlsSettings};
use self::commands::CommandArgs;
pub use self::commands::Task;
use self::control::CtlArgs;
pub use self::effective::Overridden;
use self::effective::{Given, Setting, Source};
use self::file::ConfigFile;
pub use self::file::FileErrors;
use self::file_backends::BackendOrigin;
use self::file_users::FileUser;
pub use self::flags::{Flags, MAX_NAMESERVERS};
use self::keys::{BACKEND, Keys, REQUIRE_PASSWORD};
pub use self::live::LiveConfig;
use self::source::{BackendEntry, SourceConfig};
use self::top::TopArgs;
use self::users::{UserSources, UsersConfig};
pub use self::values::{NAMESERVER_PORT, OnGap};
use crate::logging;
use crate::net::backend_stream::BackendTls;
use crate::net::tls::TlsError;
use crate::net::tls::listener::ListenerTls;

/// The commands that need of the file at most where the control socket is: they work while the rest of the file is
/// wrong, and for users who may not read its passwords.
const WITHOUT_FILE: [&str; 4] = ["ctl", "top", "completions", "man"];

/// The key of the log's level.
const LOG_LEVEL: &str = "log-level";

/// Most patterns of keys that the near cache does not keep: each is tried for a key before that is kept.
const MAX_CACHE_PATTERNS: usize = 64;

/// Warning about a password that was typed.
const VISIBLE_PASSWORD: &str = "--require-password shows the password to all users of this machine: write it to a \
    file for --require-password-file, or set LB_REQUIRE_PASSWORD";

/// Error in what configures `lb`, or the answer to a wish for help.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line or the environment is wrong, or asks for help or the version.
    #[error("{0}")]
    Flags(#[from] clap::Error),
    /// The file is wrong.
    #[error("{0}")]
    File(#[from] FileErrors),
}

impl ConfigError {
    /// Returns the lines of the error: one for each mistake in a file.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Flags(error) => vec![redact(error.to_string().trim_end())],
            Self::File(errors) => errors.lines(),
        }
    }
}

/// What a replica may lack to be read from while others are up; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LagBounds {
    /// Longest time since it has heard from its primary, and greatest age of its data.
    pub time: Option<Duration>,
    /// Most bytes of its primary's writes that it lacks.
    pub bytes: Option<u64>,
}

/// Configuration of `lb`, checked. It derefs to its [`Flags`], as far as these need no more than what `clap`
/// checks.
#[derive(Debug)]
pub struct Config {
    /// What the process is to do.
    pub task: Task,
    /// Address where clients connect. Its port may be 0 until the listener has bound it.
    pub listen: SocketAddr,
    /// Address of the paths below `/-/`, if they are not served where clients connect.
    pub admin_listen: Option<SocketAddr>,
    /// The servers and the sources of servers: at least one, and none twice.
    pub backends: Vec<BackendEntry>,
    /// Host names that are served on loopback besides the local ones, as
    /// [`host_name`](crate::http::host_name) returns them.
    pub allow_hosts: Vec<String>,
    /// The users who may log in.
    pub users: UsersConfig,
    /// What was read from the files for TLS with backends.
    pub credentials: CredentialStore,
    /// The files and the name for all backends with which TLS is spoken.
    backends_tls: TlsSettings,
    /// TLS towards clients, once [`read_certificates`](Self::read_certificates) has read it.
    pub listener_tls: Option<Arc<ListenerTls>>,
    /// What is asked of another process.
    pub ctl: Option<CtlArgs>,
    /// Which other process is watched.
    pub top: Option<TopArgs>,
    /// Where the man pages are written.
    pub man_folder: Option<PathBuf>,
    flags: Flags,
    /// The command line, to read the configuration again.
    arguments: Vec<OsString>,
    /// The users of the file.
    file_users: Vec<FileUser>,
    /// All values but the backends.
    settings: Vec<Setting>,
    backend_source: Source,
    /// Where each backend is written; empty if they are not from the file.
    backend_origins: Vec<BackendOrigin>,
    overridden: Vec<Overridden>,
    warnings: Vec<String>,
}

impl Deref for Config {
    type Target = Flags;

    fn deref(&self) -> &Flags {
        &self.flags
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Flags {
        &mut self.flags
    }
}

impl Config {
    /// Returns the address of the status page; `None` if it is turned off.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.admin_listen.or((!self.no_status).then_some(self.listen))
    }

    /// Returns the servers that it names.
    pub fn servers(&self) -> impl Iterator<Item = &BackendConfig> {
        self.backends.iter().filter_map(|entry| match entry {
            BackendEntry::Server(backend) => Some(&**backend),
            BackendEntry::Source(_) => None,
        })
    }

    /// Returns the sources of servers that it names.
    pub fn sources(&self) -> impl Iterator<Item = &SourceConfig> {
        self.backends.iter().filter_map(|entry| match entry {
            BackendEntry::Server(_) => None,
            BackendEntry::Source(source) => Some(&**source),
        })
    }

    /// Returns whether there are files to read again: its own, users, or certificates.
    pub fn has_files(&self) -> bool {
        let files = [&self.config_file, &self.users_file, &self.require_password_file];
        let has_client_files = self.tls.tls_cert.is_some();
        files.iter().any(|file| file.is_some()) || has_client_files || self.credentials.has_files()
    }

    /// Returns what a replica may lack to be read from while others are up.
    pub fn lag_bounds(&self) -> LagBounds {
        LagBounds {
            time: Some(self.max_lag).filter(|time| !time.is_zero()),
            bytes: Some(self.max_lag_bytes).filter(|bytes| *bytes > 0),
        }
    }

    /// Returns the longest argument of a Redis command, in bytes.
    pub fn max_argument_bytes(&self) -> usize {
        self.max_argument_mib as usize * 1024 * 1024
    }

    /// Adds to a backend that is not in this configuration what counts for TLS with all backends.
    ///
    /// # Errors
    /// A file can't be used.
    pub fn complete(&self, backend: &mut BackendConfig) -> Result<(), String> {
        let Some(tls) = backend.address.tls_mut() else { return Ok(()) };
        let loaded = tls.load(&self.backends_tls, &mut self.credentials.clone());
        loaded.map_err(|error| error.with_flag())
    }

    /// Returns how TLS is spoken with this address, if it is, by the files as they were read last.
    ///
    /// # Errors
    /// They were never read, or there is no name that the certificate could have.
    pub fn tls_with(&self, address: &BackendAddress) -> Result<Option<BackendTls>, TlsError> {
        let Some(tls) = address.tls() else { return Ok(None) };
        let never = || TlsError::Protocol("the certificates for it were not read".to_owned());
        let credentials = tls.credentials(&self.credentials).ok_or_else(never)?;
        let config = Arc::clone(&credentials.config);
        let server_name = match &tls.server_name {
            Some(name) => name.clone(),
            None => backend_tls::server_name(address.host()).map_err(TlsError::Protocol)?,
        };
        Ok(Some(BackendTls { config, server_name }))
    }

    /// Returns the level of the log, if one was chosen.
    pub fn chosen_log_level(&self) -> Option<LevelFilter> {
        let setting = self.settings.iter().find(|setting| setting.key == LOG_LEVEL)?;
        (setting.source != Source::Default).then_some(self.log_level)
    }

    /// Returns the keys of the file that flags and environment variables override.
    pub fn overridden_keys(&self) -> &[Overridden] {
        &self.overridden
    }

    /// Returns warnings about the files that were read: those with a password that every user can read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads the command line, the environment and the file. Ends the process if these ask for help or
    /// the version, or with exit code 2 if they are wrong. Prints warnings, unless the log will have them.
    pub fn from_command_line() -> Self {
        let config =
            Self::from_arguments(std::env::args_os()).unwrap_or_else(|error| match error {
                ConfigError::Flags(error) => exit_with(&error),
                ConfigError::File(errors) => {
                    logging::write_error(&errors.to_string());
                    std::process::exit(2)
                }
            });
        for warning in config.warnings.iter().filter(|_| config.task != Task::Serve) {
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
        config
    }

    /// Reads the file again, with the command line and the environment of the start. This configuration stays as it is.
    ///
    /// # Errors
    /// The file is wrong.
    pub fn reread(&self) -> Result<Self, ConfigError> {
        Self::from_arguments(&self.arguments)
    }

    /// Reads these arguments, of which the first is the program's name, the environment, and the file that they name.
    ///
    /// # Errors
    /// One of them is wrong, or asks for help or the version.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item: Into<OsString>>,
    ) -> Result<Self, ConfigError> {
        let arguments = hints::with_help(arguments.into_iter().map(Into::into).collect());
        if !arguments.iter().any(|word| WITHOUT_FILE.iter().any(|command| word == command)) {
            environment::check(&mut Flags::command(), &arguments)?;
        }
        let matches = Flags::matches(&arguments)?;
        let keys = Keys::new();
        let given = Given::new(&matches, &keys);
        let path = matches.get_one::<PathBuf>("config_file");
        let needs_file =
            !matches.subcommand_name().is_some_and(|name| WITHOUT_FILE.contains(&name));
        let file = path.filter(|_| needs_file).map(|path| ConfigFile::read(path)).transpose()?;
        let from_file = file.as_ref().map(|file| given.arguments_of(file)).unwrap_or_default();
        // Before the others, because what comes after `check` belongs to that.
        let (program, typed) = arguments.split_at(arguments.len().min(1));
        let effective = Flags::matches(&[program, &from_file, typed].concat())?;
        let mut config = Self::checked(Flags::from_matches(&effective)?, file.as_ref(), &given)
            .and_then(|config| config.without_itself())
            .map_err(|reason| given.blame(reason, file.as_ref()))?;
        if !needs_file && config.control.is_none() {
            config.control = path.map(|path| ConfigFile::control(path)).transpose()?.flatten();
        }
        config.settings = given.settings(&effective, file.as_ref());
        if matches!(config.task, Task::Serve | Task::Check) {
            config.warnings.extend(no_effect::warnings(&config, &keys));
        }
        if needs_file {
            config.warnings.extend(environment::unknown(&Flags::command()));
        }
        if given.source(REQUIRE_PASSWORD) == Source::Flag {
            config.warnings.push(VISIBLE_PASSWORD.to_owned());
        }
        if let Some(file) = file {
            config.overridden = given.overridden(&file);
            config.warnings.splice(0..0, file.warnings);
        }
        config.arguments = arguments;
        Ok(config)
    }

    /// Refuses addresses at which it would meet itself. The address of a socket that was passed on is not known yet.
    fn without_itself(self) -> Result<Self, String> {
        match self.task == Task::Serve && std::env::var_os("LISTEN_FDS").is_none() {
            true => self.check_addresses().map(|()| self),
            false => Ok(self),
        }
    }

    /// Checks that `lb` would not meet itself at the address of its paths below `/-/`, or of a backend.
    ///
    /// # Errors
    /// It would.
    pub fn check_addresses(&self) -> Result<(), String> {
        listen::check_admin(self).and_then(|()| listen::check_own(self))
    }

    fn checked(mut flags: Flags, file: Option<&ConfigFile>, given: &Given) -> Result<Self, String> {
        check_together(&flags)?;
        let (task, CommandArgs { ctl, top, man_folder }) =
            commands::taken_apart(flags.command.take());
        let mut warnings = Vec::new();
        // The others log nobody in, and may be run by users who may not read passwords.
        let users = match task {
            Task::Serve | Task::Check | Task::Show => {
                user_sources(&flags, file).read(&mut warnings)?
            }
            _ => UsersConfig::default(),
        };
        let admin_listen = flags.admin_listen.as_ref();
        let backend_source = given.source_with(BACKEND, file);
        let in_file = file.and_then(|file| file.backends.as_ref());
        let (mut backends, backend_origins) = match (&backend_source, in_file) {
            (Source::File(_), Some(backends)) => backends.parts(),
            _ => {
                let backends = source::parse_entries(&flags.backends);
                (backends.map_err(|error| format!("--backend: {error}"))?, Vec::new())
            }
        };
        let mut credentials = CredentialStore::default();
        let server_name = flags.backend_tls_server_name.clone();
        let backends_tls = TlsSettings::new(flags.backend_tls.files(), server_name);
        if matches!(task, Task::Serve | Task::Check) {
            load_tls(&backends_tls, &mut backends, &mut credentials)?;
        }
        warnings.extend(credentials.all().iter().filter_map(|one| one.warning.clone()));
        Ok(Self {
            task,
            ctl,
            top,
            man_folder,
            credentials,
            backends_tls,
            listen: listen::address("--listen", &flags.listen)?,
            admin_listen: admin_listen
                .map(|text| listen::address("--admin-listen", text))
                .transpose()?,
            backends,
            allow_hosts: flags.allow_hosts.clone(),
            users,
            listener_tls: None,
            flags,
            arguments: Vec::new(),
            settings: Vec::new(),
            file_users: file.map(|file| file.users.clone()).unwrap_or_default(),
            backend_source,
            backend_origins,
            overridden: Vec::new(),
            warnings,
        })
    }
}

/// Checks what `clap` does not: values that have to fit each other, and how many there are of each.
fn check_together(flags: &Flags) -> Result<(), String> {
    if flags.read_timeout < flags.backend_timeout {
        return Err("--read-timeout must not be shorter than --backend-timeout".to_owned());
    }
    if flags.resolvers.len() > MAX_NAMESERVERS {
        return Err(format!("--resolver: at most {MAX_NAMESERVERS}"));
    }
    if flags.no_cache.len() > MAX_CACHE_PATTERNS {
        return Err(format!("--no-cache: at most {MAX_CACHE_PATTERNS} patterns"));
    }
    flags.http.check()?;
    flags.tls.check()
}

/// Returns where users are configured.
fn user_sources<'a>(flags: &'a Flags, file: Option<&'a ConfigFile>) -> UserSources<'a> {
    UserSources {
        users_file: flags.users_file.clone(),
        password: flags.require_password.as_ref(),
        password_file: flags.require_password_file.clone(),
        tables: file.map_or(&[], |file| &file.users),
    }
}

/// Reads the files for TLS with these backends, and those for all. The keys of a backend were checked before.
fn load_tls(
    all: &TlsSettings,
    backends: &mut [BackendEntry],
    store: &mut CredentialStore,
) -> Result<(), String> {
    all.files.check_pair().map_err(MissingFile::with_flags)?;
    if all.files != TlsFiles::default() {
        store.load(&all.files).map_err(|error| error.with_flag())?;
    }
    for tls in backends.iter_mut().flat_map(BackendEntry::tls_mut) {
        tls.load(all, store).map_err(|error| error.with_flag())?;
    }
    Ok(())
}

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
        // Our own errors say so of a URL's form.
        let login = if url.starts_with("USER:PASSWORD@HOST") { 0 } else { login };
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
    logging::write_error(&redact(&error.to_string()));
    std::process::exit(error.exit_code());
}

#[cfg(test)]
mod tests;
