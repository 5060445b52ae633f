//! Giving back: making room in a budget, and what an owner does. Whoever wins a region, here or elsewhere, brings it here.
//!
//! Making room, as a reader does it when its window needs more than is free:
//!
//! 1. Take what is free.
//! 2. Else win a victim, unmap it, and take its reservation over, so that nobody else gets what this thread unmapped for.
//! 3. Else see whether what the system refused to unmap before goes now.
//! 4. Else, if other threads hold bytes that are neither pinned nor to be evicted (they are between winning a victim and
//!    publishing), let go of everything, wait a little, look again; for a bounded time.
//! 5. Else everything is pinned, and [`Overcommit`] decides.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backoff::Backoff;
use super::residents::Residents;
use crate::cache::region::{Kept, Region, Resource};
use crate::config::Overcommit;
use crate::protocol::budget::{InTransit, Reservation, Usage};
use crate::protocol::hazard::ProtectedSet;
use crate::protocol::slot::UnmapToken;

/// How long to wait for bytes that are only in flight.
pub(super) const TRANSIT_MAX: Duration = Duration::from_millis(20);

/// What the system refused to unmap when its cache was gone already. Any other cache tries again; where there is none,
/// it stays mapped. (A lock of `std`, since it stands in a static; nobody calls anything while holding it.)
static ORPHANS: Mutex<Vec<UnmapToken<Region>>> = Mutex::new(Vec::new());

/// Victims that a reader wins in vain, since somebody reads them by then or the system refuses, before it gives up.
const TRIES: usize = 8;

/// Regions won at once by who trims.
const BATCH: usize = 8;

/// How far a reader goes for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What is free.
    Spare,
    /// The place of one that is unused and has no more credit than this, also where a place is free: the free ones are kept
    /// for those who must have one. Without waiting.
    Duel(u8),
    /// All that is unused; else beyond the limit. Without waiting.
    Force,
    /// All that is unused, also what is only in flight; then as is configured.
    Demand(Overcommit),
}

impl Effort {
    /// Whether there is no doing without.
    pub(crate) fn is_demand(self) -> bool {
        matches!(self, Self::Demand(_))
    }
}

/// Why no room was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// More than the whole budget was asked for.
    TooLarge,
    /// Everything in the budget is in use.
    AllPinned,
}

/// Why an owner did not unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotFreed {
    /// It is restored, or the system refused.
    Retained,
    /// It drains, and somebody may read it: kept for later.
    Protected,
}

/// What came of making room.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) reservation: Reservation,
    /// Whether it is over the limit.
    pub(crate) over: bool,
}

impl<R: Resource> Residents<R> {
    /// Reserves one item of `bytes`, and evicts for it if it has to. The caller is in `transit`.
    pub(crate) fn make_room<'b>(
        &'b self,
        transit: &mut InTransit<'b>,
        bytes: usize,
        effort: Effort,
        for_room: &mut Backoff,
    ) -> Result<Room, Refused> {
        if bytes > self.budget.limit().bytes {
            return Err(Refused::TooLarge);
        }
        let mut held: Option<Reservation> = None;
        let mut for_transit = Backoff::new();
        let mut is_last_look = false;
        let mut tries = TRIES;
        loop {
            let may_be_free = held.is_some() || !matches!(effort, Effort::Duel(_));
            if may_be_free {
                if let Some(reservation) = self.complete(&mut held, bytes) {
                    return Ok(Room { reservation, over: false });
                }
            }
            let victim = match effort {
                _ if tries == 0 => None,
                Effort::Spare => None,
                Effort::Duel(at_most) => self.victim_colder_than(at_most),
                Effort::Force | Effort::Demand(_) => self.victim(),
            };
            if let Some(token) = victim {
                match self.reclaim(token) {
                    Some(reservation) => {
                        self.evicted.add(1);
                        absorb(&mut held, reservation);
                    }
                    None => tries -= 1,
                }
                continue;
            }
            if matches!(effort, Effort::Spare | Effort::Duel(_)) {
                return Err(Refused::AllPinned);
            }
            if self.retry_deferred() > 0 {
                continue;
            }
            // Nothing to evict. What this thread holds is nobody's while it waits.
            held = None;
            let Effort::Demand(overcommit) = effort else { return Ok(self.reserve_over(bytes)) };
            tries = TRIES;
            if self.transit_could_free(bytes) && transit.pause(|| for_transit.pause_within(TRANSIT_MAX)) {
                continue;
            }
            match overcommit {
                Overcommit::Wait(time) if transit.pause(|| for_room.pause_within(time)) => {}
                Overcommit::Allow => return Ok(self.reserve_over(bytes)),
                // Somebody may have unmapped all that this thread did not find, and landed before it looked who flies.
                Overcommit::Fail | Overcommit::Wait(_) if !is_last_look => is_last_look = true,
                Overcommit::Fail | Overcommit::Wait(_) => return Err(Refused::AllPinned),
            }
        }
    }

    /// What came free since, or beyond the limit.
    fn reserve_over(&self, bytes: usize) -> Room {
        match self.budget.reserve(bytes) {
            Some(reservation) => Room { reservation, over: false },
            None => Room { reservation: self.budget.reserve_over(bytes), over: true },
        }
    }

    /// Whether there would be room if the others in flight gave back what they hold, about as much as is asked for here.
    fn transit_could_free(&self, bytes: usize) -> bool {
        let others = self.budget.in_transit().saturating_sub(1);
        let (used, limit) = (self.budget.used(), self.budget.limit());
        let pinned_bytes = used.bytes.saturating_sub(others.saturating_mul(bytes));
        let pinned_items = used.items.saturating_sub(others);
        others > 0 && pinned_bytes.saturating_add(bytes) <= limit.bytes && pinned_items < limit.items
    }

    /// A reservation of `bytes` from what is held and what is free, if that is enough.
    fn complete(&self, held: &mut Option<Reservation>, bytes: usize) -> Option<Reservation> {
        let Some(mine) = held else { return self.budget.reserve(bytes) };
        // Over the limit (it was lowered, or passed before) what is held has to go, not to be used again.
        if !self.budget.is_within() {
            *held = None;
            return None;
        }
        if !mine.try_grow_to(bytes) {
            return None;
        }
        mine.shrink_to(bytes);
        held.take()
    }

    /// What an owner does: off its seat, back to the system, vacant. The reservation is the caller's. `None` if somebody reads
    /// it who is not counted, or if the system refused; then it is restored, or stays counted, in limbo.
    pub(crate) fn reclaim(&self, token: UnmapToken<Kept<R>>) -> Option<Reservation> {
        let _transit = self.budget.enter_transit();
        // What stands in no table only its clients know, and it has none.
        let protected =
            if token.is_detached() { Some(ProtectedSet::nothing()) } else { self.hazards.scan_after_barrier() };
        match self.reclaim_unless(protected.as_ref(), token) {
            Ok(reservation) => Some(reservation),
            Err(NotFreed::Protected) => {
                self.rescan_deferred();
                None
            }
            Err(NotFreed::Retained) => None,
        }
    }

    /// The same for several, with one look at who reads. How many went, and their bytes.
    pub(crate) fn reclaim_all(&self, token: Vec<UnmapToken<Kept<R>>>) -> Usage {
        let mut went = Usage::default();
        if token.is_empty() {
            return went;
        }
        let _transit = self.budget.enter_transit();
        let protected = self.hazards.scan_after_barrier();
        let mut is_read = false;
        for token in token {
            match self.reclaim_unless(protected.as_ref(), token) {
                Ok(reservation) => {
                    went.items += 1;
                    went.bytes += reservation.bytes();
                }
                Err(stays) => is_read |= stays == NotFreed::Protected,
            }
        }
        if is_read {
            let more = self.rescan_deferred();
            went.items += more.items;
            went.bytes += more.bytes;
        }
        went
    }

    /// For who has kept for later what somebody reads. The last one who did may have let go before it was there, and have found
    /// nothing that waited: then nobody else comes for it. How much went.
    fn rescan_deferred(&self) -> Usage {
        match self.hazards.scan_after_barrier() {
            // Only a guess by now, of what others have brought meanwhile: who takes it looks once more.
            Some(protected) => self.reclaim_all(self.take_unprotected(&protected)),
            None => Usage::default(),
        }
    }

    /// Reclaims what is not `protected`, as it was seen since it was won; nothing, if that could not be seen.
    fn reclaim_unless(
        &self,
        protected: Option<&ProtectedSet<Kept<R>>>,
        token: UnmapToken<Kept<R>>,
    ) -> Result<Reservation, NotFreed> {
        if !token.is_detached() && protected.is_none_or(|protected| protected.contains_token(&token)) {
            // Back to those who read it; or it drains, and waits for the last of them. (What the system refused has no seat any
            // more, and nobody can read it: who announces it is about to find that out.)
            let kept = if token.payload().is_in_ring() { token.restore() } else { Err(token) };
            return Err(match kept {
                Ok(()) => NotFreed::Retained,
                Err(token) => {
                    self.defer(token);
                    NotFreed::Protected
                }
            });
        }
        let was_detached = token.is_detached();
        let given_back = token.vacate(|kept| {
            self.dismiss(kept);
            kept.give_back()
        });
        match given_back {
            Ok(kept) => {
                self.note_given_back(was_detached, kept.reserved());
                Ok(kept.into_reservation())
            }
            Err((token, _refusal)) => {
                self.defer(token);
                Err(NotFreed::Retained)
            }
        }
    }

    /// Gives back what is in limbo, as far as it goes by now. How many went.
    pub(crate) fn retry_deferred(&self) -> usize {
        // In flight before it is in nobody's hands.
        let _transit = self.budget.enter_transit();
        self.reclaim_all(self.take_deferred()).items
    }

    /// Gives back what nobody uses, until there is no more or `excess` says that nothing is left to go. In small batches:
    /// what is won and not yet given back is nobody's meanwhile.
    pub(crate) fn trim(&self, excess: impl Fn() -> usize) {
        self.retry_deferred();
        loop {
            let batch = excess().min(BATCH);
            let _transit = self.budget.enter_transit();
            let victims: Vec<_> = (0..batch).map_while(|_| self.victim()).collect();
            if victims.is_empty() {
                break;
            }
            let went = self.reclaim_all(victims).items;
            self.evicted.add(went);
            if went == 0 {
                // All of them are read, by now; or nobody can know. Not to be tried without end.
                break;
            }
        }
    }

    /// Gives back all that nobody uses. How much that was.
    pub(crate) fn collect(&self) -> Usage {
        let _transit = self.budget.enter_transit();
        let mut went = self.reclaim_all(self.take_deferred());
        let mut reclaim = |batch| {
            let more = self.reclaim_all(batch);
            went.items += more.items;
            went.bytes += more.bytes;
        };
        // A few at a time: a window that was won and not yet unmapped is one that nobody can read.
        let mut batch = Vec::with_capacity(BATCH);
        self.for_each_unused(|token| {
            batch.push(token);
            if batch.len() == BATCH {
                reclaim(mem::take(&mut batch));
            }
        });
        reclaim(batch);
        went
    }
}

/// What an owner does where there is no cache, and so no budget, no ring and no limbo.
pub(super) fn reclaim_orphan(token: UnmapToken<Region>) {
    if let Err((token, _refusal)) = token.vacate(|region| region.give_back_now()) {
        orphans().push(token);
    }
}

/// Gives back what the system refused before to caches that are gone.
pub(super) fn retry_orphans() {
    let waiting = mem::take(&mut *orphans());
    waiting.into_iter().for_each(reclaim_orphan);
}

fn orphans() -> MutexGuard<'static, Vec<UnmapToken<Region>>> {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absorb(held: &mut Option<Reservation>, more: Reservation) {
    match held {
        Some(held) => held.absorb(more),
        None => *held = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::protocol::budget::Usage;

    #[test]
    fn what_others_hold_in_flight_could_land() {
        let limit = Usage { bytes: 100, items: 4 };
        // This thread and others in flight, what each item takes, what is asked for; the limit may be passed already.
        for (in_transit, items, asked, transit_could_free) in [
            (1, &[][..], 10, false),
            (1, &[10], 10, false),
            (2, &[], 10, true),
            (2, &[90], 10, true),
            (2, &[100], 10, true),
            (2, &[101], 10, false),
            (2, &[110], 10, false),
            (3, &[110], 10, true),
            (3, &[111], 10, false),
            (2, &[1, 1, 1], 10, true),
            (2, &[1, 1, 1, 1], 10, true),
            (2, &[1, 1, 1, 1, 1], 10, false),
            (3, &[1, 1, 1, 1, 1], 10, true),
            (3, &[1, 1, 1, 1, 1, 200], 10, false),
        ] {
            let residents = Residents::<Mapping>::new(limit);
            let _held: Vec<_> = items.iter().map(|&bytes| residents.budget.reserve_over(bytes)).collect();
            let _flights: Vec<_> = (0..in_transit).map(|_| residents.budget.enter_transit()).collect();
            assert_eq!(
                residents.transit_could_free(asked),
                transit_could_free,
                "{in_transit} in transit, {items:?} held"
            );
        }
    }
}
