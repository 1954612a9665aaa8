//! A push in the shared store, with the signed request that made it: every node verifies the control key's signature.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::auth::publisher::{Publisher, RECORDED_HEADERS, RequestHead, Whitelist};

/// Begins a record. Values of earlier releases are JSON or begin with a digit.
const MAGIC: &[u8] = b"signed 1\n";

/// A node's clock and a control client's clock may differ by 60 s, and two nodes' clocks too.
const MAX_VERSION_SKEW_SECS: u64 = 180;

/// The line before the body.
#[derive(Serialize, Deserialize)]
struct RecordHead {
    version: u64,
    source: String,
    method: String,
    authority: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
}

pub struct PushRecord<'a> {
    head: RecordHead,
    pub body: &'a [u8],
}

/// The policy that a push replaces.
#[derive(Clone, Copy)]
pub enum PushTarget<'a> {
    Rules,
    KeysOf(&'a str),
}

/// `version` rises with every push of a target, in milliseconds since 1970. `source` is a hash of the configured keys that
/// pushed ones replace.
pub fn encode(
    version: u64,
    source: &str,
    request: &RequestHead<'_>,
    body: &[u8],
) -> Result<Vec<u8>, serde_json::Error> {
    let header = |name: HeaderName| {
        let lines = request.headers.get_all(&name).into_iter().filter_map(|value| value.to_str().ok());
        lines.map(|value| (name.as_str().to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let head = RecordHead {
        version,
        source: source.to_owned(),
        method: request.method.to_owned(),
        authority: request.authority.to_owned(),
        path: request.path.to_owned(),
        query: request.query.map(str::to_owned),
        headers: RECORDED_HEADERS.into_iter().flat_map(header).collect(),
    };
    Ok([MAGIC, &serde_json::to_vec(&head)?, b"\n", body].concat())
}

impl<'a> PushRecord<'a> {
    /// `None` if the value is not a record.
    pub fn decode(value: &'a [u8]) -> Option<Self> {
        let rest = value.strip_prefix(MAGIC)?;
        let (head, body) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'\n')?)?;
        Some(Self { head: serde_json::from_slice(head).ok()?, body: body.get(1..)? })
    }

    pub fn version(&self) -> u64 {
        self.head.version
    }

    pub fn source(&self) -> &str {
        &self.head.source
    }

    /// Seconds since 1970.
    pub fn pushed(&self) -> u64 {
        self.head.version / 1000
    }

    /// Whether the request withdraws an earlier push.
    pub fn is_withdrawal(&self) -> bool {
        self.head.method == "DELETE"
    }

    /// Checks that a control key of this node's whitelist signed the push for this target.
    pub fn verify(&self, whitelist: &Whitelist, target: PushTarget<'_>) -> Result<Arc<Publisher>, String> {
        let RecordHead { version, source: _, method, authority, path, query, headers } = &self.head;
        let is_meant = match target {
            PushTarget::Rules => path.ends_with("/v1/control/channels") && matches!(method.as_str(), "PUT" | "DELETE"),
            PushTarget::KeysOf(issuer) => method == "PUT" && issuer_in(path).as_deref() == Some(issuer),
        };
        if !is_meant {
            return Err("the signed request is for something else".to_owned());
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
            map.append(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
        }
        let head = RequestHead { method, authority, path, query: query.as_deref(), headers: &map };
        let (publisher, created) = whitelist
            .verify_recorded(&head, self.body)
            .map_err(|refusal| format!("the signature of its request does not verify: {}", refusal.detail))?;
        if !publisher.may_control() {
            return Err("the key that signed it lacks `control = true`".to_owned());
        }
        // Otherwise a newer version could be given to an old push.
        if created.abs_diff(version / 1000) > MAX_VERSION_SKEW_SECS {
            return Err("its version is not from the time of its signature".to_owned());
        }
        Ok(publisher)
    }
}

fn issuer_in(path: &str) -> Option<String> {
    let (_, segment) = path.rsplit_once("/v1/control/jwks/")?;
    Some(percent_encoding::percent_decode_str(segment).decode_utf8().ok()?.into_owned())
}
