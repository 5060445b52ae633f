//! Feature `fault-guard` (Unix): a file that is cut short under its map, or a medium that fails, is an error and not the end of
//! the process.
//!
//! Where the bytes behind a mapping are gone, touching them raises SIGBUS. After [`install`], a handler looks whether the
//! address belongs to a region of this crate; if so, it notes that the region is *torn*, lays zeros over the hole, and lets the
//! reader go on. Whoever asks afterwards is told, so that no zero is taken for data:
//!
//! | what reads | is told |
//! |---|---|
//! | [`read_at`](crate::MappedFile::read_at), `read_exact_at`, `Read` of a [`Cursor`](crate::Cursor), whatever copies | by itself: it reads from the file instead, or gives the error of that |
//! | [`Buffer`](crate::Buffer): `get`, searches, comparisons, where the pieces of an iterator end | by itself: each answer is checked before it is given |
//! | [`Lease`](crate::Lease), also of [`Windows`](crate::Windows), [`Lines`](crate::Lines), [`Split`](crate::Split) | by [`Lease::check`](crate::Lease::check), after reading |
//! | `&[u8]` of a cursor or a buffer | by [`Cursor::check`](crate::Cursor::check), [`Buffer::check`](crate::Buffer::check), after reading |
//! | `BufRead` of a cursor | by the next call that fills the buffer |
//!
//! The error is [`Truncated`](crate::ErrorKind::Truncated), or [`Io`](crate::ErrorKind::Io) if the file still reaches so far. A
//! torn region is given to nobody else: it is unmapped when its last client lets go (within a second or two, if there is none),
//! and the window is mapped anew for whoever asks. Only what cannot be read is filled (Linux 5.14; elsewhere page by page), so
//! who reads beside a bad sector reads what is there.
//!
//! A file that ends inside a page has zeros behind its end, up to the end of the page, and no signal comes: there the *length*
//! says it. What copies asks for it (a system call) only where its bytes end in zeros, and everything after them in that page
//! is zero too: other bytes were there. `check` asks always. With [`Revalidate::Never`](crate::Revalidate::Never) nobody asks.
//!
//! # What it does not do
//!
//! - The promise made to [`build`](crate::MapManagerBuilder::build) stays what it is. Bytes that turn to zeros under a `&[u8]`
//!   are bytes that change; where files may be cut short at any time, prefer what copies.
//! - A file that is cut short inside a page, and grows over that again before anybody asks, cannot be told from one that was not:
//!   zeros that were read in between are not noticed.
//! - In a system call that is handed mapped bytes (`write` from a lease), the call fails with EFAULT instead.
//! - A thread that blocks SIGBUS is not guarded: the system ends the process.
//! - A fault that is not ours, and a SIGBUS that somebody sent, goes to the handler that was there before, or ends the process
//!   as it always did. (That handler now runs on the thread's alternate stack, if it has one.) A handler that is installed later
//!   and does not call the one before it takes the guard off: then install the guard again, after it. That works seven times.
//! - What a child of `fork` maps is not guarded there, also by a manager of its own; what it was born with is.
//! - If the system has no mapping left for the zeros (a reserve is kept for that), the process ends with a message that says
//!   so.
//!
//! Cost: a hit loads two words that hardly ever change, and a copy looks at its last byte: 4 instructions beside 25 for a slice in
//! a cursor's window, 15 beside 158 for a lease, 49 beside 257 for `read_at` of 64 bytes (`valgrind --tool=callgrind`, x86-64,
//! Rust 1.95, 2026-11-21). Each map and unmap notes its range in a table. A hole that is met costs 5 to 8 times the fault of a
//! page that is there, some 10 µs, and no more for 10,000 regions than for 100 (`cargo bench --bench fault_guard --features
//! fault-guard -- ratios`).
//!
//! ```no_run
//! use smmap::{ErrorKind, MapManager};
//!
//! smmap::fault_guard::install()?;
//! // SAFETY: nobody changes the file; should it be cut short, what was read of it is not used before it was checked.
//! let maps = unsafe { MapManager::builder().build()? };
//! let lease = maps.open("shared/log")?.lease(..)?;
//! let sum: u64 = lease.iter().map(|&byte| u64::from(byte)).sum();
//! match lease.check() {
//!     Ok(()) => println!("{sum}"),
//!     Err(error) if error.kind() == ErrorKind::Truncated => println!("it was cut short meanwhile"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), smmap::Error>(())
//! ```

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::os::{self, Process};
use crate::protocol::address_table::AddressTable;

/// Of all managers: a process has one handler.
static RANGES: OnceLock<Known> = OnceLock::new();

struct Known {
    ranges: AddressTable,
    process: Process,
}

static IS_INSTALLED: OnceLock<()> = OnceLock::new();

/// Puts the handler for SIGBUS in place, for the rest of the process's life. Once is enough, from any thread, before or after
/// managers are built; again does no harm, and puts it back on top of handlers that were installed meanwhile.
///
/// # Errors
///
/// [`Io`](crate::ErrorKind::Io) if the system refuses.
///
/// ```
/// smmap::fault_guard::install()?;
/// # Ok::<(), smmap::Error>(())
/// ```
pub fn install() -> Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    os::sigbus::install(|address, page, is_gone| RANGES.get()?.ranges.note_fault(address, page, is_gone))
        .map_err(|error| Error::io("cannot install the handler for SIGBUS", error))?;
    IS_INSTALLED.get_or_init(|| ());
    Ok(())
}

/// Makes a mapping known, before anybody reads there. Not in a child of `fork`, for want of the table's lock: somebody may have
/// it who is not there any more.
pub(crate) fn protect(mapping: Range<usize>) {
    let known = RANGES.get_or_init(|| Known { ranges: AddressTable::default(), process: Process::this() });
    if known.process.is_this() {
        known.ranges.insert(mapping);
        os::sigbus::keep_reserve();
    }
}

/// Forgets it, when nobody does any more. In a child of `fork` it stays known, for the same reason.
pub(crate) fn unprotect(mapping: Range<usize>) {
    if let Some(known) = RANGES.get().filter(|known| known.process.is_this()) {
        known.ranges.remove(mapping);
    }
}

/// Whether any mapping is torn, as of about now.
#[inline]
pub(crate) fn any_faulted() -> bool {
    RANGES.get().is_some_and(|known| known.ranges.any_faulted())
}

/// Where holes were found among `bytes` of a mapping. Ask after reading.
#[inline]
pub(crate) fn faulted_part(mapping: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
    RANGES.get()?.ranges.faulted_part(mapping, bytes)
}

#[inline]
pub(crate) fn is_installed() -> bool {
    IS_INSTALLED.get().is_some()
}
