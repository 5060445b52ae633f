//! [`Barrier`]: an asymmetric pair of memory barriers, of which the frequent one costs no instruction.
//!
//! Two threads each store to one cell and then load the other's cell. Without barriers, both may miss the other's store
//! (store buffering). Each needs a full barrier between its store and its load. If one of the two threads does so often
//! and the other seldom, the seldom one can issue both barriers: it makes the OS run a full barrier on every other
//! thread of the process.
//!
//! # Guarantee
//!
//! Let L be a call of [`light`](Barrier::light) by one thread. Let H be a call of [`heavy`](Barrier::heavy) of the same
//! [`Barrier`], or of a copy of it, by another thread, that returned `true`. Then one of the two *comes first*: a load
//! of an atomic that happens after the second one returns the value that was stored or loaded before the first one, or
//! a value later in that atomic's modification order.
//!
//! "Before" and "after" mean *happens before*, so earlier and later steps may run on other threads. Two calls of
//! `heavy` are ordered in the same way. Two calls of `light` are not. If `heavy` returns `false`, nothing is ordered.
//! `docs/soundness.md` states why the guarantee holds.
#![allow(clippy::disallowed_methods, reason = "the one user of compiler fences")]
#![allow(unsafe_code, reason = "one system call")]

use std::sync::atomic::{Ordering, compiler_fence, fence};

/// A light and a heavy barrier. Only a value and its copies pair with each other: two calls of [`best`](Self::best) may
/// return different kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    is_asymmetric: bool,
}

impl Barrier {
    /// Returns the best pair that the OS supports now. Asks the OS each time: a system-call filter that is installed
    /// later may refuse what the OS offered before.
    pub(crate) fn best() -> Self {
        Self { is_asymmetric: system::is_supported() }
    }

    /// Issues the barrier of the frequent side.
    #[inline(always)]
    pub(crate) fn light(self) {
        // SeqCst, both: pairs with `heavy`; see the guarantee in the module documentation.
        if self.is_asymmetric { compiler_fence(Ordering::SeqCst) } else { fence(Ordering::SeqCst) }
    }

    /// Issues the barrier of the other side. Returns `false` if the OS refused it.
    #[must_use]
    pub(crate) fn heavy(self) -> bool {
        // SeqCst: pairs with `light` if that is a fence. If not, it orders the calling thread before the call to the
        // OS, which orders the other threads.
        fence(Ordering::SeqCst);
        let was_issued = !self.is_asymmetric || system::fence_all_threads();
        // SeqCst: keeps the compiler from moving the caller's later loads before the call. The OS keeps the CPU from
        // it.
        compiler_fence(Ordering::SeqCst);
        was_issued
    }
}

/// `membarrier`. Not used on Android, where a seccomp filter may kill the process for an unknown system call.
#[cfg(target_os = "linux")]
mod system {
    /// Registers the process, which the barrier requires, and tries the barrier once. Fails on a kernel before 4.14,
    /// under a system-call filter, or under a tool that emulates the kernel without `membarrier`.
    pub(super) fn is_supported() -> bool {
        register() && fence_all_threads()
    }

    pub(super) fn fence_all_threads() -> bool {
        let expedited = || membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // Checkpoint and restore of the process may have lost its registration.
        expedited() || (register() && expedited())
    }

    fn register() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes three numbers (the third is for other commands) and accesses no memory of the process.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(windows)]
mod system {
    use windows_sys::Win32::System::Threading::FlushProcessWriteBuffers;

    pub(super) fn is_supported() -> bool {
        true
    }

    pub(super) fn fence_all_threads() -> bool {
        // SAFETY: the call takes no argument, accesses no memory of the process, and cannot fail.
        unsafe { FlushProcessWriteBuffers() };
        true
    }
}

#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    pub(super) fn is_supported() -> bool {
        false
    }

    pub(super) fn fence_all_threads() -> bool {
        false
    }
}
