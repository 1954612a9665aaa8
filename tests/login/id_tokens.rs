//! ID tokens that must be refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::browser::{Begun, Browser};
use test_support::unix_now;

use crate::fake_provider::Provider;
use crate::test_env::LoginEnv;

async fn each(tokens: impl AsyncFn(&Provider, &Begun) -> Vec<(String, String)>) {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    let mut browser = Browser::new(&env.url);
    let count = tokens(&provider, &browser.begin("").await).await.len();
    for index in 0..count {
        let begun = browser.begin("").await;
        let (what, token) = tokens(&provider, &begun).await.swap_remove(index);
        provider.will_answer(&token);
        let answer = browser.callback(&[("code", "c"), ("state", &begun.state), ("iss", &provider.issuer)]).await;
        // 503 while the key that the token names may still be fetched.
        let is_of_key = what.contains("\"kid\"") && answer.status == 503;
        assert!(answer.status == 502 || is_of_key, "{what}: {answer:?}");
        assert!(browser.session().is_none(), "{what}");
        assert!(token.is_empty() || !answer.text().contains(&token), "{what}");
    }
    // The same way with a good one.
    assert_eq!(provider.log_in(&mut browser, json!({})).await.status, 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_claims_are_refused() {
    each(async |provider, begun| {
        let now = unix_now();
        let mut changes = vec![
            json!({"aud": ["gateway", "another"]}),
            json!({"aud": ["gateway", "another"], "azp": "another"}),
            json!({"azp": "another"}),
            json!({"aud": "lastmile"}),
            json!({"iss": format!("{}/", provider.issuer)}),
            json!({"exp": now - 120}),
            json!({"iat": now - 3600, "exp": now + 60}),
            json!({"iat": now + 3600, "exp": now + 7200}),
            json!({"sub": ""}),
            json!({"sid": 7}),
            json!({"events": {}}),
            json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ];
        for name in ["iss", "sub", "aud", "exp", "iat", "nonce"] {
            for value in [json!(null), json!("x"), json!(-1), json!(1.5), json!([]), json!({}), json!(true)] {
                if !(name == "sub" && value == json!("x")) {
                    changes.push(json!({name: value}));
                }
            }
        }
        changes.into_iter().map(|change| (change.to_string(), provider.sign(&provider.claims(begun, change)))).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_members_refuse_no_login() {
    let provider = Provider::start().await;
    let known = provider.toml("company").replace("discovery", "known_audiences = [\"another\"]\ndiscovery");
    let env = LoginEnv::start(&known, "[[channels]]\nmatch = \"*\"\nsubscribers = { group = \"staff\" }\n").await;
    let mut browser = Browser::new(&env.url);
    let (now, member) = (unix_now(), |groups| json!({"groups": groups}));
    for (change, groups) in [
        (member(json!({"staff": true})), json!([])),
        (member(json!([{"name": "admin"}])), json!([])),
        (member(json!(["staff", 7, null])), json!(["staff"])),
        (json!({"exp": now as f64 + 300.25, "iat": now as f64 + 0.5}), json!(["staff"])),
        (json!({"aud": ["gateway", "another"]}), json!(["staff"])),
    ] {
        assert_eq!(provider.log_in(&mut browser, change.clone()).await.status, 303, "{change}");
        assert_eq!(browser.get("/v1/auth/session").await.json()["groups"], groups, "{change}");
    }
    for change in [json!({"aud": ["gateway", "another", "third"]}), json!({"aud": ["another"]})] {
        assert_eq!(provider.log_in(&mut browser, change.clone()).await.status, 502, "{change}");
    }
    // The reply of the token endpoint.
    for members in [
        json!({"expires_in": "3599"}),
        json!({"expires_in": -1, "token_type": "bearer", "refresh_token": 7}),
        json!({"scope": ["openid", "read"], "token_type": 1}),
        json!({"scope": {}}),
    ] {
        let begun = browser.begin("").await;
        provider.will_answer(&provider.sign(&provider.claims(&begun, json!({}))));
        crate::fake_provider::merge(&mut provider.state().token_answer, members.clone());
        let answer = browser.callback(&[("code", "c"), ("state", &begun.state), ("iss", &provider.issuer)]).await;
        assert_eq!(answer.status, 303, "{members}: {answer:?}");
        assert_eq!(browser.get("/v1/auth/session").await.json()["scopes"], json!(["openid", "read"]), "{members}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_chooses_no_algorithm_or_key() {
    each(async |provider, begun| {
        let claims = provider.claims(begun, json!({}));
        let header = |change: Value| {
            let mut header = json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"});
            crate::fake_provider::merge(&mut header, change);
            header
        };
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut tokens: Vec<(String, String)> = [
            json!({"alg": "none"}),
            json!({"alg": "NONE"}),
            json!({"alg": "HS256"}),
            json!({"alg": "RS256"}),
            json!({"alg": "ES256"}),
            json!({"kid": "another"}),
            json!({"kid": "../../dev/null"}),
            json!({"kid": "k".repeat(4000)}),
            json!({"crit": ["x"], "x": 1}),
            json!({"jku": "http://127.0.0.1:1/jwks"}),
            json!({"typ": "at+jwt"}),
            json!({"typ": "logout+jwt"}),
            json!({"typ": "dpop+jwt"}),
            json!({"zip": "DEF"}),
        ]
        .into_iter()
        .map(|change| (change.to_string(), provider.sign_with(&header(change), &claims)))
        .collect();
        let unsigned = format!("{}.{}.", part(&header(json!({"alg": "none"}))), part(&claims));
        tokens.push(("unsigned".into(), unsigned));
        // HMAC by the published key.
        let good = provider.sign(&claims);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        tokens.push(("another signature".into(), format!("{signed}.{}", signature.chars().rev().collect::<String>())));
        tokens.push(("cut".into(), good[..good.len() - 1].to_owned()));
        tokens.push(("padded".into(), format!("{good}=")));
        tokens
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_and_nested_tokens_are_refused() {
    each(async |provider, begun| {
        let deep = |levels: usize| {
            let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let mut claims = provider.claims(begun, json!({})).to_string();
            claims.insert_str(1, &format!("\"deep\":{text},"));
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"k1"}"#);
            provider.sign_text(&format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims)))
        };
        let twice = {
            let mut claims = provider.claims(begun, json!({})).to_string();
            claims.insert_str(1, "\"sub\":\"mallory\",");
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"k1"}"#);
            provider.sign_text(&format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims)))
        };
        vec![
            ("large".into(), provider.sign(&provider.claims(begun, json!({"x": "x".repeat(13_000)})))),
            ("very large".into(), provider.sign(&provider.claims(begun, json!({"x": "x".repeat(150_000)})))),
            ("deep".into(), deep(40)),
            ("very deep".into(), deep(2500)),
            ("a name twice".into(), twice),
            ("dots".into(), ".".repeat(200_000)),
            ("empty".into(), String::new()),
        ]
    })
    .await;
}
