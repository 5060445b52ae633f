//! The signals of a new thread.
#![allow(unsafe_code, reason = "signal masks, which std does not offer")]

/// Calls `start`, which starts a thread. The new thread blocks all signals, so the OS delivers each signal of the
/// process to a thread of the program.
#[cfg(unix)]
pub(crate) fn with_signals_blocked<R>(start: impl FnOnce() -> R) -> R {
    use std::mem::MaybeUninit;
    use std::ptr;

    /// The mask of this thread, which the drop restores.
    struct Restore(libc::sigset_t);

    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: reads the set, which `pthread_sigmask` has written.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
        }
    }

    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: writes one set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set that was just written, and writes one set.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: if the call succeeded, it has written the set.
    let _restore = (result == 0).then(|| Restore(unsafe { before.assume_init() }));
    start()
}

/// Calls `start`: this OS has no signals.
#[cfg(not(unix))]
pub(crate) fn with_signals_blocked<R>(start: impl FnOnce() -> R) -> R {
    start()
}
