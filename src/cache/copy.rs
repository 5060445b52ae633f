//! Reading without keeping a mapping: from what is mapped where it is, from the file where that is cheaper.
//!
//! It never waits for room and never fails for the budget, and it never forms a reference to mapped bytes.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::evict::Effort;
use super::load::truncated;
use super::{Cache, CachedFile};
use crate::cache::region::{RegionRef, Suspect, View};
use crate::config::Revalidate;
use crate::error::{Error, Result};
use crate::os;
use crate::policy::Access;
use crate::stats::Event;

impl Cache {
    /// Fills `buf` with `range` of the file: of the same length, and inside it.
    pub(crate) fn copy(&self, file: &Arc<CachedFile>, range: Range<u64>, mut buf: &mut [u8]) -> Result<()> {
        debug_assert_eq!(range.end - range.start, buf.len() as u64);
        let geometry = &self.config.geometry;
        for (window, piece) in geometry.pieces(range) {
            let (part, rest) = buf.split_at_mut((piece.end - piece.start) as usize);
            let start = geometry.start(window);
            // Not by way of one call that is both: what that returned would pass through memory, and cost a half more.
            let region = match self.hit(file, window, piece.end - start, Access::Counted) {
                Ok(client) => Some(RegionRef::new(client)),
                Err(slot) => match self.worth(file, slot, window, Access::Counted) {
                    Some(effort) => self.miss(file, window, piece.end - start, effort)?,
                    None => None,
                },
            };
            match region {
                Some(region) => self.copy_from(file, &region, (piece.start - start) as usize, piece.start, part)?,
                None => self.read(file, piece.start, part)?,
            }
            buf = rest;
        }
        Ok(())
    }

    /// Fills `buf` with what is in `region` from `at` on, and in the file from `offset` on.
    #[inline]
    pub(crate) fn copy_from(
        &self,
        file: &Arc<CachedFile>,
        region: &impl View,
        at: usize,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        region.copy_to(at, buf);
        match region.doubt(at, buf.len()) {
            Suspect::None => Ok(()),
            Suspect::Zeros if self.config.revalidate == Revalidate::Never => Ok(()),
            // Zeros may stand in the place of what is not there: the file knows.
            Suspect::Zeros | Suspect::Faulted(_) => {
                self.stats.count(Event::Copy);
                self.read(file, offset, buf)
            }
        }
    }

    /// Fills `buf` from the file. Who decides to do so counts it.
    #[inline]
    pub(crate) fn read(&self, file: &Arc<CachedFile>, offset: u64, buf: &mut [u8]) -> Result<()> {
        let descriptor = match self.open_descriptor_of(file) {
            Some(descriptor) => descriptor,
            None => self.descriptor(file, Effort::Force)?,
        };
        read_exact_at(descriptor.get(), buf, offset, file.entry.len())
    }
}

/// Fills `buf` from `offset` on, of a file that was so `long` before.
#[inline]
pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64, long: u64) -> Result<()> {
    let read = os::read_fully_at(file, buf, offset).map_err(|error| Error::io("cannot read", error))?;
    if read < buf.len() { Err(truncated(offset + read as u64, long)) } else { Ok(()) }
}
