//! The warp filter chain: binds each endpoint of the table in `endpoints.rs` to its handler.
//!
//! A filter matches role, path and method. The handler decides everything else, authentication first, and its answer
//! is final, so a refusal never falls through to another route.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::compat::{channelserver, flock, heartbeat, relay, tslm};
use super::config::Role;
use super::credential::issue_ticket;
use super::endpoints::{self, Endpoint};
use super::http::problem;
use super::http::request::{RequestBody, RequestContext};
use super::state::AppState;
use super::subscribe::websocket;
use super::{control, demo, login, ops, publish, rooms, subscribe};
use crate::ops::Phase;
use crate::protocol::{ErrorCode, Refusal};

/// The answer of the first filter that matches.
macro_rules! first_of {
    [$first:expr $(, $next:expr)* $(,)?] => {
        $first$(.or($next).unify())*
    };
}

pub fn routes(app: Arc<AppState>) -> BoxedFilter<(Response,)> {
    let at = |endpoint| at(&app, endpoint);

    let subscribe = first_of![
        at(&endpoints::SUBSCRIBE).then(|call, app| answer(websocket::upgrade(app, call))),
        at(&endpoints::EVENTS).then(|call, app| answer(subscribe::events(app, call))),
        at(&endpoints::POLL).then(|call, app| answer(subscribe::poll(app, call))),
    ]
    .boxed();

    let publish = first_of![
        at(&endpoints::MESSAGES).and(body()).then(|call, app, body| answer(publish::message::post(app, call, body))),
        at(&endpoints::CHANNEL).and(body()).then(|call, app, body| answer(publish::channel::handle(app, call, body))),
        at(&endpoints::PUBLISH).and(body()).then(|call, app, body| answer(publish::stream::upgrade(app, call, body))),
    ]
    .boxed();

    let control = first_of![
        at(&endpoints::CONTROL_JWKS).and(body()).then(|call, app, body| answer(control::jwks(app, call, body))),
        at(&endpoints::CONTROL_CHANNELS).and(body()).then(|call, app, body| answer(control::channels(app, call, body))),
        at(&endpoints::REVOCATIONS).and(body()).then(|call, app, body| answer(control::revocations(app, call, body))),
    ]
    .boxed();

    let tickets =
        at(&endpoints::TICKETS).and(body()).then(|call, app, body| answer(issue_ticket::post(app, call, body))).boxed();

    let auth = first_of![
        at(&endpoints::LOGIN).then(|call, app| answer(login::begin(app, call))),
        at(&endpoints::LOGIN_CALLBACK).then(|call, app| answer(login::callback(app, call))),
        at(&endpoints::LOGIN_SESSION).then(|call, app| answer(login::session(app, call))),
        at(&endpoints::LOGOUT).then(|call, app| answer(login::logout(app, call))),
        at(&endpoints::LOGGED_OUT).then(|_, _| login::logged_out()),
        at(&endpoints::BACKCHANNEL_LOGOUT)
            .and(body())
            .then(|call, app, body| answer(login::backchannel(app, call, body))),
    ]
    .boxed();

    let ops = first_of![
        at(&endpoints::HEALTHZ).then(|_, _| async { ops::live() }),
        at(&endpoints::READYZ).then(|_, app: Arc<AppState>| async move { ops::ready(&app) }),
        at(&endpoints::METRICS).then(|_, app: Arc<AppState>| async move { ops::metrics(&app) }),
    ]
    .boxed();

    let pair = first_of![
        at(&endpoints::ROOMS)
            .or(at(&endpoints::ROOM))
            .unify()
            .and(body())
            .then(|call, app, body| answer(rooms::native::handle(app, call, body))),
        at(&endpoints::NEW_CHANNELSERVER)
            .or(at(&endpoints::CHANNELSERVER))
            .unify()
            .and(body())
            .then(|call, app, body| answer(channelserver::upgrade(app, call, body))),
        at(&endpoints::RELAY)
            .or(at(&endpoints::RELAY_LISTENER))
            .unify()
            .and(body())
            .then(|call, app, body| answer(relay::upgrade(app, call, body))),
        at(&endpoints::HEARTBEAT).then(|call: RequestContext, _| async move { heartbeat::heartbeat(&call) }),
        at(&endpoints::LB_HEARTBEAT).then(|call: RequestContext, _| async move { heartbeat::lbheartbeat(&call) }),
        at(&endpoints::VERSION).then(|call: RequestContext, _| async move { heartbeat::version(&call) }),
    ]
    .boxed();

    let compat = first_of![
        at(&endpoints::TSLM)
            .then(|call: RequestContext, app: Arc<AppState>| async move { reply(tslm::upgrade(&app, &call)) }),
        at(&endpoints::FLOCK).then(|call: RequestContext, app: Arc<AppState>| async move {
            reply(flock::subscribe::upgrade(&app, &call))
        }),
        at(&endpoints::FLOCK_EVENT).and(body()).then(|call, app, body| flock::publish::handle(app, call, body)),
    ]
    .boxed();

    let pages = first_of![
        at(&endpoints::PROBLEMS).then(|call: RequestContext, _| async move {
            let page = problem::describe(endpoints::PROBLEMS.parameter(call.path()));
            reply(page.ok_or(ErrorCode::NotFound.into()))
        }),
        at(&endpoints::DEMO).then(|call: RequestContext, app: Arc<AppState>| async move {
            reply(demo::page(&app, endpoints::DEMO.parameter(call.path())))
        }),
    ];

    // The most frequent requests match first.
    first_of![subscribe, publish, control, tickets, auth, ops, pair, compat, pages].recover(recover).unify().boxed()
}

/// Lets the requests of one endpoint through. Without its role on the listener the endpoint does not exist. A gateway
/// that is not ready refuses everything but the operator's requests.
fn at(
    app: &Arc<AppState>,
    endpoint: &'static Endpoint,
) -> impl Filter<Extract = (RequestContext, Arc<AppState>), Error = Rejection> + Clone + use<> {
    let app = app.clone();
    warp::ext::get::<RequestContext>()
        .and_then(move |call: RequestContext| {
            let checked = check(&app, &call, endpoint);
            let app = app.clone();
            async move { checked.map(|()| (call, app)) }
        })
        .untuple_one()
}

fn check(app: &AppState, call: &RequestContext, endpoint: &Endpoint) -> Result<(), Rejection> {
    if let Some(role) = endpoint.role {
        if !call.has_role(role) {
            return Err(warp::reject::not_found());
        }
        if role != Role::Ops && app.lifecycle.phase() != Phase::Ready {
            let is_starting = app.lifecycle.phase() == Phase::Starting;
            return Err(if is_starting { warp::reject::custom(Starting) } else { warp::reject::custom(Draining) });
        }
    }
    if !endpoint.matches(call.path()) {
        return Err(warp::reject::not_found());
    }
    if endpoint.takes_method(call.method()) { Ok(()) } else { Err(warp::reject::custom(WrongMethod)) }
}

fn body() -> impl Filter<Extract = (impl RequestBody + 'static,), Error = Rejection> + Clone {
    warp::body::stream()
}

/// Boxed, so that a waiting request takes the memory of its own handler and not of the largest one.
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

/// The gateway does not know the policy in force yet.
#[derive(Debug)]
struct Starting;

impl warp::reject::Reject for Starting {}

/// The gateway is draining.
#[derive(Debug)]
struct Draining;

impl warp::reject::Reject for Draining {}

async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let code = if rejection.find::<Starting>().is_some() {
        let detail = "this node is starting and does not know the policy in force yet, retry later";
        return Ok(problem::response(&Refusal::new(ErrorCode::EngineUnavailable, detail)));
    } else if rejection.find::<Draining>().is_some() {
        ErrorCode::Draining
    } else if rejection.find::<WrongMethod>().is_some() {
        ErrorCode::MethodNotAllowed
    } else {
        ErrorCode::NotFound
    };
    Ok(problem::response(&code.into()))
}
