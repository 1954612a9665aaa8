//! Claims of tokens.

use super::*;

#[test]
fn principal_has_claims_of_token() {
    let claims = claims_with(json!({"scope": "read  write", "scp": ["x"], "groups": ["a", "b"], "tenant": "acme"}));
    let principal = p256().verify(&token(header(), claims.clone()), NOW).unwrap();
    assert_eq!((&*principal.issuer, &*principal.subject, principal.expires), (ISSUER, "alice", NOW + 600));
    assert_eq!(principal.scopes, ["read", "write"]);
    assert_eq!(principal.groups, ["a", "b"]);
    assert_eq!(Value::Object(principal.claims.clone()), claims);
}

#[test]
fn scopes_and_groups_have_two_forms() {
    let of = |changes| p256().verify(&token(header(), claims_with(changes)), NOW).unwrap();
    assert_eq!(of(json!({"scp": "read write"})).scopes, ["read", "write"]);
    assert_eq!(of(json!({"scp": ["read", "write"]})).scopes, ["read", "write"]);
    assert_eq!(of(json!({"groups": "one group"})).groups, ["one group"]);
    assert!(of(json!({})).scopes.is_empty() && of(json!({})).groups.is_empty());
    assert_eq!(of(json!({"scope": ["read", "write"]})).scopes, ["read", "write"]);
    assert_eq!(of(json!({"scope": 1, "scp": ["read"]})).scopes, ["read"]);
    // Nothing rests on what cannot be read.
    for odd in [json!(1), json!({}), json!([1]), json!([{"name": "admin"}]), json!([["admin"]])] {
        assert!(of(json!({"scope": odd})).scopes.is_empty(), "{odd}");
        assert!(of(json!({"groups": odd})).groups.is_empty(), "{odd}");
    }
    assert_eq!(of(json!({"groups": [null, "a", 1, {"name": "admin"}]})).groups, ["a"]);
    let null =
        claims().to_string().replacen('{', r#"{"groups":null,"scope":null,"scp":null,"jti":null,"client_id":null,"#, 1);
    let principal = p256().verify(&sign(&header().to_string(), &null, &P256.private, Algorithm::ES256), NOW).unwrap();
    assert!(principal.scopes.is_empty() && principal.groups.is_empty());
}

#[test]
fn claims_of_groups_and_audience_are_settings() {
    let verify = |change: fn(&mut IssuerConfig), claims| {
        let mut config = config(vec![P256.jwk(json!({"kid": "k1"}))], &[Algorithm::ES256]);
        change(&mut config);
        let issuers = Issuers::new(vec![config]).unwrap();
        issuers.verify(&token(header(), claims_with(claims)), NOW).map(|principal| principal.groups.clone())
    };
    let roles = |config: &mut IssuerConfig| config.groups_claim = "/realm_access/roles".to_owned();
    let pointed = json!({"realm_access": {"roles": ["admin"]}, "groups": ["b"], "/realm_access/roles": ["c"]});
    assert_eq!(verify(roles, pointed), Ok(vec!["admin".to_owned()]));
    assert_eq!(verify(roles, json!({"realm_access": ["admin"], "/realm_access/roles": ["c"]})), Ok(vec![]));
    assert_eq!(
        verify(|config| config.groups_claim = "cognito:groups".to_owned(), json!({"cognito:groups": ["a"]})),
        Ok(vec!["a".to_owned()])
    );
    let by_client = |config: &mut IssuerConfig| config.audience_claim = "client_id".to_owned();
    assert_eq!(verify(by_client, json!({"aud": null, "client_id": "lastmile"})), Ok(vec![]));
    for (claims, error) in [
        (json!({"aud": null, "client_id": "other"}), TokenError::AudienceMismatch),
        (json!({"aud": "other", "client_id": "lastmile"}), TokenError::AudienceMismatch),
        (json!({"aud": [], "client_id": "lastmile"}), TokenError::AudienceMismatch),
        (json!({"aud": null, "client_id": 7}), TokenError::ClaimInvalid("aud")),
        (json!({"aud": null}), TokenError::ClaimMissing("aud")),
        (json!({"aud": null, "client_id": "lastmile", "token_use": "id"}), TokenError::NotAccessToken),
    ] {
        assert_eq!(verify(by_client, claims.clone()), Err(error), "{claims}");
    }
    assert_eq!(verify(|_| {}, json!({"aud": null, "client_id": "lastmile"})), Err(TokenError::ClaimMissing("aud")));
}

/// RFC 7519 section 2.
#[test]
fn dates_with_fractions_are_cut() {
    let of = |exp: &str, iat: &str| {
        let claims =
            format!(r#"{{"iss":"{ISSUER}","sub":"alice","aud":"lastmile","iat":{iat},"nbf":{iat},"exp":{exp}}}"#);
        p256().verify(&sign(&header().to_string(), &claims, &P256.private, Algorithm::ES256), NOW)
    };
    let principal = of("1800000600.75", "1800000000.5").unwrap();
    assert_eq!((principal.expires, principal.issued()), (NOW + 600, NOW));
    assert_eq!(of("1.8000006e9", "1.8e9").unwrap().expires, NOW + 600);
    assert_eq!(of("1800000600.0", "1800000000").unwrap().expires, NOW + 600);
    assert_eq!(of("1799999960.9", "1799999900.5"), Err(TokenError::Expired));
    assert_eq!(of("1800000600", "1800000031.5"), Err(TokenError::NotYetValid));
    assert_eq!(of("1e300", "1800000000"), Err(TokenError::ClaimInvalid("exp")));
}

#[test]
fn claim_of_wrong_type_is_refused() {
    let now = NOW.to_string();
    let odd = ["\"1800000300\"", "-1", "-0", "-1.5", "1e300", "null", "[]", "[1800000300]", "{}", "true"];
    for name in ["exp", "nbf", "iat"] {
        for value in odd {
            let rest = r#""iss":"https://sso.example.com","sub":"alice","aud":"lastmile""#;
            let exp = if name == "exp" { String::new() } else { format!(",\"exp\":{}", NOW + 600) };
            let claims = format!("{{{rest}{exp},\"{name}\":{value}}}");
            let token = sign(&header().to_string(), &claims, &P256.private, Algorithm::ES256);
            assert_eq!(verdict(&p256(), &token), Err(TokenError::ClaimInvalid(name)), "{name} {value}");
        }
    }
    for (name, values) in [
        ("iss", &["1", "null", "[]", "[\"https://sso.example.com\"]", "{}", "\"\""][..]),
        ("sub", &["1", "null", "[]", "[\"alice\"]", "{}", "\"\""]),
        ("aud", &["1", "null", "{}", "[1]", "[\"lastmile\",null]", "[[\"lastmile\"]]"]),
    ] {
        for value in values {
            let claims = claims_with(json!({ name: serde_json::from_str::<Value>("1").unwrap() })).to_string();
            let claims = claims.replace(&format!("\"{name}\":1,"), &format!("\"{name}\":{value},"));
            let claims = claims.replace(&format!("\"{name}\":1}}"), &format!("\"{name}\":{value}}}"));
            let token = sign(&header().to_string(), &claims, &P256.private, Algorithm::ES256);
            assert_eq!(verdict(&p256(), &token), Err(TokenError::ClaimInvalid(name)), "{claims}");
        }
    }
    for name in ["iss", "sub", "aud", "exp"] {
        assert_eq!(refused(header(), claims_with(json!({ name: null }))), TokenError::ClaimMissing(name));
    }
    for repeated in [
        format!("\"exp\":{now}"),
        "\"sub\":\"bob\"".to_owned(),
        "\"\\u0061ud\":\"x\"".to_owned(),
        "\"exp\":1e400".to_owned(),
    ] {
        let claims = claims().to_string().replacen('{', &format!("{{{repeated},"), 1);
        let token = sign(&header().to_string(), &claims, &P256.private, Algorithm::ES256);
        assert_eq!(verdict(&p256(), &token), Err(TokenError::NotAnObject(Part::Claims)), "{claims}");
    }
}

#[test]
fn token_for_other_audience_is_refused() {
    for aud in [
        json!("other"),
        json!("lastmil"),
        json!("lastmile "),
        json!("Lastmile"),
        json!("lastmile/"),
        json!("other lastmile"),
        json!([]),
        json!(["a", "b"]),
        json!(""),
    ] {
        assert_eq!(refused(header(), claims_with(json!({"aud": aud}))), TokenError::AudienceMismatch, "{aud}");
    }
    for aud in [json!("lastmile"), json!("lastmile-2"), json!(["other", "lastmile"])] {
        assert!(verdict(&p256(), &token(header(), claims_with(json!({"aud": aud})))).is_ok());
    }
    for iss in [
        "https://sso.example.com/",
        "https://SSO.example.com",
        "sso.example.com",
        " https://sso.example.com",
        "https://sso.example.com.evil.com",
    ] {
        assert_eq!(refused(header(), claims_with(json!({"iss": iss}))), TokenError::IssuerUnknown, "{iss}");
    }
}

#[test]
fn other_token_types_are_refused() {
    let check = |required: Option<&str>, typ: Value| {
        let config = IssuerConfig {
            typ: required.map(String::from),
            ..config(vec![P256.jwk(json!({"kid": "k1"}))], &[Algorithm::ES256])
        };
        let mut header = header();
        if !typ.is_null() {
            header["typ"] = typ;
        }
        verdict(&Issuers::new(vec![config]).unwrap(), &token(header, claims()))
    };
    for typ in [json!(null), json!("at+jwt"), json!("AT+JWT"), json!("application/at+jwt"), json!("JWT"), json!("jwt")]
    {
        assert!(check(None, typ.clone()).is_ok(), "{typ}");
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "id+jwt", "application/json", "at+jwt ", ""] {
        assert_eq!(check(None, json!(typ)), Err(TokenError::TypNotAllowed), "{typ}");
    }
    for typ in [json!("at+jwt"), json!("Application/AT+JWT")] {
        assert!(check(Some("at+jwt"), typ.clone()).is_ok(), "{typ}");
        assert!(check(Some("application/at+jwt"), typ.clone()).is_ok(), "{typ}");
    }
    for typ in [json!(null), json!("JWT"), json!("logout+jwt")] {
        assert_eq!(check(Some("at+jwt"), typ.clone()), Err(TokenError::TypNotAllowed), "{typ}");
    }
    assert_eq!(check(None, json!(5)), Err(TokenError::HeaderType("typ")));
    // A logout token without `typ`.
    let events = json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}});
    assert_eq!(refused(header(), claims_with(events)), TokenError::SecurityEvent);
}

#[test]
fn id_token_is_no_access_token() {
    for claim in ["nonce", "at_hash", "c_hash", "s_hash"] {
        for value in [json!("n-0S6_WzA2Mj"), json!(""), json!(7), json!([])] {
            for typ in [json!("JWT"), json!("at+jwt")] {
                let header = json!({"alg": "ES256", "kid": "k1", "typ": typ});
                assert_eq!(
                    refused(header, claims_with(json!({ claim: value }))),
                    TokenError::NotAccessToken,
                    "{claim}"
                );
            }
        }
    }
    for other in [json!({"token_use": "id"}), json!({"token_use": 1}), json!({"typ": "ID"}), json!({"typ": "Refresh"})]
    {
        assert_eq!(refused(header(), claims_with(other.clone())), TokenError::NotAccessToken, "{other}");
    }
    for access in [json!({"token_use": "access"}), json!({"typ": "Bearer"}), json!({"typ": 1}), json!({"azp": "app"})] {
        assert!(verdict(&p256(), &token(header(), claims_with(access.clone()))).is_ok(), "{access}");
    }
}

#[test]
fn errors_do_not_contain_the_token() {
    let canary = "canary-4711";
    let issuers = p256();
    let bad = claims_with(json!({"iss": canary, "sub": canary, "aud": canary, "exp": canary}));
    for claims in [
        bad,
        claims_with(json!({"aud": canary})),
        claims_with(json!({"exp": canary})),
        claims_with(json!({"nbf": {canary: 1}})),
    ] {
        for header in [
            header(),
            json!({"alg": canary}),
            json!({"alg": "ES256", "kid": canary}),
            json!({"alg": "ES256", "typ": canary}),
        ] {
            let error = issuers.verify(&token(header, claims.clone()), NOW).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(canary));
        }
    }
    verdict(&issuers, &token(header(), claims_with(json!({"sub": canary})))).unwrap();
    assert!(!format!("{issuers:?}").contains(canary));
    assert!(!format!("{:?}", minting(7)).contains("private"));
}

#[test]
fn leeway_extends_admission_only() {
    let issuers = p256();
    let token = token(header(), claims_with(json!({"nbf": NOW})));
    let at = |now| issuers.verify(&token, now).map(|principal| principal.expires);
    assert_eq!(at(NOW - 31), Err(TokenError::NotYetValid));
    assert_eq!(at(NOW - 30), Ok(NOW + 600));
    assert_eq!(at(NOW + 629), Ok(NOW + 600));
    assert_eq!(at(NOW + 630), Err(TokenError::Expired));
    // Cached and uncached, and with a clock that is an hour off.
    assert_eq!(at(NOW - 31), Err(TokenError::NotYetValid));
    assert_eq!(at(NOW + 3600), Err(TokenError::Expired));
    assert_eq!(at(NOW - 3600), Err(TokenError::NotYetValid));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired));
    assert_eq!(at(0), Err(TokenError::NotYetValid));
}

#[test]
fn too_long_lifetime_is_refused() {
    let of = |changes| verdict(&p256(), &token(header(), claims_with(changes)));
    assert!(of(json!({"exp": NOW + 3600})).is_ok());
    assert_eq!(of(json!({"exp": NOW + 3601})), Err(TokenError::LifetimeTooLong));
    assert_eq!(of(json!({"exp": u64::MAX})), Err(TokenError::LifetimeTooLong));
    assert_eq!(of(json!({"iat": NOW - 3001})), Err(TokenError::LifetimeTooLong));
    assert!(of(json!({"iat": null, "exp": NOW + 3600})).is_ok());
    assert_eq!(of(json!({"iat": null, "exp": NOW + 3601})), Err(TokenError::LifetimeTooLong));
    assert_eq!(of(json!({"iat": null, "exp": u64::MAX})), Err(TokenError::LifetimeTooLong));
    assert_eq!(of(json!({"iat": NOW + 31})), Err(TokenError::NotYetValid));
    assert_eq!(of(json!({"iat": NOW + 601})), Err(TokenError::ClaimInvalid("iat")));
    assert_eq!(of(json!({"nbf": NOW + 31})), Err(TokenError::NotYetValid));
    assert_eq!(of(json!({"nbf": u64::MAX})), Err(TokenError::NotYetValid));
    assert_eq!(of(json!({"exp": 0, "iat": 0})), Err(TokenError::Expired));
}

/// A revocation names a token by text.
#[test]
fn numeric_ids_become_text() {
    let principal = p256().verify(&token(header(), claims_with(json!({"jti": 17, "sid": 4.5}))), NOW).unwrap();
    assert_eq!((&principal.claims["jti"], &principal.claims["sid"]), (&json!("17"), &json!("4.5")));
    for odd in [json!(["app"]), json!(""), json!({}), json!(true)] {
        let claims = claims_with(json!({"client_id": odd, "jti": odd, "sid": odd}));
        assert!(p256().verify(&token(header(), claims), NOW).is_ok(), "{odd}");
    }
}
