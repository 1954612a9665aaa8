//! Subscribes to channels over one WebSocket that reconnects.

mod actor;
mod channel;
mod core;
mod event;
mod handle;
mod session;
mod state;
mod subscription;
mod tokens;
mod track;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

pub use event::{Event, SubscribeOptions};
pub use state::State;
pub use subscription::{Events, Subscription};

use crate::error::Error;
use crate::frame::Frame;
use crate::gateway::Gateway;
use crate::json;
use crate::token::TokenSource;
use channel::Channel;
use handle::Handle;

/// A subscriber's client. Clones share one connection, which ends with the last clone and subscription.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Handle,
}

impl Client {
    /// Creates a client that connects on first use. Needs a tokio runtime. `gateway` is a URL or a [`Gateway`].
    pub fn connect<G>(gateway: G, token: TokenSource) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        Ok(Self { handle: actor::start(gateway.try_into()?, token) })
    }

    /// Subscribes to a channel. A second subscription to it fails with `already_subscribed`. A refusal by the gateway
    /// arrives in the subscription.
    pub async fn subscribe(&self, channel: &str, options: SubscribeOptions) -> Result<Subscription, Error> {
        let (wanted, events, reader_state) = Channel::new(channel, options);
        self.handle.subscribe(wanted).await?;
        Ok(Subscription::new(Events::new(channel, self.handle.clone(), events, reader_state)))
    }

    /// Replies to a message of a subscribed channel. Completes once the publisher has the reply.
    pub async fn reply<T: Serialize + ?Sized>(&self, channel: &str, to: &str, data: &T) -> Result<(), Error> {
        self.request(channel, to, data, false).await.map(drop)
    }

    /// Replies to a message and returns the publisher's answer.
    pub async fn ask<A, T>(&self, channel: &str, to: &str, data: &T) -> Result<A, Error>
    where
        A: DeserializeOwned,
        T: Serialize + ?Sized,
    {
        json::read(self.request(channel, to, data, true).await?.json().get())
    }

    /// Observes the state of the connection.
    pub fn state(&self) -> watch::Receiver<State> {
        self.handle.state()
    }

    /// Closes the connection and all subscriptions, also those of clones.
    pub async fn close(&self) {
        self.handle.close().await;
    }

    async fn request<T: Serialize + ?Sized>(
        &self,
        channel: &str,
        to: &str,
        data: &T,
        expects_answer: bool,
    ) -> Result<Frame, Error> {
        let (channel, to, data) = (json::write(channel)?, json::write(to)?, json::write(data)?);
        let answer = if expects_answer { r#","answer":true"# } else { "" };
        self.handle.request(format!(r#""channel":{channel},"to":{to},"data":{data}{answer}"#), expects_answer).await
    }
}
