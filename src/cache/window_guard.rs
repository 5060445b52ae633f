//! [`WindowGuard`]: the region that one cursor reads, protected by the cursor's hazard pointer.
#![allow(
    unsafe_code,
    reason = "bytes of a protected region (rule 7 of `protocol`); slots that the cursor's file keeps"
)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::CachedFile;
use super::region::{Region, RegionBytes, RegionRef};
use crate::geometry::Geometry;
use crate::os;
use crate::protocol::hazard::{HazardDomain, HazardPointer};
use crate::protocol::slot::{Slot, SlotRef};
use crate::protocol::sparse_table::SparseTable;

/// The region that one cursor reads, or none.
///
/// A region in a slot is protected by the hazard pointer. A detached region is held by a counted client instead. The
/// guard belongs to one file: all slots given to it are of that file's table, and it is dropped before the file's last
/// handle.
pub(crate) struct WindowGuard {
    hazard: HazardPointer<Region>,
    /// The slots of the file's windows, or `None` if a window's size is not a power of two.
    windows: Option<NonNull<SparseTable<Slot<Region>>>>,
    /// As `windows`, but `None` while the guard holds a detached region: [`switch`](Self::switch) needs one test for
    /// both.
    switchable: Option<NonNull<SparseTable<Slot<Region>>>>,
    /// The number of bits of an offset inside its window. A whole-file window has all of them.
    shift: u32,
    /// `None` while a slot is protected. Set by `set_detached`.
    detached: Option<Detached>,
    /// The region that is protected, or the client's.
    region: Option<NonNull<Region>>,
    /// All bytes of the region. A reader of its own window follows no other pointer.
    bytes: RegionBytes,
    /// The offset of the first byte in the file. [`NOWHERE`] before the first window.
    start: u64,
    scattered: ScatteredReads,
}

/// The reads of one cursor in [scattered](Region::is_scattered) windows.
///
/// The guard serves only the pages of the read that has entered such a window. So the next read comes to the slow path,
/// unless it is in the same pages, and the guard learns whether it is contiguous. After some jumps, the guard serves
/// all bytes of the window. No read of bytes that the guard serves records anything.
#[derive(Default)]
struct ScatteredReads {
    /// The offset in the file at which the pages of the last read end.
    end: u64,
    /// Contiguous reads in a row.
    run: u32,
    /// 1 + the start of the window of the last read.
    window: u64,
    /// Reads of that window that were not contiguous.
    jumps: u32,
}

/// The jumps in one window after which all its bytes are served.
const JUMPS: u32 = 8;

impl ScatteredReads {
    /// Records a read in the window that starts at `start`. Returns the end of the bytes to serve.
    fn record(&mut self, start: u64, read: &Range<u64>, page: u64) -> Option<u64> {
        if self.window != start + 1 {
            (self.window, self.jumps) = (start + 1, 0);
        }
        // The read begins in the last page of the read before, or in the next one.
        let gap = read.start.wrapping_sub(self.end.wrapping_sub(page));
        if gap >= 2 * page {
            (self.run, self.jumps) = (0, self.jumps.saturating_add(1));
        } else if read.end > self.end {
            self.run = self.run.saturating_add(1);
        }
        self.end = read.end.next_multiple_of(page);
        (self.jumps < JUMPS).then_some(self.end)
    }
}

/// A client of a detached region.
struct Detached {
    _client: SlotRef<Region>,
    /// `true` if the region is a window, whose slot an older region still held.
    is_window: bool,
}

/// No window starts here.
const NOWHERE: u64 = u64::MAX;

/// The result of a change of window by [`WindowGuard::switch`].
pub(crate) struct Switch<'s> {
    pub(crate) slot: &'s Slot<Region>,
    /// The address of the first byte that was asked for. By itself, so that it stays in a register.
    pub(crate) address: NonNull<u8>,
    /// `true` if the read is to be recorded, because the window is [scattered](Region::is_scattered).
    pub(crate) is_recorded: bool,
    /// `true` if the window is the scattered one of the last read: the guard had served only a part of it.
    pub(crate) is_same: bool,
}

// SAFETY: the guard reads memory that is only read. The hazard pointer and the client, which keep that memory, may
// cross threads.
unsafe impl Send for WindowGuard {}
// SAFETY: as above; a shared guard only lends its bytes.
unsafe impl Sync for WindowGuard {}

impl WindowGuard {
    /// Makes a guard for a cursor of `file`, in a cache whose owners scan `hazards` before they unmap. The caller keeps
    /// a handle of the file for as long as the guard.
    pub(super) fn new(hazards: &Arc<HazardDomain<Region>>, geometry: &Geometry, file: &CachedFile) -> Self {
        let shift = match geometry.window_bytes() {
            Some(_) => geometry.shift(),
            None => Some(u64::BITS - 1),
        };
        let windows = shift.map(|_| NonNull::from(file.windows()));
        Self {
            hazard: HazardPointer::new(hazards),
            windows,
            switchable: windows,
            shift: shift.unwrap_or(0),
            detached: None,
            region: None,
            bytes: RegionBytes::EMPTY,
            start: NOWHERE,
            scattered: ScatteredReads::default(),
        }
    }

    #[inline]
    pub(crate) fn region(&self) -> Option<&Region> {
        // SAFETY: the region is protected or has a client, until the next `&mut self`.
        self.region.map(|region| unsafe { region.as_ref() })
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &RegionBytes {
        &self.bytes
    }

    /// Returns the offset in the file of the first byte.
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Returns `true` if `start..end` is not empty and all of it is in the region.
    #[inline]
    pub(crate) fn contains(&self, start: u64, end: u64) -> bool {
        // A start before the region wraps to more than any region has. So does the length of a reversed range, because
        // no file reaches 2⁶³ bytes.
        self.bytes.contains(start.wrapping_sub(self.start), end.wrapping_sub(start))
    }

    /// Returns the bytes `start..end` of the file, or an empty slice if the region does not contain them.
    #[inline]
    pub(crate) fn get(&self, start: u64, end: u64) -> &[u8] {
        self.bytes.get(start.wrapping_sub(self.start), end.wrapping_sub(start))
    }

    /// Copies the bytes from `start` on into `buf`, without a reference to mapped bytes, and returns their address.
    /// Returns `None` if the region does not contain all of them, or if `buf` is empty.
    #[inline]
    pub(crate) fn copy_to(&self, start: u64, buf: &mut [u8]) -> Option<NonNull<u8>> {
        self.bytes.copy_to(start.wrapping_sub(self.start), buf)
    }

    /// Returns `true` if the region contains the byte at `offset`.
    #[inline]
    pub(crate) fn holds(&self, offset: u64) -> bool {
        offset.wrapping_sub(self.start) < self.bytes.len() as u64
    }

    /// Returns the bytes from `offset` to the end of the region, or an empty slice if the region does not contain them.
    #[inline]
    pub(crate) fn rest(&self, offset: u64) -> &[u8] {
        let at = offset.wrapping_sub(self.start);
        self.bytes.get(at, (self.bytes.len() as u64).wrapping_sub(at))
    }

    /// Returns `true` if the guard holds the window of `offset`. A detached range is no window.
    #[inline]
    pub(crate) fn is_window_of(&self, offset: u64) -> bool {
        self.detached.as_ref().is_none_or(|detached| detached.is_window) && self.holds(offset)
    }

    /// Returns the bytes from `offset` to the end of the window, or an empty slice if the guard holds another one.
    #[inline]
    pub(crate) fn get_from(&self, offset: u64) -> &[u8] {
        if self.is_window_of(offset) { self.rest(offset) } else { &[] }
    }

    /// Returns the offset of the end of the region.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.start.wrapping_add(self.bytes.len() as u64)
    }

    /// Returns `true` if a fault was found in the region, as of about now.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        // The global flag comes first, so that a reader in its window follows no pointer.
        crate::fault_guard::any_faulted() && self.is_region_faulted()
    }

    #[cold]
    fn is_region_faulted(&self) -> bool {
        self.region().is_some_and(|region| region.mapping().is_faulted())
    }

    /// Switches to the window of `start`: the fast path of a hit, without a call.
    ///
    /// Returns `None` if the window has no slot, if the guard holds a detached region, or if the size of a window is
    /// not a power of two. The guard then keeps its region. Returns `None` as well if `len` is 0, or if the window does
    /// not have `len` mapped bytes at `start`. The guard then serves no bytes, but may protect the slot until
    /// [`release`](Self::release).
    #[inline(always)]
    pub(crate) fn switch(&mut self, start: u64, len: u64) -> Option<Switch<'_>> {
        // SAFETY: the table of the file, of which the guard's owner has a handle.
        let windows = unsafe { self.switchable?.as_ref() };
        let window_start = start >> self.shift << self.shift;
        let before = self.start;
        let slot = windows.get(start >> self.shift)?;
        if !self.protect_slot(slot, window_start, start, len) {
            return None;
        }
        self.hazard.count();
        let is_recorded = self.region().is_some_and(|region| {
            // After the window before. (A whole-file window has none: then the sum wraps.)
            let is_next = || before.wrapping_add(1 << self.shift) == window_start;
            region.records_reads() || region.records_first_read(start - window_start) && is_next()
        });
        // SAFETY: inside the mapping, which contains the `len` bytes at `start`.
        let address = unsafe { self.bytes.address().add((start - window_start) as usize) };
        Some(Switch { slot, address, is_recorded, is_same: is_recorded && self.scattered.window == window_start + 1 })
    }

    /// Protects the window of `slot` if it is mapped up to the offset `end`, without a fault. Otherwise returns
    /// `false`, and the guard then holds nothing.
    pub(super) fn protect(&mut self, slot: &Slot<Region>, window_start: u64, end: u64) -> bool {
        self.clear();
        self.set_detached(None);
        if !self.protect_slot(slot, window_start, end - 1, 1) {
            self.release();
            return false;
        }
        self.hazard.count();
        true
    }

    /// Holds a region for which the caller has counted a client. The hazard pointer takes over from the client,
    /// unless the region is detached. `window` is `None` for a range that is no window.
    pub(crate) fn hold(&mut self, held: RegionRef, start: u64, window: Option<u64>) {
        let (client, bytes) = held.into_parts();
        self.clear();
        self.set_detached(None);
        match (client, window) {
            (Some(client), Some(_)) if !client.is_detached() => {
                // SAFETY: a slot of the cache whose owners scan this domain (see the documentation of the type).
                self.region = Some(unsafe { self.hazard.protect_client(&client) });
            }
            (client, window) => {
                self.release();
                self.region = client.as_deref().map(NonNull::from);
                self.set_detached(client.map(|client| Detached { _client: client, is_window: window.is_some() }));
            }
        }
        self.start = start;
        self.bytes = bytes;
    }

    /// Returns `true` if the guard holds a [scattered](Region::is_scattered) window.
    #[inline(always)]
    pub(crate) fn is_scattered(&self) -> bool {
        self.region().is_some_and(Region::is_scattered)
    }

    /// Records a read of `range` in the scattered window that the guard holds, and limits the bytes that it serves.
    /// Reads ahead if several reads in a row were contiguous.
    ///
    /// An empty range stands for a read of unknown length, which gets all bytes of the window.
    pub(crate) fn record_scattered_read(&mut self, range: Range<u64>) {
        if range.is_empty() {
            let start = self.start;
            self.region().into_iter().for_each(|region| region.follow_cursor(start, range.clone(), 0));
            return;
        }
        let end = self.scattered.record(self.start, &range, os::page_size() as u64);
        let (start, run) = (self.start, self.scattered.run);
        let Some(region) = self.region() else { return };
        region.follow_cursor(start, range, run);
        if let Some(end) = end.filter(|_| region.is_scattered()) {
            self.bytes.truncate((end - start) as usize);
        }
    }

    /// Holds nothing any more. Returns `true` if the owner of the region may be waiting for that, to unmap it.
    pub(crate) fn release(&mut self) -> bool {
        self.clear();
        self.set_detached(None);
        // SAFETY: the slot is of a file that has a handle (see the documentation of the type).
        unsafe { self.hazard.reset() }
    }

    fn set_detached(&mut self, detached: Option<Detached>) {
        self.switchable = if detached.is_none() { self.windows } else { None };
        self.detached = detached;
    }

    /// Protects `slot`, and reads its region, which starts at `window_start`. Returns `false` if the region does not
    /// contain the `len` bytes at `start`, or if it has a fault.
    #[inline(always)]
    fn protect_slot(&mut self, slot: &Slot<Region>, window_start: u64, start: u64, len: u64) -> bool {
        // SAFETY: a slot of the cache whose owners scan this domain (see the documentation of the type).
        let Some(region) = (unsafe { self.hazard.protect(slot) }) else {
            self.clear();
            return false;
        };
        // SAFETY: the region is protected now.
        let mapping = unsafe { region.as_ref() }.mapping();
        self.region = Some(region);
        // SAFETY: the region stays protected until `clear` or the next `protect` replaces these bytes.
        self.bytes = unsafe { RegionBytes::new(mapping.address(), mapping.len()) };
        self.start = window_start;
        // A range that crosses into the next window is not here, nor is the new tail of a file that has grown.
        if !self.bytes.contains(start - window_start, len) || mapping.is_faulted() {
            self.clear();
            return false;
        }
        true
    }

    /// Forgets the region, which the hazard pointer may still protect.
    fn clear(&mut self) {
        self.region = None;
        self.bytes = RegionBytes::EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::load::tests::{Opened, WINDOW};
    use crate::cache::room::{RoomPolicy, WhenFull};

    /// A cache with three mapped windows, and a guard that holds a detached region.
    fn detached() -> (Opened, WindowGuard) {
        let opened = Opened::new(8, 3 * WINDOW);
        let mut guard = opened.cache.window_guard(&opened.file);
        for window in 0..3 {
            drop(opened.cache.map_window(&opened.file, window, WINDOW));
            assert!(guard.protect(opened.slot(window), window * WINDOW, (window + 1) * WINDOW));
        }
        let policy = RoomPolicy::Required(WhenFull::Exceed);
        guard.hold(opened.cache.map_detached(&opened.file, 5..WINDOW + 5, policy).unwrap(), 5, None);
        assert_eq!(opened.file.detached.count(), 1);
        (opened, guard)
    }

    #[test]
    fn guard_that_protects_a_window_releases_its_detached_region() {
        let (opened, mut guard) = detached();
        assert!(guard.protect(opened.slot(0), 0, WINDOW));
        assert_eq!(opened.file.detached.count(), 0);
        let (opened, mut guard) = detached();
        guard.hold(opened.cache.map_window(&opened.file, 0, WINDOW), 0, Some(0));
        assert_eq!(opened.file.detached.count(), 0);
    }

    #[test]
    fn guard_with_a_detached_region_does_not_switch() {
        let (_opened, mut guard) = detached();
        assert!(guard.switch(2 * WINDOW, 9).is_none());
        assert_eq!((guard.start(), guard.end()), (5, WINDOW + 5));
        guard.release();
        assert!(guard.switch(2 * WINDOW, 9).is_some(), "the window is mapped");
    }

    #[test]
    fn guard_protects_no_slot_that_it_does_not_read() {
        let (opened, mut guard) = detached();
        let is_protected = |window| opened.cache.regions.hazards.scan_unordered().contains(opened.slot(window));
        assert!(!is_protected(2), "the guard holds a detached region instead");
        assert!(guard.protect(opened.slot(0), 0, WINDOW));
        assert!(is_protected(0));
        assert!(!guard.protect(opened.slot(1), WINDOW, 2 * WINDOW + 1), "the window ends before");
        assert!(!is_protected(0) && !is_protected(1));
    }

    #[test]
    fn scattered_reads_count_contiguous_ones_and_end_after_some_jumps() {
        const PAGE: u64 = 4096;
        let mut reads = ScatteredReads::default();
        let mut record = |start: u64, read: Range<u64>| (reads.record(start, &read, PAGE), reads.run);
        // Contiguous, in the last page again, and past a border of windows.
        assert_eq!(record(WINDOW, WINDOW + 10..WINDOW + 20), (Some(WINDOW + PAGE), 0));
        assert_eq!(record(WINDOW, WINDOW + PAGE..WINDOW + PAGE + 1), (Some(WINDOW + 2 * PAGE), 1));
        assert_eq!(record(WINDOW, WINDOW + PAGE..WINDOW + PAGE + 9), (Some(WINDOW + 2 * PAGE), 1));
        assert_eq!(record(WINDOW, WINDOW + 2 * PAGE - 1..2 * WINDOW), (Some(2 * WINDOW), 2));
        assert_eq!(record(2 * WINDOW, 2 * WINDOW..2 * WINDOW + 9), (Some(2 * WINDOW + PAGE), 3));
        for jump in 1..JUMPS + 2 {
            let at = 2 * WINDOW + u64::from(jump % 2) * 8 * PAGE + PAGE * 2;
            assert_eq!(record(2 * WINDOW, at..at + 9), ((jump < JUMPS).then_some(at + PAGE), 0));
        }
        assert_eq!(record(0, 0..9), (Some(PAGE), 0), "another window");
    }

    #[test]
    fn detached_range_is_no_window() {
        let (opened, mut guard) = detached();
        assert!(!guard.is_window_of(9) && guard.get_from(9).is_empty() && guard.get(9, 12).len() == 3);
        guard.hold(
            opened.cache.map_detached(&opened.file, 0..WINDOW, RoomPolicy::Required(WhenFull::Exceed)).unwrap(),
            0,
            Some(0),
        );
        assert!(guard.is_window_of(9) && guard.get_from(9).len() as u64 == WINDOW - 9);
    }
}
