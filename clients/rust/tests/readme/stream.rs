use lastmile_client::{Error, Publisher, StreamOptions};

pub async fn stream(publisher: &Publisher) -> Result<(), Error> {
    let stream = publisher.stream(StreamOptions::default()).await?;
    for number in 0..1000 {
        // Waits while 256 are on their way.
        let acknowledgement = stream.publish("open.ticks", &number).await?;
        // Each may be waited for, here or elsewhere.
        if number == 999 {
            println!("the last one is {}", acknowledgement.await?.message_id);
        }
    }
    stream.close().await
}
