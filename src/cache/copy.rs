//! Reading without keeping a mapping: from a mapped window if there is one, from the file otherwise.
//!
//! A copy never waits for room, never fails for the budget, and never forms a reference to mapped bytes.

use std::fs::File;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::load::truncated;
use super::open::cannot_stat;
use super::prefault::Pattern;
use super::region::{Region, RegionRef};
use super::room::RoomPolicy;
use super::validate::Suspect;
use super::{Acquired, Cache, CachedFile};
use crate::config::Revalidate;
use crate::error::{Error, ErrorKind, Result};
use crate::os;
use crate::policy::Access;
use crate::protocol::slot::Slot;
use crate::stats::Event;

impl Cache {
    /// Fills `buf` with `range` of the file. `buf` has the length of `range`, which is inside the file.
    #[inline]
    pub(crate) fn copy(&self, file: &Arc<CachedFile>, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        debug_assert_eq!(range.end - range.start, buf.len() as u64);
        if range.is_empty() {
            Ok(())
        } else if self.config.geometry.is_in_one(&range) {
            self.copy_piece(file, range, buf)
        } else {
            self.copy_pieces(file, range, buf)
        }
    }

    /// [Copies](Self::copy) a range across windows.
    #[cold]
    fn copy_pieces(&self, file: &Arc<CachedFile>, range: Range<u64>, mut buf: &mut [u8]) -> Result<()> {
        for (_, piece) in self.config.geometry.pieces(range) {
            let (part, rest) = buf.split_at_mut((piece.end - piece.start) as usize);
            self.copy_piece(file, piece, part)?;
            buf = rest;
        }
        Ok(())
    }

    /// [Copies](Self::copy) a range inside one window.
    #[inline]
    fn copy_piece(&self, file: &Arc<CachedFile>, piece: Range<u64>, buf: &mut [u8]) -> Result<()> {
        let (window, start) = self.config.geometry.locate(piece.start);
        let slot = match self.lookup(file, window, piece.start - start, buf.len() as u64, Access::Counted) {
            Ok(part) => return self.copy_region(file, &part, piece.start, piece.start, buf),
            Err(slot) => slot,
        };
        match self.admit(file, slot, window, Access::Counted) {
            None => self.read(file, piece.start, buf),
            Some(policy) => self.copy_admitted(file, slot, piece, policy, buf),
        }
    }

    /// [Copies](Self::copy) a range of a window that is to be mapped for it.
    #[cold]
    fn copy_admitted(
        &self,
        file: &Arc<CachedFile>,
        slot: Option<&Slot<Region>>,
        piece: Range<u64>,
        policy: RoomPolicy,
        buf: &mut [u8],
    ) -> Result<()> {
        match self.acquire_window(file, slot, &piece, policy)? {
            Acquired::ReadFile => self.read(file, piece.start, buf),
            Acquired::Region { region, start, .. } => {
                region.expect(start, Pattern::Scattered);
                self.copy_region(file, &region, start, piece.start, buf)
            }
        }
    }

    /// Fills `buf` with the bytes at `offset` of the file, from a region that starts at `start` and has all of them.
    #[inline]
    fn copy_region(
        &self,
        file: &Arc<CachedFile>,
        region: &RegionRef,
        start: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let Some(source) = region.bytes().copy_to(offset - start, buf) else {
            unreachable!("the region is mapped up to the end of the range")
        };
        match region.region() {
            Some(region) => self.replace_suspect(file, region, source, offset, buf),
            None => Ok(()),
        }
    }

    /// Reads `buf` from the file at `offset` if its bytes, which were copied from `source` in the mapping of `region`,
    /// are suspect.
    #[inline]
    pub(crate) fn replace_suspect(
        &self,
        file: &Arc<CachedFile>,
        region: &Region,
        source: NonNull<u8>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        match region.suspect(source, buf.len()) {
            None => Ok(()),
            Some(suspect) => self.replace(file, &suspect, offset, buf),
        }
    }

    #[cold]
    fn replace(&self, file: &Arc<CachedFile>, suspect: &Suspect, offset: u64, buf: &mut [u8]) -> Result<()> {
        if *suspect == Suspect::Zeros && self.config.revalidate == Revalidate::Never {
            return Ok(());
        }
        self.stats.count(Event::Copy);
        self.read(file, offset, buf)
    }

    /// Fills `buf` from the file. The caller has counted the copy.
    #[inline]
    pub(crate) fn read(&self, file: &Arc<CachedFile>, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &*file.descriptor.borrow() {
            Some(open) => read_exact_at(&open.file, buf, offset, file.len()),
            None => self.reopen_and_read(file, offset, buf),
        }
    }

    #[cold]
    fn reopen_and_read(&self, file: &Arc<CachedFile>, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_exact_at(&self.descriptor(file, None)?.file, buf, offset, file.len())
    }
}

/// Fills `buf` with the bytes of `file` at `offset`. Returns an error that names `known_len`, the last known length, if
/// the file is too short.
// Inlined always: the call costs a tenth of a small copy.
#[inline(always)]
pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64, known_len: u64) -> Result<()> {
    match os::read_at(file, buf, offset) {
        Ok(read) if read == buf.len() => Ok(()),
        _ => read_in_steps(file, buf, offset, known_len),
    }
}

/// [Reads](read_exact_at) after a read that failed, was interrupted or returned fewer bytes.
#[cold]
fn read_in_steps(file: &File, buf: &mut [u8], offset: u64, known_len: u64) -> Result<()> {
    let read = os::read_fully_at(file, buf, offset).map_err(|error| Error::io("cannot read", error))?;
    if read < buf.len() {
        Err(ended_early(file, offset + read as u64, offset + buf.len() as u64, known_len))
    } else {
        Ok(())
    }
}

/// Explains a read that ended at `end` instead of `wanted`.
#[cold]
pub(super) fn ended_early(file: &File, end: u64, wanted: u64, known_len: u64) -> Error {
    match os::stat(file) {
        Err(error) => cannot_stat(error),
        Ok(stat) if stat.len < wanted => truncated(stat.len, known_len),
        Ok(stat) => {
            let message = format!(
                "the file has {} bytes, but a read ended at byte {end}: it was truncated and has grown again, or it is \
                 generated while it is read: retry the read",
                stat.len
            );
            Error::new(ErrorKind::Truncated, message)
        }
    }
}
