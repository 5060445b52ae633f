//! [`HazardDomain`]: hazard pointers for mappings (M. Michael, 2004), with an asymmetric barrier.
//!
//! A counted client ([`SlotRef`]) writes the slot's word twice, so all readers of one window contend for one cache
//! line. A cursor is not counted. It *protects* the slot: it stores the slot's address in its own hazard record and
//! then checks that the slot is mapped. The *owner*, the thread that has to unmap a slot, scans all records before it
//! unmaps. This module states why that is sound. The rules and states that it refers to are those of the [module
//! above](super).
//!
//! # Actors and memory cells
//!
//! - *R* is a reader: a cursor with a [`HazardPointer`], which has one record. *O* is an owner: a thread with an
//!   [`UnmapToken`].
//! - `record.slot` is the address that the record protects, or null. Only the holder of the record stores it.
//! - `slot.word` is the state of a slot. Every change of it is a read-modify-write (rule 2).
//! - *payload* is the slot's payload cell and the mapped bytes that it leads to.
//! - `active` is the number of records in use. `len` is the number of records ever made ([`Slab::len`]).
//! - The *deferred list* holds the tokens of draining slots that are still protected. The cache keeps it, behind a
//!   lock.
//!
//! # Steps
//!
//! Reader, [`protect`](HazardPointer::protect):
//!
//! - R1. Store the slot's address in `record.slot`, Release. If the record protected another slot, this is its R5.
//! - R2. Issue the light barrier.
//! - R3. Load `slot.word`, Acquire. Unless it is MAPPED and not draining: store null (R5) and return `None`.
//! - R4. Read the payload.
//! - R5. Store another address or null in `record.slot`, Release. This ends the read.
//!
//! Reader, [`reset`](HazardPointer::reset), which is R5 with null, and then:
//!
//! - R6. Issue the light barrier.
//! - R7. Load `slot.word`, Relaxed.
//! - R8 (the caller of `reset`). If the slot drains: the caller takes the deferred list and reclaims its tokens, each
//!   from O2 on.
//!
//! Record, [`new`](HazardPointer::new) and drop:
//!
//! - N1. Claim a record. N2. Add 1 to `active`, Relaxed. N3. SeqCst fence.
//! - D1. Store null in `record.slot`, Release (an R5). D2. Release the record to the slab, Release. D3. Subtract 1 from
//!   `active`, Release.
//!
//! Owner, [`scan_after_barrier`](HazardDomain::scan_after_barrier) and the code of the cache around it:
//!
//! - O1. Win `slot.word`: by `retire`, by `drain`, or by the last release of a draining slot. Each is an AcqRel
//!   read-modify-write, or a Release one followed by an Acquire load.
//! - O2. SeqCst fence, then load `active`, Acquire. If it is 0, no slot is protected: go to O4. Otherwise, issue the
//!   heavy barrier. If the OS refuses it, every slot counts as protected: go to O4.
//! - O3. Load `len`, then `record.slot` of each record below it, Acquire.
//! - O4. If the slot is not protected: unmap and `vacate`. If it is protected: `restore`. If `restore` fails, because
//!   the slot drains: push the token on the deferred list.
//! - O5. After a push: issue the heavy barrier again, as in O2.
//! - O6. Scan again, as in O3. Take the tokens of slots that are no longer protected off the list, and reclaim them
//!   from O2 on.
//!
//! In the cache, `RegionPool::reclaim_unless` does O4, `rescan_deferred` O5 and O6, and `Cursor::release_window` R8.
//!
//! # Theorem
//!
//! *If an owner O unmaps a payload in O4, then every read of that payload (R4) by an uncounted reader happens before
//! the unmap.*
//!
//! Two facts are used. The [barrier guarantee](crate::sync::barrier): of a light and a heavy barrier, one comes first,
//! and a load after the second one returns what was stored (or loaded) before the first one, or a later value. The
//! *ownership fact*: from O1 to O's `vacate`, the word is never MAPPED without draining. It is RETIRING after `retire`,
//! and draining in the other two cases. Only `restore`, `vacate`, `begin_load` and abandon leave RETIRING or clear
//! draining. A successful `restore` ends the ownership without an unmap. `begin_load` needs a vacant slot, and abandon
//! a `begin_load`: hence a `vacate` before either.
//!
//! *Proof.* Let R read the payload that O unmaps. Let `s` be its slot. Assume first that O scanned, so that it issued
//! the heavy barrier. Take the light barrier of R2 and the heavy barrier of O2.
//!
//! **If O's heavy barrier comes first**, R3 returns the value that O1 wrote to `s.word`, or a later one. By the
//! ownership fact, R3 refuses each value from O1 up to `vacate`. A value after `vacate` that R3 accepts was written by
//! a later `publish` (Release; R3 is Acquire), so R reads another payload. Both contradict the assumption, so this case
//! does not occur. The later payload has an owner of its own, to which the theorem applies again: R1 still stands in
//! the record.
//!
//! **If R's light barrier comes first**, O3 finds in `record.slot` the address that R1 stored, or a later value.
//!
//! - If it finds the address of `s`, `s` is in the [`ProtectedSet`], and O does not unmap. This contradicts the
//!   assumption.
//! - If it finds a later value that R stored, that store is R5 or comes after it. So R4 happens before that store,
//!   which is a Release. O3 is its Acquire partner and happens before the unmap.
//! - If it finds a value that a later holder of the record stored, see *record reuse*.
//!
//! So R4 happens before the unmap. ∎ The sections below complete the proof: each covers one situation that it left out.
//!
//! # The situations in detail
//!
//! **End of a read against the unmap.** This is the second item above. The partners are the Release store in `store`
//! (R5) and the Acquire load in `scan_unordered` (O3). Without either, the unmap could overtake the last bytes that R
//! reads.
//!
//! **Record reuse.** A record that R dropped may have a new holder, whose store O3 finds. The new holder's claim pops
//! the slab's free stack (Acquire). R's drop pushed it there (D2, Release, after D1). Every change of the stack's head
//! is a read-modify-write, so the pop synchronizes with that push even if other pushes and pops lie between. So R4
//! happens before the new holder's store. That store is a Release, and O3 is its Acquire partner.
//!
//! **New records, and `len`.** The proof needs O3 to load R's record. The record's number was taken from `len`, by R's
//! thread or by a thread from which the record came (the free stack, or a cursor that was moved). So the increment of
//! `len` happens before R2. If R's light barrier comes first, O3's load of `len` returns a value above the record's
//! number. The slab's table is grown in the same way: N1 or an earlier claim has set the
//! [`OnceLock`](crate::sync::OnceLock)s on the way to the record before R2. `get` loads their state atomically, so O3
//! finds them set. If the heavy barrier comes first, the proof does not need the record.
//!
//! **No record in use.** If O2 loads 0 from `active`, O issues no heavy barrier and scans nothing. Of the fences in N3
//! and O2, one comes first in the total order of SeqCst fences. If O2's comes first, R3, which comes after N3, returns
//! what O1 wrote or a later value: the first case of the proof. If N3 comes first, O2's load sees N2 or a later value.
//! It is 0 only if it also sees R's D3: it counts each N2 and each D3, and every D3 comes after its N2. D3 is a
//! Release, the load is an Acquire, and all changes of `active` are read-modify-writes (one release sequence). So R4
//! happens before D3, and D3 before the unmap.
//!
//! **Barrier refused.** If the OS refuses the heavy barrier, `scan_after_barrier` returns `None`, and O treats every
//! slot as protected. So O does not unmap, and the theorem holds trivially. O6 is refused as well, so the token stays
//! deferred.
//!
//! **A client that becomes a reader.** [`protect_client`](HazardPointer::protect_client) stores R1 while it holds a
//! counted client, and issues no barrier. The client's release comes after R1 (Release). O1 needs a count of 0, so it
//! reads from that release or from a later read-modify-write of the same release sequence (Acquire). So R1 happens
//! before O3, which finds that address or a later value: the second case of the proof.
//!
//! **A cursor moved between threads.** R1 to R3 run in one call, on one thread. N1 to N3, R4 and R5 may run on others.
//! What moves the cursor orders its steps (its move is a synchronization), so each step still happens before the next.
//! The proof and the barrier guarantee use only *happens before*.
//!
//! **Restore.** A restored slot is MAPPED(0) again, with the payload in place. R reads on, and the next `retire` or
//! `drain` makes a new owner, which scans after its own O1. `restore` is a Release, so what O read of the payload
//! happens before the next owner's unmap. O must not touch the slot afterwards.
//!
//! **Deferred tokens.** Any thread may take a token off the list and become its owner. The list's lock orders O1 before
//! that thread's O2, so the proof holds with the new owner in O's place. A deferred slot drains, so no `protect`
//! succeeds on it any more. (A `protect_client` can only come before O1.) So the set of its readers only shrinks. The
//! cache defers a token also if the OS refuses the unmap. That slot is never restored, so its word stays RETIRING or
//! draining.
//!
//! **Second scan against `reset`.** Without O5 and O6, a token could wait for a reader that has already left. Let O
//! push the token of `s`, and let R be a reader of `s` that ends with `reset`.
//!
//! - If R's barrier (R6) comes before O's (O5), O6 finds R5's store or a later value. R does not keep the token on the
//!   list.
//! - If O's barrier comes first, R7 returns the draining value on which O's `restore` failed, or a later one. If R7
//!   finds the slot not draining, O or a later owner has vacated it, and R has nothing to do. Otherwise R runs R8,
//!   under the list's lock. If O's push came before R8, R finds the token, or another thread has taken it and is O from
//!   now on. If the push comes after R8, the lock orders R5 before O6, which finds R5's store or a later value.
//!
//! So R or an owner retries the token after R5. A retry that finds another reader pushes the token again, and the
//! argument applies to that reader.
//!
//! **Reads that end without R8.** A reader that protects another slot, a dropped `HazardPointer`, and a failed
//! `protect` (whose short-lived address O6 may find) do not check for a deferred token. The token then stays deferred
//! until a thread next retries the list: the collector in its next pass, a reader in R8, or a thread that needs room.
//! The collector's passes are one second apart while the cache has files. The same holds for a token whose second scan
//! the OS refused. Such a token only delays the unmap, and its bytes stay counted in the budget.
//!
//! **A cache that is gone.** A cursor keeps its cache alive. If an owner cannot upgrade its weak reference to the
//! cache, all cursors were dropped, and O does not scan. The drop of each cursor comes before the subtraction that took
//! the cache's reference count to 0 (Release, at each level of references). The failed upgrade loaded 0 from that count
//! (Relaxed). [`acquire_after_last_reader`] is the Acquire fence that completes the pair, so all reads happen before
//! the unmap. The cache's own drop unmaps the deferred regions: there, `Arc` issues that fence.
//!
//! **A detached slot.** It is in no table, so no cursor finds or protects it. Its readers are counted. Its owner
//! needs no scan.
//!
//! # Cost
//!
//! Protecting a slot costs one store to the reader's own cache line, one load of the slot's word, and the light
//! barrier, which is no instruction where the OS has the asymmetric one. The owner pays: a heavy barrier and a scan of
//! all records that ever existed at once, in use or not. An evicting thread scans again, without the barrier, to
//! pass over protected slots. So an eviction's cost grows linearly with the number of records that ever existed at
//! once. Threads that trim or collect share one scan between several slots.
#![allow(unsafe_code, reason = "the payload of a protected slot; rule 7 of `protocol`")]

use std::fmt;
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
    /// Chosen when the cache is built, not by its first reader: the first registration with the OS may take tens of
    /// milliseconds.
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

impl<P> fmt::Debug for HazardDomain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HazardDomain").field("records", &self.records).finish_non_exhaustive()
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
    /// Returns the set without slots.
    pub(crate) fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Returns `true` if the scan found `slot` in a record.
    pub(crate) fn contains(&self, slot: &Slot<P>) -> bool {
        self.0.binary_search(&ptr::from_ref(slot)).is_ok()
    }

    /// Returns `true` if the scan found the slot of `token` in a record.
    pub(crate) fn contains_token(&self, token: &UnmapToken<P>) -> bool {
        self.contains(token.slot())
    }
}

/// One reader's hazard record. It protects at most one slot at a time.
pub(crate) struct HazardPointer<P> {
    domain: Arc<HazardDomain<P>>,
    /// The record, which `domain` keeps in memory.
    record: NonNull<HazardRecord<P>>,
    number: u32,
    /// A copy of the domain's barrier, so that `protect` does not follow the pointer to the domain.
    barrier: Barrier,
}

// SAFETY: a hazard pointer reaches its record, which consists of atomics, and hands out payloads as raw pointers. `P:
// Sync` is for the readers that dereference these. `P: Send` is for the owner, which drops on its thread what this
// reader read.
unsafe impl<P: Send + Sync> Send for HazardPointer<P> {}
// SAFETY: as for `Send`. A shared reference gives access to `Debug` only.
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

    /// Protects the slot of `client`, and returns its payload. The caller may then drop the client.
    ///
    /// The payload stays mapped for as long as that of [`protect`](Self::protect).
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

    /// Adds one to the number of reads of this record.
    #[inline]
    pub(crate) fn count(&mut self) {
        let reads = &self.record().reads;
        // Relaxed: only this hazard pointer writes it.
        reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<P> Drop for HazardPointer<P> {
    /// Ends the protection and gives the record to the next reader (steps D1 to D3).
    fn drop(&mut self) {
        self.store(ptr::null());
        self.domain.records.release(self.number);
        // Release: pairs with the Acquire in `scan_after_barrier`. This reader's reads are over.
        self.domain.active.fetch_sub(1, Ordering::Release);
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
        let is_protected = |slot| domain.scan_after_barrier().expect("the OS grants the barrier").contains(slot);
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(is_protected(slot), number % 3 == 0, "slot {number}");
        }
        hazard_pointers.drain(..100);
        for (number, slot) in slots.iter().enumerate() {
            assert_eq!(is_protected(slot), number % 3 == 0 && number >= 100, "slot {number}");
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
