//! `keygen`, and the keys of other programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::{Gateway, Ran, Scratch};

#[test]
fn keygen_is_private_and_never_overwrites() {
    let scratch = Scratch::new();
    let ran = scratch.run(["keygen", "-o", "a.key"]).ok();
    let key = scratch.path("a.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read_to_string(&key).unwrap();
    assert!(before.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert!(!ran.stdout.contains("PRIVATE") && !ran.stderr.contains("-----"));

    scratch.run(["keygen", "-o", "a.key"]).failed(1, "exists");
    assert_eq!(fs::read_to_string(&key).unwrap(), before);
    // Not through a link either.
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.path("link.key")).unwrap();
    scratch.run(["keygen", "-o", "link.key"]).failed(1, "exists");
    assert!(!scratch.path("elsewhere").exists());
}

#[test]
fn password_hash_fits_configuration() {
    let scratch = Scratch::new();
    scratch.write("secret", "correct horse\n");
    let hash = |file: &str| {
        let stdin = fs::File::open(scratch.path(file)).unwrap();
        Ran::from(scratch.lastmile(["password"]).stdin(stdin).output().unwrap())
    };
    let ran = hash("secret").ok();
    assert!(ran.stdout.starts_with("$argon2id$v=19$") && !ran.stderr.contains("horse"), "{ran:?}");
    assert_ne!(ran.stdout, hash("secret").ok().stdout, "the salt is fresh");
    scratch.write("older.argon2", &ran.stdout);
    let toml =
        "[publishers.older]\nbasic = { username = \"u\", password_argon2 = \"older.argon2\" }\nchannels = [\"*\"]\n";
    scratch.write("lastmile.toml", toml);
    let checked = scratch.run(["check", "--config", "lastmile.toml", "--publisher", "older"]).ok();
    assert!(checked.stdout.contains("password: of the user \"u\""), "{checked:?}");
    assert!(checked.stderr.contains("signed"), "{checked:?}");

    scratch.write("empty", "");
    hash("empty").failed(64, "must not be empty");
    scratch.run(["password", "hunter2"]).failed(64, "unexpected argument");
}

#[test]
fn keygen_writes_to_chosen_file() {
    let scratch = Scratch::new();
    scratch.run(["keygen"]).ok();
    assert_eq!(fs::metadata(scratch.path("keys/publisher.key")).unwrap().permissions().mode() & 0o777, 0o600);
    scratch.run(["keygen"]).failed(1, "keys/publisher.key exists");
}

#[test]
fn keygen_prints_whitelist_and_fingerprint() {
    let scratch = Scratch::new();
    let ran = scratch.run(["keygen", "-o", "a.key", "--name", "market.data-1"]).ok();
    scratch.write("lastmile.toml", &ran.stdout);
    let checked = scratch.run(["check", "--config", "lastmile.toml", "--publisher", "market.data-1"]).ok();
    let public = ran.stdout.split('"').find(|part| part.starts_with("ssh-ed25519 ")).unwrap();
    let file = scratch.write("a.pub", public);
    let listed = Command::new("ssh-keygen").arg("-lf").arg(file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let fingerprint = listed.split(' ').find(|word| word.starts_with("SHA256:")).unwrap();
    assert!(ran.stdout.contains(fingerprint) && checked.stdout.contains(fingerprint), "{ran:?} {checked:?}");
}

#[test]
fn ssh_and_openssl_keys_publish() {
    let scratch = Scratch::new();
    let ssh = scratch.path("ssh.key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&ssh).status().unwrap();
    assert!(made.success());
    let openssl = |args: &[&str]| {
        assert!(Command::new("openssl").args(args).current_dir(scratch.path("")).status().unwrap().success());
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "openssl.key"]);
    openssl(&["pkey", "-in", "openssl.key", "-pubout", "-out", "openssl.pub"]);
    let (_, own) = scratch.key("own");
    let gateway = Gateway::start(
        &scratch,
        &format!(
            "[publishers.own]\n{own}\nchannels = [\"*\"]\n\
             [publishers.ssh]\nkey = \"ssh.key.pub\"\nchannels = [\"*\"]\n\
             [publishers.openssl]\nkey = \"openssl.pub\"\nchannels = [\"*\"]\n"
        ),
    );
    for key in ["own.key", "ssh.key", "openssl.key"] {
        scratch.run(["publish", "c", "1", "--url", &gateway.publish, "--key", key]).ok();
    }
}

#[test]
fn unusable_key_file_is_explained() {
    let scratch = Scratch::new();
    let vectors = crate::support::root().join("tests/vectors/keys");
    scratch.write("text.key", "hello");
    let check = |key: &str, says: &str| {
        // Port 9 is never asked: the key comes first.
        let args = ["publish", "c", "1", "--url", "http://127.0.0.1:9", "--key", key];
        let ran = scratch.run(args).failed(64, says);
        assert!(ran.stderr.contains(key), "{ran:?}");
    };
    check("missing.key", "No such file");
    check("text.key", "this is no key");
    let vector = |name: &str| vectors.join(name).display().to_string();
    check(&vector("throwaway-openssh.pub"), "this is a public key");
    check(&vector("throwaway-rsa"), "only ed25519");
    check(&vector("throwaway-openssh-encrypted"), "passphrase");
    check(&vector("throwaway-openssl-encrypted.pem"), "passphrase");
    check(&vector("throwaway-x25519.pem"), "ed25519");
}
