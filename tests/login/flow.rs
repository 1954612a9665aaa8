//! A login from its beginning to its end.

use serde_json::json;

use crate::browser::{Browser, parameter};
use test_support::TempDir;

use crate::fake_provider::Provider;
use crate::test_env::{LoginEnv, closed};

const RULES: &str = r#"
[[channels]]
match = "tenant.*"
subscribers = { claim = { tenant = "acme" } }
[[channels]]
match = "staff.*"
subscribers = { group = "staff" }
[[channels]]
match = "read.*"
subscribers = { scope = "read" }
[[channels]]
match = "write.*"
subscribers = { scope = "write" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_opens_allowed_channels() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), RULES).await;
    let mut browser = Browser::new(&env.url);

    let begun = browser.begin("?return_to=/app?x=1").await;
    assert_eq!(begun.location[..oauth2::url::Position::AfterPath], format!("{}/auth", provider.issuer));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "gateway"),
        ("redirect_uri", &format!("{}/v1/auth/callback", env.url)),
        ("scope", "openid read"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(parameter(&begun.location, name), value);
    }
    assert!(begun.state.len() >= 43 && begun.nonce.len() >= 43);

    let answer = provider.finish(&mut browser, &begun, json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/app?x=1"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!browser.cookies.contains_key(&begun.cookie), "the pending login is forgotten");
    let redeemed = provider.state().redeemed.clone();
    let [(credentials, form)] = &redeemed[..] else { panic!("{redeemed:?}") };
    assert!(credentials.starts_with("Basic "), "{credentials}");
    assert!(form.contains("code=c0de") && form.contains("code_verifier="), "{form}");

    let session = browser.get("/v1/auth/session").await.json();
    assert_eq!((&session["principal"], &session["provider"]), (&json!("alice"), &json!("company")));
    assert_eq!((&session["method"], &session["scopes"]), (&json!("cookie"), &json!(["openid", "read"])));

    let mut ws = browser.live().await;
    for channel in ["tenant.1", "staff.1", "read.1", "plain"] {
        ws.subscribe(channel).await;
    }
    ws.subscribe_refused("write.1", "forbidden").await;
    env.base.publish("staff.1", "7").await;
    assert_eq!(ws.expect("message").await["data"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_without_token_uses_cookie() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let url = env.url.clone();
    let mut ws = browser.subscribe(Some(&url)).await.expect("an upgrade");
    ws.send(json!({"type": "hello"})).await;
    assert_eq!(ws.expect("welcome").await["principal"], "alice");
    ws.subscribe("c").await;
    ws.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_tabs_log_in() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    let (first, second) = (browser.begin("?return_to=/1").await, browser.begin("?return_to=/2").await);
    assert_ne!((&first.state, &first.nonce, &first.cookie), (&second.state, &second.nonce, &second.cookie));
    assert_eq!(provider.finish(&mut browser, &second, json!({})).await.header("location"), "/2");
    assert_eq!(provider.finish(&mut browser, &first, json!({})).await.header("location"), "/1");
    // A page that begins logins by the dozen does not fill the browser's request head.
    for _ in 0..20 {
        browser.begin("").await;
        assert!(browser.cookies.len() <= 7, "{:?}", browser.cookies.keys());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_providers_are_offered() {
    let (one, other) = (Provider::start().await, Provider::start().await);
    let env = LoginEnv::start(&format!("{}{}", one.toml("company"), other.toml("partner")), "").await;
    let mut browser = Browser::new(&env.url);
    let page = browser.get("/v1/auth/login?return_to=/app").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text().contains("/v1/auth/login?provider=partner&amp;return_to=%2Fapp"), "{}", page.text());
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert!(!page.text().contains("<script") && !page.text().contains("style="));

    let begun = browser.begin("?provider=partner").await;
    assert!(begun.location.as_str().starts_with(&other.issuer));
    assert_eq!(other.finish(&mut browser, &begun, json!({"sub": "bob"})).await.status, 303);
    let session = browser.get("/v1/auth/session").await.json();
    assert_eq!((&session["principal"], &session["issuer"]), (&json!("bob"), &json!(other.issuer)));
    assert_eq!(browser.get("/v1/auth/login?provider=unknown").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_client_uses_pkce_only() {
    let provider = Provider::start().await;
    let toml = provider.toml("company").replace("client_secret_file = \"client.secret\", ", "");
    let env = LoginEnv::start(&toml, "").await;
    let mut browser = Browser::new(&env.url);
    assert_eq!(provider.log_in(&mut browser, json!({})).await.status, 303);
    let (credentials, form) = provider.state().redeemed[0].clone();
    assert_eq!(credentials, "");
    assert!(form.contains("client_id=gateway") && !form.contains("client_secret"), "{form}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_in_form_on_request() {
    let provider = Provider::start().await;
    provider.state().metadata = json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]});
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    assert_eq!(provider.log_in(&mut browser, json!({})).await.status, 303);
    let (credentials, form) = provider.state().redeemed[0].clone();
    assert!(credentials.is_empty() && form.contains("client_secret=s3cret"), "{form}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_ends_session_and_connections() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let (mut browser, mut other) = (Browser::new(&env.url), Browser::new(&env.url));
    provider.log_in(&mut browser, json!({})).await;
    provider.log_in(&mut other, json!({})).await;
    let (mut ws, mut others) = (browser.live().await, other.live().await);
    let stolen = browser.clone();

    let answer = browser.send("POST", "/v1/auth/logout", &[("origin", &env.url)], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = format!(
        "{}/end?client_id=gateway&post_logout_redirect_uri={}",
        provider.issuer,
        format!("{}/v1/auth/logged-out", env.url).replace(':', "%3A").replace('/', "%2F")
    );
    assert_eq!(answer.json(), json!({"logout_url": expected}));
    assert_eq!(browser.session(), None, "the cookie is cleared");
    ws.expect_close(4503, "revoked").await;
    // The other session of the same person continues.
    others.expect_silence().await;

    // A kept copy of the cookie is useless, and is cleared.
    let mut thief = stolen.clone();
    let refused = thief.get("/v1/auth/session").await;
    assert_eq!(refused.refusal(), (401, "unauthenticated".into()));
    assert_eq!(thief.session(), None);
    let mut thief = stolen;
    let url = env.url.clone();
    assert_eq!(thief.subscribe(Some(&url)).await.err().expect("a refusal").status, 401);
    assert_eq!(thief.session(), None);

    // A form is led on to the provider; without a session there is nothing to do there.
    let form = [("origin", env.url.as_str()), ("accept", "text/html,*/*")];
    let answer = other.send("POST", "/v1/auth/logout", &form, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, expected.as_str()));
    let answer = other.send("POST", "/v1/auth/logout", &form, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/v1/auth/logged-out"));
    assert_eq!(other.get("/v1/auth/logged-out").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_outage_keeps_sessions() {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let (mut browser, mut late) = (Browser::new(&env.url), Browser::new(&env.url));
    provider.log_in(&mut browser, json!({})).await;
    let mut ws = browser.live().await;

    provider.state().status = 503;
    let answer = provider.log_in(&mut late, json!({})).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("login-unavailable") && !answer.header("retry-after").is_empty());
    assert_eq!(late.session(), None);
    ws.subscribe("c").await;
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
    browser.live().await;

    provider.state().status = 200;
    assert_eq!(provider.log_in(&mut late, json!({})).await.status, 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_survives_restart_with_key() {
    let provider = Provider::start().await;
    let keys = TempDir::new();
    let file = |name: &str| {
        let key = lastmile::auth::seal::SealKey::generate().unwrap();
        keys.write(name, &key.to_text())
    };
    let (old, new) = (file("old.key"), file("new.key"));
    let port = test_support::free_port();
    let store = keys.path().join("store");
    let with =
        |files: &[&std::path::PathBuf]| format!("seal_keys = {files:?}\n[engine]\nkind = \"disk\"\npath = {store:?}\n");
    let env = LoginEnv::at(port, &provider.toml("company"), &with(&[&old])).await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;

    // Rotation: the new key seals, the old one still opens.
    env.reload(&provider.toml("company"), &with(&[&new, &old])).unwrap();
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
    env.base.gateway.stop().await;
    closed(&store).await;
    let env = LoginEnv::at(port, &provider.toml("company"), &with(&[&new, &old])).await;
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
    env.reload(&provider.toml("company"), &with(&[&new])).unwrap();
    assert_eq!(browser.get("/v1/auth/session").await.status, 401);
    assert_eq!(browser.session(), None, "what does not open is cleared");

    // Without a key a reload keeps the process's own.
    env.reload(&provider.toml("company"), "").unwrap();
    provider.log_in(&mut browser, json!({})).await;
    env.reload(&provider.toml("company"), "session_secs = 600\n").unwrap();
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
}
