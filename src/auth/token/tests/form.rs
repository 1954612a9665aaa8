//! Form of tokens: parts, header, signature.

use super::*;

#[test]
fn token_cannot_choose_its_algorithm() {
    let issuers = issuers(vec![RSA.jwk(json!({"kid": "r", "alg": "RS256"}))], &[Algorithm::RS256, Algorithm::PS256]);
    let signed = |alg: &str, key: &EncodingKey, with| {
        sign(&json!({"alg": alg, "kid": "r"}).to_string(), &claims().to_string(), key, with)
    };
    assert!(verdict(&issuers, &signed("RS256", &RSA.private, Algorithm::RS256)).is_ok());
    // Allowed for the issuer but not for this key, and an algorithm other than that of the signature.
    assert_eq!(
        verdict(&issuers, &signed("PS256", &RSA.private, Algorithm::PS256)),
        Err(TokenError::AlgorithmNotAllowed)
    );
    assert_eq!(verdict(&issuers, &signed("RS256", &RSA.private, Algorithm::PS256)), Err(TokenError::SignatureInvalid));
    for alg in ["RS384", "ES256", "EdDSA", "Ed25519", "rs256", "RS256 ", "", "RSA1_5"] {
        let refusal = verdict(&issuers, &signed(alg, &RSA.private, Algorithm::RS256));
        assert_eq!(refusal, Err(TokenError::AlgorithmNotAllowed), "{alg}");
    }
}

#[test]
fn public_key_is_not_a_shared_secret() {
    let jwk = RSA.jwk(json!({"kid": "r"}));
    let issuers = issuers(vec![jwk.clone()], &[Algorithm::RS256]);
    let der = rcgen::KeyPair::from_pem(&RSA.pem).unwrap();
    let der = rcgen::PublicKeyData::subject_public_key_info(&der);
    let body = STANDARD.encode(&der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let json = serde_json::to_string(&jwk).unwrap();
    for secret in
        [pem.clone(), format!("{pem}\n"), format!(" {pem}"), json].map(String::into_bytes).into_iter().chain([der])
    {
        for (alg, algorithm) in [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)]
        {
            let header = json!({"alg": alg, "kid": "r"}).to_string();
            let token = sign(&header, &claims().to_string(), &EncodingKey::from_secret(&secret), algorithm);
            assert_eq!(verdict(&issuers, &token), Err(TokenError::AlgorithmNotAllowed));
        }
    }
    let symmetric = config(vec![jwk], &[Algorithm::RS256, Algorithm::HS256]);
    let problem = Issuers::new(vec![symmetric]).unwrap_err().problem;
    assert_eq!(problem, IssuerProblem::SymmetricAlgorithm(Algorithm::HS256));
}

#[test]
fn unsigned_token_is_refused() {
    let good = token(header(), claims());
    let signature = good.rsplit('.').next().unwrap();
    for alg in ["none", "None", "NONE", "nOnE", " none", "none\t"] {
        let header = json!({"alg": alg, "kid": "k1"}).to_string();
        for signature in ["", signature] {
            let token = format!("{}.{}.{signature}", B64.encode(&header), B64.encode(claims().to_string()));
            assert_eq!(verdict(&p256(), &token), Err(TokenError::AlgorithmNone), "{alg:?}");
        }
    }
    let unsigned = good.strip_suffix(signature).unwrap();
    assert_eq!(verdict(&p256(), unsigned), Err(TokenError::SignatureInvalid));
    assert_eq!(verdict(&p256(), unsigned.strip_suffix('.').unwrap()), Err(TokenError::NotThreeParts));
    // r = s = 0.
    assert_eq!(verdict(&p256(), &format!("{unsigned}{}", B64.encode([0; 64]))), Err(TokenError::SignatureInvalid));
    for alg in [json!(null), json!(1), json!(["ES256"])] {
        assert_eq!(refused(json!({"alg": alg, "kid": "k1"}), claims()), TokenError::HeaderType("alg"));
    }
    assert_eq!(refused(json!({"kid": "k1"}), claims()), TokenError::HeaderType("alg"));
}

#[test]
fn encrypted_and_nested_tokens_are_refused() {
    let good = token(header(), claims());
    assert_eq!(verdict(&p256(), &format!("{good}.x.y")), Err(TokenError::NotThreeParts));
    assert_eq!(verdict(&p256(), &format!("{good}.")), Err(TokenError::NotThreeParts));
    for (name, value) in [("zip", "DEF"), ("enc", "A128GCM"), ("cty", "JWT"), ("cty", "application/jwt")] {
        let header = json!({"alg": "ES256", "kid": "k1", name: value});
        assert_eq!(refused(header, claims()), TokenError::HeaderForbidden(name));
    }
    let repeated = r#"{"alg":"ES256","kid":"k1","alg":"ES256"}"#;
    let token = sign(repeated, &claims().to_string(), &P256.private, Algorithm::ES256);
    assert_eq!(verdict(&p256(), &token), Err(TokenError::NotAnObject(Part::Header)));
}

#[test]
fn forbidden_header_parameters_are_refused() {
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("jku", json!("https://evil.example/jwks")),
        ("x5u", json!("https://evil.example/cert")),
    ] {
        let header = json!({"alg": "ES256", "kid": "k1", name: value});
        assert_eq!(refused(header, claims()), TokenError::HeaderForbidden(name));
    }
}

#[test]
fn key_in_header_is_ignored() {
    let evil = minting(9);
    let evil_key = EncodingKey::from_ed_pem(&ed25519_pem(9)).unwrap();
    let issuers = issuers(vec![minting(1).jwk().clone()], &[Algorithm::EdDSA]);
    for kid in [None, Some(minting(1).key_id())] {
        let header = json!({"alg": "EdDSA", "kid": kid, "jwk": evil.jwk(), "x5c": ["AAAA"]});
        let mut header = header.as_object().unwrap().clone();
        header.retain(|_, value| !value.is_null());
        let token = sign(&Value::Object(header).to_string(), &claims().to_string(), &evil_key, Algorithm::EdDSA);
        assert_eq!(verdict(&issuers, &token), Err(TokenError::SignatureInvalid));
    }
    // With a valid signature they have no effect.
    let header = json!({"alg": "ES256", "kid": "k1", "jwk": evil.jwk(), "x5c": ["AAAA"], "x5t": "x"});
    assert!(verdict(&p256(), &token(header, claims())).is_ok());
}

#[test]
fn hostile_key_ids_are_unknown() {
    let long = "k".repeat(257);
    let many = "k".repeat(4000);
    for kid in ["../../dev/null", "' OR 1=1 --", "k1\0", "", "K1", "k1 ", "https://evil.example/", &long, &many] {
        assert_eq!(refused(json!({"alg": "ES256", "kid": kid}), claims()), TokenError::KeyUnknown, "{kid:?}");
    }
    for kid in [json!(1), json!(null), json!(["k1"])] {
        assert_eq!(refused(json!({"alg": "ES256", "kid": kid}), claims()), TokenError::HeaderType("kid"));
    }
    let header = json!({"alg": "ES256", "kid": "k".repeat(64 * 1024)});
    assert_eq!(refused(header, claims()), TokenError::TooLong);
    let longest = "é".repeat(256);
    let issuers = issuers(vec![P256.jwk(json!({"kid": longest}))], &[Algorithm::ES256]);
    assert!(verdict(&issuers, &token(json!({"alg": "ES256", "kid": longest}), claims())).is_ok());
}

#[test]
fn missing_key_id_selects_only_key() {
    let token = token(json!({"alg": "ES256"}), claims());
    let (rsa, one) = (RSA.jwk(json!({"kid": "r"})), P256.jwk(json!({"kid": "k1"})));
    let both = &[Algorithm::ES256, Algorithm::RS256];
    assert!(verdict(&issuers(vec![rsa.clone(), one.clone()], both), &token).is_ok());
    assert!(verdict(&issuers(vec![P256.jwk(json!({}))], both), &token).is_ok());
    let two = vec![one, P256.jwk(json!({"kid": "k2"}))];
    assert_eq!(verdict(&issuers(two, both), &token), Err(TokenError::KeyAmbiguous));
    assert_eq!(verdict(&issuers(vec![rsa], both), &token), Err(TokenError::AlgorithmNotAllowed));
}

#[test]
fn few_keys_without_id_are_all_tried() {
    let token = token(json!({"alg": "ES256"}), claims());
    let own = P256.jwk(json!({"kid": null}));
    let others: Vec<_> = (0..4)
        .map(|_| {
            TestKey::new(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256, |pem| EncodingKey::from_ec_pem(pem).unwrap())
        })
        .map(|key| key.jwk(json!({"kid": null})))
        .collect();
    let with = |keys: Vec<Jwk>| verdict(&issuers(keys, &[Algorithm::ES256]), &token);
    assert!(with(vec![others[0].clone(), own.clone()]).is_ok());
    assert!(with([&others[..3], std::slice::from_ref(&own)].concat()).is_ok());
    assert_eq!(with([&others[..], std::slice::from_ref(&own)].concat()), Err(TokenError::KeyAmbiguous));
    assert_eq!(with(others[..2].to_vec()), Err(TokenError::SignatureInvalid));
    // A key with a name is for tokens that name it.
    assert_eq!(with(vec![P256.jwk(json!({"kid": "k1"})), others[0].clone()]), Err(TokenError::KeyAmbiguous));
    let named = super::token(json!({"alg": "ES256", "kid": "k1"}), claims());
    assert_eq!(
        verdict(&issuers(vec![others[0].clone(), own], &[Algorithm::ES256]), &named),
        Err(TokenError::KeyUnknown)
    );
}

#[test]
fn long_token_is_refused() {
    assert_eq!(verdict(&p256(), &".".repeat(1 << 20)), Err(TokenError::TooLong));
    assert_eq!(verdict(&p256(), &".".repeat(16_384)), Err(TokenError::NotThreeParts));
    let filled = |length| token(header(), claims_with(json!({"pad": "x".repeat(length)})));
    assert!(verdict(&p256(), &filled(11_900)).is_ok());
    assert_eq!(verdict(&p256(), &filled(12_300)), Err(TokenError::TooLong));
    assert!(verdict(&p256().with_max_token_bytes(32_768), &filled(12_300)).is_ok());
    assert_eq!(verdict(&p256().with_max_token_bytes(1024), &filled(1000)), Err(TokenError::TooLong));
    let deep = format!("{{\"iss\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
    let token = sign(&header().to_string(), &deep, &P256.private, Algorithm::ES256);
    assert_eq!(verdict(&p256(), &token), Err(TokenError::NotAnObject(Part::Claims)));
}

#[test]
fn modified_token_is_refused() {
    let key = minting(3);
    let request = TokenRequest {
        issuer: ISSUER.to_owned(),
        subject: "a".to_owned(),
        audiences: vec!["lastmile".to_owned()],
        lifetime_secs: 60,
        ..TokenRequest::default()
    };
    let token = key.mint(request, NOW).unwrap();
    let issuers = issuers(vec![key.jwk().clone()], &[Algorithm::EdDSA]);
    assert!(verdict(&issuers, &token).is_ok());
    const FOREIGN: [char; 12] = ['A', 'B', 'Q', 'g', 'w', '9', '-', '_', '=', '+', '.', '\n'];
    for at in 0..token.len() {
        let (before, after) = token.split_at(at);
        let mut characters = after.chars();
        let original = characters.next().unwrap();
        let rest = characters.as_str();
        assert!(verdict(&issuers, &format!("{before}{rest}")).is_err(), "deleted {at}");
        for new in FOREIGN {
            assert!(verdict(&issuers, &format!("{before}{new}{after}")).is_err(), "inserted {new:?} at {at}");
            if new != original {
                assert!(verdict(&issuers, &format!("{before}{new}{rest}")).is_err(), "{new:?} at {at}");
            }
        }
    }
    for tail in ["=", "==", "A", " ", "\n", "\0", "."] {
        assert!(verdict(&issuers, &format!("{token}{tail}")).is_err(), "{tail:?} at the end");
    }
}

#[test]
fn trailing_bits_are_refused() {
    // The last character for 64 bytes has two bits of data; the other four must be zero.
    let good = token(header(), claims());
    let (start, last) = good.split_at(good.len() - 1);
    for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        let verdict = verdict(&p256(), &format!("{start}{character}"));
        let is_canonical = ["A", "Q", "g", "w"].contains(&character.to_string().as_str());
        let expected = match (character.to_string() == last, is_canonical) {
            (true, _) => Ok("alice".to_owned()),
            (_, true) => Err(TokenError::SignatureInvalid),
            (_, false) => Err(TokenError::NotBase64url(Part::Signature)),
        };
        assert_eq!(verdict, expected, "{character}");
    }
}
