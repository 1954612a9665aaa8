//! The demonstration's publisher: a signed connection over a real socket, and a tick each second.

use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::TICKER;
use crate::auth::publisher::Signer;
use crate::cli::Failure;
use crate::cli::publish::{Answer, connect, frame};
use crate::cli::socket::Client;

const TICK: Duration = Duration::from_secs(1);

/// The answer comes from the same process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes until something fails.
pub async fn publish(client: Client, key: SigningKey) -> Result<(), Failure> {
    let signer = Signer::new(key);
    let mut socket =
        connect(&client, &signer).await.map_err(|error| Failure::failed(format!("the demo's publisher: {error}")))?;
    let mut ticks = tokio::time::interval(TICK);
    let mut tick: u64 = 0;
    loop {
        ticks.tick().await;
        tick += 1;
        let data = format!(r#"{{"tick":{tick},"usd":{:.2}}}"#, price(tick));
        let failed = |what: &dyn std::fmt::Display| Failure::failed(format!("the demo's publisher: {what}"));
        socket.send(frame(tick, TICKER, &data)).await.map_err(|closed| failed(&closed))?;
        loop {
            let text = socket.next(PATIENCE).await.map_err(|closed| failed(&closed))?;
            match serde_json::from_str(&text) {
                Ok(Answer::Published) => break,
                Ok(Answer::Error { code, .. }) => return Err(failed(&code)),
                Ok(Answer::Reply { .. } | Answer::Other) | Err(_) => {}
            }
        }
    }
}

/// Something that moves like a price.
fn price(tick: u64) -> f64 {
    let at = (tick % 100_000) as f64;
    3000.0 + 40.0 * (at / 17.0).sin() + 7.0 * (at / 2.3).sin()
}
