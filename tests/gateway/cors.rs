//! Rights of pages of other origins (CORS).

use test_support::TestEnv;
use test_support::events::request;
use test_support::http::{Answer, send};

const APP: &str = "https://app.example.com";

async fn env() -> TestEnv {
    let more = "[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n[listeners.app]\naddress = \"127.0.0.1:0\"\n\
                roles = [\"subscribe\"]\norigins = [\"https://app.example.com\"]\n";
    TestEnv::start(more).await
}

async fn ask(env: &TestEnv, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let address = env.gateway.address("app");
    send(address, request(address, method, path, headers)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_origin_reads_answers() {
    let env = env().await;
    for path in ["/v1/poll?channel=c", "/v1/poll?channel=c&cursor=x", "/v1/events"] {
        let answer = ask(&env, "GET", path, &[("origin", APP)]).await;
        assert_eq!(answer.header("access-control-allow-origin"), APP, "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert!(answer.header("vary").contains("Origin"));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    // Without an origin there is no grant, but caches must know that answers vary.
    let answer = ask(&env, "GET", "/v1/poll?channel=c", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, ""));
    assert!(answer.header("vary").contains("Origin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_origin_reads_nothing() {
    let env = env().await;
    for origin in
        ["https://evil.example", "http://app.example.com", "https://app.example.com.evil.example", "null", "*"]
    {
        let answer = ask(&env, "GET", "/v1/poll?channel=c", &[("origin", origin)]).await;
        assert_eq!(answer.refusal(), (403, "origin-forbidden".into()), "{origin}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{answer:?}");
        let headers = [("origin", origin), ("access-control-request-method", "GET")];
        let answer = ask(&env, "OPTIONS", "/v1/poll?channel=c", &headers).await;
        assert_eq!(answer.refusal(), (403, "origin-forbidden".into()), "{origin}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_lists_allowed_headers() {
    let env = env().await;
    let headers = [
        ("origin", APP),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = ask(&env, "OPTIONS", "/v1/events?channel=c", &headers).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), APP);
    assert_eq!(answer.header("access-control-allow-methods"), "GET, POST");
    assert_eq!(answer.header("access-control-allow-headers"), "Accept, Authorization, Content-Type, Last-Event-ID");
    assert_eq!(answer.header("access-control-max-age"), "600");
    // Endpoints that are not for pages have no preflight.
    assert_eq!(ask(&env, "OPTIONS", "/v1/subscribe", &headers).await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_pages_need_no_permission() {
    let env = env().await;
    let own = format!("http://{}", env.gateway.authority("app"));
    let answer = ask(&env, "GET", "/v1/poll?channel=c", &[("origin", &own)]).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, ""));
}
