//! Every URL of the gateway in one table: methods, path, role, ticket purpose and CORS.

use serde::{Deserialize, Serialize};

use super::config::Role;

/// One path and the requests that it accepts.
#[derive(Debug)]
pub struct Endpoint {
    /// Parameters stand as `{name}`; each is one segment.
    pub path: &'static str,
    pub methods: &'static [&'static str],
    /// The role that the listener needs; `None` if every listener answers.
    pub role: Option<Role>,
    /// The tickets that are accepted.
    pub ticket: Option<TicketPurpose>,
    /// Pages of other origins may send requests by `fetch` or `EventSource`.
    pub has_cors: bool,
    /// The parameter is the rest of the path, which may be empty.
    takes_rest: bool,
    /// The handler refuses other methods, because it checks something else first.
    checks_method_itself: bool,
}

/// The endpoints at which a ticket is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketPurpose {
    #[default]
    Subscribe,
    Events,
    Poll,
    Rooms,
}

macro_rules! endpoints {
    ($($name:ident = $endpoint:expr;)+) => {
        $(pub static $name: Endpoint = $endpoint;)+
        pub static ENDPOINTS: &[&Endpoint] = &[$(&$name),+];
    };
}

const GET: &[&str] = &["GET"];
const POST: &[&str] = &["POST"];

// The most frequent stand first; the older protocols that own all paths of their listeners stand last.
endpoints! {
    SUBSCRIBE         = on(Role::Subscribe, GET, "/v1/subscribe").ticket(TicketPurpose::Subscribe);
    EVENTS            = on(Role::Subscribe, GET, "/v1/events").ticket(TicketPurpose::Events).cors();
    POLL              = on(Role::Subscribe, GET, "/v1/poll").ticket(TicketPurpose::Poll).cors();
    TICKETS           = on(Role::Subscribe, POST, "/v1/tickets").cors();

    MESSAGES          = on(Role::Publish, POST, "/v1/channels/{channel}/messages");
    CHANNEL           = on(Role::Publish, &["PUT", "GET", "DELETE"], "/v1/channels/{channel}");
    PUBLISH           = on(Role::Publish, GET, "/v1/publish");
    CONTROL_JWKS      = on(Role::Publish, &["PUT"], "/v1/control/jwks/{issuer}").checks_method_itself();
    CONTROL_CHANNELS  = on(Role::Publish, &["PUT", "GET", "DELETE"], "/v1/control/channels").checks_method_itself();
    REVOCATIONS       = on(Role::Publish, &["POST", "GET"], "/v1/control/revocations").checks_method_itself();

    LOGIN             = on(Role::Login, GET, "/v1/auth/login");
    LOGIN_CALLBACK    = on(Role::Login, GET, "/v1/auth/callback");
    LOGIN_SESSION     = on(Role::Login, GET, "/v1/auth/session").cors();
    LOGOUT            = on(Role::Login, POST, "/v1/auth/logout");
    LOGGED_OUT        = on(Role::Login, GET, "/v1/auth/logged-out");
    BACKCHANNEL_LOGOUT = on(Role::Login, POST, "/v1/auth/backchannel-logout");

    HEALTHZ           = on(Role::Ops, GET, "/healthz");
    READYZ            = on(Role::Ops, GET, "/readyz");
    METRICS           = on(Role::Ops, GET, "/metrics");

    ROOMS             = on(Role::Pair, &["GET", "POST"], "/v1/rooms")
                            .ticket(TicketPurpose::Rooms).cors().checks_method_itself();
    ROOM              = on(Role::Pair, GET, "/v1/rooms/{room}").ticket(TicketPurpose::Rooms).checks_method_itself();
    NEW_CHANNELSERVER = on(Role::Pair, GET, "/v1/ws/").checks_method_itself();
    CHANNELSERVER     = on(Role::Pair, GET, "/v1/ws/{id}").checks_method_itself();
    RELAY             = on(Role::Pair, GET, "/v1/relay/{id}").checks_method_itself();
    HEARTBEAT         = on(Role::Pair, GET, "/__heartbeat__").checks_method_itself();
    LB_HEARTBEAT      = on(Role::Pair, GET, "/__lbheartbeat__").checks_method_itself();
    VERSION           = on(Role::Pair, GET, "/__version__").checks_method_itself();

    FLOCK             = on(Role::Flock, GET, "/ws");
    FLOCK_EVENT       = on(Role::FlockPublish, POST, "/api/v1/event/{topic}").takes_rest().checks_method_itself();

    PROBLEMS          = on_every_listener(GET, "/problems/{name}");
    DEMO              = on(Role::Subscribe, GET, "/demo/{file}").takes_rest();

    TSLM              = on(Role::Tslm, GET, "/{any}").takes_rest();
    RELAY_LISTENER    = on(Role::Relay, GET, "/{id}").takes_rest().checks_method_itself();
}

/// The endpoint of a path, for every listener.
pub fn find(path: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().copied().find(|endpoint| endpoint.matches(path))
}

impl Endpoint {
    /// Whether a request's path is this one. A slash at its end is accepted.
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for expected in self.path.split('/') {
            let is_parameter = expected.starts_with('{');
            match segments.next() {
                _ if is_parameter && self.takes_rest => return true,
                Some("") if is_parameter => return false,
                Some(segment) if is_parameter || segment == expected => {}
                _ => return false,
            }
        }
        matches!((segments.next(), segments.next()), (None | Some(""), None))
    }

    /// Whether requests with this method go to the handler.
    pub fn takes_method(&self, method: &str) -> bool {
        self.checks_method_itself || self.methods.contains(&method)
    }

    /// The parameter in the path of a request that matches, percent-encoded as it was sent.
    pub fn parameter<'a>(&self, path: &'a str) -> &'a str {
        let before = self.path.find('{').unwrap_or(self.path.len());
        let rest = path.get(before..).unwrap_or("");
        if self.takes_rest { rest } else { rest.split('/').next().unwrap_or("") }
    }

    const fn ticket(mut self, purpose: TicketPurpose) -> Self {
        self.ticket = Some(purpose);
        self
    }

    const fn cors(mut self) -> Self {
        self.has_cors = true;
        self
    }

    const fn takes_rest(mut self) -> Self {
        self.takes_rest = true;
        self
    }

    const fn checks_method_itself(mut self) -> Self {
        self.checks_method_itself = true;
        self
    }
}

const fn on(role: Role, methods: &'static [&'static str], path: &'static str) -> Endpoint {
    Endpoint { role: Some(role), ..on_every_listener(methods, path) }
}

const fn on_every_listener(methods: &'static [&'static str], path: &'static str) -> Endpoint {
    Endpoint {
        path,
        methods,
        role: None,
        ticket: None,
        has_cors: false,
        takes_rest: false,
        checks_method_itself: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_by_segment() {
        let path_of = |path: &str| find(path).map(|endpoint| endpoint.path);
        assert_eq!(path_of("/v1/channels/a%2Fb/messages"), Some(MESSAGES.path));
        assert_eq!(path_of("/v1/channels/a"), Some(CHANNEL.path));
        assert_eq!(path_of("/v1/poll/"), Some(POLL.path));
        assert_eq!(path_of("/v1/ws/"), Some(NEW_CHANNELSERVER.path));
        assert_eq!(path_of("/v1/ws/a"), Some(CHANNELSERVER.path));
        assert_eq!(path_of("/demo"), Some(DEMO.path));
        assert!(FLOCK_EVENT.matches("/api/v1/event/a/b") && FLOCK_EVENT.matches("/api/v1/event"));
        for path in ["/v1/channels//messages", "/v1/channels/a/b", "/v1/poll//", "//v1/poll", "/v1/ws", "/v1"] {
            assert_eq!(path_of(path), Some(TSLM.path), "{path}");
        }
    }

    #[test]
    fn parameter_is_segment_or_rest() {
        assert_eq!(MESSAGES.parameter("/v1/channels/a%2Fb/messages"), "a%2Fb");
        assert_eq!(CHANNEL.parameter("/v1/channels/a/"), "a");
        assert_eq!(DEMO.parameter("/demo"), "");
        assert_eq!(DEMO.parameter("/demo/page.js"), "page.js");
    }
}
