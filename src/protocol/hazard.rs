//! [`HazardDomain`]: who reads which slot without being counted.
//!
//! A client that comes and goes writes its slot's word twice, and readers of one window meet there. A cursor does not count
//! itself in: it *announces* the slot that it reads, in a record of its own, and looks whether the slot is mapped. Whoever has
//! won a slot looks at all records before it unmaps. These are hazard pointers (M. Michael, 2004), for mappings instead of
//! nodes; the barrier between announcing and looking is on the owner's side, where the system has it ([`Barrier`]).
//!
//! # The steps
//!
//! The reader, in [`HazardPointer::protect`]: 1. store the slot in the record (which takes back what stood there); 2. the light
//! barrier; 3. load the word: mapped and not draining, or take the announcement back and go the slow way. 4. Read, for as long
//! as the announcement stands. 5. Store something else (Release). Who stores nothing (`reset`): 6. the light barrier; 7. load
//! the word: if it drains, give back what waits.
//!
//! The owner: 1. win the word (`retire`, `drain`, the last release); 2. the heavy barrier; 3. look at each record (Acquire);
//! 4. what is announced is restored, or, if it drains, kept for later, still owned; the rest is unmapped. 5. Who kept something
//! does 2 and 3 once more, and takes back what is not announced any more.
//!
//! # Why that is right
//!
//! - *An announcement against an owner.* If the reader's light barrier comes first, its store is seen by the owner's look. If
//!   the owner's heavy barrier comes first, the reader's load sees the word as the owner left it, or later: retiring or
//!   draining, so it does not read; or vacant and mapped anew by then, which is what it reads, and what the next owner of that
//!   will see announced.
//! - *The end of a read against an unmap.* The owner's look finds in the record what came after the announcement, and stored
//!   there with Release: it is an Acquire, so the reads come before the unmap.
//! - *A record that is new, or is used again.* Its number was handed out before the announcement, by the same thread or by one
//!   that the record came from (the stack of free places, or whatever moved the announcer to another thread): the barrier that
//!   shows the announcement shows the number of records as well.
//! - *Kept for later.* A slot that drains is not announced with success any more, but by who is its client, and lets go after
//!   that. So whoever owns it and finds it no longer announced may unmap it.
//! - *Who lets go, against who keeps for later.* If the reader's second light barrier comes first, the owner's second look does
//!   not find it any more. If the owner's second heavy barrier comes first, the reader sees that the slot drains, and goes for
//!   what waits: before the owner had brought it (the lock says so, and then the owner's look sees what the reader did), or
//!   after. So one of the two gives it back. A reader that stores another slot, or announces what drains in vain, does not look
//!   back: what it leaves waits for somebody who does, a second at most, which is how often the collector looks.
//! - *The cache is gone.* Then no reader is left (each keeps the cache), and its last step was to let go of that: an owner who finds
//!   it gone has only to come [after that](acquire_after_last_reader).
//! - *Nobody has a record.* Then nobody reads unseen, and the owner does without the heavy barrier. Who takes the first record
//!   meanwhile has a fence after it has said so, and the owner one before it asks: either the owner sees that there is a
//!   record, or that reader sees the word as the owner left it.
//!
//! # What it costs
//!
//! Who announces writes one word, in a cache line of its own. Who evicts looks at as many records as there ever were at once, at
//! rest or not, about 50 instructions each: once before it wins a window, to pass over those that are read, and once after (which
//! who trims or collects does for eight at once). So a reader that has to evict takes 3,800 instructions beside one cursor,
//! 107,000 beside 1,000, and 1,060,000 beside 10,000. (x86-64, 2026-11-21; `cargo bench --bench scale -- ratios`.)
#![allow(unsafe_code, reason = "the payload of an protected slot; rule 7 of `protocol`")]

use std::fmt;
use std::ptr::{self, NonNull};

use super::slab::Slab;
use super::slot::{Payload, Slot, SlotRef, UnmapToken};
use crate::sync::barrier::Barrier;
use crate::sync::{Arc, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// The records of all who announce slots of one cache.
pub(crate) struct HazardDomain<P> {
    records: Slab<Record<P>>,
    /// Records that somebody has.
    taken: AtomicUsize,
    /// Had with the cache, not with its first reader: the first time, the system may take 30 ms for it.
    barrier: Barrier,
}

/// What one reader announces. In a cache line of its own, so that nobody waits for it but an owner.
#[repr(align(64))]
struct Record<P> {
    slot: AtomicPtr<Slot<P>>,
    /// How often all who had this record announced a slot and read.
    reads: AtomicU64,
}

impl<P> Default for Record<P> {
    fn default() -> Self {
        Self { slot: AtomicPtr::new(ptr::null_mut()), reads: AtomicU64::new(0) }
    }
}

impl<P> Default for HazardDomain<P> {
    fn default() -> Self {
        Self { records: Slab::default(), taken: AtomicUsize::new(0), barrier: Barrier::best() }
    }
}

impl<P> HazardDomain<P> {
    /// What is announced, of the slots that were won before this: for their owner. `None` if there was no barrier to be had:
    /// then nothing is known.
    pub(crate) fn scan_after_barrier(&self) -> Option<ProtectedSet<P>> {
        // SeqCst: pairs with the fence in `HazardPointer::new`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in the hazard's drop; its reads are over.
        if self.taken.load(Ordering::Acquire) == 0 {
            return Some(ProtectedSet::nothing());
        }
        self.barrier.heavy().then(|| self.scan_unordered())
    }

    /// What is announced, as far as can be seen from here: for a guess, and for show. O(n) of the records.
    pub(crate) fn scan_unordered(&self) -> ProtectedSet<P> {
        let mut slots: Vec<*const Slot<P>> = (0..self.records.len())
            // Acquire: pairs with the Release that ended a read there.
            .filter_map(|number| Some(self.records.get(number)?.slot.load(Ordering::Acquire).cast_const()))
            .filter(|slot| !slot.is_null())
            .collect();
        slots.sort_unstable();
        ProtectedSet(slots)
    }

    /// How often slots were announced and read, by all, since the beginning.
    pub(crate) fn reads(&self) -> u64 {
        // Relaxed: a count.
        let reads = |number| self.records.get(number).map_or(0, |record| record.reads.load(Ordering::Relaxed));
        (0..self.records.len()).map(reads).sum()
    }
}

impl<P> fmt::Debug for HazardDomain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HazardDomain").field("records", &self.records).finish_non_exhaustive()
    }
}

/// The slots that were announced at one moment.
#[derive(Debug)]
pub(crate) struct ProtectedSet<P>(Vec<*const Slot<P>>);

/// For an owner who has found that whatever readers keep is gone, and so are they: their reads are over. (It has found that by a
/// count, which the last of them took down with Release, and which it has loaded without an Acquire.)
pub(crate) fn acquire_after_last_reader() {
    // Acquire: as above; pairs with the Release of the last reader's step, which was to let go of what it kept.
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

/// A reader that announces, one slot at a time.
pub(crate) struct HazardPointer<P> {
    hazards: Arc<HazardDomain<P>>,
    /// Its record, which `hazards` keeps.
    record: NonNull<Record<P>>,
    number: u32,
    /// A copy: who hops does not go where `hazards` keeps it.
    barrier: Barrier,
}

// SAFETY: it reaches a record, which is made of atomics, and what it gives of a payload is a pointer (so `P: Sync` for those who
// follow it; `P: Send` is what an owner needs, whom it may make wait).
unsafe impl<P: Send + Sync> Send for HazardPointer<P> {}
// SAFETY: as above; shared, it does nothing.
unsafe impl<P: Send + Sync> Sync for HazardPointer<P> {}

impl<P> HazardPointer<P> {
    pub(crate) fn new(hazards: &Arc<HazardDomain<P>>) -> Self {
        let number = hazards.records.claim();
        // Relaxed: ordered by the fence.
        hazards.taken.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `scan_after_barrier`.
        fence(Ordering::SeqCst);
        Self {
            record: NonNull::from(hazards.records.at(number)),
            number,
            barrier: hazards.barrier,
            hazards: Arc::clone(hazards),
        }
    }

    #[inline]
    fn record(&self) -> &Record<P> {
        // SAFETY: a place of the table that `hazards` keeps, and which does not move.
        unsafe { self.record.as_ref() }
    }

    /// Announces `slot`, in the place of what it announced before. Its payload, which stays what and where it is until the next
    /// call (or the drop) of this announcer; `None` if there is none, or it drains: then nothing is announced.
    ///
    /// # Safety
    ///
    /// Whoever owns `slot` looks at these announcements before it unmaps.
    #[inline]
    pub(crate) unsafe fn protect(&mut self, slot: &Slot<P>) -> Option<NonNull<P>> {
        self.put(slot);
        self.barrier.light();
        // SAFETY: it is announced, and the barrier passed.
        let payload = unsafe { slot.payload_if_mapped() };
        if payload.is_none() {
            self.put(ptr::null());
        }
        payload
    }

    /// Announces the slot of a client, who may then let go.
    ///
    /// # Safety
    ///
    /// As [`protect`](Self::protect).
    pub(crate) unsafe fn protect_client(&mut self, client: &SlotRef<P>) -> NonNull<P>
    where
        P: Payload,
    {
        // The client's release, by which an owner may win it, comes after this.
        self.put(client.slot());
        NonNull::from(&**client)
    }

    /// Takes the announcement back. Whether that slot drains: then its owner may be waiting for this.
    ///
    /// # Safety
    ///
    /// The slot that was announced last, if it is announced still, is still allocated.
    pub(crate) unsafe fn reset(&mut self) -> bool {
        // Relaxed: what this announcer stored itself.
        let slot = self.record().slot.load(Ordering::Relaxed);
        self.put(ptr::null());
        // Pairs with the heavy barrier of the owner's second look: that one sees the record without the slot, or this that the
        // slot drains.
        self.barrier.light();
        // SAFETY: the caller's promise.
        unsafe { slot.as_ref() }.is_some_and(|slot| slot.snapshot().is_draining())
    }

    #[inline]
    fn put(&self, slot: *const Slot<P>) {
        // Release: pairs with the Acquire in `scan_unordered`: what was read by the announcement before is over.
        self.record().slot.store(slot.cast_mut(), Ordering::Release);
    }

    /// Counts a read.
    #[inline]
    pub(crate) fn count(&mut self) {
        let reads = &self.record().reads;
        // Relaxed: nobody else writes it.
        reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<P> Drop for HazardPointer<P> {
    fn drop(&mut self) {
        self.put(ptr::null());
        self.hazards.records.release(self.number);
        // Release: pairs with the Acquire in `scan_after_barrier`.
        self.hazards.taken.fetch_sub(1, Ordering::Release);
    }
}

impl<P> fmt::Debug for HazardPointer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HazardPointer").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{HazardDomain, HazardPointer};
    use crate::protocol::slot::{Drain, Payload, Slot, UnmapToken};
    use crate::sync::Arc;

    struct Number(u32);

    // SAFETY: the slots of these tests outlive what is in them.
    unsafe impl Payload for Number {
        fn orphaned(token: UnmapToken<Self>) {
            let _ = token.vacate(|_| Ok::<(), ()>(()));
        }
    }

    fn mapped(number: u32) -> Slot<Number> {
        let slot = Slot::default();
        drop(slot.begin_load().expect("vacant").publish(Number(number)));
        slot
    }

    fn protect(hazard: &mut HazardPointer<Number>, slot: &Slot<Number>) -> Option<u32> {
        // SAFETY: nothing is unmapped here but by who has looked.
        let payload = unsafe { hazard.protect(slot) }?;
        // SAFETY: announced.
        Some(unsafe { payload.as_ref() }.0)
    }

    #[test]
    fn what_many_announce_is_seen_each() {
        let hazards = Arc::new(HazardDomain::default());
        let slots: Vec<_> = (0..200).map(mapped).collect();
        let mut hazard_pointers: Vec<_> = slots.iter().map(|_| HazardPointer::new(&hazards)).collect();
        for (hazard, slot) in hazard_pointers.iter_mut().zip(&slots).step_by(3) {
            assert!(protect(hazard, slot).is_some());
        }
        let seen = |slot| hazards.scan_after_barrier().expect("a barrier").contains(slot);
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(seen(slot), number % 3 == 0, "{number}");
        }
        hazard_pointers.drain(..100);
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(seen(slot), number % 3 == 0 && number >= 100, "{number}");
        }
    }

    #[test]
    fn an_announcer_reads_one_slot_at_a_time_and_only_what_is_mapped() {
        let hazards = Arc::new(HazardDomain::default());
        let (one, two, vacant) = (mapped(1), mapped(2), Slot::default());
        let mut hazard = HazardPointer::new(&hazards);
        let seen = |slots: [&Slot<Number>; 3]| slots.map(|slot| hazards.scan_unordered().contains(slot));
        assert_eq!(protect(&mut hazard, &one), Some(1));
        assert_eq!(protect(&mut hazard, &two), Some(2));
        assert_eq!(seen([&one, &two, &vacant]), [false, true, false]);
        assert_eq!(protect(&mut hazard, &vacant), None);
        assert_eq!(seen([&one, &two, &vacant]), [false; 3]);
        assert_eq!(protect(&mut hazard, &one), Some(1));
        let Drain::Owned(token) = one.drain() else { panic!("nobody is counted") };
        assert!(hazards.scan_after_barrier().expect("a barrier").contains_token(&token));
        // SAFETY: the slot is here.
        assert!(unsafe { hazard.reset() }, "it drains");
        assert!(!hazards.scan_after_barrier().expect("a barrier").contains_token(&token));
        assert_eq!(protect(&mut hazard, &one), None, "it drains");
        Number::orphaned(token);
        drop(two.take().expect("mapped"));
        let Drain::Owned(token) = two.drain() else { panic!("nobody is counted") };
        Number::orphaned(token);
    }

    #[test]
    fn reads_are_counted_also_of_those_who_went() {
        let hazards = Arc::new(HazardDomain::<Number>::default());
        for _ in 0..3 {
            let (mut one, mut two) = (HazardPointer::new(&hazards), HazardPointer::new(&hazards));
            one.count();
            two.count();
            one.count();
        }
        assert_eq!(hazards.reads(), 9);
    }
}
