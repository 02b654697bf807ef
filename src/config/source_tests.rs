use super::*;

fn source(text: &str) -> SourceConfig {
    match BackendEntry::parse(text, &Login::default(), &Login::default()) {
        Ok(BackendEntry::Source(source)) => *source,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_documented_form_is_understood() {
    let dns = source("dns://u:p%40@redis.svc:6379/2?backup=true&zone=a");
    assert_eq!((dns.name(), &dns.kind), ("dns://redis.svc:6379", &SourceKind::Dns));
    let found = dns.server("10.0.0.1", 6379);
    assert_eq!((found.name(), found.database()), ("10.0.0.1:6379", 2));
    assert_eq!((found.username(), found.password()), (Some("u"), Some("p@")));
    assert!(found.settings.is_backup);
    assert_eq!(dns.server("::1", 1).name(), "[::1]:1");

    let srv = source("dns+srv://_redis._tcp.example.org");
    assert_eq!((srv.name(), &srv.kind), ("dns+srv://_redis._tcp.example.org", &SourceKind::DnsSrv));

    let primary = source("primary://:secret@db:6379?read=all&weight=3");
    assert_eq!(primary.kind, SourceKind::Primary { read: ReadFrom::All });
    assert_eq!((primary.name(), primary.settings.weight), ("primary://db:6379", 3));

    let url = "sentinel://u:p@a:1,[::1]:2,c/my-db/3?read=replicas&sentinel-password=s%26";
    let sentinel = source(url);
    assert_eq!(sentinel.name(), "sentinel://a:1,[::1]:2,c:26379/my-db");
    assert_eq!((sentinel.target.database(), sentinel.target.username()), (3, Some("u")));
    let SourceKind::Sentinel { sentinels, primary, read } = &sentinel.kind else { panic!("one") };
    assert_eq!((primary.as_str(), *read), ("my-db", ReadFrom::Replicas));
    let logins: Vec<_> = sentinels.iter().map(|s| (s.username(), s.password())).collect();
    assert_eq!(logins, [(None, Some("s&")); 3]);
    let shown = "sentinel://u:…@a:1,[::1]:2,c:26379/my-db/3?read=replicas&sentinel-password=…";
    assert_eq!(sentinel.shown_url(true, true), shown);
}

#[test]
fn sources_whose_servers_speak_tls_have_a_prefix() {
    let is_tls = |address: &BackendAddress| address.tls().is_some();
    for url in [
        "rediss+dns://redis.svc:6379",
        "rediss+dns+srv://_redis._tcp.example.org",
        "rediss+primary://db:6379",
    ] {
        let source = source(url);
        assert_eq!(source.name(), url);
        assert!(is_tls(&source.target) && is_tls(&source.server("10.0.0.1", 1).address), "{url}");
    }
    for (url, of_servers, of_sentinels) in [
        ("sentinel://a:1,b:2/n?read=all", false, false),
        ("sentinel://a:1,b:2/n?read=all&sentinel-tls=true", false, true),
        ("rediss+sentinel://a:1,b:2/n?read=all", true, true),
        ("rediss+sentinel://a:1,b:2/n?read=all&sentinel-tls=false", true, false),
    ] {
        let source = source(url);
        let SourceKind::Sentinel { sentinels, .. } = &source.kind else { panic!("{url}") };
        assert_eq!(is_tls(&source.target), of_servers, "{url}");
        assert_eq!(sentinels.iter().map(is_tls).collect::<Vec<_>>(), [of_sentinels; 2], "{url}");
        assert_eq!(source.shown_url(true, true), url);
    }
    let texts = ["rediss+sentinel://a:1", "b:2/name", "h:2"].map(str::to_owned);
    assert_eq!(parse_entries(&texts).expect("a list").len(), 2);
}

#[test]
fn mistakes_are_named_and_no_text_is_repeated() {
    for (text, reason) in [
        ("dns://name", "the port is missing"),
        ("dns://name:0", "port 0"),
        ("dns://name:1?read=all", "after the ? come weight"),
        ("dns+srv://_redis._tcp.name:1", "the SRV records have the ports"),
        ("dns+srv://_redis._tcp.name?weight=2", "the SRV records have the weights"),
        ("primary://h:1?sentinel-tls=true", "after the ? come read"),
        ("sentinel://h:1/n?sentinel-tls=maybe", "sentinel-tls is true or false"),
        ("primary://h:1?read=some", "read is replicas, all or primary-last"),
        ("primary://h:1?sentinel-user=u&sentinel-password=hunter2", "the login of Sentinels"),
        ("sentinel://a:1,b:2", "the name is missing"),
        ("sentinel://a:1/", "the name is missing"),
        ("sentinel://a:1/my db", "the name has letters"),
        ("sentinel://a:1,b:2,a:1/n", "a Sentinel is named twice"),
        ("sentinel://a:1/n?sentinel-password=%E2%80%A6", "the password was hidden"),
        ("sentinel://a:1/n/x", "after the / comes the number of a database"),
        ("sentinel://a:x/n", "a port is a number from 1 to 65535"),
        ("sentinel://a:1/n?sentinel-user=hunter2", "a user needs a password"),
        ("sentinel://u:hunter?2@a:1/n", "percent-encode"),
    ] {
        let error = BackendEntry::parse(text, &Login::default(), &Login::default());
        let error = error.expect_err(text).to_string();
        assert!(error.starts_with(reason), "{text}: {error}");
        assert!(error.contains("; write ") && !error.contains("hunter2"), "{error}");
    }
    let one = Login { user: None, password: Some("s".to_owned()) };
    assert!(BackendEntry::parse("h:1", &Login::default(), &one).is_err());
}

#[test]
fn a_list_that_was_split_at_commas_has_its_sentinels_together() {
    let texts = ["h:1", "sentinel://u:p@a:1", "b:2", "c:3/name", "h:2"].map(str::to_owned);
    let entries = parse_entries(&texts).expect("a list");
    let names: Vec<_> = entries.iter().map(BackendEntry::name).collect();
    assert_eq!(names, ["h:1", "sentinel://a:1,b:2,c:3/name", "h:2"]);
    let twice = ["dns://a:1", "dns://u:p@a:1"].map(str::to_owned);
    assert!(parse_entries(&twice).is_err_and(|error| error.contains("twice")));
}
