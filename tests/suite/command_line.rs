//! What the two programs say to what was typed.

use std::process::Command;

#[test]
fn a_password_in_the_wrong_place_is_not_repeated() {
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_lb"), &["--backend", "redis://a:1", "redis://u:hunter2@h:1"][..]),
        (env!("CARGO_BIN_EXE_lb"), &["--backend", "redis://u:hunter2@h:99999"]),
        (env!("CARGO_BIN_EXE_lb"), &["--listen", "redis://u:hunter2@h:1"]),
        (env!("CARGO_BIN_EXE_seed"), &["redis://u:hunter2@h:1"]),
        (env!("CARGO_BIN_EXE_seed"), &["--batch", "redis://u:hunter2@h:1"]),
    ] {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(!text.contains("hunter2") && !text.is_empty(), "{text}");
    }
}
