//! The commands of `lb`, as `clap` sees them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use clap_complete::Shell;
use rustls_pki_types::ServerName;

use super::backend_tls::{BackendTlsFlags, server_name};
use super::control::CtlArgs;
use super::hints::Program;
use super::top::TopArgs;
use super::values::{lag_size, time, timeout};

const CHECK_EXAMPLES: &str = "\
Examples:
  lb check
      the servers that `lb` would read from: those in LB_BACKENDS, or ports 1111, 2222 and 3333
  lb check --backend 10.0.0.1:6379 --backend redis://reader:secret@10.0.0.2:6379
      these two
  lb check --config /etc/redis-lb/redis-lb.toml
      those of a file, which is checked first
  lb check --check-timeout 5s && systemctl start redis-lb
      in a script, for servers that may be slow

It writes nothing. Its user needs the rights +@read +info +ping +select, and on nodes of a
Cluster also +readonly +cluster|info.

Exit code: 0 if all is well, 1 if something is wrong, 2 if a flag or the file
is wrong.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  lb config
      the defaults, and what the environment changes
  lb --max-clients 100 --config redis-lb.toml config
      what a file and a flag make together
  lb config > redis-lb.toml
      a file to begin with

Passwords are not shown.

Exit code: 0, or 2 if a flag or the file is wrong.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  lb completions bash > ~/.local/share/bash-completion/completions/lb
  lb completions bash seed > ~/.local/share/bash-completion/completions/seed
  lb completions zsh > ~/.zfunc/_lb
      with fpath+=~/.zfunc before compinit in ~/.zshrc
  lb completions fish > ~/.config/fish/completions/lb.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  lb man ~/.local/share/man/man1
      then man lb, man lb-check, man lb-config, man lb-ctl, man lb-top, man seed";

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To serve.
    Serve,
    /// To check the backends (`lb check`).
    Check,
    /// To print the configuration (`lb config`).
    Show,
    /// To control another process (`lb ctl`).
    Control,
    /// To watch another process (`lb top`).
    Watch,
    /// To print the completions of a program for a shell (`lb completions`).
    Complete(Shell, Program),
    /// To write the man pages (`lb man`).
    Man,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Checks whether the servers can be read from and hold the same data; serves nothing.
    ///
    /// Asks all servers at the same time. Counts their keys, and compares some keys chosen at random:
    /// their types and, unless they are large, their values.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),

    /// Prints the configuration that is in effect, and where each value comes from; serves nothing.
    #[command(after_help = CONFIG_EXAMPLES)]
    Config,

    /// Controls an `lb` that runs with --control: backends, clients, the log, reload.
    Ctl(CtlArgs),

    /// Shows in the terminal, live, which backends of an `lb` that runs fail, and what it does.
    Top(TopArgs),

    /// Prints the completions of the command line for a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),

    /// Writes the man pages of lb and seed into a folder.
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The folder, which is made if it is missing
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: Shell,

    /// The program that is completed
    #[arg(value_enum, default_value_t = Program::Lb)]
    pub(super) program: Program,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// A Redis server; repeat it for each server, or separate them by commas [default: those that `lb`
    /// would read from]
    #[arg(long = "backend", value_name = "URL", value_delimiter = ',')]
    pub(super) backends: Vec<String>,

    #[command(flatten)]
    pub(super) backend_tls: BackendTlsFlags,

    /// The name that the certificates of rediss:// servers must have [default: the host in the URL]
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    pub(super) backend_tls_server_name: Option<ServerName<'static>>,

    /// How long each server may take to answer, and then for each step of the comparison [default:
    /// 1s, or LB_CHECK_TIMEOUT]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub(super) check_timeout: Option<Duration>,

    /// How long ago a replica may have heard from its primary; 0s means no limit [default: 60s, or
    /// LB_MAX_LAG]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) max_lag: Option<Duration>,

    /// How much of its primary's writes a replica may lack; 0B means no limit [default: 0B, or
    /// LB_MAX_LAG_BYTES]
    #[arg(long, value_name = "SIZE", value_parser = lag_size)]
    pub(super) max_lag_bytes: Option<u64>,
}

/// The arguments of the command, if it has any.
#[derive(Debug, Default)]
pub(super) struct CommandArgs {
    pub ctl: Option<CtlArgs>,
    pub top: Option<TopArgs>,
    pub man_folder: Option<PathBuf>,
}

/// Returns what a command is to do, and its arguments.
pub(super) fn taken_apart(command: Option<Command>) -> (Task, CommandArgs) {
    let mut args = CommandArgs::default();
    let task = match command {
        None => Task::Serve,
        Some(Command::Check(_)) => Task::Check,
        Some(Command::Config) => Task::Show,
        Some(Command::Completions(args)) => Task::Complete(args.shell, args.program),
        Some(Command::Ctl(ctl)) => {
            args.ctl = Some(ctl);
            Task::Control
        }
        Some(Command::Top(top)) => {
            args.top = Some(top);
            Task::Watch
        }
        Some(Command::Man { folder }) => {
            args.man_folder = Some(folder);
            Task::Man
        }
    };
    (task, args)
}
