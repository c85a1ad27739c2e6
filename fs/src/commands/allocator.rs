//! What the daemon asks of the C library's allocator.

/// Buffers from this size on are mapped, never taken from a heap. The FUSE library has two of
/// 16 MiB for each view, of which a few KiB are used: in a heap they would be cleared, and so be
/// in memory as a whole.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 1 << 20;

/// Keeps large buffers that are hardly used out of memory. Call it before other threads start.
pub(super) fn map_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two numbers that the allocator knows, and no other thread uses it yet.
    if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED) } == 0 {
        tracing::warn!("the allocator takes no threshold: each view may need 32 MiB more");
    }
}
