//! What a reader holds: a cursor, a lease, a buffer, an iterator over windows.
//!
//! Which ranges are served how is decided here, once, for all of them ([`MappedFile::region_for`]):
//!
//! | a range | that lies in one window | that crosses windows |
//! |---|---|---|
//! | of at most [`SMALL`] bytes | its window, if that is mapped or worth it; else a copy | a copy |
//! | of more | its window, mapped if it was not; if the budget does not hold the window, a mapping of its own | a mapping of its own |
//!
//! A copy takes what is mapped from where it is mapped and reads the rest, and it never fails for the budget. A mapping of
//! its own ("detached") counts in the budget like any other, and goes with its last client.

mod buffer;
mod cursor;
mod lease;
mod windows;

use std::ops::Range;

pub use buffer::{Buffer, FindIter, Lines, Split};
pub use cursor::Cursor;
pub use lease::Lease;
pub use windows::Windows;

use crate::cache::Effort;
use crate::cache::region::{Region, RegionRef};
use crate::error::{ErrorKind, Result};
use crate::file::MappedFile;
use crate::policy::Access;
use crate::protocol::slot::Slot;

/// The largest range, in bytes, that is copied rather than mapped by itself. Copying so much costs about what mapping and
/// touching it costs.
pub(crate) const SMALL: u64 = 256 << 10;

/// A region for a range, and where in the file its first byte is.
#[derive(Debug)]
struct Found {
    start: u64,
    region: RegionRef,
    /// The window that it is; `None` for a mapping of its own.
    window: Option<u64>,
}

impl Found {
    /// `range` of the file, which is inside of it.
    fn narrow(self, range: &Range<u64>) -> RegionRef {
        self.region.narrow((range.start - self.start) as usize..(range.end - self.start) as usize)
    }
}

impl MappedFile {
    /// The region that serves `range`, which is not empty, inside the file, and no hit; it starts in the window of `slot`.
    /// `None`: copy it.
    #[inline]
    fn region_for(&self, range: &Range<u64>, slot: &Slot<Region>, touch: Access) -> Result<Option<Found>> {
        let effort = if range.end - range.start > SMALL {
            self.cache().demand()
        } else {
            if !self.geometry().is_in_one(range) {
                return Ok(None);
            }
            match self.cache().worth(self.cached(), slot, self.geometry().index(range.start), touch) {
                Some(effort) => effort,
                None => return Ok(None),
            }
        };
        self.region_by(range, effort)
    }

    /// The same for one that is worth such an effort.
    #[cold]
    fn region_by(&self, range: &Range<u64>, effort: Effort) -> Result<Option<Found>> {
        if self.geometry().is_in_one(range) {
            let (window, start) = self.geometry().locate(range.start);
            match self.missed_window(window, range.end, effort) {
                Ok(region) => return Ok(region.map(|region| Found { start, region, window: Some(window) })),
                // The window is more than the budget holds; what was asked for may be less.
                Err(error) if error.kind() == ErrorKind::OverBudget && effort.is_demand() => {}
                Err(error) => return Err(error),
            }
        }
        let region =
            self.cache().detached(self.cached(), range.clone()).map_err(|error| self.explain(error, range.clone()))?;
        Ok(Some(Found { start: range.start, region, window: None }))
    }

    /// A copy of what [`region_for`](Self::region_for) has no region for.
    fn copied(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        // Only what was not there before is filled with zeros, since all of it is read.
        let len = (range.end - range.start) as usize;
        if bytes.len() != len {
            bytes.resize(len, 0);
        }
        if self.geometry().is_in_one(&range) {
            // Its window was asked, and is neither mapped nor worth it.
            self.read(range.start, bytes)
        } else {
            self.copy(range, bytes)
        }
    }
}
