//! The documents agree with the program: flags, metrics, links, paths.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::balancer::Balancer;
use crate::support::redis::three_servers;

const MAX_README_LINES: usize = 200;

/// Set to anything, it makes the test write the tables of flags instead of comparing them.
const UPDATE: &str = "UPDATE_DOCS";

/// Folders whose paths the documents may name.
const FOLDERS: [&str; 7] = ["src/", "tests/", "docs/", "bench/", "fuzz/", "contrib/", ".ci/"];

/// From `-h`, which has the one sentence of each flag that fits into a table.
#[test]
fn the_tables_of_flags_are_those_of_help() {
    let path = root().join("docs/CONFIGURATION.md");
    let documented = read(&path);
    let (lb, seed) = (env!("CARGO_BIN_EXE_lb"), env!("CARGO_BIN_EXE_seed"));
    let mut updated = documented.clone();
    for (name, program, arguments) in [
        ("lb", lb, &["-h"][..]),
        ("lb check", lb, &["check", "-h"]),
        ("lb ctl", lb, &["ctl", "-h"]),
        ("lb top", lb, &["top", "-h"]),
        ("seed", seed, &["-h"]),
    ] {
        let tables = tables(flags(&help(program, arguments)));
        updated = with_section(&updated, &format!("flags of {name}"), &tables);
    }
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, updated).expect("the tables are written");
    } else {
        let how = "run: UPDATE_DOCS=1 cargo test --locked --test suite -- documents";
        assert!(documented == updated, "docs/CONFIGURATION.md and -h differ; {how}");
    }
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let servers = three_servers();
    let lb = Balancer::start(&servers.each_ref());
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<String> =
        types.filter_map(|line| line.split_once(' ')).map(|(name, _)| name.to_owned()).collect();
    let document = read(&root().join("docs/MONITORING.md"));
    let (_, section) = document.split_once("\n## Metrics\n").expect("its section");
    let section = section.split("\n## ").next().expect("some text");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|line| line.split('|').nth(1));
    let documented = cells.flat_map(quoted).map(str::to_owned).collect();
    assert_eq!(there, documented, "docs/MONITORING.md, on the right, differs from /-/metrics");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines");
}

#[test]
fn every_link_and_path_in_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = without_code_blocks(&read(&document));
        let linked = links(&text).into_iter().filter(|link| !is_found(&document, link));
        let named = paths(&text).into_iter().filter(|path| !root().join(path).exists());
        broken.extend(linked.chain(named).map(|link| format!("{}: {link}", document.display())));
    }
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The output of a program, whatever is in the environment of the tests.
fn help(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    String::from_utf8(command.output().expect("it runs").stdout).expect("text")
}

/// One flag or argument of a program.
struct Flag {
    heading: String,
    /// As it is typed, with the name of its value.
    usage: String,
    /// The description, its lines joined.
    text: String,
}

impl Flag {
    /// Takes `[NAME: VALUE]` out of the description.
    fn take(&mut self, name: &str) -> Option<String> {
        let begin = self.text.find(&format!("[{name}: "))?;
        let end = begin + self.text[begin..].find(']')?;
        let value = self.text[begin..end].split_once(": ")?.1.trim_end_matches('=').to_owned();
        self.text.replace_range(begin..=end, "");
        Some(value)
    }

    fn row(mut self) -> String {
        let environment = self.take("env").map(|name| format!("`{name}`")).unwrap_or_default();
        let default = self.take("default").map(|value| format!("`{value}`")).unwrap_or_default();
        let text = self.text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        format!("| `{}` | {environment} | {default} | {text} |\n", self.usage)
    }
}

/// The flags that a text of `--help` describes.
fn flags(help: &str) -> Vec<Flag> {
    let mut heading = None;
    let mut flags: Vec<Flag> = Vec::new();
    for line in help.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if indent == 0 && !text.is_empty() {
            let named = text.strip_suffix(':').filter(|h| !["Commands", "Examples"].contains(h));
            heading = named.map(str::to_owned);
        } else if let Some(heading) = &heading {
            if (1..8).contains(&indent) {
                let (usage, text) = text.split_once("  ").unwrap_or((text, ""));
                flags.push(Flag {
                    heading: heading.clone(),
                    usage: usage.to_owned(),
                    text: text.to_owned(),
                });
            } else if let Some(flag) = flags.last_mut() {
                flag.text += &format!(" {text}");
            }
        }
    }
    flags.retain(|flag| !flag.usage.starts_with("-h,") && !flag.usage.starts_with("-V,"));
    flags
}

/// A table for each heading; the headings that clap gives by itself are left out.
fn tables(flags: Vec<Flag>) -> String {
    let mut text = String::new();
    let mut last = None;
    for flag in flags {
        let heading = match flag.heading.as_str() {
            "Arguments" | "Options" => String::new(),
            own => format!("### {own}\n\n"),
        };
        if last.as_ref() != Some(&heading) {
            text += &format!("\n{heading}| flag | environment | default | meaning |\n");
            text += "| --- | --- | --- | --- |\n";
            last = Some(heading);
        }
        text += &flag.row();
    }
    text
}

/// The document with `content` between the two markers of this name.
fn with_section(document: &str, name: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = document.split_once(&begin).expect("the first marker");
    let (_, after) = rest.split_once(&end).expect("the second marker");
    format!("{before}{begin}{content}\n{end}{after}")
}

fn documents() -> Vec<PathBuf> {
    let folder = fs::read_dir(root().join("docs")).expect("the folder");
    let in_folder = folder.map(|entry| entry.expect("an entry").path());
    let in_folder = in_folder.filter(|path| path.extension().is_some_and(|end| end == "md"));
    ["README.md", "CONTRIBUTING.md"]
        .map(|name| root().join(name))
        .into_iter()
        .chain(in_folder)
        .collect()
}

fn without_code_blocks(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The targets of the links and pictures of a document that are no URLs.
fn links(text: &str) -> Vec<String> {
    let between = |begin: &str, end: char| {
        let parts = text.split(begin).skip(1);
        parts.filter_map(|part| part.split_once(end)).map(|(link, _)| link.to_owned()).collect()
    };
    let all: [Vec<String>; 3] =
        [between("](", ')'), between("src=\"", '"'), between("srcset=\"", '"')];
    all.concat().into_iter().filter(|link| !link.contains("://")).collect()
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The paths below the project's folders that a document names between backticks.
fn paths(text: &str) -> Vec<String> {
    let paths = quoted(text).filter(|path| FOLDERS.iter().any(|folder| path.starts_with(folder)));
    paths.filter(|path| !path.contains(['*', ' ', '…'])).map(str::to_owned).collect()
}

fn is_found(document: &Path, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => document.to_owned(),
        path => document.parent().expect("its folder").join(path),
    };
    target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor))
}

/// The anchors that GitHub makes of a document's headings.
fn anchors(text: &str) -> HashSet<String> {
    let text = without_code_blocks(text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}
