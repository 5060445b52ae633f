//! Making room in a budget, and keeping some of it free.
//!
//! A thread that needs more than is free goes through these steps:
//!
//! 1. Reserve what is free.
//! 2. Otherwise retire a victim, unmap it, and take over its reservation, so that no other thread gets that room.
//! 3. Otherwise, for a required mapping, try the deferred list again: regions that the OS refused to unmap, or that a
//!    cursor was reading.
//! 4. Otherwise, if other threads are in transit (they may own, free or replace room), release
//!    everything, pause, and look again, for at most [`TRANSIT_MAX`].
//! 5. Otherwise everything is pinned, and [`WhenFull`] decides.
//!
//! Descriptors get room in the same way. Their victims have no deferred list, so step 3 is missing.

use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use super::backoff::{Backoff, Deadline};
use super::pool::RegionPool;
use super::reclaim;
use crate::config::Overcommit;
use crate::policy;
use crate::protocol::budget::{Budget, InTransit, Reservation, Usage};

/// The longest wait for room that is only in transit.
pub(super) const TRANSIT_MAX: Duration = Duration::from_millis(20);

/// Failed unmaps, because a cursor reads the region or the OS refuses, after which a thread stops choosing victims and
/// goes on to step 3.
const FAILURES_MAX: usize = 8;

/// The action of a call while everything in a budget is in use: [`Overcommit`], with the end of the call's only wait.
///
/// A call makes one value and passes it to each of its steps. So the steps share the time that the call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Exceed,
    Fail,
    /// Waits until then, and fails.
    WaitUntil(Deadline),
}

impl WhenFull {
    /// Returns the value of a call that begins now.
    pub(crate) fn from_now(overcommit: Overcommit) -> Self {
        match overcommit {
            Overcommit::Allow => Self::Exceed,
            Overcommit::Fail => Self::Fail,
            Overcommit::Wait(time) => Self::WaitUntil(Deadline::after(time)),
        }
    }
}

/// How a thread gets room for a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomPolicy {
    /// Takes room that is free.
    Free,
    /// Takes the place of an unused region whose access frequency is at most this. If that place is too
    /// small, adds free room to it. Otherwise leaves free room to required mappings. Does not wait.
    AtMost(u8),
    /// Takes free room or the place of any unused region, waits for room in transit, and then follows the
    /// configuration.
    Required(WhenFull),
}

impl RoomPolicy {
    pub(super) fn is_required(self) -> bool {
        self.when_full().is_some()
    }

    /// Returns what a required mapping does if everything is pinned.
    pub(super) fn when_full(self) -> Option<WhenFull> {
        if let Self::Required(when_full) = self { Some(when_full) } else { None }
    }
}

/// Room in a budget for one item: a region or a descriptor.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) reservation: Reservation,
    /// `true` if the reservation exceeds the limit.
    pub(super) over: bool,
}

impl Room {
    /// Reserves one item of `bytes`, beyond the limit if there is no room.
    pub(super) fn exceeding(budget: &Arc<Budget>, bytes: usize) -> Self {
        match budget.reserve(bytes) {
            Some(reservation) => Self { reservation, over: false },
            None => Self { reservation: budget.reserve_over(bytes), over: true },
        }
    }
}

/// Repeats `search` until it finds room for an item of `bytes`, as `when_full` allows. Returns `None` if the thread may
/// not wait any longer, nor exceed the limit. Without a `when_full` it searches once.
///
/// The thread leaves `transit` while it waits. So the caller must hold nothing then that another thread may wait for:
/// neither a reservation nor a descriptor.
pub(super) fn find_room(
    budget: &Arc<Budget>,
    transit: &mut InTransit<'_>,
    bytes: usize,
    when_full: Option<WhenFull>,
    mut search: impl FnMut() -> Option<Reservation>,
) -> Option<Room> {
    let (mut for_transit, mut for_release) = (Backoff::new(), Backoff::new());
    let mut is_last_search = false;
    loop {
        if let Some(reservation) = search() {
            return Some(Room { reservation, over: false });
        }
        let when_full = when_full?;
        if transit_could_free(budget, bytes) && transit.pause(|| for_transit.pause_within(TRANSIT_MAX)) {
            continue;
        }
        match when_full {
            WhenFull::WaitUntil(deadline) if transit.pause(|| for_release.pause_until(deadline)) => {}
            WhenFull::Exceed => return Some(Room::exceeding(budget, bytes)),
            WhenFull::Fail | WhenFull::WaitUntil(_) if is_last_search => return None,
            // Another thread may have unmapped what this one did not find, and left transit before this one read the
            // count.
            WhenFull::Fail | WhenFull::WaitUntil(_) => is_last_search = true,
        }
    }
}

/// Returns `true` if there would be room for `bytes` if each other thread in transit released one item of
/// `bytes`.
fn transit_could_free(budget: &Budget, bytes: usize) -> bool {
    let others = budget.in_transit().saturating_sub(1);
    let (used, limit) = (budget.used(), budget.limit());
    let pinned_bytes = used.bytes.saturating_sub(others.saturating_mul(bytes));
    let pinned_items = used.items.saturating_sub(others);
    others > 0 && pinned_bytes.saturating_add(bytes) <= limit.bytes && pinned_items < limit.items
}

impl RegionPool {
    /// Reserves one region of `bytes`, and evicts others for it as `policy` allows. Returns `None` if all others are in
    /// use, or accessed too often for [`RoomPolicy::AtMost`]. The caller holds nothing while this waits: see
    /// [`find_room`].
    pub(super) fn make_room(&self, transit: &mut InTransit<'_>, bytes: usize, policy: RoomPolicy) -> Option<Room> {
        let search = || self.reserve_or_evict(bytes, policy);
        find_room(&self.budget, transit, bytes, policy.when_full(), search)
    }

    /// Reserves `bytes` by steps 1 to 3. If that is not enough, other threads may use what was evicted.
    pub(super) fn reserve_or_evict(&self, bytes: usize, policy: RoomPolicy) -> Option<Reservation> {
        let mut held: Option<Reservation> = None;
        let mut failures = 0;
        loop {
            let may_take_free_room = held.is_some() || !matches!(policy, RoomPolicy::AtMost(_));
            let completed = if may_take_free_room { self.complete(&mut held, bytes) } else { None };
            if completed.is_some() {
                return completed;
            }
            let victim = match policy {
                _ if failures == FAILURES_MAX => None,
                RoomPolicy::Free => None,
                RoomPolicy::AtMost(frequency) => self.victim_at_most(frequency),
                RoomPolicy::Required(_) => self.victim(),
            };
            let Some(token) = victim else {
                if policy.is_required() && self.retry_deferred() > 0 {
                    continue;
                }
                return None;
            };
            let Some(evicted) = self.reclaim(token) else {
                failures += 1;
                continue;
            };
            self.evicted.add(1);
            match &mut held {
                Some(held) => held.absorb(evicted),
                None => held = Some(evicted),
            }
        }
    }

    /// Returns a reservation of `bytes` made of `held` and of free room, or `None` if that is not enough.
    fn complete(&self, held: &mut Option<Reservation>, bytes: usize) -> Option<Reservation> {
        let Some(mine) = held else { return self.budget.reserve(bytes) };
        // If the limit was lowered or exceeded before, the evicted room has to go.
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
}

/// Headroom: after a required mapping did not fit within the admission limit, optional mappings leave a part of the
/// budget free for a while.
impl Cache {
    /// Evicts unused regions down to the [admission limit](Self::admission_limit), and closes descriptors beyond their
    /// limit.
    pub(super) fn trim_budgets(&self) {
        reclaim::retry_orphans();
        self.regions.trim(|| self.excess());
        self.descriptors.trim();
    }

    /// Does the work of the collector that a reader cannot leave undone, after the reader has mapped: unmaps what
    /// cursors have left, and what exceeds the limits.
    #[cold]
    pub(super) fn trim_without_collector(&self) {
        if self.regions.budget.is_within() && self.descriptors.budget.is_within() {
            self.regions.retry_deferred();
        } else {
            self.trim_budgets();
        }
    }

    /// Returns the number of windows to evict to reach the admission limit. Not one more: an optional mapping would at
    /// once take a place that no required mapping needs.
    fn excess(&self) -> usize {
        let (used, limit) = (self.regions.budget.used(), self.admission_limit(self.regions.budget.limit()));
        let window = self.config.geometry.window_bytes().map_or(usize::MAX, |bytes| bytes as usize);
        used.bytes.saturating_sub(limit.bytes).div_ceil(window).max(used.items.saturating_sub(limit.items))
    }

    /// Returns the part of `limit` that optional mappings may use: all of it, unless a required mapping recently did
    /// not fit within it.
    fn admission_limit(&self, limit: Usage) -> Usage {
        if !self.regions.under_pressure() {
            return limit;
        }
        let window = self.config.geometry.window_bytes().map_or(0, |bytes| bytes as usize);
        Usage {
            bytes: limit.bytes - policy::headroom(limit.bytes, window),
            items: limit.items - policy::headroom(limit.items, 1),
        }
    }

    /// Returns `true` if half of the headroom is used, and the collector should evict. Without pressure there is no
    /// headroom; then returns `true` if the limit is exceeded.
    ///
    /// The collector takes a processor from other threads, and its barrier interrupts all readers. So it waits that
    /// long, and then evicts several regions at once.
    pub(super) fn is_room_low(&self) -> bool {
        let (used, limit) = (self.regions.budget.used(), self.regions.budget.limit());
        let admission = self.admission_limit(limit);
        let is_low = |used: usize, limit: usize, admission: usize| used > limit - (limit - admission) / 2;
        is_low(used.bytes, limit.bytes, admission.bytes) || is_low(used.items, limit.items, admission.items)
    }

    /// Returns `true` if an optional mapping of `bytes` fits without an eviction.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (used, limit) = (self.regions.budget.used(), self.admission_limit(self.regions.budget.limit()));
        used.bytes.saturating_add(bytes) <= limit.bytes && used.items < limit.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::load::tests::{Opened, WINDOW};
    use crate::mapping::Mapping;
    use crate::os;
    use crate::protocol::wake_event::Woken;

    #[test]
    fn transit_could_free_counts_what_other_threads_hold() {
        let limit = Usage { bytes: 100, items: 4 };
        // Threads in transit (this one included), bytes of each item in use, bytes asked for. The limit may be exceeded
        // already.
        for (in_transit, items, asked, could_free) in [
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
            let budget = Arc::new(Budget::new(limit));
            let _held: Vec<_> = items.iter().map(|&bytes| budget.reserve_over(bytes)).collect();
            let _threads: Vec<_> = (0..in_transit).map(|_| budget.enter_transit()).collect();
            assert_eq!(transit_could_free(&budget, asked), could_free, "{in_transit} in transit, {items:?} in use");
        }
    }

    #[test]
    fn load_over_a_lowered_limit_gives_up_the_evicted_room() {
        let opened = Opened::new(4, 5 * WINDOW);
        let cache = &opened.cache;
        (0..4).for_each(|window| drop(cache.map_window(&opened.file, window, WINDOW)));
        let lowered = Usage { bytes: 2 * WINDOW as usize, items: 2 };
        cache.regions.budget.set_limit(lowered);
        drop(cache.map_window(&opened.file, 4, WINDOW));
        assert_eq!((cache.regions.budget.used(), cache.stats().overcommits), (lowered, 0));
    }

    #[test]
    fn load_of_a_short_window_keeps_no_room_of_a_longer_one() {
        let opened = Opened::new(1, WINDOW + 1);
        drop(opened.cache.map_window(&opened.file, 0, WINDOW));
        drop(opened.cache.map_window(&opened.file, 1, 1));
        assert_eq!(
            opened.cache.regions.budget.used(),
            Usage { bytes: Mapping::budget_bytes(0, 1, os::page_size()), items: 1 }
        );
    }

    /// Another thread may release room after the search and leave transit before the look at the threads in transit.
    #[test]
    fn find_room_searches_once_more_after_no_thread_is_in_transit() {
        for when_full in [WhenFull::Fail, WhenFull::from_now(Overcommit::Wait(Duration::ZERO))] {
            let budget = Arc::new(Budget::new(Usage { bytes: 0, items: 1 }));
            let mut released = budget.reserve(0);
            let search = || {
                budget.reserve(0).or_else(|| {
                    released = None;
                    None
                })
            };
            let room = find_room(&budget, &mut budget.enter_transit(), 0, Some(when_full), search);
            assert!(room.is_some_and(|room| !room.over), "{when_full:?}");
        }
    }

    #[test]
    fn find_room_waits_for_room_in_transit() {
        let budget = Arc::new(Budget::new(Usage { bytes: 0, items: 1 }));
        let mut held = Some((budget.enter_transit(), budget.reserve(0)));
        let mut searches = 0;
        let search = || {
            searches += 1;
            if searches == 5 {
                held = None;
            }
            budget.reserve(0)
        };
        let room = find_room(&budget, &mut budget.enter_transit(), 0, Some(WhenFull::Fail), search);
        assert!(room.is_some(), "after {searches} searches");
    }

    /// Each of two waiting threads would otherwise take the other's room for room in transit.
    #[test]
    fn waiting_thread_is_not_in_transit() {
        for others in [0, 1] {
            let budget = &Arc::new(Budget::new(Usage { bytes: 0, items: 1 }));
            let _reserved = budget.reserve(0);
            let _others: Vec<_> = (0..others).map(|_| budget.enter_transit()).collect();
            // The wait for a thread in transit, or the configured wait.
            let when_full = if others > 0 { WhenFull::Fail } else { WhenFull::from_now(Overcommit::Wait(TRANSIT_MAX)) };
            let is_seen_waiting = || {
                let mut transit = budget.enter_transit();
                std::thread::scope(|scope| {
                    let waiting = scope.spawn(move || {
                        let room = find_room(budget, &mut transit, 0, Some(when_full), || None);
                        (room.is_none(), transit)
                    });
                    let mut is_seen = false;
                    while !waiting.is_finished() {
                        is_seen |= budget.in_transit() == others;
                    }
                    assert!(waiting.join().unwrap().0);
                    is_seen
                })
            };
            // On a busy machine, this thread may look only after the wait.
            assert!((0..50).any(|_| is_seen_waiting()), "beside {others} in transit");
        }
    }

    #[test]
    fn collector_is_woken_by_the_first_file_and_by_low_room() {
        let opened = Opened::new(16, 17 * WINDOW);
        let is_woken = || opened.cache.wake_event.sleep(Some(Duration::ZERO)) == Woken::Called;
        assert!(is_woken() && !is_woken());
        drop(opened.cache.map_window(&opened.file, 0, WINDOW));
        assert!(!is_woken());
        (1..17).for_each(|window| drop(opened.cache.map_window(&opened.file, window, WINDOW)));
        assert!(is_woken());
    }

    #[test]
    fn has_room_counts_regions_and_bytes() {
        let opened = Opened::new(8, 2 * WINDOW);
        let (cache, window) = (&opened.cache, WINDOW as usize);
        drop(cache.map_window(&opened.file, 0, WINDOW));
        for (bytes, items, has_room) in [(2, 2, true), (1, 2, false), (2, 1, false)] {
            cache.regions.budget.set_limit(Usage { bytes: bytes * window, items });
            assert_eq!(cache.has_room(window), has_room, "{bytes} windows, {items} regions");
        }
    }
}
