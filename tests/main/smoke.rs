use crate::common::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smoke() {
    let world = World::start("[[channels]]\nmatch = \"open.*\"\nsubscribers = \"anyone\"\n").await;
    let mut alice = world.subscriber().await;
    alice.subscribe("prices").await;
    let answer = world.publish("prices", "{\"usd\": 1.50}").await;
    let text = alice.text().await;
    println!("{answer} {text}");
    world.await_metric("lastmile_connections", 1.0).await;
    drop(alice);
    println!("{:?}", world.gateway.stop().await);
}
