//! The examples of the README are these files, and run.

use lastmile_client::{Client, Publisher, TokenSource};

use crate::support::{TestGateway, within};

#[path = "../readme/listen.rs"]
mod listen;
#[path = "../readme/publish.rs"]
mod publish;
#[path = "../readme/replies.rs"]
mod replies;
#[path = "../readme/stream.rs"]
mod stream;
#[path = "../readme/token.rs"]
mod token;

#[test]
fn the_readme_shows_the_files_that_run_here() {
    let readme = include_str!("../../README.md");
    let shown: Vec<&str> = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let files = [
        include_str!("../readme/publish.rs"),
        include_str!("../readme/stream.rs"),
        include_str!("../readme/listen.rs"),
        include_str!("../readme/token.rs"),
        include_str!("../readme/replies.rs"),
    ];
    assert_eq!(shown, files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_run() {
    let gateway = TestGateway::start();
    let key_file = gateway.key_file();
    within("publish", publish::publish(&gateway.publish, &key_file)).await.unwrap();
    within("listen", listen::listen(&gateway.public)).await.unwrap();
    let publisher = Publisher::connect(&gateway.publish, gateway.key()).unwrap();
    within("stream", stream::stream(&publisher)).await.unwrap();

    let client = Client::connect(&gateway.public, TokenSource::anonymous()).unwrap();
    let answering = tokio::spawn(async move { replies::answer_one(&publisher).await });
    within("the ticket", replies::ask_once(&client)).await.unwrap();
    within("the answer", answering).await.unwrap().unwrap();

    let client = token::connect(&gateway.public).unwrap();
    let mut subscription = client.subscribe("open.x", Default::default()).await.unwrap();
    let error = within("no token", subscription.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code, "signed_out");
}
