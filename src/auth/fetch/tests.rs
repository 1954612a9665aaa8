//! The client against small servers, and refused addresses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers one connection with these bytes. Returns the port, and a handle for the request.
async fn server(answer: impl Into<Vec<u8>>) -> (u16, tokio::task::JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = socket.read(&mut request).await.unwrap();
        // The client may have closed the connection.
        let _ = socket.write_all(&answer).await;
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    (port, served)
}

fn fetcher() -> Fetcher {
    Fetcher::new(FetchConfig::default()).unwrap()
}

async fn get(answer: impl Into<Vec<u8>>) -> Result<Fetched, FetchError> {
    let (port, _served) = server(answer).await;
    fetcher().get(&Endpoint::configured(&format!("http://127.0.0.1:{port}/keys?a=b")).unwrap()).await
}

#[tokio::test]
async fn get_returns_headers_and_body() {
    let (port, served) = server("HTTP/1.1 200 OK\r\nEtag: \"1\"\r\nContent-Length: 2\r\n\r\n{}").await;
    let endpoint = Endpoint::configured(&format!("http://localhost:{port}/keys?a=b")).unwrap();
    let fetched = fetcher().get(&endpoint).await.unwrap();
    assert_eq!(
        (fetched.status.as_u16(), &fetched.body[..], &fetched.headers["etag"]),
        (200, &b"{}"[..], &"\"1\"".parse().unwrap())
    );
    let request = served.await.unwrap();
    assert!(request.starts_with("GET /keys?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: localhost:{port}\r\n")), "{request}");
}

#[tokio::test]
async fn posts_a_form() {
    let (port, served) = server("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let endpoint = Endpoint::configured(&format!("http://127.0.0.1:{port}/token")).unwrap();
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic eA=="))]);
    let fetched = fetcher().post_form(&endpoint, headers, "grant_type=x").await.unwrap();
    assert_eq!(fetched.status, 400);
    let request = served.await.unwrap();
    for part in [
        "POST /token ",
        "authorization: Basic eA==\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        "\r\n\r\ngrant_type=x",
    ] {
        assert!(request.contains(part), "{part}: {request}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let answer = format!("HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
        assert!(matches!(get(answer).await, Err(FetchError::Redirected)), "{status}");
    }
    assert_eq!(get("HTTP/1.1 304 Not Modified\r\n\r\n").await.unwrap().status, 304);
}

#[tokio::test]
async fn response_size_is_bounded() {
    let body = vec![b'x'; MAX_BODY_BYTES + 1];
    let announced = [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
    assert!(matches!(get(announced).await, Err(FetchError::TooLarge)));
    let until_the_end = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
    assert!(matches!(get(until_the_end).await, Err(FetchError::TooLarge)));
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
    assert!(matches!(get(head).await, Err(FetchError::Http(_))));
}

#[tokio::test]
async fn truncated_response_is_an_error() {
    assert!(matches!(get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}").await, Err(FetchError::Http(_))));
    assert!(matches!(get("nonsense\r\n\r\n").await, Err(FetchError::Http(_))));
    assert!(matches!(get("").await, Err(FetchError::Http(_))));
}

#[tokio::test]
async fn silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::configured(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let began = std::time::Instant::now();
    assert!(matches!(fetcher().get(&endpoint).await, Err(FetchError::TimedOut)));
    assert!(began.elapsed() < FETCH_DEADLINE + Duration::from_secs(20));
}

#[tokio::test]
async fn private_addresses_need_configuration() {
    let endpoint = |url: &str| Endpoint::configured(url).unwrap();
    for url in ["https://10.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/", "https://0.0.0.0/"] {
        assert!(matches!(fetcher().get(&endpoint(url)).await, Err(FetchError::AddressRefused)), "{url}");
    }
    let named = Fetcher::new(FetchConfig {
        private_hosts: vec!["sso.corp.example".to_owned(), "fd00::1".to_owned()],
        authorities: vec![],
    })
    .unwrap();
    let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 443);
    let corp = endpoint("https://SSO.corp.example/");
    assert!(named.allows(&corp, address("10.0.0.1")) && named.allows(&corp, address("127.0.0.1")));
    assert!(!named.allows(&corp, address("169.254.169.254")) && !named.allows(&corp, address("::")));
    assert!(named.allows(&endpoint("https://[fd00::1]/"), address("fd00::1")));
    assert!(!named.allows(&endpoint("https://other.example/"), address("10.0.0.1")));
}

#[test]
fn endpoint_is_https_or_loopback() {
    for good in [
        "https://a.example",
        "https://a.example:8443/k?x=y",
        "http://localhost:1/",
        "http://127.0.0.2/",
        "http://[::1]:9/",
    ] {
        assert!(Endpoint::configured(good).is_ok(), "{good}");
    }
    for (url, error) in [
        ("http://a.example/", EndpointError::NotHttps),
        ("http://localhost.example/", EndpointError::NotHttps),
        ("http://10.0.0.1/", EndpointError::NotHttps),
        ("https://user:secret@a.example/", EndpointError::Credentials),
        ("https://a.example/#x", EndpointError::NotAUrl),
        ("file:///etc/passwd", EndpointError::NotAUrl),
        ("ftp://a.example/", EndpointError::NotAUrl),
        ("/keys", EndpointError::NotAUrl),
        ("https://[::1/", EndpointError::NotAUrl),
        ("", EndpointError::NotAUrl),
    ] {
        assert_eq!(Endpoint::configured(url), Err(error), "{url}");
    }
}

#[test]
fn document_cannot_name_this_machine() {
    let outside = Endpoint::configured("https://sso.example/").unwrap();
    assert!(outside.discovered("https://keys.example/jwks").is_ok());
    assert_eq!(outside.discovered("http://127.0.0.1/"), Err(EndpointError::NotHttps));
    assert_eq!(outside.discovered("http://keys.example/"), Err(EndpointError::NotHttps));
    let inside = outside.discovered("https://localhost:9/").unwrap();
    assert!(!fetcher().allows(&inside, "127.0.0.1:9".parse().unwrap()));
    let own = Endpoint::configured("http://localhost:1/").unwrap();
    assert!(fetcher().allows(&own.discovered("http://127.0.0.1:2/").unwrap(), "127.0.0.1:2".parse().unwrap()));
}
