use lastmile_client::{Error, Publisher, StreamOptions};

pub async fn stream(publisher: &Publisher) -> Result<(), Error> {
    let stream = publisher.stream(StreamOptions::default()).await?;
    for number in 0..1000 {
        // Waits while 256 messages are unacknowledged.
        let acknowledgement = stream.publish("open.ticks", &number).await?;
        // An acknowledgement can be awaited here or in another task.
        if number == 999 {
            println!("the last one is {}", acknowledgement.await?.message_id);
        }
    }
    stream.close().await
}
