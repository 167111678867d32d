//! TLS: the daemon's own certificate for its clients, and the certificates that its connections to
//! others, and the client's connections to the daemon, must have.
//!
//! Guarantees: no error, log line or metric contains a part of a key. Errors name the config's key or
//! the flag, the file, what is wrong with it, and where there is one, the fix.

mod explain;
mod files;
mod server;
mod validity;

pub use explain::{explained, innermost};
pub use files::{Named, authorities, checked_pem, client};
pub use server::{Protocol, ServerTls};

#[cfg(test)]
mod tests;
