use lastmile_client::{CodeFormat, Error, Room, RoomEvent, RoomOptions, TokenSource};

pub async fn open(url: &str) -> Result<(Room, String), Error> {
    let mut room = Room::open(url, TokenSource::anonymous(), &RoomOptions::with_code(CodeFormat::Words))?;
    while let Some(event) = room.next().await {
        if let RoomEvent::Opened { code: Some(code), .. } = event? {
            return Ok((room, code)); // read the code out to the other person
        }
    }
    Err(Error::new("no_room", "the room was not opened"))
}

pub async fn join_and_greet(url: &str, code: &str) -> Result<(), Error> {
    let mut room = Room::join_with_code(url, TokenSource::anonymous(), code)?;
    while let Some(event) = room.next().await {
        if matches!(event?, RoomEvent::Joined { .. }) {
            break;
        }
    }
    room.send("hello").await?;
    room.leave().await; // sends what is queued first
    Ok(())
}

pub async fn first_message(mut room: Room) -> Result<String, Error> {
    while let Some(event) = room.next().await {
        match event? {
            RoomEvent::Message(message) => return Ok(message.data.get().to_owned()),
            RoomEvent::Reconnecting(error) => println!("resuming the seat after {error}"),
            _ => {}
        }
    }
    Err(Error::new("no_message", "the room ended"))
}
