//! Those who read without being counted, against those who would unmap.

use loom::sync::Arc;
use loom::thread;

use super::explore_to;
use super::world::{Region, World, give_back, load_or_take, map, protect, read, read_on};
use crate::protocol::hazard::HazardPointer;
use crate::protocol::slot::{Drain, Slot};
use crate::sync::barrier;

/// Two windows of one file: some models need another one to go to. They have the same memory only in name.
type Slots = [Slot<Region>; 2];

fn model(run: impl Fn(&Arc<Slots>, &Arc<World>) + Send + Sync + 'static) {
    model_to(3, run);
}

fn model_to(preemptions: usize, run: impl Fn(&Arc<Slots>, &Arc<World>) + Send + Sync + 'static) {
    explore_to(preemptions, move || {
        let (slots, world) = (Arc::new(Slots::default()), Arc::new(World::with_readers()));
        run(&slots, &world);
        // Nobody reads any more: all can be had by one who drains, and then nothing is mapped.
        slots.iter().for_each(drain);
        world.retry_deferred();
        world.assert_all_went();
    });
}

fn spawn<R: 'static>(
    slots: &Arc<Slots>,
    world: &Arc<World>,
    run: impl FnOnce(&Slots, &Arc<World>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let (slots, world) = (Arc::clone(slots), Arc::clone(world));
    thread::spawn(move || run(&slots, &world))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that ends"));
}

fn retire(slot: &Slot<Region>) {
    slot.retire().into_iter().for_each(give_back);
}

fn drain(slot: &Slot<Region>) {
    if let Drain::Owned(token) = slot.drain() {
        give_back(token);
    }
}

/// Maps the window and lets go of it.
fn mapped(slot: &Slot<Region>, world: &Arc<World>) {
    drop(load_or_take(slot, world));
}

/// Announces, reads, and takes it back.
fn visit(hazard: &mut HazardPointer<Region>, slot: &Slot<Region>) {
    if protect(hazard, slot) {
        reset(hazard);
    }
}

fn reset(hazard: &mut HazardPointer<Region>) {
    // SAFETY: the slots outlive the announcers.
    let _ = unsafe { hazard.reset() };
}

/// Takes back what is announced, and goes for what may have waited for that.
fn leave(hazard: &mut HazardPointer<Region>, world: &World) {
    // SAFETY: as above.
    if unsafe { hazard.reset() } {
        world.retry_deferred();
    }
}

/// Rule 7. What is announced is not unmapped: the owner sees it, or the reader sees that it was won.
pub fn protect_against_retire() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        visit(&mut hazard, &slots[0]);
        join([other]);
    });
}

/// Rule 7. The same with a drain; what it owns waits in limbo, and goes with the next try after the reader has left.
pub fn protect_against_drain() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, world| {
            drain(&slots[0]);
            world.retry_deferred();
        });
        visit(&mut hazard, &slots[0]);
        join([other]);
        assert!(!protect(&mut hazard, &slots[0]), "protected after the drain");
    });
}

/// Rule 7. Two readers of one window, and one who evicts it.
pub fn two_readers_against_retire() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let (mut mine, mut theirs) = (world.hazard(), world.hazard());
        let others = [
            spawn(slots, world, |slots, _| retire(&slots[0])),
            spawn(slots, world, move |slots, _| visit(&mut theirs, &slots[0])),
        ];
        visit(&mut mine, &slots[0]);
        join(others);
    });
}

/// Rule 7. A reader and two evictors: what the one restores the other may win.
pub fn reader_against_two_evictors() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let others =
            [spawn(slots, world, |slots, _| retire(&slots[0])), spawn(slots, world, |slots, _| retire(&slots[0]))];
        visit(&mut hazard, &slots[0]);
        join(others);
    });
}

/// Rule 7. The slot is won, unmapped and mapped anew while a reader announces it: it reads the new one, or nothing.
pub fn protect_against_retire_and_load() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, world| {
            retire(&slots[0]);
            mapped(&slots[0], world);
            retire(&slots[0]);
        });
        visit(&mut hazard, &slots[0]);
        join([other]);
    });
}

/// Rule 7. Who goes from one window to the next has left the first: one store, and both hold.
pub fn protecting_next_slot_releases_previous() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let is_read = protect(&mut hazard, &slots[0]);
        assert!(is_read, "nobody else is here");
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        // Not mapped: nothing is announced then.
        assert!(!protect(&mut hazard, &slots[1]));
        join([other]);
    });
}

/// Rule 7. The loader announces, and only then lets go of its count: in between there is always one of the two.
pub fn protect_client_against_retire_and_drain() {
    model(|slots, world| {
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, world| {
            retire(&slots[0]);
            drain(&slots[0]);
            world.retry_deferred();
        });
        if let Ok(loading) = slots[0].begin_load() {
            let client = loading.publish(map(world));
            // SAFETY: this is what the model is there to find out.
            let region = unsafe { hazard.protect_client(&client) };
            drop(client);
            read_on(region);
            reset(&mut hazard);
        }
        join([other]);
    });
}

/// Rule 7. The last client of what drains is its owner, and looks who reads as others do.
pub fn protect_against_last_release() {
    model(|slots, world| {
        let client = load_or_take(&slots[0], world).expect("nobody else is here");
        let mut hazard = world.hazard();
        let other = spawn(slots, world, move |slots, world| {
            read(&client);
            let _ = slots[0].drain();
            drop(client);
            world.retry_deferred();
        });
        visit(&mut hazard, &slots[0]);
        join([other]);
    });
}

/// Rule 7. What an owner restores for a reader is drained meanwhile: then it waits, and goes.
pub fn restore_for_reader_against_drain() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let others = [
            spawn(slots, world, |slots, _| retire(&slots[0])),
            spawn(slots, world, |slots, world| {
                drain(&slots[0]);
                world.retry_deferred();
            }),
        ];
        visit(&mut hazard, &slots[0]);
        join(others);
    });
}

/// Rule 7. What drains goes with who lets go of it, or with who drains it, at once: also if the one finds it announced still, and
/// the other nothing that waits yet.
pub fn draining_region_is_unmapped_after_its_last_reader() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        assert!(protect(&mut hazard, &slots[0]), "nobody else is here");
        let other = spawn(slots, world, |slots, _| drain(&slots[0]));
        leave(&mut hazard, world);
        join([other]);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 7. The same where it begins to drain in the hands of one who would have restored it.
pub fn region_drained_while_owned_is_unmapped_after_its_last_reader() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        assert!(protect(&mut hazard, &slots[0]), "nobody else is here");
        let others =
            [spawn(slots, world, |slots, _| retire(&slots[0])), spawn(slots, world, |slots, _| drain(&slots[0]))];
        leave(&mut hazard, world);
        join(others);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 7. Who has no record yet takes one while an owner does without the barrier.
pub fn first_record_against_owner() {
    model(take_the_first_record);
}

fn take_the_first_record(slots: &Arc<Slots>, world: &Arc<World>) {
    mapped(&slots[0], world);
    let other = spawn(slots, world, |slots, _| retire(&slots[0]));
    let mut hazard = world.hazard();
    visit(&mut hazard, &slots[0]);
    drop(hazard);
    join([other]);
}

/// Rule 7. The same where there is no barrier: the light one is nothing, as with the system's own, and only the count of records
/// tells.
pub fn first_record_against_owner_without_barrier() {
    barrier::refused(|| model(take_the_first_record));
}

/// Rule 7. As long as there is a reader, nothing is unmapped for want of a barrier; and all of it when that has gone.
pub fn owner_without_barrier_unmaps_nothing() {
    let explore = || {
        model(|slots, world| {
            mapped(&slots[0], world);
            let mut hazard = world.hazard();
            let other = spawn(slots, world, |slots, world| {
                retire(&slots[0]);
                drain(&slots[0]);
                world.retry_deferred();
            });
            visit(&mut hazard, &slots[0]);
            assert_eq!(world.mapped(), 1, "unmapped, and nobody knows under whom");
            drop(hazard);
            join([other]);
        });
    };
    barrier::refused(explore);
}

/// Rule 7. The last one gives its record back: then its reads are over.
pub fn last_record_against_owner() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        // Without taking it back: its drop does that.
        protect(&mut hazard, &slots[0]);
        drop(hazard);
        join([other]);
    });
}

/// Rule 7. A record is made while an owner looks at those that there are.
pub fn new_record_against_owner() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        // Two are taken (and so the memory of the third is there: how that is made is not modelled).
        let _taken = [world.hazard(), world.hazard()];
        let other = spawn(slots, world, |slots, world| visit(&mut world.hazard(), &slots[0]));
        retire(&slots[0]);
        join([other]);
    });
}

/// Rule 7. A record that another reader gave back is used again while an owner looks.
pub fn reused_record_against_owner() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let mut first = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        visit(&mut first, &slots[0]);
        drop(first);
        visit(&mut world.hazard(), &slots[0]);
        join([other]);
    });
}

/// Rule 7. A record goes from one reader to another, of another thread, while an owner looks.
pub fn record_reused_by_another_thread_against_owner() {
    model_to(2, |slots, world| {
        mapped(&slots[0], world);
        let _another = world.hazard();
        let first = world.hazard();
        let others = [
            spawn(slots, world, |slots, _| retire(&slots[0])),
            spawn(slots, world, |slots, world| visit(&mut world.hazard(), &slots[0])),
        ];
        drop(first);
        join(others);
    });
}

/// Rule 7. A reader that is dropped where it read leaves nothing announced.
pub fn dropped_hazard_pointer_protects_nothing() {
    model(|slots, world| {
        mapped(&slots[0], world);
        // Two, so that owners go on to look.
        let (mut hazard, _another) = (world.hazard(), world.hazard());
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        protect(&mut hazard, &slots[0]);
        drop(hazard);
        join([other]);
        retire(&slots[0]);
        assert_eq!(world.mapped(), 0, "slot still protected");
    });
}

/// Rule 7. A reader is moved to another thread, which reads on.
pub fn moved_hazard_pointer_still_protects() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let mut hazard = world.hazard();
        // SAFETY: this is what the model is there to find out.
        let region = unsafe { hazard.protect(&slots[0]) }.expect("nobody else is here");
        let address = region.as_ptr() as usize;
        let other = spawn(slots, world, move |_, _| {
            read_on(std::ptr::NonNull::new(address as *mut Region).expect("an address"));
            reset(&mut hazard);
        });
        retire(&slots[0]);
        join([other]);
    });
}

/// What is announced is seen by who looks later, and each read is counted.
pub fn protected_slot_is_seen_by_scan_and_counted() {
    model(|slots, world| {
        mapped(&slots[0], world);
        let hazards = &world.readers().hazards;
        let mut mine = world.hazard();
        let mut theirs = world.hazard();
        let other = spawn(slots, world, move |slots, _| {
            assert!(protect(&mut theirs, &slots[0]));
            theirs.count();
            theirs
        });
        visit(&mut mine, &slots[0]);
        mine.count();
        let mut theirs = other.join().expect("a thread that ends");
        let protected = hazards.scan_after_barrier().expect("a barrier");
        assert!(protected.contains(&slots[0]) && !protected.contains(&slots[1]));
        assert_eq!(hazards.reads(), 2, "a read was not counted");
        reset(&mut theirs);
        assert!(!hazards.scan_unordered().contains(&slots[0]));
    });
}
