//! Returns freed memory to the operating system.
//!
//! glibc's allocator has several arenas, and a thread's allocations come from one of them. When a
//! camera connects again, its new threads use other arenas than the old ones, which keep what was
//! freed. Over some connections the process would grow by a tenth.

/// Returns the memory that was freed in every arena. Takes some milliseconds.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: every thread may call it at any time; it changes no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
