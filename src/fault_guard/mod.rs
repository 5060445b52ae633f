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
//! | [`Buffer`](crate::Buffer), its searches and pieces | by itself: each answer is checked before it is given |
//! | [`Lease`](crate::Lease) | by [`Lease::check`](crate::Lease::check), after reading |
//! | `&[u8]` of a [`Cursor`](crate::Cursor) or a buffer | by [`Cursor::check`](crate::Cursor::check), after reading; and by the next call in the same region, if that is torn |
//!
//! The error is [`Truncated`](crate::ErrorKind::Truncated), or [`Io`](crate::ErrorKind::Io) if the file still reaches so far. A
//! torn region is given to nobody else: it is unmapped when its last client lets go (within a second or two, if there is none),
//! and the window is mapped anew for whoever asks.
//!
//! A file that ends inside a page has zeros behind its end, up to the end of the page, and no signal comes: there the *length*
//! says it. Copies ask for it (a system call) only where they end, or pass from page to page, with a zero: a byte that is not
//! zero was there. `check` asks always. With [`Revalidate::Never`](crate::Revalidate::Never) nobody asks.
//!
//! # What it does not do
//!
//! - The promise made to [`build`](crate::MapManagerBuilder::build) stays what it is. Bytes that turn to zeros under a `&[u8]`
//!   are bytes that change; where files may be cut short at any time, prefer what copies.
//! - In a system call that is handed mapped bytes (`write` from a lease), the call fails with EFAULT instead.
//! - A fault that is not ours, and a SIGBUS that somebody sent, goes to the handler that was there before, or ends the process
//!   as it always did. A handler that is installed later and does not call the one before it takes the guard off: then install
//!   the guard again, after it.
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
use std::process;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::os;
use crate::protocol::ranges::Ranges;

/// Of all managers: a process has one handler.
static RANGES: OnceLock<Known> = OnceLock::new();

struct Known {
    ranges: Ranges,
    /// The process that began it.
    process: u32,
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
    os::sigbus::install(|address, page| RANGES.get()?.ranges.tear(address, page))
        .map_err(|error| Error::io("cannot install the handler for SIGBUS", error))?;
    IS_INSTALLED.get_or_init(|| ());
    Ok(())
}

/// Makes a mapping known, before anybody reads there.
pub(crate) fn protect(mapping: Range<usize>) {
    let known = || Known { ranges: Ranges::default(), process: process::id() };
    RANGES.get_or_init(known).ranges.insert(mapping);
    os::sigbus::keep_reserve();
}

/// Forgets it, when nobody does any more. In a child of `fork` it stays known: another thread may have had the table locked at
/// that moment, and a drop waits for nobody there.
pub(crate) fn unprotect(mapping: Range<usize>) {
    if let Some(known) = RANGES.get().filter(|known| known.process == process::id()) {
        known.ranges.remove(mapping);
    }
}

/// Whether any mapping is torn, as of about now.
#[inline]
pub(crate) fn are_torn() -> bool {
    RANGES.get().is_some_and(|known| known.ranges.are_torn())
}

/// Whether a hole was found among `bytes` of a mapping. Ask after reading.
#[inline]
pub(crate) fn is_torn(mapping: Range<usize>, bytes: &Range<usize>) -> bool {
    RANGES.get().is_some_and(|known| known.ranges.is_torn(mapping, bytes))
}

/// Whether these bytes, of the file from `offset` on, can be what lies behind the end of a file that was cut short inside a
/// page: only if they have a zero where they end, or where a page does.
#[inline]
pub(crate) fn may_be_past_the_end(bytes: &[u8], offset: u64) -> bool {
    if IS_INSTALLED.get().is_none() {
        return false;
    }
    // A power of two.
    let page = os::page_size();
    let first_end = page - (offset as usize & (page - 1));
    bytes.last() == Some(&0)
        || first_end <= bytes.len() && bytes[first_end - 1..].iter().step_by(page).any(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_is_suspicious_where_a_page_or_the_range_ends() {
        install().unwrap();
        let page = os::page_size();
        let mut bytes = vec![1; 3 * page];
        bytes[7] = 0;
        assert!(!may_be_past_the_end(&bytes, 10 * page as u64));
        assert!(may_be_past_the_end(&bytes, (11 * page - 8) as u64));
        assert!(may_be_past_the_end(&bytes[..8], 0));
        assert!(!may_be_past_the_end(&bytes[..9], 0));
        bytes[2 * page - 1] = 0;
        assert!(may_be_past_the_end(&bytes, 0));
        assert!(!may_be_past_the_end(&bytes, 1));
        assert!(!may_be_past_the_end(&[], 5));
    }
}
