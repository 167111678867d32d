//! Pauses before a camera is tried again. Cameras behind one switch do not all come back in the same
//! instant.

use std::time::Duration;

pub use crate::backoff::{Backoff, SETTLED, jittered};

/// Asking sooner with a password that was refused gets users locked out.
pub const AFTER_WRONG_PASSWORD: Duration = Duration::from_secs(30);
