//! One man page: the sections that `clap_mangen` makes of flags, with those between them that people expect.

use std::{env, fs};

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::texts::{self, Texts};

/// The section of the manual: programs.
const SECTION: &str = "1";

/// The title of all pages.
const MANUAL: &str = "redis-lb";

/// A man page that is being made.
pub(super) struct Page {
    command: Command,
    texts: Texts,
}

impl Page {
    /// Of a program or a command that is built, if that has a page.
    pub(super) fn of(command: Command) -> Option<Self> {
        let texts = texts::of(command.get_name())?;
        let command = command.about(texts.purpose).override_usage(texts.synopsis);
        Some(Self { command: command.mut_args(with_values), texts })
    }

    /// Returns the name of its file, and its text.
    pub(super) fn file(self) -> (String, String) {
        let man = Man::new(self.command.clone())
            .section(SECTION)
            .date(build_date())
            .source(concat!("redis-lb ", env!("CARGO_PKG_VERSION")))
            .manual(MANUAL);
        let mut text = Vec::new();
        let rendered = [
            man.render_title(&mut text),
            man.render_name_section(&mut text),
            man.render_synopsis_section(&mut text),
            self.description().to_writer(&mut text),
            self.commands().to_writer(&mut text),
            man.render_options_section(&mut text),
            self.sections().to_writer(&mut text),
        ];
        debug_assert!(rendered.iter().all(Result::is_ok), "writing to memory does not fail");
        (man.get_filename(), String::from_utf8_lossy(&text).into_owned())
    }

    fn description(&self) -> Roff {
        let mut roff = Roff::new();
        section(&mut roff, "DESCRIPTION");
        paragraphs(&mut roff, self.texts.description);
        roff
    }

    /// The commands with their arguments.
    fn commands(&self) -> Roff {
        let mut roff = Roff::new();
        let mut commands = self.command.get_subcommands().peekable();
        if commands.peek().is_none() {
            return roff;
        }
        section(&mut roff, "COMMANDS");
        for command in commands {
            let mut usage = vec![bold(command.get_name())];
            for argument in command.get_positionals() {
                let names = argument.get_value_names().unwrap_or_default();
                let name = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
                let (open, close) = if argument.is_required_set() { ("", "") } else { ("[", "]") };
                usage.extend([roman(format!(" {open}")), italic(name), roman(close)]);
            }
            roff.control("TP", []);
            roff.text(usage);
            let mut about = vec![roman(plain(command.get_about()))];
            if texts::of(command.get_name()).is_some() {
                about.extend([roman("; see "), bold(format!("lb-{}", command.get_name()))]);
                about.push(roman("(1)"));
            }
            roff.text(about);
        }
        roff
    }

    /// What comes after the options. Exit codes and examples are those of `--help`.
    fn sections(&self) -> Roff {
        let help = self.command.get_after_long_help().or(self.command.get_after_help());
        let help = plain(help);
        let mut roff = Roff::new();
        let (mut examples, mut notes, mut exit) = (Vec::new(), Vec::new(), self.texts.exit_status);
        for paragraph in help.split("\n\n") {
            if let Some(list) = paragraph.strip_prefix("Examples:\n") {
                examples.extend(list.lines());
            } else if let Some(list) = paragraph.strip_prefix("Try: ") {
                examples.extend(list.lines());
            } else if let Some(codes) = paragraph.strip_prefix("Exit code: ") {
                exit = codes;
            } else if !paragraph.is_empty() {
                notes.push(paragraph);
            }
        }
        if !notes.is_empty() {
            section(&mut roff, "NOTES");
            paragraphs(&mut roff, &notes.join("\n\n"));
        }
        for (name, entries) in [
            ("ENVIRONMENT", self.texts.environment),
            ("FILES", self.texts.files),
            ("SIGNALS", self.texts.signals),
        ] {
            self::entries(&mut roff, name, entries);
        }
        section(&mut roff, "EXIT STATUS");
        paragraphs(&mut roff, exit);
        section(&mut roff, "EXAMPLES");
        self::examples(&mut roff, &examples);
        section(&mut roff, "SEE ALSO");
        see_also(&mut roff, self.texts.see_also);
        roff
    }
}

/// Returns the day when this program was built, as its file has it; nothing if that is unknown.
fn build_date() -> String {
    let built = env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    let day = |built| humantime::format_rfc3339_seconds(built).to_string()[..10].to_owned();
    built.map(day).unwrap_or_default()
}

/// Names the values that an argument takes in its description: mandoc warns of the list that `clap_mangen` makes of them.
fn with_values(argument: Arg) -> Arg {
    let values = argument.get_possible_values();
    if values.is_empty() || !argument.get_num_args().is_some_and(|count| count.takes_values()) {
        return argument;
    }
    let names: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
    let help = format!("{}: one of {}", plain(argument.get_help()), names.join(", "));
    argument.hide_possible_values(true).help(help)
}

/// Returns a text without colours.
fn plain(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn section(roff: &mut Roff, name: &str) {
    roff.control("SH", [name]);
}

/// Adds paragraphs that blank lines separate.
fn paragraphs(roff: &mut Roff, text: &str) {
    for (at, paragraph) in text.split("\n\n").enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph.replace('\n', " "))]);
    }
}

/// Adds a section of names, each with its meaning, if there are any.
fn entries(roff: &mut Roff, name: &str, entries: &[(&str, &str)]) {
    if entries.is_empty() {
        return;
    }
    section(roff, name);
    for (name, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
}

/// Adds examples: a line that is indented by six spaces says what the command before it does.
fn examples(roff: &mut Roff, lines: &[&str]) {
    for line in lines {
        match line.strip_prefix("      ") {
            Some(meaning) => roff.text([roman(meaning)]),
            None => {
                roff.control("TP", []);
                roff.text([bold(line.trim_start())])
            }
        };
    }
}

fn see_also(roff: &mut Roff, names: &[&str]) {
    let mut line: Vec<Inline> = Vec::new();
    for name in names {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        match name.split_once('(') {
            Some((name, section)) => line.extend([bold(name), roman(format!("({section}"))]),
            None => line.push(roman(*name)),
        }
    }
    roff.text(line);
}
