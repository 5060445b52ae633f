//! [`HazardDomain`]: hazard pointers for mappings (M. Michael, 2004), with an asymmetric barrier.
//!
//! A counted client ([`SlotRef`]) writes the slot's word twice, so all readers of one window contend for one cache
//! line. A cursor is not counted. It *protects* the slot: it stores the slot's address in its own hazard record and
//! then checks that the slot is mapped. The *owner*, the thread that has to unmap a slot, scans all records before it
//! unmaps. The [barrier](crate::sync::barrier) orders the two: the scan finds the record, or the reader finds the slot
//! owned. So all reads of a payload by uncounted readers happen before its unmap. `docs/soundness.md` proves it.
//!
//! # Steps
//!
//! The proof and the comments below refer to these steps.
//!
//! - [`protect`](HazardPointer::protect): R1 stores the slot in the record, R2 is the light barrier, R3 loads the word.
//! - R4 reads the payload. R5 ends the read: it stores another slot or null in the record.
//! - [`reset`](HazardPointer::reset): R5 with null, R6 is the light barrier, R7 loads the word. If the slot drains, R8
//!   in `Cursor::release_window` retries the deferred list.
//! - [`new`](HazardPointer::new): N1 claims a record, N2 increments `active`, N3 is a fence.
//! - Drop of a [`HazardPointer`]: D1 stores null, D2 releases the record, D3 decrements `active`.
//! - O1 makes a thread the owner. [`scan_after_barrier`](HazardDomain::scan_after_barrier): O2 loads `active` and
//!   issues the heavy barrier, O3 loads the records.
//! - O4 in `RegionPool::reclaim_unless`: unmaps an unprotected slot, restores a protected one, or defers its token.
//! - O5 and O6 in `RegionPool::take_newly_unprotected`: the barrier and the scan again, for the deferred tokens.
//!
//! # Cost
//!
//! Protecting a slot costs one store to the reader's own cache line, one load of the slot's word, and the light
//! barrier, which is no instruction where the OS has the asymmetric one. The owner pays: a heavy barrier and a scan of
//! all records that ever existed at once, in use or not. An evicting thread scans again, without the barrier, to
//! pass over protected slots. So an eviction's cost grows linearly with the number of records that ever existed at
//! once. Threads that trim or collect share one scan between several slots.
#![allow(unsafe_code, reason = "the payload of a protected slot; rule 7 of `protocol`")]

use std::ptr::{self, NonNull};

use super::slab::Slab;
use super::slot::{Payload, Slot, SlotRef, UnmapToken};
use crate::sync::barrier::Barrier;
use crate::sync::{Arc, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// The hazard records of all readers of one cache.
pub(crate) struct HazardDomain<P> {
    records: Slab<HazardRecord<P>>,
    /// The number of records in use.
    active: AtomicUsize,
    /// Chosen for each cache, and copied to its readers, so that all of them pair. Not chosen by the first reader: the
    /// registration with the OS may take tens of milliseconds.
    barrier: Barrier,
}

/// The slot that one reader protects. It has a cache line of its own, so only a scanning owner contends with the
/// reader.
#[repr(align(64))]
struct HazardRecord<P> {
    slot: AtomicPtr<Slot<P>>,
    /// The number of slots protected and read, summed over all holders of this record.
    reads: AtomicU64,
}

impl<P> Default for HazardRecord<P> {
    fn default() -> Self {
        Self { slot: AtomicPtr::new(ptr::null_mut()), reads: AtomicU64::new(0) }
    }
}

impl<P> Default for HazardDomain<P> {
    fn default() -> Self {
        Self { records: Slab::default(), active: AtomicUsize::new(0), barrier: Barrier::best() }
    }
}

impl<P> HazardDomain<P> {
    /// Returns the protected slots, complete for every slot that the caller owned before this call (steps O2 and O3).
    ///
    /// Returns `None` if the OS refuses the barrier. The caller must then treat every slot as protected.
    pub(crate) fn scan_after_barrier(&self) -> Option<ProtectedSet<P>> {
        // SeqCst: pairs with the fence in `HazardPointer::new`. Either the load below sees the new record, or the new
        // reader sees the word as its owner left it.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `HazardPointer::drop`. The reads of all dropped hazard pointers are over.
        if self.active.load(Ordering::Acquire) == 0 {
            return Some(ProtectedSet::nothing());
        }
        self.barrier.heavy().then(|| self.scan_unordered())
    }

    /// Returns the protected slots without a barrier: only a guess, for the choice of victims and for statistics.
    ///
    /// It may lack a slot that a reader has just protected. Takes time linear in the number of records ever made.
    pub(crate) fn scan_unordered(&self) -> ProtectedSet<P> {
        let mut slots: Vec<*const Slot<P>> = (0..self.records.len())
            // Acquire: pairs with the Release in `HazardPointer::store`. The reads of the slots protected before are
            // over.
            .filter_map(|number| Some(self.records.get(number)?.slot.load(Ordering::Acquire).cast_const()))
            .filter(|slot| !slot.is_null())
            .collect();
        slots.sort_unstable();
        ProtectedSet(slots)
    }

    /// Returns the number of slots that all readers have protected and read since the cache was built.
    pub(crate) fn reads(&self) -> u64 {
        // Relaxed: a statistic.
        let reads = |number| self.records.get(number).map_or(0, |record| record.reads.load(Ordering::Relaxed));
        (0..self.records.len()).map(reads).sum()
    }
}

/// The result of a scan: the addresses of the protected slots, sorted.
#[derive(Debug)]
pub(crate) struct ProtectedSet<P>(Vec<*const Slot<P>>);

/// Orders the reads of all readers of a cache that is gone before what the calling owner does next.
///
/// The caller has loaded the cache's reference count without Acquire and found it 0. The last step of each reader
/// subtracted from that count with Release.
pub(crate) fn acquire_after_last_reader() {
    // Acquire: pairs with the Release subtraction from the cache's reference count. It publishes the end of all reads.
    fence(Ordering::Acquire);
}

impl<P> ProtectedSet<P> {
    pub(crate) fn nothing() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn contains(&self, slot: &Slot<P>) -> bool {
        self.0.binary_search(&ptr::from_ref(slot)).is_ok()
    }

    pub(crate) fn contains_token(&self, token: &UnmapToken<P>) -> bool {
        self.contains(token.slot())
    }
}

/// One reader's hazard record.
pub(crate) struct HazardPointer<P> {
    domain: Arc<HazardDomain<P>>,
    /// The record, which `domain` keeps in memory.
    record: NonNull<HazardRecord<P>>,
    number: u32,
    /// A copy of the domain's barrier, so that `protect` does not follow the pointer to the domain.
    barrier: Barrier,
}

// SAFETY: a hazard pointer reaches its record, which consists of atomics, and returns payloads as raw pointers. Readers
// dereference them (so `P: Sync`), and an owner drops the payloads on its own thread (so `P: Send`).
unsafe impl<P: Send + Sync> Send for HazardPointer<P> {}
// SAFETY: as for `Send`. A shared reference gives access to no method outside this module.
unsafe impl<P: Send + Sync> Sync for HazardPointer<P> {}

impl<P> HazardPointer<P> {
    /// Takes a record of `domain` (steps N1 to N3). It protects no slot yet.
    pub(crate) fn new(domain: &Arc<HazardDomain<P>>) -> Self {
        let number = domain.records.claim();
        // Relaxed: ordered by the fence.
        domain.active.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `scan_after_barrier`. Either that owner sees the addition, or this reader's
        // next `protect` sees the word as the owner left it.
        fence(Ordering::SeqCst);
        Self {
            record: NonNull::from(domain.records.at(number)),
            number,
            barrier: domain.barrier,
            domain: Arc::clone(domain),
        }
    }

    #[inline]
    fn record(&self) -> &HazardRecord<P> {
        // SAFETY: an entry of the slab that `domain` keeps. Entries do not move.
        unsafe { self.record.as_ref() }
    }

    /// Protects `slot` in place of the slot protected before, and returns its payload (steps R1 to R3).
    ///
    /// The payload stays mapped, and at its address, until the next call of `protect`, `protect_client` or `reset`, or
    /// until this hazard pointer is dropped. Returns `None` if the slot is not mapped or drains. No slot is protected
    /// then.
    ///
    /// # Safety
    ///
    /// Each owner of `slot` scans the records of this domain before it unmaps (rule 7).
    #[inline]
    pub(crate) unsafe fn protect(&mut self, slot: &Slot<P>) -> Option<NonNull<P>> {
        self.store(slot);
        self.barrier.light();
        // SAFETY: the record holds `slot`, and the light barrier came after that store.
        let payload = unsafe { slot.payload_if_mapped() };
        if payload.is_none() {
            self.store(ptr::null());
        }
        payload
    }

    /// Protects the slot of `client`, and returns its payload as [`protect`](Self::protect) does. The caller may then
    /// drop the client.
    ///
    /// # Safety
    ///
    /// That of [`protect`](Self::protect), for the client's slot.
    pub(crate) unsafe fn protect_client(&mut self, client: &SlotRef<P>) -> NonNull<P>
    where
        P: Payload,
    {
        // No barrier: the client is released after this store, and an owner gets the slot after that release.
        self.store(client.slot());
        NonNull::from(&**client)
    }

    /// Ends the protection (steps R5 to R7). Returns `true` if the slot that was protected drains.
    ///
    /// Its token may then be on the deferred list, and the caller must retry that list (step R8).
    ///
    /// # Safety
    ///
    /// If a slot is still protected, its memory is still allocated.
    pub(crate) unsafe fn reset(&mut self) -> bool {
        // Relaxed: only this hazard pointer stores the record.
        let slot = self.record().slot.load(Ordering::Relaxed);
        self.store(ptr::null());
        // Pairs with the heavy barrier before the owner's second scan (O5). Either that scan finds the record without
        // the slot, or the load below finds that the slot drains.
        self.barrier.light();
        // SAFETY: the caller's promise.
        unsafe { slot.as_ref() }.is_some_and(|slot| slot.snapshot().is_draining())
    }

    #[inline]
    fn store(&self, slot: *const Slot<P>) {
        // Release: pairs with the Acquire in `scan_unordered`. The reads of the slot protected before are over.
        self.record().slot.store(slot.cast_mut(), Ordering::Release);
    }

    /// Counts a read.
    #[inline]
    pub(crate) fn count(&mut self) {
        let reads = &self.record().reads;
        // Relaxed: only this hazard pointer writes it.
        reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<P> Drop for HazardPointer<P> {
    /// Ends the protection and releases the record (steps D1 to D3).
    fn drop(&mut self) {
        self.store(ptr::null());
        self.domain.records.release(self.number);
        // Release: pairs with the Acquire in `scan_after_barrier`. This reader's reads are over.
        self.domain.active.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{HazardDomain, HazardPointer};
    use crate::protocol::slot::{Drain, Payload, Slot, UnmapToken};
    use crate::sync::Arc;

    struct Number(u32);

    // SAFETY: the slots of these tests outlive their payloads.
    unsafe impl Payload for Number {
        fn last_client_dropped(token: UnmapToken<Self>) {
            let _ = token.vacate(|_| Ok::<(), ()>(()));
        }
    }

    fn mapped(number: u32) -> Slot<Number> {
        let slot = Slot::default();
        drop(slot.begin_load().expect("a new slot is vacant").publish(Number(number)));
        slot
    }

    fn protect(hazard: &mut HazardPointer<Number>, slot: &Slot<Number>) -> Option<u32> {
        // SAFETY: the owners of these tests scan before they vacate.
        let payload = unsafe { hazard.protect(slot) }?;
        // SAFETY: the slot is protected.
        Some(unsafe { payload.as_ref() }.0)
    }

    #[test]
    fn scan_of_many_records_finds_each_protected_slot() {
        let domain = Arc::new(HazardDomain::default());
        let slots: Vec<_> = (0..200).map(mapped).collect();
        let mut hazard_pointers: Vec<_> = slots.iter().map(|_| HazardPointer::new(&domain)).collect();
        for (hazard, slot) in hazard_pointers.iter_mut().zip(&slots).step_by(3) {
            assert!(protect(hazard, slot).is_some());
        }
        for dropped in [0, 100] {
            hazard_pointers.drain(..dropped);
            let protected = domain.scan_after_barrier().expect("the OS grants the barrier");
            for (number, slot) in slots.iter().enumerate() {
                let expected = number % 3 == 0 && number >= dropped;
                assert_eq!(protected.contains(slot), expected, "slot {number} after {dropped} drops");
            }
        }
    }

    #[test]
    fn hazard_pointer_protects_one_slot_at_a_time_and_only_mapped_ones() {
        let domain = Arc::new(HazardDomain::default());
        let (one, two, vacant) = (mapped(1), mapped(2), Slot::default());
        let mut hazard = HazardPointer::new(&domain);
        let are_protected = |slots: [&Slot<Number>; 3]| slots.map(|slot| domain.scan_unordered().contains(slot));
        let scan = || domain.scan_after_barrier().expect("the OS grants the barrier");
        assert_eq!(protect(&mut hazard, &one), Some(1));
        assert_eq!(protect(&mut hazard, &two), Some(2));
        assert_eq!(are_protected([&one, &two, &vacant]), [false, true, false]);
        assert_eq!(protect(&mut hazard, &vacant), None);
        assert_eq!(are_protected([&one, &two, &vacant]), [false; 3]);
        assert_eq!(protect(&mut hazard, &one), Some(1));
        let Drain::Owned(token) = one.drain() else { panic!("a slot without clients is owned by the drainer") };
        assert!(scan().contains_token(&token));
        // SAFETY: the slot is a local variable.
        assert!(unsafe { hazard.reset() }, "the slot drains");
        assert!(!scan().contains_token(&token));
        assert_eq!(protect(&mut hazard, &one), None, "a draining slot was protected");
        Number::last_client_dropped(token);
        drop(two.take().expect("the slot is mapped"));
        let Drain::Owned(token) = two.drain() else { panic!("a slot without clients is owned by the drainer") };
        Number::last_client_dropped(token);
    }

    #[test]
    fn reads_include_those_of_dropped_hazard_pointers() {
        let domain = Arc::new(HazardDomain::<Number>::default());
        for _ in 0..3 {
            let (mut one, mut two) = (HazardPointer::new(&domain), HazardPointer::new(&domain));
            one.count();
            two.count();
            one.count();
        }
        assert_eq!(domain.reads(), 9);
    }
}
