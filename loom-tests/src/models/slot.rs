//! The life of a slot's payload, in pairs and threes of verbs.
//!
//! What is mapped is a loom cell: a client reads it, the unmapper writes it. So a client that reads what is unmapped, or
//! two who unmap the same, fail in loom itself.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::slot::{Drain, Owned, Payload, Phase, Slot, SlotRef};

/// Counts of one execution.
#[derive(Debug, Default)]
struct World {
    maps: AtomicUsize,
    unmaps: AtomicUsize,
}

impl World {
    fn mapped(&self) -> usize {
        self.maps.load(Relaxed) - self.unmaps.load(Relaxed)
    }
}

#[derive(Debug)]
struct Region {
    is_mapped: UnsafeCell<bool>,
    world: Arc<World>,
}

// SAFETY: the slots of the models live longer than all their payloads: in an `Arc` that each thread holds.
unsafe impl Payload for Region {
    fn orphaned(owned: Owned<Self>) {
        unmap(owned);
    }
}

// SAFETY: loom's cell checks every access itself.
unsafe impl Sync for Region {}

fn map(world: &Arc<World>) -> Region {
    world.maps.fetch_add(1, Relaxed);
    Region { is_mapped: UnsafeCell::new(true), world: Arc::clone(world) }
}

fn read(client: &SlotRef<Region>) {
    // SAFETY: this is what the models are there to find out.
    assert!(client.is_mapped.with(|mapped| unsafe { *mapped }), "read after the unmap");
}

fn unmap(owned: Owned<Region>) {
    let unmapped = owned.vacate(|region| {
        // SAFETY: as above.
        region.is_mapped.with_mut(|mapped| unsafe {
            assert!(*mapped, "unmapped twice");
            *mapped = false;
        });
        region.world.unmaps.fetch_add(1, Relaxed);
        Ok::<(), ()>(())
    });
    drop(unmapped.expect("an unmap that succeeds"));
}

/// Loads if the slot is vacant; a client either way, or nothing.
fn load_or_take(slot: &Slot<Region>, world: &Arc<World>) -> Option<SlotRef<Region>> {
    match slot.begin_load() {
        Ok(loading) => Some(loading.publish(map(world))),
        Err(_) => slot.take().ok(),
    }
}

fn model(run: impl Fn(&Arc<Slot<Region>>, &Arc<World>) + Send + Sync + 'static) {
    explore(move || {
        let (slot, world) = (Arc::new(Slot::default()), Arc::new(World::default()));
        run(&slot, &world);
        // Whatever happened: what is left can be had by one who drains, and then nothing is mapped.
        if let Drain::Owned(owned) = slot.drain() {
            unmap(owned);
        }
        assert_eq!(world.mapped(), 0, "left mapped");
        assert_eq!(slot.snapshot().clients(), 0, "left counted");
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

/// Two want a cold window: one maps; never two mappings at once in one slot.
pub fn one_loader() {
    model(|slot, world| {
        let other = spawn(slot, world, |slot, world| {
            load_or_take(slot, world).iter().for_each(read);
        });
        load_or_take(slot, world).iter().for_each(read);
        other.join().unwrap();
        assert_eq!(world.maps.load(Relaxed), 1);
    });
}

/// A loader that gives up leaves the slot to the next.
pub fn an_abandoned_load_leaves_the_slot_vacant() {
    model(|slot, world| {
        let other = spawn(slot, world, |slot, _| drop(slot.begin_load()));
        load_or_take(slot, world).iter().for_each(read);
        other.join().unwrap();
        assert_ne!(slot.snapshot().phase(), Phase::Loading);
        load_or_take(slot, world).iter().for_each(read);
    });
}

/// Two readers and an evictor: nobody reads what is unmapped, and it is unmapped once.
pub fn take_release_against_retire() {
    model(|slot, world| {
        drop(load_or_take(slot, world));
        let reader = |slot: &Slot<Region>, _: &Arc<World>| slot.take().iter().for_each(read);
        let readers = [spawn(slot, world, reader), spawn(slot, world, reader)];
        slot.retire().into_iter().for_each(unmap);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// Evicted and loaded anew while a reader takes: the old mapping is unmapped before the new one is there.
pub fn retire_and_load_again() {
    model(|slot, world| {
        drop(load_or_take(slot, world));
        let evictor = spawn(slot, world, |slot, _| slot.retire().into_iter().for_each(unmap));
        load_or_take(slot, world).iter().for_each(read);
        evictor.join().unwrap();
        assert!(world.mapped() <= 1);
    });
}

/// Two evictors and a reader: one of them wins, or none.
pub fn two_evictors() {
    model(|slot, world| {
        drop(load_or_take(slot, world));
        let evict = |slot: &Slot<Region>, _: &Arc<World>| slot.retire().into_iter().for_each(unmap);
        let (one, other) = (spawn(slot, world, evict), spawn(slot, world, evict));
        slot.take().iter().for_each(read);
        one.join().unwrap();
        other.join().unwrap();
        assert_eq!(world.mapped(), usize::from(slot.snapshot().phase() == Phase::Mapped));
    });
}

/// The last releases against the drain: exactly one of the three unmaps, whoever is last.
pub fn last_release_against_drain() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("a vacant slot");
        let clone = client.clone();
        let clients = [client, clone].map(|client| {
            spawn(slot, world, move |_, _| {
                read(&client);
                drop(client);
            })
        });
        if let Drain::Owned(owned) = slot.drain() {
            unmap(owned);
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(world.mapped(), 0);
    });
}

/// A drain that comes while a window is loaded is kept: no new client, and the loader unmaps.
pub fn drain_against_load() {
    model(|slot, world| {
        let loader = spawn(slot, world, |slot, world| load_or_take(slot, world).iter().for_each(read));
        let drained = slot.drain();
        let was_held = matches!(drained, Drain::Held);
        if let Drain::Owned(owned) = drained {
            unmap(owned);
        }
        loader.join().unwrap();
        assert!(!was_held || world.mapped() == 0, "a load that was drained stayed");
    });
}

/// Takes that a draining slot refuses leave nothing in its word.
pub fn a_refused_take_leaves_nothing() {
    model(|slot, world| {
        let client = load_or_take(slot, world).expect("a vacant slot");
        assert!(matches!(slot.drain(), Drain::Held));
        let stranger = spawn(slot, world, |slot, _| assert!(slot.take().is_err()));
        drop(client);
        stranger.join().unwrap();
        assert_eq!(world.mapped(), 0);
        assert_eq!(slot.snapshot().phase(), Phase::Vacant);
    });
}

/// An evictor that changes its mind, against a drain: either it is mapped again and the drainer finds it, or the evictor
/// keeps it and unmaps.
pub fn restore_against_drain() {
    model(|slot, world| {
        drop(load_or_take(slot, world));
        let drainer = spawn(slot, world, |slot, _| {
            if let Drain::Owned(owned) = slot.drain() {
                unmap(owned);
            }
        });
        if let Some(Err(owned)) = slot.retire().map(Owned::restore) {
            unmap(owned);
        }
        drainer.join().unwrap();
        assert_eq!(world.mapped(), 0);
    });
}

/// A mapping in no table goes with its last client, and its slot with it.
pub fn detached_goes_with_its_last_client() {
    explore(|| {
        let world = Arc::new(World::default());
        let client = Slot::detached(map(&world));
        let clone = client.clone();
        let other = thread::spawn(move || {
            read(&clone);
            drop(clone);
        });
        read(&client);
        drop(client);
        other.join().unwrap();
        assert_eq!(world.mapped(), 0);
    });
}
