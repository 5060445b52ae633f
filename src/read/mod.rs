//! The readers: cursors, leases, buffers, and iterators over windows.
//!
//! All of them look a window up first, and call [`MappedFile::acquire`](crate::MappedFile) if that is no hit. The size
//! of a range decides what they need:
//!
//! | range | in one window | across windows |
//! |---|---|---|
//! | at most [`SMALL`] bytes | its window, if that is mapped or the mapping pays off; otherwise a copy | a copy |
//! | more | its window, which is mapped if it was not; if the budget has no room for the window, a detached region | a detached region |
//!
//! A copy takes mapped bytes from their mapping, and reads the rest. It never fails for the budget.

mod buffer;
mod cursor;
mod lease;
mod windows;

use std::ops::Range;

pub use buffer::{Buffer, FindIter, Lines, Split};
pub use cursor::Cursor;
pub use lease::Lease;
pub use windows::Windows;

use crate::cache::Need;
use crate::policy::Access;

/// The largest range, in bytes, that is copied: this costs about as much as mapping it and touching its pages.
pub(crate) const SMALL: u64 = 256 << 10;

/// Returns what a slice or a lease of `range` needs.
fn need(range: &Range<u64>, access: Access) -> Need {
    if range.end - range.start > SMALL { Need::Mapped } else { Need::Optional(access) }
}
