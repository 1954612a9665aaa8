//! The session cookie: what opens it, and from which pages it counts.

use lastmile::auth::seal::{Purpose, SealKey, Sealer};
use serde_json::json;

use crate::browser::Browser;
use test_support::{RedisServer, TempDir, TestIssuer, unix_now};

use crate::fake_provider::Provider;
use crate::test_env::LoginEnv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_counts_from_own_pages() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let authority = env.url.trim_start_matches("http://").to_owned();
    let port = authority.rsplit(':').next().unwrap().to_owned();

    for origin in [
        "https://evil.example".to_owned(),
        "http://127.0.0.1:1".to_owned(),
        "null".to_owned(),
        String::new(),
        format!("https://{authority}"),
        format!("http://{authority}.evil.example"),
        format!("http://{authority}/"),
        format!("HTTP://{authority}"),
        format!("http://user@{authority}"),
        format!("http://127.0.0.1.:{port}"),
        format!("http://localhost:{port}"),
        "https://APP.example.com".to_owned(),
        "https://app.example.com.evil.example".to_owned(),
        "https://app.example.com:443".to_owned(),
        "https://app.example.com.".to_owned(),
    ] {
        let answer = browser.subscribe(Some(&origin)).await.err().unwrap_or_else(|| panic!("{origin} may not"));
        assert_eq!(answer.refusal(), (403, "origin-forbidden".into()), "{origin}");
        assert!(browser.session().is_some(), "the session is not the page's to end");
    }
    // An upgrade with a cookie needs an Origin.
    let answer = browser.subscribe(None).await.err().expect("a refusal");
    assert_eq!(answer.refusal(), (403, "origin-forbidden".into()));
    for origin in [env.url.clone(), "https://app.example.com".to_owned()] {
        let mut ws = browser.subscribe(Some(&origin)).await.expect("an upgrade");
        assert_eq!(ws.expect("welcome").await["principal"], "alice");
    }
    // Without a cookie it is as it was.
    Browser::new(&env.url).subscribe(None).await.expect("an upgrade");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_needs_same_origin() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    for (site, status) in [("same-origin", 200), ("none", 200), ("same-site", 401), ("cross-site", 401), ("?", 401)] {
        let answer = browser.send("GET", "/v1/auth/session", &[("sec-fetch-site", site)], "").await;
        assert_eq!(answer.status, status, "{site}");
    }
    let answer = browser.send("GET", "/v1/auth/session", &[("origin", "https://evil.example")], "").await;
    assert_eq!(answer.refusal(), (403, "origin-forbidden".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bearer_token_beats_cookie() {
    let provider = Provider::start().await;
    let own = TestIssuer::new("https://own.example");
    let folder = TempDir::new();
    let jwks = folder.write("own.json", &own.jwks());
    let issuers = format!(
        "{}[[issuers]]\nissuer = \"https://own.example\"\naudience = \"lastmile\"\njwks_file = {jwks:?}\n",
        provider.toml("company")
    );
    let env = LoginEnv::start(&issuers, "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let with = |token: &str| [("authorization", format!("Bearer {token}"))];
    for (token, expected) in [(own.token("carol"), 200), ("rubbish".to_owned(), 401)] {
        let [(name, value)] = &with(&token);
        let answer = browser.send("GET", "/v1/auth/session", &[(name, value)], "").await;
        assert_eq!(answer.status, expected);
        if expected == 200 {
            assert_eq!((&answer.json()["principal"], &answer.json()["method"]), (&json!("carol"), &json!("bearer")));
        }
    }
    // A page cannot see its cookie, so it may send `hello`; a token there takes precedence.
    let mut ws = browser.live().await;
    assert_eq!(ws.hello(Some(&own.token("carol"))).await["principal"], "carol");
    ws.subscribe("c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsealed_cookie_is_cleared() {
    let provider = Provider::start().await;
    let keys = TempDir::new();
    let key = SealKey::generate().unwrap();
    let file = keys.write("session.key", &key.to_text());
    let redis = RedisServer::start(true);
    let login = format!("seal_keys = [{file:?}]\n[engine]\nkind = \"redis\"\nurl = {:?}\n", redis.url());
    let env = LoginEnv::start(&provider.toml("company"), &login).await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let good = browser.session().unwrap().to_owned();
    let begun = browser.begin("").await;
    let pending = browser.cookies[&begun.cookie].clone();

    let ours = Sealer::new(std::slice::from_ref(&key), "redis lastmile").unwrap();
    let content = ours.open(Purpose::Session, &good, unix_now()).unwrap();
    let foreign = Sealer::new(&[SealKey::generate().unwrap()], "redis lastmile").unwrap();
    let elsewhere = Sealer::new(&[key], "redis other").unwrap();
    let mut bad = vec![
        ("no seal", "eyJ1IjoiYWxpY2UifQ".to_owned()),
        ("empty", String::new()),
        ("another key", foreign.seal(Purpose::Session, &content, unix_now() + 60).unwrap()),
        ("another place", elsewhere.seal(Purpose::Session, &content, unix_now() + 60).unwrap()),
        ("expired", ours.seal(Purpose::Session, &content, unix_now()).unwrap()),
        ("another purpose", pending),
        ("another content", ours.seal(Purpose::Session, b"{}", unix_now() + 60).unwrap()),
        ("too long", "A".repeat(6000)),
    ];
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        bad.push(("a changed character", String::from_utf8(bytes).unwrap()));
    }
    for (what, value) in bad {
        for path in ["/v1/auth/session", "/v1/nothing", "/v1/auth/login?return_to=//evil", "/v1/auth/logged-out"] {
            let mut thief = Browser::new(&env.url);
            thief.cookies.insert("lastmile".into(), value.clone());
            let answer = thief.get(path).await;
            assert!(answer.status != 200 || path.ends_with("logged-out"), "{what}: {answer:?}");
            assert_eq!(thief.session(), None, "{what} is cleared at {path}");
        }
        let mut thief = Browser::new(&env.url);
        thief.cookies.insert("lastmile".into(), value);
        let url = env.url.clone();
        assert_eq!(thief.subscribe(Some(&url)).await.err().expect(what).refusal(), (401, "unauthenticated".into()));
        assert_eq!(thief.session(), None, "{what}");
    }
    // Two of the same name: one was planted.
    let mut two = Browser::new(&env.url);
    two.cookies.insert("lastmile".into(), format!("{good}; lastmile={good}"));
    assert_eq!(two.get("/v1/auth/session").await.status, 401);
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_and_connection_end_together() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "session_secs = 6\n").await;
    let mut browser = Browser::new(&env.url);
    let answer = provider.log_in(&mut browser, json!({})).await;
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let set: Vec<_> = set.filter(|value| value.starts_with("lastmile=")).collect();
    assert!(matches!(&set[..], [one] if one.ends_with("; Path=/; Max-Age=6; HttpOnly; SameSite=Lax")), "{set:?}");
    let (kept, mut poller) = (browser.clone(), browser.clone());
    let mut ws = browser.live().await;
    let cursor = poller.get("/v1/poll?channel=c").await.json()["cursor"].as_str().unwrap().to_owned();
    let waiting = poller.get(&format!("/v1/poll?channel=c&wait=60&cursor={cursor}")).await.json();
    assert_eq!(waiting["close"]["code"], 4003, "{waiting}");
    ws.expect_close(4003, "token_expired").await;
    // A browser whose clock is late gains nothing.
    let mut late = kept;
    assert_eq!(late.get("/v1/auth/session").await.refusal(), (401, "unauthenticated".into()));
    assert_eq!(late.session(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_login_starts_a_session() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let (planted, mut first) = (browser.clone(), browser.live().await);
    provider.log_in(&mut browser, json!({})).await;
    assert_ne!(browser.session(), planted.session());
    // The two end apart from each other.
    let mut second = browser.live().await;
    let origin = env.url.clone();
    assert_eq!(browser.send("POST", "/v1/auth/logout", &[("origin", &origin)], "").await.status, 200);
    second.expect_close(4503, "revoked").await;
    first.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_page_cannot_log_out() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let mut ws = browser.live().await;
    for headers in
        [&[("origin", "https://evil.example")][..], &[("origin", "null")], &[], &[("sec-fetch-site", "none")]]
    {
        let answer = browser.send("POST", "/v1/auth/logout", headers, "").await;
        assert_eq!(answer.refusal(), (403, "origin-forbidden".into()), "{headers:?}");
        assert!(browser.session().is_some(), "{headers:?}");
    }
    let answer = browser.get("/v1/auth/logout").await;
    assert_eq!(answer.refusal(), (405, "method-not-allowed".into()), "a link does not log out");
    ws.expect_silence().await;
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_session_is_refused() {
    let provider = Provider::start().await;
    let rule = "[[channels]]\nmatch = \"*\"\nsubscribers = { claim = { big = \"x\" } }\n";
    let env = LoginEnv::start(&provider.toml("company"), rule).await;
    let mut browser = Browser::new(&env.url);
    let answer = provider.log_in(&mut browser, json!({"big": "x".repeat(3000)})).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text().contains("session-too-large"), "{}", answer.text());
    assert_eq!(browser.session(), None);
    // A claim that no rule asks for takes no room.
    let answer = provider.log_in(&mut browser, json!({"picture": "x".repeat(3000)})).await;
    assert_eq!(answer.status, 303);
    assert!(browser.session().unwrap().len() < 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_groups_alone_enter_session() {
    let provider = Provider::start().await;
    let rule = |deny: &str| format!("[[channels]]\nmatch = \"*\"\nsubscribers = {{ group = \"g-79\" }}\n{deny}");
    let env = LoginEnv::start(&provider.toml("company"), &rule("")).await;
    let mut browser = Browser::new(&env.url);
    for count in [80, 150, 200] {
        // As long as the ids of Entra.
        let groups: Vec<_> = (0..count).map(|n| if n == 79 { "g-79".to_owned() } else { format!("{n:036}") }).collect();
        assert_eq!(provider.log_in(&mut browser, json!({"groups": groups})).await.status, 303, "{count}");
        assert_eq!(browser.get("/v1/auth/session").await.json()["groups"], json!(["g-79"]));
        browser.live().await.subscribe("c").await;
    }
    // A rule that names another group cannot be answered from this session.
    env.reload(&provider.toml("company"), &rule(&format!("deny = {{ group = \"{:036}\" }}\n", 7))).unwrap();
    assert_eq!(browser.get("/v1/auth/session").await.status, 401);
    let groups: Vec<_> = (0..80).map(|n| if n == 79 { "g-79".to_owned() } else { format!("{n:036}") }).collect();
    provider.log_in(&mut browser, json!({"groups": groups})).await;
    browser.live().await.subscribe_refused("c", "forbidden").await;
    // A person with these groups alone keeps the session.
    provider.log_in(&mut browser, json!({"groups": ["g-79"]})).await;
    env.reload(&provider.toml("company"), &rule("")).unwrap();
    browser.live().await.subscribe("c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_rule_ends_cookie_sessions() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let deny = "[[channels]]\nmatch = \"*\"\ndeny = [{ claim = { tenant = \"acme\" } }]\n";
    env.reload(&provider.toml("company"), deny).unwrap();
    assert_eq!(browser.get("/v1/auth/session").await.status, 401);
    assert_eq!(browser.session(), None);
    provider.log_in(&mut browser, json!({})).await;
    browser.live().await.subscribe_refused("c", "forbidden").await;
}
