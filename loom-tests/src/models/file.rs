//! The memory of slots: a file is dropped while threads use its slot, or its length changes.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use super::world::{File, Region, World, inspect, load, load_or_take, map, read, unmap};
use crate::protocol::slot::{Drain, Phase, Slot};

fn drain(file: &File) {
    if let Drain::Owned(token) = file.slot().drain() {
        unmap(token);
    }
}

/// Rule 5. Two clients are released while the last handle drains its slot: the last of the three unmaps, which also
/// drops the file. So a release must not touch the slot after its subtraction, because the slot may already be freed.
pub fn release_never_touches_freed_slot() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        let client = load(&file, &world).expect("the slot is vacant");
        let clients = [client.clone(), client].map(|client| thread::spawn(move || read(&client)));
        drain(&file);
        drop(file);
        clients.into_iter().for_each(|client| client.join().expect("a model's thread does not panic"));
        world.assert_all_unmapped();
    });
}

/// Rule 5. A client keeps its slot while another thread drains the slot and drops the last handle of the file.
pub fn mapped_region_keeps_its_file() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        let client = load(&file, &world).expect("the slot is vacant");
        let drainer = thread::spawn(move || drain(&file));
        let clone = client.clone();
        read(&client);
        drop(client);
        read(&clone);
        drop(clone);
        drainer.join().expect("a model's thread does not panic");
        world.assert_all_unmapped();
    });
}

/// Rule 6. An evictor walks the ring while the file is dropped: a slot that it found there is not freed before it
/// unpins.
pub fn evictor_against_drop_of_file() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("the slot is vacant"));
        let evictor = evictor(&world, 0);
        drain(&file);
        drop(file);
        evictor.join().expect("a model's thread does not panic");
        world.assert_all_unmapped();
    });
}

/// Rule 6. Two evictors find the slot of a file without handles: the winner drops the file while the other may still
/// inspect the slot.
pub fn two_evictors_of_file_without_handles() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("the slot is vacant"));
        drop(file);
        let evictors = [evictor(&world, 0), evictor(&world, 1)];
        evictors.into_iter().for_each(|evictor| evictor.join().expect("a model's thread does not panic"));
        world.assert_all_unmapped();
    });
}

/// Rule 6. An evictor restores the slot that it retired, while another thread drains the slot and drops the file.
pub fn restored_slot_may_be_freed_at_once() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("the slot is vacant"));
        let restoring_evictor = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let guard = world.epoch.pin(0);
                let token = world.ring.advance(&guard).and_then(Slot::retire);
                let still_owned = token.and_then(|token| {
                    inspect(&token);
                    token.restore().err()
                });
                drop(guard);
                still_owned.into_iter().for_each(unmap);
            }
        });
        drain(&file);
        drop(file);
        restoring_evictor.join().expect("a model's thread does not panic");
        world.assert_all_unmapped();
    });
}

/// Spawns an evictor that advances the ring by one entry, pinned. If it retires the slot there, it unpins and unmaps.
fn evictor(world: &Arc<World>, thread: usize) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        let guard = world.epoch.pin(thread);
        let token = world.ring.advance(&guard).and_then(Slot::retire);
        drop(guard);
        token.into_iter().for_each(unmap);
    })
}

/// The reader's operation on the slot before it loads.
type Before = fn(&Slot<Region>);

/// Rule 2. One thread publishes a new length and then drains the slot. Another thread loads the slot, and reads the
/// length after its `begin_load`. So a region that stays mapped has the new length, or its slot drains.
fn new_length(is_mapped: bool, before: Before) {
    explore(move || {
        let (world, slot) = (Arc::new(World::default()), Arc::new(Slot::default()));
        // Accessed Relaxed throughout: the slot's word alone must order it.
        let len = Arc::new(AtomicU64::new(1));
        if is_mapped {
            drop(load_or_take(&slot, &world));
        }
        let reader = thread::spawn({
            let (world, slot, len) = (Arc::clone(&world), Arc::clone(&slot), Arc::clone(&len));
            move || {
                before(&slot);
                let loading = slot.begin_load().ok()?;
                let seen = len.load(Relaxed);
                drop(loading.publish(map(&world)));
                Some(seen)
            }
        });
        len.store(2, Relaxed);
        if let Drain::Owned(token) = slot.drain() {
            unmap(token);
        }
        let seen = reader.join().expect("a model's thread does not panic");
        let now = slot.snapshot();
        if now.phase() == Phase::Mapped && !now.is_draining() {
            assert_eq!(seen, Some(2), "old length stayed mapped");
        }
        slot.retire().into_iter().for_each(unmap);
        world.assert_all_unmapped();
    });
}

/// Rule 2. A new length is published during a load.
pub fn new_length_against_load() {
    new_length(false, |_| ());
}

/// Rule 2. A new length is published while another thread evicts the region and loads it again.
pub fn new_length_against_retire_and_load() {
    new_length(true, |slot| slot.retire().into_iter().for_each(unmap));
}

/// Rule 2. A new length is published while another thread abandons a load, and then loads.
pub fn new_length_against_abandoned_load() {
    new_length(false, |slot| drop(slot.begin_load()));
}
