//! What other programs call their flags and commands, and what there is in their place.

/// Names of flags that other programs have, and what `lb` has in their place. `{}` stands for what was typed as the value.
pub(super) type Foreign = (&'static [&'static str], &'static str);

pub(super) const LB_FLAGS: [Foreign; 38] = [
    (
        &["-p", "-P", "--port", "--http-port", "--redis-port", "--listen-port", "--bind-port"],
        "write --listen 127.0.0.1:{} for where clients connect (0.0.0.0:{} for every network), or --backend 127.0.0.1:{} for \
         a Redis server",
    ),
    (
        &["-l", "--bind", "--listen-address", "--address", "--addr", "--interface", "--ip"],
        "write --listen ADDRESS:PORT, such as --listen 0.0.0.0:1310",
    ),
    (
        &["-H", "--host", "--hostname"],
        "write --listen ADDRESS:PORT for where clients connect, and --backend HOST:PORT for each Redis server",
    ),
    (
        &[
            "-b",
            "-s",
            "-r",
            "--backends",
            "--server",
            "--servers",
            "--redis",
            "--redis-url",
            "--url",
            "--uri",
        ],
        "write --backend HOST:PORT, once for each Redis server",
    ),
    (
        &[
            "--upstream",
            "--upstreams",
            "--target",
            "--node",
            "--nodes",
            "--endpoint",
            "--replica",
            "--replicas",
        ],
        "write --backend HOST:PORT, once for each Redis server",
    ),
    (&["--master", "--primary"], "write --backend primary://HOST:PORT, and its replicas are found"),
    (
        &["--sentinel", "--sentinels", "--master-name"],
        "write --backend sentinel://HOST:PORT,HOST:PORT/NAME, and its servers are found",
    ),
    (
        &[
            "-a",
            "--pass",
            "--password",
            "--auth",
            "--requirepass",
            "--redis-password",
            "-u",
            "--user",
            "--username",
        ],
        "a server's login is in its URL: --backend redis://USER:PASSWORD@HOST:PORT; that of clients is in a file: \
         --require-password-file FILE",
    ),
    (&["-n", "--db", "--database"], "a database is in the URL: --backend redis://HOST:PORT/DB"),
    (
        &["--tls", "--ssl", "--rediss"],
        "write --backend rediss://HOST:PORT for servers with TLS; towards clients it is --tls-cert FILE --tls-key FILE",
    ),
    (
        &["--cert", "--certificate", "--ssl-cert", "--key", "--private-key", "--ssl-key"],
        "towards clients write --tls-cert FILE --tls-key FILE; towards Redis, --backend-tls-cert and --backend-tls-key",
    ),
    (
        &["--ca", "--cacert", "--ca-cert", "--cafile", "--ca-file"],
        "write --backend-tls-ca FILE for the certificates of servers, --tls-client-ca FILE for those of clients",
    ),
    (
        &["-k", "--insecure", "--skip-verify", "--tls-skip-verify"],
        "certificates are always checked: name their CA by --backend-tls-ca FILE",
    ),
    (
        &["-w", "-t", "--workers", "--threads", "--processes", "--concurrency", "--io-threads"],
        "there is no such number: each client has a thread, and --max-clients NUMBER is their limit",
    ),
    (
        &["--connections", "--max-connections", "--maxconn", "--pool-size", "--pool"],
        "write --max-clients NUMBER for clients, --backend-connections NUMBER for connections to each server",
    ),
    (
        &["--timeout", "--connect-timeout", "--idle-timeout"],
        "write --client-timeout TIME for idle clients, --backend-timeout TIME for silent servers, --check-timeout TIME \
         for checks",
    ),
    (
        &["-v", "-vv", "--verbose", "--debug", "--trace"],
        "write --log-level debug for more in the log; -V prints the version",
    ),
    (
        &["-q", "--silent", "--no-log"],
        "write --quiet for a log without requests, --log-level error for errors alone",
    ),
    (
        &["-o", "--log", "--log-file", "--logfile", "--access-log"],
        "the log goes to standard error: write 2> FILE after the command",
    ),
    (
        &["-c", "-f", "--file", "--conf", "--configuration", "--config-file", "--cfg"],
        "write --config FILE",
    ),
    (
        &[
            "-d",
            "-D",
            "--daemon",
            "--daemonize",
            "--background",
            "--detach",
            "--pidfile",
            "--pid-file",
        ],
        "lb stays in the foreground: let systemd start it (contrib/systemd), or write & after the command",
    ),
    (
        &[
            "--admin",
            "--admin-port",
            "--stats",
            "--status",
            "--metrics",
            "--metrics-port",
            "--prometheus",
        ],
        "they are below /-/ where clients connect, or at an address of their own: --admin-listen ADDRESS:PORT",
    ),
    (
        &["--weight", "--backup"],
        "they are in the URL: --backend 'redis://HOST:PORT?weight=2&backup=true'",
    ),
    (
        &[
            "--algorithm",
            "--balance",
            "--strategy",
            "--policy",
            "--method",
            "--round-robin",
            "--leastconn",
        ],
        "there is one way: the server with the fewest clients is next; weights are in the URLs of --backend",
    ),
    (
        &["--write", "--writes", "--allow-writes", "--read-write", "--rw"],
        "nobody writes through lb: a program that writes connects to the primary",
    ),
    (&["--read-only", "--readonly", "--ro"], "leave it out: nobody writes through lb"),
    (&["--cache-size", "--near-cache"], "write --cache SIZE, such as --cache 64MiB"),
    (
        &["--ttl", "--cache-ttl"],
        "there is no such time: Redis says when a key changes; --cache-max-silence TIME bounds how late that may be known",
    ),
    (&["--check", "--config-check", "--test", "--dry-run"], "check is a command: lb check"),
    (&["--json", "--log-json"], "write --log-format json for a log in JSON"),
    (&["--inter", "--interval"], "write --check-interval TIME for the time between two checks"),
    (
        &["--acl-file", "--aclfile", "--auth-file", "--htpasswd"],
        "write --users-file FILE for users in the form of Redis' users.acl",
    ),
    (
        &["--send-proxy", "--accept-proxy", "--proxy"],
        "write --proxy-protocol if each client comes by a proxy that sends the PROXY header",
    ),
    (&["--no-color", "--no-colour", "--color"], "the variable NO_COLOR=1 turns colours off"),
    (
        &["--gzip", "--compress", "--compression"],
        "leave it out: answers are compressed for clients that ask for it, unless there is --no-compression",
    ),
    (
        &["--retries", "--retry", "--max-retries"],
        "leave it out: a read that one server does not answer goes to another",
    ),
    (&["--env-file"], "a shell reads the variables of a file: set -a; . FILE; set +a"),
    (
        &["--ctl", "--reload", "--stop", "--drain"],
        "what changes a running lb is a command: lb ctl --help",
    ),
];

pub(super) const SEED_FLAGS: [Foreign; 9] = [
    (
        &[
            "-h",
            "-H",
            "-s",
            "-b",
            "--host",
            "--server",
            "--servers",
            "--backends",
            "--redis",
            "--url",
            "--target",
        ],
        "write --backend HOST:PORT, once for each server",
    ),
    (&["-p", "--port"], "write --backend 127.0.0.1:{}"),
    (
        &["-a", "-u", "--pass", "--password", "--auth", "--user", "--username"],
        "the login is in the URL: --backend redis://USER:PASSWORD@HOST:PORT",
    ),
    (&["-n", "--db", "--database"], "a database is in the URL: --backend redis://HOST:PORT/DB"),
    (&["--tls", "--ssl"], "write --backend rediss://HOST:PORT"),
    (&["-f", "-i", "--file", "--csv", "--input"], "the file is named without a flag: seed FILE"),
    (
        &["-d", "-F", "--separator", "--sep", "--delim", "--fs", "--tabs", "--tsv"],
        "write --delimiter ';', or tab, comma, semicolon, pipe",
    ),
    (&["--key", "--id-column", "--primary-key"], "write --id COLUMN for the column with the ids"),
    (&["--batch-size", "--chunk"], "write --batch ROWS"),
];

/// Words that are no commands of `lb`, and what there is in their place.
pub(super) const WORDS: [(&[&str], &str); 9] = [
    (
        &["start", "serve", "run", "server", "up", "proxy", "listen"],
        "lb without a command serves: lb --backend HOST:PORT",
    ),
    (&["stop", "quit", "shutdown", "down", "kill", "end"], "Ctrl-C, or kill PID, ends lb in peace"),
    (
        &[
            "reload", "restart", "status", "drain", "maint", "ready", "weight", "add", "remove",
            "log", "clients",
        ],
        "write lb ctl before it: lb ctl --help",
    ),
    (&["test", "doctor", "ping", "validate", "verify"], "write lb check"),
    (&["monitor", "watch", "stats", "dashboard", "htop"], "write lb top"),
    (&["completion", "complete", "bash", "zsh", "fish"], "write lb completions SHELL"),
    (&["manual", "manpages", "mangen"], "write lb man FOLDER"),
    (&["seed", "load", "import"], "seed is a program of its own: seed --help"),
    (
        &["true", "false", "yes", "no", "on", "off"],
        "a flag that is turned on has no value: write it, or leave it out",
    ),
];
