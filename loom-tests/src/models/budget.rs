//! Reservations by several threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc as Shared;
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

/// What is mapped, beside what the budget says. Not loom's, so exact at every step.
#[derive(Debug, Default)]
struct Mapped(Count);

impl Mapped {
    /// Maps what is reserved, gives the others a turn, and unmaps.
    fn map_and_unmap(&self, reservation: &Reservation, budget: &Budget) {
        let bytes = reservation.bytes();
        let before = self.0.fetch_add(bytes, Relaxed);
        assert!(before + bytes <= 2, "mapped more than the limit");
        assert!(budget.used().bytes >= bytes, "mapped bytes not reserved");
        self.0.fetch_sub(bytes, Relaxed);
    }
}

/// Rule 4. Two threads reserve, map, unmap and give back: never more than the limit, and nothing is lost.
pub fn two_threads_stay_within_limit() {
    never_above(3, &[1]);
}

/// Rule 4. The same with three threads, and one preemption.
pub fn three_threads_stay_within_limit() {
    never_above(1, &[1, 2]);
}

fn never_above(preemptions: usize, others: &'static [usize]) {
    explore_to(preemptions, || {
        let (budget, mapped) = (budget(2, 2), Arc::new(Mapped::default()));
        let run = |budget: &Arc<Budget>, mapped: &Mapped, bytes| {
            if let Some(mine) = budget.reserve(bytes) {
                mapped.map_and_unmap(&mine, budget);
            }
        };
        let others = others.iter().map(|&bytes| {
            let mapped = Arc::clone(&mapped);
            spawn(&budget, move |budget| run(budget, &mapped, bytes))
        });
        let others: Vec<_> = others.collect();
        run(&budget, &mapped, 2);
        others.into_iter().for_each(|other| other.join().expect("a thread that ends"));
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        let peak = budget.peak();
        assert!(peak.bytes <= 2 && peak.items <= 2, "{peak:?}");
    });
}

/// Rule 4. A victim's reservation is taken over, and its bytes are at no moment a third's: who already holds them
/// reserves again, a third tries to. Two preemptions.
pub fn absorbed_bytes_stay_reserved() {
    explore_to(2, || {
        let (budget, mapped) = (budget(2, 3), Arc::new(Mapped::default()));
        let third = {
            let mapped = Arc::clone(&mapped);
            spawn(&budget, move |budget| {
                if let Some(mine) = budget.reserve(1) {
                    mapped.map_and_unmap(&mine, budget);
                }
            })
        };
        if let (Some(mut mine), Some(victim)) = (budget.reserve(1), budget.reserve(1)) {
            mine.absorb(victim);
            assert_eq!((mine.bytes(), budget.used().bytes), (2, 2), "absorbed bytes not reserved");
            mapped.map_and_unmap(&mine, &budget);
            mine.shrink_to(1);
            mapped.map_and_unmap(&mine, &budget);
            if mine.try_grow_to(2) {
                mapped.map_and_unmap(&mine, &budget);
            }
        }
        third.join().expect("a thread that ends");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. Who gets what another gave back maps after that one has unmapped.
pub fn released_bytes_are_unmapped() {
    explore(|| {
        let (budget, memory) = (budget(1, 1), Arc::new(Memory::default()));
        let run = |budget: &Arc<Budget>, memory: &Memory| {
            let mine = budget.reserve(1);
            if mine.is_some() {
                memory.map();
                memory.unmap();
            }
        };
        let other = {
            let memory = Arc::clone(&memory);
            spawn(&budget, move |budget| run(budget, &memory))
        };
        run(&budget, &memory);
        other.join().expect("a thread that ends");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. The same for who goes above the limit, and did not have to: the peak says that nobody else was there.
pub fn released_bytes_are_unmapped_before_overcommit() {
    explore(|| {
        let (budget, memory) = (budget(1, 1), Arc::new(Memory::default()));
        let other = {
            let memory = Arc::clone(&memory);
            spawn(&budget, move |budget| {
                let mine = budget.reserve(1);
                if mine.is_some() {
                    memory.map();
                    memory.unmap();
                }
            })
        };
        let mine = budget.reserve_over(1);
        if budget.peak().bytes == 1 {
            memory.map();
            memory.unmap();
        }
        drop(mine);
        other.join().expect("a thread that ends");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// A limit that is lowered meanwhile is kept by whoever reserves after.
pub fn lowered_limit_is_kept() {
    explore(|| {
        let budget = budget(4, 4);
        let other = spawn(&budget, |budget| drop(budget.reserve(3)));
        budget.set_limit(Usage { bytes: 2, items: 4 });
        assert!(budget.reserve(3).is_none(), "reserved above the limit");
        other.join().expect("a thread that ends");
        assert!(budget.reserve(2).is_some());
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Rule 4. The limit is lowered while readers take and let go: what is mapped is what is reserved, at every step, and
/// once nobody reads it can be brought below the limit.
pub fn lowered_limit_against_readers() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), Shared::new(World::default()), Shared::new(Slot::default()));
        let reserved = budget.reserve(1).expect("room");
        let mut region = map(&world);
        region.reservation = Some(reserved);
        drop(slot.begin_load().expect("a vacant slot").publish(region));

        let readers = [(); 2].map(|()| {
            let (slot, budget, world) = (Shared::clone(&slot), Arc::clone(&budget), Shared::clone(&world));
            thread::spawn(move || {
                slot.take().iter().for_each(|client| {
                    read(client);
                    assert_eq!((world.mapped(), budget.used().items), (1, 1), "mapped bytes not reserved");
                });
            })
        });
        budget.set_limit(Usage { bytes: 0, items: 0 });
        slot.retire().into_iter().for_each(unmap);
        readers.into_iter().for_each(|reader| reader.join().expect("a thread that ends"));
        assert_eq!(budget.is_within(), slot.snapshot().phase() == Phase::Vacant);
        slot.retire().into_iter().for_each(unmap);
        assert!(budget.is_within() && budget.reserve(0).is_none());
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        world.assert_all_went();
    });
}

/// Rule 4. Who gets the place of an evicted window maps after that was unmapped.
pub fn evicted_region_is_unmapped_before_its_bytes_are_reserved() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), Shared::new(World::default()), Shared::new(Slot::default()));
        let mut region = map(&world);
        region.reservation = budget.reserve(1);
        drop(slot.begin_load().expect("a vacant slot").publish(region));
        let evictor = {
            let slot = Shared::clone(&slot);
            thread::spawn(move || slot.retire().into_iter().for_each(unmap))
        };
        if let Some(mine) = budget.reserve(1) {
            assert_eq!(world.mapped(), 0, "given back before the unmap");
            world.memory.map();
            world.memory.unmap();
            drop(mine);
        }
        evictor.join().expect("a thread that ends");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
        world.assert_all_went();
    });
}

/// Who finds the budget full of what another holds in flight counts that flight, or finds what it gave back.
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
        other.join().expect("a thread that ends");
        assert_eq!(budget.used(), Usage::default(), "reservations not released");
    });
}

/// Who sees that a victim was won sees its flight too, until it has landed: so nobody calls a budget full of what is pinned
/// while bytes are only in flight.
pub fn in_transit_thread_is_counted() {
    explore(|| {
        let (budget, world, slot) = (budget(1, 1), Shared::new(World::default()), Shared::new(Slot::default()));
        drop(load_or_take(&slot, &world));
        let _only = budget.reserve(1).expect("room");
        let evictor = {
            let (slot, budget) = (Shared::clone(&slot), Arc::clone(&budget));
            thread::spawn(move || {
                let transit = budget.enter_transit();
                let token = slot.retire();
                let was_won = token.is_some();
                token.into_iter().for_each(unmap);
                drop(transit);
                was_won
            })
        };
        let before = slot.snapshot().phase();
        if budget.in_transit() == 0 && before == Phase::Retiring {
            // It was won before, so its flight had begun; none is left, so it is over.
            assert_eq!(slot.snapshot().phase(), Phase::Vacant, "transit not counted");
        }
        evictor.join().expect("a thread that ends");
        assert_eq!(budget.in_transit(), 0, "transit never ended");
        world.assert_all_went();
    });
}
