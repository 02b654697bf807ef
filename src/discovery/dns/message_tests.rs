use simple_dns::rdata::{A, AAAA};

use super::*;

const NAME: &str = "Redis.example";

fn question(record_type: RecordType) -> Question<'static> {
    Question { id: 7, name: NAME, record_type }
}

/// An answer to the question, which `change` makes odd.
fn answer(record_type: RecordType, change: impl FnOnce(&mut Packet<'static>)) -> Vec<u8> {
    let mut packet = Packet::new_reply(7);
    packet.questions.push(raw("redis.EXAMPLE", record_type));
    change(&mut packet);
    packet.build_bytes_vec_compressed().expect("a message")
}

fn raw(name: &'static str, record_type: RecordType) -> RawQuestion<'static> {
    let (qtype, qclass) = (QTYPE::TYPE(record_type.code()), QCLASS::CLASS(CLASS::IN));
    RawQuestion::new(name.try_into().expect("a name"), qtype, qclass, false)
}

fn record(name: &'static str, ttl: u32, rdata: RData<'static>) -> ResourceRecord<'static> {
    ResourceRecord::new(name.try_into().expect("a name"), CLASS::IN, ttl, rdata)
}

fn a(last: u8) -> RData<'static> {
    RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) })
}

fn cname(target: &'static str) -> RData<'static> {
    RData::CNAME(CNAME(target.try_into().expect("a name")))
}

fn addresses(response: Result<Response, Unfit>) -> Vec<String> {
    match response {
        Ok(Response::Answer(Ok(records))) => {
            records.addresses.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_has_its_id_and_wants_recursion() {
    let bytes = question(RecordType::Aaaa).encode().expect("a name");
    assert_eq!(bytes, b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05Redis\x07example\0\0\x1c\0\x01");
    let long = "a".repeat(64);
    for name in ["", ".", long.as_str()] {
        let question = Question { id: 1, name, record_type: RecordType::A };
        assert_eq!(question.encode(), None, "{name}");
    }
}

#[test]
fn records_of_the_name_are_found_and_others_are_not() {
    let message = answer(RecordType::A, |packet| {
        packet.answers.push(record("redis.example", 60, a(1)));
        packet.answers.push(record("other.example", 1, a(2)));
        packet.answers.push(record("redis.example", 9, a(3)));
        let v6 = RData::AAAA(AAAA { address: 1 });
        packet.answers.push(record("redis.example", 1, v6));
    });
    let response = question(RecordType::A).read(&message);
    assert_eq!(addresses(response.clone()), ["10.0.0.1", "10.0.0.3"]);
    let Ok(Response::Answer(Ok(records))) = response else { unreachable!() };
    assert_eq!(records.time_to_live, Duration::from_secs(9));
}

#[test]
fn aliases_are_followed_to_an_end() {
    let names = |count: usize| {
        move |packet: &mut Packet<'static>| {
            let mut name = "redis.example".to_owned();
            for number in 0..count {
                let target = format!("n{number}.example");
                let [from, to] = [name, target.clone()].map(|text| &*text.leak());
                packet.answers.push(record(from, 5, cname(to)));
                name = target;
            }
            packet.answers.push(record(name.leak(), 60, a(1)));
        }
    };
    let read = |count| question(RecordType::A).read(&answer(RecordType::A, names(count)));
    assert_eq!(addresses(read(MAX_ALIASES)), ["10.0.0.1"]);
    assert!(matches!(read(MAX_ALIASES + 1), Ok(Response::Failed(_))));
    let circle = answer(RecordType::A, |packet| {
        packet.answers.push(record("redis.example", 5, cname("b.example")));
        packet.answers.push(record("b.example", 5, cname("redis.example")));
    });
    assert!(matches!(question(RecordType::A).read(&circle), Ok(Response::Failed(_))));
    let nowhere = answer(RecordType::A, |packet| {
        packet.answers.push(record("redis.example", 5, cname("b.example")));
    });
    let absent = Ok(Response::Answer(Err(Absence::NoRecords)));
    assert_eq!(question(RecordType::A).read(&nowhere), absent);
}

#[test]
fn service_records_bring_the_addresses_of_their_targets() {
    let srv = |priority, weight, port, target: &'static str| {
        let target = target.try_into().expect("a name");
        RData::SRV(SRV { priority, weight, port, target })
    };
    let message = answer(RecordType::Srv, |packet| {
        packet.answers.push(record("redis.example", 60, srv(1, 2, 3, "A.example")));
        packet.answers.push(record("redis.example", 60, srv(0, 0, 0, "")));
        packet.additional_records.push(record("a.EXAMPLE", 3, a(1)));
    });
    let Ok(Response::Answer(Ok(records))) = question(RecordType::Srv).read(&message) else {
        panic!("no records")
    };
    let target = "a.example".to_owned();
    let nowhere = Service { priority: 0, weight: 0, port: 0, target: String::new() };
    let first = Service { priority: 1, weight: 2, port: 3, target: target.clone() };
    assert_eq!(records.services, [first, nowhere]);
    assert_eq!(records.additional, [(target, "10.0.0.1".parse().expect("an address"))]);
    assert_eq!(records.time_to_live, Duration::from_secs(3));
}

#[test]
fn what_answers_no_question_of_ours_counts_for_nothing() {
    let good = |packet: &mut Packet<'static>| {
        packet.answers.push(record("redis.example", 60, a(1)));
    };
    let mut cases: Vec<(&str, Vec<u8>, Unfit)> = vec![
        ("nothing", Vec::new(), Unfit::Foreign),
        ("one byte", vec![0], Unfit::Foreign),
        ("our own question", question(RecordType::A).encode().expect("one"), Unfit::Foreign),
        ("a head alone", b"\0\x07\x81\x80\0\0\0\0\0\0\0\0".to_vec(), Unfit::OtherQuestion),
        (
            "counts that lie",
            b"\0\x07\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            Unfit::Malformed,
        ),
    ];
    let other_id = |packet: &mut Packet<'static>| packet.set_id(8);
    cases.push(("another id", answer(RecordType::A, other_id), Unfit::Foreign));
    cases.push(("another type", answer(RecordType::Aaaa, good), Unfit::OtherQuestion));
    let other_name = |packet: &mut Packet<'static>| {
        packet.questions = vec![raw("other.example", RecordType::A)];
    };
    cases.push(("another name", answer(RecordType::A, other_name), Unfit::OtherQuestion));
    let whole = answer(RecordType::A, good);
    cases.push(("a part", whole[..whole.len() - 1].to_vec(), Unfit::Malformed));
    // The record's name is a pointer, here to itself.
    let mut circle = whole.clone();
    let pointer = circle.len() - 16;
    circle[pointer..pointer + 2].copy_from_slice(&[0xc0, pointer as u8]);
    cases.push(("a pointer to itself", circle, Unfit::Malformed));
    for (what, message, unfit) in cases {
        assert_eq!(question(RecordType::A).read(&message), Err(unfit), "{what}");
    }
    assert_eq!(addresses(question(RecordType::A).read(&whole)), ["10.0.0.1"]);
}

#[test]
fn a_server_that_can_not_say_is_told_from_a_name_that_is_not_there() {
    for (rcode, expected) in [
        (RCODE::NoError, Response::Answer(Err(Absence::NoRecords))),
        (RCODE::NameError, Response::Answer(Err(Absence::NoSuchName))),
        (RCODE::ServerFailure, Response::Failed("answers SERVFAIL".to_owned())),
        (RCODE::Refused, Response::Failed("answers REFUSED".to_owned())),
        (RCODE::NotImplemented, Response::Failed("answers the error 4".to_owned())),
    ] {
        let message = answer(RecordType::A, |packet| *packet.rcode_mut() = rcode);
        assert_eq!(question(RecordType::A).read(&message), Ok(expected), "{rcode:?}");
    }
    let cut = answer(RecordType::A, |packet| packet.set_flags(PacketFlag::TRUNCATION));
    assert_eq!(question(RecordType::A).read(&cut), Ok(Response::Truncated));
    let bare = b"\0\x07\x81\x85\0\0\0\0\0\0\0\0";
    let refused = Ok(Response::Failed("answers REFUSED".to_owned()));
    assert_eq!(question(RecordType::A).read(bare), refused);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0usize..80,
            is_answer: bool,
        ) {
            let mut message = answer(RecordType::A, |packet| {
                packet.answers.push(record("redis.example", 60, cname("b.example")));
                packet.answers.push(record("b.example", 60, a(1)));
            });
            if is_answer {
                let at = at.min(message.len());
                let end = message.len().min(at + bytes.len() % 4);
                message[at..end].copy_from_slice(&bytes[..end - at]);
            } else {
                message.truncate(at.min(12));
                message.extend(&bytes);
            }
            let _ = question(RecordType::A).read(&message);
            let _ = question(RecordType::Srv).read(&message);
        }
    }
}
