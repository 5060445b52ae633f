//! [`Process`]: tells a child of `fork` from its parent.
#![allow(unsafe_code, reason = "a page that the OS clears in a child")]

/// The process in which a value was created.
///
/// A child of `fork` has only the thread that forked. A lock that another thread held at that moment stays locked in
/// the child forever. So a value that is dropped in another process than its own must not lock or wait.
///
/// The process number is not enough: in a PID namespace of its own, a child may have the number of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    id: u32,
    generation: u64,
}

impl Process {
    pub(crate) fn this() -> Self {
        Self { id: std::process::id(), generation: generation() }
    }

    pub(crate) fn is_this(self) -> bool {
        self == Self::this()
    }
}

/// Returns a number that differs between a process and each of its ancestors, or 0 if the OS offers none (Linux does
/// since 4.14).
#[cfg(target_os = "linux")]
fn generation() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The next number. A child starts at its parent's, and the parent has taken its own before.
    static NEXT: AtomicU64 = AtomicU64::new(1);

    let Some(word) = wiped_word() else { return 0 };
    // Relaxed, all: the numbers order no other access.
    match word.load(Ordering::Relaxed) {
        0 => {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|known| known, |_| next)
        }
        known => known,
    }
}

#[cfg(not(target_os = "linux"))]
fn generation() -> u64 {
    0
}

/// Returns a word that the OS sets to 0 in each child of `fork`, or `None` if the OS refuses.
#[cfg(target_os = "linux")]
fn wiped_word() -> Option<&'static std::sync::atomic::AtomicU64> {
    use std::ptr::{self, NonNull};
    use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    /// The page, null before the first call, and dangling if the OS refuses. No `OnceLock`: a thread that vanished at
    /// the fork may have been initializing it.
    static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

    let dangling = NonNull::dangling().as_ptr();
    // Relaxed, both: the OS has filled the page before any thread knows its address.
    let mut page = PAGE.load(Ordering::Relaxed);
    if page.is_null() {
        let fresh = new_wiped_page().unwrap_or(dangling);
        page = match PAGE.compare_exchange(ptr::null_mut(), fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            // Another thread was first. Its page is used, and this one is a leak of one page.
            Err(first) => first,
        };
    }
    // SAFETY: the page is never unmapped, and an atomic has no invalid value.
    (page != dangling).then(|| unsafe { &*page })
}

#[cfg(target_os = "linux")]
fn new_wiped_page() -> Option<*mut std::sync::atomic::AtomicU64> {
    let (len, protection) = (super::page_size(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address that the OS chooses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page was just mapped, and no other thread knows it.
    if unsafe { libc::madvise(page, len, libc::MADV_WIPEONFORK) } == 0 {
        return Some(page.cast());
    }
    // SAFETY: as above.
    let _ = unsafe { libc::munmap(page, len) };
    None
}
