use super::*;

/// SHA-256 of `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn user(rules: &str) -> Arc<User> {
    let users = Users::from_entries(&[("alice".into(), rules.into())]);
    let users = users.unwrap_or_else(|error| panic!("{rules}: {error}"));
    Arc::clone(users.get(b"alice").expect("the user"))
}

fn error(rules: &str) -> String {
    let users = Users::from_entries(&[("alice".into(), rules.into())]);
    users.expect_err(rules).to_string()
}

#[test]
fn without_configured_users_everybody_may_do_everything() {
    let users = Users::open();
    assert!(!users.require_auth());
    let default = users.default_user().expect("it is open");
    assert!(default.is_unrestricted() && default.sees_all_keys());
    assert_eq!(default.name(), "default");
    assert!(users.authenticate(b"default", b"anything").is_some());
    assert!(users.authenticate(b"alice", b"anything").is_none());
}

#[test]
fn who_authenticates_gives_a_password_of_a_user_that_is_on() {
    let rules = format!(
        "user default on nopass +@all ~* &*\nuser one on >secret\nuser two on >other #{SECRET} >third\n\
         user off off >secret\nuser none on\nuser any on nopass\nuser gone on >secret <secret >new\n\
         user hash on #{SECRET} !{SECRET} >new\nuser empty on >\nuser reset on >secret reset on\n\
         user again on nopass >secret\nuser anyone on >secret nopass"
    );
    let users = Users::parse_acl_file(&rules).expect("users");
    for (name, password, is_right) in [
        ("one", "secret", true),
        ("one", "Secret", false),
        ("one", "", false),
        ("ONE", "secret", false),
        ("two", "secret", true),
        ("two", "other", true),
        ("two", "third", true),
        ("two", "new", false),
        ("off", "secret", false),
        ("none", "", false),
        ("none", "secret", false),
        ("any", "whatever", true),
        ("gone", "secret", false),
        ("gone", "new", true),
        ("hash", "secret", false),
        ("empty", "", true),
        ("reset", "secret", false),
        ("again", "secret", true),
        ("again", "other", false),
        ("anyone", "other", true),
        ("nobody", "secret", false),
        ("", "", false),
        ("one", SECRET, false),
    ] {
        let user = users.authenticate(name.as_bytes(), password.as_bytes());
        assert_eq!(user.map(|user| user.name().to_owned()), is_right.then(|| name.to_owned()));
    }
    // No password has this digest, nor is it that of a password that is missing.
    assert!(users.authenticate(b"none", &[0; 32]).is_none());
    assert!(users.get(b"any").expect("a user").takes_any_password());
    assert!(!users.get(b"again").expect("a user").takes_any_password());
}

#[test]
fn clients_must_authenticate_unless_the_default_user_needs_no_password() {
    for (rules, is_open) in [
        ("user default on nopass", true),
        ("user default off nopass", false),
        ("user default on >secret", false),
        ("user alice on nopass", false),
    ] {
        let users = Users::parse_acl_file(rules).expect("users");
        assert_eq!(users.require_auth(), !is_open, "{rules}");
        assert_eq!(users.default_user().is_some(), is_open, "{rules}");
    }
}

#[test]
fn what_redis_prints_is_read() {
    let text = format!(
        "user default on nopass sanitize-payload ~* &* +@all\r\n\n  # a comment\n\
         user alice on #{SECRET} ~a* %R~b resetchannels &c* -@all +get +config|get (~w:* resetchannels -@all +@read)\n\
         \tuser  bob\toff  skip-sanitize-payload resetchannels -@all  \nuser carol"
    );
    let users = Users::parse_acl_file(&text).expect("users");
    assert_eq!(users.iter().len(), 4);
    let alice = users.get(b"alice").expect("alice");
    for (key, may_read) in [("a1", true), ("b", true), ("w:1", true), ("b1", false), ("", false)] {
        assert_eq!(alice.may_read_key(key.as_bytes()), may_read, "{key}");
    }
    assert!(alice.may_receive(b"cc", false) && alice.may_receive(b"c*", true));
    assert!(!alice.may_receive(b"d", false) && !alice.may_receive(b"cc", true));
    assert!(!alice.sees_all_keys() && !alice.is_unrestricted());
    assert!(!users.get(b"bob").expect("bob").is_on());
}

#[test]
fn what_a_user_may_see_is_what_some_of_its_permissions_show() {
    for (rules, sees_all, is_unrestricted) in [
        ("~* &* +@all", true, true),
        ("allkeys allchannels allcommands", true, true),
        ("~* &* +@all +get +@read", true, true),
        ("~* &* -get +@all", true, true),
        ("~a (~* &* +@all)", true, true),
        ("~* +@all", true, false),
        ("~* &* +@all -get", true, false),
        ("~* &* +@all -@dangerous", true, false),
        ("%R~* &* +@all", true, false),
        ("%W~* %R~a &* +@all", false, false),
        ("~a* +get", false, false),
        // No command can use the permission for all keys.
        ("~a +get (~*)", false, false),
        ("~* -@all", false, false),
    ] {
        let user = user(rules);
        assert_eq!(user.sees_all_keys(), sees_all, "{rules}");
        assert_eq!(user.is_unrestricted(), is_unrestricted, "{rules}");
    }
    let user = user("%W~w ~a +get (~b +@read) (~c) (%W~a +@all)");
    for (key, may_read) in [("a", true), ("b", true), ("c", false), ("w", false)] {
        assert_eq!(user.may_read_key(key.as_bytes()), may_read, "{key}");
    }
}

#[test]
fn rules_that_can_not_be_kept_are_refused_with_the_reason() {
    for (rules, expected) in [
        ("on +@nosuch", "user alice: rule 2 (`+@nosuch`): Redis has no such category"),
        (
            "-@raed",
            "user alice: rule 1 (`-@raed`): Redis has no such category; did you mean `@read`?",
        ),
        ("%X~a", "user alice: rule 1 (`%X~a`): before the ~ stands R, W or RW"),
        ("%~a", "user alice: rule 1 (`%~a`): before the ~ stands R, W or RW"),
        ("%R", "user alice: rule 1 (`%R`): it has no ~ before the pattern"),
        (
            "+config|get|a",
            "user alice: rule 1 (`+config|get|a`): a subcommand can't be restricted by its arguments",
        ),
        ("+config|", "user alice: rule 1 (`+config|`): it names no subcommand"),
        ("-", "user alice: rule 1 (`-`): it names no command"),
        ("+get)", "user alice: rule 1 (`+get)`): there is a parenthesis too many in it"),
        (
            "~* ~a",
            "user alice: rule 2 (`~a`): it comes after ~* or `allkeys`, so it would have no effect: put `resetkeys` before it",
        ),
        (
            "&* &a",
            "user alice: rule 2 (`&a`): it comes after &* or `allchannels`, so it would have no effect: put `resetchannels` before it",
        ),
        (
            "nopas",
            "user alice: rule 1 (not shown: a password may be in it): no rule of ACL SETUSER begins like this; did you mean `nopass`?",
        ),
        (
            "#abc",
            "user alice: rule 1 (not shown: a password may be in it): a password's SHA-256 has exactly 64 digits, 0 to 9 and a to f in lower case",
        ),
        (
            "<secret",
            "user alice: rule 1 (not shown: a password may be in it): the user has no such password to take away",
        ),
        (
            "on (+get ~a",
            "user alice: rule 2 (not shown: a password may be in it): this selector has no closing parenthesis",
        ),
        (
            "(+get +@all on)",
            "user alice: rule 1 (not shown: a password may be in it): a selector has rules about commands, keys and channels only",
        ),
        (
            "(+@nosuch >secret)",
            "user alice: rule 1 (not shown: a password may be in it): within this selector, `+@nosuch`: Redis has no such category",
        ),
        (
            "(~\"a\")",
            "user alice: rule 1 (not shown: a password may be in it): quotes within selectors are not understood",
        ),
        (
            "on %W~a +@all (%W~b +set)",
            "user alice: all its key patterns are for writing only (%W~), and nothing is written through redis-lb: \
             give it one for reading (~ or %R~), or leave it out",
        ),
    ] {
        assert_eq!(error(rules), expected);
    }
    // They are of use beside others, or as rules that Redis has in its own lists.
    for harmless in ["%W~a %R~b", "%RW~a +@write -@write", "%W~a (~* +get)", "+no.such.command"] {
        user(harmless);
    }
}

#[test]
fn a_file_is_refused_with_the_line() {
    for (text, expected) in [
        ("", "there is no user, so nobody could read anything"),
        ("# nobody\n\n", "there is no user, so nobody could read anything"),
        (
            "\nalice on >secret",
            "line 2: a line begins with `user` and the user's name, unless it is a comment",
        ),
        ("user", "line 1: a line begins with `user` and the user's name, unless it is a comment"),
        (
            "users a",
            "line 1: a line begins with `user` and the user's name, unless it is a comment",
        ),
        ("user a\nuser b on\nuser a off", "line 3: user a is there already"),
        ("user a on\nuser b +@x", "line 2: user b: rule 1 (`+@x`): Redis has no such category"),
        (
            "user a\u{7}b on",
            "line 1: user `a\\u{7}b`: this can't be the name of a user: it has white space or control characters",
        ),
    ] {
        let error = Users::parse_acl_file(text).expect_err(text).to_string();
        assert_eq!(error, expected);
    }
    for name in ["", "a b", &"n".repeat(257)] {
        let error = Users::from_entries(&[(name.into(), "on".into())]).expect_err(name);
        assert!(error.to_string().contains("can't be the name of a user"), "{error}");
    }
    assert!(Users::from_entries(&[]).is_err(), "nobody is forgotten by mistake");
}

#[test]
fn everything_has_a_limit() {
    let many = |count: usize, rule: fn(usize) -> String| {
        (0..count).map(rule).collect::<Vec<_>>().join(" ")
    };
    let digest = |number: usize| format!("#{number:064}");
    let key = |number: usize| format!("~{number}");
    let selector = |number: usize| format!("(&{number})");
    for (limit, rule, expected) in [
        (32, digest as fn(usize) -> String, "at most 32 passwords"),
        (1000, key, "at most 1000 patterns"),
        (100, selector, "at most 100 selectors"),
    ] {
        user(&many(limit, rule));
        // One that is there already does not count.
        user(&format!("{} {}", many(limit, rule), many(1, digest)));
        let error = error(&many(limit + 1, rule));
        assert!(error.contains(expected), "{error}");
    }
    assert!(error(&"on ".repeat(22_000)).contains("more than 65536 bytes"));
    let users: Vec<_> = (0..=MAX_USERS).map(|number| (number.to_string(), "on".into())).collect();
    assert!(Users::from_entries(&users[1..]).is_ok());
    let error = Users::from_entries(&users).expect_err("one too many").to_string();
    assert!(error.contains("at most 10000"), "{error}");
}

#[test]
fn neither_errors_nor_debug_output_have_a_password() {
    let users = format!("{:?}", user(&format!("on >hidden #{SECRET}")));
    assert!(!users.contains("hidden") && !users.contains(SECRET), "{users}");
    for rules in [
        "on >my hidden",
        ">a hidden +get",
        "<hidden",
        "#hidden",
        "!hidden",
        "(>hidden",
        "(>hidden)",
    ] {
        let error = error(rules);
        assert!(!error.contains("hidden"), "{error}");
    }
}

mod properties {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const PIECES: [&str; 30] = [
        "user ", "alice ", "\n", " ", "(", ")", "+", "-", "@", "|", "~", "%R~", "%", "&", "*", ">",
        "<", "#", "!", "get", "all", "read", "on", "nopass", "reset", "é", "\0", "\u{200b}", "[^",
        "\\",
    ];

    proptest! {
        #[test]
        fn whatever_text_it_is_it_is_read_or_refused(
            text in ".*",
            pieces in vec(select(&PIECES[..]), 0..40),
            key in vec(any::<u8>(), 0..20),
        ) {
            for rules in [text, pieces.concat(), format!("user a {}", pieces.concat())] {
                let users = [
                    Users::parse_acl_file(&rules),
                    Users::from_entries(&[(rules.clone(), rules.clone())]),
                    Users::from_entries(&[("alice".into(), rules)]),
                ];
                for user in users.iter().flatten().flat_map(Users::iter) {
                    prop_assert!(user.may_read_key(&key) || !user.sees_all_keys() || key.is_empty());
                    user.may_receive(&key, true);
                    user.may_receive(&key, false);
                }
            }
        }

        #[test]
        fn no_error_has_a_password(
            before in vec(select(&PIECES[..]), 0..10),
            sign in select(&[">", "<", "#", "!", "(>", "(+get >", ">a "][..]),
            after in vec(select(&PIECES[..]), 0..10),
        ) {
            let rules = format!("{} {sign}hidden {}", before.concat(), after.concat());
            if let Err(error) = Users::from_entries(&[("alice".into(), rules.clone())]) {
                prop_assert!(!error.to_string().contains("hidden"), "{}: {}", rules, error);
            }
        }
    }
}
