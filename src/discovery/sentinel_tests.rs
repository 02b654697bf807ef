use super::*;

fn endpoint(port: u16) -> Endpoint {
    ("h".to_owned(), port)
}

fn answer(epoch: u64, primary: u16, replicas: &[(u16, bool)], sentinels: &[u16]) -> Answer {
    let replica = |&(port, is_good): &(u16, bool)| Replica { endpoint: endpoint(port), is_good };
    let topology =
        Topology { primary: endpoint(primary), replicas: replicas.iter().map(replica).collect() };
    Answer { epoch, topology, sentinels: sentinels.iter().map(|port| endpoint(*port)).collect() }
}

#[test]
fn the_majority_counts_with_what_those_that_agree_know() {
    let old = answer(1, 1, &[(2, true), (3, true)], &[91]);
    let new = answer(2, 2, &[(1, false), (3, false)], &[92]);
    let fresh = answer(2, 2, &[(3, true), (4, true)], &[93, 92]);
    let together = answer(2, 2, &[(1, false), (3, true), (4, true)], &[92, 93]);
    let wrong = answer(9, 9, &[], &[]);
    // It names one of the replicas.
    let liar = answer(9, 3, &[], &[]);
    for (answers, expected) in [
        (vec![old.clone()], Some(old.clone())),
        (vec![old.clone(), old.clone(), new.clone()], Some(old.clone())),
        (vec![old.clone(), new.clone()], Some(new.clone())),
        (vec![old.clone(), liar.clone(), old.clone()], Some(old.clone())),
        (vec![new.clone(), fresh.clone()], Some(together.clone())),
        (vec![wrong.clone(), new, fresh, old.clone()], Some(together)),
        (vec![old.clone(), wrong.clone(), old.clone()], Some(old)),
        (vec![wrong.clone()], Some(wrong)),
        (vec![], None),
    ] {
        assert_eq!(agreed(&answers, &[], 9).ok(), expected, "{answers:?}");
    }
}

#[test]
fn a_primary_that_was_unknown_needs_half_of_the_sentinels() {
    let (old, new) = (answer(1, 1, &[(2, true)], &[]), answer(2, 2, &[(1, true)], &[]));
    let moved = answer(5, 9, &[(1, true)], &[]);
    let last = [endpoint(1), endpoint(2)];
    for (answers, last, asked, primary) in [
        (vec![moved.clone()], &[][..], 3, Some(9)),
        (vec![moved.clone()], &last, 3, None),
        (vec![moved.clone()], &last, 2, None),
        (vec![moved.clone()], &last, 1, Some(9)),
        (vec![moved.clone(), moved.clone()], &last, 3, Some(9)),
        (vec![moved.clone(), moved.clone(), moved.clone()], &last, 6, Some(9)),
        (vec![moved.clone(), moved.clone()], &last, 6, None),
        (vec![moved.clone(), old.clone(), moved.clone()], &last, 3, Some(9)),
        (vec![moved.clone(), old.clone(), old.clone()], &last, 3, Some(1)),
        (vec![new], &last, 3, Some(2)),
        (vec![old], &last, 3, Some(1)),
    ] {
        let found = agreed(&answers, last, asked).ok().map(|answer| answer.topology.primary.1);
        assert_eq!(found, primary, "{answers:?} of {asked}");
    }
}

#[test]
fn instances_are_read_whatever_their_flags_and_protocol() {
    let described = |fields: &[(&str, &str)]| {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let flat = fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        let map = fields.iter().map(|(name, value)| (bulk(name), bulk(value))).collect();
        [Value::Array(flat), Value::Map(map)]
    };
    let is_good = |flags, link| {
        let fields = [("ip", "::1"), ("port", "1"), ("flags", flags), ("master-link-status", link)];
        described(&fields).map(|value| {
            let fields = Fields::of(&value).expect("fields");
            assert_eq!(fields.endpoint(&[]), Some(("::1".to_owned(), 1)));
            fields.is_good_replica()
        })
    };
    assert_eq!(is_good("slave", "ok"), [true; 2]);
    assert_eq!(is_good("slave", "err"), [false; 2]);
    for flags in ["s_down,slave", "slave,disconnected", "s_down,o_down,slave"] {
        assert_eq!(is_good(flags, "ok"), [false; 2], "{flags}");
    }
    let value = Value::Array(vec![Value::Nil, Value::Int(1), Value::Nil]);
    assert!(Fields::of(&value).expect("none").endpoint(&[]).is_none());
    assert!(Fields::of(&Value::Nil).is_none() && list(&Value::Nil).next().is_none());
}
