//! Access tokens in the shapes of well-known identity providers, with their odd members.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use test_support::{TestEnv, unix_now};

/// A provider as its documentation shows it.
struct Shape {
    issuer: &'static str,
    /// Further lines of its entry in the configuration.
    settings: &'static str,
    header: Value,
    access: Value,
    id: Value,
    /// A rule that the access token meets.
    rule: &'static str,
}

fn shapes() -> [Shape; 6] {
    let now = unix_now();
    let group = |number: u32| format!("{number:08x}-0000-4000-8000-000000000000");
    [
        Shape {
            issuer: "https://keycloak.example/realms/company",
            settings: "audience = \"lastmile\"\ngroups_claim = \"/realm_access/roles\"",
            header: json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"}),
            access: json!({
                "exp": now + 300, "iat": now, "auth_time": now - 60, "jti": "onrtac:1b2c", "aud": ["lastmile", "account"],
                "sub": "f:7d3c:alice", "typ": "Bearer", "azp": "app", "sid": "4f1f", "acr": "1",
                "allowed-origins": ["https://app.example"], "realm_access": {"roles": ["offline_access", "staff"]},
                "resource_access": {"my.app": {"roles": ["editor"]}, "account": {"roles": ["view-profile"]}},
                "scope": "openid profile", "email_verified": true, "groups": null,
            }),
            id: json!({"exp": now + 300, "iat": now, "aud": "lastmile", "sub": "f:7d3c:alice", "typ": "ID", "azp": "app"}),
            rule: r#"{ group = "staff", claim = { "/resource_access/my.app/roles" = "editor" } }"#,
        },
        Shape {
            issuer: "https://login.microsoftonline.example/7e1c/v2.0",
            settings: "audience = \"6e74172b\"",
            header: json!({"typ": "JWT", "alg": "EdDSA", "kid": "k1", "x5t": "k1"}),
            access: json!({
                "aud": "6e74172b", "iat": now, "nbf": now, "exp": now + 4500, "aio": "AXQAi/8I", "azp": "6e74172b",
                "azpacr": "1", "groups": (0..200).map(group).collect::<Vec<_>>(), "name": "Alice", "oid": "00aa",
                "preferred_username": "alice@example.com", "rh": "0.AXkA.", "roles": ["Prices.Read"],
                "scp": "Prices.Subscribe User.Read", "sub": "HKZpfaHyWad", "tid": "7e1c", "uti": "AQ", "ver": "2.0",
                "wids": ["b79f"], "xms_ftd": "x", "_claim_names": {"other": "src1"},
            }),
            id: json!({"aud": "6e74172b", "iat": now, "exp": now + 300, "sub": "HKZ", "nonce": "1", "ver": "2.0"}),
            rule: r#"{ scope = "Prices.Subscribe", group = "000000c7-0000-4000-8000-000000000000", claim = { roles = "Prices.Read" } }"#,
        },
        Shape {
            issuer: "https://tenant.auth0.example/",
            settings: "audience = \"https://live.example\"\ngroups_claim = \"permissions\"",
            header: json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"}),
            access: json!({
                "sub": "auth0|5f7c", "aud": ["https://live.example", "https://tenant.auth0.example/userinfo"],
                "iat": now, "exp": now + 86_400, "azp": "my_client", "scope": "openid read:prices",
                "permissions": ["read:prices"], "https://app.example/roles": ["trader"],
            }),
            id: json!({"sub": "auth0|5f7c", "aud": "https://live.example", "iat": now, "exp": now + 300, "nonce": "x"}),
            rule: r#"{ group = "read:prices", claim = { "https://app.example/roles" = "trader" } }"#,
        },
        Shape {
            issuer: "https://dev.okta.example/oauth2/default",
            settings: "audience = \"api://default\"",
            header: json!({"kid": "k1", "alg": "EdDSA"}),
            access: json!({
                "ver": 1, "jti": "AT.0mP4", "aud": "api://default", "iat": now, "exp": now + 3600, "cid": "0oa",
                "uid": "00u", "scp": ["openid", "prices"], "auth_time": now, "sub": "alice@example.com",
                "groups": ["Everyone", "staff"],
            }),
            id: json!({"ver": 1, "jti": "ID.1", "aud": "api://default", "iat": now, "exp": now + 300, "sub": "00u",
                       "amr": ["pwd"], "at_hash": "MTIzNDU2Nzg5MDEyMzQ1Ng"}),
            rule: r#"{ scope = "prices", group = "staff" }"#,
        },
        Shape {
            issuer: "https://cognito-idp.example/eu-west-1_x",
            settings: "audience = \"7a8b\"\naudience_claim = \"client_id\"\ngroups_claim = \"cognito:groups\"",
            header: json!({"kid": "k1", "alg": "EdDSA"}),
            access: json!({
                "sub": "aaaa", "version": 2, "client_id": "7a8b", "origin_jti": "1", "event_id": "2",
                "token_use": "access", "scope": "aws.cognito.signin.user.admin openid", "auth_time": now,
                "exp": now + 3600, "iat": now, "jti": "3", "username": "alice", "cognito:groups": ["staff"],
            }),
            id: json!({"sub": "aaaa", "aud": "7a8b", "token_use": "id", "exp": now + 300, "iat": now, "jti": "4",
                       "cognito:username": "alice", "cognito:groups": ["staff"], "email_verified": true}),
            rule: r#"{ group = "staff", scope = "openid" }"#,
        },
        // An issuer of RFC 9068 that writes dates and lists in its own way.
        Shape {
            issuer: "https://odd.example",
            settings: "audience = \"lastmile\"\ntyp = \"at+jwt\"",
            header: json!({"typ": "application/at+jwt", "kid": "k1", "alg": "EdDSA"}),
            access: json!({
                "sub": "alice", "aud": "lastmile", "iat": now as f64 + 0.5, "exp": now as f64 + 3600.25, "jti": 17,
                "client_id": null, "scope": ["prices", 7], "scp": {}, "groups": [{"name": "admin"}, "staff"],
            }),
            id: json!({"sub": "alice", "aud": "lastmile", "iat": now, "exp": now + 300, "c_hash": "x"}),
            rule: r#"{ scope = "prices", group = "staff" }"#,
        },
    ]
}

fn sign(key: &SigningKey, shape: &Shape, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["iss"] = shape.issuer.into();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&shape.header), part(&claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_known_providers_open_channels() {
    let env = TestEnv::start("").await;
    let key = lastmile::auth::keys::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().to_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1", "x": x, "x5t": "k1"});
    // Some list a key twice.
    env.folder.write("keys.json", &json!({"keys": [jwk, jwk]}).to_string());
    let mut more = String::new();
    for (number, shape) in shapes().iter().enumerate() {
        let Shape { issuer, settings, rule, .. } = shape;
        more += &format!(
            "[[issuers]]\nissuer = \"{issuer}\"\njwks_file = \"keys.json\"\n{settings}\n\
             [[channels]]\nmatch = \"own-{number}\"\nsubscribers = {rule}\n\
             [[channels]]\nmatch = \"denied-{number}\"\ndeny = {rule}\n"
        );
    }
    env.reload(&env.publisher.toml("market-data", &["*"]), &more);
    for (number, shape) in shapes().iter().enumerate() {
        let mut ws = env.connect().await;
        let welcome = ws.hello(Some(&sign(&key, shape, &shape.access))).await;
        assert_eq!(welcome["principal"], shape.access["sub"], "{}", shape.issuer);
        ws.subscribe(&format!("own-{number}")).await;
        ws.subscribe_refused(&format!("denied-{number}"), "forbidden").await;
        let mut ws = env.connect().await;
        ws.send(json!({"type": "hello", "token": sign(&key, shape, &shape.id)})).await;
        ws.expect_close(4501, "unauthenticated").await;
        // The decision rests on these.
        for (name, value) in [
            ("sub", json!("")),
            ("exp", json!("1800000000")),
            ("exp", json!(unix_now() as f64 - 60.5)),
            ("aud", json!("another")),
        ] {
            let mut wrong = shape.access.clone();
            wrong[name] = value.clone();
            let mut ws = env.connect().await;
            ws.send(json!({"type": "hello", "token": sign(&key, shape, &wrong)})).await;
            ws.expect_close(4501, "unauthenticated").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_token_is_taken_or_bad() {
    let env = TestEnv::start("").await;
    let token = |bytes: usize| {
        let claim = |length: usize| {
            env.issuer.token_with("alice", 60, |token| {
                token.claims.insert("filler".into(), "x".repeat(length).into());
            })
        };
        let length = claim(0).len();
        // Base64 makes four characters of three bytes.
        claim((bytes - length) / 4 * 3)
    };
    for bytes in [9_000, 12_000, 16_384] {
        let token = token(bytes);
        assert!((bytes - 4..=bytes).contains(&token.len()), "{}", token.len());
        let mut ws = env.connect().await;
        ws.hello(Some(&token)).await;
        ws.send(json!({"type": "refresh", "token": token})).await;
        ws.expect("refreshed").await;
        let bearer = format!("Bearer {token}");
        let mut ws = env.connect_with(&[("authorization", &bearer)]).await.expect("an upgrade");
        ws.expect("welcome").await;
    }
    for bytes in [16_400, 20_000, 32_000] {
        let token = token(bytes);
        let mut ws = env.connect().await;
        ws.send(json!({"type": "hello", "token": token})).await;
        ws.expect_close(4501, "unauthenticated").await;
    }
    let bearer = format!("Bearer {}", token(20_000));
    let answer = env.connect_with(&[("authorization", &bearer)]).await.err().expect("a refusal");
    assert_eq!(answer.refusal(), (401, "unauthenticated".into()));
}
