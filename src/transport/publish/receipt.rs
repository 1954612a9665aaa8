//! The result of a publishing request: the positions and refusals of which its response consists.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::protocol::{ChannelName, Position, Refusal};
use crate::transport::http::problem;

/// One part for each run of positions. Its size depends on neither the number of messages nor the channel's name.
#[derive(Default, Serialize, Deserialize)]
pub struct Receipt(Vec<Part>);

#[derive(Serialize, Deserialize)]
enum Part {
    /// Epoch, first offset and number of messages.
    #[serde(rename = "a")]
    Accepted(Arc<str>, u64, u64),
    /// The problem, and the number of messages in a row that have it.
    #[serde(rename = "r")]
    Refused(Value, u64),
}

impl Receipt {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn accept(&mut self, position: Position) {
        match self.0.last_mut() {
            Some(Part::Accepted(epoch, first, count))
                if *epoch == position.epoch && *first + *count == position.offset =>
            {
                *count += 1;
            }
            _ => self.0.push(Part::Accepted(position.epoch, position.offset, 1)),
        }
    }

    pub fn refuse(&mut self, refusal: &Refusal) {
        let body = problem::body(refusal);
        match self.0.last_mut() {
            Some(Part::Refused(known, count)) if *known == body => *count += 1,
            _ => self.0.push(Part::Refused(body, 1)),
        }
    }

    pub fn encode(&self) -> Bytes {
        // Text, numbers and lists are always written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub fn decode(encoded: &[u8]) -> Option<Self> {
        serde_json::from_slice(encoded).ok()
    }

    /// The response body: a list for a batch, otherwise the only entry.
    pub fn response(&self, channel: &ChannelName, is_batch: bool) -> Bytes {
        let mut entries = self.0.iter().flat_map(|part| entries(part, channel));
        let body = if is_batch { entries.collect() } else { entries.next().unwrap_or_default() };
        body.to_string().into()
    }
}

fn entries<'a>(part: &'a Part, channel: &'a ChannelName) -> impl Iterator<Item = Value> + 'a {
    let count = match part {
        Part::Accepted(_, _, count) | Part::Refused(_, count) => *count,
    };
    (0..count).map(move |at| match part {
        Part::Refused(problem, _) => problem.clone(),
        Part::Accepted(epoch, first, _) => {
            let position = Position { epoch: epoch.clone(), offset: first + at };
            json!({
                "channel": channel.as_str(),
                "id": position.message_id(),
                "offset": position.offset,
                "epoch": &*position.epoch,
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    #[test]
    fn runs_are_small_and_complete() {
        let mut receipt = Receipt::default();
        let refusal = Refusal::from(ErrorCode::LimitReached);
        let position = |epoch: &str, offset| Position { epoch: epoch.into(), offset };
        (7..1_007).for_each(|offset| receipt.accept(position("e", offset)));
        receipt.accept(position("f", 1));
        receipt.accept(position("f", 3));
        (0..500).for_each(|_| receipt.refuse(&refusal));
        let encoded = receipt.encode();
        assert!(encoded.len() < 300, "{}", encoded.len());

        let channel = ChannelName::parse(&"\"".repeat(255)).unwrap();
        let response = Receipt::decode(&encoded).unwrap().response(&channel, true);
        let entries: Vec<Value> = serde_json::from_slice(&response).unwrap();
        assert_eq!(entries.len(), 1_502);
        assert_eq!((&entries[999]["id"], &entries[999]["channel"]), (&json!("e-1006"), &json!(channel.as_str())));
        assert_eq!((&entries[1_001]["offset"], &entries[1_501]), (&json!(3), &problem::body(&refusal)));
        assert!(Receipt::decode(br#"[{"channel":"c","id":"e-1","offset":1,"epoch":"e"}]"#).is_none());
    }
}
