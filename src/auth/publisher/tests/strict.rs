//! Refused signatures: other components, other encodings, weak keys.

use sha2::{Digest, Sha256};

use super::*;
use crate::auth::keys::tests::weak_keys;

#[test]
fn other_components_are_refused() {
    const FULL: &str = "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\" \"content-type\"";
    for components in [
        "",
        "\"content-digest\"",
        "\"@authority\" \"@path\" \"@query\" \"content-digest\" \"content-type\"",
        "\"@method\" \"@path\" \"@query\" \"content-digest\" \"content-type\"",
        "\"@method\" \"@authority\" \"@query\" \"content-digest\" \"content-type\"",
        "\"@method\" \"@authority\" \"@path\" \"content-digest\" \"content-type\"",
        "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-type\"",
        "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\"",
        "\"@authority\" \"@method\" \"@path\" \"@query\" \"content-digest\" \"content-type\"",
        "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-type\" \"content-digest\"",
        "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\" \"content-type\" \"date\"",
        "\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\" \"content-type\" \"content-type\"",
        "\"@method\" \"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\" \"content-type\"",
    ] {
        let mut request = signed();
        request.set("date", "Tue, 20 Apr 2021 02:07:55 GMT");
        let input = request.get("signature-input");
        assert!(input.contains(FULL), "{input}");
        sign_again(&mut request, &input.replace(FULL, components));
        assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid), "{components}");
    }
    for parameter in ["sf", "bs", "req", "tr", "key=\"a\"", "other"] {
        for component in ["\"@method\"", "\"content-type\""] {
            let mut request = signed();
            let input = request.get("signature-input").replace(component, &format!("{component};{parameter}"));
            assert_eq!(code(request.set("signature-input", &input)), Some(ErrorCode::SignatureInvalid), "{input}");
        }
    }
}

#[test]
fn other_parameters_are_refused() {
    let keyid = format!(";keyid=\"{}\"", keyid());
    let nonce = format!(";nonce=\"{NONCE}\"");
    let created = format!(";created={NOW}");
    for (from, to) in [
        (created.as_str(), ""),
        (&created, ";created=\"1800000000\""),
        (&created, ";created=1800000000.0"),
        (&created, ";created=@1800000000"),
        (&nonce, ""),
        (&nonce, ";nonce=\"\""),
        (&nonce, ";nonce=\"AAECAwQFBgcICQoLDA0OD\""),
        (&nonce, ";nonce=:AAECAwQFBgcICQoLDA0ODw==:"),
        (&keyid, ""),
        (&keyid, ";keyid=token"),
        (";alg=\"ed25519\"", ""),
        (";alg=\"ed25519\"", ";alg=\"hmac-sha256\""),
        (";alg=\"ed25519\"", ";alg=\"Ed25519\""),
        (";alg=\"ed25519\"", ";alg=\"none\""),
        (";alg=\"ed25519\"", ";alg=ed25519"),
        (";tag=\"lastmile\"", ""),
        (";tag=\"lastmile\"", ";tag=\"other\""),
        (";tag=\"lastmile\"", ";tag=\"lastmile\";other=1"),
        (";tag=\"lastmile\"", ";tag=\"lastmile\";expires=\"1800000030\""),
    ] {
        let mut request = signed();
        let input = request.get("signature-input");
        assert!(input.contains(from), "{from} is not in {input}");
        sign_again(&mut request, &input.replace(from, to));
        assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid), "{from} -> {to}");
    }
}

#[test]
fn nonce_encodings_are_accepted() {
    for nonce in ["AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoLDA0ODw==", "000102030405060708090a0b0c0d0e0f"] {
        assert_eq!(code(&signed_by(key(), NOW, nonce)), None, "{nonce}");
    }
    assert_eq!(code(&signed_by(key(), NOW, &"x".repeat(21))), Some(ErrorCode::SignatureInvalid));
}

#[test]
fn one_canonical_signature_is_required() {
    let input = signed().get("signature-input");
    let signature = signed().get("signature");
    let (label, list) = input.split_once('=').unwrap();
    let bytes = signature.split_once('=').unwrap().1;
    let duplicate_created = input.replace(";created", ";created=1;created");
    for (input_line, signature_line) in [
        (format!("{input}, second={list}"), signature.clone()),
        (input.clone(), format!("{signature}, second={bytes}")),
        (format!("{input}, second={list}"), format!("{signature}, second={bytes}")),
        (format!("{input}, {input}"), signature.clone()),
        (input.clone(), format!("{label}=:AAAA:, {signature}")),
        (duplicate_created, signature.clone()),
        (format!("other={list}"), signature.clone()),
        (input.replace(" \"@path\"", "  \"@path\""), signature.clone()),
        (format!("{label}={}", list.replace(";alg", "; alg")), signature.clone()),
        (input.clone(), format!("{signature};a=1")),
        (input.clone(), signature.replace("==:", ":")),
        (input.clone(), format!("{label}=\"text\"")),
        (input.clone(), format!("{label}=:AAAA:")),
        (input.clone(), format!("{label}=()")),
        (format!("{label}=:AAAA:"), signature.clone()),
        (format!("{label}=\"text\""), signature.clone()),
        (input.clone(), String::new()),
        (String::new(), signature.clone()),
        ("(((".into(), signature.clone()),
        (input.clone(), "\u{e9}".into()),
    ] {
        let mut request = signed();
        request.set("signature-input", &input_line).set("signature", &signature_line);
        assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid), "{input_line}\n{signature_line}");
    }
    for name in ["signature-input", "signature"] {
        let mut request = signed();
        let value = request.headers[name].clone();
        request.headers.append(name, value);
        assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid), "{name} twice");
    }
}

#[test]
fn malleated_signature_is_refused() {
    // S + L encodes the same scalar. A lax verifier accepts it, so a second valid signature would exist.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut request = signed();
    let line = request.get("signature");
    let (label, encoded) = line.split_once("=:").unwrap();
    let mut bytes = STANDARD.decode(encoded.trim_end_matches(':')).unwrap();
    let mut carry = 0;
    for (byte, add) in bytes[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    request.set("signature", &format!("{label}=:{}:", STANDARD.encode(bytes)));
    assert_eq!(code(&request), Some(ErrorCode::SignatureInvalid));
}

#[test]
fn key_by_fingerprint_must_be_sent() {
    let other = STANDARD.encode(SigningKey::from_bytes(&[8; 32]).verifying_key());
    for value in ["", "!", "AAAA", &other] {
        let mut request = signed();
        request.set("lastmile-public-key", value);
        assert_eq!(
            check(&whitelist_by_hash(), &request, NOW).unwrap_err().code,
            ErrorCode::SignatureInvalid,
            "{value}"
        );
        assert_eq!(code(&request), None, "a key that is known is not read from the request");
    }
    let mut request = signed();
    let refusal = check(&whitelist_by_hash(), request.remove("lastmile-public-key"), NOW).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::SignatureInvalid);
    assert!(refusal.detail.contains("Lastmile-Public-Key"));

    let mut twice = signed();
    twice.headers.append("lastmile-public-key", HeaderValue::from_str(&other).unwrap());
    assert_eq!(check(&whitelist_by_hash(), &twice, NOW).unwrap_err().code, ErrorCode::SignatureInvalid);
}

#[test]
fn weak_sent_key_is_refused() {
    for bytes in weak_keys() {
        let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &bytes].concat();
        let fingerprint = Fingerprint(Sha256::digest(blob).into());
        let mut request = signed();
        let input = request.get("signature-input").replace(&keyid(), &fingerprint.to_string());
        request.set("signature-input", &input).set("lastmile-public-key", &STANDARD.encode(bytes));
        // R = neutral element and S = 0: verifies for every message with a key of order 1.
        let mut forged = [0; 64];
        forged[0] = 1;
        request.set("signature", &format!("lastmile=:{}:", STANDARD.encode(forged)));
        let refusal = check(&whitelist_of(PublisherKey::Hash(fingerprint)), &request, NOW).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::SignatureInvalid, "{bytes:02x?}");
        assert!(refusal.detail.contains("weak"), "{}", refusal.detail);
    }
}
