//! Control requests on the role `publish`: keys of issuers, channel rules and revocations, pushed by whitelisted keys
//! with `control = true`. The gateway asks nobody for them, so they work without any outgoing connection.
//!
//! What is pushed stays over a reload of files. It ends with the process, where nodes share nothing; otherwise all of them
//! have it until it is taken back.

mod handlers;

use metrics::{Counter, counter};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cluster::pushed_policy::Applied;
pub use crate::cluster::pushed_policy::sync;
pub use handlers::{channels, jwks, revocations};

use crate::auth::Policy;
use crate::broker::ChannelRules;

/// Channel rules with the text that they were made of, `{"channels":[…],"channel_defaults":{…}}`.
#[derive(Clone, Debug)]
pub struct WrittenRules {
    pub rules: ChannelRules,
    pub written: Value,
}

/// How bodies are read and checked: by the same code as files. The errors are sentences.
#[derive(Clone, Copy)]
pub struct Readers {
    pub rules: fn(&[u8]) -> Result<WrittenRules, String>,
    pub keys: fn(&[u8]) -> Result<jsonwebtoken::jwk::JwkSet, String>,
}

pub struct Control {
    pub readers: Readers,
    /// Held over every change of the rules, so that a reload and a push do not lose one another.
    state: Mutex<State>,
    pub taken: tokio::sync::Mutex<Applied>,
    counters: Counters,
}

struct State {
    files: WrittenRules,
    pushed: Option<WrittenRules>,
}

/// `lastmile_control_changes_total{what}`.
struct Counters {
    jwks: Counter,
    channels: Counter,
    revocations: Counter,
}

impl Control {
    /// Registers its metrics with the current recorder.
    pub fn new(readers: Readers, files: WrittenRules) -> Self {
        let counter = |what| counter!("lastmile_control_changes_total", "what" => what);
        let counters =
            Counters { jwks: counter("jwks"), channels: counter("channels"), revocations: counter("revocations") };
        let state = Mutex::new(State { files, pushed: None });
        Self { readers, state, taken: tokio::sync::Mutex::default(), counters }
    }

    /// Takes the rules of the files that were read again; `apply` gets those that are in force from now on, which are
    /// the pushed ones if there are any.
    pub fn reload(&self, files: WrittenRules, apply: impl FnOnce(ChannelRules)) {
        let mut state = self.state.lock();
        state.files = files;
        apply(state.in_force());
    }

    /// Puts pushed rules in force, or those of the files again.
    pub fn put(&self, pushed: Option<WrittenRules>, policy: &Policy) {
        let mut state = self.state.lock();
        state.pushed = pushed;
        policy.replace_rules(state.in_force());
    }

    fn describe(&self) -> Value {
        let state = self.state.lock();
        match &state.pushed {
            Some(pushed) => json!({ "source": "pushed", "rules": pushed.written }),
            None => json!({ "source": "files", "rules": state.files.written }),
        }
    }
}

impl State {
    /// What an issuer's tokens open at most is said with the issuer, in the files.
    fn in_force(&self) -> ChannelRules {
        match &self.pushed {
            Some(pushed) => ChannelRules { issuers: self.files.rules.issuers.clone(), ..pushed.rules.clone() },
            None => self.files.rules.clone(),
        }
    }
}
