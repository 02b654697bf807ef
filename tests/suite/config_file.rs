//! The configuration file: its keys against the flags, what overrides it, what is wrong in it, secrets, `lb config`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Arg, ArgAction, CommandFactory};
use redis_lb::config::{Config, Flags};
use tempfile::TempDir;

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::wait_until;

const LB: &str = env!("CARGO_BIN_EXE_lb");

/// A file that may be one of users, and one of a password.
const USERS_FILE: &str = "users.acl";

/// A folder with a configuration file.
struct Setup {
    folder: TempDir,
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Setup {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let setup = Self { folder: tempfile::tempdir().expect("a folder") };
        setup.write("lb.toml", text);
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner may read.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("a file");
        self.set_mode(name, 0o600);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path(name), mode).expect("the mode changes");
    }

    /// Runs lb in the folder with these arguments and environment variables alone.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        let mut command = Command::new(LB);
        command.args(arguments).env_clear().envs(environment.iter().copied());
        let output = command.current_dir(self.folder.path()).output().expect("lb runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What `lb config` prints with the file.
    #[track_caller]
    fn shown(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let all = [&["--config", "lb.toml"], arguments, &["config"]].concat();
        let run = self.run(&all, environment);
        assert_eq!(run.code, Some(0), "{}", run.err);
        run.out
    }

    /// The configuration as the library reads it.
    fn config(&self) -> Config {
        let path = self.path("lb.toml");
        Config::from_arguments(["lb".as_ref(), "--config".as_ref(), path.as_os_str()])
            .expect("a configuration")
    }
}

/// The keys with their values, without comments.
fn values(shown: &str) -> Vec<String> {
    let lines = shown.lines().map(|line| line.split("  #").next().unwrap_or_default().trim_end());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The line of a key.
#[track_caller]
fn line<'a>(shown: &'a str, key: &str) -> &'a str {
    let mut lines = shown.lines().filter(|line| line.starts_with(&format!("{key} = ")));
    lines.next().unwrap_or_else(|| panic!("{key} is not in\n{shown}"))
}

/// The value of a key and where it comes from.
#[track_caller]
fn value_and_source<'a>(shown: &'a str, key: &str) -> (&'a str, &'a str) {
    let (value, source) = line(shown, key).split_once("  # ").expect("a comment");
    let (_, value) = value.split_once(" = ").expect("a value");
    (value.trim_end(), source)
}

fn flags() -> Vec<Arg> {
    let flags: Vec<Arg> = Flags::command().get_arguments().cloned().collect();
    let keys = flags.into_iter().filter(|flag| flag.get_long() != Some("config"));
    let keys: Vec<Arg> = keys.collect();
    assert!(keys.len() > 25, "the flags are found");
    keys
}

/// Flags without which the flag of this key makes no sense.
fn needed(key: &str) -> &'static [&'static str] {
    match key {
        "tls-cert" => &["--tls-key=/none/needed"],
        "tls-key" => &["--tls-cert=/none/needed"],
        "tls-client-ca" | "tls-only" => &["--tls-cert=/none/needed", "--tls-key=/none/needed"],
        _ => &[],
    }
}

/// A value for a flag that is not its default, as an argument and as TOML.
fn sample(flag: &Arg) -> (String, String) {
    let key = flag.get_long().expect("a name");
    let name = flag.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    let quoted = |text: &str| (format!("--{key}={text}"), format!("{key} = \"{text}\""));
    match (flag.get_action(), name.as_deref()) {
        (ArgAction::SetTrue, _) => (format!("--{key}"), format!("{key} = true")),
        (ArgAction::Append, Some("URL")) => {
            (format!("--{key}=h:1,h:2"), format!("{key} = [\"h:1\", \"h:2\"]"))
        }
        (ArgAction::Append, Some("ADDRESS[:PORT]")) => {
            (format!("--{key}=::1,[::1]:5"), format!("{key} = [\"::1\", \"[::1]:5\"]"))
        }
        (ArgAction::Append, Some("ORIGIN")) => {
            (format!("--{key}=http://a,*"), format!("{key} = [\"http://a\", \"*\"]"))
        }
        (ArgAction::Append, Some("ADDRESS[/BITS]")) => {
            (format!("--{key}=::1,10.0.0.0/8"), format!("{key} = [\"::1\", \"10.0.0.0/8\"]"))
        }
        (ArgAction::Append, Some("FROM=TO")) => {
            (format!("--{key}=a=b,c:1=d:2"), format!("{key} = [\"a=b\", \"c:1=d:2\"]"))
        }
        (ArgAction::Append, _) => (format!("--{key}=a,b"), format!("{key} = [\"a\", \"b\"]")),
        (_, Some("NUMBER" | "MIB")) => (format!("--{key}=7"), format!("{key} = 7")),
        (_, Some("TIME")) => quoted("7s"),
        (_, Some("SIZE")) => quoted("32MiB"),
        (_, Some("ADDRESS:PORT")) => quoted("127.0.0.1:7777"),
        (_, Some("FORMAT")) => quoted("json"),
        (_, Some("LEVEL")) => quoted("debug"),
        (_, Some("ROLE")) => quoted("replica"),
        (_, Some("ACTION")) => quoted("close"),
        (_, Some("NAME")) => quoted("a"),
        (_, Some("PATH")) => quoted("/none/control"),
        (_, Some("FILE")) => quoted(USERS_FILE),
        (_, Some("PASSWORD")) => quoted("hunter2"),
        (_, Some("USER[:GROUP]")) => quoted("root:7"),
        (_, other) => panic!("this test has no sample of {other:?} for --{key}"),
    }
}

#[test]
fn each_key_does_what_its_flag_does() {
    let setup = Setup::new("");
    setup.write(USERS_FILE, "user a on nopass\n");
    let default = values(&setup.shown(&[], &[]));
    for flag in flags() {
        let (argument, toml) = sample(&flag);
        let needed = needed(flag.get_long().expect("a name"));
        setup.write("lb.toml", "");
        let by_flag = setup.shown(&[needed, &[argument.as_str()]].concat(), &[]);
        setup.write("lb.toml", &toml);
        let by_file = setup.shown(needed, &[]);
        assert_eq!(values(&by_flag), values(&by_file), "{toml}");
        assert_ne!(values(&by_file), default, "{toml}");
        assert!(by_file.contains("# lb.toml:1\n"), "{by_file}");
    }
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let setup = Setup::new("\nfall = 5\nallow-host = [\"a\"]\nquiet = true\nno-status = false\n");
    let shown = setup.shown(&[], &[]);
    assert_eq!(value_and_source(&shown, "fall"), ("5", "lb.toml:2"));
    assert_eq!(value_and_source(&shown, "rise"), ("2", "default"));
    assert_eq!(value_and_source(&shown, "quiet"), ("true", "lb.toml:4"));
    assert_eq!(value_and_source(&shown, "no-status"), ("false", "lb.toml:5"));
    let environment = [("LB_FALL", "6"), ("LB_ALLOW_HOSTS", "b,c"), ("LB_QUIET", "no")];
    let shown = setup.shown(&[], &environment);
    assert_eq!(value_and_source(&shown, "fall"), ("6", "LB_FALL"));
    assert_eq!(value_and_source(&shown, "allow-host"), (r#"["b", "c"]"#, "LB_ALLOW_HOSTS"));
    assert_eq!(value_and_source(&shown, "quiet"), ("false", "LB_QUIET"));
    let shown = setup.shown(&["--fall", "7", "--allow-host", "d"], &environment);
    assert_eq!(value_and_source(&shown, "fall"), ("7", "--fall"));
    assert_eq!(value_and_source(&shown, "allow-host"), (r#"["d"]"#, "--allow-host"));
}

#[test]
fn backends_of_a_flag_replace_those_of_the_file() {
    let setup = Setup::new("[[backend]]\nurl = \"h:1\"\n\n[[backend]]\nurl = \"h:2\"\n");
    let urls = |shown: &str| {
        values(shown).into_iter().filter(|line| line.starts_with("url")).collect::<Vec<_>>()
    };
    assert_eq!(urls(&setup.shown(&[], &[])), [r#"url = "h:1""#, r#"url = "h:2""#]);
    let shown = setup.shown(&[], &[("LB_BACKENDS", "h:3")]);
    assert_eq!(urls(&shown), [r#"url = "h:3""#]);
    assert_eq!(value_and_source(&shown, "url").1, "LB_BACKENDS");
    let shown = setup.shown(&["--backend", "h:4"], &[("LB_BACKENDS", "h:3")]);
    assert_eq!(urls(&shown), [r#"url = "h:4""#]);
    assert_eq!(value_and_source(&shown, "url").1, "--backend");
}

#[test]
fn tables_and_urls_say_the_same_of_a_backend() {
    let setup = Setup::new(
        r#"backend = [
            "h:1?weight=3",
            { url = "redis://h:2/4", weight = 0x10, backup = true, zone = "a" },
        ]"#,
    );
    let shown = setup.shown(&[], &[]);
    let lines = values(&shown).split_off(values(&shown).len() - 8);
    let expected = [
        "[[backend]]",
        "url = \"h:1\"",
        "weight = 3",
        "backup = false",
        "[[backend]]",
        "url = \"redis://h:2/4\"",
        "weight = 16",
        "backup = true",
    ];
    assert_eq!(lines[..7], expected[1..], "{shown}");
    assert_eq!(lines[7], "zone = \"a\"");
}

#[test]
fn what_lb_config_prints_is_a_file_with_the_same_configuration() {
    let setup = Setup::new(
        r#"
        client-timeout = '90s'
        max-memory = "64MiB"
        admin-listen = "127.0.0.1:0"
        allow-host = ["one.example", "two"]
        [[backend]]
        url = "redis://h:1/3?weight=2"
        backup = true
        [[backend]]
        url = "redis+unix:///run/a%20b.sock?db=2"
        zone = "b"
        [[backend]]
        url = "[::1]:7"
        user = "r/1"
        password-file = "secret"
        "#,
    );
    setup.write("secret", "hunter2\n");
    let shown = setup.shown(&["--fall", "9"], &[("LB_RISE", "4")]);
    let before =
        Config::from_arguments(["lb", "--config", &shown_path(&setup), "--fall=9", "--rise=4"]);
    setup.write("printed.toml", &shown);
    let printed = setup.path("printed.toml");
    let after = Config::from_arguments(["lb", "--config", printed.to_str().expect("UTF-8")]);
    let (before, after) = (before.expect("right"), after.expect("right"));
    assert_eq!(before.changes(&after), [""; 0], "{shown}");
    assert_eq!(after.backends.len(), 3);
    assert_eq!(after.backends[2].target().password(), Some("hunter2"));
    assert_eq!(after.backends[2].target().username(), Some("r/1"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

fn shown_path(setup: &Setup) -> String {
    setup.path("lb.toml").to_str().expect("UTF-8").to_owned()
}

#[test]
fn passwords_are_in_no_output() {
    let setup = Setup::new(
        "[[backend]]\nurl = \"redis://reader:hunter2@h:1/2\"\n\
         [[backend]]\nurl = \"redis+unix:///s?user=u&pass=hunter2\"\n",
    );
    let shown = setup.shown(&[], &[]);
    assert_eq!(value_and_source(&shown, "url").0, r#""redis://reader:…@h:1/2""#);
    assert!(shown.contains("redis+unix:///s?user=u&pass=…"), "{shown}");
    assert!(shown.contains("# Passwords are shown as …"), "{shown}");
    let wrong = [
        "[[backend]]\nurl = \"redis://u:hunter2@h:99999\"",
        "[[backend]]\nurl = \"redis://u:hunter2@h\"\npassword = \"hunter2\"",
        "[[backend]]\nurl = \"redis://u:hunter2@h:1\nweight = 1",
        "[[backend]]\nurl = \"h:1\"\nweight = \"hunter2\"\nzone = \"hunter2 \"",
        "backend = \"redis://u:hunter2@h:1\"",
        "listen = \"redis://u:hunter2@h:1\"",
        "log-format = \"redis://u:hunter2@h:1\"",
        "\"redis://u:hunter2@h:1\" = 5",
    ];
    for text in wrong {
        setup.write("lb.toml", text);
        let run = setup.run(&["--config", "lb.toml", "config"], &[]);
        assert_eq!(run.code, Some(2), "{text}");
        assert!(!run.err.contains("hunter2") && run.err.contains("lb.toml:"), "{}", run.err);
    }
}

/// Files with one mistake each: the line that is named, and what is said.
const WRONG: &[(&str, usize, &str)] = &[
    ("\nmax_clients = 5", 2, "there is no key max_clients; did you mean max-clients?"),
    ("max-client = 5", 1, "did you mean max-clients?"),
    ("LB_RISE = 5", 1, "did you mean rise?"),
    ("backends = []", 1, "did you mean backend?"),
    ("allow-hosts = []", 1, "did you mean allow-host?"),
    ("xyz = 5", 1, "there is no key xyz; lb config prints all"),
    ("config = \"other.toml\"", 1, "there is no key config"),
    ("help = true", 1, "there is no key help"),
    ("rise = 2\n\n[server]\nfall = 3", 3, "there is no section [server]; write keys without"),
    ("[max-clients]\nvalue = 3", 1, "max-clients is no section; write max-clients = "),
    ("server.fall = 3", 1, "there is no section [server]"),
    ("max-clients = \"100\"", 1, "max-clients must be a whole number, such as 4096"),
    ("max-clients = true", 1, "max-clients must be a whole number"),
    ("max-clients = [100]", 1, "max-clients must be a whole number"),
    ("max-clients = 0", 1, "max-clients: 0 is not in 1..=100000"),
    ("max-clients = -1", 1, "max-clients: must be a whole number"),
    ("max-clients = 99999999999999999999999", 1, "max-clients: number too large"),
    ("fall = 2.5", 1, "fall: must be a whole number, such as 3"),
    ("client-timeout = 5", 1, "client-timeout must be a text in quotes, such as \"330s\""),
    ("client-timeout = \"5\"", 1, "client-timeout: write a number with its unit, such as 500ms"),
    ("client-timeout = \"25h\"", 1, "client-timeout: at most 24h"),
    ("demo-delay = 0", 1, "demo-delay must be a text in quotes, such as \"0s\""),
    ("max-memory = \"1KiB\"", 1, "max-memory: between 16"),
    ("max-memory = false", 1, "max-memory must be a text in quotes: \"SIZE\""),
    ("cache = \"1KiB\"", 1, "cache: at least 1.0 MiB, or 0B to turn it off"),
    ("cache-max-silence = \"99ms\"", 1, "cache-max-silence: between 100ms and 60s"),
    ("no-cache = [\"a\",\n\"b[c\"]", 2, "no-cache: a [ without ] in a pattern of keys"),
    ("quiet = \"true\"", 1, "quiet must be true or false"),
    ("quiet = 1", 1, "quiet must be true or false"),
    ("log-format = \"jsn\"", 1, "must be one of \"human\", \"json\"; did you mean \"json\"?"),
    ("log-level = \"trace\"", 1, "log-level: must be one of \"error\", \"warn\", \"info\""),
    ("listen = 1310", 1, "listen must be a text in quotes, such as \"127.0.0.1:1310\""),
    ("fall = 1\nlisten = \"1310\"", 2, "listen 1310: the address is missing before the port"),
    ("admin-listen = \"x\"", 1, "admin-listen x: the port is missing"),
    ("allow-host = \"a\"", 1, "allow-host must be a list of texts: [\"NAME\", …]"),
    ("allow-host = [\n  \"a\",\n  5,\n]", 3, "allow-host must be a list of texts: [\"NAME\", …]"),
    ("fall = 3\nfall = 4", 2, "duplicate key fall"),
    ("fall = 3\nlisten = 127.0.0.1:1310", 2, "; a text needs quotes"),
    ("fall = 3\nlisten = \"a", 2, ""),
    ("fall = 3\n[[backend]\nurl = \"h:1\"", 2, ""),
    ("fall = 3\nwhat is this", 2, ""),
    ("fall =", 1, ""),
    ("fall = 3\nclient-timeout = 5s", 2, "; a text needs quotes"),
    ("read-timeout = \"500ms\"", 1, "read-timeout must not be shorter than --backend-timeout"),
    (
        "backend-timeout = \"2s\"\n\nread-timeout = \"1s\"",
        3,
        "read-timeout must not be shorter than backend-timeout (line 1)",
    ),
    ("backend-timeout = \"31s\"", 1, "--read-timeout must not be shorter than backend-timeout"),
    ("fall = 1\nbackend = []", 2, "backend is empty; name at least one server"),
    ("backend = \"h:1\"", 1, "backend must be a list"),
    ("backend = [\n\"h:1\",\n5]", 3, "a backend must be a URL in quotes, or a table"),
    ("[backend]\nurl = \"h:1\"", 1, "write [[backend]] for each server"),
    ("backend = [\"h:1\",\n\"h:1\"]", 2, "backend h:1 is on line 1 too; name each one once"),
    ("backend = [\"h\"]", 1, "; write HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss://"),
    ("[[backend]]\nweight = 1", 1, "this backend has no url"),
    ("[[backend]]\nurl = 5", 2, "url must be a text in quotes"),
    ("[[backend]]\nurl = \"h\"", 2, "url: it has no port"),
    ("[[backend]]\nurl = \"h:1?wait=1\"", 2, "url: after the ? come db, weight, backup and zone"),
    ("[[backend]]\nurl = \"h:1\"\nwieght = 2", 3, "no key wieght; did you mean weight?"),
    ("[[backend]]\nurl = \"h:1\"\nxyz = 2", 3, "no key xyz; there are url, user, password-file"),
    ("[[backend]]\nurl = \"h:1\"\npassword = \"a\"", 3, "did you mean password-file?"),
    ("[[backend]]\nurl = \"h:1\"\nweight = 257", 3, "a weight is a number from 0 to 256"),
    ("[[backend]]\nurl = \"h:1\"\nweight = \"2\"", 3, "weight must be a number, such as 1"),
    ("[[backend]]\nurl = \"h:1\"\nbackup = 1", 3, "backup must be true or false"),
    ("[[backend]]\nurl = \"h:1\"\nzone = \"a b\"", 3, "a zone has 1 to 64"),
    ("[[backend]]\nurl = \"h:1\"\nzone = 1", 3, "zone must be a text in quotes"),
    ("[[backend]]\nurl = \"h:1\"\nurl = \"h:2\"", 3, "duplicate key url"),
    ("[[backend]]\nurl = \"h:1\"\nuser = \"u\"", 2, "url: a user needs a password"),
    (
        "[[backend]]\nurl = \"h:1\"\nmax-clients = 4",
        3,
        "max-clients is no key of a backend; write it above the first [[backend]]",
    ),
    (
        "[[backend]]\nurl = \"h:1\"\n\n[[backend]]\nurl = \"redis://h:1/2\"",
        4,
        "backend h:1 is on line 1 too",
    ),
    ("[[backend]]\nurl = \"h:1\"\npassword-file = \"none\"", 3, "none can't be read: "),
    ("[[backend]]\nurl = \"h:1\"\npassword-file = \"empty\"", 3, "empty is empty"),
    ("[[backend]]\nurl = \"h:1\"\npassword-file = \"large\"", 3, "large is larger than 4.0 KiB"),
    ("[[backend]]\nurl = \"h:1\"\npassword-file = \"lines\"", 3, "lines has more than one line"),
    ("[[backend]]\nurl = \"h:1\"\npassword-file = \".\"", 3, "is a directory"),
    (
        "[[backend]]\nurl = \"redis://u:p@h:1\"\npassword-file = \"right\"",
        2,
        "url: the password is in the URL and beside it",
    ),
    (
        "[[backend]]\nurl = \"redis://u@h:1\"\nuser = \"v\"\npassword-file = \"right\"",
        2,
        "url: the user is in the URL and beside it",
    ),
];

#[test]
fn each_mistake_is_named_with_its_line_and_ends_lb_with_code_2() {
    let setup = Setup::new("");
    setup.write("empty", "\n");
    setup.write("large", [b'x'; 5000]);
    setup.write("lines", "a\nb\n");
    setup.write("right", "hunter2");
    for (text, line, said) in WRONG {
        setup.write("lb.toml", text);
        for command in ["config", "check"] {
            let run = setup.run(&["--config", "lb.toml", command], &[]);
            assert_eq!(run.code, Some(2), "{text}: {}", run.err);
            assert!(run.err.starts_with(&format!("lb.toml:{line}: ")), "{text}: {}", run.err);
            assert!(run.err.contains(said), "{said:?} is not in {}", run.err);
            assert_eq!(run.err.lines().count(), 1, "{}", run.err);
        }
    }
}

#[test]
fn all_mistakes_of_a_file_are_named_in_the_order_of_its_lines() {
    let setup = Setup::new("rize = 2\nfall = 0\n[[backend]]\nweight = 300\n[[backend]]\nurl = 1");
    let run = setup.run(&["--config", "lb.toml"], &[]);
    let places: Vec<_> = run.err.lines().map(|line| line.split(' ').next()).collect();
    let expected = ["lb.toml:1:", "lb.toml:2:", "lb.toml:3:", "lb.toml:6:"];
    assert_eq!(places, expected.map(Some), "{}", run.err);
    assert_eq!(run.code, Some(2));
}

#[test]
fn what_is_no_file_or_too_large_is_refused() {
    let setup = Setup::new(b"fall = 3\nlisten = \"\xff\"");
    setup.write("large.toml", vec![b'\n'; (1 << 20) + 1]);
    for (path, said) in [
        ("none.toml", "none.toml: can't be read: "),
        (".", ".: is a directory"),
        ("/dev/null", "/dev/null: is not a regular file"),
        ("large.toml", "large.toml: is larger than 1.0 MiB"),
        ("lb.toml", "lb.toml:2: is not text in UTF-8"),
    ] {
        let run = setup.run(&["config"], &[("LB_CONFIG", path)]);
        assert_eq!(run.code, Some(2), "{path}");
        assert!(run.err.starts_with(said), "{}", run.err);
    }
}

#[test]
fn the_file_is_named_before_or_after_the_command_or_by_the_environment() {
    let setup = Setup::new("fall = 5");
    setup.write("other.toml", "fall = 6");
    let fall = |arguments: &[&str], environment: &[(&str, &str)]| {
        let out = setup.run(arguments, environment).out;
        value_and_source(&out, "fall").0.to_owned()
    };
    let environment = [("LB_CONFIG", "other.toml")];
    assert_eq!(fall(&["config", "--config", "lb.toml"], &environment), "5");
    assert_eq!(fall(&["--config", "lb.toml", "config"], &environment), "5");
    assert_eq!(fall(&["config"], &environment), "6");
    assert_eq!(fall(&["config"], &[]), "3");
}

#[test]
fn a_password_that_every_user_can_read_is_warned_about_once() {
    let setup = Setup::new(
        "[[backend]]\nurl = \"h:1\"\npassword-file = \"secret\"\n\
         [[backend]]\nurl = \"h:2\"\npassword-file = \"secret\"\n",
    );
    setup.write("secret", "hunter2\n");
    let warnings = |arguments: &[&str]| {
        let run = setup.run(&[&["--config", "lb.toml"], arguments].concat(), &[]);
        run.err.lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect()
    };
    let none: Vec<String> = warnings(&["config"]);
    assert_eq!(none, [""; 0]);
    // The file itself holds no password.
    setup.set_mode("lb.toml", 0o644);
    setup.set_mode("secret", 0o640);
    assert_eq!(warnings(&["config"]), [""; 0]);
    setup.set_mode("secret", 0o604);
    let check = ["check", "--check-timeout", "1ms"];
    for arguments in [&["config"][..], &check] {
        let warned = warnings(arguments);
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].starts_with("warning: secret holds a password, and every user"));
    }
    setup.write("lb.toml", "backend = [\"redis://:hunter2@h:1\"]");
    setup.set_mode("lb.toml", 0o644);
    assert!(warnings(&["config"])[0].starts_with("warning: lb.toml holds a password"));
}

#[test]
fn lb_reads_with_a_password_from_a_file_and_logs_what_is_doubtful() {
    let server = RedisServer::start_with(&["--requirepass", "hun/ter 2"]);
    let setup = Setup::new(format!(
        "listen = \"127.0.0.1:0\"\nmax-clients = 9\n\
         [[backend]]\nurl = \"{}\"\npassword-file = \"secret\"\n",
        server.address()
    ));
    setup.write("secret", "hun/ter 2\n");
    setup.set_mode("secret", 0o644);
    let path = shown_path(&setup);
    let mut command = Command::new(LB);
    command.args(["--config", &path]).env("LB_MAX_CLIENTS", "8");
    let lb = Balancer::spawn(command);
    wait_until("the server is read from", || lb.get("/none").status == 404);
    let overridden =
        format!("{path}:2: max-clients has no effect, because LB_MAX_CLIENTS overrides");
    wait_until("both are logged", || {
        lb.log().contains("every user of this machine can read it")
            && lb.log().contains(&overridden)
    });
}

#[test]
fn lb_check_takes_the_servers_of_the_file() {
    let server = RedisServer::start();
    let address = server.address();
    let setup = Setup::new(format!("check-timeout = \"9s\"\nbackend = [\"{address}\"]"));
    let run = setup.run(&["check", "--config", "lb.toml"], &[]);
    assert!(run.out.contains(&address) && run.out.contains("yes"), "{}{}", run.out, run.err);
    let other = RedisServer::start();
    let run = setup.run(&["check", "--config", "lb.toml", "--backend", &other.address()], &[]);
    assert!(run.out.contains(&other.address()) && !run.out.contains(&address), "{}", run.out);
}

#[test]
fn the_file_is_read_again_and_what_differs_is_named() {
    let setup = Setup::new("client-timeout = \"60s\"\nbackend = [\"h:1\", \"h:2\"]");
    let config = setup.config();
    setup.write("lb.toml", "client-timeout = \"1m\"\nbackend = [\"h:1\", \"h:2?weight=1\"]");
    assert_eq!(config.changes(&config.reread().expect("right")), [""; 0]);
    setup.write("lb.toml", "quiet = true\nbackend = [\"h:1\", \"redis://:secret@h:2\"]");
    let again = config.reread().expect("right");
    assert_eq!(config.changes(&again), ["client-timeout", "quiet", "backend"]);
    assert_eq!(config.client_timeout.as_secs(), 60);
    setup.write("lb.toml", "quit = true");
    let lines = config.reread().expect_err("wrong").lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].ends_with("lb.toml:1: there is no key quit; did you mean quiet?"),
        "{lines:?}"
    );
}

#[test]
fn the_example_has_every_key_at_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/redis-lb.toml");
    let example = fs::read_to_string(path).expect("the example");
    let setup = Setup::new("");
    let default = setup.shown(&[], &[]);
    setup.write("lb.toml", &example);
    assert_eq!(values(&setup.shown(&[], &[])), values(&default));
    // Their values are examples.
    let has_default = |name: &str| {
        !["users-file", "cors-origin", "trusted-proxy"].contains(&name)
            && !name.starts_with("require-password")
    };
    let is_key = |line: &&str| {
        let name = line.strip_prefix('#').and_then(|line| line.split_once(" = "));
        *line == "#[[backend]]"
            || name.is_some_and(|(name, _)| {
                has_default(name) && name.chars().all(|c| c == '-' || c.is_ascii_lowercase())
            })
    };
    for flag in flags().iter().filter_map(Arg::get_long).filter(|key| *key != "backend") {
        let begin = format!("#{flag} = ");
        let count = example.lines().filter(|line| line.starts_with(&begin)).count();
        assert_eq!(count, 1, "contrib/redis-lb.toml should have a line {begin}…");
    }
    let lines = example.lines().map(|line| if is_key(&line) { &line[1..] } else { line });
    setup.write("lb.toml", lines.collect::<Vec<_>>().join("\n"));
    let shown = setup.shown(&[], &[]);
    for line in values(&default) {
        assert!(values(&shown).contains(&line), "the example has another default than {line}");
    }
}

#[test]
fn the_level_of_the_log_is_a_flag_that_beats_rust_log() {
    let server = RedisServer::start();
    let start = |level: &[&str], rust_log: &str| {
        let mut command = Command::new(LB);
        command.args(["--listen", "127.0.0.1:0", "--backend", &server.address()]);
        command.args(level).env("RUST_LOG", rust_log);
        let lb = Balancer::spawn(command);
        lb.get("/-/ready");
        lb.get("/none");
        lb
    };
    for (level, rust_log) in [(&["--log-level=debug"][..], "warn"), (&[], "debug")] {
        let lb = start(level, rust_log);
        wait_until("the probe is logged", || lb.log().contains("GET /-/ready"));
    }
    let filter = "debug,redis_lb::logging=warn";
    let lb = start(&["--log-level=info"], filter);
    lb.signal("-TERM");
    wait_until("the end is logged", || lb.log().contains("ended"));
    assert!(!lb.log().contains("/none"), "{}", lb.log());
}
