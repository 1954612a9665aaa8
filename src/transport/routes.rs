//! Every URL of the gateway on one screen, as a warp filter chain.
//!
//! A filter matches role, path and method; everything else, authentication first, is decided by the handler that
//! then answers for good, so that a refusal never falls through to another route.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::Method;
use hyper::upgrade::OnUpgrade;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::compat::{channelserver, flock, heartbeat, relay, tslm};
use super::config::Role;
use super::credential::tickets;
use super::http::problem;
use super::http::request::RequestContext;
use super::state::AppState;
use super::subscribe::websocket;
use super::{control, demo, login, ops, publish, rooms, subscribe};
use crate::ops::Phase;
use crate::protocol::{ErrorCode, Refusal};

pub fn routes(app: Arc<AppState>) -> BoxedFilter<(Response,)> {
    let channel = || on(&app, Role::Publish).and(warp::path!("v1" / "channels" / String));
    let messages = on(&app, Role::Publish).and(warp::path!("v1" / "channels" / String / "messages"));

    let publish = (messages
        .and(method(Method::POST))
        .and(with(&app))
        .and(body())
        .then(|segment, call, app, body| answer(publish::message::post(app, call, segment, body))))
    .or(channel()
        .and(method(Method::PUT))
        .and(with(&app))
        .and(body())
        .then(|segment, call, app, body| answer(publish::channel::put(app, call, segment, body))))
    .unify()
    .or(channel()
        .and(method(Method::GET))
        .and(with(&app))
        .and(body())
        .then(|segment, call, app, body| answer(publish::channel::get(app, call, segment, body))))
    .unify()
    .or(channel()
        .and(method(Method::DELETE))
        .and(with(&app))
        .and(body())
        .then(|segment, call, app, body| answer(publish::channel::delete(app, call, segment, body))))
    .unify()
    .or(on(&app, Role::Publish)
        .and(warp::path!("v1" / "publish"))
        .and(method(Method::GET))
        .and(with(&app))
        .and(on_upgrade())
        .and(body())
        .then(|call, app, upgrade, body| answer(publish::stream::upgrade(app, call, upgrade, body))))
    .unify()
    .boxed();

    let control = (on(&app, Role::Publish)
        .and(warp::path!("v1" / "control" / "jwks" / String))
        .and(call())
        .and(with(&app))
        .and(body())
        .then(|issuer, call, app, body| answer(control::jwks(app, call, issuer, body))))
    .or(on(&app, Role::Publish)
        .and(warp::path!("v1" / "control" / "channels"))
        .and(call())
        .and(with(&app))
        .and(body())
        .then(|call, app, body| answer(control::channels(app, call, body))))
    .unify()
    .or(on(&app, Role::Publish)
        .and(warp::path!("v1" / "control" / "revocations"))
        .and(call())
        .and(with(&app))
        .and(body())
        .then(|call, app, body| answer(control::revocations(app, call, body))))
    .unify()
    .boxed();

    let tickets = on(&app, Role::Subscribe)
        .and(warp::path!("v1" / "tickets"))
        .and(method(Method::POST))
        .and(with(&app))
        .and(body())
        .then(|call, app, body| answer(tickets::post(app, call, body)))
        .boxed();

    let subscribe = on(&app, Role::Subscribe)
        .and(warp::path!("v1" / "subscribe"))
        .and(method(Method::GET))
        .and(with(&app))
        .and(on_upgrade())
        .then(|call, app, upgrade| answer(websocket::upgrade(app, call, upgrade)))
        .or(on(&app, Role::Subscribe)
            .and(warp::path!("v1" / "events"))
            .and(method(Method::GET))
            .and(with(&app))
            .then(|call, app| answer(subscribe::events(app, call))))
        .unify()
        .or(on(&app, Role::Subscribe)
            .and(warp::path!("v1" / "poll"))
            .and(method(Method::GET))
            .and(with(&app))
            .then(|call, app| answer(subscribe::poll(app, call))))
        .unify()
        .boxed();

    let ops =
        (on(&app, Role::Ops).and(warp::path!("healthz")).and(method(Method::GET)).then(|_| async { ops::live() }))
            .or(on(&app, Role::Ops)
                .and(warp::path!("readyz"))
                .and(method(Method::GET))
                .and(with(&app))
                .then(|_, app: Arc<AppState>| async move { ops::ready(&app) }))
            .unify()
            .or(on(&app, Role::Ops)
                .and(warp::path!("metrics"))
                .and(method(Method::GET))
                .and(with(&app))
                .then(|_, app: Arc<AppState>| async move { ops::metrics(&app) }))
            .unify()
            .boxed();

    let problems = warp::path!("problems" / String)
        .and(method(Method::GET))
        .then(|slug: String, _| async move { reply(problem::describe(&slug).ok_or(ErrorCode::NotFound.into())) });

    let demo = on(&app, Role::Subscribe)
        .and(warp::path!("demo" / ..))
        .and(warp::path::tail())
        .and(method(Method::GET))
        .and(with(&app))
        .then(|tail: warp::path::Tail, _, app: Arc<AppState>| async move { reply(demo::page(&app, tail.as_str())) });

    let auth = (on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "login"))
        .and(method(Method::GET))
        .and(with(&app))
        .then(|call, app| answer(login::begin(app, call))))
    .or(on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "callback"))
        .and(method(Method::GET))
        .and(with(&app))
        .then(|call, app| answer(login::callback(app, call))))
    .unify()
    .or(on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "session"))
        .and(method(Method::GET))
        .and(with(&app))
        .then(|call, app| answer(login::session(app, call))))
    .unify()
    .or(on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "logout"))
        .and(method(Method::POST))
        .and(with(&app))
        .then(|call, app| answer(login::logout(app, call))))
    .unify()
    .or(on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "logged-out"))
        .and(method(Method::GET))
        .then(|_| login::logged_out()))
    .unify()
    .or(on(&app, Role::Login)
        .and(warp::path!("v1" / "auth" / "backchannel-logout"))
        .and(method(Method::POST))
        .and(with(&app))
        .and(body())
        .then(|call, app, body| answer(login::backchannel(app, call, body))))
    .unify()
    .boxed();

    // Paths that older clients spell to the last slash are taken apart by their handlers.
    let pair = (on(&app, Role::Pair)
        .and(warp::path!("v1" / "ws" / ..))
        .and(call())
        .and(with(&app))
        .and(on_upgrade())
        .and(body())
        .then(|call, app, upgrade, body| answer(channelserver::upgrade(app, call, upgrade, body))))
    .or(on(&app, Role::Pair)
        .and(warp::path!("v1" / "relay" / ..))
        .and(call())
        .and(with(&app))
        .and(on_upgrade())
        .and(body())
        .then(|call, app, upgrade, body| answer(relay::upgrade(app, call, upgrade, body))))
    .unify()
    .or(on(&app, Role::Pair)
        .and(warp::path!("v1" / "rooms" / ..))
        .and(call())
        .and(with(&app))
        .and(on_upgrade())
        .and(body())
        .then(|call, app, upgrade, body| answer(rooms::native::handle(app, call, upgrade, body))))
    .unify()
    .or(on(&app, Role::Pair)
        .and(warp::path!("__heartbeat__"))
        .and(call())
        .then(|call: RequestContext| async move { heartbeat::heartbeat(&call) }))
    .unify()
    .or(on(&app, Role::Pair)
        .and(warp::path!("__lbheartbeat__"))
        .and(call())
        .then(|call: RequestContext| async move { heartbeat::lbheartbeat(&call) }))
    .unify()
    .or(on(&app, Role::Pair)
        .and(warp::path!("__version__"))
        .and(call())
        .then(|call: RequestContext| async move { heartbeat::version(&call) }))
    .unify()
    .boxed();

    // The dialects own every path of their listeners.
    let relay = on(&app, Role::Relay)
        .and(call())
        .and(with(&app))
        .and(on_upgrade())
        .and(body())
        .then(|call, app, upgrade, body| answer(relay::upgrade(app, call, upgrade, body)));

    let tslm = on(&app, Role::Tslm)
        .and(method(Method::GET))
        .and(with(&app))
        .and(on_upgrade())
        .then(|call: RequestContext, app, upgrade| async move { reply(tslm::upgrade(&app, &call, upgrade)) });

    let flock =
        (on(&app, Role::Flock).and(warp::path!("ws")).and(method(Method::GET)).and(with(&app)).and(on_upgrade()).then(
            |call: RequestContext, app, upgrade| async move { reply(flock::subscribe::upgrade(&app, &call, upgrade)) },
        ))
        .or(on(&app, Role::FlockPublish)
            .and(warp::path!("api" / "v1" / "event" / ..))
            .and(call())
            .and(with(&app))
            .and(body())
            .then(|call, app, body| flock::publish::handle(app, call, body)))
        .unify()
        .boxed();

    // What comes most stands first.
    subscribe
        .or(publish)
        .unify()
        .or(control)
        .unify()
        .or(tickets)
        .unify()
        .or(auth)
        .unify()
        .or(ops)
        .unify()
        .or(pair)
        .unify()
        .or(tslm)
        .unify()
        .or(relay)
        .unify()
        .or(flock)
        .unify()
        .or(problems)
        .unify()
        .or(demo)
        .unify()
        .recover(recover)
        .unify()
        .boxed()
}

/// Lets a request through to a listener's role only; elsewhere it does not exist. A drain ends all but operators'.
fn on(app: &Arc<AppState>, role: Role) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let app = app.clone();
    warp::ext::get::<RequestContext>()
        .and_then(move |call: RequestContext| {
            let is_over = role != Role::Ops && app.lifecycle.phase() >= Phase::Draining;
            async move {
                match call.has_role(role) {
                    false => Err(warp::reject::not_found()),
                    true if is_over => Err(warp::reject::custom(Draining)),
                    true => Ok(()),
                }
            }
        })
        .untuple_one()
}

/// Hands the request on, whatever its method.
fn call() -> impl Filter<Extract = (RequestContext,), Error = Rejection> + Clone {
    warp::ext::get::<RequestContext>()
}

/// Matches a method and hands the request on.
fn method(wanted: Method) -> impl Filter<Extract = (RequestContext,), Error = Rejection> + Clone {
    warp::ext::get::<RequestContext>().and_then(move |call: RequestContext| {
        let is_wanted = call.method() == wanted.as_str();
        async move { if is_wanted { Ok(call) } else { Err(warp::reject::custom(WrongMethod)) } }
    })
}

fn with(app: &Arc<AppState>) -> impl Filter<Extract = (Arc<AppState>,), Error = Infallible> + Clone + use<> {
    let app = app.clone();
    warp::any().map(move || app.clone())
}

fn on_upgrade() -> impl Filter<Extract = (Option<OnUpgrade>,), Error = Infallible> + Clone {
    warp::ext::optional::<OnUpgrade>()
}

fn body()
-> impl Filter<Extract = (impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,), Error = Rejection> + Clone
{
    warp::body::stream()
}

/// Boxed, so that a request that waits holds what its own handler needs, and not what the largest of all would.
fn answer(handled: impl Future<Output = Result<Response, Refusal>> + Send + 'static) -> BoxFuture<'static, Response> {
    Box::pin(async { reply(handled.await) })
}

fn reply<R: Reply>(handled: Result<R, Refusal>) -> Response {
    match handled {
        Ok(response) => response.into_response(),
        Err(refusal) => problem::response(&refusal),
    }
}

/// The path matched and the method did not.
#[derive(Debug)]
struct WrongMethod;

impl warp::reject::Reject for WrongMethod {}

/// The gateway is draining.
#[derive(Debug)]
struct Draining;

impl warp::reject::Reject for Draining {}

async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let code = if rejection.find::<Draining>().is_some() {
        ErrorCode::Draining
    } else if rejection.find::<WrongMethod>().is_some() {
        ErrorCode::MethodNotAllowed
    } else {
        ErrorCode::NotFound
    };
    Ok(problem::response(&code.into()))
}
