//! The flags of `seed`, as `clap` sees them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser};

use super::Delimiter;
use crate::config::address::DEFAULT_BACKENDS;
use crate::config::backend_tls::BackendTlsFlags;
use crate::config::environment;
use crate::config::hints::{self, Program};

const EXAMPLES: &str = "\
Examples:
  seed
      the rows of actors.csv into the three servers of load_data.sh
  seed films.csv --prefix film --id number
      each row as the hash film:NUMBER, whose fields are the other columns
  seed films.csv --delimiter ';' --id number
      a file whose values are separated by semicolons; tabs, semicolons and
      pipes are also recognised by the header
  xz -dc films.csv.xz | seed - --prefix film --id number
      the rows from standard input
  seed --backend 10.0.0.5:6379 --backend redis://:PASSWORD@10.0.0.6:6379/2
      the same into other servers, one of which wants a password

Exit code: 0 if every backend holds exactly the rows of the file, 1 if one does
not, 2 if the file or an option is wrong; then nothing was written.";

/// Loads a CSV file into several Redis servers, each row as the hash PREFIX:ID, and reads
/// everything back to compare it with the file
#[derive(Parser)]
#[command(name = "seed", version, after_help = EXAMPLES)]
pub struct SeedFlags {
    /// The CSV file, or - for standard input; its first line names the columns
    #[arg(default_value = "actors.csv")]
    pub file: PathBuf,
    /// HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or redis+unix:///PATH; give it once for each
    /// server. In LB_BACKENDS commas separate them. Replicas are not written to
    #[arg(long = "backend", value_name = "URL", env = "LB_BACKENDS", hide_env_values = true)]
    #[arg(value_delimiter = ',', default_values = DEFAULT_BACKENDS)]
    pub backends: Vec<String>,
    /// TLS with servers.
    #[command(flatten)]
    pub tls: BackendTlsFlags,
    /// The beginning of all keys
    #[arg(long, default_value = "actor")]
    pub prefix: String,
    /// The column that holds the ids
    #[arg(long, value_name = "COLUMN", default_value = "id")]
    pub id: String,
    /// What separates the values of a row: one character, or comma, semicolon, tab, pipe or space [default: recognised
    /// by the header]
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<Delimiter>,
    /// How many rows to write in one transaction, from 1 to 10000
    #[arg(long, value_name = "ROWS", default_value = "500")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub batch: u16,
}

impl SeedFlags {
    /// Reads the command line and the environment. Returns also which of them names the backends.
    ///
    /// # Errors
    /// One of them is wrong, or asks for help or the version.
    pub fn read() -> Result<(Self, &'static str), clap::Error> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        // A file of that name goes before.
        let is_word = arguments.get(1).is_some_and(|word| !Path::new(word).exists());
        let arguments = if is_word { hints::with_help(arguments) } else { arguments };
        environment::check(&mut Self::command(), &arguments)?;
        let matches = environment::without_empty(Self::command())
            .try_get_matches_from(&arguments)
            .map_err(|error| hints::explain(error, &Self::command(), &arguments, Program::Seed))?;
        let from = match matches.value_source("backends") {
            Some(ValueSource::EnvVariable) => "LB_BACKENDS",
            _ => "--backend",
        };
        Ok((Self::from_arg_matches(&matches)?, from))
    }
}
