use lastmile_client::{Error, Key, Options, Publisher};
use serde_json::json;

pub async fn publish(url: &str, key_file: &str) -> Result<(), Error> {
    let publisher = Publisher::connect(url, Key::from_file(key_file)?)?;

    // Retried while the gateway is unreachable, but published once.
    let published = publisher.publish("open.btc", &json!({"usd": 64000.5})).await?;
    println!("{} is number {}", published.message_id, published.position.offset);

    // One request, one signature.
    for answer in publisher.publish_many("open.btc", [json!({"usd": 64001}), json!({"usd": 64002})]).await? {
        println!("{}", answer?.position.offset);
    }

    // Bytes with an idempotency key: published once, also after a restart of this program.
    let options =
        Options { idempotency_key: Some("chart-2026-11-21".to_owned()), content_type: Some("image/png".to_owned()) };
    publisher.publish_with("open.charts", vec![0x89, b'P', b'N', b'G'], options).await?;
    Ok(())
}
