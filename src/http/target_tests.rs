use super::*;
use crate::http;
use crate::http::links::LINK_PARAMETER_BYTES;
use crate::http::query::{MAX_KEYS, MAX_PARAMETERS};

fn key(name: &[u8]) -> Target {
    Target::Key(query(name, None, Format::Json), None)
}

fn query(key: &[u8], field: Option<&[u8]>, format: Format) -> KeyQuery {
    let field = field.map(<[u8]>::to_vec);
    KeyQuery {
        key: key.to_vec(),
        database: None,
        field,
        format,
        from: None,
        cursor: None,
        search: None,
        trail: Trail::default(),
    }
}

fn page(target: &str) -> PageQuery {
    match parse(target, false) {
        Ok(Target::Page(page) | Target::Key(_, Some(page))) => page,
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn any_bytes_can_be_a_key() {
    assert_eq!(parse("/actor:1", false), Ok(key(b"actor:1")));
    assert_eq!(parse("/a/b//c", false), Ok(key(b"a/b//c")));
    assert_eq!(parse("//a", false), Ok(key(b"/a")));
    assert_eq!(parse("/a%2Fb%3f%25%00%ff%0A", false), Ok(key(b"a/b?%\0\xff\n")));
    assert_eq!(parse("/a+b", false), Ok(key(b"a+b")));
    assert_eq!(parse("/?key=a+b%2B", false), Ok(key(b"a b+")));
    assert_eq!(parse("/?key=", false), Ok(key(b"")));
    assert_eq!(parse("/ключ", false), Ok(key("ключ".as_bytes())));
    assert_eq!(parse("/-", false), Ok(key(b"-")));
    assert_eq!(parse("/%2D/ping", false), Ok(key(b"-/ping")));
    assert_eq!(parse("/%66avicon.ico", false), Ok(key(b"favicon.ico")));
}

#[test]
fn what_is_ours_is_told_apart() {
    let admin = |target| match parse(target, false) {
        Ok(Target::Admin(target)) => target,
        other => panic!("{target}: {other:?}"),
    };
    assert_eq!(admin("/-/"), AdminTarget::Page);
    assert_eq!(admin("/-/status.json"), AdminTarget::Status { since: 0 });
    assert_eq!(admin("/-/status.json?since=7"), AdminTarget::Status { since: 7 });
    assert_eq!(admin("/-/metrics"), AdminTarget::Metrics);
    assert_eq!(admin("/-/openapi.json"), AdminTarget::OpenApi);
    assert_eq!(admin("/-/ping"), AdminTarget::Ping);
    assert_eq!(admin("/-/health"), AdminTarget::Health);
    assert_eq!(admin("/-/ready?from=a"), AdminTarget::Ready);
    assert_eq!(admin("/-/else"), AdminTarget::Unknown);
    assert_eq!(parse("/favicon.ico?v=1", false), Ok(Target::Favicon));
}

#[test]
fn a_field_and_a_format_can_be_asked_for() {
    let field = query(b"a", Some(b"b c"), Format::Raw);
    assert_eq!(parse("/a?field=b%20c&format=raw", false), Ok(Target::Key(field, None)));
    assert_eq!(parse("/a?format=json", false), Ok(key(b"a")));
}

#[test]
fn listings_match_after_an_escaped_prefix() {
    assert_eq!(page("/").pattern, None);
    assert_eq!(page("/?match=a*").pattern.as_deref(), Some(&b"a*"[..]));
    assert_eq!(page("/a*[:").pattern.as_deref(), Some(&b"a\\*\\[:*"[..]));
    assert_eq!(page("/a:?match=?").pattern.as_deref(), Some(&b"a:?"[..]));
    assert_eq!((page("/").limit, page("/?limit=5").limit), (DEFAULT_PAGE_KEYS, 5));
}

#[test]
fn a_part_of_a_value_is_never_a_listing() {
    for target in ["/a:?field=b", "/a:?format=raw"] {
        assert!(matches!(parse(target, false), Ok(Target::Key(_, None))), "{target}");
    }
    assert!(parse("/a:?field=b&limit=5", false).expect_err("no listing").contains("\"limit\""));
}

#[test]
fn a_cursor_survives_its_trip_through_a_url() {
    let cursor = Cursor { run_id: "f00".repeat(13), position: u64::MAX };
    assert_eq!(page(&format!("/?cursor={}", cursor.to_text())).cursor, Some(cursor));
}

#[test]
fn a_link_leads_back_to_the_same_listing() {
    let query = PageQuery {
        prefix: b"-/a b:".to_vec(),
        pattern: None,
        matching: Some(b"x*&\xff".to_vec()),
        search: None,
        limit: 5,
        cursor: None,
        trail: Trail::default(),
        format: Format::Json,
        is_format_named: true,
        is_array: true,
        database: Some(3),
    };
    let cursor = Cursor { run_id: "abc".to_owned(), position: 7 };
    let link = query.link(&cursor);
    assert_eq!(
        link,
        "/%2D%2Fa%20b:?db=3&match=x%2A%26%FF&format=json&shape=array&limit=5&cursor=abc-7"
    );
    let parsed = page(&link);
    assert_eq!((parsed.prefix, parsed.matching), (query.prefix, query.matching));
    assert_eq!((parsed.limit, parsed.cursor, parsed.is_array), (5, Some(cursor), true));
    assert_eq!(parsed.database, Some(3));
}

#[test]
fn a_page_for_people_leads_back_and_to_its_json() {
    let parse = |link: &str| match parse(link, true) {
        Ok(Target::Page(page)) => page,
        other => panic!("{link}: {other:?}"),
    };
    let at = |position| Cursor { run_id: "abc".to_owned(), position };
    let first = parse("/?search=a&limit=5");
    assert_eq!((first.previous_link(), first.trail.page_number()), (None, None));
    let second = first.link(&at(7));
    assert_eq!(second, "/?search=a&limit=5&cursor=abc-7&previous=0");
    let third = parse(&second).link(&at(9));
    assert_eq!(third, "/?search=a&limit=5&cursor=abc-9&previous=0.7");
    assert_eq!(parse(&third).previous_link(), Some(second.clone()));
    assert_eq!(parse(&second).previous_link().as_deref(), Some("/?search=a&limit=5&cursor=abc-0"));
    assert_eq!(parse(&third).json_link(), "/?search=a&format=json&limit=5&cursor=abc-9");
    assert_eq!(parse("/").json_link(), "/?format=json&limit=2000");
}

#[test]
fn whatever_keys_begin_with_a_link_finds_them() {
    for prefix in [&b"actor:"[..], b":", b"a*:", b"[x]-^:", b"\\:", b"\xff \n:"] {
        let link = link_to_prefix(prefix, None);
        let Ok(Target::Page(page)) = parse(&link, true) else { panic!("{link}") };
        assert_eq!(page.pattern, Some([escape_glob(prefix), b"*".to_vec()].concat()), "{link}");
    }
    assert_eq!(link_to_prefix(b"actor:", Some(3)), "/?db=3&search=actor:");
}

#[test]
fn what_makes_no_sense_is_named() {
    for (target, why) in [
        ("/%", "%25"),
        ("/%4", "%25"),
        ("/%zz", "%25"),
        ("/?limit=0", "limit"),
        ("/-/status.json?since=-1", "since"),
        ("/?limit=x", "limit"),
        ("/a?db=x", "db is a number"),
        ("/?db=-1", "db is a number"),
        ("/?keys=a,b&db=2147483648", "db is a number from 0 to 2147483647"),
        ("/?limit=100001", "limit"),
        ("/?cursor=5", "cursor"),
        ("/?cursor=-5", "cursor"),
        ("/a?format=xml", "format"),
        ("/?format=raw", "format"),
        ("/a?feild=b", "\"feild\""),
        ("/a?match=b", "\"match\""),
        ("/a?field=b&field=c", "twice"),
    ] {
        let error = parse(target, false).expect_err(target);
        assert!(error.contains(why), "{target}: {error}");
    }
}

#[test]
fn the_number_of_parameters_is_bounded() {
    let target = |path: &str, count: usize| {
        let parameters: Vec<_> = (0..count).map(|number| format!("p{number}=")).collect();
        format!("{path}?{}", parameters.join("&"))
    };
    let error = |target: &str| parse(target, false).expect_err(target);
    assert!(error(&target("/a", MAX_PARAMETERS)).contains("\"p"));
    assert_eq!(error(&target("/a", MAX_PARAMETERS + 1)), "the query has more than 32 parameters");
    // Probes may add any.
    let health = parse(&target("/-/health", MAX_PARAMETERS + 1), false);
    assert_eq!(health, Ok(Target::Admin(AdminTarget::Health)));
}

#[test]
fn what_format_says_goes_before_what_the_client_accepts() {
    for (target, accepts, html) in [
        ("/", true, true),
        ("/", false, false),
        ("/a?format=json", true, false),
        ("/a?format=raw", true, false),
        ("/a?x=1&format=html", false, true),
        ("/%", true, true),
    ] {
        let accept = if accepts { "text/html" } else { "*/*" };
        let head = format!("GET {target} HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
        let (request, _) = http::parse(head.as_bytes()).expect("valid").expect("whole");
        assert_eq!(request.wants_html(), html, "{target}");
    }
    assert_eq!(
        parse("/a?format=html", true),
        Ok(Target::Key(query(b"a", None, Format::Html), None))
    );
    assert!(parse("/?limit=10001", true).is_err() && parse("/?limit=10000", true).is_ok());
    assert!(parse("/a?from=1", false).is_err() && parse("/a?from=1", true).is_ok());
}

#[test]
fn a_search_is_a_prefix_unless_it_has_wildcards() {
    for (target, pattern) in [
        ("/?search=a", &b"a*"[..]),
        ("/?search=a-b%5C", b"a\\-b\\\\*"),
        ("/?search=*a", b"*a"),
        ("/?search=", b"*"),
        ("/p:?search=a", b"p:a*"),
        ("/p:?search=[a]", b"p:[a]"),
    ] {
        assert_eq!(page(target).pattern.as_deref(), Some(pattern), "{target}");
    }
    assert!(parse("/?search=a&match=b", false).is_err());
}

#[test]
fn any_key_has_a_link_that_leads_to_it() {
    let keys: [&[u8]; 10] = [
        b"a",
        b"",
        b".",
        b"..",
        b"favicon.ico",
        b"a:",
        b"-/ping",
        b"//h/",
        b"\0\xff?#&+ %",
        b"<\"'>",
    ];
    for key in keys {
        let target = parse(&link_to_key(key, None, &[]).expect("a link"), true);
        assert_eq!(target, Ok(Target::Key(query(key, None, Format::Html), None)));
        let link = link_to_key(key, None, &[("field", b"&="), ("format", b"raw")]).expect("a link");
        let target = parse(&link, true);
        assert_eq!(target, Ok(Target::Key(query(key, Some(b"&="), Format::Raw), None)));
    }
}

#[test]
fn what_would_be_too_long_has_no_link() {
    let fits = vec![0xff; (MAX_LINK_BYTES - LINK_PARAMETER_BYTES - 1) / 3];
    let link = link_to_key(&fits, None, &[]).expect("a link");
    let head = format!("HEAD {link} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(http::parse(head.as_bytes()), Ok(Some(_))));
    let cursor = Cursor { run_id: "a".repeat(MAX_RUN_ID_BYTES), position: u64::MAX }.to_text();
    let (cursor, from) = (cursor.as_bytes(), u64::MAX.to_string());
    for (name, value) in [("cursor", cursor), ("from", from.as_bytes()), ("format", b"json")] {
        assert!(link_to_key(&fits, None, &[(name, value)]).is_some(), "{name}");
    }
    assert_eq!(link_to_key(&[&fits[..], b"ab"].concat(), None, &[]), None);
    assert_eq!(link_to_key(&vec![b'a'; 100_000_000], None, &[]), None);
    assert_eq!(link_to_key(b"key", None, &[("field", &vec![0xff; MAX_LINK_BYTES / 3])]), None);
}

#[test]
fn a_listing_whose_next_page_could_have_no_link_is_refused() {
    let long = "*".repeat(MAX_LINK_BYTES / 3);
    let error = parse(&format!("/?match={long}"), false).expect_err("too long");
    assert!(error.contains("too long"), "{error}");
    assert!(parse(&format!("/?match={}", &long[..long.len() - 100]), false).is_ok());
}

#[test]
fn several_keys_keep_their_order_and_an_encoded_comma_belongs_to_a_key() {
    let keys = |target: &str| match parse(target, true) {
        Ok(Target::Keys(query)) => query.keys,
        other => panic!("{target}: {other:?}"),
    };
    for (target, expected) in [
        ("/?keys=b,a,c", &[&b"b"[..], b"a", b"c"][..]),
        ("/?keys=a", &[b"a"]),
        ("/?keys=a,,b", &[b"a", b"", b"b"]),
        ("/?keys=,", &[b""]),
        ("/?keys=a%2Cb,c%2cd", &[b"a,b", b"c,d"]),
        ("/?keys=a+b,%ff", &[b"a b", b"\xff"]),
        ("/?keys=a,b,a", &[b"a", b"b"]),
        ("/?key=b&key=a", &[b"b", b"a"]),
        ("/?key=b&key=b", &[b"b"]),
        ("/?key=&key=a,b", &[b"", b"a,b"]),
        ("/?key=c&keys=a,b&key=d&keys=e", &[b"c", b"a", b"b", b"d", b"e"]),
        ("/?keys=a&format=json", &[b"a"]),
    ] {
        assert_eq!(keys(target), expected, "{target}");
    }
    assert!(matches!(parse("/?key=a,b", false), Ok(Target::Key(..))), "one key");
    let many: Vec<String> = (0..MAX_KEYS).map(|number| number.to_string()).collect();
    assert_eq!(keys(&format!("/?keys={}", many.join(","))).len(), MAX_KEYS);
    assert_eq!(keys(&format!("/?key={}", many.join("&key="))).len(), MAX_KEYS);
    for (target, why) in [
        (&format!("/?keys={},x", many.join(","))[..], "at most 1000 keys"),
        ("/?keys=", "keys=A,B"),
        ("/?keys=%", "%25"),
        ("/?keys=a,b&format=raw", "JSON"),
        ("/?keys=a,b&format=html", "JSON"),
        ("/?key=a&key=b&format=raw", "JSON"),
        ("/?keys=a,b&field=f", "field"),
        ("/?keys=a,b&limit=1", "\"limit\""),
        ("/a?keys=a,b", "\"keys\""),
        ("/a:?key=b", "\"key\""),
        ("/a?key=b&key=c", "\"key\""),
    ] {
        for html in [true, false] {
            let html = html || target.contains("=html");
            let error = parse(target, html).expect_err(target);
            assert!(error.contains(why), "{target:.60}: {error}");
        }
    }
}

#[test]
fn a_database_can_be_named_everywhere_and_links_keep_it() {
    for (target, html) in
        [("/a?db=3", false), ("/?key=a:&db=3", true), ("/a?format=raw&db=3", false)]
    {
        match parse(target, html) {
            Ok(Target::Key(query, None)) => assert_eq!(query.database, Some(3), "{target}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    match parse("/a:?db=3", false) {
        Ok(Target::Key(query, Some(page))) => {
            assert_eq!((query.database, page.database), (Some(3), Some(3)));
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(parse("/?keys=a&db=0", false), Ok(Target::Keys(query)) if query.database == Some(0))
    );
    for key in [&b"a"[..], b"a:", b""] {
        for parameters in [&[][..], &[("field", &b"f"[..])]] {
            let link = link_to_key(key, Some(7), parameters).expect("a link");
            match parse(&link, true) {
                Ok(Target::Key(query, None)) => {
                    assert_eq!((&query.key[..], query.database), (key, Some(7)), "{link}");
                }
                other => panic!("{link}: {other:?}"),
            }
        }
    }
}
