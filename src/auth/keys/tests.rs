//! Keys of `ssh-keygen` and `openssl`, and refused files.

use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/keys/", $name))
    };
}

#[test]
fn reads_ssh_keygen_keys() {
    let public = parse_public_key(fixture!("throwaway-openssh.pub")).unwrap();
    let private = parse_private_key(fixture!("throwaway-openssh")).unwrap();
    assert_eq!(private.verifying_key(), public);
}

#[test]
fn reads_openssl_keys() {
    let public = parse_public_key(fixture!("throwaway-openssl.pub.pem")).unwrap();
    let private = parse_private_key(fixture!("throwaway-openssl.pem")).unwrap();
    assert_eq!(private.verifying_key(), public);
}

#[test]
fn accepts_crlf_and_blank_lines() {
    for (private, public) in [
        (fixture!("throwaway-openssh"), fixture!("throwaway-openssh.pub")),
        (fixture!("throwaway-openssl.pem"), fixture!("throwaway-openssl.pub.pem")),
    ] {
        let messy = |text: &str| format!("\r\n  {}\r\n\r\n", text.trim().replace('\n', "\r\n"));
        assert_eq!(parse_private_key(&messy(private)), parse_private_key(private));
        assert!(parse_private_key(private).is_ok());
        assert_eq!(parse_public_key(&messy(public)), parse_public_key(public));
        assert!(parse_public_key(public).is_ok());
    }
}

#[test]
fn fingerprint_matches_ssh_keygen() {
    let key = parse_public_key(fixture!("throwaway-openssh.pub")).unwrap();
    let printed = fixture!("throwaway-openssh.fingerprint").trim();
    assert_eq!(Fingerprint::of(&key).to_string(), printed);
    assert_eq!(parse_fingerprint(printed), Ok(Fingerprint::of(&key)));
}

#[test]
fn fingerprint_is_canonical() {
    let printed = fixture!("throwaway-openssh.fingerprint").trim();
    let bare = printed.strip_prefix("SHA256:").unwrap();
    let md5 = "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48";
    for other in [bare, md5, "", "SHA256:", &printed[..40], &format!("{printed}="), &format!(" {printed}")] {
        assert_eq!(parse_fingerprint(other), Err(KeyError::NotAFingerprint), "{other:?}");
    }
}

#[test]
fn key_round_trip() {
    let key = generate().unwrap();
    let pem = to_pkcs8_pem(&key).unwrap();
    assert_eq!(pem.lines().count(), 3, "version 1 fits on one line of base64");
    assert_eq!(parse_private_key(&pem), Ok(key.clone()));

    let public = key.verifying_key();
    let line = to_openssh_public(&public, "market data");
    assert!(line.ends_with(" market data"), "{line}");
    assert_eq!(parse_public_key(&line), Ok(public));
    assert_eq!(parse_public_key(&to_openssh_public(&public, "")), Ok(public));
}

#[test]
fn pem_matches_openssl() {
    let text = fixture!("throwaway-openssl.pem");
    assert_eq!(*to_pkcs8_pem(&parse_private_key(text).unwrap()).unwrap(), text);
    let line = fixture!("throwaway-openssh.pub").trim();
    assert_eq!(to_openssh_public(&parse_public_key(line).unwrap(), "throwaway@example"), line);
}

#[test]
fn pkcs8_public_key_must_match() {
    let (key, other) = (generate().unwrap(), generate().unwrap());
    assert_eq!(parse_private_key(&key.to_pkcs8_pem(LineEnding::LF).unwrap()), Ok(key.clone()));

    let mixed =
        KeypairBytes { secret_key: key.to_bytes(), public_key: Some(PublicKeyBytes(other.verifying_key().to_bytes())) };
    let mixed = mixed.to_pkcs8_pem(LineEnding::LF).unwrap();
    assert!(matches!(parse_private_key(&mixed), Err(KeyError::Malformed(_))));
}

#[test]
fn refusals_have_reasons() {
    let ssh_public = fixture!("throwaway-openssh.pub");
    let ssl_public = fixture!("throwaway-openssl.pub.pem");
    for (text, expected) in [
        (fixture!("throwaway-openssh-encrypted"), KeyError::Encrypted),
        (fixture!("throwaway-openssl-encrypted.pem"), KeyError::Encrypted),
        (fixture!("throwaway-rsa"), KeyError::NotEd25519),
        (fixture!("throwaway-x25519.pem"), KeyError::NotEd25519),
        (ssh_public, KeyError::PublicGiven),
        (ssl_public, KeyError::PublicGiven),
        ("", KeyError::NotAKey),
        ("hunter2", KeyError::NotAKey),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", KeyError::NotAKey),
    ] {
        assert_eq!(parse_private_key(text), Err(expected), "{text}");
    }
    for (text, expected) in [
        (fixture!("throwaway-openssh"), KeyError::PrivateGiven),
        (fixture!("throwaway-openssl.pem"), KeyError::PrivateGiven),
        (fixture!("throwaway-rsa.pub"), KeyError::NotEd25519),
        ("", KeyError::NotAKey),
        ("not a key", KeyError::NotAKey),
    ] {
        assert_eq!(parse_public_key(text), Err(expected), "{text}");
    }
    let two_lines = format!("{ssh_public}{ssh_public}");
    let cut = ssh_public[..40].to_owned();
    for text in [two_lines, cut, "ssh-ed25519".into(), "ssh-ed25519 !!!!".into()] {
        assert!(matches!(parse_public_key(&text), Err(KeyError::Malformed(_))), "{text}");
    }
}

#[test]
fn damaged_private_key_is_refused() {
    let text = fixture!("throwaway-openssh").trim();
    for length in 0..text.len() {
        assert!(parse_private_key(&text[..length]).is_err(), "cut to {length}");
    }
    let encoded: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let container = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    // The comment and the final padding are not checked.
    let comment_at = container.windows(9).position(|window| window == b"throwaway").unwrap() - 4;
    for at in 0..comment_at {
        let mut damaged = container.clone();
        damaged[at] ^= 1;
        let encoded = base64::engine::general_purpose::STANDARD.encode(damaged);
        let text = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{encoded}\n-----END OPENSSH PRIVATE KEY-----");
        assert!(parse_private_key(&text).is_err(), "bit of byte {at}");
    }
}

/// Points of small order in every encoding that decoders are known to accept, and points in non-canonical encodings
/// (y of p or more, or a sign for x = 0).
#[rustfmt::skip]
pub(crate) const WEAK_KEYS: [&str; 16] = [
    // The eight points of small order, canonical.
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    // The same points, not canonical.
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    // Points of large order, not canonical (y = p + 3 and p + 4, which stand for 3 and 4).
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f1ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

pub(crate) fn weak_keys() -> impl Iterator<Item = [u8; 32]> {
    WEAK_KEYS.iter().map(|hex| std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()))
}

#[test]
fn weak_public_keys_are_refused() {
    for bytes in weak_keys() {
        assert_eq!(public_key_from_bytes(&bytes), Err(KeyError::Weak), "{bytes:02x?}");

        let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &bytes].concat();
        let line = format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(blob));
        assert_eq!(parse_public_key(&line), Err(KeyError::Weak), "{line}");

        let der = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\0".as_slice(), &bytes].concat();
        let der = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
        assert_eq!(parse_public_key(&pem), Err(KeyError::Weak), "{pem}");
    }
}

#[test]
fn invalid_points_are_refused() {
    let mut no_point = [0; 32];
    no_point[0] = 2;
    assert!(matches!(public_key_from_bytes(&no_point), Err(KeyError::Malformed(_))));
}

#[test]
fn errors_contain_no_key() {
    let secret = "c2VjcmV0LXNlY3JldA";
    for text in [secret.to_owned(), format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----")] {
        let error = parse_private_key(&text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}
