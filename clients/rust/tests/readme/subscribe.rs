use lastmile_client::{Client, Error, Event, SubscribeOptions, TokenSource};
use serde_json::Value;

pub async fn subscribe(url: &str) -> Result<(), Error> {
    let client = Client::connect(url, TokenSource::anonymous())?;
    let options = SubscribeOptions { backlog: 2, ..SubscribeOptions::default() };
    let mut prices = client.subscribe("open.btc", options).await?.events();
    while let Some(event) = prices.next().await {
        match event? {
            Event::Subscribed { position, .. } => println!("the newest is {}", position.offset),
            Event::Gap(gap) => println!("lost after {}: {:?}", gap.after.offset, gap.reason),
            Event::Publication(publication) => {
                println!("{}", publication.json::<Value>()?["usd"]);
                if publication.position.offset == 3 {
                    break; // dropping it unsubscribes
                }
            }
            _ => {}
        }
    }
    Ok(())
}
