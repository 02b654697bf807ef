//! The data browser: what a person sees of keys and values, with a browser that runs no script.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::browser::Browser;
use crate::support::balancer::{Answer, Balancer};
use crate::support::forms::{Sample, TYPES, encoded};
use crate::support::redis::RedisServer;
use crate::users::{Files, acl_file};
use crate::users_http::basic;

const HTML: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A page as a browser gets it; what every page must have is checked here.
fn page(lb: &Balancer, path: &str) -> (Answer, String) {
    let answer = lb.request("GET", path, &[HTML]);
    assert!(answer.is_whole, "{path}");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
    let policy = answer.header("content-security-policy").expect("a policy");
    for part in
        ["default-src 'none'; style-src 'sha256-", "base-uri 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("script") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let html = String::from_utf8(answer.body.clone()).expect("UTF-8");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{path}");
    assert!(!html.to_lowercase().contains("<script") && !html.contains('\0'), "{path}");
    (answer, html)
}

fn ok(lb: &Balancer, path: &str) -> String {
    let (answer, html) = page(lb, path);
    assert_eq!(answer.status, 200, "{path}: {html}");
    html
}

fn status(lb: &Balancer, path: &str) -> u16 {
    page(lb, path).0.status
}

/// The texts between each `begin` and the next `end`.
fn between<'a>(html: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    html.split(begin).skip(1).map(|rest| rest.split(end).next().unwrap_or_default()).collect()
}

/// The rows of the page's table, without its head.
fn rows(html: &str) -> Vec<&str> {
    let Some(body) = html.split("<tbody>\n").nth(1) else { return Vec::new() };
    between(body.split("</tbody>").next().unwrap_or_default(), "<tr>", "</tr>")
}

/// The titles of the columns of the page's table.
fn columns(html: &str) -> Vec<&str> {
    let heads = between(html, "<th scope=\"col\"", "</th>");
    heads.iter().map(|head| head.split_once('>').expect("a tag").1).collect()
}

/// The pages from `path` on, along links of this relation.
fn walk_along(lb: &Balancer, path: &str, relation: &str) -> Vec<String> {
    let mut pages = vec![ok(lb, path)];
    loop {
        let last = pages.last().expect("one at least");
        let Some(to) = link(last, relation) else { return pages };
        assert!(pages.len() < 1000, "no end: {to}");
        pages.push(ok(lb, &to));
    }
}

/// The pages from `path` on, along `rel="next"`.
fn walk(lb: &Balancer, path: &str) -> Vec<String> {
    walk_along(lb, path, "next")
}

/// The link of a page with this relation.
fn link(html: &str, relation: &str) -> Option<String> {
    let links = between(html, &format!("rel=\"{relation}\" href=\""), "\"");
    links.first().map(|link| link.replace("&amp;", "&"))
}

/// Has Redis finish the growth of its table, a part of which comes with each access to a key: a page may bring other
/// keys while that goes on.
fn let_table_settle(lb: &Balancer) {
    ok(lb, "/");
}

fn start() -> (RedisServer, Balancer) {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    (server, lb)
}

fn fill(server: &RedisServer, commands: impl IntoIterator<Item = redis::Cmd>) {
    let mut pipe = redis::pipe();
    commands.into_iter().for_each(|command| {
        pipe.add_command(command);
    });
    pipe.exec(&mut server.connect()).expect("the data are written");
}

fn actor(number: usize) -> redis::Cmd {
    let mut command = redis::cmd("HSET");
    command.arg(format!("actor:{number}"));
    command.arg(&["first_name", &format!("First{number}"), "last_name", "Last"]);
    command.arg(&["date_of_birth", "1974-03-18"]);
    command
}

#[test]
fn like_hashes_are_a_table_with_their_fields_as_columns() {
    let (server, lb) = start();
    fill(&server, (1..=1319).map(actor));
    for path in ["/", "/actor:", "/?search=act", "/?search=act*"] {
        let html = ok(&lb, path);
        let head = columns(&html);
        assert_eq!(head[..5], ["key", "type", "length", "memory", "expires"], "{path}");
        assert_eq!(head[5..8], ["first_name", "last_name", "date_of_birth"], "{path}");
        let rows = rows(&html);
        assert_eq!(rows.len(), 1319, "{path}");
        for (at, row) in rows.iter().enumerate() {
            let number = at + 1;
            let begin = format!(
                "<th scope=\"row\" class=\"mono\"><a href=\"/actor:{number}\">actor:{number}</a></th>\
                 <td><span class=\"type hash\">hash</span></td><td class=\"number\">3 fields</td>"
            );
            let cells = format!("<td>First{number}</td><td>Last</td><td>1974-03-18</td>");
            assert!(row.starts_with(&begin) && row.contains(&cells), "{row}");
        }
        assert!(html.contains("1,319 keys"), "{path}");
    }
    let pages = walk(&lb, "/?limit=100");
    assert!(pages.len() > 10 && pages[0].contains("of 1,319 keys in the database"));
    let keys: Vec<&str> =
        pages.iter().flat_map(|html| between(html, "href=\"/actor:", "\"")).collect();
    assert_eq!(keys.len(), 1319);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 1319);
}

#[test]
fn every_key_has_a_link_that_works_or_none() {
    let (server, lb) = start();
    let (long, too_long) = ([0xff; 21_000], [0xfe; 22_000]);
    for key in [&b"short"[..], &long, &too_long] {
        server.command(&[b"SET", key, b"v"]);
    }
    let html = ok(&lb, "/");
    let rows = rows(&html);
    assert_eq!(rows.len(), 3);
    let links: Vec<&str> = rows.iter().flat_map(|row| between(row, "href=\"", "\"")).collect();
    assert_eq!(links.len(), 2, "what would be too long is no link");
    for link in links {
        let page = ok(&lb, link);
        for form in between(&page, "<p class=\"forms\">", "</p>") {
            let forms = between(form, "href=\"", "\"");
            assert_eq!(forms.len(), 2, "{form:.100}");
            for form in forms {
                assert_eq!(lb.get(&form.replace("&amp;", "&")).status, 200, "{form:.100}");
            }
        }
    }
    let values = lb.get("/?search=%fe&limit=1").json();
    assert_eq!(values["data"][0]["value"], "v", "the listing as JSON has its value");
}

#[test]
fn a_string_without_bytes_is_among_the_keys() {
    let server = RedisServer::start();
    server.command(&["SET", "nothing-in-it", ""]);
    let lb = Balancer::start(&[&server]);
    let page = lb.get("/?format=html");
    assert!(String::from_utf8_lossy(&page.body).contains("nothing-in-it"));
}

#[test]
fn keys_of_other_shapes_have_type_size_and_a_preview() {
    let (server, lb) = start();
    fill(&server, TYPES.map(|kind| Sample::new(kind, ["x", "y"]).write(kind.as_bytes())));
    server.command(&["SET", "huge", &"z".repeat(3_000_000)]);
    let html = ok(&lb, "/");
    assert_eq!(columns(&html), ["key", "type", "length", "memory", "expires", "value"]);
    assert_eq!(rows(&html).len(), 7);
    for kind in TYPES {
        let row = rows(&html).into_iter().find(|row| row.contains(&format!(">{kind}</a>")));
        let row = row.expect("a row for each");
        assert!(row.contains(&format!(">{kind}</span></td>")) && row.contains('x'), "{row}");
    }
    assert!(html.contains("z…</td>") && html.len() < 20_000);
    let (server, lb) = start();
    fill(&server, (0..20).map(actor));
    server.command(&["HSET", "actor:5", "alias", "Five", "<b>", "1"]);
    server.command(&["SET", "other", "text"]);
    let html = ok(&lb, "/");
    assert!(html.contains("<td class=\"more\">+2 more</td>"), "{html}");
    let own = "class=\"whole\"><span class=\"label\">value</span> text</td>";
    let row = rows(&html).into_iter().find(|row| row.contains("/other\""));
    let row = row.expect("the string's row");
    assert!(row.contains(">string</span>") && row.contains("colspan=\"4\""), "{row}");
    assert!(row.ends_with(own), "it is no first_name: {row}");
}

#[test]
fn a_search_without_wildcards_is_a_prefix_in_every_format() {
    let (server, lb) = start();
    for key in ["actor:1", "actor:2", "factor", "a*b", "a*c", "axb", "a\\b"] {
        server.command(&["SET", key, "v"]);
    }
    for (search, keys) in [
        ("act", &["actor:1", "actor:2"][..]),
        ("*actor*", &["actor:1", "actor:2", "factor"]),
        ("a?b", &["a*b", "a\\b", "axb"]),
        ("a\\", &["a\\b"]),
        ("", &["a*b", "a*c", "a\\b", "actor:1", "actor:2", "axb", "factor"]),
    ] {
        let path = format!("/?search={}", encoded(search.as_bytes()));
        let html = ok(&lb, &path);
        assert_eq!(rows(&html).len(), keys.len(), "{path}");
        let json = lb.get(&path).json();
        let found: BTreeSet<&str> =
            json["data"].as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(found, keys.iter().copied().collect(), "{path}");
    }
    let html = ok(&lb, "/?search=%22%3E%3Cscript%3E");
    assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;\""), "what was searched for stays");
    assert_eq!(status(&lb, "/?search=a&match=b"), 400);
}

#[test]
fn who_does_not_ask_for_html_gets_json_as_ever() {
    let (server, lb) = start();
    server.command(&["SET", "k", "v"]);
    for path in ["/", "/k", "/missing", "/?limit=x"] {
        let plain = lb.get(path);
        assert_eq!(plain.header("content-type"), Some("application/json; charset=utf-8"), "{path}");
        for (path, accept, is_html) in [
            (path.to_owned(), "Accept: */*", false),
            (path.to_owned(), "Accept: application/json", false),
            (path.to_owned(), "Accept: text/html;q=0", false),
            (path.to_owned(), "accept: application/json, Text/HTML;q=0.1", false),
            (path.to_owned(), "accept: application/json;q=0.5, Text/HTML", true),
            (
                path.to_owned(),
                "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
                false,
            ),
            (path.to_owned(), "Accept: text/html", true),
            (with_format(path, "html"), "Accept: */*", true),
            (with_format(path, "json"), "Accept: text/html", false),
        ] {
            let answer = lb.request("GET", &path, &[accept]);
            assert_eq!(answer.status, plain.status, "{path} {accept}");
            let kind = answer.header("content-type").expect("a type");
            assert_eq!(kind.starts_with("text/html"), is_html, "{path} {accept}");
            assert!(is_html || answer.body == plain.body, "{path} {accept}");
        }
    }
    assert_eq!(lb.request("GET", "/k", &[HTML]).header("vary"), Some("Accept, Accept-Encoding"));
    assert_eq!(lb.request("GET", "/k?format=raw", &[HTML]).body, b"v");
    assert_eq!(lb.request("GET", "/k?format=xml", &[HTML]).status, 400);
    for path in ["/k?from=0", "/k?cursor=abc-1"] {
        assert_eq!(lb.get(path).status, 400, "only pages have parts");
    }
}

fn with_format(path: &str, format: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}format={format}")
}

#[test]
fn head_is_told_what_get_is_told() {
    let (server, lb) = start();
    fill(&server, (0..1000).map(actor));
    let mut client = lb.client();
    for path in ["/actor:1", "/missing", "/"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n{HTML}\r\n\r\n"));
        let head = client.head().expect("an answer");
        let get = page(&lb, path).0;
        assert_eq!(
            (head.status, head.header("content-type")),
            (get.status, get.header("content-type"))
        );
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
    }
}

#[test]
fn each_type_has_its_page_with_what_is_known_of_the_key() {
    let (server, lb) = start();
    fill(&server, TYPES.map(|kind| Sample::new(kind, ["f<1>", "v&1"]).write(kind.as_bytes())));
    server.command(&["PEXPIRE", "hash", "93784000"]);
    for kind in TYPES {
        let html = ok(&lb, &format!("/{kind}"));
        assert!(
            html.contains(&format!(
                "<dt>Type</dt><dd><span class=\"type {kind}\">{kind}</span></dd>"
            )),
            "{html}"
        );
        assert!(html.contains("<dt>Memory</dt>") && html.contains("<dt>Encoding</dt>"), "{html}");
        assert!(html.contains(&format!("<dt>Served by</dt><dd>{}</dd>", server.address())));
        assert!(html.contains("f&lt;1&gt;"), "{html}");
        assert_eq!(html.contains("v&amp;1"), kind != "string", "{html}");
        assert!(html.contains(&format!("href=\"/{kind}?format=json\"")), "{html}");
        assert_eq!(html.contains(&format!("/{kind}?format=raw\"")), kind == "string");
        let expiry = if kind == "hash" { "in 1 d 2 h <small>20" } else { "never" };
        assert!(html.contains(&format!("<dt>Expires</dt><dd>{expiry}")), "{html}");
    }
}

#[test]
fn long_values_are_paged_to_their_end_and_nothing_is_lost_or_comes_twice() {
    let (server, lb) = start();
    let words: Vec<String> = (0..1700).map(|i| format!("w{i:05}")).collect();
    let mut commands = ["list", "set", "zset", "hash"]
        .map(|kind| {
            let strings: Vec<_> = match kind {
                "hash" => words.iter().flat_map(|word| [word.as_str(), "v"]).collect(),
                _ => words.iter().map(String::as_str).collect(),
            };
            Sample::new(kind, strings).write(kind.as_bytes())
        })
        .to_vec();
    commands.extend(words.iter().enumerate().map(|(at, word)| {
        redis::cmd("XADD")
            .arg("stream")
            .arg(format!("{}-1", at / 3 + 1).replace("-1", &format!("-{}", at % 3 + 1)))
            .arg("f")
            .arg(word)
            .to_owned()
    }));
    fill(&server, commands);
    for kind in ["list", "set", "zset", "hash", "stream"] {
        let pages = walk(&lb, &format!("/{kind}"));
        assert!(pages.len() >= 4, "{kind}: {} pages", pages.len());
        let found: Vec<&str> = pages.iter().flat_map(|html| between(html, ">w", "<")).collect();
        assert_eq!(found.len(), words.len(), "{kind}");
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), words.len(), "{kind}");
        if ["list", "zset", "stream"].contains(&kind) {
            assert!(found.iter().zip(&words).all(|(found, word)| word[1..] == **found), "{kind}");
        }
    }
    let text: String = (0..9000).map(|i| format!("é€{i}\n")).collect();
    server.command(&["SET", "text", &text]);
    let pages = walk(&lb, "/text");
    let joined: String =
        pages.iter().flat_map(|html| between(html, "tabindex=\"0\">\n", "</pre>")).collect();
    assert!(pages.len() > 4 && joined == text);
}

#[test]
fn strings_that_are_no_text_are_shown_byte_by_byte() {
    let (server, lb) = start();
    let bytes: Vec<u8> = (0..=255).cycle().take(40_000).collect();
    server.command(&[b"SET".as_slice(), b"binary", &bytes]);
    let mut found = Vec::new();
    for html in walk(&lb, "/binary") {
        assert!(html.contains("not UTF-8 text"));
        let dump = between(&html, "tabindex=\"0\">\n", "</pre>").concat();
        for line in dump.lines() {
            let position = usize::from_str_radix(&line[..8], 16).expect("a position");
            assert_eq!(position, found.len());
            let digits = line[9..57].split_whitespace();
            found.extend(digits.map(|digits| u8::from_str_radix(digits, 16).expect("a byte")));
        }
    }
    assert!(found == bytes);
}

#[test]
fn long_elements_are_cut_and_say_where_the_whole_is() {
    let (server, lb) = start();
    let long = format!("{}END", "x".repeat(100_000));
    fill(
        &server,
        ["hash", "list", "set", "zset", "stream"]
            .map(|kind| Sample::new(kind, ["f?&", &long]).write(kind.as_bytes())),
    );
    for kind in ["hash", "list", "set", "zset", "stream"] {
        let html = ok(&lb, &format!("/{kind}"));
        assert!(html.contains("cut, of 100,003 bytes") && !html.contains("END"), "{kind}");
        assert!(html.len() < 30_000);
    }
    let html = ok(&lb, "/hash");
    let link = between(&html, "bytes: <a href=\"", "\"")[0].replace("&amp;", "&");
    assert_eq!(lb.request("GET", &link, &[HTML]).body, long.as_bytes());
    let html = ok(&lb, &link.replace("&format=raw", ""));
    assert!(html.contains("Its first 16,384 bytes") && html.contains("f?&amp;"), "{html}");
}

#[test]
fn whatever_stands_in_the_data_is_shown_as_text() {
    let (server, lb) = start();
    let hostile: [&[u8]; 9] = [
        b"<script>alert(1)</script>",
        b"\"><script>x</script>",
        b"' onmouseover='x",
        b"</title></style></pre><script>",
        "a\u{202e}b\u{2066}".as_bytes(),
        b"nul\0\x1b[31m",
        b"\xff\xfe<script>",
        b"javascript:x",
        b"..",
    ];
    for (at, name) in hostile.iter().enumerate() {
        for kind in TYPES {
            let key = [name, kind.as_bytes()].concat();
            Sample::new(kind, [*name, *name]).write(&key).exec(&mut server.connect()).expect("it");
        }
        server.command(&[b"HSET".as_slice(), format!("h{at}").as_bytes(), name, name]);
        server.command(&[b"SET".as_slice(), name, name]);
    }
    let list = ok(&lb, "/");
    assert_eq!(rows(&list).len(), hostile.len() * 8);
    assert!(list.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(list.contains("<i>\\u{202e}</i>") && list.contains("<i>\\xff</i>"));
    for row in rows(&list) {
        let link = between(row, "href=\"", "\"")[0].replace("&amp;", "&");
        assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
        let html = ok(&lb, &link);
        assert!(!html.contains('\u{202e}') && !html.contains('\u{1b}'), "{link}");
        assert_eq!(html.matches("<title>").count(), 1);
        assert_eq!(html.matches("<style>").count(), 1);
    }
    for name in hostile {
        let missing = format!("/missing{}", encoded(name));
        assert_eq!(status(&lb, &missing), 404);
        ok(&lb, &format!("/?search={}", encoded(name)));
        assert_eq!(status(&lb, &format!("/?{}=1", encoded(name))), 400);
    }
}

#[test]
fn what_goes_wrong_is_a_page_too() {
    let (server, lb) = start();
    server.command(&["HSET", "h", "f", "1"]);
    server.command(&["RPUSH", "l", "1"]);
    for (path, code, says) in [
        ("/missing", 404, "no such key"),
        ("/h?field=x", 404, "no such field"),
        ("/l?field=x", 415, "only a hash has fields"),
        ("/?limit=10001", 400, "limit"),
        ("/?limit=x", 400, "limit"),
        ("/l?from=x", 400, "from"),
        ("/h?from=1", 400, "start again"),
        ("/l?cursor=abc-1", 400, "start again"),
        ("/?nonsense=1", 400, "nonsense"),
        ("/-/nonsense", 404, "nothing is here"),
    ] {
        let (answer, html) = page(&lb, path);
        assert_eq!(answer.status, code, "{path}");
        assert!(html.contains(says) && html.contains("href=\"/\""), "{path}: {html}");
    }
    assert!(ok(&lb, "/l?from=99").contains("The value ends before this page"));
    let answer = lb.request("POST", "/", &[HTML]);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn pages_of_hashes_and_sets_stay_with_the_server_that_began_them() {
    let mut servers = [(); 3].map(|()| RedisServer::start());
    for server in &servers {
        let strings: Vec<String> = (0..3000).map(|i| format!("m{i:05}")).collect();
        fill(
            server,
            ["hash", "set"].map(|kind| Sample::new(kind, strings.clone()).write(kind.as_bytes())),
        );
    }
    let lb = Balancer::start(&servers.each_ref());
    for kind in ["hash", "set"] {
        for _ in 0..3 {
            let found = walk(&lb, &format!("/{kind}"));
            let found: BTreeSet<_> =
                found.iter().flat_map(|html| between(html, ">m0", "<")).collect();
            assert_eq!(found.len(), 3000, "{kind}");
        }
    }
    let (first, html) = page(&lb, "/hash");
    let next = between(&html, "rel=\"next\" href=\"", "\"")[0].replace("&amp;", "&");
    let at = servers.iter().position(|server| server.address() == first.served_by());
    let at = at.expect("one of the three");
    assert_eq!(page(&lb, &next).0.served_by(), servers[at].address());
    servers[at].kill();
    let (gone, html) = page(&lb, &next);
    assert_eq!(gone.status, 410);
    assert!(html.contains("start again without it"), "{html}");
    assert_eq!(status(&lb, "/hash"), 200, "another one answers");
    for server in &mut servers {
        server.kill();
    }
    let (answer, html) = page(&lb, "/hash");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(servers.iter().all(|server| html.contains(&server.address())), "{html}");
}

#[test]
fn a_right_that_is_missing_leaves_out_what_it_would_tell_and_nothing_else() {
    let server = RedisServer::start();
    fill(&server, (1..=3).map(actor));
    server.command(&["SET", "other:1", "secret"]);
    for (rights, head, shows_values) in [
        ("~* -pttl", &["key", "type", "length", "memory", "first_name"][..], true),
        ("~* -memory", &["key", "type", "length", "expires", "first_name"], true),
        ("~* -type", &["key", "type", "length", "expires", "value"], false),
        ("~* -hlen -hgetall", &["key", "type", "length", "memory", "expires", "value"], false),
        ("~actor:* +@read", &["key", "type", "length", "memory", "expires", "first_name"], true),
    ] {
        let rule = format!("ACL SETUSER reader reset on >p +@read +info +ping +select {rights}");
        server.command(&rule.split_whitespace().collect::<Vec<_>>());
        let lb = Balancer::start_at(&[format!("redis://reader:p@{}", server.address())], &[]);
        let html = ok(&lb, "/");
        let shown = columns(&html);
        assert_eq!(shown[..head.len()], *head, "{rights}");
        assert_eq!(rows(&html).len(), 4, "{rights}");
        assert_eq!(html.contains("First1"), shows_values, "{rights}");
    }
}

#[test]
fn each_page_leads_back_to_the_one_before() {
    let (server, lb) = start();
    let words: Vec<String> = (0..2100).map(|number| format!("w{number:05}")).collect();
    let kinds = ["list", "set", "zset", "hash"];
    fill(&server, kinds.map(|kind| Sample::new(kind, words.clone()).write(kind.as_bytes())));
    let entry = |at: usize| {
        redis::cmd("XADD").arg("stream").arg(format!("{}-1", at + 1)).arg(&["f", "v"]).to_owned()
    };
    fill(&server, (0..2100).map(entry));
    fill(&server, (0..500).map(actor));
    server.command(&["SET", "text", &"é€😀ab".repeat(5000)]);
    let_table_settle(&lb);
    let paths =
        ["/list", "/set", "/zset", "/hash", "/stream", "/text", "/?limit=100", "/hash?search=w*"];
    for path in paths {
        let there = walk(&lb, path);
        assert!(there.len() >= 2, "{path}: {} pages", there.len());
        let last = link(&there[there.len() - 2], "next").expect("the last page");
        let mut back = walk_along(&lb, &last, "prev");
        back.reverse();
        let shown = |html: &String| match path {
            "/text" => between(html, "tabindex=\"0\">\n", "</pre>").concat(),
            _ => rows(html).concat(),
        };
        let (there, back): (Vec<_>, Vec<_>) =
            (there.iter().map(shown).collect(), back.iter().map(shown).collect());
        assert!(there == back, "{path}");
    }
    let html = ok(&lb, "/list");
    let before = html.split("\">Last page").next().unwrap_or_default();
    let last = before.rsplit("href=\"").next().unwrap_or_default();
    assert!(ok(&lb, last).contains("2,000 to 2,099 of 2,100."), "{last}");
}

#[test]
fn a_search_within_a_value_is_bounded_and_goes_on() {
    let (server, lb) = start();
    let mut pipe = redis::pipe();
    for from in (0..120_000).step_by(1000) {
        let fields: Vec<_> = (from..from + 1000).map(|n| (format!("f:{n}"), "v")).collect();
        pipe.hset_multiple("hash", &fields);
    }
    pipe.exec(&mut server.connect()).expect("written");
    fill(
        &server,
        ["set", "zset"].map(|kind| {
            Sample::new(kind, (0..1000).map(|n| format!("m:{n}"))).write(kind.as_bytes())
        }),
    );
    let pages = walk(&lb, "/hash?search=nothing");
    assert_eq!(pages.len(), 2, "100,000 fields a page");
    assert!(pages[0].contains("0 found among about 100,000 of 120,000 fields"), "{}", pages[0]);
    assert!(pages[0].contains("Go on searching") && pages[1].contains("0 found here"));
    for (path, expected) in [
        ("/hash?search=f:119", 1111),
        ("/hash?search=*:11999%3F", 10),
        ("/set?search=m:99", 11),
        ("/zset?search=*99", 10),
        ("/set?search=", 1000),
    ] {
        let found: BTreeSet<String> = walk(&lb, path)
            .iter()
            .flat_map(|html| rows(html).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert_eq!(found.len(), expected, "{path}");
    }
    let html = ok(&lb, "/hash");
    assert!(html.contains("action=\"/hash\"") && html.contains("in no order"), "{html}");
    server.command(&["SET", "string", "v"]);
    assert_eq!(status(&lb, "/string?search=a"), 400);
    assert_eq!(lb.get("/hash?search=a").status, 400, "JSON has no such search");
}

#[test]
fn a_value_that_is_json_is_laid_out() {
    let (server, lb) = start();
    let json = r#"{"b":12345678901234567890.10,"a":[{"<i>":null}]}"#;
    let deep = ["[".repeat(1000), "]".repeat(1000)].concat();
    let long = format!("[\"{}\"]", "x".repeat(70_000));
    for (key, value) in [("json", json), ("deep", &deep), ("long", &long), ("broken", "{\"a\":")] {
        server.command(&["SET", key, value]);
    }
    server.command(&["HSET", "h", "f", json]);
    for path in ["/json", "/h?field=f"] {
        let html = ok(&lb, path);
        let value = between(&html, "<pre class=\"box json\"", "</pre>").concat();
        assert!(
            value.contains("<span class=\"literal\">12345678901234567890.10</span>,\n  "),
            "{value}"
        );
        assert!(
            value.contains("\n      <span class=\"name\">&quot;&lt;i&gt;&quot;</span>: "),
            "{value}"
        );
        let stored = between(&html, "laid out. <a href=\"", "\"")[0].replace("&amp;", "&");
        let stored = ok(&lb, &stored);
        assert!(
            stored.contains("<pre class=\"box\"") && stored.contains("{&quot;b&quot;:1234"),
            "{stored}"
        );
    }
    for (path, why) in [
        ("/deep", "nested too deeply"),
        ("/long", "too long to be laid out"),
        ("/broken", "not valid JSON"),
    ] {
        let html = ok(&lb, path);
        assert!(html.contains(why) && html.contains("<pre class=\"box\""), "{path}");
    }
    server.command(&["RPUSH", "list", &format!("[{}1]", "1,".repeat(100))]);
    let html = ok(&lb, "/list");
    assert!(
        html.contains("<details><summary>[1,1,") && html.contains("</span>,\n  <span"),
        "{html}"
    );
}

#[test]
fn an_empty_database_says_which_one_it_is_and_which_others_have_keys() {
    let (server, lb) = start();
    let html = ok(&lb, "/");
    assert!(
        html.contains("Database 0 is empty") && html.contains("No other database has keys"),
        "{html}"
    );
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(3).set("a", 1).set("b", 1);
    pipe.exec(&mut server.connect()).expect("written");
    for path in ["/", "/?db=5", "/?db=5&search=a"] {
        let html = ok(&lb, path);
        let number = if path == "/" { 0 } else { 5 };
        assert!(
            html.contains(&format!("Database {number} is empty on {}", server.address())),
            "{path}"
        );
        assert!(html.contains("<a href=\"/?db=3\">database 3</a> (2 keys)"), "{path}");
    }
    let html = ok(&lb, "/?db=3");
    assert!(html.contains("2 keys · database 3 · ") && !html.contains("also keys"), "{html}");
}

#[test]
fn a_user_sees_only_its_own_keys_and_no_other_database() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["SETEX", "app:1", "5000", "one"]);
    server.command(&["SET", "other", "x"]);
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(3).set("a", 1);
    pipe.exec(&mut server.connect()).expect("written");
    let users = [("app", "on >secret ~app:* +get +type +scan"), ("all", "on >secret ~* +@all")];
    let path = files.write("users.acl", &acl_file(&users));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    let listing = |login: &str| {
        let body = lb.request("GET", "/", &[HTML, &basic(login)]).body;
        String::from_utf8(body).expect("UTF-8")
    };
    let own = listing("app:secret");
    assert_eq!(rows(&own).len(), 1);
    assert!(own.contains("in 1 h 23 min") && !own.contains("database 3"), "{own}");
    let all = listing("all:secret");
    assert!(rows(&all).len() == 2 && all.contains(">database 3</a> (1 key)"), "{all}");
}

#[test]
fn breadcrumbs_lead_to_the_keys_that_begin_alike() {
    let (server, lb) = start();
    for key in ["a:b:c", "a:b:", ":x", "a*:1", "ab:1"] {
        server.command(&["SET", key, "v"]);
    }
    let crumbs = |path: &str| {
        let html = page(&lb, path).1;
        let nav = between(&html, "<nav class=\"crumbs\"", "</nav>")[0].to_owned();
        let links = between(&nav, "href=\"", "\"").into_iter().map(|it| it.replace("&amp;", "&"));
        links.collect::<Vec<_>>()
    };
    assert_eq!(crumbs("/a:b:c"), ["/", "/?search=a:", "/?search=a:b:"]);
    assert_eq!(crumbs("/a:b:missing"), ["/", "/?search=a:", "/?search=a:b:"]);
    assert_eq!(crumbs("/?search=a:b:"), ["/", "/?search=a:"]);
    assert_eq!(crumbs("/?key=a:b:&db=0"), ["/?db=0", "/?db=0&search=a:", "/?db=0&search=a:b:"]);
    assert_eq!(crumbs("/:x"), ["/", "/?search=:"]);
    let escaped = crumbs("/a*:1");
    assert_eq!(rows(&ok(&lb, &escaped[1])).len(), 1, "{escaped:?}");
    let long = [&b"y:"[..], &[b'z'; 64 * 1024]].concat();
    server.command(&[b"SET".as_slice(), &long, b"v"]);
    assert_eq!(rows(&ok(&lb, "/y:")).len(), 1, "a key of 64 KiB is listed");
}

#[test]
fn a_listing_leads_to_the_same_keys_as_json() {
    let (server, lb) = start();
    fill(&server, (0..300).map(actor));
    let_table_settle(&lb);
    for html in walk(&lb, "/?search=actor:&limit=100") {
        let json = between(&html, " · as <a href=\"", "\"")[0].replace("&amp;", "&");
        let json = lb.get(&json).json();
        let keys: Vec<_> = json["data"].as_object().expect("keys").keys().cloned().collect();
        let shown: Vec<_> = between(&html, "href=\"/actor:", "\"").into_iter().collect();
        assert_eq!(keys.len(), shown.len());
        assert!(shown.iter().all(|number| keys.contains(&format!("actor:{number}"))));
    }
}

#[test]
fn pages_of_data_are_accessible_and_need_no_mouse() {
    let (server, lb) = start();
    fill(&server, TYPES.map(|kind| Sample::new(kind, ["x", "y"]).write(kind.as_bytes())));
    fill(&server, (0..40).map(actor));
    server.command(&["SET", "json", r#"{"a":[1,"x",null]}"#]);
    server.command(&["RPUSH", "list", &format!("[{}1]", "1,".repeat(100))]);
    server.command(&[b"SET".as_slice(), b"odd\xff\0:key", b"\xff\xfe"]);
    let fields: Vec<_> = (0..1000).map(|n| format!("f{n}")).collect();
    fill(&server, [Sample::new("set", fields).write(b"many")]);
    let mut browser = Browser::start(&lb);
    for path in [
        "/",
        "/?search=actor:",
        "/?db=5",
        "/many?search=f1",
        "/json",
        "/list",
        "/odd%ff%00:key",
        "/hash?field=x",
        "/none:1",
    ] {
        browser.step("open", path);
        browser.assert_accessible(path);
    }
    browser.step("view", "1024 light");
    browser.step("open", "/many");
    let stops = browser.step("tabStops", "");
    let stops = stops.as_array().expect("stops");
    assert!(stops.iter().all(|stop| stop["isSeen"] == true), "{stops:?}");
    let leads_to = |part: &str| {
        stops.iter().any(|stop| stop["target"].as_str().is_some_and(|target| target.contains(part)))
    };
    for part in ["search", "within", "/many?format=json", "/many?cursor="] {
        assert!(leads_to(part), "{part}: {stops:?}");
    }
    let wrong = browser.step("wrong", "");
    let is_expected =
        |it: &Value| it.as_str().is_some_and(|it| it.starts_with("console: Failed to load"));
    assert!(wrong.as_array().expect("a list").iter().all(is_expected), "{wrong}");
}
