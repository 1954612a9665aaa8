use lastmile_client::{Client, Error, TokenSource};

pub fn connect(url: &str) -> Result<Client, Error> {
    let source = TokenSource::function(|| async {
        match tokio::fs::read_to_string("alice.token").await {
            Ok(token) => Ok(token.trim().to_owned()),
            // An error that is not temporary ends the client.
            Err(error) => Err(Error::new("signed_out", error.to_string())),
        }
    });
    Client::connect(url, source)
}
