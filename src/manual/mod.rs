//! Completions of the command line for shells, and the man pages: both are made from the flags, so they can't be out of
//! date.

mod page;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use self::page::Page;
use crate::config::Flags;
use crate::config::hints::Program;
use crate::load::SeedFlags;

/// A man page that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct ManualError {
    path: PathBuf,
    source: std::io::Error,
}

/// Returns the completions of a program's command line for a shell.
pub fn completions(shell: Shell, program: Program) -> String {
    let (name, mut command) = match program {
        Program::Lb => ("lb", Flags::command()),
        Program::Seed => ("seed", SeedFlags::command()),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the man pages into a folder, which is made if it is missing. Returns their paths.
///
/// # Errors
/// One of them can't be written.
pub fn write_pages(folder: &Path) -> Result<Vec<PathBuf>, ManualError> {
    let failed = |path: &Path, source| ManualError { path: path.to_owned(), source };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut written = Vec::new();
    for (name, text) in pages() {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
        written.push(path);
    }
    Ok(written)
}

/// Returns the name and the text of each page: one for each program, and for each command of `lb` that is more than
/// a line.
fn pages() -> Vec<(String, String)> {
    let mut lb = Flags::command();
    lb.build();
    let mut seed = SeedFlags::command();
    seed.build();
    let commands = lb.get_subcommands().filter(|command| texts::has_page(command.get_name()));
    let all: Vec<Command> = [lb.clone(), seed].into_iter().chain(commands.cloned()).collect();
    all.into_iter().map(|command| Page::of(command).file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_says_what_it_is_for_how_it_ends_and_where_to_read_on() {
        let pages = pages();
        let names: Vec<&str> = pages.iter().map(|(name, _)| &**name).collect();
        let expected = ["lb.1", "seed.1", "lb-check.1", "lb-config.1", "lb-ctl.1", "lb-top.1"];
        assert_eq!(names, expected);
        for (name, text) in &pages {
            for section in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "\"EXIT STATUS\"",
                "EXAMPLES",
                "\"SEE ALSO\"",
            ] {
                assert!(text.contains(&format!("\n.SH {section}\n")), "{name}: {section}\n{text}");
            }
        }
        let (_, lb) = &pages[0];
        for expected in ["\\-\\-max\\-clients", "LB_MAX_CLIENTS", "SIGHUP", "redis\\-lb.toml"] {
            assert!(lb.contains(expected), "{expected}\n{lb}");
        }
    }

    #[test]
    fn every_shell_gets_completions_of_both_programs() {
        use clap::ValueEnum;
        for shell in Shell::value_variants() {
            let of = |program| completions(*shell, program);
            assert!(of(Program::Lb).contains("max-clients"), "{shell}");
            assert!(of(Program::Seed).contains("delimiter"), "{shell}");
        }
    }
}
