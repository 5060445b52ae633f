//! The operations on one slot, two and three of them at a time.

use loom::sync::Arc;
use loom::thread;

use super::world::{Region, World, inspect, load_or_take, map, read, unmap};
use super::{explore, explore_to};
use crate::protocol::slot::{Drain, Phase, Slot};

type Operation = fn(&Slot<Region>, &Arc<World>);

fn model(run: impl Fn(&Arc<Slot<Region>>, &Arc<World>) + Send + Sync + 'static) {
    model_to(3, run);
}

fn model_to(preemptions: usize, run: impl Fn(&Arc<Slot<Region>>, &Arc<World>) + Send + Sync + 'static) {
    explore_to(preemptions, move || {
        let (slot, world) = (Arc::new(Slot::default()), Arc::new(World::default()));
        run(&slot, &world);
        // All clients are released, so a drain must unmap what is still mapped.
        drain(&slot, &world);
        world.assert_all_unmapped();
        assert_eq!(slot.snapshot().clients(), 0, "clients still counted");
    });
}

fn spawn(
    slot: &Arc<Slot<Region>>,
    world: &Arc<World>,
    run: impl FnOnce(&Slot<Region>, &Arc<World>) + 'static,
) -> thread::JoinHandle<()> {
    let (slot, world) = (Arc::clone(slot), Arc::clone(world));
    thread::spawn(move || run(&slot, &world))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("a model's thread does not panic"));
}

fn take(slot: &Slot<Region>, _: &Arc<World>) {
    slot.take().iter().for_each(read);
}

/// Joins the slot's existing clients and reads the region.
fn join_clients(slot: &Slot<Region>, _: &Arc<World>) {
    slot.join().iter().for_each(read);
}

fn load(slot: &Slot<Region>, world: &Arc<World>) {
    load_or_take(slot, world).iter().for_each(read);
}

fn retire(slot: &Slot<Region>, _: &Arc<World>) {
    slot.retire().into_iter().for_each(unmap);
}

/// Retires the slot, inspects the region, and restores it, or unmaps it if the slot has been drained.
fn retire_and_restore(slot: &Slot<Region>, _: &Arc<World>) {
    let Some(token) = slot.retire() else { return };
    inspect(&token);
    if let Err(token) = token.restore() {
        unmap(token);
    }
}

fn drain(slot: &Slot<Region>, _: &Arc<World>) {
    if let Drain::Owned(token) = slot.drain() {
        unmap(token);
    }
}

/// Rules 1 and 2. Two threads load a vacant slot that was drained before: one maps, and the other takes the published
/// region or gets none. The load clears the drain.
pub fn concurrent_loads_map_once() {
    model(|slot, world| {
        drain(slot, world);
        let other = spawn(slot, world, load);
        load(slot, world);
        join([other]);
        assert_eq!(world.maps(), 1, "expected one load");
        assert!(slot.take().is_ok(), "a loaded slot cannot be taken");
    });
}

/// Rule 1. Three threads load a vacant slot: one maps. Two preemptions.
pub fn three_concurrent_loads_map_once() {
    model_to(2, |slot, world| {
        let others = [spawn(slot, world, load), spawn(slot, world, load)];
        load(slot, world);
        join(others);
        assert_eq!(world.maps(), 1);
    });
}

/// Rule 1. A loader that abandons its load leaves the slot vacant for the next loader.
pub fn abandoned_load_leaves_slot_vacant() {
    model(|slot, world| {
        let other = spawn(slot, world, |slot, _| drop(slot.begin_load()));
        load(slot, world);
        join([other]);
        assert_ne!(slot.snapshot().phase(), Phase::Loading, "slot still in LOADING");
        load(slot, world);
        assert_eq!(world.maps(), 1);
    });
}

/// Rules 1 and 3. A loader writes the memory and the payload cell after the loader that abandoned the slot before it.
pub fn load_after_abandoned_load_is_ordered() {
    model(|slot, world| {
        let give_up = |slot: &Slot<Region>, world: &Arc<World>| {
            if let Ok(loading) = slot.begin_load() {
                world.memory.map();
                world.memory.unmap();
                drop(loading);
            }
        };
        let other = spawn(slot, world, give_up);
        load(slot, world);
        join([other]);
    });
}

/// Rule 3. Two readers take the slot while an evictor retires it: no reader reads unmapped memory, and the region is
/// unmapped once.
pub fn take_and_release_against_retire() {
    model(|slot, world| {
        load(slot, world);
        let readers = [spawn(slot, world, take), spawn(slot, world, take)];
        retire(slot, world);
        join(readers);
    });
}

/// Rules 1 and 3. A region is evicted and loaded again while a reader takes it: the old mapping is unmapped before the
/// new map.
pub fn reload_after_retire_against_take() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, retire), spawn(slot, world, take)];
        load(slot, world);
        join(others);
    });
}

/// Rule 3. Two evictors and a reader: at most one evictor wins, and the winner drops the region once.
pub fn two_evictors_retire_once() {
    model(|slot, world| {
        load(slot, world);
        let evictors = [spawn(slot, world, retire), spawn(slot, world, retire)];
        take(slot, world);
        join(evictors);
        assert_eq!(world.mapped(), usize::from(slot.snapshot().phase() == Phase::Mapped));
    });
}

/// Rule 3. A client is cloned and released, also while the slot drains: the count stays right.
pub fn clone_against_drain() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("the slot is vacant");
        let cloner = spawn(slot, world, move |_, _| {
            let clone = client.clone();
            drop(client);
            read(&clone);
        });
        let others = spawn(slot, world, take);
        drain(slot, world);
        join([cloner, others]);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 3. A client that joins the loader reads the payload that the loader published.
pub fn join_against_load() {
    model(|slot, world| {
        let other = spawn(slot, world, join_clients);
        load(slot, world);
        join([other]);
    });
}

/// The last two releases against a drain: exactly one of the three threads unmaps.
pub fn last_release_against_drain() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("the slot is vacant");
        let clone = client.clone();
        let clients = [client, clone].map(|client| spawn(slot, world, move |_, _| read(&client)));
        drain(slot, world);
        join(clients);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 2. A drain during a load is kept: no new client gets in, and the loader unmaps.
pub fn drain_against_load() {
    model(|slot, world| {
        let loader = spawn(slot, world, load);
        let drained = slot.drain();
        let was_held = matches!(drained, Drain::Held);
        if let Drain::Owned(token) = drained {
            unmap(token);
        }
        join([loader]);
        assert!(!was_held || world.mapped() == 0, "drained load stayed mapped");
    });
}

/// Rule 2. A take that a draining slot refuses leaves no trace in its word, so the last client finds that it owns the
/// unmap.
pub fn refused_take_leaves_word_unchanged() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("the slot is vacant");
        assert!(matches!(slot.drain(), Drain::Held));
        let other = spawn(slot, world, |slot, _| assert!(slot.take().is_err(), "took a draining slot"));
        drop(client);
        join([other]);
        assert_eq!(world.mapped(), 0, "region not unmapped");
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
    });
}

/// Rule 2. An evictor restores a retired slot while it is drained: either the drain owns the restored region, or the
/// evictor still owns it and unmaps.
pub fn restore_against_drain() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, drain), spawn(slot, world, take)];
        retire_and_restore(slot, world);
        join(others);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 3. The reads of an owner that restores a slot come before the next owner's unmap.
pub fn restore_against_retire() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, retire), spawn(slot, world, take)];
        retire_and_restore(slot, world);
        join(others);
    });
}

/// The last client of a detached region unmaps it, and frees its slot.
pub fn detached_region_is_unmapped_by_its_last_client() {
    explore(|| {
        let world = Arc::new(World::default());
        let client = Slot::detached(map(&world));
        let clients = [client.clone(), client.clone()].map(|client| thread::spawn(move || read(&client)));
        read(&client);
        drop(client);
        join(clients);
        world.assert_all_unmapped();
    });
}

const OPERATIONS: [Operation; 6] = [take, join_clients, load, retire, retire_and_restore, drain];

/// Explores each pair of operations on a mapped slot, beside `third` on this thread. If `is_held`, this thread also has
/// a client from before, which it releases first.
///
/// The bound is two preemptions, one fewer than elsewhere, because of the number of pairs.
fn pairs(is_held: bool, third: Operation) {
    for (at, one) in OPERATIONS.into_iter().enumerate() {
        for other in OPERATIONS.into_iter().skip(at) {
            model_to(2, move |slot, world| {
                let client = load_or_take(slot, world).filter(|_| is_held);
                let others = [spawn(slot, world, one), spawn(slot, world, other)];
                client.iter().for_each(read);
                drop(client);
                third(slot, world);
                join(others);
            });
        }
    }
}

/// Rules 1 to 3. All pairs of operations, beside a reader. Two preemptions.
pub fn all_operation_pairs_beside_reader() {
    pairs(false, take);
}

/// Rules 1 to 3. All pairs of operations, beside an evictor. Two preemptions.
pub fn all_operation_pairs_beside_evictor() {
    pairs(false, retire);
}

/// Rules 1 to 3. All pairs of operations, while an earlier client is released. Two preemptions.
pub fn all_operation_pairs_beside_client() {
    pairs(true, |_, _| ());
}
