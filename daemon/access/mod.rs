//! Access control: tokens with a role and a list of cameras, and the daemon as one token may see it.
//!
//! An interface hands the credentials of a request to [`Gate::identify`] and gets a [`Caller`].
//! [`Caller::enter`] returns an [`Entry`] with a [`Service`](crate::service::Service) that shows only
//! the cameras of the token. An interface holds no other service, so no handler can forget a check.
//!
//! Guarantees: a token limited to some cameras cannot distinguish another camera from one that does
//! not exist. The streams of a token end within two seconds after it was revoked or expired.

mod audit;
mod denied;
mod failures;
mod filtered;
mod filtered_journal;
mod gate;
mod known;
mod store;
mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use audit::Audit;
pub use denied::Denied;
pub use gate::{Caller, Entry, Gate};
pub use known::Tokens;
pub use store::{NewToken, StoreError, StoredToken, TokenStore};
pub use token::bearer;

/// The rights of a token. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees cameras, events, frames, clips, live video, rules and alerts.
    View,
    /// Asks questions, tries rules, and acknowledges and keeps events, too.
    Ask,
    /// Deletes events, reloads the config and changes cameras, too.
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::View => "view",
            Role::Ask => "ask",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        [Role::View, Role::Ask, Role::Admin]
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| format!("{text:?} is not a role; wanted view, ask or admin"))
    }
}

/// The owner of a request, and what the owner may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Name of the token.
    pub name: Arc<str>,
    pub role: Role,
    /// Names of the cameras that are visible, or `None` for all.
    pub cameras: Option<BTreeSet<String>>,
}

impl Access {
    /// Returns true if the camera is visible.
    pub fn sees(&self, camera: &str) -> bool {
        self.cameras.as_ref().is_none_or(|cameras| cameras.contains(camera))
    }

    /// Limits the cameras that a request names; none means all. Returns `None` if no camera is left.
    fn limit(&self, named: Vec<String>) -> Option<Vec<String>> {
        let Some(visible) = &self.cameras else { return Some(named) };
        let left: Vec<String> = if named.is_empty() {
            visible.iter().cloned().collect()
        } else {
            named.into_iter().filter(|camera| visible.contains(camera)).collect()
        };
        (!left.is_empty()).then_some(left)
    }
}
