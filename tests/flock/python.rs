//! The Python client as it is published (PyPI `traffic-control-client` 0.1.0), over the Rust one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::client::{connect, start_open, subscribe};
use test_support::with_timeout;

/// The Python that has the package, which `tests/run` builds from its source.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let python = std::env::var_os("LASTMILE_TEST_PYTHON").map_or(venv, PathBuf::from);
    let has_it = Command::new(&python)
        .args(["-c", "import traffic_control_client"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(has_it, "{} has no traffic-control-client: run `make test`", python.display());
    python
}

const SCRIPT: &str = r#"
import sys
from traffic_control_client import PyTrafficControlClient
url = sys.argv[1]
client = PyTrafficControlClient("admin", "password")
for topic, payload in [("t1", '{"message": "hello"}'), ("a/b c", "1"), ("é🦆", "[null]"), ("a?b", "2"), ("c#d", "3")]:
    client.publish(url, topic, payload)
def fails(client, topic, payload, words):
    try:
        client.publish(url, topic, payload)
    except Exception as error:
        assert str(error) == words, error
    else:
        raise AssertionError(topic)
fails(PyTrafficControlClient("admin", "wrong"), "t1", "1", "Unauthorized")
fails(client, "t1", "no json", "Something went wrong")
fails(client, "../subscription", "1", "Something went wrong")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_client_publishes_and_reads_errors() {
    let python = python();
    let env = start_open().await;
    let mut ws = connect(&env).await;
    for topic in ["t1", "a/b c", "é🦆", "a", "c"] {
        assert!(subscribe(&mut ws, topic).await);
    }
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, &format!("http://{}", env.gateway.authority("control"))]);
    let output =
        with_timeout("the client", tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The client itself drops the part after `?` and `#`.
    for (payload, topic) in
        [(r#"{"message": "hello"}"#, "t1"), ("1", "a/b c"), ("[null]", "é🦆"), ("2", "a"), ("3", "c")]
    {
        assert_eq!(ws.text().await, format!(r#"{{"payload":{payload},"topic":"{topic}","type":"event"}}"#));
    }
}
