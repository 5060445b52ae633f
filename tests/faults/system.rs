//! Replacements for `mmap64`, `munmap`, `open64`, `statx`, `pread64` and `madvise`. The linker prefers these
//! definitions to those of the C library.
//!
//! Only calls from Rust code on a test's own files (those in a [`Dir`](crate::support::Dir)) fail. Calls for threads,
//! allocations and /proc succeed as usual.
#![allow(unsafe_code, reason = "replaces functions of the C library")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::{Rng, is_calm, note_fault};

/// A kind of system call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Map,
    Unmap,
    Open,
    Stat,
    Read,
    /// A read that returns fewer bytes than requested, without an error.
    ShortRead,
    Advise,
}

pub(crate) const CALLS: [Call; 7] =
    [Call::Map, Call::Unmap, Call::Open, Call::Stat, Call::Read, Call::ShortRead, Call::Advise];

impl Call {
    /// Returns the errors that the manual documents for this call.
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

    /// Returns the number of injected failures of this call so far.
    pub(crate) fn failed(self) -> u64 {
        self.state().failed.load(Ordering::SeqCst)
    }
}

struct State {
    /// One of `every` calls fails on average; none if it is 0.
    every: AtomicU64,
    made: AtomicU64,
    failed: AtomicU64,
}

static STATES: [State; CALLS.len()] =
    [const { State { every: AtomicU64::new(0), made: AtomicU64::new(0), failed: AtomicU64::new(0) } }; CALLS.len()];
static SEED: AtomicU64 = AtomicU64::new(0);
/// The error of every injected failure; if it is 0, each failure picks one of the call's documented errors.
static ERROR: AtomicI32 = AtomicI32::new(0);

/// The duration of fault injection, which ends when this value is dropped.
#[must_use = "dropping `Faults` ends the fault injection"]
pub(crate) struct Faults(());

impl Faults {
    /// Makes one of `every[call]` calls of each kind fail on average, and none if the rate is 0. The seed determines
    /// which.
    pub(crate) fn new(seed: u64, every: [u64; CALLS.len()]) -> Faults {
        SEED.store(seed, Ordering::SeqCst);
        ERROR.store(0, Ordering::SeqCst);
        for (state, every) in STATES.iter().zip(every) {
            state.made.store(0, Ordering::SeqCst);
            state.every.store(every, Ordering::SeqCst);
        }
        Faults(())
    }

    /// Makes every call of this kind fail with `error`, and no call of another kind.
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

/// Counts a call and returns the error it has to fail with, or `None` if it has to succeed.
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

/// Sets `errno` to `error` and counts the fault for this thread.
fn refuse(error: c_int) {
    note_fault();
    // SAFETY: the function has no preconditions; it returns the address of this thread's `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid for this thread as long as the thread runs.
    unsafe { *errno = error };
}

/// Flags for the descriptors of the tests' files, which are those opened through a path in a test's directory.
static DESCRIPTORS: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];

/// The mappings of the tests' files: address and length.
static MAPPINGS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

fn mappings() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_test_descriptor(descriptor: c_int) -> bool {
    usize::try_from(descriptor).ok().and_then(|at| DESCRIPTORS.get(at)).is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// A part of the path of each `Dir`.
const PREFIX: &[u8] = b"/smmap-";

/// Returns `true` if the path is below a directory that `support::Dir` has created.
///
/// # Safety
///
/// `path` points to a string that ends in a zero byte.
unsafe fn is_test_path(path: *const c_char) -> bool {
    // SAFETY: the caller promises a string that ends in a zero byte.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_bytes().windows(PREFIX.len()).any(|part| part == PREFIX)
}

/// # Safety
///
/// As for the C library's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    let is_test_file = is_test_descriptor(descriptor);
    if let Some(error) = is_test_file.then(|| fault(Call::Map)).flatten() {
        refuse(error);
        return libc::MAP_FAILED;
    }
    // SAFETY: the arguments are passed on unchanged.
    let mapped = unsafe { libc::syscall(libc::SYS_mmap, address, len, protection, flags, descriptor, offset) };
    if is_test_file && mapped != -1 {
        mappings().insert(mapped as usize, len);
    }
    mapped as *mut c_void
}

/// # Safety
///
/// As for the C library's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> c_int {
    // Removed before the unmap: afterwards another thread may map at this address.
    let is_test_file = mappings().remove(&address.addr());
    if let Some(error) = is_test_file.and_then(|_| fault(Call::Unmap)) {
        mappings().insert(address.addr(), len);
        refuse(error);
        return -1;
    }
    // SAFETY: the arguments are passed on unchanged.
    unsafe { libc::syscall(libc::SYS_munmap, address, len) as c_int }
}

/// # Safety
///
/// As for the C library's function of this name. `mode` is always passed, also where the C library lets the caller omit
/// it.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller promises a string that ends in a zero byte.
    let is_test_file = unsafe { is_test_path(path) };
    if let Some(error) = is_test_file.then(|| fault(Call::Open)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: the arguments are passed on unchanged.
    let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) } as c_int;
    if let Some(known) = usize::try_from(opened).ok().and_then(|at| DESCRIPTORS.get(at)) {
        known.store(is_test_file, Ordering::SeqCst);
    }
    opened
}

/// # Safety
///
/// As for the C library's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    found: *mut libc::statx,
) -> c_int {
    // The standard library calls `statx` once with a null path, to find out whether the kernel has this call.
    // SAFETY: a path that is not null ends in a zero byte, as the caller promises.
    let is_test_file = !path.is_null() && (is_test_descriptor(directory) || unsafe { is_test_path(path) });
    if let Some(error) = is_test_file.then(|| fault(Call::Stat)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: the arguments are passed on unchanged.
    unsafe { libc::syscall(libc::SYS_statx, directory, path, flags, mask, found) as c_int }
}

/// # Safety
///
/// As for the C library's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(descriptor: c_int, buf: *mut c_void, mut len: usize, offset: i64) -> isize {
    if is_test_descriptor(descriptor) {
        if let Some(error) = fault(Call::Read) {
            refuse(error);
            return -1;
        }
        if len > 1 && fault(Call::ShortRead).is_some() {
            len /= 2;
        }
    }
    // SAFETY: the arguments are passed on unchanged, except that `len` may be smaller.
    unsafe { libc::syscall(libc::SYS_pread64, descriptor, buf, len, offset) as isize }
}

/// # Safety
///
/// As for the C library's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    let is_test_file = mappings().contains_key(&address.addr());
    if let Some(error) = is_test_file.then(|| fault(Call::Advise)).flatten() {
        refuse(error);
        return -1;
    }
    // SAFETY: the arguments are passed on unchanged.
    unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) as c_int }
}
