//! The rooms of the house: `docs/ARCHITECTURE.md` lists them from the top to the bottom, and each imports only
//! from those below it. So there is no circle between rooms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MAP: &str = include_str!("../../docs/ARCHITECTURE.md");

/// The rooms in the order of the map: the first column of the table after the heading "Rooms".
fn rooms() -> Vec<String> {
    let (_, table) = MAP.split_once("\n## Rooms\n").expect("a heading");
    let rows = table.lines().skip_while(|line| !line.starts_with("| `"));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => source_files(&path, files),
            false if path.extension().is_some_and(|end| end == "rs") => files.push(path),
            false => {}
        }
    }
}

/// The code of a file without comments and unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a file");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The room that a path of modules lies in: the longest one that it begins with.
fn room_of<'a>(rooms: &'a [String], path: &str) -> Option<&'a str> {
    let is_in = |room: &&String| path == **room || path.starts_with(&format!("{room}/"));
    rooms.iter().filter(is_in).max_by_key(|room| room.len()).map(String::as_str)
}

/// The paths of modules that code names, such as `session/redis/batch`.
fn named(code: &str) -> Vec<String> {
    let path = |text: &str| {
        let is_end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
        let end = text.find(is_end).unwrap_or(text.len());
        text[..end].trim_end_matches(':').replace("::", "/")
    };
    let after = ["crate::", "redis_lb::"].into_iter().flat_map(|root| code.split(root).skip(1));
    let paths = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => {
            let list = list.split('}').next().unwrap_or_default();
            list.split(',').map(|item| path(item.trim())).collect()
        }
        None => vec![path(rest)],
    });
    paths.filter(|path| !path.is_empty()).collect()
}

/// What each room imports, with one of the files that do so.
fn imports(rooms: &[String]) -> BTreeMap<(String, String), PathBuf> {
    let mut files = Vec::new();
    source_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    let is_test = |path: &PathBuf| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with("tests") || name.ends_with("properties")
    };
    files.retain(|path| !is_test(path) && !path.ends_with("src/lib.rs"));
    assert!(files.len() > 100, "the sources are found");
    let mut imports = BTreeMap::new();
    for path in files {
        let module = path.with_extension("");
        let (_, module) = module.to_str().and_then(|path| path.rsplit_once("/src/")).expect("src");
        let module = module.trim_end_matches("/mod");
        let own = room_of(rooms, module).unwrap_or_else(|| panic!("no room for {module}"));
        for named in named(&code(&path)) {
            let other = room_of(rooms, &named).unwrap_or_else(|| panic!("{module}: {named}?"));
            if other != own {
                imports.entry((own.to_owned(), other.to_owned())).or_insert_with(|| path.clone());
            }
        }
    }
    imports
}

#[test]
fn each_room_imports_only_from_rooms_below_it() {
    let rooms = rooms();
    assert!(rooms.len() > 15, "the map lists the rooms: {rooms:?}");
    let imports = imports(&rooms);
    assert!(imports.len() > 50, "the imports are found");
    let place = |room: &str| rooms.iter().position(|other| other == room);
    let upward: Vec<_> =
        imports.iter().filter(|((own, other), _)| place(own) >= place(other)).collect();
    assert!(upward.is_empty(), "upward imports: {upward:#?}");
}

#[test]
fn no_file_is_longer_than_500_lines_and_no_function_longer_than_60() {
    let mut files = Vec::new();
    source_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    // Tables of scenes may be as long as they need.
    files.retain(|path| !path.to_string_lossy().ends_with("tests.rs"));
    for path in files {
        let text = fs::read_to_string(&path).expect("a file");
        let count = text.lines().count();
        assert!(count <= 500, "{}: {count} lines", path.display());
        let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
        for (at, line) in lines.iter().enumerate() {
            let is_function = line.contains("fn ") && (line.ends_with('{') || line.ends_with('('));
            let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let last = lines[at..].iter().position(|line| *line == end);
            let length = last.map_or(0, |last| last + 1);
            assert!(!is_function || length <= 60, "{}:{}: {length} lines", path.display(), at + 1);
        }
    }
}

#[test]
fn the_map_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let quoted = MAP.split('`').skip(1).step_by(2);
    let files = quoted.filter(|text| text.ends_with(".rs") && !text.contains('*'));
    let missing: Vec<_> = files
        .filter(|file| !root.join("src").join(file).exists() && !root.join(file).exists())
        .collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md names {missing:?}");
}
