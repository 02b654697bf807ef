//! Loads a CSV file into several Redis servers; see `seed --help`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser};
use redis_lb::config::address::DEFAULT_BACKENDS;
use redis_lb::config::backend_tls::{BackendTlsFlags, read_tls_files};
use redis_lb::config::hints::{self, Program};
use redis_lb::config::{self, backend, environment};
use redis_lb::load::{Dataset, Delimiter, Input, SeedSettings, seed, table};

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
struct Cli {
    /// The CSV file, or - for standard input; its first line names the columns
    #[arg(default_value = "actors.csv")]
    file: PathBuf,
    /// HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or redis+unix:///PATH; give it once for each
    /// server. In LB_BACKENDS commas separate them. Replicas are not written to
    #[arg(long = "backend", value_name = "URL", env = "LB_BACKENDS", hide_env_values = true)]
    #[arg(value_delimiter = ',', default_values = DEFAULT_BACKENDS)]
    backends: Vec<String>,
    #[command(flatten)]
    tls: BackendTlsFlags,
    /// The beginning of all keys
    #[arg(long, default_value = "actor")]
    prefix: String,
    /// The column that holds the ids
    #[arg(long, value_name = "COLUMN", default_value = "id")]
    id: String,
    /// What separates the values of a row: one character, or comma, semicolon, tab, pipe or space [default: recognised
    /// by the header]
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,
    /// How many rows to write in one transaction, from 1 to 10000
    #[arg(long, value_name = "ROWS", default_value = "500")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
}

impl Cli {
    /// Reads the command line and the environment. Returns also which of them names the backends.
    fn read() -> Result<(Self, &'static str), clap::Error> {
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

fn main() -> anyhow::Result<ExitCode> {
    let (cli, backends_from) = Cli::read().unwrap_or_else(|error| config::exit_with(&error));
    // clap would repeat a wrong value in its error, and with it a password.
    let backends = backend::parse_list(&cli.backends).unwrap_or_else(|error| {
        let error = format!("{backends_from}: {error}");
        Cli::command().error(ErrorKind::ValueValidation, error).exit()
    });
    // How much is read from each is for lb.
    let mut backends: Vec<_> = backends.into_iter().map(|backend| backend.address).collect();
    let warning = read_tls_files(&cli.tls, &mut backends)
        .unwrap_or_else(|error| Cli::command().error(ErrorKind::ValueValidation, error).exit());
    warning.iter().for_each(|warning| say(format_args!("seed: warning: {warning}")));
    let dataset =
        Input::open(&cli.file).and_then(|input| Dataset::check(input, &cli.id, cli.delimiter));
    let dataset = match dataset {
        Ok(dataset) => dataset,
        Err(error) => {
            say(format_args!("seed: {}", config::redact(&error.to_string())));
            return Ok(ExitCode::from(2));
        }
    };
    let separated = dataset.unusual_delimiter();
    let separated = separated.map(|delimiter| format!(" separated by {delimiter},"));
    let (name, rows, separated) = (dataset.name(), dataset.rows(), separated.unwrap_or_default());
    let unit = if rows == 1 { "row" } else { "rows" };
    say(format_args!("{name}: {rows} {unit},{separated} all well-formed"));
    let settings = SeedSettings { prefix: cli.prefix, batch_rows: cli.batch.into() };
    let reports = seed(&dataset, &backends, &settings);
    for report in &reports {
        if let Some(failure) = &report.failure {
            say(format_args!("seed: {} failed: {failure}", report.backend));
        }
    }
    write!(std::io::stdout(), "{}", table(&reports)).context("cannot print the table")?;
    let complete = reports.iter().all(|report| report.failure.is_none());
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints to stderr, and goes on if that is closed.
fn say(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
