//! Completions of the command line for shells, and the man pages: both are made from the flags, so they can't be out of
//! date.

mod page;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
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
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script.lines().map(|line| commands_first(line) + "\n").collect(),
        Shell::Fish => fish_values(&script, &command),
        _ => script,
    }
}

/// Puts the commands before the flags in a line of a script for bash that lists what may come.
fn commands_first(line: &str) -> String {
    let list = line.trim_start().strip_prefix("opts=\"").and_then(|rest| rest.strip_suffix('"'));
    let Some(list) = list.filter(|list| !list.is_empty()) else { return line.to_owned() };
    let indent = &line[..line.len() - line.trim_start().len()];
    let (flags, others): (Vec<&str>, Vec<&str>) =
        list.split_whitespace().partition(|word| word.starts_with('-'));
    format!("{indent}opts=\"{}\"", [others, flags].concat().join(" "))
}

/// Adds to a script for fish what `clap_complete` leaves out: the values of a flag after a space, and those of arguments that
/// are no flags.
fn fish_values(script: &str, command: &Command) -> String {
    const PARSED: &str = "-- $cmd 2>/dev/null\n    or return\n";
    let optspecs = format!("__fish_{}_global_optspecs", command.get_name());
    // A flag that lacks its value yet is left out.
    let again = format!(
        "-- $cmd 2>/dev/null\n    or argparse -s ({optspecs}) -- $cmd[1..-2] 2>/dev/null\n    or return\n"
    );
    let mut script = script.replace(PARSED, &again);
    let mut add = |condition: &str, command: &Command| {
        let first = command.get_positionals().next().map(Arg::get_possible_values);
        for value in first.unwrap_or_default() {
            let (name, help) = (value.get_name(), value.get_help());
            let help = help.map(|help| format!(" -d '{}'", help.to_string().replace('\'', "\\'")));
            let help = help.unwrap_or_default();
            script += &format!("complete -c lb -n \"{condition}\" -f -a \"{name}\"{help}\n");
        }
    };
    for one in command.get_subcommands() {
        let using = format!("__fish_lb_using_subcommand {}", one.get_name());
        add(&using, one);
        for inner in one.get_subcommands() {
            let seen = format!("{using}; and __fish_seen_subcommand_from {}", inner.get_name());
            add(&seen, inner);
        }
    }
    script
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
    let commands = lb.get_subcommands().cloned();
    let all: Vec<Command> = [lb.clone(), seed].into_iter().chain(commands).collect();
    all.into_iter().filter_map(Page::of).map(Page::file).collect()
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
            let purpose = text.lines().find(|line| line.contains(" \\- ")).expect("NAME");
            assert!(purpose.len() <= 70 && !purpose.contains('`'), "{purpose}");
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

    #[test]
    fn bash_offers_commands_before_flags_and_fish_the_values_of_both() {
        let bash = completions(Shell::Bash, Program::Lb);
        assert!(bash.contains("opts=\"check config ctl top completions man -"), "{bash}");
        let fish = completions(Shell::Fish, Program::Lb);
        for expected in [
            "or argparse -s (__fish_lb_global_optspecs) -- $cmd[1..-2]",
            "\"__fish_lb_using_subcommand completions\" -f -a \"zsh\"",
            "\"__fish_lb_using_subcommand ctl; and __fish_seen_subcommand_from log\" -f -a \"debug\"",
        ] {
            assert!(fish.contains(expected), "{expected}: {fish}");
        }
    }
}
