//! Reservations of bytes and items by several threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as StdAtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc as LoomArc;
use loom::thread;

use super::world::{Memory, World, load_or_take, map, read, unmap};
use super::{explore, explore_to};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::protocol::slot::{Phase, Slot};

fn budget(bytes: usize, items: usize) -> Arc<Budget> {
    Arc::new(Budget::new(Usage { bytes, items }))
}

fn spawn<T: 'static>(budget: &Arc<Budget>, run: impl FnOnce(&Arc<Budget>) -> T + 'static) -> thread::JoinHandle<T> {
    let budget = Arc::clone(budget);
    thread::spawn(move || run(&budget))
}

/// The number of mapped bytes, counted apart from the budget. A `std` atomic, so the count is exact at every step.
#[derive(Debug, Default)]
struct Mapped(StdAtomicUsize);

impl Mapped {
    /// Maps the reserved bytes, reads the budget, where loom may switch threads, and unmaps.
    fn map_and_unmap(&self, reservation: &Reservation, budget: &Budget) {
        let bytes = reservation.bytes();
        let before = self.0.fetch_add(bytes, Relaxed);
        assert!(before + bytes <= 2, "mapped more than the limit");
        assert!(budget.used().bytes >= bytes, "mapped bytes not reserved");
        self.0.fetch_sub(bytes, Relaxed);
    }
}

/// Rule 4. Two threads reserve, map, unmap and release: no more than the limit is mapped, and all bytes are released.
pub fn two_threads_stay_within_limit() {
    stay_within_limit(3, &[1]);
}

/// Rule 4. Three threads reserve, map, unmap and release: no more than the limit is mapped, and all bytes are released.
/// One preemption.
pub fn three_threads_stay_within_limit() {
    stay_within_limit(1, &[1, 2]);
}

/// Lets this thread reserve two bytes of a limit of two, and one more thread reserve each number of bytes in `others`.
fn stay_within_limit(preemptions: usize, others: &'static [usize]) {
    explore_to(preemptions, || {
        let (budget, mapped) = (budget(2, 2), Arc::new(Mapped::default()));
        let run = |budget: &Arc<Budget>, mapped: &Mapped, bytes| {
            if let Some(reservation) = budget.reserve(bytes) {
                mapped.map_and_unmap(&reservation, budget);
            }
        };
        let others = others.iter().map(|&bytes| {
            let mapped = Arc::clone(&mapped);
            spawn(&budget, move |budget| run(budget, &mapped, bytes))
        });
        let others: Vec<_> = others.collect();
        run(&budget, &mapped, 2);
        others.into_iter().for_each(|other| other.join().expect("a model's thread does not panic"));
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        let peak = budget.peak();
        assert!(peak.bytes <= 2 && peak.items <= 2, "{peak:?}");
    });
}

/// Rule 4. A reservation absorbs a victim's reservation while another thread tries to reserve: that thread can never
/// reserve the absorbed bytes. The reservation then shrinks and grows. Two preemptions.
pub fn absorbed_bytes_stay_reserved() {
    explore_to(2, || {
        let (budget, mapped) = (budget(2, 3), Arc::new(Mapped::default()));
        let third = {
            let mapped = Arc::clone(&mapped);
            spawn(&budget, move |budget| {
                if let Some(reservation) = budget.reserve(1) {
                    mapped.map_and_unmap(&reservation, budget);
                }
            })
        };
        if let (Some(mut reservation), Some(victim)) = (budget.reserve(1), budget.reserve(1)) {
            reservation.absorb(victim);
            assert_eq!((reservation.bytes(), budget.used().bytes), (2, 2), "absorbed bytes not reserved");
            mapped.map_and_unmap(&reservation, &budget);
            reservation.shrink_to(1);
            mapped.map_and_unmap(&reservation, &budget);
            if reservation.try_grow_to(2) {
                mapped.map_and_unmap(&reservation, &budget);
            }
        }
        third.join().expect("a model's thread does not panic");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. A thread that reserves bytes which another thread released maps after that thread has unmapped.
pub fn released_bytes_are_unmapped() {
    explore(|| {
        let (budget, memory) = (budget(1, 1), Arc::new(Memory::default()));
        let run = |budget: &Arc<Budget>, memory: &Memory| {
            let reservation = budget.reserve(1);
            if reservation.is_some() {
                memory.map();
                memory.unmap();
            }
        };
        let other = {
            let memory = Arc::clone(&memory);
            spawn(&budget, move |budget| run(budget, &memory))
        };
        run(&budget, &memory);
        other.join().expect("a model's thread does not panic");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. A thread that calls `reserve_over`, and did not have to exceed the limit, maps after the other thread has
/// unmapped. The peak shows that the limit was not exceeded.
pub fn released_bytes_are_unmapped_before_overcommit() {
    explore(|| {
        let (budget, memory) = (budget(1, 1), Arc::new(Memory::default()));
        let other = {
            let memory = Arc::clone(&memory);
            spawn(&budget, move |budget| {
                let reservation = budget.reserve(1);
                if reservation.is_some() {
                    memory.map();
                    memory.unmap();
                }
            })
        };
        let reservation = budget.reserve_over(1);
        if budget.peak().bytes == 1 {
            memory.map();
            memory.unmap();
        }
        drop(reservation);
        other.join().expect("a model's thread does not panic");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// A lowered limit holds for each later reservation, also if another thread reserves concurrently.
pub fn lowered_limit_is_kept() {
    explore(|| {
        let budget = budget(4, 4);
        let other = spawn(&budget, |budget| drop(budget.reserve(3)));
        budget.set_limit(Usage { bytes: 2, items: 4 });
        assert!(budget.reserve(3).is_none(), "reserved above the limit");
        other.join().expect("a model's thread does not panic");
        assert!(budget.reserve(2).is_some());
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. The limit is lowered while readers take and release clients: mapped bytes are reserved at every step. Once
/// no client is left, an eviction brings the budget within the limit.
pub fn lowered_limit_against_readers() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), LoomArc::new(World::default()), LoomArc::new(Slot::default()));
        let reserved = budget.reserve(1).expect("the budget has room");
        let mut region = map(&world);
        region.reservation = Some(reserved);
        drop(slot.begin_load().expect("the slot is vacant").publish(region));

        let readers = [(); 2].map(|()| {
            let (slot, budget, world) = (LoomArc::clone(&slot), Arc::clone(&budget), LoomArc::clone(&world));
            thread::spawn(move || {
                slot.take().iter().for_each(|client| {
                    read(client);
                    assert_eq!((world.mapped(), budget.used().items), (1, 1), "mapped bytes not reserved");
                });
            })
        });
        budget.set_limit(Usage { bytes: 0, items: 0 });
        slot.retire().into_iter().for_each(unmap);
        readers.into_iter().for_each(|reader| reader.join().expect("a model's thread does not panic"));
        assert_eq!(budget.is_within(), slot.snapshot().phase() == Phase::Vacant);
        slot.retire().into_iter().for_each(unmap);
        assert!(budget.is_within() && budget.reserve(0).is_none());
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        world.assert_all_unmapped();
    });
}

/// Rule 4. A thread that reserves the bytes of an evicted region maps after the evictor has unmapped it.
pub fn evicted_region_is_unmapped_before_its_bytes_are_reserved() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), LoomArc::new(World::default()), LoomArc::new(Slot::default()));
        let mut region = map(&world);
        region.reservation = budget.reserve(1);
        drop(slot.begin_load().expect("the slot is vacant").publish(region));
        let evictor = {
            let slot = LoomArc::clone(&slot);
            thread::spawn(move || slot.retire().into_iter().for_each(unmap))
        };
        if let Some(reservation) = budget.reserve(1) {
            assert_eq!(world.mapped(), 0, "bytes released before the unmap");
            world.memory.map();
            world.memory.unmap();
            drop(reservation);
        }
        evictor.join().expect("a model's thread does not panic");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        world.assert_all_unmapped();
    });
}

/// A thread that finds the budget full of bytes reserved in transit counts the transit, or can reserve the released
/// bytes.
pub fn in_transit_reservation_is_counted() {
    explore(|| {
        let budget = budget(1, 1);
        let other = spawn(&budget, |budget| {
            let transit = budget.enter_transit();
            drop(budget.reserve(1));
            drop(transit);
        });
        if budget.reserve(1).is_none() && budget.in_transit() == 0 {
            assert!(budget.reserve(1).is_some(), "transit not counted");
        }
        other.join().expect("a model's thread does not panic");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// A thread that finds a slot retired counts the evictor in transit until the eviction is complete. So no thread takes
/// a budget for full of pinned bytes while bytes are only in transit.
pub fn in_transit_thread_is_counted() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), LoomArc::new(World::default()), LoomArc::new(Slot::default()));
        drop(load_or_take(&slot, &world));
        let _only = budget.reserve(1).expect("the budget has room");
        let evictor = {
            let (slot, budget) = (LoomArc::clone(&slot), Arc::clone(&budget));
            thread::spawn(move || {
                let transit = budget.enter_transit();
                let token = slot.retire();
                let is_retired = token.is_some();
                token.into_iter().for_each(unmap);
                drop(transit);
                is_retired
            })
        };
        let before = slot.snapshot().phase();
        if budget.in_transit() == 0 && before == Phase::Retiring {
            // The evictor retired the slot in transit. No thread is in transit now, so the eviction is complete.
            assert_eq!(slot.snapshot().phase(), Phase::Vacant, "transit not counted");
        }
        evictor.join().expect("a model's thread does not panic");
        assert_eq!(budget.in_transit(), 0, "transit never ended");
        world.assert_all_unmapped();
    });
}
