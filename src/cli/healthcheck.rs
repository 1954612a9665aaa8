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

/// The response is one word.
const MAX_RESPONSE_BYTES: usize = 4096;

#[derive(Args)]
#[command(after_help = "Examples:
  lastmile healthcheck
  lastmile healthcheck --url http://127.0.0.1:8082/healthz

Exit code 0: the answer was 200. 1: another answer, or none.")]
pub struct Healthcheck {
    /// URL of /readyz or /healthz on a listener with the role ops, without TLS
    #[arg(long, default_value = "http://127.0.0.1:8082/readyz")]
    url: Uri,
}

impl Healthcheck {
    pub fn run(self) -> Result<(), Failure> {
        let Some(authority) = self.url.authority().filter(|_| self.url.scheme_str() == Some("http")) else {
            return Err(Failure::usage("--url: expected something like http://127.0.0.1:8082/readyz"));
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let asked = runtime()?.block_on(async { timeout(REQUEST_TIMEOUT, ask(&address, &self.url)).await });
        let failed = |why: String| Failure::failed(format!("{}: {why}", self.url));
        let (is_good, answer) = match asked {
            Ok(asked) => asked.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
        };
        let answer = answer.trim().escape_debug().to_string();
        if is_good { output::text(&format!("{answer}\n")) } else { Err(failed(answer)) }
    }
}

/// Returns whether the status is 200, and the text of the response.
async fn ask(address: &str, url: &Uri) -> Result<(bool, String), Box<dyn std::error::Error + Send + Sync>> {
    let tcp = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let is_good = response.status() == http::StatusCode::OK;
    let status = response.status().to_string();
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await?.to_bytes();
    let answer = String::from_utf8_lossy(&body).into_owned();
    Ok((is_good, if is_good { answer } else { format!("{status}, {answer}") }))
}
