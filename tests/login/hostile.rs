//! Attacks on a login on its way, one test for each.

use serde_json::json;

use crate::browser::Browser;
use test_support::{Answer, TestPublisher};

use crate::fake_provider::Provider;
use crate::test_env::LoginEnv;

async fn env() -> (Provider, LoginEnv, Browser) {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let browser = Browser::new(&env.url);
    (provider, env, browser)
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let page = answer.text();
    assert!(page.contains(&format!("<code>{code}</code>")), "{page}");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!((answer.header("cache-control"), answer.header("referrer-policy")), ("no-store", "no-referrer"));
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    assert!(set.into_iter().all(|value| value.contains("Max-Age=0")), "no session: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_state_is_refused() {
    let (provider, _env, mut browser) = env().await;
    let (begun, other) = (browser.begin("").await, browser.begin("").await);
    provider.will_answer(&provider.sign(&provider.claims(&begun, json!({}))));
    let iss = ("iss", provider.issuer.as_str());
    refused(&browser.callback(&[("code", "c"), iss]).await, 400, "login-expired");
    refused(&browser.callback(&[("code", "c"), ("state", ""), iss]).await, 400, "login-expired");
    refused(&browser.callback(&[("code", "c"), ("state", "../../x; a=b"), iss]).await, 400, "login-expired");
    // The head of one state, which names the cookie, with the tail of the other.
    let mixed = format!("{}{}", &begun.state[..20], &other.state[20..]);
    refused(&browser.callback(&[("code", "c"), ("state", &mixed), iss]).await, 400, "login-expired");
    refused(
        &browser.callback(&[("code", "c"), ("state", &begun.state), ("state", &other.state), iss]).await,
        400,
        "malformed",
    );
    assert!(provider.state().redeemed.is_empty(), "no code went out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_browsers_login_is_refused() {
    let (provider, env, mut attacker) = env().await;
    let begun = attacker.begin("").await;
    provider.will_answer(&provider.sign(&provider.claims(&begun, json!({}))));
    // The victim is made to open the attacker's callback: without the cookie, and with one of its own login.
    let mut victim = Browser::new(&env.url);
    let parameters = [("code", "c"), ("state", begun.state.as_str()), ("iss", &provider.issuer)];
    refused(&victim.callback(&parameters).await, 400, "login-expired");
    let own = victim.begin("").await;
    let sealed = victim.cookies[&own.cookie].clone();
    victim.cookies.insert(begun.cookie.clone(), sealed);
    refused(&victim.callback(&parameters).await, 400, "login-expired");
    assert!(provider.state().redeemed.is_empty() && victim.session().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_counts_once() {
    let (provider, _env, mut browser) = env().await;
    let begun = browser.begin("").await;
    let before = browser.clone();
    assert_eq!(provider.finish(&mut browser, &begun, json!({})).await.status, 303);
    // Reloaded in the same browser, and by someone who kept the pending cookie.
    refused(&provider.finish(&mut browser.clone(), &begun, json!({})).await, 400, "login-expired");
    let mut thief = before;
    refused(&provider.finish(&mut thief, &begun, json!({})).await, 400, "login-expired");
    assert!(thief.session().is_none());
    assert_eq!(provider.state().redeemed.len(), 1);
    // A failure uses it up as well.
    let begun = browser.begin("").await;
    let kept = browser.clone();
    refused(&provider.finish(&mut browser, &begun, json!({"nonce": "another"})).await, 502, "login-failed");
    refused(&provider.finish(&mut kept.clone(), &begun, json!({})).await, 400, "login-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonce_binds_id_token() {
    let (provider, _env, mut browser) = env().await;
    let (first, second) = (browser.begin("").await, browser.begin("").await);
    for nonce in [json!(second.nonce), json!(""), json!(7), json!([first.nonce]), json!(null)] {
        let mut fresh = browser.clone();
        let begun = fresh.begin("").await;
        refused(&provider.finish(&mut fresh, &begun, json!({"nonce": nonce})).await, 502, "login-failed");
    }
    refused(&provider.finish(&mut browser, &first, json!({"nonce": second.nonce})).await, 502, "login-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifier_is_fresh_each_time() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sha2::{Digest, Sha256};
    let (provider, _env, mut browser) = env().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let begun = browser.begin("").await;
        provider.finish(&mut browser, &begun, json!({})).await;
        let (_, form) = provider.state().redeemed.last().unwrap().clone();
        let verifier =
            oauth2::url::form_urlencoded::parse(form.as_bytes()).find(|(name, _)| name == "code_verifier").unwrap().1;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        assert_eq!(challenge, crate::browser::parameter(&begun.location, "code_challenge"));
        seen.push(challenge);
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_issuers_answer_is_refused() {
    let (honest, evil) = (Provider::start().await, Provider::start().await);
    let env = LoginEnv::start(&format!("{}{}", honest.toml("honest"), evil.toml("evil")), "").await;
    let mut browser = Browser::new(&env.url);
    for iss in [Some(evil.issuer.as_str()), Some("https://sso.example.com"), Some(""), None] {
        let begun = browser.begin("?provider=honest").await;
        honest.will_answer(&honest.sign(&honest.claims(&begun, json!({}))));
        let mut parameters = vec![("code", "c"), ("state", begun.state.as_str())];
        parameters.extend(iss.map(|iss| ("iss", iss)));
        refused(&browser.callback(&parameters).await, 502, "login-failed");
    }
    // The victim began at the evil one, which led it to the honest one with the state of its own login.
    let begun = browser.begin("?provider=evil").await;
    let mixed = browser.callback(&[("code", "c0de"), ("state", &begun.state), ("iss", &honest.issuer)]).await;
    refused(&mixed, 502, "login-failed");
    assert!(honest.state().redeemed.is_empty() && evil.state().redeemed.is_empty());

    // The ID token of one, brought by the other.
    let begun = browser.begin("?provider=evil").await;
    evil.will_answer(&honest.sign(&honest.claims(&begun, json!({}))));
    let answer = browser.callback(&[("code", "c"), ("state", &begun.state), ("iss", &evil.issuer)]).await;
    refused(&answer, 502, "login-failed");
    let begun = browser.begin("?provider=evil").await;
    refused(&evil.finish(&mut browser, &begun, json!({"iss": honest.issuer})).await, 502, "login-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iss_may_be_absent_not_wrong() {
    let provider = Provider::start().await;
    provider.state().metadata = json!({"authorization_response_iss_parameter_supported": null});
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    let begun = browser.begin("").await;
    provider.will_answer(&provider.sign(&provider.claims(&begun, json!({}))));
    assert_eq!(browser.callback(&[("code", "c"), ("state", &begun.state)]).await.status, 303);
    let begun = browser.begin("").await;
    let lie = browser.callback(&[("code", "c"), ("state", &begun.state), ("iss", "https://evil.example")]).await;
    refused(&lie, 502, "login-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_returns_to_own_paths() {
    let (_provider, _env, mut browser) = env().await;
    for bad in [
        "//evil.example",
        "/%5Cevil.example",
        "https://evil.example",
        "/%09/evil.example",
        "/%0d%0aSet-Cookie:x",
        "%2F%2Fevil.example",
        "/%252f/evil.example",
        "javascript:alert(1)",
        "",
        "/v1/auth/login",
        "/%2e%2e//evil.example",
        "/\\evil.example",
        "http:evil.example",
        "/a%00b",
    ] {
        let mut query = oauth2::url::form_urlencoded::Serializer::new(String::new());
        let answer = browser.get(&format!("/v1/auth/login?{}", query.append_pair("return_to", bad).finish())).await;
        refused(&answer, 400, "malformed");
        // The same, encoded once less.
        let answer = browser.get(&format!("/v1/auth/login?return_to={}", bad.replace('\\', "%5C"))).await;
        refused(&answer, 400, "malformed");
    }
    refused(&browser.get("/v1/auth/login?return_to=/a&return_to=/b").await, 400, "malformed");
    assert!(browser.cookies.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirect_uri_is_configured() {
    let (_provider, env, mut browser) = env().await;
    let headers =
        [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example"), ("x-forwarded-proto", "https")];
    let answer = browser.send("GET", "/v1/auth/login", &headers, "").await;
    let location = oauth2::url::Url::parse(answer.header("location")).unwrap();
    assert_eq!(crate::browser::parameter(&location, "redirect_uri"), format!("{}/v1/auth/callback", env.url));
    let authority = env.url.trim_start_matches("http://");
    let request = http::Request::get("/v1/auth/login").header("host", "evil.example").body(Default::default()).unwrap();
    let address = lastmile::transport::config::Address::Tcp(authority.parse().unwrap());
    let answer = test_support::http::send(&address, request).await;
    assert!(answer.header("location").contains("127.0.0.1") && !answer.header("location").contains("evil"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_error_is_a_plain_page() {
    let (provider, _env, mut browser) = env().await;
    for error in ["access_denied", "server_error", "<script>alert(1)</script>", "x\r\ny"] {
        let begun = browser.begin("?return_to=/%22%3E%3Cscript%3E").await;
        let answer = browser
            .callback(&[
                ("error", error),
                ("error_description", "<img src=x onerror=alert(1)> secret-words"),
                ("state", &begun.state),
                ("iss", &provider.issuer),
                ("code", "c"),
            ])
            .await;
        refused(&answer, 403, "login-refused");
        assert!(!answer.text().contains("<script") && !answer.text().contains("secret-words"), "{}", answer.text());
        assert!(!browser.cookies.contains_key(&begun.cookie));
    }
    assert!(provider.state().redeemed.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_code_starts_no_session() {
    let (provider, _env, mut browser) = env().await;
    let begun = browser.begin("").await;
    provider.state().status = 400;
    provider.state().token_answer = json!({"error": "invalid_grant", "error_description": "the code c0de"});
    let parameters = |state: &str| {
        vec![
            ("code".to_owned(), "c0de".to_owned()),
            ("state".to_owned(), state.to_owned()),
            ("iss".to_owned(), provider.issuer.clone()),
        ]
    };
    let send = async |browser: &mut Browser, state: &str| {
        let all = parameters(state);
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        browser.callback(&all).await
    };
    refused(&send(&mut browser, &begun.state).await, 502, "login-failed");
    // No secret is sent on to where a redirect leads.
    for status in [302, 307, 500] {
        let begun = browser.begin("").await;
        provider.state().status = status;
        refused(&send(&mut browser, &begun.state).await, 503, "login-unavailable");
    }
    provider.state().status = 200;
    for answer in [
        json!(null),
        json!([]),
        json!({}),
        json!({"access_token": "a", "token_type": "Bearer"}),
        json!({"access_token": 7, "token_type": "Bearer", "id_token": 7}),
    ] {
        let begun = browser.begin("").await;
        provider.state().token_answer = answer;
        refused(&send(&mut browser, &begun.state).await, 502, "login-failed");
    }
    let begun = browser.begin("").await;
    refused(&browser.callback(&[("state", &begun.state), ("iss", &provider.issuer)]).await, 502, "login-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logouts_leave_revocations_to_operators() {
    let provider = Provider::start().await;
    let operator = TestPublisher::new();
    let more = format!(
        "[limits]\nrevocations = 50\n[publishers.operator]\nkey = {:?}\ncontrol = true\n",
        operator.public_line()
    );
    let env = LoginEnv::start(&provider.toml("company"), &more).await;
    let log_out = async |person: &str| {
        let mut browser = Browser::new(&env.url);
        provider.log_in(&mut browser, json!({ "sub": person })).await;
        browser.send("POST", "/v1/auth/logout", &[("origin", &env.url)], "").await.status.as_u16()
    };
    let call = async |method: &str, body: Option<&str>| {
        let address = env.base.gateway.address("publish");
        let body = body.map(|body| ("application/json", body.as_bytes()));
        let authority = env.base.gateway.authority("publish");
        let request = operator.request(&authority, method, "/v1/control/revocations", body);
        test_support::http::send(address, request).await
    };
    let count = async || call("GET", None).await.json()["revocations"].as_array().unwrap().len();
    // One person has a share of 16, and then ends all sessions with one entry.
    for _ in 0..24 {
        assert_eq!(log_out("mallory").await, 200);
    }
    assert_eq!(count().await, 17);
    // All persons together leave a tenth to operators.
    let mut full = 0;
    for n in 0..40 {
        full += u64::from(log_out(&format!("person-{n}")).await == 429);
    }
    assert_eq!((count().await, full), (45, 12));
    let revocation = json!({"issuer": provider.issuer, "subject": "eve"}).to_string();
    assert_eq!(call("POST", Some(&revocation)).await.status, 201);
}
