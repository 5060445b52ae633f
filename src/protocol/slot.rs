//! [`Slot<P>`]: the state word, its transitions, and the cell of what they protect.
//!
//! The rules that this file is held to are numbered in the [module above](super); comments here name them.
#![allow(unsafe_code, reason = "the payload's cell and the counted pointer; rules 1 to 5 of `protocol`")]

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use super::clock_ring::{ClockRing, RingEntry};
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

// The word: bits 0 and 1 are the phase, 2 and 3 are flags, the rest counts clients.
const PHASE: u32 = 0b11;
const VACANT: u32 = 0;
const LOADING: u32 = 1;
const MAPPED: u32 = 2;
const RETIRING: u32 = 3;
/// Lets no new client in; whoever takes `MAPPED` with this bit to no clients owns the unmap.
const DRAINING: u32 = 1 << 2;
/// The slot is in no table: it was made for its clients alone, and its owner frees it.
const DETACHED: u32 = 1 << 3;
const CLIENT: u32 = 1 << 4;
/// Half of what the count can hold. Beyond it the process aborts, as `Arc` does: so many forgotten clients are a bug,
/// and an overflow would unmap what is in use.
const CLIENTS_MAX: u32 = 1 << 27;

/// What a slot's word said at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot(u32);

/// The phases of a slot; see the drawing in [`protocol`](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Vacant,
    Loading,
    Mapped,
    Retiring,
}

impl Snapshot {
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            VACANT => Phase::Vacant,
            LOADING => Phase::Loading,
            MAPPED => Phase::Mapped,
            _ => Phase::Retiring,
        }
    }

    pub(crate) fn is_draining(self) -> bool {
        self.0 & DRAINING != 0
    }

    pub(crate) fn clients(self) -> u32 {
        self.0 / CLIENT
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.phase(), self.clients())?;
        if self.is_draining() {
            f.write_str("+draining")?;
        }
        Ok(())
    }
}

/// What a slot protects: a mapping, or a descriptor.
///
/// # Safety
///
/// From [`Loading::publish`] on, until it is dropped, the payload keeps the memory of its slot alive (rule 5); and unless
/// the slot is detached, that memory is freed through the epoch (rule 6).
pub(crate) unsafe trait Payload: Sized {
    /// The last client of a draining slot let go: the thread it did so on now owns the unmap, and does it here.
    fn orphaned(token: UnmapToken<Self>);
}

/// One place that holds a payload, or none, and counts its clients. It has cache lines of its own, so that clients of one
/// window do not slow down those of its neighbours.
#[repr(align(64))]
pub(crate) struct Slot<P> {
    word: AtomicU32,
    /// The policy's own: relaxed, racy, and outlives the payload.
    frequency: AtomicU32,
    payload: UnsafeCell<Option<P>>,
}

// SAFETY: the word decides who may touch the payload: many threads by shared reference while they are clients (so `P:
// Sync`), and one thread by value, which may be another than the one that put it there (so `P: Send`).
unsafe impl<P: Send + Sync> Sync for Slot<P> {}
// SAFETY: a slot owns its payload and nothing else.
unsafe impl<P: Send> Send for Slot<P> {}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self::with(VACANT, None)
    }
}

impl<P> Slot<P> {
    fn with(word: u32, payload: Option<P>) -> Self {
        Self { word: AtomicU32::new(word), frequency: AtomicU32::new(0), payload: UnsafeCell::new(payload) }
    }

    /// What the word says now. Stale as soon as it is read: for decisions that may be wrong, and for show.
    pub(crate) fn snapshot(&self) -> Snapshot {
        // Relaxed: nothing is read on the strength of it.
        Snapshot(self.word.load(Ordering::Relaxed))
    }

    fn is_detached(&self) -> bool {
        // Relaxed: the bit never changes.
        self.word.load(Ordering::Relaxed) & DETACHED != 0
    }

    #[inline]
    pub(crate) fn frequency(&self) -> u32 {
        // Relaxed: an estimate; a lost update costs a touch.
        self.frequency.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_frequency(&self, frequency: u32) {
        // Relaxed: as above.
        self.frequency.store(frequency, Ordering::Relaxed);
    }

    /// VACANT → LOADING. The winner is the only one who loads; it publishes, or drops the duty and so abandons.
    pub(crate) fn begin_load(&self) -> Result<Loading<'_, P>, Snapshot> {
        // Acquire: pairs with the Release in `UnmapToken::vacate` (the cell is empty) and in `drain` (its reason is seen).
        // Release: a `begin_load` stands between a drain and the next drain in the word's order of changes.
        // Relaxed on failure: the caller looks again.
        self.transition(Ordering::AcqRel, Ordering::Relaxed, |now| {
            (now.phase() == Phase::Vacant).then_some((now.0 & !(PHASE | DRAINING)) | LOADING)
        })
        .map(|_| Loading { slot: self })
    }

    /// MAPPED(n) → MAPPED(n + 1), unless draining. A refused take leaves nothing behind (rule 2).
    #[inline]
    pub(crate) fn take(&self) -> Result<SlotRef<P>, Snapshot>
    where
        P: Payload,
    {
        // Acquire: pairs with the Release in `Loading::publish`, whose payload the new client will read.
        // Relaxed on failure: nothing is read then.
        let before = self.transition(Ordering::Acquire, Ordering::Relaxed, |now| {
            (now.phase() == Phase::Mapped && !now.is_draining()).then(|| now.0 + CLIENT)
        })?;
        abort_if_too_many(before);
        Ok(SlotRef { slot: NonNull::from(self), _payload: PhantomData })
    }

    /// The payload, for who reads it without being counted; `None` if it is not mapped, or drains.
    ///
    /// # Safety
    ///
    /// The caller has announced this slot and passed the light barrier, and reads for as long as the announcement stands
    /// (rule 7).
    #[inline]
    pub(super) unsafe fn payload_if_mapped(&self) -> Option<NonNull<P>> {
        // Acquire: pairs with the Release in `Loading::publish`, whose payload is read.
        let now = Snapshot(self.word.load(Ordering::Acquire));
        if now.0 & (PHASE | DRAINING) != MAPPED {
            return None;
        }
        // SAFETY: mapped when the word was loaded, and whoever wins it later waits for the announcement (rule 7): nobody writes
        // the cell (rule 3).
        let payload = self.payload.with(|cell| unsafe { &*cell });
        debug_assert!(payload.is_some(), "a mapped slot has a payload");
        // SAFETY: `publish` put one there before it said MAPPED, and nobody has taken it since (as above).
        Some(NonNull::from(unsafe { payload.as_ref().unwrap_unchecked() }))
    }

    /// MAPPED(n) → MAPPED(n + 1) for n ≥ 1, draining or not: one more beside those who are clients already, to look at what
    /// they hold. As safe as a clone, since the count was not 0.
    pub(crate) fn join(&self) -> Option<SlotRef<P>>
    where
        P: Payload,
    {
        // Acquire, and Relaxed on failure: as in `take`.
        let before = self
            .transition(Ordering::Acquire, Ordering::Relaxed, |now| {
                (now.phase() == Phase::Mapped && now.clients() > 0).then(|| now.0 + CLIENT)
            })
            .ok()?;
        abort_if_too_many(before);
        Some(SlotRef { slot: NonNull::from(self), _payload: PhantomData })
    }

    /// MAPPED(0) → RETIRING: wins the unmap of what nobody uses.
    pub(crate) fn retire(&self) -> Option<UnmapToken<P>> {
        // Acquire: pairs with the Release in `release`: the last client's reads are over. AcqRel and not less, since the
        // owner's successor (`begin_load`) has to come after it as well.
        // Relaxed on failure: the caller goes on to another slot.
        self.word
            .compare_exchange(MAPPED, RETIRING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then(|| UnmapToken::of(self))
    }

    /// Adds *draining* in any phase, so that no new client comes in; owns the unmap if there was none left.
    pub(crate) fn drain(&self) -> Drain<P> {
        // AcqRel: Acquire as in `retire`; Release so that the next `begin_load` sees why it was drained (a new length).
        let before = Snapshot(self.word.fetch_or(DRAINING, Ordering::AcqRel));
        match (before.phase(), before.clients()) {
            (Phase::Mapped, 0) if !before.is_draining() => Drain::Owned(UnmapToken::of(self)),
            // Draining and without clients: that is ownership already, somebody else's.
            (Phase::Mapped, 0) | (Phase::Vacant | Phase::Retiring, _) => Drain::Nothing,
            (Phase::Mapped | Phase::Loading, _) => Drain::Held,
        }
    }

    /// The one loop of compare and exchange: `step` says what the word becomes, or that it stays.
    #[inline]
    fn transition(
        &self,
        success: Ordering,
        failure: Ordering,
        step: impl Fn(Snapshot) -> Option<u32>,
    ) -> Result<Snapshot, Snapshot> {
        // Relaxed: only a first guess, which the exchange confirms.
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            let Some(next) = step(Snapshot(now)) else { return Err(Snapshot(now)) };
            match self.word.compare_exchange_weak(now, next, success, failure) {
                Ok(_) => return Ok(Snapshot(now)),
                Err(actual) => now = actual,
            }
        }
    }
}

impl<P: Payload> Slot<P> {
    /// A payload that is in no table, born draining, with one client. The owner of its unmap frees the slot.
    pub(crate) fn detached(payload: P) -> SlotRef<P> {
        let slot = Box::new(Self::with(MAPPED | DRAINING | DETACHED | CLIENT, Some(payload)));
        SlotRef { slot: NonNull::from(Box::leak(slot)), _payload: PhantomData }
    }
}

impl<P> fmt::Debug for Slot<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.snapshot()).finish()
    }
}

#[inline]
fn abort_if_too_many(before: Snapshot) {
    if before.clients() >= CLIENTS_MAX {
        std::process::abort();
    }
}

/// What a drainer found.
#[must_use = "an owner has to unmap"]
#[derive(Debug)]
pub(crate) enum Drain<P> {
    /// Nobody used it: the drainer unmaps.
    Owned(UnmapToken<P>),
    /// Clients (or a loader) hold it: the last of them unmaps.
    Held,
    /// There was nothing, or somebody else is unmapping it already.
    Nothing,
}

/// The duty of a loader: publish a payload. Dropped without, the slot is vacant again (also when a loader panics).
#[must_use = "a load that is neither published nor abandoned would leave everyone waiting"]
#[derive(Debug)]
pub(crate) struct Loading<'s, P> {
    slot: &'s Slot<P>,
}

impl<P: Payload> Loading<'_, P> {
    /// Takes a seat, for evictors to find the slot once it is published (rule 6).
    pub(crate) fn enlist(&self, ring: &ClockRing<Slot<P>>) -> RingEntry {
        // SAFETY: the payload that is about to be published keeps the slot until after it left its seat, and what frees the
        // slot's memory goes through the epoch: the promise of `Payload`.
        unsafe { ring.insert(NonNull::from(self.slot)) }
    }

    /// LOADING → MAPPED(1), keeping *draining*: the loader is the first client.
    pub(crate) fn publish(self, payload: P) -> SlotRef<P> {
        let slot = ManuallyDrop::new(self).slot;
        // SAFETY: in LOADING the cell is the loader's alone (rule 3), and there is one loader: `self`.
        slot.payload.with_mut(|cell| unsafe { *cell = Some(payload) });
        // An addition, not a store: a drain that came meanwhile stays (rule 2).
        // Release: pairs with the Acquire in `take` and `retire`: who sees MAPPED sees the payload.
        // Acquire: pairs with `drain`, for the loader that drops its client next.
        slot.word.fetch_add(MAPPED - LOADING + CLIENT, Ordering::AcqRel);
        SlotRef { slot: NonNull::from(slot), _payload: PhantomData }
    }
}

impl<P> Drop for Loading<'_, P> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in the next `begin_load`. Acquire: as in `publish`.
        self.slot.word.swap(VACANT, Ordering::AcqRel);
    }
}

/// A client: a counted pointer to a slot's payload, which stays where it is as long as this lives.
pub(crate) struct SlotRef<P: Payload> {
    slot: NonNull<Slot<P>>,
    _payload: PhantomData<P>,
}

// SAFETY: a client only reads the payload (`P: Sync`), and the last one may unmap and drop it (`P: Send`).
unsafe impl<P: Payload + Send + Sync> Send for SlotRef<P> {}
// SAFETY: as above; a shared `SlotRef` gives shared references and clones.
unsafe impl<P: Payload + Send + Sync> Sync for SlotRef<P> {}

impl<P: Payload> SlotRef<P> {
    #[inline]
    pub(super) fn slot(&self) -> &Slot<P> {
        // SAFETY: this client keeps the payload, and the payload keeps its slot (rule 5; `Payload`'s promise).
        unsafe { self.slot.as_ref() }
    }
}

impl<P: Payload> SlotRef<P> {
    /// Whether its slot is in no table.
    pub(crate) fn is_detached(&self) -> bool {
        self.slot().is_detached()
    }

    /// Its slot, for who knows how long that stays.
    pub(crate) fn place(&self) -> NonNull<Slot<P>> {
        self.slot
    }
}

impl<P: Payload> Deref for SlotRef<P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        // SAFETY: while there is a client, nobody writes the cell (rule 3).
        let payload = self.slot().payload.with(|cell| unsafe { &*cell });
        debug_assert!(payload.is_some(), "a mapped slot has a payload");
        // SAFETY: `publish` put one there before there was a client, and an owner takes it when there is none (rule 3).
        unsafe { payload.as_ref().unwrap_unchecked() }
    }
}

impl<P: Payload> Clone for SlotRef<P> {
    /// MAPPED(n) → MAPPED(n + 1) by one who is a client already, also while draining: the count cannot have been 0.
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: the new client's view comes from the old one's, as in `Arc`.
        let before = Snapshot(self.slot().word.fetch_add(CLIENT, Ordering::Relaxed));
        abort_if_too_many(before);
        Self { slot: self.slot, _payload: PhantomData }
    }
}

impl<P: Payload> Drop for SlotRef<P> {
    /// n → n − 1. Who takes a draining slot to 0 owns the unmap; nobody else touches the slot after this (rule 5).
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `retire`, in `drain` and in the load below: this client's reads are over.
        let before = self.slot().word.fetch_sub(CLIENT, Ordering::Release);
        if before & !DETACHED == (MAPPED | DRAINING | CLIENT) {
            // Acquire: pairs with the Release of every other client's last step, before the payload is taken apart.
            // A load: it reads what this thread wrote, which ends a chain of all their subtractions. A fence would do, but the
            // thread sanitizer does not see fences.
            let _ = self.slot().word.load(Ordering::Acquire);
            P::orphaned(UnmapToken { slot: self.slot });
        }
    }
}

impl<P: Payload + fmt::Debug> fmt::Debug for SlotRef<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The duty of an owner: unmap, then `vacate`, or `restore`. It may be handed on, and kept for later.
#[must_use = "what is token stays mapped until it is vacated"]
pub(crate) struct UnmapToken<P> {
    slot: NonNull<Slot<P>>,
}

// SAFETY: the owner is the only one who reaches the payload; handing it on moves `P` (so `P: Send`).
unsafe impl<P: Send> Send for UnmapToken<P> {}

impl<P> UnmapToken<P> {
    fn of(slot: &Slot<P>) -> Self {
        Self { slot: NonNull::from(slot) }
    }

    pub(super) fn slot(&self) -> &Slot<P> {
        // SAFETY: the payload is still in the slot and keeps it alive (rule 5).
        unsafe { self.slot.as_ref() }
    }

    /// What is owned.
    pub(crate) fn payload(&self) -> &P {
        // SAFETY: the owner alone reaches the cell (rule 3), and `&self` lends it for reading only.
        let payload = self.slot().payload.with(|cell| unsafe { &*cell });
        match payload {
            Some(payload) => payload,
            None => unreachable!("an token slot has a payload"),
        }
    }

    /// Whether the slot is in no table.
    pub(crate) fn is_detached(&self) -> bool {
        self.slot().is_detached()
    }

    /// RETIRING → MAPPED(0): changed its mind. Fails, still owned, if a drain came meanwhile.
    ///
    /// The slot may be gone as soon as it succeeds: another owner may unmap it.
    pub(crate) fn restore(self) -> Result<(), Self> {
        // Release: pairs with the Acquire of the next `retire` and `take`. Relaxed on failure: nothing is read.
        match self.slot().word.compare_exchange(RETIRING, MAPPED, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(self),
        }
    }

    /// Runs `unmap` on the payload; if it succeeds: → VACANT, and the payload is the caller's (with what is left to give
    /// back). If it fails, the slot stays owned, the payload in it.
    pub(crate) fn vacate<E>(self, unmap: impl FnOnce(&mut P) -> Result<(), E>) -> Result<P, (Self, E)> {
        let unmapped = self.slot().payload.with_mut(|cell| {
            // SAFETY: the owner alone reaches the cell (rule 3).
            match unsafe { &mut *cell } {
                Some(payload) => unmap(payload),
                None => unreachable!("an token slot has a payload"),
            }
        });
        if let Err(error) = unmapped {
            return Err((self, error));
        }
        // SAFETY: as above; and nobody finds the cell empty before the word says VACANT.
        let payload = self.slot().payload.with_mut(|cell| unsafe { (*cell).take() });
        let Some(payload) = payload else { unreachable!("it was there a moment ago") };
        if self.is_detached() {
            // SAFETY: a detached slot was leaked from a box by `Slot::detached`, and its last client is gone: the owner
            // is the only one who knows it.
            drop(unsafe { Box::from_raw(self.slot.as_ptr()) });
        } else {
            // A swap, not a store, so that it also comes after every drain (rule 2). The payload in our hand still keeps
            // the slot. Release: pairs with the Acquire in `begin_load`: the next loader finds the cell empty, and the
            // unmap happened before its map. Acquire: pairs with `drain`.
            self.slot().word.swap(VACANT, Ordering::AcqRel);
        }
        Ok(payload)
    }
}

impl<P> fmt::Debug for UnmapToken<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UnmapToken").field(&self.slot().snapshot()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Drain, Phase, Slot};

    #[test]
    fn a_slot_that_is_loaded_says_so() {
        let slot = Slot::<u32>::default();
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
        let loading = slot.begin_load().expect("vacant");
        assert_eq!(slot.snapshot().phase(), Phase::Loading);
        assert!(slot.begin_load().is_err_and(|now| now.phase() == Phase::Loading && !now.is_draining()));
        drop(loading);
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
    }

    #[test]
    fn a_load_begins_without_what_was_drained_before_it() {
        let slot = Slot::<u32>::default();
        assert!(matches!(slot.drain(), Drain::Nothing));
        assert!(slot.snapshot().is_draining());
        let loading = slot.begin_load().expect("vacant");
        assert!(!slot.snapshot().is_draining(), "its first client would be its last");
        assert!(matches!(slot.drain(), Drain::Held));
        assert!(slot.snapshot().is_draining() && slot.snapshot().phase() == Phase::Loading);
        drop(loading);
    }

    #[test]
    fn heat_is_what_was_set_last() {
        let slot = Slot::<u32>::default();
        for frequency in [7, 0, 1, u32::MAX] {
            slot.set_frequency(frequency);
            assert_eq!(slot.frequency(), frequency);
        }
    }
}
