//! [`Residents`]: everything of one kind that is mapped (or open), its budget, and who goes first.
//!
//! Two of them make a cache: one of mappings, one of descriptors. No hit comes here, and nobody waits here for a lock.

use std::sync::{Arc, PoisonError};

use crate::policy::{self, Heat};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::protocol::ring::Ring;
use crate::protocol::slot::{Drain, Loading, Owned, Phase, Slot, SlotRef};
use crate::protocol::words::{Clock, Published};
use crate::region::{Home, Kept, Resource};
use crate::stats::Tally;
use crate::sync::{Mutex, MutexGuard, epoch};

#[derive(Debug)]
pub(crate) struct Residents<R: Resource> {
    pub(crate) budget: Arc<Budget>,
    ring: Ring<Slot<Kept<R>>>,
    clock: Clock,
    /// The heat of the victim that a newcomer last failed to beat.
    floor: Published,
    /// What is owned and could not be given back yet: still there, still counted.
    limbo: Mutex<Vec<Owned<Kept<R>>>>,
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
            ring: Ring::default(),
            clock: Clock::default(),
            floor: Published::new(0),
            limbo: Mutex::default(),
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
        let seat = loading.seat(&self.ring);
        loading.publish(Kept::new(resource, reservation, Some(seat), home))
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
        if let Some(seat) = kept.leave_seat() {
            self.ring.leave(seat);
        }
    }

    /// A touch by a reader. Writes nothing once the window's credit is full.
    #[inline]
    pub(crate) fn touch(&self, slot: &Slot<Kept<R>>) {
        let heat = Heat::from_word(slot.heat());
        let touched = heat.touch(self.clock.now());
        if touched != heat {
            slot.set_heat(touched.to_word());
        }
    }

    /// What a slot's touches are worth now.
    pub(crate) fn credit(&self, slot: &Slot<Kept<R>>) -> u8 {
        Heat::from_word(slot.heat()).credit(self.clock.now())
    }

    /// A touch of something that is not here makes the policy's time go on.
    pub(crate) fn tick(&self, items_in_budget: usize) {
        self.clock.tick(policy::clock_period(items_in_budget));
    }

    /// What the victim is worth that a newcomer last failed to beat: it need not try again before it is worth more.
    pub(crate) fn floor(&self) -> u8 {
        Heat::from_word(self.floor.get() as u32).credit(self.clock.now())
    }

    /// Wins one to give back: the coldest of a few that nobody uses. The policy proposes, the slot's word disposes. `None`
    /// if all that could be seen is in use, or may not go.
    pub(super) fn victim(&self) -> Option<Owned<Kept<R>>> {
        let guard = epoch::pin();
        let mut left = self.ring.len();
        while left > 0 {
            if let Some(owned) = self.sample(&mut left, &guard).into_iter().find_map(retire_if_it_may_go) {
                return Some(owned);
            }
        }
        // Others may have turned the same hand meanwhile: look at each seat once, alone.
        let mut owned = None;
        self.ring.for_each(&guard, |slot| {
            if owned.is_none() {
                owned = retire_if_it_may_go(slot);
            }
        });
        owned
    }

    /// The same, for a newcomer: only one that has no more credit than `at_most`, and among the first few.
    pub(super) fn victim_of_duel(&self, at_most: u8) -> Option<Owned<Kept<R>>> {
        let guard = epoch::pin();
        // Where nearly all is in use, a newcomer does not look for the exception.
        let mut left = self.ring.len().min(8 * policy::SAMPLE as u32);
        for slot in self.sample(&mut left, &guard) {
            if self.credit(slot) > at_most {
                self.floor.set(slot.heat().into());
                return None;
            }
            if let Some(owned) = retire_if_it_may_go(slot) {
                return Some(owned);
            }
        }
        None
    }

    /// The next few that nobody uses, the coldest first; `left` counts the seats that may be looked at.
    fn sample<'g>(&self, left: &mut u32, guard: &'g epoch::Guard) -> Vec<&'g Slot<Kept<R>>> {
        let mut sample = Vec::with_capacity(policy::SAMPLE);
        while *left > 0 && sample.len() < policy::SAMPLE {
            *left -= 1;
            sample.extend(self.ring.turn(guard).filter(|slot| is_unused(slot)));
        }
        sample.sort_by_cached_key(|slot| self.credit(slot));
        sample
    }

    /// Wins what nobody uses, one after the other, and hands it to `each`.
    pub(super) fn for_each_unused(&self, mut each: impl FnMut(Owned<Kept<R>>)) {
        self.ring.for_each(&epoch::pin(), |slot| {
            if let Some(owned) = slot.retire() {
                each(owned);
            }
        });
    }

    /// Drains all that sits, and hands what nobody uses to `each`.
    pub(super) fn drain(&self, mut each: impl FnMut(Owned<Kept<R>>)) {
        self.ring.for_each(&epoch::pin(), |slot| {
            if let Drain::Owned(owned) = slot.drain() {
                each(owned);
            }
        });
    }

    /// What clients hold, and what is in limbo. O(n).
    pub(crate) fn pinned(&self) -> Usage {
        let mut pinned =
            Usage { bytes: self.detached_bytes.total() as usize, items: self.detached_items.total() as usize };
        let mut add = |kept: &Kept<R>| {
            pinned.bytes += kept.reserved();
            pinned.items += 1;
        };
        // To look at a payload one has to be its client; one more does not matter where there is one.
        self.ring.for_each(&epoch::pin(), |slot| {
            if let Some(client) = slot.join() {
                add(&client);
            }
        });
        self.limbo().iter().filter(|owned| !owned.is_detached()).for_each(|owned| add(owned.payload()));
        pinned
    }

    /// Keeps what could not be given back.
    pub(super) fn keep_for_later(&self, owned: Owned<Kept<R>>) {
        self.limbo().push(owned);
    }

    /// What could not be given back before: for another try.
    pub(super) fn take_limbo(&self) -> Vec<Owned<Kept<R>>> {
        std::mem::take(&mut *self.limbo())
    }

    fn limbo(&self) -> MutexGuard<'_, Vec<Owned<Kept<R>>>> {
        self.limbo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unused<P>(slot: &Slot<P>) -> bool {
    let now = slot.snapshot();
    now.phase() == Phase::Mapped && now.clients() == 0 && !now.is_draining()
}

fn retire_if_it_may_go<R: Resource>(slot: &Slot<Kept<R>>) -> Option<Owned<Kept<R>>> {
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
    let owned = slot.retire()?;
    if was_needed || !owned.payload().is_needed() {
        return Some(owned);
    }
    // Needed since. Put back; or it was drained meanwhile, and then it goes after all.
    owned.restore().err()
}
