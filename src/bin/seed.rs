//! Loads a CSV file into several Redis servers; see `seed --help`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use redis_lb::config::backend_tls::read_tls_files;
use redis_lb::config::{self, backend};
use redis_lb::load::{Dataset, Input, SeedFlags, SeedSettings, seed, table};

fn main() -> anyhow::Result<ExitCode> {
    let (flags, backends_from) =
        SeedFlags::read().unwrap_or_else(|error| config::exit_with(&error));
    // clap would repeat a wrong value in its error, and with it a password.
    let backends = backend::parse_list(&flags.backends).unwrap_or_else(|error| {
        let error = format!("{backends_from}: {error}");
        SeedFlags::command().error(ErrorKind::ValueValidation, error).exit()
    });
    // How much is read from each is for lb.
    let mut backends: Vec<_> = backends.into_iter().map(|backend| backend.address).collect();
    let warning = read_tls_files(&flags.tls, &mut backends).unwrap_or_else(|error| {
        SeedFlags::command().error(ErrorKind::ValueValidation, error).exit()
    });
    warning.iter().for_each(|warning| say(format_args!("seed: warning: {warning}")));
    let dataset = Input::open(&flags.file)
        .and_then(|input| Dataset::check(input, &flags.id, flags.delimiter));
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
    let settings = SeedSettings { prefix: flags.prefix, batch_rows: flags.batch.into() };
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
