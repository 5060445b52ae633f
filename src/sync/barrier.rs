//! [`Barrier`]: an asymmetric pair of memory barriers, of which the frequent one costs no instruction.
//!
//! Two threads each store to one cell and then load the other's cell. Without barriers, both may miss the other's store
//! (store buffering). Each needs a full barrier between its store and its load. If one of the two threads does so often
//! and the other seldom, the seldom one can issue both barriers: it makes the OS run a full barrier on every other
//! thread of the process.
//!
//! # Guarantee
//!
//! Let L be a call of [`light`](Barrier::light) by one thread. Let H be a call of [`heavy`](Barrier::heavy), by another
//! thread, that returned `true`. Then one of the two *comes first*. What happens before the first is visible after the
//! second:
//!
//! - **L comes first.** A load of an atomic that happens after H returns the value that was stored or loaded before L,
//!   or a value later in that atomic's modification order.
//! - **H comes first.** A load of an atomic that happens after L returns the value that was stored or loaded before H,
//!   or a value later in that atomic's modification order.
//!
//! "Before" and "after" mean *happens before*, so earlier and later steps may run on other threads. Two calls of
//! `heavy` are ordered in the same way. Two calls of `light` are not. If `heavy` returns `false`, nothing is ordered.
//!
//! # Why the guarantee holds
//!
//! *Both sides use a fence* (no support by the OS). L and H are SeqCst fences, so one comes first in the single total
//! order of all SeqCst operations. The guarantee is then the rule for two SeqCst fences in C++20 (\[atomics.order\],
//! paragraph 4), which Rust adopts.
//!
//! *The OS has the asymmetric barrier.* H is `membarrier(PRIVATE_EXPEDITED)` on Linux (4.14 or later) and
//! `FlushProcessWriteBuffers` on Windows. Before the call returns, each thread of the process that is running executes
//! a full barrier, at some point between the call and its return. A thread that is not running executes one when the OS
//! stops it and one when the OS resumes it. Call that point of L's thread X. The calling thread itself is ordered by
//! the SeqCst fence in `heavy`.
//!
//! - If L is before X in program order, L comes first. The compiler fence in L keeps the thread's earlier stores and
//!   loads before X. The full barrier at X makes them visible before H returns.
//! - If X is before L in program order, H comes first. The fence in `heavy` made the caller's earlier stores and loads
//!   visible before the call, and so before X. The compiler fence in L keeps the thread's later loads after X.
//!
//! The technique is that of `sys_membarrier` (Mathieu Desnoyers) and of the asymmetric fences of the C++ proposal
//! P1202.
#![allow(clippy::disallowed_methods, reason = "the one user of compiler fences")]
#![allow(unsafe_code, reason = "one system call")]

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence, fence};

/// A light and a heavy barrier that pair with each other. All values of one process are of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    is_asymmetric: bool,
}

impl Barrier {
    /// Returns the best pair that the OS supports. The OS is asked once for each process.
    pub(crate) fn best() -> Self {
        static IS_ASYMMETRIC: OnceLock<bool> = OnceLock::new();
        Self { is_asymmetric: *IS_ASYMMETRIC.get_or_init(system::is_supported) }
    }

    /// Issues the barrier of the frequent side.
    #[inline(always)]
    pub(crate) fn light(self) {
        // SeqCst, both: pairs with `heavy`; see the guarantee in the module documentation.
        if self.is_asymmetric { compiler_fence(Ordering::SeqCst) } else { fence(Ordering::SeqCst) }
    }

    /// Issues the barrier of the other side. Returns `false` if the OS refused it. Nothing was ordered then.
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
    /// Registers the process, which the barrier requires, and tries the barrier once. Returns `false` if one of them
    /// fails: on a kernel before 4.14, under a system-call filter, or under a tool that emulates the kernel without
    /// `membarrier`.
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
