//! What may happen once on any node, as keys of Redis: nonces, tickets, answers to retries.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::cmd;

use super::{Core, millis};
use crate::broker::Shared;
use crate::protocol::Refusal;

impl Shared for Core {
    fn put_new<'a>(&'a self, name: &'a str, value: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.names.once(name)).arg(value).arg("NX").arg("PX").arg(millis(lives));
            Ok(self.link.session()?.query::<Option<String>>(&command).await?.is_some())
        })
    }

    fn put<'a>(&'a self, name: &'a str, value: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.names.once(name)).arg(value).arg("PX").arg(millis(lives));
            self.link.session()?.query(&command).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            let answer = self.link.session()?.query::<Option<Vec<u8>>>(cmd("GET").arg(self.names.once(name))).await?;
            Ok(answer.map(Bytes::from))
        })
    }

    fn take<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            let answer =
                self.link.session()?.query::<Option<Vec<u8>>>(cmd("GETDEL").arg(self.names.once(name))).await?;
            Ok(answer.map(Bytes::from))
        })
    }
}
