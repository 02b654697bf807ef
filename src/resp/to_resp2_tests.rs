use super::Resp2Form::{Frames, NullArrays, Pairs, Text};
use super::*;

const FORMS: [Resp2Form; 4] = [Frames, NullArrays, Pairs, Text];

#[track_caller]
fn assert_becomes(form: Resp2Form, resp3: &str, resp2: &str) {
    let converted = to_resp2(resp3.as_bytes(), form).map(String::from_utf8);
    assert_eq!(converted, Some(Ok(resp2.to_owned())), "{form:?} {resp3:?}");
}

#[test]
fn frames_become_those_of_resp2() {
    for (resp3, resp2) in [
        ("+string\r\n", "+string\r\n"),
        (":-7\r\n", ":-7\r\n"),
        ("$0\r\n\r\n", "$0\r\n\r\n"),
        ("$4\r\n\r\n*1\r\n", "$4\r\n\r\n*1\r\n"),
        ("_\r\n", "$-1\r\n"),
        ("#t\r\n", ":1\r\n"),
        ("#f\r\n", ":0\r\n"),
        (",-1.5e+300\r\n", "$9\r\n-1.5e+300\r\n"),
        (",-0\r\n", "$2\r\n-0\r\n"),
        (",inf\r\n", "$3\r\ninf\r\n"),
        (",-inf\r\n", "$4\r\n-inf\r\n"),
        (",nan\r\n", "$3\r\nnan\r\n"),
        ("(-349289032840923850943\r\n", "$22\r\n-349289032840923850943\r\n"),
        ("=8\r\ntxt:a\r\nb\r\n", "$4\r\na\r\nb\r\n"),
        ("*0\r\n", "*0\r\n"),
        ("~0\r\n", "*0\r\n"),
        ("%0\r\n", "*0\r\n"),
        ("~2\r\n:1\r\n$1\r\na\r\n", "*2\r\n:1\r\n$1\r\na\r\n"),
        ("%2\r\n+a\r\n,1\r\n+b\r\n_\r\n", "*4\r\n+a\r\n$1\r\n1\r\n+b\r\n$-1\r\n"),
        (
            "*2\r\n*2\r\n+a\r\n*2\r\n,1\r\n_\r\n_\r\n",
            "*2\r\n*2\r\n+a\r\n*2\r\n$1\r\n1\r\n$-1\r\n$-1\r\n",
        ),
    ] {
        assert_becomes(Frames, resp3, resp2);
    }
}

#[test]
fn the_command_decides_what_null_becomes() {
    assert_becomes(NullArrays, "_\r\n", "*-1\r\n");
    assert_becomes(NullArrays, "*2\r\n*1\r\n,1.5\r\n_\r\n", "*2\r\n*1\r\n$3\r\n1.5\r\n*-1\r\n");
    assert_becomes(Pairs, "_\r\n", "$-1\r\n");
    assert_becomes(Text, "_\r\n", "$-1\r\n");
}

#[test]
fn pairs_of_a_member_and_its_score_come_one_after_the_other() {
    assert_becomes(Pairs, "*0\r\n", "*0\r\n");
    assert_becomes(Pairs, "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_becomes(
        Pairs,
        "*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,inf\r\n",
        "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$3\r\ninf\r\n",
    );
    for doubtful in [
        "*2\r\n*2\r\n+a\r\n,1\r\n+b\r\n",
        "*2\r\n+a\r\n*2\r\n+b\r\n,1\r\n",
        "*1\r\n*3\r\n+a\r\n,1\r\n,2\r\n",
        "*1\r\n*2\r\n+a\r\n*1\r\n,1\r\n",
        "*1\r\n*0\r\n",
    ] {
        assert_eq!(to_resp2(doubtful.as_bytes(), Pairs), None, "{doubtful:?}");
    }
}

#[test]
fn errors_stay_as_they_are() {
    for form in FORMS {
        assert_becomes(form, "-WRONGTYPE no\r\n", "-WRONGTYPE no\r\n");
    }
}

#[test]
fn text_is_nothing_else() {
    assert_becomes(Text, "$2\r\n[]\r\n", "$2\r\n[]\r\n");
    for other in ["*1\r\n$2\r\n[]\r\n", ":1\r\n", "+OK\r\n", ",1\r\n", "%0\r\n", "#t\r\n"] {
        assert_eq!(to_resp2(other.as_bytes(), Text), None, "{other:?}");
    }
}

#[test]
fn what_is_in_doubt_is_not_converted() {
    for doubtful in [
        "",
        "\r\n",
        "+OK",
        "+OK\n",
        "+a\rb\r\n",
        "-ERR",
        "+OK\r\n+OK\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "%-1\r\n",
        ":01\r\n",
        "_x\r\n",
        "#x\r\n",
        ",x\r\n",
        "(x\r\n",
        "$3\r\nab\r\n",
        "$2\r\nabXY",
        "$?\r\n",
        "$9223372036854775807\r\n",
        "=3\r\nabc\r\n",
        "=4\r\nabcd\r\n",
        "!3\r\nERR\r\n",
        "*1\r\n-ERR within\r\n",
        "*2\r\n+a\r\n",
        "*4294967295\r\n",
        "%4294967295\r\n+a\r\n",
        ">2\r\n+invalidate\r\n_\r\n",
        "*1\r\n>1\r\n+a\r\n",
        "|1\r\n+a\r\n+b\r\n+OK\r\n",
        "*1\r\n|1\r\n+a\r\n+b\r\n+OK\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n+too deep\r\n",
        "?\r\n",
    ] {
        for form in FORMS {
            assert_eq!(to_resp2(doubtful.as_bytes(), form), None, "{form:?} {doubtful:?}");
        }
    }
    let endless = "*1\r\n".repeat(1_000_000);
    assert_eq!(to_resp2(endless.as_bytes(), Frames), None);
    let long = format!("+{}\r\n", "a".repeat(MAX_LINE_BYTES));
    assert_eq!(to_resp2(long.as_bytes(), Frames), None);
}
