//! Finding out whether mapped bytes were really there. A file that was truncated, or a medium that failed, leaves zeros
//! in a mapping (see [`fault_guard`](crate::fault_guard)).
//!
//! After a read, the reader asks the region for a [`Suspect`]. If there is one, the bytes are compared with the file.
//! [`Revalidate`] is about other checks: of a file's length and names, by `stat`.

use std::fs::File;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::copy::read_exact_at;
use super::load::truncated;
use super::open::cannot_stat;
use super::region::Region;
use super::{Cache, CachedFile};
use crate::config::Revalidate;
use crate::error::{Error, ErrorKind, Result};
use crate::os;
use crate::policy::Access;

/// Why bytes that were read from a mapping may not be the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suspect {
    /// The bytes end in zeros, as they would if the file had been truncated inside a page.
    Zeros,
    /// Faults were found in this range, relative to the first byte.
    Faulted(Range<usize>),
}

impl Region {
    /// Returns why the `len` bytes at `start`, a part of the mapping, may not be the file's. To be called after reading
    /// them.
    #[inline]
    pub(crate) fn suspect(&self, start: NonNull<u8>, len: usize) -> Option<Suspect> {
        let start = start.as_ptr().cast_const();
        match self.mapping().faulted_part(start, len) {
            Some(range) => Some(Suspect::Faulted(range)),
            None if self.mapping().may_end_early(start, len) => Some(Suspect::Zeros),
            None => None,
        }
    }

    /// Returns an error if the file ends before `bytes`, or differs from them where faults were found. `bytes` are a
    /// part of the mapping, and begin at `offset` of the file.
    ///
    /// Works for a lease that has outlived the file's handles and the cache. If the file cannot be read any more, only
    /// suspect bytes give an error: the others cannot be zeros in place of missing bytes.
    #[cold]
    pub(crate) fn validate(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file();
        let suspect = self.suspect(NonNull::from(bytes).cast(), bytes.len());
        let is_suspect = suspect.is_some();
        let compared = file.cache.upgrade().ok_or_else(possibly_truncated).and_then(|cache| {
            Ok(match file.descriptor.get() {
                Some(open) => cache.compare(&open.file, offset, bytes, suspect),
                // Not installed in the file: it may have no handle that would close it.
                None => cache.compare(&cache.reopen(file)?, offset, bytes, suspect),
            })
        });
        let result = compared.unwrap_or_else(|error| if is_suspect { Err(error) } else { Ok(()) });
        let range = offset..offset + bytes.len() as u64;
        result.map_err(|error| error.at(file.names().first().map(|name| name.as_path())).within(range))
    }
}

impl Cache {
    /// [Validates](Region::validate) suspect `bytes` of `region`. For a reader with a handle: a closed descriptor is
    /// reopened for all readers.
    #[inline]
    pub(crate) fn validate_suspect(
        &self,
        file: &Arc<CachedFile>,
        region: &Region,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        match region.suspect(NonNull::from(bytes).cast(), bytes.len()) {
            None => Ok(()),
            suspect => self.compare_by_handle(file, offset, bytes, suspect),
        }
    }

    #[cold]
    fn compare_by_handle(
        &self,
        file: &Arc<CachedFile>,
        offset: u64,
        bytes: &[u8],
        suspect: Option<Suspect>,
    ) -> Result<()> {
        self.compare(&self.descriptor(file, None)?.file, offset, bytes, suspect)
    }

    /// Returns an error if `file` ends before the end of `bytes`, or differs from them where faults were found.
    fn compare(&self, file: &File, offset: u64, bytes: &[u8], suspect: Option<Suspect>) -> Result<()> {
        let faulted = match suspect {
            Some(Suspect::Faulted(faulted)) => Some(faulted),
            _ if self.config.revalidate == Revalidate::Never => return Ok(()),
            _ => None,
        };
        reaches(file, offset + bytes.len() as u64)?;
        let Some(faulted) = faulted else { return Ok(()) };
        let mut mapped = &bytes[faulted.clone()];
        read_in_parts(file, offset + faulted.start as u64..offset + faulted.end as u64, |read| {
            let (part, rest) = mapped.split_at(read.len());
            mapped = rest;
            if part == read { Ok(()) } else { Err(possibly_truncated()) }
        })
    }

    /// Reads each page of `range` without a risk of faults: populates the pages of mapped windows, and reads the rest
    /// from the file.
    pub(crate) fn verify(&self, file: &Arc<CachedFile>, range: Range<u64>) -> Result<()> {
        let descriptor = self.descriptor(file, None)?;
        let geometry = &self.config.geometry;
        for (window, piece) in geometry.pieces(range.clone()) {
            let start = geometry.start(window);
            let (at, len) = (piece.start - start, piece.end - piece.start);
            let mapped = self.lookup(file, window, at, len, Access::Repeat);
            // If the OS cannot populate the pages, the read says why. It allocates no pages for holes.
            let populate =
                |region: &Region| region.mapping().populate(at as usize..(at + len) as usize).unwrap_or(false);
            let is_populated =
                !file.system.allocates_holes() && mapped.is_ok_and(|part| part.region().is_some_and(populate));
            if !is_populated {
                read_in_parts(&descriptor.file, piece, |_| Ok(()))?;
            }
        }
        reaches(&descriptor.file, range.end)
    }
}

/// Returns an error if the file is shorter than `end`.
pub(super) fn reaches(file: &File, end: u64) -> Result<()> {
    let len = os::stat(file).map_err(cannot_stat)?.len;
    if len < end { Err(truncated(len, end)) } else { Ok(()) }
}

/// Reads `range` in parts, and passes each to `check`. Stops at the first error.
fn read_in_parts(file: &File, range: Range<u64>, mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    const PART: u64 = 64 << 10;
    let mut bytes = vec![0; PART.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let part = &mut bytes[..PART.min(range.end - at) as usize];
        read_exact_at(file, part, at, range.end)?;
        check(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

fn possibly_truncated() -> Error {
    let message =
        "the file may have been truncated while it was mapped, so zero bytes may not be file content: retry the read";
    Error::new(ErrorKind::Truncated, message)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::cache::load::tests::{Opened, WINDOW};
    use std::os::unix::fs::FileExt;

    fn is_truncated(result: Result<()>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::Truncated)
    }

    #[test]
    fn compare_finds_other_bytes_in_the_faulted_range_only() {
        let opened = Opened::new(8, WINDOW);
        let file = opened.on_disk.as_file();
        file.write_all_at(b"abcdef", 100).unwrap();
        let compare = |bytes: &[u8], faulted| opened.cache.compare(file, 100, bytes, Some(Suspect::Faulted(faulted)));
        compare(b"abcdef", 0..6).unwrap();
        compare(b"ab\0\0ef", 4..6).unwrap();
        assert!(is_truncated(compare(b"ab\0\0ef", 2..4)));
        assert!(is_truncated(compare(b"abcde\0", 1..6)));
    }

    #[test]
    fn bytes_past_the_end_are_not_valid() {
        let opened = Opened::new(8, WINDOW);
        let file = opened.on_disk.as_file();
        reaches(file, WINDOW).unwrap();
        assert!(is_truncated(reaches(file, WINDOW + 1)));
        for suspect in [None, Some(Suspect::Zeros)] {
            opened.cache.compare(file, WINDOW - 5, b"bytes", suspect.clone()).unwrap();
            assert!(is_truncated(opened.cache.compare(file, WINDOW - 4, b"bytes", suspect)));
        }
    }

    /// The last page of a truncated file can be read up to its end.
    #[test]
    fn verify_of_a_truncated_page_is_an_error() {
        let opened = Opened::new(8, WINDOW);
        drop(opened.cache.map_window(&opened.file, 0, WINDOW));
        opened.cache.verify(&opened.file, 0..WINDOW).unwrap();
        opened.on_disk.as_file().set_len(WINDOW - 1).unwrap();
        assert!(is_truncated(opened.cache.verify(&opened.file, 0..WINDOW)));
    }
}
