//! The names of a listener: signatures, pages and metrics belong to the place that they were meant for.

use bytes::Bytes;
use http::Request;
use test_support::gateway::TestGateway;
use test_support::http::Answer;
use test_support::{TempDir, TestEnv, Ws, http as client};

const JSON: Option<(&str, &[u8])> = Some(("application/json", b"{\"usd\":1}"));
const PATH: &str = "/v1/channels/prices.btc/messages";

/// Listeners beyond loopback, whose name is `name`.
fn named(name: &str) -> String {
    format!(
        "[listeners.named]\naddress = \"0.0.0.0:0\"\nplaintext = true\nroles = [\"publish\"]\nhosts = [\"{name}\"]\n\
         [listeners.rooms]\naddress = \"0.0.0.0:0\"\nplaintext = true\nroles = [\"pair\"]\nhosts = [\"{name}\"]\n\
         [listeners.relay]\naddress = \"0.0.0.0:0\"\nplaintext = true\nroles = [\"relay\"]\nhosts = [\"{name}\"]\n\
         [rooms]\nopen = \"publisher\"\n"
    )
}

/// A second gateway that knows the same publisher.
async fn other_gateway(env: &TestEnv, more: &str) -> (TestGateway, TempDir) {
    let folder = TempDir::new();
    folder.write("sso.json", &env.issuer.jwks());
    let publishers = env.publisher.toml("market-data", &["*"]).replace("channels", "control = true\nchannels");
    (TestGateway::start(&TestEnv::toml(&publishers, more), &folder).await, folder)
}

async fn send(gateway: &TestGateway, listener: &str, request: Request<Bytes>) -> Answer {
    client::send(gateway.address(listener), request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_counts_at_its_gateway_alone() {
    let env = TestEnv::start("").await;
    let (other, _folder) = other_gateway(&env, &named("gw-b.internal:9")).await;
    let (own, foreign) = (env.gateway.authority("publish"), "gw-a.internal:8081".to_owned());
    // Once for another gateway on loopback, once for one with a name.
    for (authority, listener) in [(&own, "publish"), (&foreign, "publish"), (&own, "named"), (&foreign, "named")] {
        for (method, path, body) in [
            ("POST", PATH, JSON),
            ("PUT", "/v1/channels/c", None),
            ("GET", "/v1/channels/c", None),
            ("GET", "/v1/control/channels", None),
            ("POST", "/v1/control/revocations", JSON),
        ] {
            let head = env.publisher.request(authority, method, path, body);
            assert_eq!(send(&other, listener, head).await.refusal(), (421, "host-unknown".into()), "{method} {path}");
        }
        let head = env.publisher.request(authority, "GET", "/v1/publish", None);
        let refused = Ws::open(other.address(listener), head).await.err().expect("no upgrade");
        assert_eq!(refused.refusal(), (421, "host-unknown".into()));
        // The same in the absolute form, where the target names the host.
        let head = env.publisher.request(authority, "GET", "/v1/publish", None);
        let (mut parts, body) = head.into_parts();
        parts.uri = format!("http://{authority}/v1/publish").parse().unwrap();
        parts.headers.insert("host", other.authority(listener).parse().unwrap());
        let refused = Ws::open(other.address(listener), Request::from_parts(parts, body)).await.err();
        assert_eq!(refused.expect("no upgrade").refusal(), (421, "host-unknown".into()));
    }
    // With another host in the head, the signature does not verify.
    let mut head = env.publisher.request(&foreign, "POST", PATH, JSON);
    head.headers_mut().insert("host", "gw-b.internal:9".parse().unwrap());
    assert_eq!(send(&other, "named", head).await.refusal(), (401, "signature-invalid".into()));
    for name in ["gw-b.internal:9", "GW-B.internal:9"] {
        assert_eq!(send(&other, "named", env.publisher.request(name, "POST", PATH, JSON)).await.status, 200, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_opened_by_signature_have_names() {
    let env = TestEnv::start("").await;
    let (other, _folder) = other_gateway(&env, &named("gw-b.internal:9")).await;
    for (listener, method, path) in [
        ("rooms", "POST", "/v1/rooms"),
        ("rooms", "GET", "/v1/relay/r"),
        ("rooms", "GET", "/v1/ws/"),
        ("relay", "GET", "/r"),
    ] {
        let head = env.publisher.request("gw-a.internal:8081", method, path, None);
        let answer = match method {
            "POST" => send(&other, listener, head).await,
            _ => Ws::open(other.address(listener), head).await.err().expect("no upgrade"),
        };
        assert_eq!(answer.refusal(), (421, "host-unknown".into()), "{listener} {path}");
    }
    let head = env.publisher.request("gw-b.internal:9", "POST", "/v1/rooms", None);
    assert_eq!(send(&other, "rooms", head).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_names_are_address_and_localhost() {
    let env = TestEnv::start("").await;
    let port = env.gateway.authority("publish").rsplit_once(':').unwrap().1.to_owned();
    let status =
        async |authority: &str| env.send(env.publisher.request(authority, "POST", PATH, JSON)).await.status.as_u16();
    for own in ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"] {
        assert_eq!(status(&format!("{own}:{port}")).await, 200, "{own}");
    }
    for other in [
        "127.0.0.2",
        "[::1]",
        "0.0.0.0",
        "localhost.",
        "gateway",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "2130706433",
    ] {
        assert_eq!(status(&format!("{other}:{port}")).await, 421, "{other}");
    }
    for without_port in ["127.0.0.1", "localhost", "localhost:1", "127.0.0.1:80"] {
        assert_eq!(status(without_port).await, 421, "{without_port}");
    }
}

/// Every endpoint that a page can use, with the listener.
const PAGES: [(&str, &str, bool); 11] = [
    ("public", "/v1/subscribe", true),
    ("public", "/v1/events?channel=open.1", false),
    ("public", "/v1/poll?channel=open.1&wait=0", false),
    ("tslm", "/any", true),
    ("flock", "/ws", true),
    ("relay", "/room", true),
    ("pair", "/v1/rooms", true),
    ("pair", "/v1/ws/", true),
    ("pair", "/v1/ws/AAAAAAAAAAAAAAAAAAAAAA", true),
    ("pair", "/v1/relay/room", true),
    ("listed", "/v1/relay/room", true),
];

const PAGE_LISTENERS: &str = r#"
[listeners.tslm]
address = "127.0.0.1:0"
roles = ["tslm"]
default_endpoint_permissions = ["Subscribe"]
[listeners.flock]
address = "127.0.0.1:0"
roles = ["flock"]
[listeners.relay]
address = "127.0.0.1:0"
roles = ["relay"]
[listeners.pair]
address = "127.0.0.1:0"
roles = ["pair"]
[listeners.listed]
address = "127.0.0.1:0"
roles = ["pair"]
origins = ["https://app.example.com"]
[listeners.hosts]
address = "127.0.0.1:0"
roles = ["tslm"]
hosts = ["live.example.com"]
default_endpoint_permissions = ["Subscribe"]
[[channels]]
match = "open.*"
subscribers = "anyone"
"#;

/// The answer to a page of `origin` that reaches the listener as `host`; 101 for an upgrade.
async fn page(env: &TestEnv, listener: &str, path: &str, host: &str, origin: &str) -> (u16, String) {
    let (address, is_upgrade) = (env.gateway.address(listener), PAGES.iter().any(|page| page.1 == path && page.2));
    let request = Ws::request(host, path, &[("origin", origin)]);
    let answer = match is_upgrade {
        true => match Ws::open(address, request).await {
            Ok(_) => return (101, String::new()),
            Err(answer) => answer,
        },
        false => {
            let (answer, _) = client::exchange(client::connect(address).await, request).await;
            answer
        }
    };
    match answer.status.as_u16() {
        status @ (403 | 421) => (status, answer.problem()),
        status => (status, String::new()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebound_name_is_no_own_origin() {
    let env = TestEnv::start(PAGE_LISTENERS).await;
    for (listener, path, _) in PAGES {
        let port = env.gateway.authority(listener).rsplit_once(':').unwrap().1.to_owned();
        for name in ["rebind.evil", "localhost.evil", "127.0.0.1.evil", "localhost.", "gateway"] {
            let host = format!("{name}:{port}");
            for origin in [format!("http://{host}"), format!("https://{host}")] {
                let answer = page(&env, listener, path, &host, &origin).await;
                assert_eq!(answer, (403, "origin-forbidden".into()), "{origin} at {listener} {path}");
            }
        }
        if path.contains("events") {
            continue;
        }
        for name in ["127.0.0.1", "localhost", "[::1]", "192.0.2.7"] {
            let host = format!("{name}:{port}");
            let (status, _) = page(&env, listener, path, &host, &format!("http://{host}")).await;
            assert!([101, 200, 400, 401].contains(&status), "{host} at {listener} {path}: {status}");
        }
    }
    // A listener that lists origins is strict with pages of other sites as well.
    let foreign = "https://accounts.example.com";
    assert_eq!(page(&env, "pair", "/v1/relay/room", "127.0.0.1", foreign).await.0, 101);
    assert_eq!(page(&env, "listed", "/v1/relay/room", "127.0.0.1", foreign).await.0, 403);
    assert_eq!(page(&env, "listed", "/v1/relay/room", "127.0.0.1", "https://app.example.com").await.0, 101);
    // The operator's name is the listener's own.
    assert_eq!(page(&env, "hosts", "/any", "live.example.com", "https://live.example.com").await.0, 101);
    assert_eq!(page(&env, "hosts", "/any", "rebind.evil", "https://rebind.evil").await.0, 421);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_no_pages() {
    let listener =
        "[listeners.named]\naddress = \"127.0.0.1:0\"\nroles = [\"ops\", \"subscribe\"]\nhosts = [\"gw:9\"]\n";
    let env = TestEnv::start(listener).await;
    let ask = async |listener: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get(path).body(Bytes::new()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        client::send(env.gateway.address(listener), request).await.status.as_u16()
    };
    for listener in ["ops", "named"] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            for host in ["127.0.0.1", "127.0.0.1:8082", "localhost:1", "[::1]:8082", "10.1.2.3:9", "192.0.2.1"] {
                assert_eq!(ask(listener, path, &[("host", host)]).await, 200, "{host} {path}");
                for origin in ["http://rebind.evil", "null", &format!("http://{host}")] {
                    assert_eq!(ask(listener, path, &[("host", host), ("origin", origin)]).await, 403, "{origin}");
                }
            }
            for host in ["rebind.evil", "rebind.evil:8082", "localhost.", "127.0.0.1.evil", "prometheus-target:8082"] {
                let expected = if path == "/metrics" { 421 } else { 200 };
                assert_eq!(ask(listener, path, &[("host", host)]).await, expected, "{host} {path}");
            }
        }
    }
    assert_eq!(ask("named", "/metrics", &[("host", "gw:9")]).await, 200);
    // Other roles of the listener are held to its hosts.
    assert_eq!(ask("named", "/v1/poll?channel=c", &[("host", "127.0.0.1")]).await, 421);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_url_is_signed_behind_proxies() {
    let listener = |name: &str, more: &str| {
        format!(
            "[listeners.{name}]\naddress = \"127.0.0.1:0\"\nroles = [\"publish\", \"pair\", \"subscribe\"]\n\
             public_url = \"https://example.com/live\"\n{more}\n"
        )
    };
    let more = [listener("mounted", ""), listener("both", "hosts = [\"gw.internal:9\"]")].concat();
    let env = TestEnv::start(&more).await;
    let folder = TempDir::new();
    folder.write("sso.json", &env.issuer.jwks());
    let toml = TestEnv::toml(&env.publisher.toml("market-data", &["*"]), &more);
    let behind_proxy = TestGateway::start(&format!("trusted_proxies = [\"127.0.0.1\"]\n{toml}"), &folder).await;
    // The signed target, and how the request arrives: with which host and path.
    let post = async |gateway: &TestGateway, listener: &str, signed: (&str, &str), arrives: (&str, &str)| {
        let head = env.publisher.request(signed.0, "POST", signed.1, JSON);
        let (mut parts, body) = head.into_parts();
        parts.uri = arrives.1.parse().unwrap();
        parts.headers.insert("host", arrives.0.parse().unwrap());
        send(gateway, listener, Request::from_parts(parts, body)).await.status.as_u16()
    };
    let mounted = format!("/live{PATH}");
    let public = ("example.com", mounted.as_str());
    for host in ["example.com", "gw.internal:9", "upstream", "127.0.0.1:8081"] {
        for path in [mounted.as_str(), PATH] {
            assert_eq!(post(&behind_proxy, "mounted", public, (host, path)).await, 200, "{host} {path}");
        }
        assert_eq!(post(&behind_proxy, "mounted", (host, PATH), (host, PATH)).await, 401, "{host}");
        assert_eq!(post(&behind_proxy, "mounted", ("example.com", PATH), (host, PATH)).await, 401, "{host}");
    }
    // Other peers name the public URL, or one of the listener's hosts.
    for path in [mounted.as_str(), PATH] {
        assert_eq!(post(&env.gateway, "mounted", public, ("example.com", path)).await, 200, "{path}");
        assert_eq!(post(&env.gateway, "mounted", public, ("upstream", path)).await, 421, "{path}");
        assert_eq!(post(&env.gateway, "both", public, ("example.com", path)).await, 200, "{path}");
    }
    let direct = ("gw.internal:9", PATH);
    assert_eq!(post(&env.gateway, "both", direct, direct).await, 200);
    assert_eq!(post(&env.gateway, "both", public, direct).await, 401);
    assert_eq!(post(&env.gateway, "both", ("127.0.0.1:1", PATH), ("127.0.0.1:1", PATH)).await, 421);

    // Links begin with the path, and the page's origin is the public one.
    let ask = async |origin: &str| {
        let request = Request::post("/v1/rooms").header("host", "upstream").header("origin", origin);
        send(&behind_proxy, "mounted", request.body(Bytes::new()).unwrap()).await
    };
    let opened = ask("https://example.com").await;
    let link = opened.json()["link"].as_str().unwrap().to_owned();
    assert!(link.starts_with("/live/v1/rooms/") && opened.header("location") == link, "{opened:?}");
    assert_eq!(ask("https://upstream").await.refusal(), (403, "origin-forbidden".into()));
}
