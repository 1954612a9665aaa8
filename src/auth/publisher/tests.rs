//! Signed requests: one test per refusal, and tables of altered requests.

mod strict;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use http::{HeaderMap, HeaderName, HeaderValue};
use lastmile_client::signature;
use serde_json::Value;

use super::*;
use crate::auth::keys::{parse_private_key, to_pkcs8_pem};
use crate::protocol::{ErrorCode, Refusal};

const NOW: u64 = 1_800_000_000;
const NONCE: &str = "AAECAwQFBgcICQoLDA0ODw";
const BODY: &[u8] = b"{\"usd\":3001.5}";

/// A received request that tests can alter.
#[derive(Clone)]
struct Request {
    method: String,
    authority: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    fn head(&self) -> RequestHead<'_> {
        let Self { method, authority, path, query, headers, body: _ } = self;
        RequestHead { method, authority, path, query: query.as_deref(), headers }
    }

    fn set(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    fn get(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        self.headers.remove(name);
        self
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn whitelist_of(publisher_key: PublisherKey) -> Whitelist {
    let config = PublisherConfig {
        name: "market-data".into(),
        key: Some(publisher_key),
        basic: None,
        channels: vec![Pattern::new("prices.*")],
        control: false,
        not_after: None,
        rate_limit_per_second: None,
    };
    Whitelist::new(vec![config], 1000).unwrap()
}

fn whitelist() -> Whitelist {
    whitelist_of(PublisherKey::Known(key().verifying_key()))
}

fn whitelist_by_hash() -> Whitelist {
    whitelist_of(PublisherKey::Hash(Fingerprint::of(&key().verifying_key())))
}

/// A POST of [`BODY`], signed by the Rust client.
fn signed_by(key: SigningKey, now: u64, nonce: &str) -> Request {
    request(&key, "POST", Some(("application/json", BODY)), now, nonce)
}

fn signed() -> Request {
    signed_by(key(), NOW, NONCE)
}

fn signed_get() -> Request {
    request(&key(), "GET", None, NOW, NONCE)
}

fn request(key: &SigningKey, method: &str, body: Option<(&str, &[u8])>, now: u64, nonce: &str) -> Request {
    let target = signature::Request {
        method,
        authority: "gateway.example:8081",
        path: "/v1/channels/prices.btc/messages",
        query: Some("a=b"),
        body,
    };
    Request {
        method: method.into(),
        authority: target.authority.into(),
        path: target.path.into(),
        query: target.query.map(str::to_owned),
        headers: target.sign_at(&client_key(key), now, nonce).unwrap(),
        body: body.map(|(_, bytes)| bytes.to_vec()).unwrap_or_default(),
    }
}

/// The key as the Rust client parses it.
fn client_key(key: &SigningKey) -> lastmile_client::Key {
    lastmile_client::Key::from_text(&to_pkcs8_pem(key).unwrap()).unwrap()
}

fn keyid() -> String {
    Fingerprint::of(&key().verifying_key()).to_string()
}

/// Signs with any `Signature-Input`, valid or not, as a publisher with a valid key could.
fn sign_again(request: &mut Request, input: &str) {
    let list = match sfv::Parser::new(input).parse::<sfv::Dictionary>().unwrap().pop() {
        Some((_, sfv::ListEntry::InnerList(list))) => list,
        other => panic!("{other:?}"),
    };
    request.set("signature-input", input);
    let base = signature_base::signature_base(&request.head(), &list).unwrap();
    let signature = STANDARD.encode(key().sign(base.as_bytes()).to_bytes());
    request.set("signature", &format!("{}=:{signature}:", input.split_once('=').unwrap().0));
}

fn check(whitelist: &Whitelist, request: &Request, now: u64) -> Result<(), Refusal> {
    let verified = whitelist.verify(&request.head(), !request.body.is_empty(), now)?;
    verified.accept(whitelist, &request.body, now).map(drop)
}

fn code(request: &Request) -> Option<ErrorCode> {
    check(&whitelist(), request, NOW).err().map(|refusal| refusal.code)
}

#[test]
fn accepts_signed_request() {
    for request in [signed(), signed_get()] {
        for whitelist in [whitelist(), whitelist_by_hash()] {
            let verified = whitelist.verify(&request.head(), !request.body.is_empty(), NOW).unwrap();
            let publisher = verified.accept(&whitelist, &request.body, NOW).unwrap();
            assert_eq!(&**publisher.name(), "market-data");
        }
    }
}

#[test]
fn empty_body_needs_no_digest() {
    let with_digest = request(&key(), "POST", Some(("text/plain", b"")), NOW, NONCE);
    let without = request(&key(), "POST", None, NOW, NONCE);
    assert_eq!(code(&with_digest), None);
    assert_eq!(code(&without), None);
    assert!(with_digest.headers.contains_key("content-digest"));
}

#[test]
fn missing_headers_are_reported() {
    assert_eq!(code(signed().remove("signature")), Some(ErrorCode::SignatureMissing));
    assert_eq!(code(signed().remove("signature-input")), Some(ErrorCode::SignatureMissing));
    let unsigned = Request { headers: HeaderMap::new(), ..signed() };
    assert_eq!(code(&unsigned), Some(ErrorCode::SignatureMissing));
}

#[test]
fn unlisted_key_is_unknown() {
    assert_eq!(code(&signed_by(SigningKey::from_bytes(&[8; 32]), NOW, NONCE)), Some(ErrorCode::KeyUnknown));
    let mut request = signed();
    let input = request.get("signature-input").replace(&keyid(), "market-data");
    assert_eq!(code(request.set("signature-input", &input)), Some(ErrorCode::KeyUnknown));
}

#[test]
fn key_past_not_after_is_expired() {
    let config = PublisherConfig {
        name: "old".into(),
        key: Some(PublisherKey::Known(key().verifying_key())),
        basic: None,
        channels: vec![],
        control: false,
        not_after: Some(jiff::Timestamp::from_second(NOW as i64).unwrap()),
        rate_limit_per_second: None,
    };
    let whitelist = Whitelist::new(vec![config], 10).unwrap();
    let before = signed_by(key(), NOW - 1, NONCE);
    assert_eq!(check(&whitelist, &before, NOW - 1), Ok(()));
    assert_eq!(check(&whitelist, &signed(), NOW).unwrap_err().code, ErrorCode::KeyExpired);
}

#[test]
fn signature_is_fresh_for_60_seconds() {
    for (offset, fresh) in [(-61, false), (-60, true), (0, true), (60, true), (61, false), (-100_000, false)] {
        let request = signed_by(key(), NOW.saturating_add_signed(offset), NONCE);
        assert_eq!(code(&request), (!fresh).then_some(ErrorCode::SignatureStale), "{offset}");
    }
    let mut negative = signed();
    let input = negative.get("signature-input").replace(&NOW.to_string(), "-5");
    sign_again(&mut negative, &input);
    assert_eq!(code(&negative), Some(ErrorCode::SignatureStale));
}

#[test]
fn expires_is_checked() {
    for (expires, fresh) in [(NOW as i64 + 1, true), (NOW as i64, false), (NOW as i64 - 1, false), (-1, false)] {
        let mut request = signed();
        let input = request.get("signature-input").replace(";nonce", &format!(";expires={expires};nonce"));
        sign_again(&mut request, &input);
        assert_eq!(code(&request), (!fresh).then_some(ErrorCode::SignatureStale), "{expires}");
    }
}

#[test]
fn body_without_digest_is_refused() {
    assert_eq!(code(signed().remove("content-digest")), Some(ErrorCode::DigestMissing));
    // Signed without a body, sent with one.
    let smuggled = Request { body: BODY.to_vec(), ..signed_get() };
    assert_eq!(code(&smuggled), Some(ErrorCode::DigestMissing));
    let mut with_header = smuggled.clone();
    with_header.set("content-digest", &signed().get("content-digest"));
    assert_eq!(code(&with_header), Some(ErrorCode::SignatureInvalid));
    // The head announces no body, but a body follows.
    let verified = whitelist().verify(&smuggled.head(), false, NOW).unwrap();
    assert_eq!(verified.accept(&whitelist(), BODY, NOW).unwrap_err().code, ErrorCode::DigestMissing);
}

#[test]
fn changed_body_is_refused() {
    for body in [&b"{\"usd\":3001.6}"[..], b"{\"usd\":3001.5} ", b"{"] {
        let altered = Request { body: body.to_vec(), ..signed() };
        assert_eq!(code(&altered), Some(ErrorCode::DigestMismatch));
    }
    let cut_off = whitelist().verify(&signed().head(), false, NOW).unwrap();
    assert_eq!(cut_off.accept(&whitelist(), b"", NOW).unwrap_err().code, ErrorCode::DigestMismatch);
}

#[test]
fn only_valid_requests_consume_nonces() {
    let whitelist = whitelist();
    let altered = Request { body: b"x".to_vec(), ..signed() };
    assert_eq!(check(&whitelist, &altered, NOW).unwrap_err().code, ErrorCode::DigestMismatch);
    let mut forged = signed();
    forged.path.push('x');
    assert_eq!(check(&whitelist, &forged, NOW).unwrap_err().code, ErrorCode::SignatureInvalid);

    assert_eq!(check(&whitelist, &signed(), NOW), Ok(()));
    assert_eq!(check(&whitelist, &signed(), NOW).unwrap_err().code, ErrorCode::SignatureReplayed);
    assert_eq!(check(&whitelist, &signed(), NOW + 60).unwrap_err().code, ErrorCode::SignatureReplayed);
    assert_eq!(check(&whitelist, &signed(), NOW + 61).unwrap_err().code, ErrorCode::SignatureStale);
    assert_eq!(check(&whitelist, &signed_by(key(), NOW, "BBECAwQFBgcICQoLDA0ODw"), NOW), Ok(()));
}

#[test]
fn altered_request_is_refused() {
    type Alter = fn(&mut Request);
    let alterations: [(&str, Alter); 16] = [
        ("method", |r| r.method = "PUT".into()),
        ("case of the method", |r| r.method = "post".into()),
        ("host", |r| r.authority = "evil.example:8081".into()),
        ("port", |r| r.authority = "gateway.example:8082".into()),
        ("default port", |r| r.authority = "gateway.example".into()),
        ("path", |r| r.path = "/v1/channels/prices.eth/messages".into()),
        ("encoding of the path", |r| r.path = "/v1/channels/prices%2Ebtc/messages".into()),
        ("query", |r| r.query = Some("a=c".into())),
        ("no query", |r| r.query = None),
        ("longer query", |r| r.query = Some("a=b&".into())),
        ("content type", |r| _ = r.set("content-type", "text/plain")),
        ("no content type", |r| _ = r.remove("content-type")),
        ("second content type", |r| _ = r.headers.append("content-type", HeaderValue::from_static("text/plain"))),
        ("digest", |r| _ = r.set("content-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")),
        ("second digest", |r| _ = r.headers.append("content-digest", HeaderValue::from_static("md5=:AAAA:"))),
        ("signature of another request", |r| _ = r.set("signature", &signed_get().get("signature"))),
    ];
    for (what, alter) in alterations {
        let mut request = signed();
        alter(&mut request);
        assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid), "{what}");
    }
}

#[test]
fn proxy_changes_are_accepted() {
    let mut request = signed();
    request.authority = "GATEWAY.example:8081".into();
    request.set("content-type", "  application/json\t").set("x-forwarded-for", "10.0.0.1").set("via", "1.1 proxy");
    let input = format!("  {} ", request.get("signature-input"));
    request.set("signature-input", &input);
    assert_eq!(code(&request), None);
}

#[test]
fn altered_parameters_are_refused() {
    let later = (NOW + 1).to_string();
    for (from, to) in [
        (NOW.to_string().as_str(), later.as_str()),
        (NONCE, "BBECAwQFBgcICQoLDA0ODw"),
        (";nonce", ";expires=1800000030;nonce"),
        (";alg=\"ed25519\";tag=\"lastmile\"", ";tag=\"lastmile\";alg=\"ed25519\""),
    ] {
        let mut request = signed();
        let input = request.get("signature-input");
        assert!(input.contains(from), "{input}");
        assert_eq!(
            code(request.set("signature-input", &input.replace(from, to))),
            Some(ErrorCode::SignatureInvalid),
            "{to}"
        );
    }
}

/// Vectors shared by the signers of all languages, written and checked by `tests/signer.py`.
#[test]
fn shared_vectors_match() {
    let vectors: Value =
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/signatures.json")))
            .unwrap();
    let key = parse_private_key(vectors["private_key"].as_str().unwrap()).unwrap();
    let whitelist = whitelist_of(PublisherKey::Known(key.verifying_key()));
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let text = |name: &str| case[name].as_str();
        let body = text("body_base64").map(|body| STANDARD.decode(body).unwrap());
        let (nonce, created) = (text("nonce").unwrap(), case["created"].as_u64().unwrap());
        let target = signature::Request {
            method: text("method").unwrap(),
            authority: text("authority").unwrap(),
            path: text("path").unwrap(),
            query: text("query"),
            body: text("content_type").zip(body.as_deref()),
        };
        let headers = target.sign_at(&client_key(&key), created, nonce).unwrap();
        let expected: HeaderMap = case["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.as_str().unwrap().parse().unwrap())
            })
            .collect();
        assert_eq!(headers, expected, "{case:#}");

        let signature::Request { method, authority, path, query, body: _ } = target;
        let head = RequestHead { method, authority, path, query, headers: &headers };
        let input = super::signature::RequestSignature::of(&headers).unwrap().input;
        assert_eq!(signature_base::signature_base(&head, &input).as_deref().ok(), text("signature_base"), "{case:#}");
        let verified = whitelist.verify(&head, body.is_some(), created).unwrap();
        verified.accept(&whitelist, body.as_deref().unwrap_or_default(), created).unwrap();
    }
}
