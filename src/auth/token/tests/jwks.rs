//! Key changes at runtime: pushes, age, reloads.

use super::*;

fn file(keys: Vec<Jwk>, changed: u64, max_age: u64) -> IssuerConfig {
    let keys_max_age_secs = max_age;
    IssuerConfig {
        keys: KeySource::File { keys: JwkSet { keys }, changed },
        keys_max_age_secs,
        ..config(vec![], &[Algorithm::ES256, Algorithm::EdDSA])
    }
}

fn p256_key() -> Jwk {
    P256.jwk(json!({"kid": "k1"}))
}

#[test]
fn pushed_keys_outlive_reloads() {
    let before = Issuers::new(vec![file(vec![p256_key()], 1, 0)]).unwrap();
    let old = token(header(), claims());
    assert!(before.verify(&old, NOW).is_ok());
    before.replace_keys(ISSUER, minting(7).jwks(), NOW).unwrap();
    assert_eq!(before.verify(&old, NOW).unwrap_err(), TokenError::KeyUnknown, "its key is gone");
    let key = EncodingKey::from_ed_pem(&ed25519_pem(7)).unwrap();
    let new = sign(r#"{"alg":"EdDSA"}"#, &claims().to_string(), &key, Algorithm::EdDSA);
    assert!(before.verify(&new, NOW).is_ok());

    let same = before.rebuild(vec![file(vec![p256_key()], 1, 0)]).unwrap();
    assert!(same.verify(&new, NOW).is_ok());
    // Another maximum age is still the same source.
    let aged = same.rebuild(vec![file(vec![p256_key()], 1, 1 << 40)]).unwrap();
    assert!(aged.verify(&new, NOW).is_ok());
    let changed = aged.rebuild(vec![file(vec![p256_key()], 2, 0)]).unwrap();
    assert_eq!(changed.verify(&new, NOW).unwrap_err(), TokenError::AlgorithmNotAllowed);
    assert!(changed.verify(&old, NOW).is_ok());
}

#[test]
fn unusable_push_is_refused() {
    let issuers = p256();
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let other = EncodingKey::from_ec_pem(other.as_bytes()).unwrap();
    let mut other = Jwk::from_encoding_key(&other, Algorithm::ES256).unwrap();
    other.common.key_id = p256_key().common.key_id;
    let cases = [
        (vec![], "no usable key"),
        (vec![P384.jwk(json!({"kid": "k1"}))], "no usable key"),
        (vec![p256_key(), other], "two keys"),
    ];
    for (keys, why) in cases {
        let error = issuers.replace_keys(ISSUER, JwkSet { keys }, NOW).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(issuers.verify(&token(header(), claims()), NOW).is_ok());
    }
    let unknown = issuers.replace_keys("https://other.example", JwkSet { keys: vec![p256_key()] }, NOW);
    assert_eq!(unknown, Err(ReplaceError::IssuerUnknown));
    let endpoint = crate::auth::fetch::Endpoint::configured("https://sso.example.com/jwks").unwrap();
    let keys = KeySource::Remote(Remote::KeySet(endpoint));
    let fetched = Issuers::new(vec![IssuerConfig { keys, ..file(vec![], 0, 0) }]).unwrap();
    assert_eq!(fetched.replace_keys(ISSUER, JwkSet { keys: vec![p256_key()] }, NOW), Err(ReplaceError::Fetched));
    assert_eq!(fetched.verify(&token(header(), claims()), NOW).unwrap_err(), TokenError::KeysMissing);
}

#[test]
fn old_keys_are_refused_for_cached_tokens() {
    let issuers = Issuers::new(vec![file(vec![p256_key()], NOW - 100, 120)]).unwrap();
    let token = token(header(), claims());
    assert!(issuers.verify(&token, NOW).is_ok());
    assert!(issuers.verify(&token, NOW + 20).is_ok());
    assert_eq!(issuers.verify(&token, NOW + 21).unwrap_err(), TokenError::KeysTooOld);
    // The same file, confirmed by a newer modification time.
    let confirmed = issuers.rebuild(vec![file(vec![p256_key()], NOW + 21, 120)]).unwrap();
    assert!(confirmed.verify(&token, NOW + 21).is_ok());
}

#[test]
fn key_age_metrics() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let mut issuers = Issuers::new(vec![file(vec![p256_key()], NOW, 120)]).unwrap();
    ::metrics::with_local_recorder(&recorder, || issuers.start(None, &Arc::default()));
    for (now, age, stale) in [(NOW, 0, 0), (NOW + 60, 60, 0), (NOW + 61, 61, 1), (NOW - 5, 0, 0)] {
        issuers.sweep(now);
        let text = handle.render();
        assert!(text.contains(&format!("lastmile_issuer_keys_age_seconds{{issuer=\"{ISSUER}\"}} {age}\n")), "{text}");
        assert!(text.contains(&format!("lastmile_issuer_keys_stale{{issuer=\"{ISSUER}\"}} {stale}\n")), "{text}");
    }
}
