//! [`Residents`]: everything of one kind that is mapped (or open), its budget, and who goes first.
//!
//! Two of them make a cache: one of mappings, one of descriptors. No hit comes here, and nobody waits here for a lock.

use std::sync::{Arc, PoisonError, TryLockError};

use super::backoff::Backoff;
use crate::cache::region::{Home, Kept, Resource};
use crate::os::Process;
use crate::policy::{self, Frequency};
use crate::protocol::atomics::{Clock, FencedU64};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::protocol::clock_ring::ClockRing;
use crate::protocol::hazard::{HazardDomain, ProtectedSet};
use crate::protocol::radix_table::RadixTable;
use crate::protocol::slot::{Drain, Loading, Phase, Slot, SlotRef, UnmapToken};
use crate::stats::Tally;
use crate::sync::{Mutex, MutexGuard, epoch};

#[derive(Debug)]
pub(crate) struct Residents<R: Resource> {
    pub(crate) budget: Arc<Budget>,
    ring: ClockRing<Slot<Kept<R>>>,
    /// Who reads without being counted.
    pub(super) hazards: Arc<HazardDomain<Kept<R>>>,
    clock: Clock,
    /// The heat of the victim that a newcomer last failed to beat.
    admission_threshold: FencedU64,
    /// As hot as can be whenever somebody had to have one, and found no place free.
    pressure: FencedU64,
    /// What is owned and could not be given back yet: still there, still counted.
    ///
    /// In a child of `fork` somebody may have had it locked who is not there any more: nobody touches it there, and what would
    /// have to wait stays as it is.
    deferred: Mutex<Vec<UnmapToken<Kept<R>>>>,
    process: Process,
    /// How many were given back to the system, and how many of those to make room.
    pub(super) given_back: Tally,
    pub(super) evicted: Tally,
    /// What is in no slot of a table, and so on no seat: always in use.
    detached_items: Tally,
    detached_bytes: Tally,
}

impl<R: Resource> Residents<R> {
    pub(crate) fn new(limit: Usage) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            ring: ClockRing::default(),
            hazards: Arc::default(),
            clock: Clock::default(),
            admission_threshold: FencedU64::new(0),
            pressure: FencedU64::new(0),
            deferred: Mutex::default(),
            process: Process::this(),
            given_back: Tally::default(),
            evicted: Tally::default(),
            detached_items: Tally::default(),
            detached_bytes: Tally::default(),
        }
    }

    /// Publishes what was loaded, where evictors find it.
    pub(crate) fn admit(
        &self,
        loading: Loading<'_, Kept<R>>,
        resource: R,
        reservation: Reservation,
        home: Arc<dyn Home<R>>,
    ) -> SlotRef<Kept<R>> {
        // Rule 6: seated before it is published.
        let ring_entry = loading.enlist(&self.ring);
        loading.publish(Kept::new(resource, reservation, Some(ring_entry), home))
    }

    /// Publishes what is for its clients alone: no evictor finds it, and its last client gives it back.
    pub(crate) fn admit_detached(
        &self,
        resource: R,
        reservation: Reservation,
        home: Arc<dyn Home<R>>,
    ) -> SlotRef<Kept<R>> {
        self.detached_items.add(1);
        self.detached_bytes.add(reservation.bytes());
        Slot::detached(Kept::new(resource, reservation, None, home))
    }

    /// It was given back: `bytes` of what was detached, or had a seat.
    pub(super) fn note_given_back(&self, was_detached: bool, bytes: usize) {
        self.given_back.add(1);
        if was_detached {
            self.detached_items.sub(1);
            self.detached_bytes.sub(bytes);
        }
    }

    /// It is about to be given back, and evictors are not to find it.
    pub(super) fn dismiss(&self, kept: &mut Kept<R>) {
        if let Some(seat) = kept.take_ring_entry() {
            self.ring.remove(seat);
        }
    }

    /// A touch by a reader. Writes nothing once the window's credit is full.
    #[inline]
    pub(crate) fn touch(&self, slot: &Slot<Kept<R>>) {
        if !self.is_full(slot) {
            let touched = Frequency::from_word(slot.frequency()).accessed(self.clock.now());
            slot.set_frequency(touched.to_word());
        }
    }

    /// Whether one more touch would change nothing.
    #[inline]
    pub(crate) fn is_full(&self, slot: &Slot<Kept<R>>) -> bool {
        slot.frequency() == Frequency::saturated(self.clock.now()).to_word()
    }

    /// What a slot's touches are worth now.
    pub(crate) fn credit(&self, slot: &Slot<Kept<R>>) -> u8 {
        Frequency::from_word(slot.frequency()).count(self.clock.now())
    }

    /// Touches of what is not here make the policy's time go on.
    pub(crate) fn tick(&self, touches: u32, items_in_budget: usize, has_room: bool) {
        self.clock.tick(touches, policy::clock_period(items_in_budget, has_room));
    }

    /// What the victim is worth that a newcomer last failed to beat: it need not try again before it is worth more.
    pub(crate) fn admission_threshold(&self) -> u8 {
        Frequency::from_word(self.admission_threshold.load() as u32).count(self.clock.now())
    }

    /// Somebody has to have one, and there is no place free.
    pub(crate) fn note_pressure(&self) {
        self.pressure.store_then_fence(Frequency::saturated(self.clock.now()).to_word().into());
    }

    /// Whether that was lately.
    pub(crate) fn under_pressure(&self) -> bool {
        policy::under_pressure(Frequency::from_word(self.pressure.load() as u32).count(self.clock.now()))
    }

    /// Wins one to give back: the coldest of a few that nobody uses. The policy proposes, the slot's word disposes. `None`
    /// if all that could be seen is in use, or may not go.
    pub(super) fn victim(&self) -> Option<UnmapToken<Kept<R>>> {
        let guard = epoch::pin();
        let protected = self.hazards.scan_unordered();
        let mut left = self.ring.len();
        while left > 0 {
            if let Some(token) = self.sample(&mut left, &protected, &guard).into_iter().find_map(retire_if_it_may_go) {
                return Some(token);
            }
        }
        // Others may have turned the same hand meanwhile: look at each seat once, alone.
        let mut token = None;
        self.ring.for_each(&guard, |slot| {
            if token.is_none() && !protected.contains(slot) {
                token = retire_if_it_may_go(slot);
            }
        });
        token
    }

    /// The same, for a newcomer: only one that has no more credit than `at_most`, and among the first few.
    pub(super) fn victim_colder_than(&self, at_most: u8) -> Option<UnmapToken<Kept<R>>> {
        let guard = epoch::pin();
        // Where nearly all is in use, a newcomer does not look for the exception.
        let mut left = self.ring.len().min(8 * policy::SAMPLE as u32);
        for slot in self.sample(&mut left, &self.hazards.scan_unordered(), &guard) {
            if self.credit(slot) > at_most {
                self.admission_threshold.store_then_fence(slot.frequency().into());
                return None;
            }
            if let Some(token) = retire_if_it_may_go(slot) {
                return Some(token);
            }
        }
        None
    }

    /// The next few that nobody uses, the coldest first; `left` counts the seats that may be looked at.
    fn sample<'g>(
        &self,
        left: &mut u32,
        protected: &ProtectedSet<Kept<R>>,
        guard: &'g epoch::Guard,
    ) -> Vec<&'g Slot<Kept<R>>> {
        let mut sample = Vec::with_capacity(policy::SAMPLE);
        while *left > 0 && sample.len() < policy::SAMPLE {
            *left -= 1;
            sample.extend(self.ring.advance(guard).filter(|slot| is_unused(slot) && !protected.contains(slot)));
        }
        sample.sort_by_cached_key(|slot| self.credit(slot));
        sample
    }

    /// Wins what nobody uses, one after the other, and hands it to `each`.
    pub(super) fn for_each_unused(&self, mut each: impl FnMut(UnmapToken<Kept<R>>)) {
        let protected = self.hazards.scan_unordered();
        self.ring.for_each(&epoch::pin(), |slot| {
            if protected.contains(slot) {
                return;
            }
            if let Some(token) = slot.retire() {
                each(token);
            }
        });
    }

    /// Drains all that sits, and hands what nobody uses to `each`.
    pub(super) fn drain(&self, mut each: impl FnMut(UnmapToken<Kept<R>>)) {
        self.ring.for_each(&epoch::pin(), |slot| {
            if let Drain::Owned(token) = slot.drain() {
                each(token);
            }
        });
    }

    /// What clients hold, what cursors have announced, and what the system has refused to take back. O(n).
    pub(crate) fn pinned(&self) -> Usage {
        let mut pinned =
            Usage { bytes: self.detached_bytes.total() as usize, items: self.detached_items.total() as usize };
        let mut add = |kept: &Kept<R>| {
            pinned.bytes += kept.reserved();
            pinned.items += 1;
        };
        let protected = self.hazards.scan_unordered();
        // To look at a payload one has to be its client; one more does not matter where it is used.
        self.ring.for_each(&epoch::pin(), |slot| {
            let client = slot.join().or_else(|| if protected.contains(slot) { slot.take().ok() } else { None });
            if let Some(client) = client {
                add(&client);
            }
        });
        // What waited for a cursor that has gone on meanwhile is only mapped.
        let is_in_use = |token: &&UnmapToken<Kept<R>>| {
            !token.is_detached() && (protected.contains_token(token) || !token.payload().is_in_ring())
        };
        self.deferred()
            .iter()
            .flat_map(|deferred| deferred.iter())
            .filter(is_in_use)
            .for_each(|token| add(token.payload()));
        pinned
    }

    /// Of windows that drain, and that nobody is counted for, how many are announced still.
    pub(super) fn count_protected(&self, windows: &RadixTable<Slot<Kept<R>>>) -> usize {
        let protected = self.hazards.scan_unordered();
        let mut count = 0;
        windows.for_each_from(0, |_, slot| {
            let now = slot.snapshot();
            count += usize::from(now.is_draining() && now.clients() == 0 && protected.contains(slot));
        });
        count
    }

    /// Keeps what could not be given back.
    pub(super) fn defer(&self, token: UnmapToken<Kept<R>>) {
        // Nobody's otherwise: it stays mapped as long as the child lives.
        if let Some(mut deferred) = self.deferred() {
            deferred.push(token);
        }
    }

    /// What could not be given back before: for another try.
    pub(super) fn take_deferred(&self) -> Vec<UnmapToken<Kept<R>>> {
        self.deferred().map_or_else(Vec::new, |mut deferred| std::mem::take(&mut *deferred))
    }

    /// Of that, what was kept for readers and is not `protected`.
    pub(super) fn take_unprotected(&self, protected: &ProtectedSet<Kept<R>>) -> Vec<UnmapToken<Kept<R>>> {
        let is_left = |token: &UnmapToken<Kept<R>>| token.payload().is_in_ring() && !protected.contains_token(token);
        self.deferred().map_or_else(Vec::new, |mut deferred| {
            let (left, read) = std::mem::take(&mut *deferred).into_iter().partition(is_left);
            *deferred = read;
            left
        })
    }

    /// The same for who has all of this for himself: no lock.
    pub(super) fn take_deferred_mut(&mut self) -> Vec<UnmapToken<Kept<R>>> {
        std::mem::take(self.deferred.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    fn deferred(&self) -> Option<MutexGuard<'_, Vec<UnmapToken<Kept<R>>>>> {
        if !self.process.is_this() {
            return None;
        }
        // Held for moments, and what is owned goes through it from thread to thread. Tried again rather than waited for, so that
        // the thread sanitizer, which does not see how the standard library waits, sees that.
        let mut wait = Backoff::new();
        loop {
            match self.deferred.try_lock() {
                Ok(deferred) => return Some(deferred),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => wait.pause(),
            }
        }
    }
}

fn is_unused<P>(slot: &Slot<P>) -> bool {
    let now = slot.snapshot();
    now.phase() == Phase::Mapped && now.clients() == 0 && !now.is_draining()
}

fn retire_if_it_may_go<R: Resource>(slot: &Slot<Kept<R>>) -> Option<UnmapToken<Kept<R>>> {
    if !R::MAY_BE_NEEDED {
        return slot.retire();
    }
    // Asked as a client, so that nobody else has to wait for the answer, which may take a while.
    let was_needed = {
        let client = slot.take().ok()?;
        let is_needed = client.is_needed();
        if is_needed && !client.is_replaceable() {
            return None;
        }
        is_needed
    };
    let token = slot.retire()?;
    if was_needed || !token.payload().is_needed() {
        return Some(token);
    }
    // Needed since. Put back; or it was drained meanwhile, and then it goes after all.
    token.restore().err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::radix_table::RadixTable;
    use crate::sync::epoch::EpochBox;
    use std::io;
    use std::sync::Weak;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    const BYTES: usize = 10;

    /// A resource with a number, which the system may refuse to take back.
    struct Fake<const MAY_BE_NEEDED: bool> {
        number: u64,
        is_refused: Arc<AtomicBool>,
    }

    impl<const MAY_BE_NEEDED: bool> Resource for Fake<MAY_BE_NEEDED> {
        const MAY_BE_NEEDED: bool = MAY_BE_NEEDED;

        fn give_back(&mut self) -> io::Result<()> {
            if self.is_refused.load(Ordering::Relaxed) { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
        }
    }

    /// Where fakes stand.
    struct House<const MAY_BE_NEEDED: bool> {
        slots: EpochBox<RadixTable<Slot<Kept<Fake<MAY_BE_NEEDED>>>>>,
        residents: Weak<Residents<Fake<MAY_BE_NEEDED>>>,
        /// How often it was asked whether it needs one; from which time on it does; and whether it can have another.
        asked: AtomicUsize,
        is_needed_from: AtomicUsize,
        is_replaceable: AtomicBool,
    }

    impl<const MAY_BE_NEEDED: bool> Home<Fake<MAY_BE_NEEDED>> for House<MAY_BE_NEEDED> {
        fn is_needed(&self) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed) + 1 >= self.is_needed_from.load(Ordering::Relaxed)
        }

        fn is_replaceable(&self) -> bool {
            self.is_replaceable.load(Ordering::Relaxed)
        }

        fn reclaim(self: Arc<Self>, token: UnmapToken<Kept<Fake<MAY_BE_NEEDED>>>) {
            let residents = self.residents.upgrade().expect("the test outlives its clients");
            drop(residents.reclaim(token));
        }
    }

    struct Setting<const MAY_BE_NEEDED: bool = false> {
        residents: Arc<Residents<Fake<MAY_BE_NEEDED>>>,
        house: Arc<House<MAY_BE_NEEDED>>,
        is_refused: Arc<AtomicBool>,
    }

    impl<const MAY_BE_NEEDED: bool> Setting<MAY_BE_NEEDED> {
        fn new() -> Self {
            let residents = Arc::new(Residents::new(Usage { bytes: 100 * BYTES, items: 100 }));
            let house = Arc::new(House {
                slots: EpochBox::new(RadixTable::default()),
                residents: Arc::downgrade(&residents),
                asked: AtomicUsize::new(0),
                is_needed_from: AtomicUsize::new(usize::MAX),
                is_replaceable: AtomicBool::new(false),
            });
            Self { residents, house, is_refused: Arc::default() }
        }

        fn slot(&self, number: u64) -> &Slot<Kept<Fake<MAY_BE_NEEDED>>> {
            self.house.slots.at(number)
        }

        fn fake(&self, number: u64) -> (Fake<MAY_BE_NEEDED>, Reservation, Arc<dyn Home<Fake<MAY_BE_NEEDED>>>) {
            let fake = Fake { number, is_refused: Arc::clone(&self.is_refused) };
            (fake, self.residents.budget.reserve(BYTES).expect("room"), Arc::clone(&self.house) as _)
        }

        /// One that has this credit, on the next seat.
        fn admit(&self, number: u64, credit: u8) -> SlotRef<Kept<Fake<MAY_BE_NEEDED>>> {
            (0..credit).for_each(|_| self.residents.touch(self.slot(number)));
            let loading = self.slot(number).begin_load().expect("vacant");
            let (fake, reservation, home) = self.fake(number);
            self.residents.admit(loading, fake, reservation, home)
        }

        /// The number of what was won, which goes.
        fn give_back(&self, won: Option<UnmapToken<Kept<Fake<MAY_BE_NEEDED>>>>) -> Option<u64> {
            let token = won?;
            let number = token.payload().get().number;
            drop(self.residents.reclaim(token).expect("nothing is refused"));
            Some(number)
        }

        fn victim(&self) -> Option<u64> {
            self.give_back(self.residents.victim())
        }

        fn victim_colder_than(&self, at_most: u8) -> Option<u64> {
            self.give_back(self.residents.victim_colder_than(at_most))
        }
    }

    impl<const MAY_BE_NEEDED: bool> Drop for Setting<MAY_BE_NEEDED> {
        fn drop(&mut self) {
            // What stands in a house keeps it.
            self.is_refused.store(false, Ordering::Relaxed);
            self.residents.retry_deferred();
            self.residents.drain(|token| drop(self.residents.reclaim(token)));
        }
    }

    #[test]
    fn each_touch_is_a_credit_until_it_is_full_and_time_halves_it() {
        let Setting { residents, .. } = &Setting::<false>::new();
        let slot = Slot::default();
        for credit in 0..u8::MAX {
            assert_eq!(residents.credit(&slot), credit);
            residents.touch(&slot);
        }
        let full = slot.frequency();
        residents.touch(&slot);
        assert_eq!((residents.credit(&slot), slot.frequency()), (u8::MAX, full));

        let period = policy::clock_period(3, false);
        (1..period).for_each(|_| residents.tick(1, 3, false));
        assert_eq!(residents.credit(&slot), u8::MAX);
        residents.tick(1, 3, false);
        assert_eq!(residents.credit(&slot), u8::MAX / 2);
    }

    #[test]
    fn the_coldest_of_those_that_nobody_uses_goes_first() {
        let setting = Setting::<false>::new();
        let _used: Vec<_> = (0..7).map(|number| setting.admit(number, 0)).collect();
        for (number, credit) in (7..).zip([9, 3, 3, 3, 1, 3, 3, 3, 0]) {
            drop(setting.admit(number, credit));
        }
        assert_eq!(setting.victim(), Some(11), "the coldest of the first {}", policy::SAMPLE);
        let rest: Vec<_> = std::iter::from_fn(|| setting.victim()).collect();
        assert_eq!((rest.len(), rest.first()), (8, Some(&15)), "{rest:?}");
        assert!(rest.iter().all(|&number| number >= 7), "{rest:?}");
        assert_eq!(setting.residents.budget.used(), Usage { bytes: 7 * BYTES, items: 7 });
    }

    #[test]
    fn a_newcomer_looks_at_a_few_seats_only() {
        for (used, found) in [(60, Some(60)), (63, Some(63)), (64, None), (70, None)] {
            let setting = Setting::<false>::new();
            let _used: Vec<_> = (0..used).map(|number| setting.admit(number, 0)).collect();
            drop(setting.admit(used, 0));
            assert_eq!(setting.victim_colder_than(u8::MAX), found, "behind {used} that are in use");
        }
    }

    #[test]
    fn what_is_hotter_than_a_newcomer_stays_and_is_the_floor() {
        let setting = Setting::<false>::new();
        drop(setting.admit(0, 8));
        assert_eq!(setting.residents.admission_threshold(), 0);
        assert_eq!(setting.victim_colder_than(7), None);
        assert_eq!(setting.residents.admission_threshold(), 8);
        assert_eq!(setting.victim_colder_than(8), Some(0));
    }

    #[test]
    fn what_is_needed_goes_only_where_there_is_another() {
        for (is_needed, is_replaceable, goes) in
            [(false, false, true), (false, true, true), (true, false, false), (true, true, true)]
        {
            let setting = Setting::<true>::new();
            drop(setting.admit(0, 0));
            setting.house.is_needed_from.store(if is_needed { 0 } else { usize::MAX }, Ordering::Relaxed);
            setting.house.is_replaceable.store(is_replaceable, Ordering::Relaxed);
            assert_eq!(setting.victim().is_some(), goes, "needed: {is_needed}, replaceable: {is_replaceable}");
            assert_eq!(setting.slot(0).take().is_err(), goes);
        }
    }

    #[test]
    fn what_is_never_needed_is_not_asked_about() {
        let setting = Setting::<false>::new();
        setting.house.is_needed_from.store(0, Ordering::Relaxed);
        drop(setting.admit(0, 0));
        assert_eq!((setting.victim(), setting.house.asked.load(Ordering::Relaxed)), (Some(0), 0));
    }

    #[test]
    fn what_is_needed_since_it_was_asked_about_is_put_back() {
        let setting = Setting::<true>::new();
        drop(setting.admit(0, 0));
        // The first time is before it is won, the second one after.
        setting.house.is_needed_from.store(2, Ordering::Relaxed);
        assert_eq!(setting.victim_colder_than(0), None);
        assert_eq!(setting.house.asked.load(Ordering::Relaxed), 2);
        assert_eq!(setting.slot(0).take().map(|client| client.get().number).ok(), Some(0));
    }

    #[test]
    fn what_is_refused_is_kept_and_counted_once() {
        let setting = Setting::<false>::new();
        let residents = &setting.residents;
        drop(setting.admit(0, 0));
        let (fake, reservation, home) = setting.fake(1);
        let detached = residents.admit_detached(fake, reservation, home);
        let held = setting.admit(2, 0);
        drop(setting.admit(3, 0));
        let of = |items| Usage { bytes: items * BYTES, items };
        assert_eq!(residents.pinned(), of(2), "of a client, and detached");

        setting.is_refused.store(true, Ordering::Relaxed);
        while let Some(token) = residents.victim() {
            assert!(residents.reclaim(token).is_none());
        }
        drop(detached);
        drop(held);
        assert_eq!((residents.retry_deferred(), residents.retry_deferred()), (0, 0));
        assert_eq!(residents.pinned(), of(3), "two that had a seat, and one that was detached");
        assert_eq!(residents.budget.used(), of(4));

        setting.is_refused.store(false, Ordering::Relaxed);
        assert_eq!((residents.retry_deferred(), residents.retry_deferred()), (3, 0));
        assert_eq!((residents.pinned(), residents.budget.used()), (of(0), of(1)), "what was held is unused by now");
        assert_eq!(residents.collect(), Usage { bytes: BYTES, items: 1 });
        assert_eq!(residents.budget.used(), of(0));
    }
}
