//! The handler for SIGBUS of [`fault_guard`](crate::fault_guard).
//!
//! If the fault lies in a mapping of this crate, the handler maps zeros over the faulted range and returns, so that the
//! reader continues. It passes every other SIGBUS on to the handler that was installed before.
//!
//! The handler is async-signal-safe. It uses atomics, functions that POSIX lists as such, and `mmap` and `munmap`,
//! which are bare system calls on every supported OS. The crates that chain handlers (signal-hook) skip the default
//! action. Here a foreign fault must still end the process.
#![allow(unsafe_code, reason = "a signal handler, and mappings at fixed addresses")]

use std::ops::Range;
use std::sync::OnceLock;
use std::{io, mem, ptr};

use libc::{c_int, c_void, siginfo_t};

use super::page_size;
use super::system::check;
use crate::sync::{AtomicUsize, Ordering};

/// A function that notes a fault and returns the range of addresses to fill with zeros.
///
/// The arguments are the address of the fault, the page size, and a function that returns `true` if the page at an
/// address cannot be read. It returns `None` if the address lies in no mapping of this crate.
pub(crate) type NoteFault = fn(usize, usize, fn(usize) -> bool) -> Option<Range<usize>>;

struct Guard {
    note_fault: NoteFault,
    page: usize,
}

static GUARD: OnceLock<Guard> = OnceLock::new();

/// The state of one of our handlers: the action that it replaced.
///
/// There are several, because the guard may be installed again over a handler that another library installed since.
/// That library keeps our earlier handler as its previous one, so the earlier handler's own previous one must not
/// change. Otherwise the two would call each other forever.
struct Link {
    previous: OnceLock<libc::sigaction>,
    /// 1 after the previous handler has uninstalled itself: then the default action follows.
    is_spent: AtomicUsize,
}

/// The number of handlers, so the most times that the guard can be installed over others.
const LINKS: usize = 8;

static CHAIN: [Link; LINKS] = [const { Link { previous: OnceLock::new(), is_spent: AtomicUsize::new(0) } }; LINKS];

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Our handlers, one for each link. A static, so that each handler has one address, by which [`is_ours`] knows it.
static HANDLERS: [Handler; LINKS] = [
    on_sigbus::<0>,
    on_sigbus::<1>,
    on_sigbus::<2>,
    on_sigbus::<3>,
    on_sigbus::<4>,
    on_sigbus::<5>,
    on_sigbus::<6>,
    on_sigbus::<7>,
];

/// The address of the reserve (see [`keep_reserve`]), or 0 if there is none.
static RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Mappings in the reserve. Filling a faulted range takes two at most.
const RESERVED: usize = 32;

/// Attempts to map zeros at the limit of mappings.
const TRIES: usize = 100;

/// Installs the handler for the rest of the process's life. Called again, installs it over handlers that were installed
/// since.
///
/// The caller makes sure that no two threads call it concurrently. Returns an error if the OS refuses, or if all
/// [`LINKS`] handlers are in use.
pub(crate) fn install(note_fault: NoteFault) -> io::Result<()> {
    GUARD.get_or_init(|| Guard { note_fault, page: page_size() });
    keep_reserve();
    for (link, handler) in CHAIN.iter().zip(HANDLERS) {
        let current = disposition()?;
        if is_ours(&current) {
            return Ok(());
        }
        if link.previous.set(current).is_ok() {
            return set_disposition(&our_action(&current, handler));
        }
    }
    Err(io::Error::other("the fault guard was installed over other handlers too often: install it after them"))
}

fn our_action(previous: &libc::sigaction, handler: Handler) -> libc::sigaction {
    // The signal mask and the flags for restarts and nesting stay those of the previous handler.
    let mut action = *previous;
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER));
    action
}

fn is_ours(action: &libc::sigaction) -> bool {
    HANDLERS.iter().any(|&handler| action.sa_sigaction == handler as *const () as libc::sighandler_t)
}

fn disposition() -> io::Result<libc::sigaction> {
    let mut action = default_action();
    // SAFETY: without a new action, `sigaction` only writes the current one to `action`.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut action) })?;
    Ok(action)
}

fn default_action() -> libc::sigaction {
    // SAFETY: a zeroed `sigaction` is valid: the default action, with an empty mask and no flags.
    unsafe { mem::zeroed() }
}

fn set_disposition(action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: the action is a previous one, the default, or one with a handler of the signature that `SA_SIGINFO`
    // requires.
    check(unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) })
}

/// Handles SIGBUS for the link `LINK`, and leaves `errno` as it was.
extern "C" fn on_sigbus<const LINK: usize>(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the function returns the address of this thread's errno.
    let errno = unsafe { errno_location() };
    // SAFETY: the address is valid as long as the thread lives.
    let before = unsafe { errno.read() };
    // SAFETY: with `SA_SIGINFO`, the OS passes a valid `siginfo_t`.
    let about = unsafe { &*info };
    let is_filled = is_missing_memory(about.si_code) && {
        // SAFETY: for these codes, the OS sets the address.
        let address = unsafe { about.si_addr() } as usize;
        GUARD.get().is_some_and(|guard| (guard.note_fault)(address, guard.page, is_unreadable).is_some_and(fill))
    };
    if !is_filled {
        pass_on(LINK, signal, info, context, is_fault(about.si_code));
    }
    // SAFETY: the address is valid as long as the thread lives.
    unsafe { errno.write(before) };
}

/// Returns `true` if an access raised the signal. The access is then repeated when the handler returns. A signal that a
/// process sent is not repeated.
fn is_fault(code: c_int) -> bool {
    code == libc::BUS_ADRALN || is_missing_memory(code)
}

/// Returns `true` if an access of missing memory raised the signal: past the end of the file, or of a failed medium.
fn is_missing_memory(code: c_int) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if code == libc::BUS_MCEERR_AR {
        return true;
    }
    code == libc::BUS_ADRERR || code == libc::BUS_OBJERR
}

/// Returns `true` if the page at this address of one of our mappings cannot be read. Asks the OS, without an access of
/// the page. Returns `false` if the OS does not support that.
fn is_unreadable(page_address: usize) -> bool {
    // SAFETY: the page belongs to a mapping of this crate, and a reader keeps it mapped at this moment.
    unsafe { super::populate(page_address as *mut u8, 1) }.is_err()
}

/// Maps zeros over `faulted`. If the OS refuses, at its limit of mappings, releases the reserve and retries. Returns
/// `false` if the OS refused every attempt.
fn fill(faulted: Range<usize>) -> bool {
    let map_zeros = || {
        // SAFETY: `NoteFault` returns part of a mapping of this crate, which a reader keeps mapped at this moment. The
        // addresses stay mapped and readable, and the owner that unmaps the mapping unmaps the zeros with it.
        let mapped = unsafe {
            libc::mmap(
                faulted.start as *mut c_void,
                faulted.len(),
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        mapped != libc::MAP_FAILED
    };
    if map_zeros() {
        return true;
    }
    for _ in 0..TRIES {
        release_reserve();
        if map_zeros() {
            return true;
        }
        // Another thread may have taken the released mappings, or may be about to release more.
        // SAFETY: `sched_yield` only yields the processor.
        unsafe { libc::sched_yield() };
    }
    print_error(
        "smmap: fault guard: a file was truncated while it was mapped, and the OS has no mapping left to replace it \
         (Linux: vm.max_map_count): raise that limit, or lower max_regions\n",
    );
    false
}

/// Passes the signal on to the previous action of this link: a handler, or the default.
fn pass_on(link: usize, signal: c_int, info: *mut siginfo_t, context: *mut c_void, is_fault: bool) {
    let Link { previous, is_spent } = &CHAIN[link];
    // Relaxed: a thread that misses the store calls the previous handler again, which is harmless.
    let previous = previous.get().filter(|_| is_spent.load(Ordering::Relaxed) == 0);
    let Some(previous) = previous else { return end(signal, is_fault) };
    match previous.sa_sigaction {
        libc::SIG_DFL => end(signal, is_fault),
        // A signal can be ignored, a fault cannot.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_IGN => end(signal, is_fault),
        handler => {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: a handler with `SA_SIGINFO` has this signature.
                let handler = unsafe { mem::transmute::<libc::sighandler_t, Handler>(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: a handler without `SA_SIGINFO` has this signature.
                let handler = unsafe { mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
                handler(signal);
            }
            restore(link, previous);
        }
    }
}

/// Installs our handler again if the previous handler has reset the action to the default, and notes that the default
/// action follows in this link.
///
/// The handler of Rust's runtime does so: it resets the action and returns, so that the access faults again and ends
/// the process.
fn restore(link: usize, previous: &libc::sigaction) {
    let is_default = disposition().is_ok_and(|now| now.sa_sigaction == libc::SIG_DFL);
    if is_default || previous.sa_flags & libc::SA_RESETHAND != 0 {
        CHAIN[link].is_spent.store(1, Ordering::Relaxed);
    }
    if is_default {
        let _ = set_disposition(&our_action(previous, HANDLERS[link]));
    }
}

/// Ends the process by the default action. A fault is repeated as soon as the handler returns. A signal that a process
/// sent is not, so it is raised again.
fn end(signal: c_int, is_fault: bool) {
    let _ = set_disposition(&default_action());
    if !is_fault {
        // SAFETY: `raise` only sends a signal. It is delivered when the handler returns and unblocks it.
        unsafe { libc::raise(signal) };
    }
}

/// Maps the reserve if there is none: mappings that the handler releases when the OS has no other one left.
///
/// Zeros in the middle of a mapping split it, which takes two mappings more. Each new mapping of this crate calls this
/// function, so the reserve is replaced soon after it was used.
pub(crate) fn keep_reserve() {
    if RESERVE.load(Ordering::Relaxed) != 0 || GUARD.get().is_none() {
        return;
    }
    let page = page_size();
    // SAFETY: a new mapping at an address that the OS chooses.
    let made = unsafe {
        libc::mmap(ptr::null_mut(), RESERVED * page, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)
    };
    if made == libc::MAP_FAILED {
        return;
    }
    // Every other page has another protection, so that the OS counts each page as one mapping.
    let is_made = (1..RESERVED).step_by(2).all(|odd| {
        // SAFETY: the page belongs to the mapping just made.
        unsafe { libc::mprotect((made as usize + odd * page) as *mut c_void, page, libc::PROT_READ) == 0 }
    });
    // Release: pairs with the Acquire swap in `release_reserve`. The thread that unmaps the reserve sees it complete.
    if !is_made || RESERVE.compare_exchange(0, made as usize, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: the mapping was just made, and no other thread knows its address.
        unsafe { libc::munmap(made, RESERVED * page) };
    }
}

fn release_reserve() {
    // Acquire: pairs with the Release exchange in `keep_reserve`.
    let reserve = RESERVE.swap(0, Ordering::Acquire);
    let Some(Guard { page, .. }) = GUARD.get().filter(|_| reserve != 0) else { return };
    // SAFETY: the swap made this thread the only owner of the reserve.
    let is_refused = unsafe { libc::munmap(reserve as *mut c_void, RESERVED * page) } != 0;
    if is_refused {
        // The OS may have merged its first and last page with its neighbours, and splitting these takes mappings.
        // SAFETY: the range is a part of the reserve, which this thread owns.
        let _ = unsafe { libc::munmap((reserve + page) as *mut c_void, (RESERVED - 2) * page) };
    }
}

fn print_error(message: &str) {
    // SAFETY: `write` reads the bytes of the message.
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
