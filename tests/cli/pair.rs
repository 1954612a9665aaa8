//! `pair`: two terminals.

use crate::support::{Gateway, Running, Scratch};

#[test]
fn terminals_pair_by_code() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, "");
    let url = gateway.public.clone();
    let mut a = Running::start(scratch.lastmile(["pair", "--url", &url]));
    let remark = a.stderr.wait_for("lastmile pair ");
    let code = remark.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(code.split('-').count(), 3, "{remark}");
    let mut b = Running::start(scratch.lastmile(["pair", &code, "--url", &url]));
    a.stderr.wait_for("connected");
    b.stderr.wait_for("connected");
    a.write("hello \"b\"\n");
    assert_eq!(b.stdout.next().as_deref(), Some("hello \"b\""));
    b.write("hello a\n");
    assert_eq!(a.stdout.next().as_deref(), Some("hello a"));
    // The end of what is typed is the end of the conversation, for both.
    assert_eq!(b.wait(), Some(0));
    assert_eq!(a.wait(), Some(0));
    scratch.run(["pair", &code, "--url", &url]).failed(1, "4511 unknown_room");
}

#[test]
fn room_needs_secret_and_gateway() {
    let scratch = Scratch::new();
    scratch.run(["pair", "jvg_n0FXB0kE3rGUIOS5Yw"]).failed(64, "--secret-file");
    scratch.run(["pair", "--url", "http://127.0.0.1:1"]).failed(1, "nothing listens there");
}
