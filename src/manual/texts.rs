//! What the man pages say besides the flags.

/// The texts of one page. Blank lines separate paragraphs.
pub(super) struct Texts {
    /// What it is for, in one line that `whatis` and `apropos` show: at most 70 characters with the name.
    pub purpose: &'static str,
    /// The forms of the command line, one a line.
    pub synopsis: &'static str,
    /// What it does.
    pub description: &'static str,
    /// The exit codes, where `--help` does not name them.
    pub exit_status: &'static str,
    /// Variables that no flag names.
    pub environment: &'static [(&'static str, &'static str)],
    /// Files that it uses.
    pub files: &'static [(&'static str, &'static str)],
    /// Signals that it understands.
    pub signals: &'static [(&'static str, &'static str)],
    /// Other pages, and addresses of documents.
    pub see_also: &'static [&'static str],
}

/// The variable that turns colours off.
const NO_COLOR: (&str, &str) = ("NO_COLOR", "If it is set and not empty, nothing is coloured.");

/// The documents that the package has.
const DOCUMENTS: &str = "the documents in /usr/share/doc/redis-lb";

const DEFAULTS_FILE: (&str, &str) = (
    "/etc/default/redis-lb",
    "Variables of the environment for the service, in the Debian package.",
);

const CONFIGURATION_FILE: (&str, &str) = (
    "/etc/redis-lb/redis-lb.toml",
    "The configuration of the service, in the Debian package. No file is read unless --config or LB_CONFIG names it.",
);

const CONTROL_SOCKET: (&str, &str) =
    ("/run/redis-lb/control", "The control socket of the service, which root may use.");

/// Returns the texts of a program, or of a command of `lb`; `None` for a command that has no page of its own.
pub(super) fn of(name: &str) -> Option<Texts> {
    match name {
        "lb" => Some(lb()),
        "check" => Some(check()),
        "config" => Some(config()),
        "ctl" => Some(ctl()),
        "top" => Some(top()),
        "seed" => Some(seed()),
        _ => None,
    }
}

fn lb() -> Texts {
    Texts {
        purpose: "balance reads over several Redis servers",
        synopsis: "lb [OPTIONS]\nlb check|config|ctl|top|completions|man [OPTIONS]",
        description: "\
lb is one address in front of several Redis servers that hold the same data. Clients read through it on one port, over \
HTTP and over the Redis protocol. Each client goes to the server that has the fewest clients. No read fails while one \
good server is left. Nobody can write through it.

Without a command, lb serves in the foreground, and logs to standard error. It prints the address of its status page.

Each option can stand in a file in TOML (--config), and in a variable of the environment. An option on the command line \
overrides the variable, and that the file.",
        exit_status: "0 after SIGINT or SIGTERM, 1 if it can't serve, 2 if an option, a variable or the file is wrong.",
        environment: &[
            NO_COLOR,
            ("RUST_LOG", "The level of the log for single modules; LB_LOG_LEVEL has the one for all."),
            (
                "LISTEN_FDS, LISTEN_PID",
                "A listening socket that systemd, or another process, passes on. lb serves that one, and ignores --listen.",
            ),
            ("NOTIFY_SOCKET", "Where systemd is told that lb serves, reads its configuration again, or ends."),
        ],
        files: &[DEFAULTS_FILE, CONFIGURATION_FILE, CONTROL_SOCKET],
        signals: &[
            (
                "SIGINT, SIGTERM",
                "Ends it in peace: requests that run may finish, within --drain-timeout. A second one ends it at once.",
            ),
            ("SIGHUP", "Reads the files again: configuration, users, certificates. The log has the result."),
        ],
        see_also: &[
            "lb-check(1)",
            "lb-config(1)",
            "lb-ctl(1)",
            "lb-top(1)",
            "seed(1)",
            "redis-cli(1)",
            "systemctl(1)",
            DOCUMENTS,
        ],
    }
}

fn check() -> Texts {
    Texts {
        purpose: "check whether Redis servers hold the same data",
        synopsis: "lb [OPTIONS] check [OPTIONS]",
        description: "\
Asks all servers at the same time whether they can be read from, and compares what they hold: the number of keys, and \
some keys that are chosen at random, with their types and, unless they are large, their values. It prints a table of \
the servers, and what is wrong with what to do about it. It writes nothing, and serves nothing.

Options of lb may stand before check.",
        exit_status: "",
        environment: &[NO_COLOR, ("LB_BACKENDS", "The servers, if no --backend names any; all variables of lb count.")],
        files: &[DEFAULTS_FILE, CONFIGURATION_FILE],
        signals: &[],
        see_also: &["lb(1)", "lb-config(1)", "seed(1)", DOCUMENTS],
    }
}

fn config() -> Texts {
    Texts {
        purpose: "print the configuration that is in effect",
        synopsis: "lb [OPTIONS] config",
        description: "\
Prints the configuration that is in effect, in the form of its file, and where each value comes from: an option, a \
variable, a line of the file, or the default. It serves nothing.",
        exit_status: "",
        environment: &[("LB_*", "All variables of lb count.")],
        files: &[DEFAULTS_FILE, CONFIGURATION_FILE],
        signals: &[],
        see_also: &["lb(1)", "lb-check(1)", DOCUMENTS],
    }
}

fn ctl() -> Texts {
    Texts {
        purpose: "control an lb that runs",
        synopsis: "lb ctl [OPTIONS] COMMAND",
        description: "\
Talks to an lb that runs on this machine, through its control socket: shows the backends and the clients, drains a \
backend or takes it out of service for maintenance, adds and removes backends, reads the configuration again.

What is changed in this way holds until lb ends, or the command ready undoes it.",
        exit_status: "",
        environment: &[("LB_CONTROL", "The control socket, if --control does not name it.")],
        files: &[CONTROL_SOCKET],
        signals: &[],
        see_also: &["lb(1)", "lb-top(1)", DOCUMENTS],
    }
}

fn top() -> Texts {
    Texts {
        purpose: "show live what an lb that runs does",
        synopsis: "lb top [OPTIONS] [URL]",
        description: "\
Shows what an lb that runs does, in the terminal, once a second: how many backends are up, which fail, for how long and \
why, and for each its clients, reads, latency, lag and keys. It only reads. The status page shows more.

When lb does not answer, it says so and since when, and goes on once it answers again.",
        exit_status: "",
        environment: &[
            NO_COLOR,
            ("LB_CONTROL", "The control socket, if neither --control nor a URL names the balancer."),
            ("LB_ADMIN_LISTEN, LB_LISTEN", "The address, if no control socket is named."),
        ],
        files: &[CONTROL_SOCKET],
        signals: &[
            ("SIGINT, SIGTERM, SIGHUP, SIGQUIT", "End it; the terminal is restored first."),
            ("SIGTSTP, SIGCONT", "Stop it, with the terminal restored, and let it go on: Ctrl-Z and fg."),
        ],
        see_also: &["lb(1)", "lb-ctl(1)", DOCUMENTS],
    }
}

fn seed() -> Texts {
    Texts {
        purpose: "load a CSV file into several Redis servers",
        synopsis: "seed [OPTIONS] [FILE]",
        description: "\
Loads a CSV file into several Redis servers, each row as the hash PREFIX:ID, and reads everything back to compare it with \
the file. A row replaces what its key held; other keys are left alone. The whole file is checked before anything is \
written. FILE is actors.csv unless it is named; - is standard input.",
        exit_status: "",
        environment: &[
            NO_COLOR,
            (
                "TMPDIR",
                "Where the rows of standard input are kept, in a file without a name; /tmp without it.",
            ),
        ],
        files: &[],
        signals: &[],
        see_also: &["lb(1)", "lb-check(1)", "redis-cli(1)", DOCUMENTS],
    }
}
