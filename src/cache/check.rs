//! Was it there, what was read of a mapping? A file that was cut short, or a medium that fails, leaves zeros in its place (see
//! [`fault_guard`](crate::fault_guard)).
//!
//! Whoever has read asks the region whether there is any [`Suspect`]; where there is, the file is asked, as here.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::copy::read_exact_at;
use super::evict::Effort;
use super::load::truncated;
use super::{Cache, CachedFile, cannot_look};
use crate::cache::region::Suspect;
use crate::config::Revalidate;
use crate::error::{Error, ErrorKind, Result};
use crate::os;
use crate::policy::Access;

impl Cache {
    /// Whether `bytes`, which were mapped as those of the file from `offset` on, are what the file has.
    #[cold]
    pub(crate) fn check(&self, file: &Arc<CachedFile>, offset: u64, bytes: &[u8], doubt: Suspect) -> Result<()> {
        let descriptor = self.descriptor(file, Effort::Force)?;
        self.compare(descriptor.get(), offset, bytes, doubt)
    }

    /// Whether the file reaches to the end of `bytes`, and has those that were torn.
    fn compare(&self, file: &File, offset: u64, bytes: &[u8], doubt: Suspect) -> Result<()> {
        if self.config.revalidate == Revalidate::Never && !matches!(doubt, Suspect::Faulted(_)) {
            return Ok(());
        }
        reaches(file, offset + bytes.len() as u64)?;
        let Suspect::Faulted(faulted) = doubt else { return Ok(()) };
        let mut mapped = &bytes[faulted.clone()];
        read_through(file, offset + faulted.start as u64..offset + faulted.end as u64, |read| {
            let (part, rest) = mapped.split_at(read.len());
            mapped = rest;
            if part == read { Ok(()) } else { Err(possibly_truncated()) }
        })
    }

    /// Has all of `range` there without danger: what is mapped, where it is mapped; the rest is read.
    pub(crate) fn verify(&self, file: &Arc<CachedFile>, range: Range<u64>) -> Result<()> {
        let descriptor = self.descriptor(file, Effort::Force)?;
        let geometry = &self.config.geometry;
        for (window, piece) in geometry.pieces(range.clone()) {
            let start = geometry.start(window);
            let (at, end) = ((piece.start - start) as usize, piece.end - start);
            let mapped = self.hit(file, window, end, Access::Repeat);
            // What the system refused is read, which says why.
            let is_populated = mapped.is_ok_and(|client| client.get().populate(at..end as usize).unwrap_or(false));
            if !is_populated {
                read_through(descriptor.get(), piece, |_| Ok(()))?;
            }
        }
        reaches(descriptor.get(), range.end)
    }
}

impl CachedFile {
    /// As [`Cache::check`], for a client that may have outlived the handles and the cache.
    pub(super) fn check_mapped(self: &Arc<Self>, offset: u64, bytes: &[u8], doubt: Suspect) -> Result<()> {
        let is_doubtful = doubt != Suspect::None;
        let compared = self.cache.upgrade().ok_or_else(possibly_truncated).and_then(|cache| {
            Ok(match self.entry.slots().descriptor.take() {
                Ok(descriptor) => cache.compare(descriptor.get(), offset, bytes, doubt),
                // Not into its slot, from which nobody may be left to take it.
                Err(_) => cache.compare(&cache.reopen(self)?, offset, bytes, doubt),
            })
        });
        match compared {
            Ok(result) => result,
            // It cannot be looked at any more. It has all its bytes, if none of them is a zero that may not be its own.
            Err(error) if is_doubtful => Err(error),
            Err(_) => Ok(()),
        }
    }
}

/// Whether the file is so long.
fn reaches(file: &File, end: u64) -> Result<()> {
    let len = os::stat(file).map_err(cannot_look)?.len;
    if len < end { Err(truncated(len, end)) } else { Ok(()) }
}

/// Reads `range` a part at a time, for what the system, or `look`, says of it.
fn read_through(file: &File, range: Range<u64>, mut look: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    const PART: u64 = 64 << 10;
    let mut bytes = vec![0; PART.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let part = &mut bytes[..PART.min(range.end - at) as usize];
        read_exact_at(file, part, at, range.end)?;
        look(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Of a hole that cannot be seen any more.
fn possibly_truncated() -> Error {
    let message = "it may have been cut short while it was mapped: zeros that were read there need not be its own; read it once more";
    Error::new(ErrorKind::Truncated, message)
}
