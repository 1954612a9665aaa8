use lastmile_client::{Client, Error, Publisher, SubscribeOptions};
use serde_json::{Value, json};

pub async fn answer_one(publisher: &Publisher) -> Result<(), Error> {
    let mut replies = publisher.replies().await?;
    publisher.publish("support", &"Is this a good time?").await?;
    if let Some(reply) = replies.next().await {
        println!("{:?} replied {}", reply.principal(), reply.data());
        reply.answer(&json!({"ticket": 17})).await?; // or `reply.received()`
    }
    Ok(())
}

pub async fn ask_once(client: &Client) -> Result<(), Error> {
    let options = SubscribeOptions { backlog: 1, ..SubscribeOptions::default() };
    let mut support = client.subscribe("support", options).await?;
    if let Some(message) = support.next().await {
        let ticket: Value = client.ask("support", &message?.message_id, &"a ticket?").await?;
        println!("{ticket}");
    }
    Ok(())
}
