//! The role `login`: people log in at their identity provider and carry a sealed cookie from then on.

mod backchannel;
mod begin;
mod callback;
pub mod cookies;
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

/// The login, if people can log in here; elsewhere its URLs do not exist.
fn active(app: &AppState) -> Result<Arc<Active>, ErrorCode> {
    app.login.active().ok_or(ErrorCode::NotFound)
}
