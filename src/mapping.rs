//! [`Mapping`]: a span of a file, mapped for reading. I/O without concurrency, and the only user of memmap2.
#![allow(unsafe_code, reason = "unmapping and advice by address")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

use crate::fault_guard;
use crate::os::{self, Advice};

/// A mapped span of a file. Never empty until it is [unmapped](Self::unmap); dropping it unmaps it as well.
///
/// It keeps no descriptor open, and stays what it is when the file is renamed or deleted.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    /// 0 once unmapped.
    len: usize,
    /// memmap2's drop does not tell whether the system refused, so where that can happen it is disarmed and we unmap.
    #[cfg(not(unix))]
    raw: Option<MmapRaw>,
}

// SAFETY: a mapping is memory like any other; it belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: shared, it is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `start` on: `len` not 0, `start` a multiple of the mapping granularity, all of it inside the
    /// file.
    pub(crate) fn map(file: &File, start: u64, len: usize) -> io::Result<Self> {
        debug_assert!(len > 0 && start % os::mapping_granularity() as u64 == 0, "{len} bytes from {start}");
        let raw = MmapOptions::new().offset(start).len(len).map_raw_read_only(file)?;
        let Some(address) = NonNull::new(raw.as_mut_ptr()) else {
            return Err(io::Error::other("the system mapped the file at address 0"));
        };
        let mapping = Self::keep(raw, address, len).realign(file, start)?;
        fault_guard::protect(mapping.addresses());
        Ok(mapping)
    }

    #[cfg(unix)]
    fn keep(raw: MmapRaw, address: NonNull<u8>, len: usize) -> Self {
        std::mem::forget(raw);
        Self { address, len }
    }

    #[cfg(not(unix))]
    fn keep(raw: MmapRaw, address: NonNull<u8>, len: usize) -> Self {
        Self { address, len, raw: Some(raw) }
    }

    /// The same, where the system maps large pages as such if it can. It was made just now of `file` from `start` on.
    fn realign(mut self, file: &File, start: u64) -> io::Result<Self> {
        let len = std::mem::replace(&mut self.len, 0);
        // SAFETY: its own address and length, which nobody has been told yet. If that fails it is gone, as `len` says.
        let address = unsafe { os::realign(file, start, self.address.as_ptr(), len) }?;
        self.address = NonNull::new(address).unwrap_or(self.address);
        self.len = len;
        Ok(self)
    }

    /// Gives the bytes back to the system. If that is refused, they stay mapped, and it may be tried again.
    pub(crate) fn unmap(&mut self) -> io::Result<()> {
        if self.len > 0 {
            // First, since afterwards the system may give the addresses to somebody else.
            fault_guard::unprotect(self.addresses());
            // SAFETY: made by `map` and not unmapped yet (`len`). Nothing refers to it: references live at most as long
            // as a borrow of `self`, and this borrow is exclusive.
            unsafe { os::unmap(self.address.as_ptr(), self.len) }?;
            self.len = 0;
            #[cfg(not(unix))]
            drop(self.raw.take());
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `bytes` as a length in memory, if there can be one: no mapping is longer than half of the address space.
    pub(crate) fn addressable(bytes: u64) -> Option<usize> {
        isize::try_from(bytes).ok()?.try_into().ok()
    }

    /// What it takes of the budget: whole pages.
    pub(crate) fn pages(len: usize) -> usize {
        len.next_multiple_of(os::page_size())
    }

    /// Where the bytes are, for as long as `self` is not unmapped.
    #[inline]
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Of whole pages, as the system maps them.
    fn addresses(&self) -> Range<usize> {
        let start = self.address.as_ptr() as usize;
        start..start + Self::pages(self.len)
    }

    pub(crate) fn advise(&self, advice: Advice) {
        // SAFETY: a mapping's own address and length.
        unsafe { os::advise(self.address.as_ptr(), self.len, advice) };
    }

    /// Has all of it in memory, if its end is not; whether it had to. It was made of `file` from `start` on.
    pub(crate) fn read_ahead(&self, file: &File, start: u64) -> bool {
        // SAFETY: a mapping's own address and length.
        unsafe { os::read_ahead(file, start, self.address.as_ptr(), self.len) }
    }

    /// Has the pages of `range` there, which lies inside, without danger: what cannot be had is an error. `false` if the system
    /// cannot do that.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<bool> {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        let start = range.start - range.start % os::page_size();
        // SAFETY: from a page of the mapping up to its end at most.
        unsafe { os::populate(self.address.as_ptr().wrapping_add(start), range.end - start) }
    }

    /// Whether a hole was found in it, as of about now.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        fault_guard::any_faulted() && fault_guard::faulted_part(self.addresses(), self.addresses()).is_some()
    }

    /// Where holes were found among `len` bytes at `start`, which are part of it: counted from `start`. Ask after reading.
    #[inline]
    pub(crate) fn faulted_part(&self, start: *const u8, len: usize) -> Option<Range<usize>> {
        let start = start as usize;
        let faulted = fault_guard::faulted_part(self.addresses(), start..start + len)?;
        Some(faulted.start - start..faulted.end - start)
    }

    /// Whether `len` bytes at `start`, which are part of it, may reach past the end of a file that was cut short inside a page:
    /// from there to the end of the page all is zero. Ask after reading. `false` where nobody wants to know.
    #[inline]
    pub(crate) fn may_end_early(&self, start: *const u8, len: usize) -> bool {
        fault_guard::is_installed() && len > 0 && Self::ends_in_zeros(start, len)
    }

    /// Whether some page ends in a zero among these bytes; or, of the page that they end in, all is zero from their last one on.
    fn ends_in_zeros(start: *const u8, len: usize) -> bool {
        let page = os::page_size();
        // SAFETY: a byte of a page of the mapping that `start` is in: the system maps whole pages.
        let is_zero = |at: usize| unsafe { start.wrapping_add(at).read_volatile() } == 0;
        let first_end = page - 1 - (start as usize & (page - 1));
        let mut page_ends = (first_end..).step_by(page);
        if page_ends.by_ref().take_while(|&at| at < len - 1).any(is_zero) {
            return true;
        }
        let last_end = len - 1 + (page - 1 - ((start as usize + len - 1) & (page - 1)));
        (len - 1..=last_end).all(is_zero)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Whoever can try again has called `unmap` before; here there is nobody left to tell.
        let _ = self.unmap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_goes_when_told_and_only_once() {
        let mut file = tempfile::tempfile().unwrap();
        let granule = os::mapping_granularity();
        file.write_all(&vec![7; granule + 10]).unwrap();
        let mut mapping = Mapping::map(&file, granule as u64, 10).unwrap();
        assert_eq!(mapping.len(), 10);
        mapping.advise(Advice::WillNeed);
        mapping.advise(Advice::Sequential);
        mapping.unmap().unwrap();
        assert_eq!(mapping.len(), 0);
        mapping.unmap().unwrap();
    }

    /// In memory, where the file system does not look after it itself.
    #[test]
    #[cfg(target_os = "linux")]
    fn large_pages_of_a_file_can_be_mapped_as_such() {
        const LARGE: usize = 2 << 20;
        let Ok(mut file) = tempfile::tempfile_in("/dev/shm") else {
            eprintln!("SKIPPED: the place of mappings: no file system in memory at /dev/shm");
            return;
        };
        let bytes: Vec<u8> = (0..8 * LARGE).map(|at| (at / 4096) as u8).collect();
        file.write_all(&bytes).unwrap();
        // All are kept, so that each is in another place: what is just below may be taken, by another thread's test or by chance.
        let mut kept = Vec::new();
        let mut well_placed = |start: usize, len: usize| {
            // So that the next place is not a good one by chance.
            kept.push(Mapping::map(&file, 0, 1).unwrap());
            let mapping = Mapping::map(&file, start as u64, len).unwrap();
            let address = mapping.address().as_ptr();
            kept.push(mapping);
            // SAFETY: inside, and the file is nobody else's.
            let mapped = unsafe { std::slice::from_raw_parts(address, len) };
            assert_eq!(mapped, &bytes[start..start + len]);
            (address as usize).wrapping_sub(start) % LARGE == 0
        };
        let mut often = |start, len| (0..32).filter(|_| well_placed(start, len)).count();
        assert!(often(0, 4 * LARGE) > 16, "a window");
        assert!(often(LARGE + 4096, 3 * LARGE) > 16, "a range");
    }

    #[test]
    fn what_ends_early_is_zero_to_the_end_of_its_page() {
        let page = os::page_size();
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![1; 2 * page + 100];
        bytes[7] = 0;
        bytes[page - 20..page].fill(0);
        file.write_all(&bytes).unwrap();
        let mapping = Mapping::map(&file, 0, bytes.len()).unwrap();
        let ends = |start: usize, end: usize| {
            Mapping::ends_in_zeros(mapping.address().as_ptr().wrapping_add(start), end - start)
        };
        assert!(!ends(0, 8), "zero, but not what follows it");
        assert!(!ends(0, page - 20) && ends(0, page - 19) && ends(page - 5, page - 4) && ends(page - 1, page));
        assert!(ends(0, page + 1) && ends(page - 5, 2 * page), "the page in the middle");
        assert!(!ends(page, 2 * page) && !ends(page, 2 * page + 100), "up to the end");
    }

    #[test]
    fn the_budget_counts_whole_pages() {
        let page = os::page_size();
        assert_eq!([1, page, page + 1].map(Mapping::pages), [page, page, 2 * page]);
        assert_eq!(Mapping::addressable(u64::MAX), None);
        assert!(
            Mapping::addressable(isize::MAX as u64)
                .map(Mapping::pages)
                .is_some_and(|pages| pages > isize::MAX as usize)
        );
    }
}
