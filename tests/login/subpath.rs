//! A gateway that a proxy mounts under a path: `public_url`.

use serde_json::json;

use crate::browser::{Browser, parameter};
use crate::fake_provider::Provider;
use crate::test_env::LoginEnv;
use test_support::free_port;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_stays_below_its_path() {
    let (provider, port) = (Provider::start().await, free_port());
    let url = format!("http://127.0.0.1:{port}/live");
    let env = LoginEnv::mounted_at(port, &url, &provider.toml("company")).await;
    let mut browser = Browser::new(&url);
    let begun = browser.begin("").await;
    assert_eq!(parameter(&begun.location, "redirect_uri"), format!("{url}/v1/auth/callback"));
    let answer = provider.finish(&mut browser, &begun, json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/live/"), "{answer:?}");
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(!cookies.is_empty() && cookies.iter().all(|cookie| cookie.contains("; Path=/live/;")), "{cookies:?}");
    assert_eq!(browser.get("/v1/auth/session").await.json()["principal"], "alice");
    // A proxy may remove the path, or change the host.
    browser.url = env.url.clone();
    assert_eq!(browser.get("/v1/auth/session").await.json()["principal"], "alice");
    assert_eq!(browser.get("/v1/auth/login?return_to=/live/v1/auth/login").await.status, 400);
    // The page's origin is that of the public URL.
    browser.url.clone_from(&url);
    let from_page = [("origin", env.url.as_str()), ("accept", "text/html")];
    let foreign = [("origin", "http://rebind.evil"), ("accept", "text/html")];
    assert_eq!(browser.send("POST", "/v1/auth/logout", &foreign, "").await.status, 403);
    let answer = browser.send("POST", "/v1/auth/logout", &from_page, "").await;
    assert_eq!(answer.status, 303);
    assert!(
        answer.header("location").ends_with("live%2Fv1%2Fauth%2Flogged-out")
            || answer.header("location") == "/live/v1/auth/logged-out",
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_below_a_path_are_secure() {
    let (provider, port) = (Provider::start().await, free_port());
    let env = LoginEnv::mounted_at(port, "https://example.com/a/b", &provider.toml("company")).await;
    let mut browser = Browser::new(&env.url);
    let answer = browser.get("/v1/auth/login").await;
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Secure-lastmile-login-") && cookie.contains("; Path=/a/b/;"), "{cookie}");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
}
