//! Creating, describing and closing a channel: one script each, seen by all nodes.

use super::keys::SCRIPTS;
use super::wire::limits as declared_limits;
use super::{Core, away, millis};
use crate::broker::ChannelLimits;
use crate::broker::engine::{ChannelState, Created};
use crate::engine::channels::{check_narrower, new_epoch};
use crate::protocol::{ChannelName, ErrorCode, Position, Refusal};

impl Core {
    pub async fn create(&self, channel: &ChannelName, limits: Option<ChannelLimits>) -> Result<Created, Refusal> {
        let session = self.link.session()?;
        let rules = self.channels.rules.load_full();
        let rule = rules.of(channel);
        let limits = check_narrower(limits, rule)?;
        let mut script = SCRIPTS.create.prepare_invoke();
        script.key(self.names.state(channel)).key(self.names.stream(channel));
        script.arg(&*new_epoch()?).arg(&session.marker);
        script.arg(limits.max_messages).arg(limits.max_data_bytes).arg(limits.max_message_bytes);
        script.arg(millis(limits.lifespan)).arg(limits.max_connections);
        script.arg(millis(self.idle)).arg(millis(rule.limits.lifespan));
        script.arg(self.names.pubsub(channel)).arg(session.publish());
        match session.invoke::<String>(&script).await?.as_str() {
            "new" => Ok(Created::New),
            "again" => Ok(Created::Again),
            "exists" => Err(ErrorCode::ChannelExists.into()),
            _ => Err(away()),
        }
    }

    pub async fn describe(&self, channel: &ChannelName) -> Result<Option<ChannelState>, Refusal> {
        let session = self.link.session()?;
        let mut script = SCRIPTS.describe.prepare_invoke();
        script.key(self.names.state(channel)).key(self.names.subscriber_quota(channel)).arg(&self.node);
        let Some(answer) = session.invoke::<Option<Vec<String>>>(&script).await? else { return Ok(None) };
        let [epoch, offset, bytes, created, ended, declared, others] = &answer[..] else { return Err(away()) };
        if !ended.is_empty() {
            return Ok(None);
        }
        let number = |text: &String| text.parse::<u64>().map_err(|_| away());
        let created = number(created)?.try_into().ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let rules = self.channels.rules.load();
        let configured = &rules.of(channel).limits;
        Ok(Some(ChannelState {
            position: Position { epoch: epoch.as_str().into(), offset: number(offset)? },
            data_bytes: number(bytes)?,
            subscribers: number(others)? + self.channels.hub.subscriber_count(channel),
            created: created.ok_or_else(away)?,
            limits: declared_limits(declared)
                .map_or_else(|| configured.clone(), |declared| declared.narrowed_by(configured)),
        }))
    }

    pub async fn close(&self, channel: &ChannelName) -> Result<bool, Refusal> {
        let session = self.link.session()?;
        let mut script = SCRIPTS.close.prepare_invoke();
        script.key(self.names.state(channel)).key(self.names.stream(channel)).key(self.names.subscriber_quota(channel));
        script.arg(self.names.pubsub(channel)).arg(session.publish());
        Ok(session.invoke::<u64>(&script).await? == 1)
    }
}
