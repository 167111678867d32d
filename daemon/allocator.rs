//! Keeps the memory of the process small.
//!
//! glibc's allocator has several arenas, up to eight for each core, and a thread's allocations come
//! from one of them. When a camera connects again, its new threads use other arenas than the old
//! ones, which keep what was freed. Over some connections the process would grow by a tenth.

use std::time::Duration;

/// Interval at which freed memory is returned.
const RETURNED_EVERY: Duration = Duration::from_secs(60);

/// Number of arenas.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Size in bytes from which a buffer gets pages of its own, which are returned when it is freed. By
/// default glibc raises it to the largest buffer that was freed. Small values that live long then
/// settle in what a large buffer left, and the next large buffer needs new memory.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 256 * 1024;

/// Sets the number of arenas, and keeps large buffers out of them. Arenas that exist stay, so call
/// it before threads are started.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: every thread may call it at any time; it changes numbers that are read when a thread
    // needs an arena or memory.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Returns the memory that was freed in every arena, once a minute, indefinitely.
pub async fn return_freed_memory_regularly() {
    let mut tick = tokio::time::interval(RETURNED_EVERY);
    loop {
        tick.tick().await;
        let _ = tokio::task::spawn_blocking(return_freed_memory).await;
    }
}

/// Returns the memory that was freed in every arena. Takes some milliseconds.
fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: every thread may call it at any time; it changes no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
