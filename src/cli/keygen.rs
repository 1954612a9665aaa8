//! `lastmile keygen`: generates an ed25519 key and prints its whitelist entry.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::output;
use crate::auth::keys::{self, Fingerprint, to_openssh_public, to_pkcs8_pem};
use crate::auth::seal::SealKey;

const DEFAULT_FILE: &str = "keys/publisher.key";

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile keygen
  lastmile keygen -o keys/market-data.key
  lastmile keygen -o keys/market-data.key --name market-data >> config/lastmile.toml
  lastmile keygen --seal -o keys/session.key

The private key (PKCS#8 PEM, mode 0600) stays with the publisher. An existing file is never overwritten.
The printed lines are for the gateway's configuration. Keys of `ssh-keygen -t ed25519` and
`openssl genpkey -algorithm ed25519` work too.")]
pub struct Keygen {
    /// File for the private key
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    output: PathBuf,
    /// The publisher's name in the whitelist [default: the file's name without its extension]
    #[arg(long)]
    name: Option<String>,
    /// Generate a key that seals the cookies of logins instead
    #[arg(long, requires = "output", conflicts_with = "name")]
    seal: bool,
}

impl Keygen {
    pub fn run(self) -> Result<(), Failure> {
        if self.seal {
            return write_seal_key(&self.output);
        }
        let name = self.name.unwrap_or_else(|| name_of(&self.output));
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(Failure::usage("--name: must have letters, digits, `-`, `_` and `.` only"));
        }
        let key = keys::generate().map_err(|error| Failure::failed(error.to_string()))?;
        let pem = to_pkcs8_pem(&key).map_err(|error| Failure::failed(error.to_string()))?;
        if self.output == Path::new(DEFAULT_FILE) {
            create_directory(Path::new("keys"))?;
        }
        write_new(&self.output, pem.as_bytes())?;
        output::note(&format!("wrote the private key to {}; whitelist entry for the gateway:", self.output.display()));
        let public = key.verifying_key();
        output::text(&whitelist_entry(&name, &to_openssh_public(&public, &name), Fingerprint::of(&public)))
    }
}

fn write_seal_key(file: &Path) -> Result<(), Failure> {
    let key = SealKey::generate().map_err(|error| Failure::failed(error.to_string()))?;
    write_new(file, format!("{}\n", *key.to_text()).as_bytes())?;
    output::note("wrote a key for the cookies of logins; every node of the gateway needs the same key:");
    output::text(&format!(
        "[login]\nseal_keys = [{:?}]   # the first key seals, every key opens\n",
        file.display().to_string()
    ))
}

fn whitelist_entry(name: &str, public: &str, fingerprint: Fingerprint) -> String {
    // An unquoted dot would begin a nested table.
    let heading = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
    format!(
        "[publishers.{heading}]\nkey = \"{public}\"   # {fingerprint}\n\
         channels = [\"{name}.*\"]   # channels it may create and publish to\n"
    )
}

fn name_of(file: &Path) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    stem.chars().map(|c| if u8::try_from(c).is_ok_and(is_name_byte) { c } else { '-' }).collect()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn create_directory(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Failure::failed(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes a file that only its owner may read. Never overwrites a file, and removes a partial one.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Failure::failed(format!("{} exists and is not overwritten; choose another file", path.display()))
        }
        _ => Failure::failed(format!("{}: {error}", path.display())),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
        Failure::failed(format!("{}: {error}", path.display()))
    })
}
