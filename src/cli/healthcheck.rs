//! `lastmile healthcheck`: one HTTP request to a gateway, for container images without an HTTP client.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::Failure;
use super::output;
use super::runtime::runtime;

/// Limit of the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The response of both endpoints is a word.
const MAX_RESPONSE_BYTES: usize = 4096;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile healthcheck
  lastmile healthcheck --url http://127.0.0.1:8082/healthz

Exit code 0: the response was 200. 1: another response, or none.")]
pub struct Healthcheck {
    /// URL of /readyz or /healthz on a listener with the role ops, without TLS
    #[arg(long, default_value = "http://127.0.0.1:8082/readyz")]
    url: Uri,
}

impl Healthcheck {
    pub fn run(self) -> Result<(), Failure> {
        let Some(authority) = self.url.authority().filter(|_| self.url.scheme_str() == Some("http")) else {
            return Err(Failure::usage("--url: must be like http://127.0.0.1:8082/readyz"));
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let result = runtime()?.block_on(async { timeout(REQUEST_TIMEOUT, get(&address, &self.url)).await });
        let failed = |why: String| Failure::failed(format!("{}: {why}", self.url));
        let (is_ok, text) = match result {
            Ok(response) => response.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no response within {} s", REQUEST_TIMEOUT.as_secs()))),
        };
        let text = text.trim().escape_debug().to_string();
        if is_ok { output::text(&format!("{text}\n")) } else { Err(failed(text)) }
    }
}

/// Returns whether the status is 200, and the text of the response.
async fn get(address: &str, url: &Uri) -> Result<(bool, String), Box<dyn std::error::Error + Send + Sync>> {
    let tcp = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let is_ok = response.status() == http::StatusCode::OK;
    let status = response.status().to_string();
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok((is_ok, if is_ok { text } else { format!("{status}, {text}") }))
}
