//! A publisher that shares no code with the gateway: `signer.py`, on another language's cryptography.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use serde_json::{Map, Value};
use test_support::{TestEnv, with_timeout};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the package `cryptography`.
fn python() -> PathBuf {
    let python =
        std::env::var_os("LASTMILE_TEST_PYTHON").map_or_else(|| root().join(".venv/bin/python"), PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: `make test` installs it, or LASTMILE_TEST_PYTHON names a Python with the package `cryptography`",
        python.display()
    );
    python
}

/// Runs a script of `tests/`; gives what it prints.
async fn run(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(python());
    command.arg(root().join("tests").join(script)).args(arguments).stdin(Stdio::null());
    let output = with_timeout(script, tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed (`make test` installs what it needs):\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_signature_is_accepted() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("prices.btc").await;
    let key = env.folder.write("key.pem", &env.publisher.private_pem());
    let body = env.folder.write("body.json", "{\"usd\": 1.50}");
    let authority = env.gateway.authority("publish");
    let path = "/v1/channels/prices.btc/messages?from=python";
    let url = format!("http://{authority}{path}");
    let (key, body) = (key.to_str().unwrap(), body.to_str().unwrap());
    let printed = run("signer.py", &["--key", key, "--url", &url, "--body", body]).await;
    let headers: Map<String, Value> = serde_json::from_str(&printed).unwrap();
    let mut request =
        Request::post(path).header("host", &authority).body(Bytes::from(std::fs::read(body).unwrap())).unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value.as_str().unwrap()).unwrap();
        request.headers_mut().insert(HeaderName::try_from(name).unwrap(), value);
    }
    let answer = env.send(request.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(alice.text().await.ends_with("\"data\":{\"usd\": 1.50}}"));
    assert_eq!(env.send(request).await.problem(), "signature-replayed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_publisher_works_and_is_refused() {
    let env = TestEnv::start("[[channels]]\nmatch = \"prices.*\"\nmax_message_bytes = 100\n").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("prices.btc").await;
    let key = env.folder.write("key.pem", &env.publisher.private_pem());
    let url = format!("http://{}", env.gateway.authority("publish"));
    let printed =
        run("publisher.py", &["--key", key.to_str().unwrap(), "--url", &url, "--channel", "prices.btc"]).await;
    let published: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!published.is_empty());
    for answer in published {
        let message = alice.expect("message").await;
        assert_eq!((&message["message_id"], &message["offset"]), (&answer["id"], &answer["offset"]));
    }
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_verifies_shared_vectors() {
    assert!(run("signer.py", &["--check-vectors"]).await.contains("agree"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_reads_compressed_publications() {
    let more = "[listeners.squeezed]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\ncompression = true\n\
                [[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 100\n";
    let env = TestEnv::start(more).await;
    let url = format!("ws://{}/v1/subscribe", env.gateway.authority("squeezed"));
    let lines: Vec<String> = (0..30).map(|n| format!("{n} {}", "tick ".repeat(n * 100))).collect();
    let publishing = async {
        env.await_metric("lastmile_subscriptions", 1.0).await;
        for line in &lines {
            assert_eq!(env.post("c", "text/plain", line.as_bytes()).await.status, 200);
        }
    };
    let arguments = ["--url", &url, "--channel", "c", "--count", "30"];
    let (printed, ()) = tokio::join!(run("deflate.py", &arguments), publishing);
    let printed: Vec<Value> = printed.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let read: Vec<&str> = printed.iter().map(|message| message["data"].as_str().unwrap()).collect();
    assert_eq!(read, lines);
}
