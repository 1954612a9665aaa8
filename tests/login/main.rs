//! People log in over real sockets: at a provider that a test plays, and at a real one.

mod backchannel;
mod browser;
mod cookie;
mod fake_provider;
mod flow;
mod hostile;
mod id_tokens;
mod oidc_provider;
mod restart;
mod subpath;
mod test_env;
