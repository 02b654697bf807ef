use super::address::DEFAULT_BACKENDS;
use super::*;

fn config(args: &[&str]) -> Result<Config, String> {
    Config::from_arguments([&["lb"], args].concat()).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = config(&[]).expect("valid");
    assert_eq!(config.listen.to_string(), "127.0.0.1:1310");
    let names: Vec<&str> = config.backends.iter().map(|backend| backend.name()).collect();
    assert_eq!(names, DEFAULT_BACKENDS);
    assert_eq!(config.max_clients, 4096);
    assert_eq!(config.client_timeout, Duration::from_secs(330));
    assert_eq!(config.backend_timeout, Duration::from_secs(1));
    assert_eq!(config.read_timeout, Duration::from_secs(30));
    assert_eq!(config.check_interval, Duration::from_secs(2));
    assert_eq!(config.check_timeout, Duration::from_secs(1));
    assert_eq!((config.fall, config.rise), (3, 2));
    let lag_bounds = LagBounds { time: Some(Duration::from_secs(60)), bytes: None };
    assert_eq!(config.lag_bounds(), lag_bounds);
    assert_eq!(config.forget_after, Duration::from_secs(10 * 60));
    assert_eq!(config.slow_start, Duration::from_secs(10));
    assert!(!config.no_rebalance);
    assert_eq!(config.backend_connections, 128);
    assert_eq!(config.max_argument_bytes(), 16 * 1024 * 1024);
    assert!(!config.allow_keys && !config.allow_scripts);
    assert_eq!(config.drain_delay, Duration::ZERO);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.demo_delay, Duration::ZERO);
    assert!(!config.quiet && !config.log_leases);
}

#[test]
fn the_flags_of_a_check_count_before_and_after_its_name() {
    let parsed = |args: &[&str]| {
        let config = config(args).expect("valid");
        let names: Vec<_> = config.backends.iter().map(|b| b.name().to_owned()).collect();
        (config.task, names.join(" "), config.check_timeout.as_secs())
    };
    let expected = |names: &str, seconds| (Task::Check, names.to_owned(), seconds);
    assert_eq!(parsed(&["check"]), expected(&DEFAULT_BACKENDS.join(" "), 1));
    assert_eq!(parsed(&["check", "--backend", "a:1,b:2"]), expected("a:1 b:2", 1));
    assert_eq!(parsed(&["--backend", "a:1", "--check-timeout", "3s", "check"]), expected("a:1", 3));
    let both = ["--backend", "a:1", "check", "--backend", "b:2", "--check-timeout", "2s"];
    assert_eq!(parsed(&both), expected("a:1 b:2", 2));
    assert_eq!(parsed(&[]).0, Task::Serve);
}

#[test]
fn wrong_values_are_refused_with_what_to_do() {
    let many = ["a"; 65].join(",");
    for (args, why) in [
        (["--listen", "1310"], "ADDRESS:PORT"),
        (["--listen", "127.0.0.1"], "ADDRESS:PORT"),
        (["--backend", "localhost"], "HOST:PORT"),
        (["--backend", "a:1,b:2,a:1"], "a:1 is in the list twice"),
        (["--max-clients", "0"], "1..=100000"),
        (["--client-timeout", "0s"], "at least 1ms"),
        (["--client-timeout", "5"], "such as 500ms"),
        (["--backend-timeout", "25h"], "at most 24h"),
        (["--demo-delay", "soon"], "--demo-delay"),
        (["--read-timeout", "900ms"], "--backend-timeout"),
        (["--cache", "1023KiB"], "at least 1.0 MiB, or 0B"),
        (["--cache", "lots"], "such as 64MiB"),
        (["--cache-max-silence", "99ms"], "between 100ms and 60s"),
        (["--cache-max-silence", "61s"], "between 100ms and 60s"),
        (["--no-cache", "a[b"], "a [ without ]"),
        (["--no-cache", "a,"], "can't be empty"),
        (["--no-cache", &many], "at most 64 patterns"),
    ] {
        let error = config(&args).expect_err(args[1]);
        assert!(error.contains(why), "{args:?}: {error}");
    }
}

#[test]
fn the_near_cache_is_off_unless_it_has_a_size() {
    let of = |args: &[&str]| config(args).expect("valid");
    let default = of(&[]);
    assert_eq!((default.cache_bytes, default.cache_max_silence), (0, Duration::from_secs(1)));
    assert!(default.no_cache.is_empty());
    assert_eq!(of(&["--cache", "0"]).cache_bytes, 0);
    assert_eq!(of(&["--cache", "64mib"]).cache_bytes, 64 << 20);
}

#[test]
fn patterns_that_are_not_cached_may_have_any_bytes() {
    use std::os::unix::ffi::OsStringExt;
    let patterns = OsString::from_vec(b"--no-cache=a\xff*,b:?".to_vec());
    let config = Config::from_arguments(["lb".into(), patterns]).expect("valid");
    let is_kept = |key: &[u8]| !config.no_cache.iter().any(|pattern| pattern.matches(key));
    for (key, expected) in
        [(&b"a\xff1"[..], false), (b"b:1", false), (b"b:12", true), (b"a1", true)]
    {
        assert_eq!(is_kept(key), expected, "{key:?}");
    }
}

#[test]
fn a_password_in_a_wrong_backend_is_not_repeated() {
    let error = config(&["--backend", "redis://u:hunter2@h:99999"]).expect_err("port");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_url_that_is_repeated_has_no_login() {
    for (text, redacted) in [
        ("unexpected 'redis://u:hunter2@h:1' found", "unexpected 'redis://…@h:1' found"),
        ("a://u:p@q@h b://h/@ c://:p@h", "a://…@h b://…@ c://…@h"),
        ("no URL, but a@b", "no URL, but a@b"),
        ("write redis://USER:PASSWORD@HOST:PORT/DB", "write redis://USER:PASSWORD@HOST:PORT/DB"),
    ] {
        assert_eq!(redact(text), redacted);
    }
}

#[test]
fn a_flag_without_an_effect_is_warned_of_and_one_with_an_effect_is_not() {
    let warned = |args: &[&str]| config(args).expect("valid").warnings().join(" | ");
    for (args, expected) in [
        (&["--backend-tls-server-name", "foo"][..], "--backend-tls-server-name has no effect: no"),
        (&["--zone", "eu"], "--zone has no effect: no backend is in this zone"),
        (&["--zone", "eu", "--backend", "a:1?zone=us"], "--zone has no effect"),
        (&["--control-owner", "0"], "--control-owner has no effect: there is no socket"),
        (&["--no-cache", "a*"], "--no-cache has no effect: there is no cache"),
        (&["--cache-max-silence", "2s"], "--cache-max-silence has no effect: there is no cache"),
        (&["--resolver", "127.0.0.1"], "--resolver has no effect: no backend"),
        (
            &["--rewrite-address", "a=b", "--backend", "dns://a:1"],
            "--rewrite-address has no effect",
        ),
        (&["--quiet", "--log-leases"], "--log-leases has no effect: --quiet"),
    ] {
        let warnings = warned(args);
        assert!(warnings.contains(expected), "{args:?}: {warnings}");
    }
    for args in [
        &["--backend", "rediss://a:1", "--backend-tls-server-name", "foo"][..],
        &["--backend", "sentinel://a:1/n?sentinel-tls=true", "--backend-tls-server-name", "foo"],
        &["--backend", "a:1?zone=eu", "--zone", "eu"],
        &["--control", "/tmp/lb.sock", "--control-owner", "0"],
        &["--cache", "64MiB", "--no-cache", "a*", "--cache-max-silence", "2s"],
        &["--cache-max-silence", "1s"],
        &["--backend", "dns://a:1", "--resolver", "127.0.0.1"],
        &["--backend", "primary://a:1", "--rewrite-address", "a=b"],
        &["--log-leases"],
    ] {
        let warnings = warned(args);
        assert!(!warnings.contains("no effect"), "{args:?}: {warnings}");
    }
}
