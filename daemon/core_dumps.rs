//! Switches core dumps of the process off, because its memory contains passwords, keys and images.
//!
//! The limit also keeps systemd-coredump from storing one. A debugger that starts the daemon works
//! as before.

/// Sets the limit of a core dump's size to 0, which nothing in the process can raise again.
pub fn switch_off() {
    if let Err(error) = rlimit::Resource::CORE.set(0, 0) {
        tracing::warn!("cannot switch core dumps off: {error}");
    }
}
