//! Sessions end where the knowledge of their end is kept: in the process, the store, or Redis.

use std::path::Path;

use serde_json::json;
use test_support::{RedisServer, TempDir, free_port, unix_now};

use crate::backchannel::{post_logout_token, token};
use crate::browser::Browser;
use crate::fake_provider::Provider;
use crate::test_env::{LoginEnv, closed};

/// A seal key that all gateways of a test have, and an engine.
fn login(keys: &TempDir, engine: &str) -> String {
    let file = keys.path().join("session.key");
    if !file.exists() {
        keys.write("session.key", &lastmile::auth::seal::SealKey::generate().unwrap().to_text());
    }
    format!("seal_keys = [{file:?}]\n[engine]\n{engine}\n")
}

async fn logged_in(provider: &Provider, env: &LoginEnv, subject: &str, session: &str) -> Browser {
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({"sub": subject, "sid": session})).await;
    assert_eq!(status(&browser, env).await, 200);
    browser
}

/// Presents the cookie to a gateway, and keeps it whatever the answer.
async fn status(browser: &Browser, env: &LoginEnv) -> u16 {
    let mut copy = Browser { url: env.url.clone(), cookies: browser.cookies.clone() };
    copy.get("/v1/auth/session").await.status.as_u16()
}

async fn log_out(browser: &Browser, env: &LoginEnv) {
    let mut copy = browser.clone();
    assert_eq!(copy.send("POST", "/v1/auth/logout", &[("origin", &env.url)], "").await.status, 200);
    assert_eq!(status(browser, env).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_ends_sessions_with_the_process() {
    let (provider, keys, port) = (Provider::start().await, TempDir::new(), free_port());
    let login = login(&keys, "kind = \"memory\"");
    let env = LoginEnv::at(port, &provider.toml("company"), &login).await;
    let (open, ended) =
        (logged_in(&provider, &env, "alice", "s1").await, logged_in(&provider, &env, "bob", "s2").await);
    let mut pending = Browser::new(&env.url);
    let begun = pending.begin("").await;
    log_out(&ended, &env).await;
    env.base.gateway.stop().await;
    let env = LoginEnv::at(port, &provider.toml("company"), &login).await;
    assert_eq!((status(&open, &env).await, status(&ended, &env).await), (401, 401));
    let answer = pending.get(&format!("/v1/auth/callback?state={}&code=c", begun.state)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(pending.session(), None);
}

/// Logs out in each way, restarts, and looks whether the logouts hold.
async fn logouts_hold(engine: &str, store: Option<&Path>) {
    let (provider, keys, port) = (Provider::start().await, TempDir::new(), free_port());
    let login = login(&keys, engine);
    let mut env = LoginEnv::at(port, &provider.toml("company"), &login).await;
    let open = logged_in(&provider, &env, "alice", "s1").await;
    let by_user = logged_in(&provider, &env, "bob", "s2").await;
    let by_session = logged_in(&provider, &env, "carol", "s3").await;
    let by_subject = logged_in(&provider, &env, "dave", "s4").await;
    log_out(&by_user, &env).await;
    let logout_tokens =
        [json!({"sid": "s3", "sub": null}), json!({"sid": null, "sub": "dave"})].map(|change| token(&provider, change));
    for logout_token in &logout_tokens {
        assert_eq!(post_logout_token(&env, logout_token).await.status, 200);
    }
    for restart in 0..2 {
        env.base.gateway.stop().await;
        if let Some(store) = store {
            closed(store).await;
        }
        env = LoginEnv::at(port, &provider.toml("company"), &login).await;
        assert_eq!(status(&open, &env).await, 200, "{restart}");
        for ended in [&by_user, &by_session, &by_subject] {
            assert_eq!(status(ended, &env).await, 401, "{restart}");
        }
        for logout_token in &logout_tokens {
            assert_eq!(post_logout_token(&env, logout_token).await.status, 400, "{restart}: used before");
        }
    }
    env.base.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_keeps_logouts_over_restart() {
    let folder = TempDir::new();
    let store = folder.path().join("store");
    logouts_hold(&format!("kind = \"disk\"\npath = {store:?}"), Some(&store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_logouts_over_restart() {
    let server = RedisServer::start(true);
    logouts_hold(&format!("kind = \"redis\"\nurl = {:?}", server.url()), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completed_login_stays_completed_over_restart() {
    let (provider, keys, port, folder) = (Provider::start().await, TempDir::new(), free_port(), TempDir::new());
    let store = folder.path().join("store");
    let login = login(&keys, &format!("kind = \"disk\"\npath = {store:?}"));
    let env = LoginEnv::at(port, &provider.toml("company"), &login).await;
    let mut browser = Browser::new(&env.url);
    let begun = browser.begin("").await;
    let before = browser.clone();
    let answer = provider.finish(&mut browser, &begun, json!({})).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    env.base.gateway.stop().await;
    closed(&store).await;
    let _env = LoginEnv::at(port, &provider.toml("company"), &login).await;
    // The provider of this test accepts a code more than once.
    let mut thief = before;
    let answer = provider.finish(&mut thief, &begun, json!({})).await;
    assert_eq!((answer.status.as_u16(), thief.session()), (400, None), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_of_another_deployment_is_refused() {
    let (provider, keys, folder, server) =
        (Provider::start().await, TempDir::new(), TempDir::new(), RedisServer::start(true));
    let redis = |prefix: &str| format!("kind = \"redis\"\nurl = {:?}\nprefix = {prefix:?}", server.url());
    let disk = |name: &str| format!("kind = \"disk\"\npath = {:?}", folder.path().join(name));
    let memory = || "kind = \"memory\"".to_owned();
    for engines in [[memory(), memory()], [disk("a"), disk("b")], [disk("c"), memory()], [redis("a"), redis("b")]] {
        let [here, there] = [&engines[0], &engines[1]].map(|engine| login(&keys, engine));
        let here = LoginEnv::start(&provider.toml("company"), &here).await;
        let there = LoginEnv::start(&provider.toml("company"), &there).await;
        let browser = logged_in(&provider, &here, "alice", &format!("s{}", unix_now())).await;
        assert_eq!(status(&browser, &there).await, 401, "{engines:?}");
        assert_eq!(status(&browser, &here).await, 200, "{engines:?}");
    }
    // Nodes of one Redis share sessions and logouts.
    let login = login(&keys, &redis("c"));
    let one = LoginEnv::start(&provider.toml("company"), &login).await;
    let two = LoginEnv::start(&provider.toml("company"), &login).await;
    let browser = logged_in(&provider, &one, "alice", "s").await;
    assert_eq!(status(&browser, &two).await, 200);
    log_out(&browser, &one).await;
    test_support::eventually("the logout", async || (status(&browser, &two).await == 401).then_some(())).await;
}
