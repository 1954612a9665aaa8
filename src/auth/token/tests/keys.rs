//! Issuers, their keys, and the token cache.

use super::*;

#[test]
fn verifies_every_asymmetric_algorithm() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let ed = minting(1);
    let keys = vec![
        RSA.jwk(json!({"kid": "r", "alg": null})),
        P256.jwk(json!({"kid": "p"})),
        P384.jwk(json!({"kid": "q"})),
        ed.jwk().clone(),
    ];
    let issuers = issuers(keys, &[RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]);
    for (kid, algorithms, key) in [
        ("r", &[RS256, RS384, RS512, PS256, PS384, PS512][..], &RSA.private),
        ("p", &[ES256], &P256.private),
        ("q", &[ES384], &P384.private),
    ] {
        for algorithm in algorithms {
            let header = json!({"alg": format!("{algorithm:?}"), "kid": kid, "typ": "at+jwt"});
            let token = sign(&header.to_string(), &claims().to_string(), key, *algorithm);
            assert_eq!(verdict(&issuers, &token), Ok("alice".to_owned()), "{algorithm:?}");
        }
    }
    let request = TokenRequest {
        issuer: ISSUER.to_owned(),
        subject: "bob".to_owned(),
        audiences: vec!["lastmile".to_owned()],
        lifetime_secs: 60,
        ..TokenRequest::default()
    };
    assert_eq!(verdict(&issuers, &ed.mint(request, NOW).unwrap()), Ok("bob".to_owned()));
}

/// RFC 7515 appendix A.3: a foreign signature. Its claims lack `aud`, which is checked after the signature.
#[test]
fn verifies_rfc_7515_example() {
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                     "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let mut config = config(vec![serde_json::from_value(jwk).unwrap()], &[Algorithm::ES256]);
    config.issuer = "joe".to_owned();
    let issuers = Issuers::new(vec![config]).unwrap();
    let token = "eyJhbGciOiJFUzI1NiJ9.\
                 eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                 DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert_eq!(verdict(&issuers, token), Err(TokenError::ClaimMissing("aud")));
    assert_eq!(verdict(&issuers, &token.replace("DtEh", "DtEi")), Err(TokenError::SignatureInvalid));
}

#[test]
fn issuers_do_not_share_key_ids() {
    let pem = |seed| EncodingKey::from_ed_pem(&ed25519_pem(seed)).unwrap();
    let jwk = |seed| {
        let mut jwk = minting(seed).jwk().clone();
        jwk.common.key_id = Some("same".to_owned());
        jwk
    };
    let names = ["https://one.example", "https://two.example"];
    let configs = |order: [usize; 2]| {
        let one = |index: usize| IssuerConfig {
            issuer: names[index].to_owned(),
            ..config(vec![jwk(index as u8)], &[Algorithm::EdDSA])
        };
        Issuers::new(order.map(one).to_vec()).unwrap()
    };
    let header = json!({"alg": "EdDSA", "kid": "same"}).to_string();
    let tokens: Vec<_> = (0..4)
        .map(|n| {
            (
                n,
                sign(
                    &header,
                    &claims_with(json!({"iss": names[n / 2]})).to_string(),
                    &pem((n % 2) as u8),
                    Algorithm::EdDSA,
                ),
            )
        })
        .collect();
    for issuers in [configs([0, 1]), configs([1, 0])] {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (n, token) in tokens.iter().chain(tokens.iter().rev()) {
                        match issuers.verify(token, NOW) {
                            Ok(principal) => assert!(n / 2 == n % 2 && *principal.issuer == *names[n / 2]),
                            Err(error) => assert!(n / 2 != n % 2 && error == TokenError::SignatureInvalid),
                        }
                    }
                });
            }
        });
    }
    let twice = vec![config(vec![jwk(1)], &[Algorithm::EdDSA]), config(vec![jwk(2)], &[Algorithm::EdDSA])];
    assert_eq!(Issuers::new(twice).unwrap_err().problem, IssuerProblem::Duplicate);
}

#[test]
fn key_that_is_listed_twice_counts_once() {
    let twice = vec![P256.jwk(json!({"kid": "k1"})), P256.jwk(json!({"kid": "k1", "use": "sig", "alg": null}))];
    assert!(verdict(&issuers(twice, &[Algorithm::ES256]), &token(header(), claims())).is_ok());
    let unnamed = vec![P256.jwk(json!({"kid": null})), P256.jwk(json!({"kid": null}))];
    assert!(verdict(&issuers(unnamed, &[Algorithm::ES256]), &token(json!({"alg": "ES256"}), claims())).is_ok());
    // The second entry may name another algorithm of the same key.
    let rsa = vec![RSA.jwk(json!({"kid": "r", "alg": "RS256"})), RSA.jwk(json!({"kid": "r", "alg": null}))];
    let issuers = issuers(rsa, &[Algorithm::RS256, Algorithm::PS256]);
    for (alg, algorithm) in [("RS256", Algorithm::RS256), ("PS256", Algorithm::PS256)] {
        let header = json!({"alg": alg, "kid": "r"}).to_string();
        assert!(verdict(&issuers, &sign(&header, &claims().to_string(), &RSA.private, algorithm)).is_ok(), "{alg}");
    }
}

#[test]
fn cached_token_until_reload() {
    let token = token(header(), claims());
    let issuers = p256();
    let first = issuers.verify(&token, NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &issuers.verify(&token, NOW + 1).unwrap()));
    let other_key = self::issuers(vec![P384.jwk(json!({"kid": "k1"}))], &[Algorithm::ES384]);
    assert_eq!(verdict(&other_key, &token), Err(TokenError::AlgorithmNotAllowed));
}

#[test]
fn unusable_keys_are_skipped() {
    let okp = |x: &[u8]| json!({"kty": "OKP", "crv": "Ed25519", "x": B64.encode(x)});
    let (one, big) = (B64.encode([1]), B64.encode([0xff; 256]));
    let cases = [
        (serde_json::to_value(P256.jwk(json!({"use": "enc"}))).unwrap(), Unusable::NotForSignatures),
        (serde_json::to_value(P256.jwk(json!({"key_ops": ["encrypt"]}))).unwrap(), Unusable::NotForSignatures),
        (serde_json::to_value(P256.jwk(json!({"alg": "ECDH-ES"}))).unwrap(), Unusable::AlgorithmNotAllowed),
        (serde_json::to_value(P256.jwk(json!({"kid": "k".repeat(257)}))).unwrap(), Unusable::KeyIdTooLong),
        (serde_json::to_value(P384.jwk(json!({}))).unwrap(), Unusable::AlgorithmNotAllowed),
        (serde_json::to_value(P256.jwk(json!({"x": "AAAA"}))).unwrap(), Unusable::Malformed),
        (serde_json::to_value(P256.jwk(json!({"crv": "secp256k1"}))).unwrap(), Unusable::UnknownKind),
        (json!({"kty": "oct", "k": "AAAA"}), Unusable::Symmetric),
        (json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}), Unusable::UnknownKind),
        (json!({"kty": "RSA", "n": B64.encode([0xff; 128]), "e": "AQAB"}), Unusable::Weak),
        (json!({"kty": "RSA", "n": big, "e": one}), Unusable::Weak),
        (json!({"kty": "RSA", "n": big, "e": ""}), Unusable::Weak),
        (json!({"kty": "RSA", "n": "", "e": "AQAB"}), Unusable::Weak),
        (json!({"kty": "RSA", "n": "+/+/", "e": "AQAB"}), Unusable::Malformed),
        (okp(&[1; 31]), Unusable::Malformed),
        // The neutral element and the point of order two: forged signatures verify with them.
        (okp(&[&[1][..], &[0; 31]].concat()), Unusable::Weak),
        (okp(&[0; 32]), Unusable::Weak),
    ];
    let algorithms = [Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA];
    for (jwk, reason) in cases {
        let keys = vec![serde_json::from_value(jwk.clone()).unwrap()];
        let problem = Issuers::new(vec![config(keys.clone(), &algorithms)]).unwrap_err().problem;
        assert!(
            matches!(&problem, IssuerProblem::NoUsableKey(skipped) if skipped[0].reason == reason),
            "{jwk} {problem:?}"
        );
        let beside = issuers([keys, vec![P256.jwk(json!({"kid": "k1"}))]].concat(), &algorithms);
        assert!(verdict(&beside, &token(header(), claims())).is_ok());
        assert_eq!(
            beside.skipped_keys().iter().map(|(issuer, key)| (&**issuer, key.reason)).collect::<Vec<_>>(),
            [(ISSUER, reason)]
        );
    }
}

#[test]
fn bad_issuer_is_an_error() {
    let good = || config(vec![P256.jwk(json!({"kid": "k1"}))], &[Algorithm::ES256]);
    let problem = |config| Issuers::new(vec![config]).unwrap_err().problem;
    assert_eq!(problem(IssuerConfig { audiences: vec![], ..good() }), IssuerProblem::NoAudience);
    assert_eq!(problem(IssuerConfig { audiences: vec![String::new()], ..good() }), IssuerProblem::NoAudience);
    assert_eq!(problem(IssuerConfig { issuer: String::new(), ..good() }), IssuerProblem::NoIssuer);
    assert_eq!(problem(IssuerConfig { algorithms: vec![], ..good() }), IssuerProblem::NoAlgorithm);
    assert_eq!(problem(config(vec![], &[Algorithm::ES256])), IssuerProblem::NoUsableKey(vec![]));
    let other =
        TestKey::new(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256, |pem| EncodingKey::from_ec_pem(pem).unwrap());
    let both = vec![P256.jwk(json!({"kid": "k1"})), other.jwk(json!({"kid": "k1"}))];
    assert_eq!(problem(config(both, &[Algorithm::ES256])), IssuerProblem::DuplicateKeyId("k1".to_owned()));
    let none = Issuers::new(vec![]).unwrap();
    assert_eq!(verdict(&none, &token(header(), claims())), Err(TokenError::IssuerUnknown));
}

#[test]
fn key_types_may_share_a_key_id() {
    let keys = vec![RSA.jwk(json!({"kid": "k1"})), P256.jwk(json!({"kid": "k1"}))];
    let issuers = issuers(keys, &[Algorithm::ES256, Algorithm::RS256]);
    assert!(verdict(&issuers, &token(header(), claims())).is_ok());
    let header = json!({"alg": "RS256", "kid": "k1"}).to_string();
    assert!(verdict(&issuers, &sign(&header, &claims().to_string(), &RSA.private, Algorithm::RS256)).is_ok());
}

/// The newer name of EdDSA, in tokens and in key sets (RFC 9864).
#[test]
fn ed25519_is_eddsa() {
    let mut jwk = serde_json::to_value(minting(5).jwk()).unwrap();
    jwk["alg"] = json!("Ed25519");
    let issuers = issuers(vec![serde_json::from_value(jwk).unwrap()], &[Algorithm::EdDSA]);
    let key = EncodingKey::from_ed_pem(&ed25519_pem(5)).unwrap();
    assert!(verdict(&issuers, &sign(r#"{"alg":"Ed25519"}"#, &claims().to_string(), &key, Algorithm::EdDSA)).is_ok());
}
