//! [`Kept`]: what stands in a slot. A mapping or a descriptor, with its reservation and what keeps its slot alive; and
//! [`RegionRef`], a client of a mapping with the bytes that it is about.
//!
//! Here the columns meet: the protocol's slot and reservation, and what the system gave for them.
#![allow(
    unsafe_code,
    reason = "the promise that a payload keeps its slot (rule 5 of `protocol`); bytes that a client keeps"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::{fmt, io, mem, slice};

use crate::error::Result;
use crate::fault_guard;
use crate::geometry::Geometry;
use crate::mapping::Mapping;
use crate::os::Advice;
use crate::protocol::budget::Reservation;
use crate::protocol::clock_ring::RingEntry;
use crate::protocol::hazard::{HazardDomain, HazardPointer};
use crate::protocol::slot::{Payload, Slot, SlotRef, UnmapToken};

/// A window that is mapped, or a mapping of its own for a large range.
pub(crate) type Region = Kept<Mapping>;
/// An open descriptor of a file.
pub(crate) type Descriptor = Kept<File>;
/// A client of a descriptor.
pub(crate) type DescriptorRef = SlotRef<Descriptor>;

/// Whether bytes that were read of a mapping may not have been there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suspect {
    None,
    /// They end in zeros, as they would if the file had been cut short inside a page.
    Zeros,
    /// Holes were found in this part of them.
    Faulted(Range<usize>),
}

/// Something of the system's that is limited, counted and given back.
pub(crate) trait Resource: Send + Sync + Sized + 'static {
    /// Whether a home may ever need one that nobody uses at the moment.
    const MAY_BE_NEEDED: bool;

    /// Gives it back, before its reservation goes. If that is refused, it is all there still.
    fn give_back(&mut self) -> io::Result<()>;
}

impl Resource for Mapping {
    const MAY_BE_NEEDED: bool = false;

    fn give_back(&mut self) -> io::Result<()> {
        self.unmap()
    }
}

impl Resource for File {
    const MAY_BE_NEEDED: bool = true;

    /// A `File` closes when it is dropped, which [`Kept`] does before its reservation goes.
    fn give_back(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file that a resource belongs to: it keeps the slot, and knows what to do with an owned one.
pub(crate) trait Home<R: Resource>: Send + Sync {
    /// Whether somebody may need it who is not its client at the moment. Asked only where that
    /// [may be](Resource::MAY_BE_NEEDED).
    fn is_needed(&self) -> bool {
        false
    }

    /// Whether it could be had again. May ask the system.
    fn is_replaceable(&self) -> bool {
        true
    }

    /// Whether `bytes`, which were mapped as those of the file from `offset` on, are what the file has.
    fn check(self: Arc<Self>, _offset: u64, _bytes: &[u8], _doubt: Suspect) -> Result<()> {
        Ok(())
    }

    /// Takes the duty of an owner over.
    fn reclaim(self: Arc<Self>, token: UnmapToken<Kept<R>>);
}

/// A resource in a slot. Fields drop in this order: first the resource, then its reservation, last what keeps the slot.
pub(crate) struct Kept<R: Resource> {
    resource: R,
    reservation: Reservation,
    /// Where evictors find it; `None` for what is detached.
    ring_entry: Option<RingEntry>,
    home: Arc<dyn Home<R>>,
}

// SAFETY: `home` is the file in whose table the slot stands (the caller's promise to `Kept::new`); it is dropped last, and
// a file retires its tables through the epoch. A detached slot is freed by its owner, after the payload was taken out.
unsafe impl<R: Resource> Payload for Kept<R> {
    fn orphaned(token: UnmapToken<Self>) {
        let home = Arc::clone(&token.payload().home);
        home.reclaim(token);
    }
}

impl<R: Resource> Kept<R> {
    /// `home` has to be what the slot that this is going to be published in is part of.
    pub(crate) fn new(
        resource: R,
        reservation: Reservation,
        ring_entry: Option<RingEntry>,
        home: Arc<dyn Home<R>>,
    ) -> Self {
        Self { resource, reservation, ring_entry, home }
    }

    #[inline]
    pub(crate) fn get(&self) -> &R {
        &self.resource
    }

    /// Bytes of the budget that it takes.
    pub(crate) fn reserved(&self) -> usize {
        self.reservation.bytes()
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.home.is_needed()
    }

    pub(crate) fn is_replaceable(&self) -> bool {
        self.home.is_replaceable()
    }

    pub(crate) fn is_in_ring(&self) -> bool {
        self.ring_entry.is_some()
    }

    pub(crate) fn take_ring_entry(&mut self) -> Option<RingEntry> {
        self.ring_entry.take()
    }

    pub(crate) fn give_back(&mut self) -> io::Result<()> {
        self.resource.give_back()
    }

    /// For when there is no ring any more that it could have a seat in.
    pub(crate) fn give_back_now(&mut self) -> io::Result<()> {
        self.ring_entry = None;
        self.give_back()
    }

    /// After it was given back: the reservation, for somebody else. The resource is dropped, then the home let go.
    pub(crate) fn into_reservation(self) -> Reservation {
        let Self { resource, reservation, ring_entry, home } = self;
        debug_assert!(ring_entry.is_none(), "still on its seat");
        drop(resource);
        drop(home);
        reservation
    }
}

impl<R: Resource + fmt::Debug> fmt::Debug for Kept<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.resource).finish()
    }
}

/// Where bytes are that may be read, as long as whoever has this says.
///
/// Lent as it stands, and not told word by word: of a field the compiler knows that it is not null.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    address: NonNull<u8>,
    len: usize,
}

impl Span {
    const EMPTY: Self = Self { address: NonNull::dangling(), len: 0 };
}

/// Bytes that are read, and the region that they are of. They stay where they are as long as this is borrowed.
pub(crate) trait View {
    /// `None` for a copy, and for no bytes.
    fn region(&self) -> Option<&Region>;

    fn span(&self) -> &Span;

    #[inline]
    fn len(&self) -> usize {
        self.span().len
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: what `span` promises. That the bytes do not change and that the file does not shrink is the promise made to
        // `MapManagerBuilder::build`.
        unsafe { slice::from_raw_parts(self.span().address.as_ptr(), self.len()) }
    }

    /// Whether `len` bytes from `at` on are all here, and are any.
    #[inline]
    fn has(&self, at: u64, len: u64) -> bool {
        let left = (self.len() as u64).saturating_sub(at);
        // One comparison says `0 < len` (or it wraps to more than there is) and `len <= left`, and so that `at` is inside.
        len.wrapping_sub(1) < left
    }

    /// They, or none. (No `Option`: whoever asks has asked before whether they are here, and is not to ask again.)
    #[inline]
    fn get(&self, at: u64, len: u64) -> &[u8] {
        if self.has(at, len) {
            // SAFETY: inside the bytes it is about, by the condition.
            let start = unsafe { self.span().address.add(at as usize) };
            // SAFETY: as in `bytes`; the condition holds the end inside as well.
            unsafe { slice::from_raw_parts(start.as_ptr(), len as usize) }
        } else {
            &[]
        }
    }

    /// `len` bytes from `address` on, or none if they are not here.
    #[inline]
    fn at(&self, address: NonNull<u8>, len: u64) -> &[u8] {
        let at = (address.as_ptr() as usize).wrapping_sub(self.span().address.as_ptr() as usize);
        if self.has(at as u64, len) {
            // SAFETY: inside the bytes it is about, by the condition; as in `bytes`.
            unsafe { slice::from_raw_parts(address.as_ptr(), len as usize) }
        } else {
            none()
        }
    }

    /// Whether a hole was found in the region, as of about now.
    #[inline]
    fn is_faulted(&self) -> bool {
        // Asked here already, so that a reader in its window follows no pointer for it.
        fault_guard::any_faulted() && self.region().is_some_and(|region| region.get().is_faulted())
    }

    /// Whether `len` bytes from `at` on, which are inside, may be zeros in the place of what is not there. Ask after reading.
    #[inline]
    fn doubt(&self, at: usize, len: usize) -> Suspect {
        let Some(region) = self.region() else { return Suspect::None };
        let (mapping, start) = (region.get(), self.span().address.as_ptr().wrapping_add(at));
        match mapping.faulted_part(start, len) {
            Some(faulted) => Suspect::Faulted(faulted),
            None if mapping.may_end_early(start, len) => Suspect::Zeros,
            None => Suspect::None,
        }
    }

    /// Whether `len` bytes from `at` on, of which the first is at `offset` of the file, were all there when they were read.
    fn check(&self, at: usize, len: usize, offset: u64) -> Result<()> {
        match self.region() {
            Some(region) => Arc::clone(&region.home).check(offset, &self.bytes()[at..at + len], self.doubt(at, len)),
            None => Ok(()),
        }
    }

    /// Has all of its region in memory, which is of `file` from `start` on.
    fn read_in(&self, file: &File, start: u64) {
        if let Some(region) = self.region() {
            region.get().read_ahead(file, start);
        }
    }

    fn advise(&self, advice: Advice) {
        if let Some(region) = self.region() {
            region.get().advise(advice);
        }
    }

    /// Copies from `at` on into `buf`, without ever forming a reference to what is mapped.
    ///
    /// # Panics
    ///
    /// If that reaches past the end.
    #[inline]
    fn copy_to(&self, at: usize, buf: &mut [u8]) {
        if at > self.len() || buf.len() > self.len() - at {
            beyond(at, at.saturating_add(buf.len()), self.len());
        }
        // SAFETY: inside the bytes it is about, by the condition; there, as long as `self` is.
        let source = unsafe { self.span().address.add(at) };
        // SAFETY: as above; and a buffer that is borrowed exclusively is not part of a mapping that is only read.
        unsafe { source.as_ptr().copy_to_nonoverlapping(buf.as_mut_ptr(), buf.len()) };
    }
}

/// A client of a region (or one of the owners of a copy), and the bytes of it that it is about: all, or fewer. They stay
/// where they are as long as it lives, wherever it moves.
///
/// One word for each field, and no enum: so it is handed on in registers, which halves the cost of a hit.
#[derive(Clone)]
pub(crate) struct RegionRef {
    client: Option<SlotRef<Region>>,
    /// Kept for what `address` points to.
    _copy: Option<Arc<Vec<u8>>>,
    /// Inside what one of the two keeps. Here, so that a reader in its window follows no pointer but this one.
    span: Span,
}

// SAFETY: `address` points into memory that is only read, and what keeps that may cross threads.
unsafe impl Send for RegionRef {}
// SAFETY: as above.
unsafe impl Sync for RegionRef {}

impl View for RegionRef {
    #[inline]
    fn region(&self) -> Option<&Region> {
        self.client.as_deref()
    }

    #[inline]
    fn span(&self) -> &Span {
        &self.span
    }
}

impl RegionRef {
    #[inline]
    pub(crate) fn new(client: SlotRef<Region>) -> Self {
        let span = Span { address: client.get().address(), len: client.get().len() };
        Self { client: Some(client), _copy: None, span }
    }

    /// `len` bytes from `at` on, if the region has them.
    #[inline]
    pub(crate) fn part(client: SlotRef<Region>, at: u64, len: u64) -> Option<Self> {
        let mapping = client.get();
        let all = mapping.len() as u64;
        if at <= all && len <= all - at {
            // SAFETY: inside the mapping, by the condition.
            let address = unsafe { mapping.address().add(at as usize) };
            Some(Self { client: Some(client), _copy: None, span: Span { address, len: len as usize } })
        } else {
            None
        }
    }

    /// Of no region, and no bytes.
    #[inline]
    pub(crate) fn empty() -> Self {
        Self { client: None, _copy: None, span: Span::EMPTY }
    }

    /// Bytes that were read, to be used as those of a region are.
    pub(crate) fn copied(bytes: Vec<u8>) -> Self {
        let span = Span { address: NonNull::from(&bytes[..]).cast(), len: bytes.len() };
        Self { client: None, _copy: Some(Arc::new(bytes)), span }
    }

    /// Whether it keeps a region.
    pub(crate) fn is_client(&self) -> bool {
        self.client.is_some()
    }

    /// The same, about fewer bytes: `range` counts from the first of those it is about now.
    ///
    /// # Panics
    ///
    /// If that reaches past them.
    #[inline]
    pub(crate) fn narrow(mut self, range: Range<usize>) -> Self {
        if range.start > range.end || range.end > self.len() {
            beyond(range.start, range.end, self.len());
        }
        // SAFETY: inside the bytes it was about, by the condition.
        let address = unsafe { self.span.address.add(range.start) };
        self.span = Span { address, len: range.end - range.start };
        self
    }
}

/// What one cursor reads: a region that it has announced, or one that is in no slot and that it is a client of; or none.
///
/// It belongs to one file of one cache, and to the table of that file's windows: it must be given no other, and go before the
/// last handle of the file does.
pub(crate) struct Reading {
    hazard: HazardPointer<Region>,
    near: Near,
    client: Option<SlotRef<Region>>,
    /// What is announced, or the client's.
    region: Option<NonNull<Region>>,
    /// Inside of it. Here, for the same reason as in [`RegionRef`].
    span: Span,
}

/// Windows that this reader has been at before. To find a slot in the table costs as much as all the rest of a hit.
///
/// Only where the size of windows is a power of two. Else there is nothing in it.
struct Near {
    shift: u32,
    /// Whether it has been at one window before: who stays there needs no places.
    is_next: bool,
    places: Option<Box<Places>>,
}

/// 12 KiB, for readers who change windows. A column for each: so that where a window is follows from its number at once.
struct Places {
    windows: [u64; NEAR],
    slots: [NonNull<Slot<Region>>; NEAR],
    /// Where the window's first byte was last. Whoever waits for the bytes need not wait for the slot to tell.
    addresses: [NonNull<u8>; NEAR],
}

const NEAR: usize = 512;

/// A window, its slot, and where its first byte is, or was last.
type Place = (u64, NonNull<Slot<Region>>, NonNull<u8>);

impl Near {
    fn new(geometry: &Geometry) -> Self {
        Self { shift: geometry.shift().unwrap_or(0), is_next: false, places: None }
    }

    #[inline]
    fn get(&self, offset: u64) -> Option<Place> {
        let window = offset >> self.shift;
        let (places, at) = (self.places.as_ref()?, window as usize % NEAR);
        (places.windows[at] == window).then(|| (window, places.slots[at], places.addresses[at]))
    }

    #[cold]
    fn put(&mut self, (window, slot, address): Place) {
        if self.shift == 0 || !mem::replace(&mut self.is_next, true) {
            return;
        }
        let places = self.places.get_or_insert_with(|| {
            Box::new(Places {
                // That is none which a file has: none ends beyond 2⁶³ bytes.
                windows: [u64::MAX; NEAR],
                slots: [NonNull::dangling(); NEAR],
                addresses: [NonNull::dangling(); NEAR],
            })
        });
        let at = window as usize % NEAR;
        (places.windows[at], places.slots[at], places.addresses[at]) = (window, slot, address);
    }
}

/// What a reader has come to by [`Reading::announce_near`].
pub(crate) struct Hop<'s> {
    pub(crate) slot: &'s Slot<Region>,
    pub(crate) window: u64,
    /// Where the window starts, in the file.
    pub(crate) start: u64,
    /// Of the byte that was asked for.
    pub(crate) address: NonNull<u8>,
}

// SAFETY: as for `RegionRef`: memory that is only read, and what keeps it may cross threads.
unsafe impl Send for Reading {}
// SAFETY: as above.
unsafe impl Sync for Reading {}

impl View for Reading {
    #[inline]
    fn region(&self) -> Option<&Region> {
        // SAFETY: it is announced or has a client, until the next `&mut self`.
        self.region.map(|region| unsafe { region.as_ref() })
    }

    #[inline]
    fn span(&self) -> &Span {
        &self.span
    }
}

impl Reading {
    /// Of a file of the cache whose owners look at these `hazards`.
    pub(crate) fn new(hazards: &Arc<HazardDomain<Region>>, geometry: &Geometry) -> Self {
        Self {
            hazard: HazardPointer::new(hazards),
            near: Near::new(geometry),
            client: None,
            region: None,
            span: Span::EMPTY,
        }
    }

    /// Reads a window, in the place of what it read before, if that is mapped, up to `end` bytes into it at least, and whole; else
    /// nothing. The hit: nobody else sees it, but those who would unmap it.
    pub(crate) fn protect(&mut self, slot: &Slot<Region>, window: u64, end: u64) -> bool {
        self.forget();
        self.client = None;
        let is_read = self.read(slot, end);
        if is_read {
            self.hazard.count();
            self.near.put((window, NonNull::from(slot), self.span.address));
        } else {
            self.release();
        }
        is_read
    }

    /// The same, without a call on the way, for the bytes from `start` to `end` of the file, in a window that it has been at before
    /// and that is mapped where it was. `None` if it has not, and then it reads what it read before; or it is no hit, and then it
    /// reads nothing.
    #[inline(always)]
    pub(crate) fn announce_near(&mut self, start: u64, end: u64) -> Option<Hop<'_>> {
        let (window, slot, address) = self.near.get(start)?;
        // SAFETY: put there for this window, and so of the table that this is for, in which nothing moves.
        let slot = unsafe { slot.as_ref() };
        let first = window << self.near.shift;
        if start >= end || self.client.is_some() || !self.read(slot, end - first) {
            return None;
        }
        if self.span.address != address {
            // It was unmapped in between, and will be found by the table.
            self.forget();
            return None;
        }
        self.hazard.count();
        // SAFETY: inside the mapping, which reaches up to `end`.
        let address = unsafe { address.add((start - first) as usize) };
        Some(Hop { slot, window, start: first, address })
    }

    /// The slot of the window of `start`, if it has been there before.
    pub(crate) fn near(&self, start: u64) -> Option<&Slot<Region>> {
        let (_, slot, _) = self.near.get(start)?;
        // SAFETY: as in `announce_near`.
        Some(unsafe { slot.as_ref() })
    }

    /// Announces a slot and reads what is there. `false`: that is nothing, or not enough.
    #[inline(always)]
    fn read(&mut self, slot: &Slot<Region>, end: u64) -> bool {
        // SAFETY: a slot of the cache's (the promise of whoever made this one).
        let Some(region) = (unsafe { self.hazard.protect(slot) }) else {
            self.forget();
            return false;
        };
        // SAFETY: it is announced now.
        let mapping = unsafe { region.as_ref() }.get();
        self.region = Some(region);
        self.span = Span { address: mapping.address(), len: mapping.len() };
        // What crosses into the next window is never here; nor is the new tail of a file that has grown.
        if (mapping.len() as u64) < end || mapping.is_faulted() {
            self.forget();
            return false;
        }
        true
    }

    /// Reads what somebody counted in for it: announced, if it is in the slot of a `window`.
    pub(crate) fn hold(&mut self, held: RegionRef, window: Option<u64>) {
        let RegionRef { client, _copy, span } = held;
        debug_assert!(_copy.is_none(), "a copy is kept by nobody here");
        self.forget();
        self.client = None;
        match (client, window) {
            (Some(client), Some(window)) if !client.is_detached() => {
                // SAFETY: as in `protect`.
                self.region = Some(unsafe { self.hazard.protect_client(&client) });
                self.near.put((window, client.place(), client.get().address()));
            }
            (client, _) => {
                self.release();
                self.region = client.as_deref().map(NonNull::from);
                self.client = client;
            }
        }
        self.span = span;
    }

    /// Reads nothing any more. Whether somebody may be waiting for that, to unmap it.
    pub(crate) fn release(&mut self) -> bool {
        self.forget();
        self.client = None;
        // SAFETY: a slot of a file that has a handle (the same promise).
        unsafe { self.hazard.reset() }
    }

    /// What it reads is announced no more.
    fn forget(&mut self) {
        (self.region, self.span.len) = (None, 0);
    }
}

/// A call, so that nobody waits for the condition.
#[cold]
fn none() -> &'static [u8] {
    &[]
}

/// By value, so that what is looked at need not be in memory for the case that never happens.
#[cold]
#[track_caller]
fn beyond(start: usize, end: usize, len: usize) -> ! {
    panic!("{start}..{end} of a region of {len} bytes")
}

impl Deref for RegionRef {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for RegionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionRef").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::protocol::slot::Slot;

    #[test]
    fn a_windows_slot_fills_one_cache_line() {
        // So that neighbours do not slow each other down, and no window takes two.
        assert_eq!(size_of::<Slot<Region>>(), 64);
    }
}
