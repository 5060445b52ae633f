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
use crate::sync::epoch;

#[derive(Debug)]
pub(crate) struct Residents<R: Resource> {
    pub(crate) budget: Arc<Budget>,
    ring: Ring<Slot<Kept<R>>>,
    clock: Clock,
    /// What is owned and could not be given back yet: still there, still counted.
    limbo: Mutex<Vec<Owned<Kept<R>>>>,
}

impl<R: Resource> Residents<R> {
    pub(crate) fn new(limit: Usage) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            ring: Ring::default(),
            clock: Clock::default(),
            limbo: Mutex::default(),
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

    /// The opposite: it is about to be given back, and evictors are not to find it.
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

    /// A touch of something that is not here, which makes the policy's time go on.
    pub(crate) fn tick(&self, items_in_budget: usize) {
        self.clock.tick(policy::clock_period(items_in_budget));
    }

    /// Wins one to give back: the coldest of a few that nobody uses. The policy proposes, the slot's word disposes. `None`
    /// if all that could be seen is in use.
    pub(super) fn victim(&self) -> Option<Owned<Kept<R>>> {
        // What an evictor wins but may not have is put back, so each is asked once at most.
        for _ in 0..=self.ring.len() {
            let owned = self.propose()?;
            if owned.payload().may_go() {
                return Some(owned);
            }
            // It was drained meanwhile: then it goes after all.
            if let Err(owned) = owned.restore() {
                return Some(owned);
            }
        }
        None
    }

    fn propose(&self) -> Option<Owned<Kept<R>>> {
        let guard = epoch::pin();
        let mut sample: [Option<(u8, &Slot<Kept<R>>)>; policy::SAMPLE] = [None; policy::SAMPLE];
        let mut found = 0;
        for _ in 0..self.ring.len() {
            if let Some(slot) = self.ring.turn(&guard).filter(|slot| is_unused(slot)) {
                sample[found] = Some((self.credit(slot), slot));
                found += 1;
            }
            if found == sample.len() {
                if let Some(owned) = retire_coldest(&mut sample[..found]) {
                    return Some(owned);
                }
                found = 0;
            }
        }
        if let Some(owned) = retire_coldest(&mut sample[..found]) {
            return Some(owned);
        }
        // Others may have turned the same hand meanwhile: look at each seat once, alone.
        let mut owned = None;
        self.ring.for_each(&guard, |slot| {
            if owned.is_none() {
                owned = slot.retire();
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
        let mut pinned = Usage::default();
        let mut add = |kept: &Kept<R>| {
            pinned.bytes += kept.reserved();
            pinned.items += 1;
        };
        let mut held = Vec::new();
        self.ring.for_each(&epoch::pin(), |slot| {
            // To look at a payload one has to be its client; one more does not matter where there is one.
            if slot.snapshot().clients() > 0 {
                held.extend(slot.take());
            }
        });
        held.iter().for_each(|client| add(client));
        self.limbo().iter().for_each(|owned| add(owned.payload()));
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

fn retire_coldest<P>(sample: &mut [Option<(u8, &Slot<P>)>]) -> Option<Owned<P>> {
    sample.sort_unstable_by_key(|candidate| candidate.map(|(credit, _)| credit));
    sample.iter().flatten().find_map(|(_, slot)| slot.retire())
}
