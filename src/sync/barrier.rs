//! [`Barrier`]: two barriers that meet, of which one costs nothing.
//!
//! Who stores here and then looks there, and who stores there and then looks here, need a barrier each in between, so that
//! not both miss what the other stored. Where one of them is seldom, the system can issue both: `membarrier` makes every
//! thread of the process that is running pass a full barrier before it returns, and a thread that is not running has passed
//! one when it was stopped. Then the frequent side needs to keep only the compiler from changing the order. (Linux 4.14; on
//! Windows that is `FlushProcessWriteBuffers`.) Where there is no such call, both sides use a fence.
//!
//! The idea is that of `sys_membarrier` by Mathieu Desnoyers, and of the asymmetric fences of the C++ proposal P1202.
#![allow(unsafe_code, reason = "one system call")]

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence, fence};

/// A pair of barriers. Which kind is chosen once: the two of a pair are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    is_asymmetric: bool,
}

impl Barrier {
    /// The best that the system has, which is asked once for each process.
    pub(crate) fn best() -> Self {
        static IS_ASYMMETRIC: OnceLock<bool> = OnceLock::new();
        Self { is_asymmetric: *IS_ASYMMETRIC.get_or_init(system::is_there) }
    }

    /// For the frequent side.
    #[inline(always)]
    pub(crate) fn light(self) {
        // SeqCst, both: what is stored before comes before what is loaded after, for everybody who is in `heavy`.
        if self.is_asymmetric { compiler_fence(Ordering::SeqCst) } else { fence(Ordering::SeqCst) }
    }

    /// For the other side. `false`: the system refused, and nothing was ordered.
    #[must_use]
    pub(crate) fn heavy(self) -> bool {
        // SeqCst: as above. Also where the system does the rest, since its own is for the other threads.
        fence(Ordering::SeqCst);
        let has_passed = !self.is_asymmetric || system::pass();
        // SeqCst: what the caller looks at next is loaded after the call. That keeps the machine to it; the compiler is not told
        // what the call does.
        compiler_fence(Ordering::SeqCst);
        has_passed
    }
}

/// Not for Android, whose filters may end a process that asks.
#[cfg(target_os = "linux")]
mod system {
    /// Registers the process, which has to come first. Refused by kernels before 4.14, by a filter of system calls, and where
    /// a tool stands in for the kernel that does not know it.
    pub(super) fn is_there() -> bool {
        register() && pass()
    }

    pub(super) fn pass() -> bool {
        let expedited = || membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // A process that was put away and brought back may have lost its registration.
        expedited() || (register() && expedited())
    }

    fn register() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: it takes two numbers (and a third that is for other commands), and touches no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(windows)]
mod system {
    use windows_sys::Win32::System::Threading::FlushProcessWriteBuffers;

    pub(super) fn is_there() -> bool {
        true
    }

    pub(super) fn pass() -> bool {
        // SAFETY: it takes nothing, touches no memory of ours, and cannot fail.
        unsafe { FlushProcessWriteBuffers() };
        true
    }
}

#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    pub(super) fn is_there() -> bool {
        false
    }

    pub(super) fn pass() -> bool {
        false
    }
}
