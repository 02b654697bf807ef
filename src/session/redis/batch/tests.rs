use super::*;

fn forward(batch: &mut Batch, version: u64) {
    let mut parser = CommandParser::new(usize::MAX);
    let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    let (_, command) = parser.parse(bytes).expect("a command");
    let (command, id) = (command.expect("a whole one"), CommandId::default());
    batch.forward(&command, id, version, false, ReadProfile::QUICK);
}

#[test]
fn only_commands_of_one_version_are_plain() {
    let mut batch = Batch::default();
    assert!(batch.as_plain(0).is_none(), "there is nothing in it");
    forward(&mut batch, 1);
    assert!(batch.as_plain(1).is_some());
    assert!(batch.as_plain(2).is_none(), "another table");
    forward(&mut batch, 2);
    assert!(batch.as_plain(1).is_none() && batch.as_plain(2).is_none(), "of two tables");
    batch.clear();
    forward(&mut batch, 2);
    assert!(batch.as_plain(2).is_some());
}

#[test]
fn what_the_client_gets_without_a_command_is_not_plain() {
    let mut batch = Batch::default();
    forward(&mut batch, 1);
    batch.answer(|out| out.extend_from_slice(b"+OK\r\n"));
    assert!(batch.as_plain(1).is_none());
}

#[test]
fn what_is_sent_keeps_the_version_that_it_was_judged_by() {
    let (mut sent, mut batch) = (Batch::default(), Batch::default());
    for version in [3, 3] {
        forward(&mut batch, version);
        batch.as_plain(version).expect("a plain one").move_to(&mut sent);
        assert!(batch.is_empty());
    }
    assert_eq!((sent.len(), sent.version), (2, 3));
    forward(&mut batch, 4);
    batch.as_plain(4).expect("a plain one").move_to(&mut sent);
    assert_eq!(sent.version, MIXED_VERSIONS, "it has to be judged again");
}
