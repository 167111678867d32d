//! Converts between the daemon's values and protobuf: [`encode`] for the server, [`decode`] for
//! clients.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod search;
#[cfg(test)]
mod tests;
