//! Runs the README's examples, which are the files of `tests/readme`.

use lastmile_client::{Client, Publisher, TokenSource};

use crate::support::{TestGateway, with_timeout};

#[path = "../readme/publish.rs"]
mod publish;
#[path = "../readme/replies.rs"]
mod replies;
#[path = "../readme/rooms.rs"]
mod rooms;
#[path = "../readme/stream.rs"]
mod stream;
#[path = "../readme/subscribe.rs"]
mod subscribe;
#[path = "../readme/token.rs"]
mod token;

#[test]
fn readme_shows_tested_files() {
    let readme = include_str!("../../README.md");
    let shown: Vec<&str> = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let files = [
        include_str!("../readme/publish.rs"),
        include_str!("../readme/stream.rs"),
        include_str!("../readme/subscribe.rs"),
        include_str!("../readme/token.rs"),
        include_str!("../readme/replies.rs"),
        include_str!("../readme/rooms.rs"),
    ];
    assert_eq!(shown, files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readme_examples_run() {
    let gateway = TestGateway::start();
    let key_file = gateway.key_file();
    with_timeout("publish", publish::publish(&gateway.publish, &key_file)).await.unwrap();
    with_timeout("subscribe", subscribe::subscribe(&gateway.public)).await.unwrap();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    with_timeout("stream", stream::stream(&publisher)).await.unwrap();

    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let answering = tokio::spawn(async move { replies::answer_one(&publisher).await });
    with_timeout("the ticket", replies::ask_once(&client)).await.unwrap();
    with_timeout("the answer", answering).await.unwrap().unwrap();

    let (room, code) = with_timeout("the room", rooms::open(&gateway.public)).await.unwrap();
    with_timeout("the peer", rooms::join_and_greet(&gateway.public, &code)).await.unwrap();
    assert_eq!(with_timeout("the message", rooms::first_message(room)).await.unwrap(), r#""hello""#);

    let client = token::connect(&gateway.public).unwrap();
    let mut subscription = client.subscribe("open.x", Default::default()).await.unwrap();
    let error = with_timeout("no token", subscription.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code, "signed_out");
}
