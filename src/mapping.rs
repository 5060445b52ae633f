//! [`Mapping`]: a span of a file, mapped for reading.
//!
//! I/O without concurrency, except for the table of the fault guard. No other module uses memmap2, which maps files on
//! Unix, and memory for copies.
#![allow(clippy::disallowed_types, reason = "the one module that maps files")]
#![allow(unsafe_code, reason = "unmapping and advice by address")]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;

use memmap2::MmapOptions;

use crate::fault_guard;
use crate::os::{self, Advice, ReadAhead};
use crate::sync::AtomicU32;

/// A mapped span of a file, or a copy of it in memory of its own. Dropping it unmaps it.
///
/// A mapping has at least one byte until it is [unmapped](Self::unmap). It keeps no descriptor open, and it stays valid
/// when the file is renamed or deleted.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    /// 0 after it was unmapped.
    len: usize,
    /// The mapping consists of whole pages of 1 << `page_shift` bytes, which are larger than those of the OS on
    /// hugetlbfs.
    page_shift: u8,
    is_private: bool,
    pattern: AtomicU32,
}

// SAFETY: a mapping belongs to no thread, so any thread may use and unmap it.
unsafe impl Send for Mapping {}
// SAFETY: all methods that take `&self` only read the mapped bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file`, starting at `start`. Its file system has pages of `page` bytes.
    ///
    /// `len` must not be 0, `start` must be a multiple of the mapping granularity, and the range must lie inside the
    /// file.
    ///
    /// If the OS does not share the file's pages with other processes (FUSE with `direct_io`), makes a
    /// [private](Self::is_private) mapping.
    pub(crate) fn map(file: &File, start: u64, len: usize, page: usize) -> io::Result<Self> {
        debug_assert!(
            len > 0 && start % os::mapping_granularity() as u64 == 0,
            "cannot map {len} bytes at offset {start}"
        );
        // The OS maps whole pages only.
        let lead = (start % page as u64) as usize;
        let (address, is_private) = map(file, start - lead as u64, lead + len)?;
        let address = if is_private || page > os::page_size() {
            // `realign` would make a shared mapping. The OS aligns huge pages itself.
            address
        } else {
            // SAFETY: the address and length are those of a new shared mapping of `file`, which no other code knows. If
            // this fails, the mapping is unmapped.
            unsafe { os::realign(file, start, address, len) }?
        };
        let mapping = Self::new(address.wrapping_add(lead), len, page, is_private)?;
        fault_guard::register(mapping.addresses());
        Ok(mapping)
    }

    /// Reads `len` bytes of `file`, starting at `start`, into memory of their own. Returns `None` if the file ends
    /// before them.
    pub(crate) fn copy(file: &File, start: u64, len: usize) -> io::Result<Option<Self>> {
        let mut memory = MmapOptions::new().len(len).map_anon()?;
        if os::read_fully_at(file, &mut memory, start)? < len {
            return Ok(None);
        }
        // Its drop would unmap the bytes.
        let memory = ManuallyDrop::new(memory.make_read_only()?);
        Self::new(memory.as_ptr().cast_mut(), len, os::page_size(), true).map(Some)
    }

    fn new(address: *mut u8, len: usize, page: usize, is_private: bool) -> io::Result<Self> {
        let Some(address) = NonNull::new(address) else {
            return Err(io::Error::other("the OS mapped the file at address 0"));
        };
        let (page_shift, pattern) = (page.ilog2() as u8, AtomicU32::new(0));
        Ok(Self { address, len, page_shift, is_private, pattern })
    }

    /// Unmaps the bytes. Does nothing if they are already unmapped. If the OS refuses, the bytes stay mapped, and the
    /// caller may retry.
    pub(crate) fn unmap(&mut self) -> io::Result<()> {
        if self.len > 0 {
            // Before unmapping: afterwards the OS may reuse the addresses for another mapping. If the OS refuses, the
            // range stays unregistered, since no reader is left that could fault. The retry then unregisters nothing.
            fault_guard::unregister(self.addresses());
            let Range { start, end } = self.addresses();
            let start = self.address.as_ptr().with_addr(start);
            // SAFETY: the mapping was made by `map` or `copy` and is not unmapped yet, since `len` is not 0. These are
            // the pages that it consists of. No reference into it exists: references live at most as long as a borrow
            // of `self`, and this borrow is exclusive.
            unsafe { os::unmap(start, end - start.addr()) }?;
            self.len = 0;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Converts `bytes` to a length in memory. Returns `None` above `isize::MAX`, which no mapping exceeds.
    pub(crate) fn addressable(bytes: u64) -> Option<usize> {
        isize::try_from(bytes).ok()?.try_into().ok()
    }

    /// Returns `true` if the bytes do not follow later changes of the file.
    pub(crate) fn is_private(&self) -> bool {
        self.is_private
    }

    /// Returns the bytes that a mapping of `len` bytes from `start` on takes in the budget: whole pages of `page`
    /// bytes. Returns `usize::MAX` if they are not addressable.
    pub(crate) fn budget_bytes(start: u64, len: usize, page: usize) -> usize {
        len.saturating_add((start % page as u64) as usize).checked_next_multiple_of(page).unwrap_or(usize::MAX)
    }

    /// Returns the address of the first byte. It is valid until the mapping is unmapped.
    #[inline]
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Returns the addresses of the whole pages that the OS has mapped.
    fn addresses(&self) -> Range<usize> {
        let (start, page) = (self.address.as_ptr() as usize, 1 << self.page_shift);
        start & !(page - 1)..(start + self.len).next_multiple_of(page)
    }

    /// Returns the word in which `cache::prefault` records how the mapping is read: 0 at first. It is here because the
    /// other fields leave room for it, so that a slot with its region stays as long as a cache line.
    #[inline]
    pub(crate) fn pattern(&self) -> &AtomicU32 {
        &self.pattern
    }

    pub(crate) fn advise(&self, advice: Advice) {
        // SAFETY: the mapping's own address and length.
        unsafe { os::advise(self.address.as_ptr(), self.len, advice) };
    }

    /// Asks the OS to read the pages of `range`, which must lie inside the mapping, without waiting for the disk.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        let start = range.start - range.start % os::page_size();
        // SAFETY: the address is that of a page of the mapping, and the range ends at the mapping's end at most.
        unsafe { os::advise(self.address.as_ptr().wrapping_add(start), range.end - start, Advice::WillNeed) };
    }

    /// Reads the bytes after the first `skip` from the disk into the page cache, or has the OS read them by large pages
    /// on access, unless their last page is already there. The mapping must be one of `file` at `start`.
    pub(crate) fn read_ahead(&self, file: &File, start: u64, skip: usize) -> ReadAhead {
        // SAFETY: the mapping's own address and length.
        unsafe { os::read_ahead(file, start, self.address.as_ptr(), self.len, skip) }
    }

    /// Returns `true` if the last bytes were accessed through the mapping.
    pub(crate) fn was_end_accessed(&self) -> bool {
        os::was_accessed(self.address.as_ptr() as usize + self.len.saturating_sub(1))
    }

    /// Reads and maps the pages of `range`, which must lie inside the mapping, without the risk of SIGBUS. Returns
    /// `false` if the OS does not support it, and an error if the file was truncated or the medium fails.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<bool> {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        let start = range.start - range.start % os::page_size();
        // SAFETY: the address is that of a page of the mapping, and the range ends at the mapping's end at most.
        unsafe { os::populate(self.address.as_ptr().wrapping_add(start), range.end - start) }
    }

    /// Returns `true` if a fault was found in the mapping. A concurrent fault may be missed.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        fault_guard::any_faulted() && fault_guard::faulted_part(self.addresses(), self.addresses()).is_some()
    }

    /// Returns the faulted range among `len` bytes at `start`, which must lie inside the mapping, relative to `start`.
    ///
    /// Returns `None` if there was no fault. Call it after the bytes were read, so that it covers faults of that read.
    #[inline]
    pub(crate) fn faulted_part(&self, start: *const u8, len: usize) -> Option<Range<usize>> {
        let start = start as usize;
        let faulted = fault_guard::faulted_part(self.addresses(), start..start + len)?;
        Some(faulted.start - start..faulted.end - start)
    }

    /// Returns `true` if `len` bytes at `start`, which must lie inside the mapping and were read before, may reach past
    /// the end of a truncated file. Returns `false` if the fault guard is not installed.
    ///
    /// After a truncation inside a page, all bytes from the new end to the end of that page are zero, and accesses of
    /// them raise no signal.
    #[inline]
    pub(crate) fn may_end_early(&self, start: *const u8, len: usize) -> bool {
        fault_guard::is_installed() && len > 0 && Self::ends_in_zeros(start, len)
    }

    /// Returns `true` if a page that ends among these bytes ends in a zero, or if the last of the bytes and all after
    /// it in its page are zero.
    fn ends_in_zeros(start: *const u8, len: usize) -> bool {
        let page = os::page_size();
        // SAFETY: the byte lies in a page of the mapping that contains `start`, since the OS maps whole pages.
        let is_zero = |at: usize| unsafe { start.wrapping_add(at).read_volatile() } == 0;
        let first_end = page - 1 - (start as usize & (page - 1));
        let last_end = len - 1 + (page - 1 - ((start as usize + len - 1) & (page - 1)));
        (first_end..).step_by(page).take_while(|&at| at < len - 1).any(is_zero) || (len - 1..=last_end).all(is_zero)
    }
}

/// Maps a span for reading. Returns the address of its first byte, and `true` if the mapping is private.
#[cfg(unix)]
fn map(file: &File, start: u64, len: usize) -> io::Result<(*mut u8, bool)> {
    let mut options = MmapOptions::new();
    options.offset(start).len(len);
    // The drops of memmap2's types ignore a refused `munmap`, so `Mapping` unmaps the bytes itself.
    match options.map_raw_read_only(file).map(ManuallyDrop::new) {
        Ok(shared) => Ok((shared.as_mut_ptr(), false)),
        Err(error) if os::is_unmappable(&error) => {
            // SAFETY: the bytes are accessed through this address only, as those of a shared mapping.
            let private = unsafe { options.map_copy_read_only(file) }
                .map_err(|second| if os::is_unmappable(&second) { error } else { second })?;
            Ok((ManuallyDrop::new(private).as_ptr().cast_mut(), true))
        }
        Err(error) => Err(error),
    }
}

#[cfg(windows)]
fn map(file: &File, start: u64, len: usize) -> io::Result<(*mut u8, bool)> {
    os::map(file, start, len).map(|address| (address, false))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // An owner that can retry has called `unmap` before the drop. Here a failure cannot be reported.
        let _ = self.unmap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn unmap_of_an_unmapped_mapping_does_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        let granule = os::mapping_granularity();
        file.write_all(&vec![7; granule + 10]).unwrap();
        let mut mapping = Mapping::map(&file, granule as u64, 10, os::page_size()).unwrap();
        assert_eq!(mapping.len(), 10);
        mapping.advise(Advice::WillNeed);
        mapping.advise(Advice::Sequential);
        mapping.unmap().unwrap();
        assert_eq!(mapping.len(), 0);
        mapping.unmap().unwrap();
    }

    /// On tmpfs, which does not itself place mappings at addresses that suit large pages.
    #[test]
    #[cfg(target_os = "linux")]
    fn map_of_large_pages_aligns_the_address_with_the_offset() {
        const LARGE: usize = 2 << 20;
        let Ok(mut file) = tempfile::tempfile_in("/dev/shm") else {
            eprintln!("SKIPPED: the alignment of mappings: no tmpfs at /dev/shm");
            return;
        };
        let bytes: Vec<u8> = (0..8 * LARGE).map(|at| (at / 4096) as u8).collect();
        file.write_all(&bytes).unwrap();
        // All mappings are kept, so that each has another address. An address may be taken by another test's thread.
        let mut kept = Vec::new();
        let mut is_aligned = |start: usize, len: usize| {
            // One page, so that the next address is not aligned by chance.
            kept.push(Mapping::map(&file, 0, 1, os::page_size()).unwrap());
            let mapping = Mapping::map(&file, start as u64, len, os::page_size()).unwrap();
            let address = mapping.address().as_ptr();
            kept.push(mapping);
            // SAFETY: the bytes lie inside the mapping, and no other process has the file.
            let mapped = unsafe { std::slice::from_raw_parts(address, len) };
            assert_eq!(mapped, &bytes[start..start + len]);
            (address as usize).wrapping_sub(start) % LARGE == 0
        };
        let mut aligned = |start, len| (0..32).filter(|_| is_aligned(start, len)).count();
        assert!(aligned(0, 4 * LARGE) > 16, "most windows are aligned");
        assert!(aligned(LARGE + 4096, 3 * LARGE) > 16, "most ranges are aligned");
    }

    #[test]
    fn ends_in_zeros_of_zeros_up_to_the_end_of_a_page_is_true() {
        let page = os::page_size();
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![1; 2 * page + 100];
        bytes[7] = 0;
        bytes[page - 20..page].fill(0);
        file.write_all(&bytes).unwrap();
        let mapping = Mapping::map(&file, 0, bytes.len(), os::page_size()).unwrap();
        let ends = |start: usize, end: usize| {
            Mapping::ends_in_zeros(mapping.address().as_ptr().wrapping_add(start), end - start)
        };
        assert!(!ends(0, 8), "a nonzero byte follows the zero in the page");
        assert!(!ends(0, page - 20) && ends(0, page - 19) && ends(page - 5, page - 4) && ends(page - 1, page));
        assert!(ends(0, page + 1) && ends(page - 5, 2 * page), "an earlier page ends in a zero");
        assert!(!ends(page, 2 * page) && !ends(page, 2 * page + 100), "no page ends in a zero, nor do the bytes");
    }

    #[test]
    fn pages_of_a_length_round_up_to_whole_pages() {
        let page = os::page_size();
        assert_eq!([1, page, page + 1].map(|len| Mapping::budget_bytes(0, len, page)), [page, page, 2 * page]);
        // Two large pages, since the range starts in the middle of one and ends in the next.
        assert_eq!(Mapping::budget_bytes(5 * page as u64, 4 * page, 8 * page), 16 * page);
        assert_eq!(Mapping::addressable(u64::MAX), None);
        let largest = Mapping::addressable(isize::MAX as u64).expect("a length in memory");
        assert_eq!(Mapping::budget_bytes(0, largest, page), isize::MAX as usize + 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn populate_past_the_end_of_the_file_is_an_error() {
        let (file, page) = (tempfile::tempfile().unwrap(), os::page_size());
        file.set_len(3 * page as u64).unwrap();
        let mapping = Mapping::map(&file, 0, 3 * page, page).unwrap();
        if !mapping.populate(0..3 * page).unwrap() {
            eprintln!("SKIPPED: populating past the end of a file: the OS cannot populate");
            return;
        }
        file.set_len(page as u64).unwrap();
        assert!(mapping.populate(0..page).unwrap());
        assert_eq!(mapping.populate(page..2 * page).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }
}
