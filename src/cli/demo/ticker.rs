//! The demo's publisher: a signed connection with one tick per second.

use std::time::Duration;

use lastmile_client::{Error, Gateway, Key, Publisher, StreamOptions};
use serde_json::value::RawValue;

use super::scratch_dir::TICKER_CHANNEL;
use crate::cli::failure::Failure;
use crate::cli::remote;

const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes until an error.
pub async fn publish(gateway: Gateway, key: Key) -> Result<(), Failure> {
    let failed = |error: Error| Failure::failed(format!("the demo's publisher: {}", remote::describe(&error)));
    let publisher = Publisher::connect(gateway, key).map_err(failed)?;
    let stream = publisher.stream(StreamOptions::default()).await.map_err(failed)?;
    let mut ticks = tokio::time::interval(TICK_INTERVAL);
    let mut tick: u64 = 0;
    loop {
        ticks.tick().await;
        tick += 1;
        let data = RawValue::from_string(format!(r#"{{"tick":{tick},"usd":{:.2}}}"#, price(tick)));
        let data = data.map_err(|error| Failure::failed(error.to_string()))?;
        stream.publish(TICKER_CHANNEL, &data).await.map_err(failed)?.await.map_err(failed)?;
    }
}

/// Returns a value that moves like a price.
fn price(tick: u64) -> f64 {
    let at = (tick % 100_000) as f64;
    3000.0 + 40.0 * (at / 17.0).sin() + 7.0 * (at / 2.3).sin()
}
