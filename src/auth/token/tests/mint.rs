//! Creation of tokens.

use super::*;

#[test]
fn minted_token_is_accepted() {
    let ed25519 = String::from_utf8(ed25519_pem(4)).unwrap();
    for (pem, algorithm) in [(&ed25519, Algorithm::EdDSA), (&P256.pem, Algorithm::ES256), (&P384.pem, Algorithm::ES384)]
    {
        let key = MintingKey::from_pkcs8_pem(pem).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        // In the form of a `jwks_file`.
        let set: JwkSet = serde_json::from_str(&serde_json::to_string(&key.jwks()).unwrap()).unwrap();
        let config = IssuerConfig { typ: Some("at+jwt".to_owned()), ..config(set.keys, &[algorithm]) };
        let issuers = Issuers::new(vec![config]).unwrap();
        let request = TokenRequest {
            issuer: ISSUER.to_owned(),
            subject: "alice".to_owned(),
            audiences: vec!["other".to_owned(), "lastmile".to_owned()],
            lifetime_secs: 3600,
            scopes: vec!["read".to_owned(), "write".to_owned()],
            groups: vec!["staff".to_owned()],
            claims: json!({"tenant": "acme"}).as_object().unwrap().clone(),
        };
        let (one, two) = (key.mint(request.clone(), NOW).unwrap(), key.mint(request, NOW).unwrap());
        let principal = issuers.verify(&one, NOW).unwrap();
        assert_eq!((&*principal.subject, principal.expires), ("alice", NOW + 3600));
        assert_eq!(
            (&principal.scopes[..], &principal.groups[..]),
            (&["read".to_owned(), "write".to_owned()][..], &["staff".to_owned()][..])
        );
        assert_eq!((&principal.claims["tenant"], &principal.claims["iat"]), (&json!("acme"), &json!(NOW)));
        assert_ne!(principal.claims["jti"], issuers.verify(&two, NOW).unwrap().claims["jti"]);
    }
}

/// RFC 8037 appendix A.3.
#[test]
fn key_id_is_rfc_7638_thumbprint() {
    let seed = B64.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let key = MintingKey::from_ed25519(&SigningKey::from_bytes(&seed.try_into().unwrap())).unwrap();
    assert_eq!(key.key_id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let public = serde_json::to_value(key.jwk()).unwrap();
    assert_eq!(public["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(
        (&public["alg"], &public["use"], &public["kid"]),
        (&json!("EdDSA"), &json!("sig"), &json!(key.key_id()))
    );
    assert!(public.get("d").is_none());
}

#[test]
fn invalid_requests_are_refused() {
    let good = || TokenRequest {
        issuer: ISSUER.to_owned(),
        subject: "alice".to_owned(),
        audiences: vec!["lastmile".to_owned()],
        lifetime_secs: 60,
        ..TokenRequest::default()
    };
    let error = |request: TokenRequest| minting(1).mint(request, NOW).unwrap_err();
    assert_eq!(error(TokenRequest { issuer: String::new(), ..good() }), MintError::Missing("issuer"));
    assert_eq!(error(TokenRequest { subject: String::new(), ..good() }), MintError::Missing("subject"));
    assert_eq!(error(TokenRequest { audiences: vec![], ..good() }), MintError::Missing("audience"));
    assert_eq!(error(TokenRequest { lifetime_secs: 0, ..good() }), MintError::Missing("lifetime"));
    assert_eq!(error(TokenRequest { lifetime_secs: u64::MAX, ..good() }), MintError::LifetimeTooLong);
    let claims = json!({"exp": 1}).as_object().unwrap().clone();
    assert_eq!(error(TokenRequest { claims, ..good() }), MintError::ReservedClaim("exp".to_owned()));
    for pem in ["", "nonsense", &RSA.pem] {
        assert_eq!(MintingKey::from_pkcs8_pem(pem).unwrap_err(), MintError::UnsupportedKey);
    }
}
