//! The gateway that a command connects to: its URL, its authorities and the texts of its errors.

use std::path::Path;

use lastmile_client::{Error, Gateway};

use super::failure::Failure;

/// Parses `--url`.
pub fn parse_url(text: &str) -> Result<Gateway, String> {
    Gateway::new(text).map_err(|error| error.message)
}

/// Applies `--ca`, a PEM file with the only authorities to trust.
pub fn with_authorities(gateway: Gateway, ca: Option<&Path>) -> Result<Gateway, Failure> {
    let Some(ca) = ca else { return Ok(gateway) };
    let failed = |why: String| Failure::usage(format!("{}: {why}", ca.display()));
    let pem = std::fs::read_to_string(ca).map_err(|error| failed(error.to_string()))?;
    gateway.with_authorities(&pem).map_err(|error| failed(error.message))
}

/// The failure of a command that `error` ended.
pub fn failure(gateway: &Gateway, error: &Error) -> Failure {
    match error.code.as_ref() {
        // The command's own token, not the gateway.
        "token" => Failure::usage(error.message.clone()),
        _ => Failure::failed(format!("{gateway}: {}", describe(error))),
    }
}

/// An error in one line: with its HTTP status and problem, close code or cause.
pub fn describe(error: &Error) -> String {
    match (error.status, error.code.as_ref()) {
        (Some(status @ ..1000), "http") => format!("refused: HTTP {status}"),
        (Some(status @ ..1000), code) => {
            format!("refused: HTTP {status}, {}: {}", code.replace('_', "-"), error.message)
        }
        (_, "tls") => format!("cannot connect: {}", error.message),
        (_, "connection_lost") => format!("connection lost: {}", error.message),
        _ => error.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_printed() {
        for (url, printed) in
            [("ws://127.0.0.1:8081/", "http://127.0.0.1:8081"), ("https://gw.example/live/", "https://gw.example/live")]
        {
            assert_eq!(parse_url(url).unwrap().to_string(), printed);
        }
        assert!(parse_url("127.0.0.1").unwrap_err().contains("http://"));
    }
}
