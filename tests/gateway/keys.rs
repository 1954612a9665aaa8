//! Keys that are fetched: rotation, storms, floods, and providers that are away, slow or strange.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use jsonwebtoken::Algorithm;
use lastmile::auth::fetch::{Endpoint, FetchConfig, Fetcher};
use lastmile::auth::token::{KeySource, MetadataError, Remote, discovery_endpoint};
use lastmile::auth::{IssuerConfig, Issuers, TokenError};
use serde_json::{Value, json};
use test_support::gateway::ISSUER;
use test_support::{
    Behaviour, TempDir, TestEnv, TestGateway, TestIssuer, TestProvider, TestPublisher, eventually, unix_now,
};

/// A gateway with keys of the provider; `keys` is the line of the configuration.
async fn env(provider: &TestProvider, issuer: TestIssuer, keys: &str) -> TestEnv {
    let (publisher, folder) = (TestPublisher::new(), TempDir::new());
    let gateway = TestGateway::start(&toml(provider, &publisher, &folder, keys), &folder).await;
    TestEnv::of(gateway, folder, publisher, issuer)
}

fn toml(provider: &TestProvider, publisher: &TestPublisher, folder: &TempDir, keys: &str) -> String {
    let authority = provider.certificate.as_ref().map(|pem| {
        folder.write("ca.pem", pem);
        "egress_ca = \"ca.pem\"\n"
    });
    let toml = TestEnv::toml(&publisher.toml("market-data", &["*"]), "");
    let toml = toml.replace(ISSUER, &provider.url).replace("jwks_file = \"sso.json\"", keys);
    format!("{}{toml}", authority.unwrap_or_default())
}

/// The temporary refusal of a token whose issuer has no keys.
const KEYS_UNAVAILABLE: (u16, &str) = (503, "issuer-unavailable");

/// Whether a token opens a session.
async fn is_admitted(env: &TestEnv, token: &str) -> bool {
    let bearer = format!("Bearer {token}");
    match env.connect_with(&[("authorization", &bearer)]).await {
        Ok(mut ws) => ws.expect("welcome").await["principal"].is_string(),
        Err(answer) => {
            // Temporary while the keys are unavailable, final once they are known.
            let refusal = answer.refusal();
            assert!([(401, "unauthenticated"), KEYS_UNAVAILABLE].contains(&(refusal.0, &refusal.1)), "{refusal:?}");
            false
        }
    }
}

async fn await_admitted(env: &TestEnv, token: &str) {
    eventually("a valid token", async || is_admitted(env, token).await.then_some(())).await;
}

fn config(provider: &TestProvider, keys: Remote) -> IssuerConfig {
    IssuerConfig {
        issuer: provider.url.clone(),
        audiences: vec!["lastmile".into()],
        audience_claim: "aud".to_owned(),
        groups_claim: "groups".to_owned(),
        keys: KeySource::Remote(keys),
        keys_max_age_secs: 0,
        algorithms: vec![Algorithm::EdDSA],
        typ: None,
        leeway_secs: 30,
        max_lifetime_secs: 86_400,
    }
}

/// Issuers without a gateway around them, which fetch already.
fn issuers(configs: Vec<IssuerConfig>) -> Issuers {
    let mut issuers = Issuers::new(configs).unwrap();
    issuers.start(Some(&Arc::new(Fetcher::new(FetchConfig::default()).unwrap())), &Arc::default());
    issuers
}

fn key_set(provider: &TestProvider) -> Remote {
    Remote::KeySet(Endpoint::configured(&format!("{}/jwks", provider.url)).unwrap())
}

/// Fetches that tokens may cause: the first two, and one for every five seconds that the machine needs.
fn most_fetches(began: Instant) -> u64 {
    2 + began.elapsed().as_secs() / 5
}

/// A token in the issuer's name with this header and an invalid signature.
fn forged(issuer: &str, header: Value) -> String {
    let now = unix_now();
    let claims = json!({"iss": issuer, "sub": "mallory", "aud": "lastmile", "iat": now, "exp": now + 60});
    format!("{}.{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()), B64.encode([7; 64]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_over_tls_with_authority() {
    let provider = TestProvider::start_tls().await;
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    let env = env(&provider, issuer, "discovery = true").await;
    assert!(is_admitted(&env, &env.issuer.token("alice")).await);
    assert!(!is_admitted(&env, &provider.issuer().token("alice")).await);
    assert_eq!(provider.requests("/.well-known/openid-configuration"), 1);
    env.await_metric("lastmile_issuer_keys_stale", 0.0).await;

    // Without the authority the certificate is not trusted, and every token is refused.
    let (folder, publisher) = (TempDir::new(), TestPublisher::new());
    let toml = toml(&provider, &publisher, &folder, "discovery = true").replace("egress_ca = \"ca.pem\"", "");
    let gateway = TestGateway::start(&toml, &folder).await;
    let stranger = TestEnv::of(gateway, folder, publisher, TestIssuer::new("unused"));
    assert!(!is_admitted(&stranger, &env.issuer.token("bob")).await);
    assert!(stranger.metric("lastmile_key_fetches_total{result=\"tls\"}").await >= 1.0);
    assert!(stranger.metric("lastmile_issuer_keys_stale").await == 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_key_ends_old_tokens() {
    let provider = TestProvider::start().await;
    let (old, new) = (provider.issuer(), provider.issuer());
    provider.publish(&[&old]);
    let env = env(&provider, provider.issuer(), &format!("jwks_url = \"{}/jwks\"", provider.url)).await;
    let remembered = old.token("alice");
    assert!(is_admitted(&env, &remembered).await);
    assert!(is_admitted(&env, &remembered).await);
    provider.publish(&[&new]);
    assert!(is_admitted(&env, &new.token("alice")).await);
    assert!(!is_admitted(&env, &remembered).await, "a token of a key that is gone");
    assert_eq!(provider.fetches(), 2);
    assert_eq!(env.metric("lastmile_key_fetches_total{result=\"ok\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_storm_makes_few_fetches() {
    let provider = TestProvider::start().await;
    let (old, new) = (provider.issuer(), provider.issuer());
    provider.publish(&[&old]);
    let env = Arc::new(env(&provider, new, "discovery = true").await);
    assert!(is_admitted(&env, &old.token("alice")).await);
    provider.publish(&[&old, &env.issuer]);
    let before = provider.all_requests();
    let clients: Vec<_> = (0..1000)
        .map(|n| {
            let env = env.clone();
            let token = env.issuer.token(&format!("user-{n}"));
            tokio::spawn(async move { is_admitted(&env, &token).await })
        })
        .collect();
    for client in clients {
        assert!(client.await.unwrap());
    }
    let fetches = provider.all_requests() - before;
    assert!(fetches <= 2, "{fetches}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_key_ids_make_few_fetches() {
    let provider = TestProvider::start().await;
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    let issuers = Arc::new(issuers(vec![config(&provider, key_set(&provider))]));
    issuers.admit(&issuer.token("alice"), unix_now()).await.unwrap();
    let (before, began) = (provider.fetches(), Instant::now());
    let attackers: Vec<_> = (0..100)
        .map(|n| {
            let (issuers, url) = (issuers.clone(), provider.url.clone());
            tokio::spawn(async move {
                for m in 0..100 {
                    let token = forged(&url, json!({"alg": "EdDSA", "kid": format!("../{n}/{m}")}));
                    let error = issuers.admit(&token, unix_now()).await.unwrap_err();
                    assert!(matches!(error, TokenError::KeyUnknown | TokenError::KeyNotFetched), "{error}");
                }
            })
        })
        .collect();
    for attacker in attackers {
        attacker.await.unwrap();
    }
    assert!((provider.fetches() - before) as u64 <= most_fetches(began));
    assert!(issuers.verify(&issuer.token("bob"), unix_now()).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranger_cannot_delay_a_new_key() {
    let provider = TestProvider::start().await;
    let (old, new) = (provider.issuer(), provider.issuer());
    provider.publish(&[&old]);
    let env = Arc::new(env(&provider, new, "discovery = true").await);
    assert!(is_admitted(&env, &old.token("alice")).await);
    let (noisy, url) = (env.clone(), provider.url.clone());
    let noise = tokio::spawn(async move {
        for n in 0_u64.. {
            is_admitted(&noisy, &forged(&url, json!({"alg": "EdDSA", "kid": format!("k-{n}")}))).await;
        }
    });
    // The stranger has used up the fetch of this moment.
    eventually("a fetch", async || (provider.fetches() > 1).then_some(())).await;
    provider.publish(&[&old, &env.issuer]);
    let bearer = format!("Bearer {}", env.issuer.token("bob"));
    eventually("the new key", async || match env.connect_with(&[("authorization", &bearer)]).await {
        Ok(_) => Some(()),
        Err(answer) => {
            assert_eq!(answer.refusal(), (KEYS_UNAVAILABLE.0, KEYS_UNAVAILABLE.1.to_owned()), "never final");
            None
        }
    })
    .await;
    noise.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_provider_is_found() {
    let provider = TestProvider::start().await;
    provider.behave(Behaviour::Down);
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    let env = env(&provider, issuer, "discovery = true").await;
    let ready = async || test_support::get(env.gateway.address("ops"), "/readyz").await;
    eventually("the state of the keys", async || {
        let answer = ready().await;
        (answer.status == 503 && answer.body == b"issuer-unavailable\n"[..]).then_some(())
    })
    .await;
    let token = env.issuer.token("alice");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];

    // On every transport the refusal is temporary: the client has nothing to change.
    let answers = [
        env.connect_with(&headers).await.err().expect("a refusal"),
        env.try_events("channel=c", &headers).await.err().expect("a refusal"),
        env.try_poll("channel=c", &headers).await,
    ];
    for answer in answers {
        assert_eq!(answer.refusal(), (KEYS_UNAVAILABLE.0, KEYS_UNAVAILABLE.1.to_owned()));
        assert_eq!(answer.json()["temporary"], true);
        assert_ne!(answer.header("retry-after"), "");
    }
    let mut ws = env.connect().await;
    ws.send(json!({"type": "hello", "token": token})).await;
    ws.expect_close(4006, "issuer_unavailable").await;
    let mut ws = env.connect().await;
    ws.hello(None).await;
    ws.send(json!({"type": "refresh", "id": "1", "token": token})).await;
    assert_eq!(ws.expect_error("issuer_unavailable").await["temporary"], true);

    provider.behave(Behaviour::Good);
    await_admitted(&env, &env.issuer.token("alice")).await;
    assert_eq!(ready().await.status, 200);

    // Away again: who is known stays known, and a reload forgets nothing.
    provider.behave(Behaviour::Down);
    assert!(is_admitted(&env, &env.issuer.token("bob")).await);
    let before = provider.all_requests();
    for _ in 0..5 {
        let toml = toml(&provider, &env.publisher, &env.folder, "discovery = true");
        env.gateway.reload(&toml, &env.folder).unwrap();
        assert!(is_admitted(&env, &env.issuer.token("carol")).await);
    }
    assert_eq!(provider.all_requests(), before, "a reload must not fetch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_provider_delays_no_known_key() {
    let provider = TestProvider::start().await;
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    let env = Arc::new(env(&provider, issuer, "discovery = true").await);
    assert!(is_admitted(&env, &env.issuer.token("alice")).await);
    provider.behave(Behaviour::Silent);
    let (stranger, waiting) = (provider.issuer().token("eve"), env.clone());
    let before = provider.all_requests();
    let waiting = tokio::spawn(async move { is_admitted(&waiting, &stranger).await });
    eventually("the fetch", async || (provider.all_requests() > before).then_some(())).await;
    for n in 0..5 {
        assert!(is_admitted(&env, &env.issuer.token(&format!("user-{n}"))).await);
    }
    assert!(!waiting.is_finished(), "they waited for the fetch");
    // And the stranger is refused once the fetch is given up.
    assert!(!test_support::with_timeout("a refusal", waiting).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answer_keeps_good_keys() {
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let big = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300 * 1024));
    let private = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}]}"#;
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let answers = [
        ok(&big),
        ok("<html>"),
        ok(r#"{"keys":[]}"#),
        ok(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#),
        ok(private),
        ok(r#"{"keys":[{"kty":"OKP","crv":"X25519","x":"AA"}]}"#),
        elsewhere.as_bytes().to_vec(),
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
    ];
    for answer in answers {
        let provider = TestProvider::start().await;
        let issuer = provider.issuer();
        provider.publish(&[&issuer]);
        let issuers = issuers(vec![config(&provider, key_set(&provider))]);
        issuers.admit(&issuer.token("alice"), unix_now()).await.unwrap();
        provider.behave(Behaviour::Says(answer.clone()));
        let unknown = provider.issuer().token("bob");
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        assert!(issuers.admit(&unknown, unix_now()).await.unwrap_err().is_about_keys(), "{shown}");
        assert!(provider.fetches() >= 2, "{shown}");
        issuers.verify(&issuer.token("carol"), unix_now()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_discovery_is_refused() {
    let provider = TestProvider::start().await;
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    provider.document("issuer", &format!("{}/", provider.url));
    let discovery = || Remote::Discovery(discovery_endpoint(&provider.url).unwrap());
    let issuers = issuers(vec![config(&provider, discovery())]);
    assert_eq!(issuers.admit(&issuer.token("alice"), unix_now()).await.unwrap_err(), TokenError::KeysMissing);
    assert_eq!(issuers.metadata(&provider.url).await.unwrap_err(), MetadataError::Unavailable);
    assert_eq!(issuers.metadata("https://other.example").await.unwrap_err(), MetadataError::IssuerUnknown);
    assert_eq!(provider.fetches(), 0, "its key set was asked for");

    provider.document("issuer", &provider.url);
    let metadata = eventually("metadata", async || issuers.metadata(&provider.url).await.ok()).await;
    assert_eq!(metadata.token_endpoint.as_ref().unwrap().to_string(), format!("{}/token", provider.url));
    let (header, claims) = issuers.signed(&provider.url, &issuer.token("alice"), unix_now()).await.unwrap();
    assert_eq!((header.typ.as_deref(), &claims["sub"]), (Some("at+jwt"), &json!("alice")));
    let foreign = issuers.signed(&provider.url, &provider.issuer().token("alice"), unix_now()).await;
    assert!(foreign.unwrap_err().is_about_keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_key_ids_stay_separate() {
    let providers = [TestProvider::start().await, TestProvider::start().await];
    let signers = [providers[0].issuer(), providers[1].issuer()];
    let kid = |issuer: &TestIssuer| issuer.jwks().parse::<Value>().unwrap()["keys"][0]["kid"].clone();
    // The second provider publishes its own key under the first one's name.
    let own = |n: usize| signers[n].jwks().parse::<Value>().unwrap()["keys"][0].clone();
    let mut second = own(1);
    second["kid"] = kid(&signers[0]);
    providers[0].publish_raw(vec![own(0)]);
    providers[1].publish_raw(vec![second]);
    let issuers = issuers(providers.iter().map(|provider| config(provider, key_set(provider))).collect());
    let honest = signers[0].token("alice");
    // The first one's key, in the name of the second.
    let crossed = signers[0].token_with("alice", 60, |token| token.issuer = providers[1].url.clone());
    for _ in 0..2 {
        assert!(issuers.admit(&honest, unix_now()).await.is_ok());
        assert_eq!(issuers.admit(&crossed, unix_now()).await.unwrap_err(), TokenError::SignatureInvalid);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_content_is_never_fetched() {
    let tripwire = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", tripwire.local_addr().unwrap());
    let touched = Arc::new(AtomicUsize::new(0));
    let counted = touched.clone();
    let watch = tokio::spawn(async move {
        while tripwire.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let provider = TestProvider::start().await;
    let issuer = provider.issuer();
    provider.publish(&[&issuer]);
    let issuers = issuers(vec![config(&provider, key_set(&provider))]);
    issuers.admit(&issuer.token("alice"), unix_now()).await.unwrap();
    let began = Instant::now();
    for n in 0..2500 {
        let kid = format!("{url}/{n}");
        for (issuer, header) in [
            (&provider.url, json!({"alg": "EdDSA", "kid": kid, "jku": format!("{url}/jwks")})),
            (&provider.url, json!({"alg": "EdDSA", "kid": kid, "x5u": format!("{url}/cert")})),
            (&url, json!({"alg": "EdDSA", "kid": kid})),
            (&provider.url, json!({"alg": "EdDSA", "kid": kid})),
        ] {
            issuers.admit(&forged(issuer, header), unix_now()).await.unwrap_err();
        }
    }
    assert_eq!(touched.load(Ordering::SeqCst), 0);
    assert!(provider.fetches() as u64 <= most_fetches(began));
    watch.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_issuer_is_not_fetched() {
    let provider = TestProvider::start().await;
    provider.behave(Behaviour::Down);
    let env = env(&provider, provider.issuer(), "discovery = true").await;
    eventually("a second try", async || (provider.all_requests() >= 2).then_some(())).await;
    env.folder.write("sso.json", &env.issuer.jwks());
    env.reload(&env.publisher.toml("market-data", &["*"]), "");
    // A try that was under way may still arrive.
    let mut after = 0;
    while after != std::mem::replace(&mut after, provider.all_requests()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(provider.all_requests(), after);
}
