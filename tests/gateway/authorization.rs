//! Rights to subscribe over the life of a connection: templates, denials, issuers, expiry, refresh, reload.

use serde_json::{Value, json};
use test_support::gateway::{ISSUER, TestGateway};
use test_support::{TempDir, TestEnv, TestIssuer, TestPublisher, Ws};

async fn with_token(env: &TestEnv, token: &str) -> Ws {
    let mut ws = env.connect().await;
    ws.hello(Some(token)).await;
    ws
}

async fn with_claims(env: &TestEnv, subject: &str, claims: Value) -> Ws {
    let Value::Object(claims) = claims else { panic!("{claims}") };
    with_token(env, &env.issuer.token_with(subject, 3600, |request| request.claims = claims)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn template_opens_own_channel_only() {
    let env =
        TestEnv::start("[[channels]]\nmatch = \"user.{sub}\"\n[[channels]]\nmatch = \"t.{claim.tenant}.*\"\n").await;
    let mut alice = with_claims(&env, "alice", json!({"tenant": "acme"})).await;
    alice.subscribe("user.alice").await;
    alice.subscribe("t.acme.orders").await;
    for other in ["user.bob", "user.alice.x", "user.*", "user.{sub}", "t.other.acme.x"] {
        alice.subscribe_refused(other, "forbidden").await;
    }
    // No rule matches this one.
    alice.subscribe("t.acme").await;
    env.publish("user.alice", "1").await;
    env.publish("user.bob", "2").await;
    assert_eq!(alice.expect("message").await["channel"], "user.alice");
    alice.expect_silence().await;
    env.anonymous().await.subscribe_refused("user.alice", "unauthenticated").await;
}

/// A second issuer, with more lines for each of the two.
fn two_issuers(first: &str, second: &str) -> String {
    format!(
        "{first}\n[[issuers]]\nissuer = \"{OTHER}\"\naudience = \"lastmile\"\njwks_file = \"other.json\"\n{second}\n"
    )
}

const OTHER: &str = "https://other.example.com";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subject_of_other_issuer_is_another_person() {
    let other = TestIssuer::new(OTHER);
    let rules = "[[channels]]\nmatch = \"user.{iss}.{sub}\"\n";
    let named = two_issuers("name = \"staff\"", "name = \"part.ners\"");
    let (publisher, issuer, folder) = (TestPublisher::new(), TestIssuer::new(ISSUER), TempDir::new());
    folder.write("sso.json", &issuer.jwks());
    folder.write("other.json", &other.jwks());
    let publishers = publisher.toml("market-data", &["*"]).replace("channels =", "control = true\nchannels =");
    // The issuer's table is open until the drain's.
    let toml = |issuers: &str, rules: &str| {
        let drain = "[drain]\nwindow_secs = 0\ndeadline_secs = 10\n";
        TestEnv::toml(&publishers, &format!("{issuers}{drain}{rules}"))
    };
    let gateway = TestGateway::start(&toml(&named, rules), &folder).await;
    let env = TestEnv::of(gateway, folder, publisher, issuer);
    let mut alice = with_token(&env, &env.issuer.token("alice")).await;
    let mut namesake = with_token(&env, &other.token("alice")).await;
    alice.subscribe("user.staff.alice").await;
    namesake.subscribe("user.part%2Eners.alice").await;
    alice.subscribe_refused("user.part%2Eners.alice", "forbidden").await;
    for foreign in ["user.staff.alice", "user.part.ners"] {
        namesake.subscribe_refused(foreign, "forbidden").await;
    }

    // Patterns that do not tell the issuers apart are refused, in files and in pushes.
    let ambiguous = "[[channels]]\nmatch = \"user.{sub}\"\n";
    let error = env.gateway.reload(&toml(&named, ambiguous), &env.folder).unwrap_err();
    assert!(error.contains("channels[0].match") && error.contains("several issuers"), "{error}");
    let body = json!({"channels": [{"match": "user.{sub}"}]}).to_string();
    let put = async |body: &str| {
        let body = Some(("application/json", body.as_bytes()));
        env.call("PUT", "/v1/control/channels", body).await
    };
    assert_eq!(put(&body).await.refusal(), (400, "malformed".into()));
    for limited in [
        json!({"match": "user.{sub}", "subscribers": {"issuer": OTHER}}),
        json!({"match": "user.{sub}", "deny": {"issuer": OTHER}}),
        json!({"match": "user.{iss}.{sub}"}),
    ] {
        assert_eq!(put(&json!({"channels": [limited]}).to_string()).await.status, 204);
    }
    // A pushed pattern for one issuer keeps a second one out.
    env.gateway.reload(&toml("", ""), &env.folder).unwrap();
    assert_eq!(put(&body).await.status, 204);
    let error = env.gateway.reload(&toml(&named, ""), &env.folder).unwrap_err();
    assert!(error.contains("pushed channel rules"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pattern_like_subject_opens_one_name() {
    let env = TestEnv::start("[[channels]]\nmatch = \"user.{sub}\"\n[[channels]]\nmatch = \"t.{tenant}\"\n").await;
    for (subject, own) in [
        ("*", "user.%2A"),
        ("a.b", "user.a%2Eb"),
        ("alice.>", "user.alice%2E>"),
        ("alice@example.com", "user.alice@example%2Ecom"),
    ] {
        let mut ws = with_claims(&env, subject, json!({})).await;
        for other in ["user.alice", "user.a.b", "user.x", "user.alice.x", &format!("user.{subject}")] {
            ws.subscribe_refused(other, "forbidden").await;
        }
        ws.subscribe(own).await;
    }
    for tenant in [json!(null), json!(true), json!(["x"]), json!({"x": 1}), json!(1.5), json!("")] {
        let mut ws = with_claims(&env, "alice", json!({"tenant": tenant})).await;
        for channel in ["t.x", "t.null", "t.true", "t.1.5", "t."] {
            ws.subscribe_refused(channel, "forbidden").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deny_wins_and_one_alternative_suffices() {
    let rules = "[[channels]]\nmatch = \"c\"\n\
                 subscribers = [{ group = \"staff\" }, { claim = { level = 3 } }]\n\
                 deny = [{ group = \"leavers\" }, { claim = { locked = true } }]\n";
    let env = TestEnv::start(rules).await;
    let open = async |claims: Value| {
        let mut ws = with_claims(&env, "alice", claims.clone()).await;
        ws.send(json!({"type": "subscribe", "channel": "c"})).await;
        ws.json().await["type"] == "subscribed"
    };
    assert!(open(json!({"groups": ["staff"]})).await);
    assert!(open(json!({"level": 3})).await);
    assert!(open(json!({"level": [1, 3], "locked": false})).await);
    assert!(!open(json!({})).await);
    assert!(!open(json!({"level": "3"})).await, "a text is not a number");
    assert!(!open(json!({"groups": ["staff", "leavers"]})).await);
    assert!(!open(json!({"groups": ["staff"], "level": 3, "locked": true})).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_is_limited_to_its_channels() {
    let partner = TestIssuer::new("https://partner.example.com");
    let folder_file = "partner.json";
    let env =
        TestEnv::start("[[channels]]\nmatch = \"own\"\nsubscribers = { issuer = \"https://sso.example.com\" }\n").await;
    env.folder.write(folder_file, &partner.jwks());
    let issuers = "[[issuers]]\nissuer = \"https://partner.example.com\"\naudience = \"lastmile\"\n\
                   jwks_file = \"partner.json\"\nchannels = [\"shared.*\", \"own\"]\n";
    let rules = format!("{issuers}[[channels]]\nmatch = \"own\"\nsubscribers = {{ issuer = \"{ISSUER}\" }}\n");
    let publisher = env.publisher.toml("market-data", &["*"]);
    env.reload(&publisher, &rules);
    let mut theirs = with_token(&env, &partner.token("alice")).await;
    theirs.subscribe("shared.a").await;
    theirs.subscribe_refused("prices", "forbidden").await;
    theirs.subscribe_refused("own", "forbidden").await;
    let mut ours = env.subscriber().await;
    for channel in ["shared.a", "prices", "own"] {
        ours.subscribe(channel).await;
    }

    // A right taken from an issuer ends at once, on open connections too.
    env.reload(&publisher, &rules.replace("\"shared.*\", ", ""));
    assert_eq!(theirs.expect("unsubscribed").await["channel"], "shared.a");
    theirs.subscribe_refused("shared.a", "forbidden").await;
    ours.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_expiry_ends_one_connection() {
    let env = TestEnv::start("").await;
    let short = env.issuer.token_with("alice", 2, |_| {});
    let (mut alice, mut refreshed, mut bob) =
        (with_token(&env, &short).await, with_token(&env, &short).await, env.subscriber().await);
    for ws in [&mut alice, &mut refreshed, &mut bob] {
        ws.subscribe("c").await;
    }
    refreshed.send(json!({"type": "refresh", "id": "r", "token": env.issuer.token("alice")})).await;
    refreshed.expect("refreshed").await;
    alice.expect_close(4003, "token_expired").await;
    env.publish("c", "1").await;
    refreshed.expect("message").await;
    bob.expect("message").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrower_refresh_ends_subscriptions() {
    let env = TestEnv::start("[[channels]]\nmatch = \"staff\"\nsubscribers = { group = \"staff\" }\n").await;
    let mut alice = with_claims(&env, "alice", json!({"groups": ["staff"]})).await;
    alice.subscribe("staff").await;
    alice.subscribe("all").await;
    alice.send(json!({"type": "refresh", "id": "r", "token": env.issuer.token("alice")})).await;
    alice.expect("refreshed").await;
    assert_eq!(alice.expect("unsubscribed").await["channel"], "staff");
    env.publish("staff", "1").await;
    env.publish("all", "2").await;
    assert_eq!(alice.expect("message").await["channel"], "all");
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_needs_current_rights() {
    let rule = |who: &str| format!("[[channels]]\nmatch = \"c\"\nbacklog_messages = 10\nsubscribers = {who}\n");
    let env = TestEnv::start(&rule("\"authenticated\"")).await;
    let mut alice = env.subscriber().await;
    let subscribed = alice.subscribe("c").await;
    env.publish("c", "\"secret\"").await;
    alice.expect("message").await;
    alice.close(1000, "").await;

    env.reload(&env.publisher.toml("market-data", &["*"]), &rule("{ group = \"staff\" }"));
    let since = json!({"epoch": subscribed["epoch"], "offset": 0});
    for more in [json!({"since": since}), json!({"backlog": 10})] {
        let mut alice = env.subscriber().await;
        let mut command = json!({"type": "subscribe", "id": "1", "channel": "c"});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        alice.send(command).await;
        alice.expect_error("forbidden").await;
        alice.expect_silence().await;
    }
    let mut staff = with_claims(&env, "bob", json!({"groups": ["staff"]})).await;
    staff.subscribe_with("c", json!({"since": since})).await;
    assert_eq!(staff.expect("message").await["data"], "secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn template_limits_hold_for_all() {
    let env =
        TestEnv::start("[[channels]]\nmatch = \"user.{sub}\"\nmax_message_bytes = 3\nbacklog_messages = 1\n").await;
    assert_eq!(env.post("user.bob", "application/json", b"12345").await.problem(), "message-too-large");
    env.publish("user.alice", "1").await;
    let mut alice = env.subscriber().await;
    alice.subscribe_with("user.alice", json!({"backlog": 5})).await;
    alice.expect("message").await;
}
