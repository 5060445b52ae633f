//! Slots and the memory that they stand in: the end of a file, and what has changed about it.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use super::world::{File, Region, World, load, load_or_take, look, map, read, unmap};
use crate::protocol::slot::{Drain, Phase, Slot};

fn drain(file: &File) {
    if let Drain::Owned(token) = file.slot().drain() {
        unmap(token);
    }
}

/// Rule 5. Two clients and the last handle, which drains: whoever is last unmaps, and with the mapping goes the file. So
/// nobody touches the slot after its own subtraction, or it would touch what is freed.
pub fn release_never_touches_freed_slot() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        let client = load(&file, &world).expect("a vacant slot");
        let clients = [client.clone(), client].map(|client| thread::spawn(move || read(&client)));
        drain(&file);
        drop(file);
        clients.into_iter().for_each(|client| client.join().expect("a thread that ends"));
        world.assert_all_went();
    });
}

/// Rule 5. A client alone, without any handle, keeps its slot; a drainer that holds the file comes in between.
pub fn mapped_region_keeps_its_file() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        let client = load(&file, &world).expect("a vacant slot");
        let drainer = thread::spawn(move || drain(&file));
        let clone = client.clone();
        read(&client);
        drop(client);
        read(&clone);
        drop(clone);
        drainer.join().expect("a thread that ends");
        world.assert_all_went();
    });
}

/// Rule 6. An evictor walks the ring while the file goes: what it finds there is not freed before it has unpinned.
pub fn evictor_against_drop_of_file() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("a vacant slot"));
        let evictor = evictor(&world, 0);
        drain(&file);
        drop(file);
        evictor.join().expect("a thread that ends");
        world.assert_all_went();
    });
}

/// Rule 6. Two evictors, and a file without handles: the winner ends it, while the other may be looking at its slot.
pub fn two_evictors_of_file_without_handles() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("a vacant slot"));
        drop(file);
        let evictors = [evictor(&world, 0), evictor(&world, 1)];
        evictors.into_iter().for_each(|evictor| evictor.join().expect("a thread that ends"));
        world.assert_all_went();
    });
}

/// Rule 6. An evictor that puts back what it won, while another wins it and ends the file.
pub fn restored_slot_may_be_freed_at_once() {
    explore(|| {
        let world = Arc::new(World::default());
        let file = File::new(&world);
        drop(load(&file, &world).expect("a vacant slot"));
        let hesitant = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let guard = world.epoch.pin(0);
                let token = world.ring.advance(&guard).and_then(Slot::retire);
                let still_owned = token.and_then(|token| {
                    look(&token);
                    token.restore().err()
                });
                drop(guard);
                still_owned.into_iter().for_each(unmap);
            }
        });
        drain(&file);
        drop(file);
        hesitant.join().expect("a thread that ends");
        world.assert_all_went();
    });
}

/// Looks at one seat of the ring, and unmaps what it wins there, unpinned.
fn evictor(world: &Arc<World>, thread: usize) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        let guard = world.epoch.pin(thread);
        let token = world.ring.advance(&guard).and_then(Slot::retire);
        drop(guard);
        token.into_iter().for_each(unmap);
    })
}

/// What a reader does to the slot before it loads, while another publishes a new length.
type Before = fn(&Slot<Region>);

/// Rule 2. Who publishes a new length drains the slot afterwards; who loads reads the length once the slot is its own. So
/// what stays mapped has the new length, or it drains.
fn a_new_length(is_mapped: bool, before: Before) {
    explore(move || {
        let (world, slot) = (Arc::new(World::default()), Arc::new(Slot::default()));
        // Relaxed: what orders it is the slot's word alone.
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
        let seen = reader.join().expect("a thread that ends");
        let now = slot.snapshot();
        if now.phase() == Phase::Mapped && !now.is_draining() {
            assert_eq!(seen, Some(2), "old length stayed mapped");
        }
        slot.retire().into_iter().for_each(unmap);
        world.assert_all_went();
    });
}

/// Rule 2. A new length against a load.
pub fn new_length_against_load() {
    a_new_length(false, |_| ());
}

/// Rule 2. A new length against one who evicts and loads again.
pub fn new_length_against_retire_and_load() {
    a_new_length(true, |slot| slot.retire().into_iter().for_each(unmap));
}

/// Rule 2. A new length against one who gives up loading, and loads.
pub fn new_length_against_abandoned_load() {
    a_new_length(false, |slot| drop(slot.begin_load()));
}
