//! The role `login`: login at an identity provider, with a sealed session cookie.

mod backchannel;
mod begin;
mod callback;
mod logout;
mod page;
mod query;
mod session;

pub use backchannel::backchannel;
pub use begin::begin;
pub use callback::callback;
pub use logout::{logged_out, logout};
pub use session::session;

use std::sync::Arc;

use super::state::AppState;
use crate::auth::login::Active;
use crate::protocol::ErrorCode;

/// The login, if one is configured; otherwise its URLs answer 404.
fn active(app: &AppState) -> Result<Arc<Active>, ErrorCode> {
    app.login.active().ok_or(ErrorCode::NotFound)
}
