//! [`Residents`]: everything of one kind that is mapped (or open), its budget, and who goes first.
//!
//! Two of them make a cache: one of mappings, one of descriptors. No hit comes here, and nobody waits here for a lock.

use std::sync::{Arc, Mutex, PoisonError};

use crate::policy::{self, Heat};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::protocol::ring::Ring;
use crate::protocol::slot::{Loading, Owned, Phase, Slot, SlotRef};
use crate::protocol::words::Clock;
use crate::region::{Home, Kept, Resource};
use crate::stats::Tally;
use crate::sync::epoch;

#[derive(Debug)]
pub(crate) struct Residents<R: Resource> {
    pub(crate) budget: Arc<Budget>,
    ring: Ring<Slot<Kept<R>>>,
    clock: Clock,
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

    /// Wins one to give back: the coldest of a few that nobody uses. The policy proposes, the slot's word disposes. `None`
    /// if all that could be seen is in use, or may not go.
    pub(super) fn victim(&self) -> Option<Owned<Kept<R>>> {
        let guard = epoch::pin();
        let mut sample = Sample::with_capacity(policy::SAMPLE);
        for _ in 0..self.ring.len() {
            if let Some(slot) = self.ring.turn(&guard).filter(|slot| is_unused(slot)) {
                sample.push((self.credit(slot), slot));
            }
            if sample.len() == policy::SAMPLE {
                if let Some(owned) = retire_coldest(&mut sample) {
                    return Some(owned);
                }
            }
        }
        if let Some(owned) = retire_coldest(&mut sample) {
            return Some(owned);
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

    /// Wins all that nobody uses.
    pub(super) fn unused(&self) -> Vec<Owned<Kept<R>>> {
        let mut unused = Vec::new();
        self.ring.for_each(&epoch::pin(), |slot| unused.extend(slot.retire()));
        unused
    }

    /// What clients hold, and what is in limbo. O(n).
    pub(crate) fn pinned(&self) -> Usage {
        let mut pinned =
            Usage { bytes: self.detached_bytes.total() as usize, items: self.detached_items.total() as usize };
        let mut held = Vec::new();
        self.ring.for_each(&epoch::pin(), |slot| {
            // To look at a payload one has to be its client; one more does not matter where there is one.
            if slot.snapshot().clients() > 0 {
                held.extend(slot.take());
            }
        });
        let limbo = self.limbo();
        let in_limbo = limbo.iter().filter(|owned| !owned.is_detached()).map(Owned::payload);
        for kept in held.iter().map(|client| &**client).chain(in_limbo) {
            pinned.bytes += kept.reserved();
            pinned.items += 1;
        }
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

    fn limbo(&self) -> std::sync::MutexGuard<'_, Vec<Owned<Kept<R>>>> {
        self.limbo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unused<P>(slot: &Slot<P>) -> bool {
    let now = slot.snapshot();
    now.phase() == Phase::Mapped && now.clients() == 0 && !now.is_draining()
}

/// The few that an evictor looks at, each with its credit.
type Sample<'s, R> = Vec<(u8, &'s Slot<Kept<R>>)>;

/// Empties the sample: what it did not win, or may not have, is looked at again when the hand comes round.
fn retire_coldest<R: Resource>(sample: &mut Sample<'_, R>) -> Option<Owned<Kept<R>>> {
    sample.sort_unstable_by_key(|(credit, _)| *credit);
    sample.drain(..).find_map(|(_, slot)| retire_if_it_may_go(slot))
}

fn retire_if_it_may_go<R: Resource>(slot: &Slot<Kept<R>>) -> Option<Owned<Kept<R>>> {
    let owned = slot.retire()?;
    if owned.payload().may_go() {
        return Some(owned);
    }
    // Put back; or it was drained meanwhile, and then it goes after all.
    owned.restore().err()
}
