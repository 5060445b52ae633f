//! [`Region`]: a mapping in a slot, with its reservation and its file. [`RegionRef`]: a counted client of a region, or the
//! owner of a copy, with the bytes that it serves.
#![allow(
    unsafe_code,
    reason = "the promise that a region keeps its slot (rule 5 of `protocol`); bytes that a client keeps mapped"
)]

use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::{io, slice};

use super::CachedFile;
use super::prefault::Pattern;
use crate::mapping::Mapping;
use crate::protocol::budget::Reservation;
use crate::protocol::clock_ring::RingEntry;
use crate::protocol::slot::{Payload, SlotRef, UnmapToken};

/// A mapped window, or a detached region: the payload of a slot.
///
/// The mapping drops before the reservation (rule 4 of `protocol`) and before the file, which owns the slot (rule 5).
pub(crate) struct Region {
    mapping: Mapping,
    reservation: Reservation,
    /// The region's place in the clock ring, where evicting threads find it. `None` for a detached region.
    pub(super) ring_entry: Option<RingEntry>,
    file: Arc<CachedFile>,
}

// SAFETY: `file` owns the table that the slot is part of (the caller's promise to `Region::new`). It is dropped last,
// and a `CachedFile` frees its table through the epoch. The owner of a detached slot frees it after it took the payload
// out.
unsafe impl Payload for Region {
    fn last_client_dropped(token: UnmapToken<Self>) {
        let file = Arc::clone(&token.payload().file);
        file.reclaim_from_client(token);
    }
}

impl Region {
    /// Makes the payload of a slot. `file` has to be the owner of that slot's table, unless the slot is detached.
    pub(super) fn new(
        mapping: Mapping,
        reservation: Reservation,
        ring_entry: Option<RingEntry>,
        file: Arc<CachedFile>,
    ) -> Self {
        Self { mapping, reservation, ring_entry, file }
    }

    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(super) fn file(&self) -> &Arc<CachedFile> {
        &self.file
    }

    /// Returns the bytes of the budget that the region takes.
    pub(super) fn reserved_bytes(&self) -> usize {
        self.reservation.bytes()
    }

    /// Returns `true` if an owner has taken the region out of the ring to unmap it, and the OS refused. Always returns
    /// `true` for a detached region, which is never in the ring.
    pub(super) fn unmap_was_tried(&self) -> bool {
        self.ring_entry.is_none()
    }

    /// Unmaps the region. If the OS refuses, the region stays mapped, and the owner may try again.
    pub(super) fn unmap(&mut self) -> io::Result<()> {
        #[cfg(test)]
        tests::refuse_unmap()?;
        self.mapping.unmap()
    }

    /// Returns the reservation of a region that was unmapped, after dropping the rest.
    pub(super) fn into_reservation(self) -> Reservation {
        let Self { mapping, reservation, ring_entry, file } = self;
        debug_assert!(ring_entry.is_none(), "an unmapped region is still in the clock ring");
        drop(mapping);
        drop(file);
        reservation
    }
}

/// Address and length of readable bytes. The guard that contains this value keeps them mapped or allocated.
///
/// The value is neither `Clone` nor `Copy`, and its methods borrow it, so no slice outlives the guard.
pub(crate) struct RegionBytes {
    address: NonNull<u8>,
    len: usize,
}

impl RegionBytes {
    /// Limits the bytes to the first `len`. Does nothing if there are fewer.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) const EMPTY: Self = Self { address: NonNull::dangling(), len: 0 };

    /// # Safety
    ///
    /// While this value exists, the `len` bytes at `address` stay readable, at that address.
    #[inline]
    pub(super) unsafe fn new(address: NonNull<u8>, len: usize) -> Self {
        Self { address, len }
    }

    #[inline]
    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the promise made to `new`. The promise made to `MapManagerBuilder::build` says that the bytes do not
        // change and that the file does not shrink.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    /// Returns `true` if `len` is not 0 and the `len` bytes at `at` are in range.
    #[inline]
    pub(crate) fn contains(&self, at: u64, len: u64) -> bool {
        let left = (self.len as u64).saturating_sub(at);
        // One comparison for `0 < len` (0 wraps to the largest number) and `len <= left`. It implies `at < self.len`.
        len.wrapping_sub(1) < left
    }

    /// Returns the `len` bytes at `at`, or an empty slice if they are out of range. An empty slice spares a caller that
    /// has called [`contains`](Self::contains) a second test.
    #[inline]
    pub(crate) fn get(&self, at: u64, len: u64) -> &[u8] {
        if self.contains(at, len) {
            // SAFETY: `contains` says that `at` is in range.
            let start = unsafe { self.address.add(at as usize) };
            // SAFETY: as in `as_slice`; `contains` says that the end is in range as well.
            unsafe { slice::from_raw_parts(start.as_ptr(), len as usize) }
        } else {
            &[]
        }
    }

    /// Returns the `len` bytes at `address`, or an empty slice if they are out of range.
    #[inline]
    pub(crate) fn get_at_address(&self, address: NonNull<u8>, len: u64) -> &[u8] {
        let at = (address.as_ptr() as usize).wrapping_sub(self.address.as_ptr() as usize);
        if self.contains(at as u64, len) {
            // SAFETY: as in `get`.
            unsafe { slice::from_raw_parts(address.as_ptr(), len as usize) }
        } else {
            no_bytes()
        }
    }

    /// Copies the bytes at `at` into `buf` without a reference to the mapped bytes, and returns their address. Returns
    /// `None` if they are out of range, or if `buf` is empty.
    #[inline]
    pub(super) fn copy_to(&self, at: u64, buf: &mut [u8]) -> Option<NonNull<u8>> {
        if !self.contains(at, buf.len() as u64) {
            return None;
        }
        // SAFETY: `contains` says that `at` is in range.
        let source = unsafe { self.address.add(at as usize) };
        // SAFETY: the source bytes are in range and readable (the promise made to `new`). `buf` is borrowed
        // exclusively, so it is no part of a mapping, which is only read.
        unsafe { source.as_ptr().copy_to_nonoverlapping(buf.as_mut_ptr(), buf.len()) };
        Some(source)
    }
}

/// The function call keeps the condition out of the caller's loop: the processor does not wait for it.
#[cold]
fn no_bytes() -> &'static [u8] {
    &[]
}

/// Takes numbers instead of references, so that the caller keeps them in registers.
#[cold]
#[track_caller]
fn out_of_range(start: usize, end: usize, len: usize) -> ! {
    panic!("{start}..{end} of a region of {len} bytes")
}

/// Bytes of a file that stay at their address while this value lives, wherever it moves. It is a counted client of a
/// region, or shares the ownership of a copy.
///
/// Separate fields instead of an enum: the compiler then returns the value in registers, which halves the cost of a
/// hit.
pub(crate) struct RegionRef {
    client: Option<SlotRef<Region>>,
    copy: Option<Arc<Vec<u8>>>,
    /// A part of the client's mapping or of the copy. A read inside the held window follows no other pointer.
    bytes: RegionBytes,
}

// SAFETY: `bytes` refers to memory that is only read. A client and an `Arc`, which keep that memory, may cross threads.
unsafe impl Send for RegionRef {}
// SAFETY: as above.
unsafe impl Sync for RegionRef {}

impl RegionRef {
    /// Returns all bytes of the client's region.
    #[inline]
    pub(crate) fn new(client: SlotRef<Region>) -> Self {
        let mapping = client.mapping();
        // SAFETY: the client, stored beside it, keeps the region mapped.
        let bytes = unsafe { RegionBytes::new(mapping.address(), mapping.len()) };
        Self { client: Some(client), copy: None, bytes }
    }

    /// Returns `len` bytes of the client's region from `at` on, or `None` if they are out of range.
    #[inline]
    pub(crate) fn part(client: SlotRef<Region>, at: u64, len: u64) -> Option<Self> {
        let mapping = client.mapping();
        let all = mapping.len() as u64;
        if at <= all && len <= all - at {
            // SAFETY: inside the mapping, by the condition.
            let address = unsafe { mapping.address().add(at as usize) };
            // SAFETY: the client, stored beside it, keeps the region mapped; the condition says that the end is inside.
            let bytes = unsafe { RegionBytes::new(address, len as usize) };
            Some(Self { client: Some(client), copy: None, bytes })
        } else {
            None
        }
    }

    #[inline]
    pub(crate) fn empty() -> Self {
        Self { client: None, copy: None, bytes: RegionBytes::EMPTY }
    }

    /// Takes over bytes that were read from the file.
    pub(crate) fn copied(bytes: Vec<u8>) -> Self {
        let copy = Arc::new(bytes);
        // SAFETY: the copy, stored beside it, is never changed or reallocated.
        let bytes = unsafe { RegionBytes::new(NonNull::from(&copy[..]).cast(), copy.len()) };
        Self { client: None, copy: Some(copy), bytes }
    }

    /// Returns the region, or `None` for a copy and for no bytes.
    #[inline]
    pub(crate) fn region(&self) -> Option<&Region> {
        self.client.as_deref()
    }

    /// [Tells](Region::expect) the OS how the region will be read.
    pub(crate) fn expect(&self, start: u64, pattern: Pattern) {
        if let Some(region) = self.region() {
            region.expect(start, pattern);
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &RegionBytes {
        &self.bytes
    }

    /// Returns the client, if there is one, and the bytes.
    pub(super) fn into_parts(self) -> (Option<SlotRef<Region>>, RegionBytes) {
        debug_assert!(self.copy.is_none(), "a copy does not keep its bytes when it is taken apart");
        (self.client, self.bytes)
    }

    /// Returns the same client with all bytes of its region. A copy stays as it is.
    pub(crate) fn whole(self) -> Self {
        match self.client {
            Some(client) => Self::new(client),
            None => self,
        }
    }

    /// Returns the same client with only `range` of its bytes, relative to the first one. Panics if `range` is reversed
    /// or out of range.
    #[inline]
    pub(crate) fn narrow(mut self, range: Range<usize>) -> Self {
        let bytes = &mut self.bytes;
        if range.start > range.end || range.end > bytes.len {
            out_of_range(range.start, range.end, bytes.len);
        }
        // SAFETY: `range.start` is in range.
        bytes.address = unsafe { bytes.address.add(range.start) };
        bytes.len = range.end - range.start;
        self
    }
}

impl Clone for RegionRef {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: the clones of the client and of the copy, stored beside it, keep the same bytes.
        let bytes = unsafe { RegionBytes::new(self.bytes.address, self.bytes.len) };
        Self { client: self.client.clone(), copy: self.copy.clone(), bytes }
    }
}

impl Deref for RegionRef {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::slot::Slot;
    use std::cell::Cell;

    thread_local! {
        /// While this is `true`, each unmap by this thread fails.
        pub(in crate::cache) static REFUSES_UNMAP: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn refuse_unmap() -> io::Result<()> {
        if REFUSES_UNMAP.get() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn slot_with_its_region_fills_one_cache_line() {
        // So that neighbouring windows share no cache line, and no window needs two.
        assert_eq!(size_of::<Slot<Region>>(), 64);
    }
}
