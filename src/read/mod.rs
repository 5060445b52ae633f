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

use crate::cache::Want;
use crate::error::{ErrorKind, Result};
use crate::manager::MappedFile;
use crate::region::RegionRef;

/// The largest range, in bytes, that is copied rather than mapped by itself. Copying so much costs about what mapping and
/// touching it costs.
pub(crate) const SMALL: u64 = 256 << 10;

/// A region, and where in the file its first byte is.
#[derive(Debug)]
struct Held {
    start: u64,
    region: RegionRef,
    /// The window that it is; `None` for a mapping of its own.
    window: Option<u64>,
}

impl Held {
    /// The bytes of `range`, if all of them are here.
    #[inline(always)]
    fn get(&self, range: Range<u64>) -> Option<&[u8]> {
        // An offset before the first byte wraps, to more than any length.
        let start = range.start.wrapping_sub(self.start);
        let end = range.end.wrapping_sub(self.start);
        if start <= end && end <= self.region.len() as u64 {
            self.region.get(start as usize..end as usize)
        } else {
            None
        }
    }

    /// The bytes from `offset` to the end, if `offset` is here.
    #[inline(always)]
    fn get_from(&self, offset: u64) -> Option<&[u8]> {
        let at = offset.wrapping_sub(self.start);
        if at < self.region.len() as u64 { self.region.get(at as usize..) } else { None }
    }
}

impl MappedFile {
    /// The region that serves `range`: not empty, and inside the file. `None`: copy it.
    fn region_for(&self, range: &Range<u64>) -> Result<Option<Held>> {
        let geometry = self.geometry();
        let index = geometry.index(range.start);
        let span = geometry.span(index, u64::MAX);
        let is_small = range.end - range.start <= SMALL;
        if range.end <= span.end {
            let want = if is_small { Want::IfWorth } else { Want::Mapping };
            match self.window_if(index, range.end, want) {
                Ok(region) => return Ok(region.map(|region| Held { start: span.start, region, window: Some(index) })),
                // The window is more than the budget holds; what was asked for may be less.
                Err(error) if error.kind() == ErrorKind::OverBudget && !is_small => {}
                Err(error) => return Err(error),
            }
        } else if is_small {
            return Ok(None);
        }
        let region =
            self.cache().detached(self.cached(), range.clone()).map_err(|error| self.explain(error, range.clone()))?;
        Ok(Some(Held { start: range.start, region, window: None }))
    }

    fn copied(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.copy(range, &mut bytes)?;
        Ok(bytes)
    }
}
