//! The system's calls, as the Rust code of this executable makes them: `mmap64`, `munmap`, `open64`, `statx`, `pread64`
//! and `madvise` have a definition here, which the linker prefers to the C library's.
//!
//! Only what is about a test's own files fails (those in a [`Dir`](crate::support::Dir)), and only in Rust code: threads,
//! allocations and the tests' own looks at /proc live.
#![allow(unsafe_code, reason = "they take the place of the system's own")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::{Rng, is_calm, note_fault};

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Map,
    Unmap,
    Open,
    Stat,
    Read,
    /// A read that gives less than it was asked for: no error, but nothing that many expect.
    ShortRead,
    Advise,
}

pub(crate) const CALLS: [Call; 7] =
    [Call::Map, Call::Unmap, Call::Open, Call::Stat, Call::Read, Call::ShortRead, Call::Advise];

impl Call {
    /// What the system says in its manual.
    fn errors(self) -> &'static [c_int] {
        match self {
            Call::Map => &[libc::ENOMEM, libc::EAGAIN, libc::ENFILE, libc::EIO],
            Call::Unmap => &[libc::ENOMEM],
            Call::Open => &[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR, libc::EIO],
            Call::Stat => &[libc::ENOMEM, libc::EIO],
            Call::Read => &[libc::EIO, libc::EINTR, libc::EAGAIN],
            Call::ShortRead => &[0],
            Call::Advise => &[libc::ENOMEM, libc::EAGAIN, libc::EIO, libc::EBADF],
        }
    }

    fn state(self) -> &'static State {
        &STATES[self as usize]
    }

    /// How often it was made to fail so far.
    pub(crate) fn failed(self) -> u64 {
        self.state().failed.load(Ordering::SeqCst)
    }
}

struct State {
    /// One of so many fails; 0: none.
    every: AtomicU64,
    made: AtomicU64,
    failed: AtomicU64,
}

static STATES: [State; CALLS.len()] =
    [const { State { every: AtomicU64::new(0), made: AtomicU64::new(0), failed: AtomicU64::new(0) } }; CALLS.len()];
static SEED: AtomicU64 = AtomicU64::new(0);
/// The only error there is; 0: all that the call may have.
static ERROR: AtomicI32 = AtomicI32::new(0);

/// Until it is dropped, of each call one of so many fails (0: none), which ones the seed says.
#[must_use = "dropped, it ends"]
pub(crate) struct Faults(());

impl Faults {
    pub(crate) fn new(seed: u64, every: [u64; CALLS.len()]) -> Faults {
        SEED.store(seed, Ordering::SeqCst);
        ERROR.store(0, Ordering::SeqCst);
        for (state, every) in STATES.iter().zip(every) {
            state.made.store(0, Ordering::SeqCst);
            state.every.store(every, Ordering::SeqCst);
        }
        Faults(())
    }

    /// Every single call of this kind, with this error.
    pub(crate) fn all(call: Call, error: c_int) -> Faults {
        let faults = Faults::new(0, CALLS.map(|other| u64::from(other == call)));
        ERROR.store(error, Ordering::SeqCst);
        faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        STATES.iter().for_each(|state| state.every.store(0, Ordering::SeqCst));
    }
}

/// Whether this one is to fail, and with which error.
fn fault(call: Call) -> Option<c_int> {
    let state = call.state();
    let every = state.every.load(Ordering::SeqCst);
    if every == 0 || is_calm() {
        return None;
    }
    let made = state.made.fetch_add(1, Ordering::SeqCst);
    let mut rng = Rng::new(SEED.load(Ordering::SeqCst) ^ (made << 8) ^ call as u64);
    if rng.below(every) != 0 {
        return None;
    }
    state.failed.fetch_add(1, Ordering::SeqCst);
    let errors = call.errors();
    match ERROR.load(Ordering::SeqCst) {
        0 => Some(errors[rng.below(errors.len() as u64) as usize]),
        error => Some(error),
    }
}

/// Fails with that error.
fn refuse(error: c_int) {
    note_fault();
    // SAFETY: the address of this thread's own number, which is always there.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = error };
}

/// Descriptors of the tests' files: those that were opened by a path of theirs.
static DESCRIPTORS: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];

/// Mappings of them: address and length.
static MAPPINGS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

fn mappings() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ours(descriptor: c_int) -> bool {
    usize::try_from(descriptor).ok().and_then(|at| DESCRIPTORS.get(at)).is_some_and(|ours| ours.load(Ordering::SeqCst))
}

/// What the path of each `Dir` has in it.
const PREFIX: &[u8] = b"/smmap-";

/// Below a directory that `support::Dir` has made.
///
/// # Safety
///
/// `path` ends in a zero.
unsafe fn is_our_path(path: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_bytes().windows(PREFIX.len()).any(|part| part == PREFIX)
}

/// # Safety
///
/// As the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    let ours = is_ours(descriptor);
    if let Some(error) = ours.then(|| fault(Call::Map)).flatten() {
        refuse(error);
        return libc::MAP_FAILED;
    }
    // SAFETY: handed on as it came.
    let mapped = unsafe { libc::syscall(libc::SYS_mmap, address, len, protection, flags, descriptor, offset) };
    if ours && mapped != -1 {
        mappings().insert(mapped as usize, len);
    }
    mapped as *mut c_void
}

/// # Safety
///
/// As the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> c_int {
    // Before it is gone: afterwards its address may be another's.
    let ours = mappings().remove(&address.addr());
    if let Some(error) = ours.and_then(|_| fault(Call::Unmap)) {
        mappings().insert(address.addr(), len);
        refuse(error);
        return -1;
    }
    // SAFETY: handed on as it came.
    unsafe { libc::syscall(libc::SYS_munmap, address, len) as c_int }
}

/// # Safety
///
/// As the system's own, with a mode also where that may be left out.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    let ours = unsafe { is_our_path(path) };
    if let Some(error) = ours.then(|| fault(Call::Open)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: handed on as it came.
    let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) } as c_int;
    if let Some(known) = usize::try_from(opened).ok().and_then(|at| DESCRIPTORS.get(at)) {
        known.store(ours, Ordering::SeqCst);
    }
    opened
}

/// # Safety
///
/// As the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    found: *mut libc::statx,
) -> c_int {
    // The standard library asks once with nothing, whether the system knows this call.
    // SAFETY: not null, it ends in a zero.
    let ours = !path.is_null() && (is_ours(directory) || unsafe { is_our_path(path) });
    if let Some(error) = ours.then(|| fault(Call::Stat)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: handed on as it came.
    unsafe { libc::syscall(libc::SYS_statx, directory, path, flags, mask, found) as c_int }
}

/// # Safety
///
/// As the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(descriptor: c_int, buf: *mut c_void, mut len: usize, offset: i64) -> isize {
    if is_ours(descriptor) {
        if let Some(error) = fault(Call::Read) {
            refuse(error);
            return -1;
        }
        if len > 1 && fault(Call::ShortRead).is_some() {
            len /= 2;
        }
    }
    // SAFETY: handed on as it came, or a part of it.
    unsafe { libc::syscall(libc::SYS_pread64, descriptor, buf, len, offset) as isize }
}

/// # Safety
///
/// As the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    let ours = mappings().contains_key(&address.addr());
    if let Some(error) = ours.then(|| fault(Call::Advise)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: handed on as it came.
    unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) as c_int }
}
