//! HTML pages and redirects of the login, without script or style.

use http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use warp::Reply;
use warp::reply::Response;

use crate::auth::login::{Active, ReturnTo};
use crate::protocol::ErrorCode;

/// The page of a failed login: the error and what to do, but not the cause.
pub fn failed(login: &Active, code: ErrorCode, return_to: Option<&ReturnTo>) -> Response {
    let advice = match code {
        ErrorCode::LoginExpired => {
            "It took too long, was finished before, or began in another browser. Please start again."
        }
        ErrorCode::LoginRefused => "The identity provider did not let you in. If that is wrong, ask those who run it.",
        ErrorCode::LoginUnavailable => "The identity provider cannot be reached. Please try again in a minute.",
        ErrorCode::SessionTooLarge => {
            "Your account has more groups or claims than fit. Ask those who run this gateway."
        }
        ErrorCode::Malformed => "This link is damaged. Please start where you came from.",
        _ => "Please try again. If it happens again, tell those who run this gateway the code below.",
    };
    let again = match code {
        ErrorCode::Malformed | ErrorCode::NotFound => String::new(),
        _ => format!("<p><a href=\"{}\">Log in</a></p>", escape(&login_link(login, None, return_to))),
    };
    let (initial, rest) = code.title().split_at(1);
    let (initial, slug) = (initial.to_ascii_uppercase(), code.slug());
    let body = format!("<p>{initial}{rest}.</p><p>{advice}</p>{again}<p>Code: <code>{slug}</code></p>");
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = html(status, "Not logged in", &body);
    if code.is_temporary() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response.extensions_mut().insert(code);
    response
}

/// The page to choose a provider.
pub fn choice(login: &Active, return_to: &ReturnTo) -> Response {
    let links = login.providers().iter().map(|provider| {
        let link = login_link(login, Some(&provider.name), Some(return_to));
        format!("<li><a href=\"{}\">{}</a></li>", escape(&link), escape(&provider.name))
    });
    html(StatusCode::OK, "Log in", &format!("<ul>{}</ul>", links.collect::<String>()))
}

pub fn logged_out() -> Response {
    html(StatusCode::OK, "Logged out", "<p>You can close this page.</p>")
}

/// A redirect that a browser follows with GET (RFC 9110 section 15.4.4).
pub fn redirect(login: &Active, to: &str) -> Response {
    let mut response = html(StatusCode::SEE_OTHER, "Go on", "");
    match HeaderValue::try_from(to) {
        Ok(location) => response.headers_mut().insert(header::LOCATION, location),
        Err(_) => return failed(login, ErrorCode::Internal, None),
    };
    response
}

fn login_link(login: &Active, provider: Option<&str>, return_to: Option<&ReturnTo>) -> String {
    let mut query = oauth2::url::form_urlencoded::Serializer::new(String::new());
    if let Some(provider) = provider {
        query.append_pair("provider", provider);
    }
    if let Some(return_to) = return_to {
        query.append_pair("return_to", return_to.as_str());
    }
    let path = login.path();
    match query.finish() {
        query if query.is_empty() => format!("{path}/v1/auth/login"),
        query => format!("{path}/v1/auth/login?{query}"),
    }
}

/// `body` is markup, `title` is not.
fn html(status: StatusCode, title: &str, body: &str) -> Response {
    let title = escape(title);
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><h1>{title}</h1>{body}</body></html>\n"
    );
    let mut response = HttpResponse::new(page).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
