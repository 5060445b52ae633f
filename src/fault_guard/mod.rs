//! Feature `fault-guard` (Unix): reads of a truncated file or a failed medium return errors instead of ending the
//! process.
//!
//! An access of mapped bytes that the file no longer has, or that the medium cannot read, raises SIGBUS, which ends the
//! process by default. After [`install`], a handler checks whether the address belongs to a region of this crate. If
//! so, it marks the region as *faulted*, maps zeros over the faulted range, and lets the reader continue. A later check
//! reports the fault, so that the program does not take the zeros for data:
//!
//! | bytes read by | are checked by |
//! |---|---|
//! | [`read_at`](crate::MappedFile::read_at), `read_exact_at`, `Read` of a [`Cursor`](crate::Cursor), and all other copies | the call itself: it reads from the file instead, or returns the error of that read |
//! | [`Buffer`](crate::Buffer): `get`, searches, comparisons, the ends of the pieces of an iterator | the call itself, before it returns |
//! | [`Lease`](crate::Lease), also from [`Windows`](crate::Windows), [`Lines`](crate::Lines), [`Split`](crate::Split) | [`Lease::check`](crate::Lease::check), called after reading |
//! | `&[u8]` of a cursor or a buffer | [`Cursor::check`](crate::Cursor::check), [`Buffer::check`](crate::Buffer::check), called after reading |
//! | `BufRead` of a cursor | the next call that fills the buffer |
//!
//! The error is [`Truncated`](crate::ErrorKind::Truncated), or [`Io`](crate::ErrorKind::Io) if the file still reaches
//! that far. The next access maps the window again. The faulted region is unmapped when its last client is dropped, or
//! within a second or two if it has none. The handler fills only the pages that cannot be read, so a reader beside a
//! bad sector still reads the data there. (On Linux before 5.14 and on other systems, it fills page by page.)
//!
//! A file that ends inside a page has zeros from its end to the end of that page, and accesses of these raise no
//! signal. A copying call then compares with the file's length, by one system call, if its bytes end in zeros and all
//! bytes after them in the page are zero too. `check` always asks for the length. With
//! [`Revalidate::Never`](crate::Revalidate::Never), neither asks, unless a fault was found.
//!
//! # Limitations
//!
//! - The promise made to [`build`](crate::MapManagerBuilder::build) still holds. Bytes that turn to zeros under a
//!   `&[u8]` are bytes that change. If files may be truncated at any time, prefer calls that copy.
//! - A system call that is passed faulted bytes (`write` from a lease) fails with EFAULT; the handler is not called.
//! - A thread that blocks SIGBUS is not guarded: the OS ends the process.
//! - A fault outside this crate's regions, and a SIGBUS that a process sent, goes to the previously installed handler,
//!   or ends the process as before. That handler now runs on the thread's alternate stack, if the thread has one.
//! - A handler that is installed later and does not call the previous one disables the guard, until [`install`] is
//!   called again.
//! - In a child of `fork`, new mappings are not guarded, not even those of a new manager. Inherited mappings are, until
//!   the child unmaps them.
//! - [`guarantees`](crate::guarantees) has the limits of truncation within a page, and of mappings for the zeros.
//!
//! # Performance
//!
//! A hit loads two words that seldom change, and a copy also reads its last byte. That adds about a sixth to the
//! instructions of a short `slice`, a tenth to those of a lease, and a fifth to those of a small `read_at`. A fault
//! costs about ten microseconds, independent of the number of regions. `benches/fault_guard.rs` measures these costs.
//!
//! # Examples
//!
//! ```no_run
//! use smmap::{ErrorKind, MapManager};
//!
//! smmap::fault_guard::install()?;
//! // SAFETY: no process changes the file. If it is truncated, `check` reports that before the program uses the bytes.
//! let maps = unsafe { MapManager::builder().build()? };
//! let lease = maps.open("shared/log")?.lease(..)?;
//! let sum: u64 = lease.iter().map(|&byte| u64::from(byte)).sum();
//! match lease.check() {
//!     Ok(()) => println!("{sum}"),
//!     Err(error) if error.kind() == ErrorKind::Truncated => println!("the file was truncated"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), smmap::Error>(())
//! ```

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::os::{self, Process};
use crate::protocol::address_table::AddressTable;

/// The mappings of all managers: a process has one handler.
static RANGES: OnceLock<Known> = OnceLock::new();

struct Known {
    ranges: AddressTable,
    /// The process that may insert into the table. A child of `fork` may not: a thread that does not exist in the child
    /// may have held the table's lock.
    process: Process,
}

static IS_INSTALLED: OnceLock<()> = OnceLock::new();

/// Installs the handler for SIGBUS, for the rest of the process's life.
///
/// One call is enough, from any thread, before or after managers are built. Another call does nothing, unless another
/// handler was installed since: then it installs the guard over that handler, which works seven times.
///
/// # Errors
///
/// Returns [`Io`](crate::ErrorKind::Io) if the OS refuses, or if the guard was installed over other handlers too often.
///
/// # Examples
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

/// Adds a new mapping to the table, before any reader gets its address. Does nothing in a child of `fork`.
pub(crate) fn register(mapping: Range<usize>) {
    let known = RANGES.get_or_init(|| Known { ranges: AddressTable::default(), process: Process::this() });
    if known.process.is_this() {
        known.ranges.insert(mapping);
        os::sigbus::keep_reserve();
    }
}

/// Removes a mapping from the table, after its last reader and before it is unmapped. In a child of `fork` as well: a
/// later mapping of the child at these addresses is not guarded.
pub(crate) fn unregister(mapping: Range<usize>) {
    let Some(known) = RANGES.get() else { return };
    if known.process.is_this() {
        known.ranges.remove(mapping);
    } else {
        known.ranges.remove_in_child(mapping);
    }
}

/// Returns `true` if any mapping is faulted. A concurrent fault may be missed.
#[inline]
pub(crate) fn any_faulted() -> bool {
    RANGES.get().is_some_and(|known| known.ranges.any_faulted())
}

/// Returns the addresses of the faulted part of `bytes`, which lie in `mapping`, or `None` if there is none. Call it
/// after the bytes were read, so that it covers faults of that read.
#[inline]
pub(crate) fn faulted_part(mapping: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
    RANGES.get()?.ranges.faulted_part(mapping, bytes)
}

/// Returns `true` after [`install`] has succeeded once.
#[inline]
pub(crate) fn is_installed() -> bool {
    IS_INSTALLED.get().is_some()
}
