//! A browser during a login: cookies, redirects, forms. One cookie jar, because ports of a host share theirs.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use lastmile::transport::config::Address;
use oauth2::url::Url;
use test_support::http::send;
use test_support::{Answer, Ws};

#[derive(Clone, Default)]
pub struct Browser {
    pub url: String,
    pub cookies: BTreeMap<String, String>,
}

/// A begun login: the parameters of the redirect to the provider.
#[derive(Clone, Debug)]
pub struct Begun {
    pub location: Url,
    pub state: String,
    pub nonce: String,
    /// The cookie that was set for it.
    pub cookie: String,
}

impl Browser {
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), cookies: BTreeMap::new() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// `to` is a path of the gateway or a whole URL.
    pub async fn send(&mut self, method: &str, to: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let to = if to.starts_with('/') { format!("{}{to}", self.url) } else { to.to_owned() };
        let url = Url::parse(&to).unwrap();
        let path = &url[oauth2::url::Position::BeforePath..oauth2::url::Position::AfterQuery];
        let authority = &url[oauth2::url::Position::BeforeHost..oauth2::url::Position::AfterPort];
        let mut request = Request::builder().method(method).uri(path).header("host", authority);
        if !self.cookies.is_empty() {
            request = request.header("cookie", self.cookie_header());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let address = Address::Tcp(authority.parse().unwrap());
        let answer = send(&address, request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).await;
        self.keep(&answer);
        answer
    }

    pub fn cookie_header(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub fn session(&self) -> Option<&str> {
        self.cookies.get("lastmile").map(String::as_str)
    }

    /// Upgrades as a page of `origin` would.
    pub async fn subscribe(&mut self, origin: Option<&str>) -> Result<Ws, Answer> {
        let authority = self.url.trim_start_matches("http://").to_owned();
        let cookies = self.cookie_header();
        let mut headers = vec![("sec-websocket-protocol", "lastmile.v1"), ("cookie", cookies.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let upgraded =
            Ws::open(&Address::Tcp(authority.parse().unwrap()), Ws::request(&authority, "/v1/subscribe", &headers))
                .await;
        match &upgraded {
            Ok(ws) => self.keep(&ws.answer),
            Err(answer) => self.keep(answer),
        }
        upgraded
    }

    /// The same from the gateway's own page; gives the connection after its `welcome`.
    pub async fn live(&mut self) -> Ws {
        let url = self.url.clone();
        let mut ws = self.subscribe(Some(&url)).await.expect("an upgrade");
        ws.expect("welcome").await;
        ws
    }

    pub async fn begin(&mut self, query: &str) -> Begun {
        let before = self.cookies.clone();
        let answer = self.get(&format!("/v1/auth/login{query}")).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let location = Url::parse(answer.header("location")).unwrap();
        let cookie = self.cookies.keys().find(|name| !before.contains_key(*name)).expect("a cookie").clone();
        Begun { state: parameter(&location, "state"), nonce: parameter(&location, "nonce"), location, cookie }
    }

    /// Comes back as the provider would send it.
    pub async fn callback(&mut self, parameters: &[(&str, &str)]) -> Answer {
        let mut query = oauth2::url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        self.get(&format!("/v1/auth/callback?{}", query.finish())).await
    }

    /// Goes wherever it is led, and fills in the forms of a real provider for `person`.
    pub async fn log_in_as(&mut self, person: &str, query: &str) -> Answer {
        let mut answer = self.get(&format!("/v1/auth/login{query}")).await;
        let mut at = self.url.clone();
        for _ in 0..12 {
            if answer.status.is_redirection() {
                let next = Url::parse(&at).unwrap().join(answer.header("location")).unwrap();
                let is_back = next.as_str().starts_with(&self.url) && next.path() != "/v1/auth/callback";
                if is_back || next.as_str().starts_with("http://127.0.0.1:9/") {
                    return answer;
                }
                at = next.to_string();
                answer = self.send("GET", &at, &[], "").await;
            } else if let Some((action, body)) = form(answer.text(), person) {
                at = Url::parse(&at).unwrap().join(&action).unwrap().to_string();
                answer = self.send("POST", &at, &[("content-type", "application/x-www-form-urlencoded")], &body).await;
            } else {
                return answer;
            }
        }
        panic!("led in circles: {answer:?}");
    }

    fn keep(&mut self, answer: &Answer) {
        for value in answer.headers.get_all("set-cookie") {
            let text = value.to_str().unwrap();
            let mut parts = text.split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            let is_gone = parts
                .any(|part| part == "Max-Age=0" || part.to_ascii_lowercase().starts_with("expires=thu, 01 jan 1970"));
            if is_gone || value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

pub fn parameter(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("no {name} in {url}"))
}

/// Action and content of a form of the provider's development pages.
fn form(html: &str, person: &str) -> Option<(String, String)> {
    let form = html.split("<form").nth(1)?.split("</form>").next()?;
    let action = form.split("action=\"").nth(1)?.split('"').next()?.to_owned();
    let hidden = |name: &str| {
        let input = form.split("<input").find(|input| input.contains(&format!("name=\"{name}\"")))?;
        Some(input.split("value=\"").nth(1)?.split('"').next()?.to_owned())
    };
    let mut body = oauth2::url::form_urlencoded::Serializer::new(String::new());
    for name in ["prompt", "xsrf"] {
        if let Some(value) = hidden(name) {
            body.append_pair(name, &value);
        }
    }
    match hidden("xsrf") {
        Some(_) => body.append_pair("logout", "yes"),
        None => body.append_pair("login", person).append_pair("password", "x"),
    };
    Some((action, body.finish()))
}
