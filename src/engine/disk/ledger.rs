//! The ledger of the store: writes facts with the committer.

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::oneshot;

use super::facts::Fact;
use super::queue::Op;
use super::state::{DiskState, written};
use crate::engine::local_store::Ledger;
use crate::protocol::Refusal;

impl DiskState {
    async fn write_fact(&self, name: String, fact: Fact) -> Result<(), Refusal> {
        let (answer, receipt) = oneshot::channel();
        self.queue.push(Op::Fact { name: name.clone(), fact: fact.clone(), answer })?;
        written(receipt).await?;
        self.facts.lock().mark_written(&name, &fact);
        Ok(())
    }
}

impl Ledger for DiskState {
    fn identity(&self) -> String {
        format!("disk {}", self.facts.lock().identity())
    }

    fn write<'a>(&'a self, name: String, value: Bytes, expires: u64) -> BoxFuture<'a, Result<(), Refusal>> {
        let fact = Fact::new(value, expires);
        self.facts.lock().insert(&name, fact.clone());
        Box::pin(self.write_fact(name, fact))
    }

    fn write_if_absent<'a>(&'a self, name: String, expires: u64) -> BoxFuture<'a, Result<bool, Refusal>> {
        let fact = Fact::new(Bytes::new(), expires);
        let is_absent = {
            let mut facts = self.facts.lock();
            let is_absent = facts.get(&name).is_none();
            if is_absent {
                facts.insert(&name, fact.clone());
            }
            is_absent
        };
        Box::pin(async move {
            if is_absent {
                self.write_fact(name, fact).await?;
            }
            Ok(is_absent)
        })
    }

    fn raise<'a>(&'a self, name: String, number: u64, expires: u64) -> BoxFuture<'a, Result<(), Refusal>> {
        let fact = {
            let mut facts = self.facts.lock();
            match facts.get(&name) {
                Some(known) if known.number() >= number => known.clone(),
                _ => {
                    let fact = Fact::new(number.to_string().into(), expires);
                    facts.insert(&name, fact.clone());
                    fact
                }
            }
        };
        // Another request may still be writing it.
        if fact.is_written { Box::pin(ready(Ok(()))) } else { Box::pin(self.write_fact(name, fact)) }
    }

    fn fact(&self, name: &str) -> Option<Bytes> {
        self.facts.lock().get(name).map(|fact| fact.value.clone())
    }

    fn number(&self, name: &str) -> u64 {
        self.facts.lock().get(name).map_or(0, Fact::number)
    }

    fn has_nonces(&self) -> bool {
        self.facts.lock().is_continued()
    }

    fn facts(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let facts = self.facts.lock();
        facts.with_prefix(prefix).map(|(name, fact)| (name.clone(), fact.value.clone())).collect()
    }
}
