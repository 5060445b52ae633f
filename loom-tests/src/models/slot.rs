//! The life of a slot's payload, in pairs and threes of verbs.

use loom::sync::Arc;
use loom::thread;

use super::world::{Region, World, load_or_take, look, map, read, unmap};
use super::{explore, explore_to};
use crate::protocol::slot::{Drain, Phase, Slot};

type Verb = fn(&Slot<Region>, &Arc<World>);

fn model(run: impl Fn(&Arc<Slot<Region>>, &Arc<World>) + Send + Sync + 'static) {
    model_to(3, run);
}

fn model_to(preemptions: usize, run: impl Fn(&Arc<Slot<Region>>, &Arc<World>) + Send + Sync + 'static) {
    explore_to(preemptions, move || {
        let (slot, world) = (Arc::new(Slot::default()), Arc::new(World::default()));
        run(&slot, &world);
        // Whatever happened: what is left can be had by one who drains, and then nothing is mapped.
        drain(&slot, &world);
        world.assert_all_went();
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
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that ends"));
}

fn take(slot: &Slot<Region>, _: &Arc<World>) {
    slot.take().iter().for_each(read);
}

/// One more beside those who are clients.
fn join_clients(slot: &Slot<Region>, _: &Arc<World>) {
    slot.join().iter().for_each(read);
}

fn load(slot: &Slot<Region>, world: &Arc<World>) {
    load_or_take(slot, world).iter().for_each(read);
}

fn retire(slot: &Slot<Region>, _: &Arc<World>) {
    slot.retire().into_iter().for_each(unmap);
}

/// Wins it, looks at it, and puts it back unless it was drained meanwhile.
fn reconsider(slot: &Slot<Region>, _: &Arc<World>) {
    let Some(token) = slot.retire() else { return };
    look(&token);
    if let Err(token) = token.restore() {
        unmap(token);
    }
}

fn drain(slot: &Slot<Region>, _: &Arc<World>) {
    if let Drain::Owned(token) = slot.drain() {
        unmap(token);
    }
}

/// Rules 1 and 2. Two want a cold window that was drained before: one maps, the other takes what it published, or nothing;
/// and the drain is over.
pub fn concurrent_loads_map_once() {
    model(|slot, world| {
        drain(slot, world);
        let other = spawn(slot, world, load);
        load(slot, world);
        join([other]);
        assert_eq!(world.maps(), 1, "expected one load");
        assert!(slot.take().is_ok(), "loaded, and nobody can take it");
    });
}

/// Rule 1. The same with three, and two preemptions.
pub fn three_concurrent_loads_map_once() {
    model_to(2, |slot, world| {
        let others = [spawn(slot, world, load), spawn(slot, world, load)];
        load(slot, world);
        join(others);
        assert_eq!(world.maps(), 1);
    });
}

/// Rule 1. A loader that gives up leaves the slot to the next.
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

/// Rules 1 and 3. Who loads after another gave up writes the cell after that one did.
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

/// Rule 3. Two readers and an evictor: nobody reads what is unmapped, and it is unmapped once.
pub fn take_and_release_against_retire() {
    model(|slot, world| {
        load(slot, world);
        let readers = [spawn(slot, world, take), spawn(slot, world, take)];
        retire(slot, world);
        join(readers);
    });
}

/// Rules 1 and 3. Evicted and loaded anew while a reader takes: the old mapping is unmapped before the new one is there.
pub fn reload_after_retire_against_take() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, retire), spawn(slot, world, take)];
        load(slot, world);
        join(others);
    });
}

/// Rule 3. Two evictors and a reader: one of them wins, or none; it is dropped once, by the winner.
pub fn two_evictors_retire_once() {
    model(|slot, world| {
        load(slot, world);
        let evictors = [spawn(slot, world, retire), spawn(slot, world, retire)];
        take(slot, world);
        join(evictors);
        assert_eq!(world.mapped(), usize::from(slot.snapshot().phase() == Phase::Mapped));
    });
}

/// Rule 3. A client makes another one, also while the slot drains, and lets go first: the count stays right.
pub fn clone_against_drain() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("a vacant slot");
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

/// Rule 3. Who joins the loader reads what that one published.
pub fn join_against_load() {
    model(|slot, world| {
        let other = spawn(slot, world, join_clients);
        load(slot, world);
        join([other]);
    });
}

/// The last releases against the drain: exactly one of the three unmaps, whoever is last.
pub fn last_release_against_drain() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("a vacant slot");
        let clone = client.clone();
        let clients = [client, clone].map(|client| spawn(slot, world, move |_, _| read(&client)));
        drain(slot, world);
        join(clients);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 2. A drain that comes while a window is loaded is kept: no new client, and the loader unmaps.
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

/// Rule 2. Takes that a draining slot refuses leave nothing in its word, so that the last client finds that it is.
pub fn refused_take_leaves_word_unchanged() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("a vacant slot");
        assert!(matches!(slot.drain(), Drain::Held));
        let stranger = spawn(slot, world, |slot, _| assert!(slot.take().is_err(), "took what drains"));
        drop(client);
        join([stranger]);
        assert_eq!(world.mapped(), 0, "region not unmapped");
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
    });
}

/// Rule 2. An evictor that changes its mind, against a drain: either it is mapped again and the drainer finds it, or the
/// evictor keeps it and unmaps.
pub fn restore_against_drain() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, drain), spawn(slot, world, take)];
        reconsider(slot, world);
        join(others);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 3. Who restores has looked at the region before the next owner unmaps it.
pub fn restore_against_retire() {
    model(|slot, world| {
        load(slot, world);
        let others = [spawn(slot, world, retire), spawn(slot, world, take)];
        reconsider(slot, world);
        join(others);
    });
}

/// A mapping in no table goes with its last client, and its slot with it.
pub fn detached_region_is_unmapped_by_its_last_client() {
    explore(|| {
        let world = Arc::new(World::default());
        let client = Slot::detached(map(&world));
        let clients = [client.clone(), client.clone()].map(|client| thread::spawn(move || read(&client)));
        read(&client);
        drop(client);
        join(clients);
        world.assert_all_went();
    });
}

const VERBS: [Verb; 6] = [take, join_clients, load, retire, reconsider, drain];

/// Each two verbs against each other, on a mapped slot, beside `third`, who may hold a client from before. With one
/// preemption fewer, since they are so many.
fn pairs(is_held: bool, third: Verb) {
    for (at, one) in VERBS.into_iter().enumerate() {
        for other in VERBS.into_iter().skip(at) {
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

/// Rules 1 to 3. All pairs of verbs, beside a reader; two preemptions.
pub fn all_verb_pairs_beside_reader() {
    pairs(false, take);
}

/// Rules 1 to 3. All pairs of verbs, beside an evictor; two preemptions.
pub fn all_verb_pairs_beside_evictor() {
    pairs(false, retire);
}

/// Rules 1 to 3. All pairs of verbs while a client that was there before lets go; two preemptions.
pub fn all_verb_pairs_beside_client() {
    pairs(true, |_, _| ());
}
