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

/// Given the address of a fault, the size of a page, and whether the page at an address is gone: what is to be filled; `None` if
/// the address is not ours.
pub(crate) type Tear = fn(usize, usize, fn(usize) -> bool) -> Option<Range<usize>>;

struct Guard {
    note_fault: Tear,
    page: usize,
}

static GUARD: OnceLock<Guard> = OnceLock::new();

/// A handler of ours, and whoever was there before it. Several, for when others came on top and ours is put over them: what
/// they know as the handler before them has to stay what it was, or it would go round in a circle.
struct Turn {
    previous: OnceLock<libc::sigaction>,
    /// 1 once the previous handler has given itself up: what it leaves is the default.
    is_spent: AtomicUsize,
}

/// So often the guard can be put on top of others.
const TURNS: usize = 8;

static CHAIN: [Turn; TURNS] = [const { Turn { previous: OnceLock::new(), is_spent: AtomicUsize::new(0) } }; TURNS];

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// A static, so that each has one address.
static HANDLERS: [Handler; TURNS] = [
    on_sigbus::<0>,
    on_sigbus::<1>,
    on_sigbus::<2>,
    on_sigbus::<3>,
    on_sigbus::<4>,
    on_sigbus::<5>,
    on_sigbus::<6>,
    on_sigbus::<7>,
];

/// Where the reserve is: see [`keep_reserve`]. 0: there is none, or it was used.
static RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Mappings in the reserve. A hole takes two more.
const RESERVED: usize = 32;

/// How often a mapping is asked for at the limit before the process is given up.
const TRIES: usize = 100;

/// Puts the handler in place, for as long as the process lives. Called again, it puts it on top of what came meanwhile. By one
/// thread at a time.
pub(crate) fn install(note_fault: Tear) -> io::Result<()> {
    GUARD.get_or_init(|| Guard { note_fault, page: page_size() });
    keep_reserve();
    for (turn, handler) in CHAIN.iter().zip(HANDLERS) {
        let now = disposition()?;
        if is_ours(&now) {
            return Ok(());
        }
        if turn.previous.set(now).is_ok() {
            return set_disposition(&our_action(&now, handler));
        }
    }
    Err(io::Error::other("other handlers were put over the guard too often"))
}

fn our_action(previous: &libc::sigaction, handler: Handler) -> libc::sigaction {
    // What the previous handler wanted blocked or restarted it still gets.
    let mut action = *previous;
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER));
    action
}

fn is_ours(action: &libc::sigaction) -> bool {
    HANDLERS.iter().any(|&handler| action.sa_sigaction == handler as *const () as libc::sighandler_t)
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

extern "C" fn on_sigbus<const TURN: usize>(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: it says where this thread's own is.
    let errno = unsafe { errno_location() };
    // SAFETY: it is there as long as the thread.
    let before = unsafe { errno.read() };
    // SAFETY: with `SA_SIGINFO`, the system hands over what it knows of the signal.
    let about = unsafe { &*info };
    let is_filled = may_be_a_hole(about.si_code) && {
        // SAFETY: of a fault, the address is known.
        let address = unsafe { about.si_addr() } as usize;
        GUARD.get().is_some_and(|guard| (guard.note_fault)(address, guard.page, is_gone).is_some_and(fill))
    };
    if !is_filled {
        pass_on(TURN, signal, info, context, is_fault(about.si_code));
    }
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Whether the access that it comes from happens again when the handler returns. A signal that somebody sent does not.
fn is_fault(code: c_int) -> bool {
    code == libc::BUS_ADRALN || may_be_a_hole(code)
}

/// Whether it comes from an access to memory that is not there: past the end of the file, or of a bad medium.
fn may_be_a_hole(code: c_int) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if code == libc::BUS_MCEERR_AR {
        return true;
    }
    code == libc::BUS_ADRERR || code == libc::BUS_OBJERR
}

/// Whether the page at this address, of one of our mappings, cannot be had. Where the system cannot say (it has to be asked
/// without touching it) the answer is no.
fn is_gone(page_address: usize) -> bool {
    // SAFETY: a page of a mapping of ours that a reader holds at this moment.
    unsafe { super::populate(page_address as *mut u8, 1) }.is_err()
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
    if lay() {
        return true;
    }
    for _ in 0..TRIES {
        release_reserve();
        if lay() {
            return true;
        }
        // Another thread may have used the reserve and not yet what it gave back, or be about to give back more.
        // SAFETY: it only yields.
        unsafe { libc::sched_yield() };
    }
    say(
        "smmap: fault guard: a file was cut short under its map, and the system has no mapping left to put in its place \
         (Linux: vm.max_map_count); raise that limit, or lower max_regions\n",
    );
    false
}

/// To whoever was there before us, who will make of it what he always did.
fn pass_on(turn: usize, signal: c_int, info: *mut siginfo_t, context: *mut c_void, is_fault: bool) {
    let Turn { previous, is_spent } = &CHAIN[turn];
    // Relaxed: whoever finds it spent a moment too late calls a handler once more that would have been called anyway.
    let previous = previous.get().filter(|_| is_spent.load(Ordering::Relaxed) == 0);
    let Some(previous) = previous else { return end(signal, is_fault) };
    match previous.sa_sigaction {
        libc::SIG_DFL => end(signal, is_fault),
        // A signal can be ignored, a fault cannot.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_IGN => end(signal, is_fault),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was installed as such.
            let handler = unsafe { mem::transmute::<libc::sighandler_t, Handler>(handler) };
            handler(signal, info, context);
            stay(turn, previous);
        }
        handler => {
            // SAFETY: it was installed as such.
            let handler = unsafe { mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
            handler(signal);
            stay(turn, previous);
        }
    }
}

/// After the previous handler. Rust's own, for one, goes back to the default action and returns, so that the access faults
/// again and ends the process; ours stays, and knows that the default is what comes next.
fn stay(turn: usize, previous: &libc::sigaction) {
    let is_default = disposition().is_ok_and(|now| now.sa_sigaction == libc::SIG_DFL);
    if is_default || previous.sa_flags & libc::SA_RESETHAND != 0 {
        CHAIN[turn].is_spent.store(1, Ordering::Relaxed);
    }
    if is_default {
        let _ = set_disposition(&our_action(previous, HANDLERS[turn]));
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
    let is_made = (1..RESERVED).step_by(2).all(|odd| {
        // SAFETY: a page of the mapping just made.
        unsafe { libc::mprotect((made as usize + odd * page) as *mut c_void, page, libc::PROT_READ) == 0 }
    });
    // Release: pairs with the Acquire in `release_reserve`, so that what is given back has been made.
    if !is_made || RESERVE.compare_exchange(0, made as usize, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: the mapping just made, of which nobody knows.
        unsafe { libc::munmap(made, RESERVED * page) };
    }
}

fn release_reserve() {
    // Acquire: pairs with the Release in `keep_reserve`.
    let reserve = RESERVE.swap(0, Ordering::Acquire);
    let Some(Guard { page, .. }) = GUARD.get().filter(|_| reserve != 0) else { return };
    // SAFETY: the reserve, which is nobody else's since the exchange.
    let is_refused = unsafe { libc::munmap(reserve as *mut c_void, RESERVED * page) } != 0;
    if is_refused {
        // Its first and its last page may be one with their neighbours by now, and to cut them off takes more.
        // SAFETY: as above.
        let _ = unsafe { libc::munmap((reserve + page) as *mut c_void, (RESERVED - 2) * page) };
    }
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
