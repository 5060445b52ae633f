//! [`Slot<P>`]: the state word, its transitions, and the payload cell that they guard.
//!
//! Comments refer to the numbered rules of the [module above](super), which also shows the states and verbs.
#![allow(unsafe_code, reason = "the payload's cell and the counted pointer; rules 1 to 5 of `protocol`")]

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use super::clock_ring::{ClockRing, RingEntry};
use crate::sync::{AtomicU32, Ordering, UnsafeCell, abort};

// Layout of the word: bits 0 and 1 are the phase, bits 2 and 3 are flags, the other bits count clients.
const PHASE: u32 = 0b11;
const VACANT: u32 = 0;
const LOADING: u32 = 1;
const MAPPED: u32 = 2;
const RETIRING: u32 = 3;
/// Refuses new clients. The thread that takes `MAPPED` with this flag to 0 clients is the owner.
const DRAINING: u32 = 1 << 2;
/// The slot is in no table. Only its clients can reach it, and its owner frees it.
const DETACHED: u32 = 1 << 3;
const CLIENT: u32 = 1 << 4;
/// Half of the largest client count. Beyond it the process aborts, as `Arc` does: only leaked clients can reach it, and
/// an overflow would unmap a payload that is in use.
const CLIENTS_MAX: u32 = 1 << 27;
const TOO_MANY_CLIENTS: &str = "smmap: a mapped region has more than 2^27 leases, so the process is aborted: drop leases \
                                instead of leaking them (std::mem::forget)\n";

/// The value of a slot's word at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot(u32);

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
        let draining = if self.is_draining() { "+draining" } else { "" };
        write!(f, "{:?}({}){draining}", self.phase(), self.clients())
    }
}

/// The resource that a slot holds. In the cache: a mapped region.
///
/// # Safety
///
/// Unless the slot is detached: from before [`Loading::publish`] until after [`UnmapToken::vacate`], the payload keeps
/// the memory of its slot allocated (rule 5), and that memory is freed through the epoch (rule 6).
pub(crate) unsafe trait Payload: Sized {
    /// Unmaps the payload of a draining slot, or keeps the token for a later try. The thread that dropped the slot's
    /// last client calls it, as the owner.
    fn last_client_dropped(token: UnmapToken<Self>);
}

/// A place for at most one payload, with the count of its clients. It has cache lines of its own, so that clients of
/// one window do not slow down those of its neighbours.
#[repr(align(64))]
pub(crate) struct Slot<P> {
    word: AtomicU32,
    /// The access frequency. Only the policy uses it. It is racy, and it outlives the payload.
    frequency: AtomicU32,
    payload: UnsafeCell<Option<P>>,
}

// SAFETY: the word decides which threads access the payload. Clients and readers share references to it (so `P: Sync`).
// The owner takes it by value, on a thread that need not be the loader's (so `P: Send`).
unsafe impl<P: Send + Sync> Sync for Slot<P> {}
// SAFETY: a slot owns only its payload.
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

    /// Returns the current value of the word. Other threads may change it at any time, so the value is only a hint.
    pub(crate) fn snapshot(&self) -> Snapshot {
        // Relaxed: no caller reads the payload because of it.
        Snapshot(self.word.load(Ordering::Relaxed))
    }

    fn is_detached(&self) -> bool {
        // Relaxed: the flag never changes.
        self.word.load(Ordering::Relaxed) & DETACHED != 0
    }

    #[inline]
    pub(crate) fn frequency(&self) -> u32 {
        // Relaxed: an estimate. A lost update loses one counted access.
        self.frequency.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_frequency(&self, frequency: u32) {
        // Relaxed: an estimate.
        self.frequency.store(frequency, Ordering::Relaxed);
    }

    /// VACANT → LOADING, not draining. Makes the caller the only loader (rule 1), or returns the word that refused it.
    pub(crate) fn begin_load(&self) -> Result<Loading<'_, P>, Snapshot> {
        // Acquire: pairs with the Release in `UnmapToken::vacate` and in `drain`. The cell is empty, and the loader
        // sees the reason for the drain (a new file length).
        // Release: continues that chain for a later `begin_load`, past this change of the word.
        // Relaxed on failure: the payload is not read.
        self.transition(Ordering::AcqRel, Ordering::Relaxed, |now| {
            (now.phase() == Phase::Vacant).then_some((now.0 & !(PHASE | DRAINING)) | LOADING)
        })
        .map(|_| Loading { slot: self })
    }

    /// Returns the payload for an uncounted reader. Returns `None` if the slot is not mapped or drains.
    ///
    /// # Safety
    ///
    /// The caller has stored this slot in its hazard record and then issued the light barrier. It reads the payload
    /// only as long as the record holds the slot (rule 7).
    #[inline]
    pub(super) unsafe fn payload_if_mapped(&self) -> Option<NonNull<P>> {
        // Acquire: pairs with the Release in `Loading::publish`, which publishes the payload.
        let now = Snapshot(self.word.load(Ordering::Acquire));
        if now.0 & (PHASE | DRAINING) != MAPPED {
            return None;
        }
        // SAFETY: the word was MAPPED. No owner writes the cell while the record holds the slot (rules 3 and 7).
        let payload = self.payload.with(|cell| unsafe { &*cell });
        debug_assert!(payload.is_some(), "a mapped slot has a payload");
        // SAFETY: `publish` filled the cell before MAPPED, and no owner empties it while the record holds the slot.
        Some(NonNull::from(unsafe { payload.as_ref().unwrap_unchecked() }))
    }

    /// MAPPED(0) → RETIRING, unless draining. Makes the caller the owner. Returns `None` in all other states.
    pub(crate) fn retire(&self) -> Option<UnmapToken<P>> {
        // Acquire: pairs with the Release in `SlotRef::drop`. The last client's reads are over.
        // Release: pairs with the Acquire in the next `begin_load` and in `Budget::in_transit`. What the caller did
        // before it became the owner is visible there.
        // Relaxed on failure: the payload is not read.
        self.word
            .compare_exchange(MAPPED, RETIRING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then(|| UnmapToken::of(self))
    }

    /// Sets *draining*, in any phase, so that the slot refuses new clients. Makes the caller the owner if there are no
    /// clients.
    pub(crate) fn drain(&self) -> Drain<P> {
        // Acquire: as in `retire`. Release: pairs with the Acquire in `begin_load`. The next loader sees the reason for
        // the drain (a new file length).
        let before = Snapshot(self.word.fetch_or(DRAINING, Ordering::AcqRel));
        match (before.phase(), before.clients()) {
            (Phase::Mapped, 0) if !before.is_draining() => Drain::Owned(UnmapToken::of(self)),
            // Draining without clients: another thread is the owner.
            (Phase::Mapped, 0) | (Phase::Vacant | Phase::Retiring, _) => Drain::Nothing,
            (Phase::Mapped | Phase::Loading, _) => Drain::Held,
        }
    }

    /// Changes the word to what `step` returns, in a compare-exchange loop. Stops with `Err` if `step` returns `None`.
    #[inline]
    fn transition(
        &self,
        success: Ordering,
        failure: Ordering,
        step: impl Fn(Snapshot) -> Option<u32>,
    ) -> Result<Snapshot, Snapshot> {
        // Relaxed: a first guess, which the exchange confirms.
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
    /// Puts `payload` in a slot that is in no table, draining from birth, with one client. The owner frees the slot.
    pub(crate) fn detached(payload: P) -> SlotRef<P> {
        let slot = Box::new(Self::with(MAPPED | DRAINING | DETACHED | CLIENT, Some(payload)));
        SlotRef::of(NonNull::from(Box::leak(slot)))
    }

    /// MAPPED(n) → MAPPED(n + 1), unless draining. Otherwise returns the word, which stays unchanged (rule 2).
    #[inline]
    pub(crate) fn take(&self) -> Result<SlotRef<P>, Snapshot> {
        self.add_client(|now| now.phase() == Phase::Mapped && !now.is_draining())
    }

    /// MAPPED(n) → MAPPED(n + 1) for n ≥ 1, draining or not. Returns `None` in all other states.
    ///
    /// It gives access to a payload that clients hold. It is as safe as cloning a client, since the count is not 0.
    pub(crate) fn join(&self) -> Option<SlotRef<P>> {
        self.add_client(|now| now.phase() == Phase::Mapped && now.clients() > 0).ok()
    }

    #[inline]
    fn add_client(&self, is_allowed: impl Fn(Snapshot) -> bool) -> Result<SlotRef<P>, Snapshot> {
        // Acquire: pairs with the Release in `Loading::publish`, which publishes the payload.
        // Relaxed on failure: the payload is not read.
        let add = |now| is_allowed(now).then(|| now.0 + CLIENT);
        let before = self.transition(Ordering::Acquire, Ordering::Relaxed, add)?;
        abort_if_too_many(before);
        Ok(SlotRef::of(NonNull::from(self)))
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
        abort(TOO_MANY_CLIENTS);
    }
}

/// The result of [`Slot::drain`].
#[must_use = "`Drain::Owned` holds the duty to unmap: call `vacate`"]
#[derive(Debug)]
pub(crate) enum Drain<P> {
    /// The slot had no clients. The drainer is the owner.
    Owned(UnmapToken<P>),
    /// The slot has clients or a loader. The last client, the loader's first one included, becomes the owner.
    Held,
    /// The slot was vacant, or another thread is its owner.
    Nothing,
}

/// A loader's duty to publish a payload. Dropping it makes the slot vacant again, also if the loader panics.
#[must_use = "dropping a `Loading` abandons the load: call `publish`"]
#[derive(Debug)]
pub(crate) struct Loading<'s, P> {
    slot: &'s Slot<P>,
}

impl<P: Payload> Loading<'_, P> {
    /// Inserts the slot in `ring`, where evicting threads find it once it is published (rule 6).
    pub(crate) fn enlist(&self, ring: &ClockRing<Slot<P>>) -> RingEntry {
        // SAFETY: `Payload` promises both. The payload to be published keeps the slot until after its removal from the
        // ring. The slot's memory is freed through the epoch.
        unsafe { ring.insert(NonNull::from(self.slot)) }
    }

    /// LOADING → MAPPED(1), draining or not. Returns the first client.
    pub(crate) fn publish(self, payload: P) -> SlotRef<P> {
        let slot = ManuallyDrop::new(self).slot;
        // SAFETY: in LOADING only the loader accesses the cell (rule 3), and `self` is the only loader (rule 1).
        slot.payload.with_mut(|cell| unsafe { *cell = Some(payload) });
        // An addition, not a store: it keeps a concurrent drain (rule 2).
        // Release: pairs with the Acquire in `add_client`, `retire` and `payload_if_mapped`, and publishes the payload.
        // Acquire: pairs with the Release in `drain`. A loader that becomes the owner sees the reason for the drain.
        slot.word.fetch_add(MAPPED - LOADING + CLIENT, Ordering::AcqRel);
        SlotRef::of(NonNull::from(slot))
    }
}

impl<P> Drop for Loading<'_, P> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in the next `begin_load`, which sees what this loader did. Acquire: as in
        // `publish`.
        self.slot.word.swap(VACANT, Ordering::AcqRel);
    }
}

/// A client: a counted reference to a slot's payload. The payload stays mapped, at its address, until the client is
/// dropped.
pub(crate) struct SlotRef<P: Payload> {
    slot: NonNull<Slot<P>>,
    _payload: PhantomData<P>,
}

// SAFETY: a client only reads the payload (so `P: Sync`). The last client may unmap and drop it (so `P: Send`).
unsafe impl<P: Payload + Send + Sync> Send for SlotRef<P> {}
// SAFETY: as for `Send`. A shared `SlotRef` gives only shared references and clones.
unsafe impl<P: Payload + Send + Sync> Sync for SlotRef<P> {}

impl<P: Payload> SlotRef<P> {
    /// Wraps a client that the caller has counted.
    #[inline]
    fn of(slot: NonNull<Slot<P>>) -> Self {
        Self { slot, _payload: PhantomData }
    }

    #[inline]
    pub(super) fn slot(&self) -> &Slot<P> {
        // SAFETY: this client keeps the payload, and the payload keeps its slot (rule 5, the promise of `Payload`).
        unsafe { self.slot.as_ref() }
    }

    /// Returns `true` if the slot is in no table.
    pub(crate) fn is_detached(&self) -> bool {
        self.slot().is_detached()
    }
}

impl<P: Payload> Deref for SlotRef<P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        // SAFETY: while the slot has a client, no thread writes the cell (rule 3).
        let payload = self.slot().payload.with(|cell| unsafe { &*cell });
        debug_assert!(payload.is_some(), "a mapped slot has a payload");
        // SAFETY: `publish` filled the cell before the first client. An owner empties it after the last one (rule 3).
        unsafe { payload.as_ref().unwrap_unchecked() }
    }
}

impl<P: Payload> Clone for SlotRef<P> {
    /// MAPPED(n) → MAPPED(n + 1), draining or not. The count is not 0, since `self` is a client.
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: the new client sees what `self` sees, as in `Arc`.
        let before = Snapshot(self.slot().word.fetch_add(CLIENT, Ordering::Relaxed));
        abort_if_too_many(before);
        Self::of(self.slot)
    }
}

impl<P: Payload> Drop for SlotRef<P> {
    /// Changes n clients to n − 1. If this takes a draining slot to 0, the thread is the owner. Otherwise it must not
    /// access the slot again (rule 5).
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `retire`, in `drain` and in the load below. This client's reads are over.
        let before = self.slot().word.fetch_sub(CLIENT, Ordering::Release);
        if before & !DETACHED == (MAPPED | DRAINING | CLIENT) {
            // Acquire: pairs with the Release subtraction of every other client. Their reads are over. The load reads
            // this thread's own subtraction, which continues the release sequence of theirs. An Acquire fence would
            // also do, but the thread sanitizer does not model fences.
            let _ = self.slot().word.load(Ordering::Acquire);
            P::last_client_dropped(UnmapToken { slot: self.slot });
        }
    }
}

/// The owner's duty to unmap a slot, or to restore it. It may move to another thread or wait on the deferred list.
#[must_use = "dropping an `UnmapToken` leaks the mapping: call `vacate` or `restore`"]
pub(crate) struct UnmapToken<P> {
    slot: NonNull<Slot<P>>,
}

// SAFETY: only the owner takes the payload by value, and moving the token moves that right (so `P: Send`).
unsafe impl<P: Send> Send for UnmapToken<P> {}

impl<P> UnmapToken<P> {
    fn of(slot: &Slot<P>) -> Self {
        Self { slot: NonNull::from(slot) }
    }

    pub(super) fn slot(&self) -> &Slot<P> {
        // SAFETY: the payload is still in the slot and keeps it allocated (rule 5).
        unsafe { self.slot.as_ref() }
    }

    pub(crate) fn payload(&self) -> &P {
        // SAFETY: only the owner writes the cell now, and only through `vacate`, which consumes the token (rule 3).
        let payload = self.slot().payload.with(|cell| unsafe { &*cell });
        payload.as_ref().unwrap_or_else(|| unreachable!("a slot with an owner has a payload"))
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.slot().is_detached()
    }

    /// RETIRING → MAPPED(0). Returns the token if the slot drains: the caller is still the owner.
    ///
    /// After a success the slot's memory may be freed at any time, because another owner may unmap it.
    pub(crate) fn restore(self) -> Result<(), Self> {
        // Release: pairs with the Acquire in the next `retire`, `drain` and `take`. This owner's reads of the payload
        // are over. Relaxed on failure: the caller stays the owner and needs no new view.
        match self.slot().word.compare_exchange(RETIRING, MAPPED, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(self),
        }
    }

    /// Runs `unmap` on the payload. If it succeeds, makes the slot vacant, or frees it if it is detached, and returns
    /// the payload. If it fails, returns its error with the token, and the payload stays in the slot.
    pub(crate) fn vacate<E>(self, unmap: impl FnOnce(&mut P) -> Result<(), E>) -> Result<P, (Self, E)> {
        let unmapped = self.slot().payload.with_mut(|cell| {
            // SAFETY: no client or record keeps the payload, so only the owner accesses the cell (rules 3 and 7).
            match unsafe { &mut *cell } {
                Some(payload) => unmap(payload),
                None => unreachable!("a slot with an owner has a payload"),
            }
        });
        if let Err(error) = unmapped {
            return Err((self, error));
        }
        // SAFETY: only the owner accesses the cell until the word is VACANT (rule 3).
        let payload = self.slot().payload.with_mut(|cell| unsafe { (*cell).take() });
        let Some(payload) = payload else { unreachable!("`unmap` found the payload") };
        if self.is_detached() {
            // SAFETY: `Slot::detached` leaked this slot from a box. Its last client was dropped, so only the owner
            // reaches it.
            drop(unsafe { Box::from_raw(self.slot.as_ptr()) });
        } else {
            // A swap, not a store, so that it synchronizes with every earlier drain (rule 2). `payload` still keeps the
            // slot.
            // Release: pairs with the Acquire in `begin_load`. This unmap happens before the next loader's map.
            // Acquire: pairs with the Release in `drain`, and so carries the reason for the drain.
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
    use super::{CLIENT, CLIENTS_MAX, Drain, MAPPED, Payload, Phase, Slot, UnmapToken};
    use std::env;
    use std::mem::forget;
    use std::process::Command;

    struct Leaked;

    // SAFETY: the slot of the test is leaked.
    unsafe impl Payload for Leaked {
        fn last_client_dropped(_: UnmapToken<Self>) {}
    }

    /// Makes one client too many in each of the three ways, each in a process of its own.
    #[test]
    #[cfg_attr(miri, ignore = "starts processes")]
    fn client_beyond_the_largest_count_aborts_with_a_message() {
        const WAY: &str = "SMMAP_TEST_CLIENT";
        const NAME: &str = "protocol::slot::tests::client_beyond_the_largest_count_aborts_with_a_message";
        if let Ok(way) = env::var(WAY) {
            let all_but_one = MAPPED + (CLIENTS_MAX - 1) * CLIENT;
            let slot = Box::leak(Box::new(Slot::with(all_but_one, Some(Leaked))));
            let last = slot.take().expect("the largest count is allowed");
            match way.as_str() {
                "take" => forget(slot.take()),
                "join" => forget(slot.join()),
                _ => forget(last.clone()),
            }
            return;
        }
        for way in ["take", "join", "clone"] {
            let this = env::current_exe().expect("the path of this binary is known");
            let child = Command::new(this).args([NAME, "--exact"]).env(WAY, way).output().expect("it can be run");
            let says = String::from_utf8_lossy(&child.stderr);
            assert!(!child.status.success() && says.contains("more than 2^27 leases"), "{way}: {child:?}");
        }
    }

    #[test]
    fn begin_load_sets_loading_until_the_load_is_abandoned() {
        let slot = Slot::<u32>::default();
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
        let loading = slot.begin_load().expect("the slot is vacant");
        assert_eq!(slot.snapshot().phase(), Phase::Loading);
        assert!(slot.begin_load().is_err_and(|now| now.phase() == Phase::Loading && !now.is_draining()));
        drop(loading);
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
    }

    #[test]
    fn begin_load_clears_an_earlier_drain_and_keeps_a_later_one() {
        let slot = Slot::<u32>::default();
        assert!(matches!(slot.drain(), Drain::Nothing));
        assert!(slot.snapshot().is_draining());
        let loading = slot.begin_load().expect("the slot is vacant");
        assert!(!slot.snapshot().is_draining(), "an earlier drain would refuse every client but the first");
        assert!(matches!(slot.drain(), Drain::Held));
        assert!(slot.snapshot().is_draining() && slot.snapshot().phase() == Phase::Loading);
        drop(loading);
    }

    #[test]
    fn frequency_returns_the_value_set_last() {
        let slot = Slot::<u32>::default();
        for frequency in [7, 0, 1, u32::MAX] {
            slot.set_frequency(frequency);
            assert_eq!(slot.frequency(), frequency);
        }
    }
}
