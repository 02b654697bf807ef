use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::*;
use crate::resp::value_type::ValueType;

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn array(parts: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
}

fn bulks(strings: &[&[u8]]) -> Vec<u8> {
    array(&strings.iter().map(|bytes| bulk(bytes)).collect::<Vec<_>>())
}

fn rendered(kind: ValueType, reply: &[u8]) -> String {
    let survey = survey(kind, &mut &reply[..]).expect("a reply");
    let mut json = Vec::new();
    // Small pieces, so that every string is cut somewhere.
    let mut from = io::BufReader::with_capacity(3, reply);
    render(kind, &mut from, &survey, &mut JsonWriter::new(&mut json)).expect("JSON");
    String::from_utf8(json).expect("UTF-8")
}

#[test]
fn a_name_without_a_value_is_an_error_and_not_left_to_the_next_reply() {
    let odd = bulks(&[b"a"]);
    let stream = array(&[array(&[bulk(b"1-0"), odd.clone()])]);
    let whole = |kind, reply: &[u8]| survey(kind, &mut &*reply).expect("a reply");
    for (kind, reply, before) in [
        (ValueType::Hash, &odd, whole(ValueType::Hash, &bulks(&[b"a", b"1"]))),
        (ValueType::Hash, &odd, whole(ValueType::Hash, &bulks(&[b"\xff", b"1"]))),
        (ValueType::Zset, &odd, whole(ValueType::Zset, &bulks(&[b"a", b"1"]))),
        (ValueType::Stream, &stream, whole(ValueType::Stream, &array(&[]))),
    ] {
        let surveyed = survey(kind, &mut &reply[..]);
        assert!(matches!(surveyed, Err(resp::Error::Protocol(_))), "{surveyed:?}");
        let json = &mut JsonWriter::new(io::sink());
        let rendered = render(kind, &mut &reply[..], &before, json);
        assert!(matches!(rendered, Err(RenderError::Reply(_))), "{rendered:?}");
    }
}

fn value(kind: ValueType, reply: &[u8]) -> serde_json::Value {
    serde_json::from_str(&rendered(kind, reply)).expect("valid JSON")
}

#[test]
fn each_type_has_its_form() {
    assert_eq!(value(ValueType::String, &bulk("a\"\\\u{1}é".as_bytes())), json!("a\"\\\u{1}é"));
    assert_eq!(
        value(ValueType::Hash, &bulks(&[b"b", b"1", b"a", b""])),
        json!({"b": "1", "a": ""})
    );
    assert_eq!(value(ValueType::List, &bulks(&[b"x", b"x"])), json!(["x", "x"]));
    assert_eq!(value(ValueType::Set, &bulks(&[])), json!([]));
    let zset = bulks(&[b"m", b"1.5", b"n", b"inf", b"o", b"1e+20"]);
    assert_eq!(
        rendered(ValueType::Zset, &zset).replace(['\n', ' '], ""),
        r#"[{"member":"m","score":1.5},{"member":"n","score":"inf"},{"member":"o","score":1e+20}]"#
    );
    let entry = array(&[bulk(b"1-0"), bulks(&[b"f", b"1", b"f", b"2"])]);
    assert_eq!(
        value(ValueType::Stream, &array(&[entry])),
        json!([{"id": "1-0", "fields": [["f", "1"], ["f", "2"]]}])
    );
}

#[test]
fn the_layout_is_that_of_serde_json() {
    let text = rendered(ValueType::Hash, &bulks(&[b"a", b"1", b"b", b"2"]));
    assert_eq!(text, "{\n  \"a\": \"1\",\n  \"b\": \"2\"\n}");
}

#[test]
fn what_is_not_utf8_is_base64_and_its_object_an_array() {
    assert_eq!(value(ValueType::String, &bulk(b"\xff")), json!({"base64": "/w=="}));
    assert_eq!(value(ValueType::Hash, &bulks(&[b"a", b"\xff"])), json!({"a": {"base64": "/w=="}}));
    assert_eq!(
        value(ValueType::Hash, &bulks(&[b"a", b"1", b"\xff", b"2"])),
        json!([{"field": "a", "value": "1"}, {"field": {"base64": "/w=="}, "value": "2"}])
    );
}

#[test]
fn long_strings_are_written_in_pieces_and_in_the_right_form() {
    let text = "é€😀\n".repeat(4000);
    assert_eq!(value(ValueType::String, &bulk(text.as_bytes())), json!(text));
    let broken_at_the_end = [text.as_bytes(), b"\xe2\x82"].concat();
    let expected = { BASE64_STANDARD.encode(&broken_at_the_end) };
    assert_eq!(
        value(ValueType::List, &bulks(&[b"a", &broken_at_the_end, text.as_bytes()])),
        json!(["a", {"base64": expected}, text])
    );
}

#[test]
fn a_value_that_contradicts_its_survey_is_never_written_as_if_it_were_whole() {
    let long = "a".repeat(20_000).into_bytes();
    let long_binary = [&long[..], b"\xff"].concat();
    for (kind, first, second) in [
        (ValueType::String, bulk(&long), bulk(&long_binary)),
        (ValueType::String, bulk(&long_binary), bulk(&long)),
        (ValueType::String, bulk(b"short"), bulk(&long)),
        (ValueType::Hash, bulks(&[b"a", b"1"]), bulks(&[b"\xff", b"1"])),
        (ValueType::Hash, bulks(&[b"\xff", b"1"]), bulks(&[b"a", b"1"])),
        (ValueType::Hash, bulks(&[b"a", b"1"]), bulks(&[])),
        (ValueType::List, bulks(&[b"a"]), bulks(&[])),
        (ValueType::String, bulk(b"a"), b"$-1\r\n".to_vec()),
    ] {
        let survey = survey(kind, &mut &first[..]).expect("a reply");
        let result = render(kind, &mut &second[..], &survey, &mut JsonWriter::new(io::sink()));
        assert!(matches!(result, Err(RenderError::Changed)), "{result:?}");
    }
}

#[test]
fn the_digest_ignores_the_order_of_sets_and_hashes_only() {
    let digest = |kind, reply: Vec<u8>| survey(kind, &mut &reply[..]).expect("reply").digest;
    let hash = |fields: &[&[u8]]| digest(ValueType::Hash, bulks(fields));
    assert_eq!(hash(&[b"a", b"1", b"b", b"2"]), hash(&[b"b", b"2", b"a", b"1"]));
    assert_ne!(hash(&[b"a", b"1", b"b", b"2"]), hash(&[b"a", b"2", b"b", b"1"]));
    let set = |members: &[&[u8]]| digest(ValueType::Set, bulks(members));
    assert_eq!(set(&[b"a", b"b"]), set(&[b"b", b"a"]));
    assert_ne!(set(&[b"ab", b""]), set(&[b"a", b"b"]));
    let list = |items: &[&[u8]]| digest(ValueType::List, bulks(items));
    assert_ne!(list(&[b"a", b"b"]), list(&[b"b", b"a"]));
    assert_ne!(list(&[b"ab", b"c"]), list(&[b"a", b"bc"]));
}

/// Other values would make the ETags of two builds differ.
#[test]
fn the_digest_of_a_value_is_the_same_in_every_build() {
    let digest = |kind, reply: &[u8]| survey(kind, &mut &*reply).expect("a reply").digest;
    let fields = bulks(&[b"a", b"1", b"b", b"2"]);
    let stream = array(&[array(&[bulk(b"1-0"), bulks(&[b"a", b"1"])])]);
    for (kind, reply, expected) in [
        (ValueType::String, &bulk(b"hello"), 0xea7d_79b1_ab2d_0a57),
        (ValueType::Hash, &fields, 0x2b9d_ad17_dafb_ec08),
        (ValueType::List, &fields, 0xe640_fc20_7b75_afb4),
        (ValueType::Set, &fields, 0x2113_848b_a993_4145),
        (ValueType::Zset, &fields, 0x0186_686b_e501_6266),
        (ValueType::Stream, &stream, 0x62f5_d6c3_ad24_dc8f),
    ] {
        assert_eq!(digest(kind, reply), expected, "{kind:?}: {:#018x}", digest(kind, reply));
    }
}
