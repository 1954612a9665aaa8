//! Examples in the documents parse, and whole configurations pass the gateway's own checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lastmile::config::{Sources, load};

use crate::markdown::documents;

/// The package manifest in this document is not a configuration.
const NOT_CONFIGURATIONS: [&str; 1] = ["clients/rust/README.md"];

/// The hash of some password, as `lastmile password` prints it.
const PASSWORD_HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$8Tf44YakA6Z5zNBgblq13Nr+Q8FkCFWsjG4z6b1j7rM";

#[test]
fn json_examples_parse() {
    for document in documents() {
        for block in document.blocks("json") {
            // One value over several lines, or one a line.
            if serde_json::from_str::<serde_json::Value>(&block).is_ok() {
                continue;
            }
            for line in block.lines().filter(|line| !line.trim().is_empty()) {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|error| panic!("{}: {line}: {error}", document.path));
            }
        }
    }
}

#[test]
fn toml_examples_parse() {
    for document in documents() {
        for block in document.blocks("toml") {
            toml::from_str::<toml::Table>(&block).unwrap_or_else(|error| panic!("{}:\n{error}", document.path));
        }
    }
}

#[test]
fn configuration_examples_are_valid() {
    let folder = ExampleFolder::new();
    let key = folder.run(&["keygen", "-o", "publisher.key"]);
    let key = key.lines().find_map(|line| line.split('"').find(|part| part.starts_with("ssh-ed25519 "))).unwrap();
    let mut count = 0;
    for document in documents().iter().filter(|document| !NOT_CONFIGURATIONS.contains(&document.path.as_str())) {
        for block in document.blocks("toml") {
            // Readers put in a key of their own. Secrets and the store are in other folders on a real machine.
            let text = block.replace("ssh-ed25519 AAAA… market-data", key).replace("/run/secrets/", "keys/");
            let text = text.replace("/var/lib/lastmile", folder.0.to_str().unwrap());
            let file = folder.path("lastmile.toml");
            fs::write(&file, text).unwrap();
            let loaded = load(&Sources { file: Some(file), ..Sources::default() });
            assert!(loaded.is_ok(), "{}:\n{block}\n{}", document.path, loaded.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 3, "only {count} examples");
}

/// A folder with every file that an example configuration names.
struct ExampleFolder(PathBuf);

impl ExampleFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-docs-{}", std::process::id()));
        // Left by a killed process with the same id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("keys")).unwrap();
        let folder = Self(path);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        folder.write("keys/public.crt", &made.cert.pem());
        folder.write("keys/public.key", &made.signing_key.serialize_pem());
        folder.write("keys/older.argon2", PASSWORD_HASH);
        for secret in ["keys/sso.secret", "keys/redis", "keys/redis-password"] {
            folder.write(secret, "a secret of an example\n");
        }
        folder.run(&["keygen", "--seal", "-o", "keys/session.key"]);
        folder.run(&["keygen", "--seal", "-o", "keys/cluster-key"]);
        folder.run(&["keygen", "-o", "issuer.key"]);
        let jwks = folder.run(&["token", "--key", "issuer.key", "--issuer", "https://sso.example.com", "--jwks"]);
        folder.write("sso.jwks.json", &jwks);
        folder.write("keys/sso.jwks.json", &jwks);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        make_private(&path);
    }

    /// Runs the program here and returns what it printed.
    fn run(&self, arguments: &[&str]) -> String {
        let output =
            Command::new(env!("CARGO_BIN_EXE_lastmile")).current_dir(&self.0).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for ExampleFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Private keys of other modes are refused.
fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
