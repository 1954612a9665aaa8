//! Creating, describing and closing a channel, each with one script for all nodes.

use super::connection::unavailable;
use super::core::Core;
use super::keys::SCRIPTS;
use super::wire::limits as declared_limits;
use crate::broker::ChannelLimits;
use crate::broker::engine::{ChannelState, Created};
use crate::engine::channels::{check_narrower, new_epoch};
use crate::engine::millis::millis;
use crate::protocol::{ChannelName, ErrorCode, Position, Refusal};

impl Core {
    pub async fn create(&self, channel: &ChannelName, limits: Option<ChannelLimits>) -> Result<Created, Refusal> {
        let connection = self.connection()?;
        let rules = self.channels.rules.load_full();
        let rule = rules.of(channel);
        let limits = check_narrower(limits, rule)?;
        let mut script = SCRIPTS.create.prepare_invoke();
        script.key(self.keys.state(channel)).key(self.keys.stream(channel));
        script.arg(&*new_epoch()?).arg(&connection.marker);
        script.arg(limits.max_messages).arg(limits.max_data_bytes).arg(limits.max_message_bytes);
        script.arg(millis(limits.lifespan)).arg(limits.max_connections);
        script.arg(millis(self.idle)).arg(millis(rule.limits.lifespan));
        script.arg(self.keys.pubsub(channel)).arg(connection.publish());
        match connection.invoke::<String>(&script).await?.as_str() {
            "new" => Ok(Created::New),
            "again" => Ok(Created::Again),
            "exists" => Err(ErrorCode::ChannelExists.into()),
            _ => Err(unavailable()),
        }
    }

    pub async fn exists(&self, channel: &ChannelName) -> Result<bool, Refusal> {
        self.connection()?.query(redis::cmd("EXISTS").arg(self.keys.state(channel))).await
    }

    pub async fn describe(&self, channel: &ChannelName) -> Result<Option<ChannelState>, Refusal> {
        let connection = self.connection()?;
        let mut script = SCRIPTS.describe.prepare_invoke();
        script.key(self.keys.state(channel)).key(self.keys.subscriber_quota(channel));
        script.arg(&self.node).arg(millis(self.idle)).arg(&connection.marker);
        let answer: Vec<String> = connection.invoke(&script).await?;
        let [epoch, offset, bytes, created, ended, declared, others, exists] = &answer[..] else {
            return Err(unavailable());
        };
        let number = |text: &String| text.parse::<u64>().map_err(|_| unavailable());
        let subscribers = number(others)?.saturating_add(self.channels.hub.subscriber_count(channel));
        let is_waiting = exists != "1";
        if !ended.is_empty() || (is_waiting && subscribers == 0) {
            return Ok(None);
        }
        let created = number(created)?.try_into().ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let rules = self.channels.rules.load();
        let configured = &rules.of(channel).limits;
        Ok(Some(ChannelState {
            position: Position { epoch: epoch.as_str().into(), offset: number(offset)? },
            data_bytes: number(bytes)?,
            subscribers,
            is_waiting,
            created: created.ok_or_else(unavailable)?,
            limits: declared_limits(declared)
                .map_or_else(|| configured.clone(), |declared| declared.narrowed_by(configured)),
        }))
    }

    pub async fn close(&self, channel: &ChannelName) -> Result<bool, Refusal> {
        let connection = self.connection()?;
        // Of a waiting name, Redis may not know of this node's subscribers yet.
        let is_waiting = self.channels.find(channel).is_some_and(|log| log.lock().is_waiting());
        let mut script = SCRIPTS.close.prepare_invoke();
        script.key(self.keys.state(channel)).key(self.keys.stream(channel)).key(self.keys.subscriber_quota(channel));
        script.key(self.keys.closed(channel));
        script.arg(self.keys.pubsub(channel)).arg(connection.publish()).arg(millis(self.idle));
        Ok(connection.invoke::<u64>(&script).await? == 1 || is_waiting)
    }
}
