//! What becomes of a SIGBUS: a hole in one of our mappings is filled with zeros, and whoever met it goes on; all else goes to
//! whoever was there before.
//!
//! What runs in the handler is async-signal-safe: loads and exchanges of atomics, calls that POSIX lists as such, and beside
//! them `mmap` and `munmap`, which are bare system calls on every system that is supported. The crates that chain handlers
//! (signal-hook) leave the default action out, and here that has to be as it was: a fault that is not ours ends the process.
#![allow(unsafe_code, reason = "a signal handler, and mappings at fixed addresses")]

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;
use std::{io, mem, ptr};

use libc::{c_int, c_void, siginfo_t};

use super::page_size;
use crate::sync::{AtomicUsize, Ordering};

/// Given the address of a fault and the size of a page: what is to be filled; `None` if the address is not ours.
pub(crate) type Tear = fn(usize, usize) -> Option<Range<usize>>;

struct Guard {
    tear: Tear,
    page: usize,
    /// What was there before.
    previous: libc::sigaction,
}

static GUARD: OnceLock<Guard> = OnceLock::new();

/// 1 once the previous handler has given itself up: what it leaves is the default.
static IS_PREVIOUS_SPENT: AtomicUsize = AtomicUsize::new(0);

/// Where the reserve is: see [`keep_reserve`]. 0: there is none, or it was used.
static RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Mappings in the reserve. A hole takes two more.
const RESERVED: usize = 32;

/// Puts the handler in place, for as long as the process lives. Called again, it puts it back on top.
pub(crate) fn install(tear: Tear) -> io::Result<()> {
    let now = disposition()?;
    if !is_ours(&now) {
        // One that came on top of ours calls ours for what it does not know, as ours does: so what was there at first stays.
        GUARD.get_or_init(|| Guard { tear, page: page_size(), previous: now });
        set_disposition(&our_action(&now))?;
    }
    keep_reserve();
    Ok(())
}

fn our_action(previous: &libc::sigaction) -> libc::sigaction {
    // What the previous handler wanted blocked or restarted it still gets.
    let mut action = *previous;
    action.sa_sigaction = on_sigbus as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER));
    action
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == on_sigbus as *const () as libc::sighandler_t
}

fn disposition() -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action it only writes the present one, to where it is told.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it succeeded, so it has written it.
    Ok(unsafe { action.assume_init() })
}

fn set_disposition(action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: an action that was there before, the default, or ours, which is what a handler with `SA_SIGINFO` has to be.
    match unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: it says where this thread's own is.
    let errno = unsafe { errno_location() };
    // SAFETY: it is there as long as the thread.
    let before = unsafe { errno.read() };
    // SAFETY: with `SA_SIGINFO`, the system hands over what it knows of the signal.
    let about = unsafe { &*info };
    let is_fault = is_fault(about.si_code);
    let is_filled = is_fault && {
        // SAFETY: of a fault, the address is known.
        let address = unsafe { about.si_addr() } as usize;
        GUARD.get().is_some_and(|guard| (guard.tear)(address, guard.page).is_some_and(fill))
    };
    if !is_filled {
        pass_on(signal, is_fault, info, context);
    }
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Whether it comes from an access to memory that is not there: past the end of the file, or of a bad medium. A signal that
/// somebody sent does not.
fn is_fault(code: c_int) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if code == libc::BUS_MCEERR_AR {
        return true;
    }
    code == libc::BUS_ADRERR || code == libc::BUS_OBJERR
}

/// Lays zeros over a hole. If the system refuses (it is at its limit of mappings) the reserve goes for it.
fn fill(hole: Range<usize>) -> bool {
    let lay = || {
        // SAFETY: part of a mapping of ours (what `Tear` says), of which a reader is just reading: it stays a mapping of the
        // same length, and whoever unmaps it unmaps this too.
        let laid = unsafe {
            libc::mmap(
                hole.start as *mut c_void,
                hole.len(),
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        laid != libc::MAP_FAILED
    };
    lay() || (release_reserve() && lay()) || {
        say(
            "smmap: fault guard: a file was cut short under its map, and the system has no mapping left to put in its \
             place (Linux: vm.max_map_count); raise that limit, or lower max_regions\n",
        );
        false
    }
}

/// To whoever was there before us, who will make of it what he always did.
fn pass_on(signal: c_int, is_fault: bool, info: *mut siginfo_t, context: *mut c_void) {
    // Relaxed: whoever finds it spent a moment too late calls a handler once more that would have been called anyway.
    let is_spent = IS_PREVIOUS_SPENT.load(Ordering::Relaxed) != 0;
    let Some(Guard { previous, .. }) = GUARD.get().filter(|_| !is_spent) else { return end(signal, is_fault) };
    match previous.sa_sigaction {
        libc::SIG_DFL => end(signal, is_fault),
        // A signal can be ignored, a fault cannot.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_IGN => end(signal, is_fault),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
            // SAFETY: it was installed as such.
            let handler = unsafe { mem::transmute::<libc::sighandler_t, Handler>(handler) };
            handler(signal, info, context);
            stay(previous);
        }
        handler => {
            // SAFETY: it was installed as such.
            let handler = unsafe { mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
            handler(signal);
            stay(previous);
        }
    }
}

/// After the previous handler. Rust's own, for one, goes back to the default action and returns, so that the access faults
/// again and ends the process; ours stays, and knows that the default is what comes next.
fn stay(previous: &libc::sigaction) {
    let is_gone = disposition().is_ok_and(|now| !is_ours(&now));
    if is_gone || previous.sa_flags & libc::SA_RESETHAND != 0 {
        IS_PREVIOUS_SPENT.store(1, Ordering::Relaxed);
    }
    if is_gone {
        let _ = set_disposition(&our_action(previous));
    }
}

/// The default: the process ends. A fault happens again as soon as the handler returns; a signal that was sent does not.
fn end(signal: c_int, is_fault: bool) {
    // SAFETY: zeros are the default action, with an empty mask and no flags.
    let action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    let _ = set_disposition(&action);
    if !is_fault {
        // SAFETY: it is delivered as soon as the handler returns, which unblocks it.
        unsafe { libc::raise(signal) };
    }
}

/// Mappings that a hole may have when there are no others: to cut one out of the middle of a mapping takes two more.
///
/// Without the reserve a hole at the system's limit of mappings is filled only if somebody unmaps something just then. So it
/// is made again after it was used, as soon as that is possible.
pub(crate) fn keep_reserve() {
    if RESERVE.load(Ordering::Relaxed) != 0 || GUARD.get().is_none() {
        return;
    }
    let page = page_size();
    // SAFETY: a new mapping, wherever the system likes.
    let made = unsafe {
        libc::mmap(ptr::null_mut(), RESERVED * page, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)
    };
    if made == libc::MAP_FAILED {
        return;
    }
    // Every other page is of another kind, so that the system does not make one mapping of them all.
    for odd in (1..RESERVED).step_by(2) {
        // SAFETY: pages of the mapping just made.
        let _ = unsafe { libc::mprotect((made as usize + odd * page) as *mut c_void, page, libc::PROT_READ) };
    }
    // Release: pairs with the Acquire in `release_reserve`, so that what is given back has been made.
    if RESERVE.compare_exchange(0, made as usize, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: the mapping just made, of which nobody knows.
        unsafe { libc::munmap(made, RESERVED * page) };
    }
}

fn release_reserve() -> bool {
    let Some(Guard { page, .. }) = GUARD.get() else { return false };
    // Acquire: pairs with the Release in `keep_reserve`.
    let reserve = RESERVE.swap(0, Ordering::Acquire);
    // Without its first and its last page: these may be one with their neighbours by now, and to cut them off takes more.
    // SAFETY: the reserve, which is nobody else's since the exchange.
    reserve != 0 && unsafe { libc::munmap((reserve + page) as *mut c_void, (RESERVED - 2) * page) } == 0
}

fn say(message: &str) {
    // SAFETY: `write` reads the message.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
}

#[cfg(any(target_os = "linux", target_os = "dragonfly", target_os = "redox", target_os = "hurd"))]
use libc::__errno_location as errno_location;

#[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
use libc::__errno as errno_location;

#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
use libc::__error as errno_location;

#[cfg(any(target_os = "solaris", target_os = "illumos"))]
use libc::___errno as errno_location;
