//! Readers that protect a slot by a hazard record, against owners that have to unmap it.

use loom::sync::Arc;
use loom::thread;

use super::explore_to;
use super::world::{Region, World, load_or_take, map, protect_and_read, read, read_protected, reclaim};
use crate::protocol::hazard::HazardPointer;
use crate::protocol::slot::{Drain, Slot};
use crate::sync::barrier;

/// Two windows of one file: some models need a second one. Both use the one `Memory` of the world.
type Slots = [Slot<Region>; 2];

fn model(run: impl Fn(&Arc<Slots>, &Arc<World>) + Send + Sync + 'static) {
    model_to(3, run);
}

fn model_to(preemptions: usize, run: impl Fn(&Arc<Slots>, &Arc<World>) + Send + Sync + 'static) {
    explore_to(preemptions, move || {
        let (slots, world) = (Arc::new(Slots::default()), Arc::new(World::with_readers()));
        run(&slots, &world);
        // No reader is left, so a drain of each slot must unmap everything.
        slots.iter().for_each(drain);
        world.retry_deferred();
        world.assert_all_unmapped();
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
    threads.into_iter().for_each(|thread| thread.join().expect("a model's thread does not panic"));
}

fn retire(slot: &Slot<Region>) {
    slot.retire().into_iter().for_each(reclaim);
}

fn drain(slot: &Slot<Region>) {
    if let Drain::Owned(token) = slot.drain() {
        reclaim(token);
    }
}

/// Maps the window and releases the client at once.
fn load_and_release(slot: &Slot<Region>, world: &Arc<World>) {
    drop(load_or_take(slot, world));
}

/// Protects the slot, reads its region, and resets the hazard pointer.
fn visit(hazard: &mut HazardPointer<Region>, slot: &Slot<Region>) {
    if protect_and_read(hazard, slot) {
        reset(hazard);
    }
}

fn reset(hazard: &mut HazardPointer<Region>) {
    // SAFETY: the slots outlive the hazard pointers.
    let _ = unsafe { hazard.reset() };
}

/// Resets the hazard pointer. If the slot drains, tries to unmap the deferred regions.
fn reset_and_retry_deferred(hazard: &mut HazardPointer<Region>, world: &World) {
    // SAFETY: the slots outlive the hazard pointers.
    if unsafe { hazard.reset() } {
        world.retry_deferred();
    }
}

/// Rule 7. A protected region is not unmapped: either the owner finds the slot protected, or the reader finds that the
/// slot is retiring.
pub fn protect_against_retire() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        visit(&mut hazard, &slots[0]);
        join([other]);
    });
}

/// Rule 7. A protected region is not unmapped by a drain. The owner defers the unmap, and a retry after the reset
/// unmaps it.
pub fn protect_against_drain() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, world| {
            drain(&slots[0]);
            world.retry_deferred();
        });
        visit(&mut hazard, &slots[0]);
        join([other]);
        assert!(!protect_and_read(&mut hazard, &slots[0]), "protected after the drain");
    });
}

/// Rule 7. Two readers protect one window while an evictor retires it. Two preemptions.
pub fn two_readers_against_retire() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
        let (mut first, mut second) = (world.hazard(), world.hazard());
        let others = [
            spawn(slots, world, |slots, _| retire(&slots[0])),
            spawn(slots, world, move |slots, _| visit(&mut second, &slots[0])),
        ];
        visit(&mut first, &slots[0]);
        join(others);
    });
}

/// Rule 7. A reader protects a window while two evictors retire it: one evictor may win what the other has restored.
/// Two preemptions.
pub fn reader_against_two_evictors() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let others =
            [spawn(slots, world, |slots, _| retire(&slots[0])), spawn(slots, world, |slots, _| retire(&slots[0]))];
        visit(&mut hazard, &slots[0]);
        join(others);
    });
}

/// Rule 7. A window is retired, unmapped and mapped again while a reader protects it: the reader reads the new region,
/// or none.
pub fn protect_against_retire_and_load() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, world| {
            retire(&slots[0]);
            load_and_release(&slots[0], world);
            retire(&slots[0]);
        });
        visit(&mut hazard, &slots[0]);
        join([other]);
    });
}

/// Rule 7. A reader that protects another slot no longer protects the previous one: one store does both.
pub fn protecting_next_slot_releases_previous() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let is_read = protect_and_read(&mut hazard, &slots[0]);
        assert!(is_read, "no other thread runs yet");
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        // The second slot is not mapped, so the hazard pointer protects nothing afterwards.
        assert!(!protect_and_read(&mut hazard, &slots[1]), "protected a vacant slot");
        join([other]);
    });
}

/// Rule 7. The loader protects the slot before it releases its client, so the region is counted or protected at every
/// moment.
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
            // SAFETY: not proven here: the model exists to verify it.
            let region = unsafe { hazard.protect_client(&client) };
            drop(client);
            read_protected(region);
            reset(&mut hazard);
        }
        join([other]);
    });
}

/// Rule 7. The last client of a draining slot becomes its owner, and scans the hazard records as every owner does.
pub fn protect_against_last_release() {
    model(|slots, world| {
        let client = load_or_take(&slots[0], world).expect("no other thread runs yet");
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

/// Rule 7. An owner restores a slot because a reader protects it, while another thread drains it: the region is
/// deferred, and unmapped later. Two preemptions.
pub fn restore_for_reader_against_drain() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
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

/// Rule 7. Either the reader that resets or the thread that drains unmaps the region at once. This holds also if the
/// first scan of the draining thread finds the slot protected and the reader finds the deferred list empty.
pub fn draining_region_is_unmapped_after_its_last_reader() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        assert!(protect_and_read(&mut hazard, &slots[0]), "no other thread runs yet");
        let other = spawn(slots, world, |slots, _| drain(&slots[0]));
        reset_and_retry_deferred(&mut hazard, world);
        join([other]);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 7. A slot begins to drain while an evictor owns it and would restore it for a reader. Either that reader or an
/// owner unmaps the region at once. Two preemptions.
pub fn region_drained_while_owned_is_unmapped_after_its_last_reader() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        assert!(protect_and_read(&mut hazard, &slots[0]), "no other thread runs yet");
        let others =
            [spawn(slots, world, |slots, _| retire(&slots[0])), spawn(slots, world, |slots, _| drain(&slots[0]))];
        reset_and_retry_deferred(&mut hazard, world);
        join(others);
        assert_eq!(world.mapped(), 0, "region not unmapped");
    });
}

/// Rule 7. A reader takes the first hazard record while an owner skips the heavy barrier because there is no record.
pub fn first_record_against_owner() {
    model(take_the_first_record);
}

fn take_the_first_record(slots: &Arc<Slots>, world: &Arc<World>) {
    load_and_release(&slots[0], world);
    let other = spawn(slots, world, |slots, _| retire(&slots[0]));
    let mut hazard = world.hazard();
    visit(&mut hazard, &slots[0]);
    drop(hazard);
    join([other]);
}

/// Rule 7. A reader takes the first hazard record while the OS refuses the barrier. The light barrier is then no
/// instruction, as with the OS's own, and only the count of records and its fences order the two threads.
pub fn first_record_against_owner_without_barrier() {
    barrier::unavailable(|| model(take_the_first_record));
}

/// Rule 7. A reader uses the barrier that its cache has chosen, whatever the OS offers to later caches.
pub fn reader_of_earlier_cache_against_owner_after_refusal() {
    model(|slots, world| {
        barrier::unavailable(|| {
            load_and_release(&slots[0], world);
            let mut hazard = world.hazard();
            let other = spawn(slots, world, |slots, _| retire(&slots[0]));
            visit(&mut hazard, &slots[0]);
            join([other]);
        });
    });
}

/// Rule 7. If the OS refuses the barrier, nothing is unmapped while any reader has a record, and everything afterwards.
pub fn owner_without_barrier_unmaps_nothing() {
    let explore = || {
        model(|slots, world| {
            load_and_release(&slots[0], world);
            let mut hazard = world.hazard();
            let other = spawn(slots, world, |slots, world| {
                retire(&slots[0]);
                drain(&slots[0]);
                world.retry_deferred();
            });
            visit(&mut hazard, &slots[0]);
            assert_eq!(world.mapped(), 1, "unmapped without a barrier");
            drop(hazard);
            join([other]);
        });
    };
    barrier::unavailable(explore);
}

/// Rule 7. The reads of the last hazard pointer end at its drop, so an owner that then finds no record may unmap.
pub fn last_record_against_owner() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        // No reset: the drop resets it.
        protect_and_read(&mut hazard, &slots[0]);
        drop(hazard);
        join([other]);
    });
}

/// Rule 7. A reader adds a hazard record while an owner scans the records. Two preemptions.
pub fn new_record_against_owner() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
        // Two records are taken, so the memory of the third exists. Its allocation is not modelled.
        let _taken = [world.hazard(), world.hazard()];
        let other = spawn(slots, world, |slots, world| visit(&mut world.hazard(), &slots[0]));
        retire(&slots[0]);
        join([other]);
    });
}

/// Rule 7. A reader takes the record that a previous reader released, while an owner scans. Two preemptions.
pub fn reused_record_against_owner() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
        let mut first = world.hazard();
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        visit(&mut first, &slots[0]);
        drop(first);
        visit(&mut world.hazard(), &slots[0]);
        join([other]);
    });
}

/// Rule 7. A reader on another thread may take the record that a reader has just released, while an owner scans. Two
/// preemptions.
pub fn record_reused_by_another_thread_against_owner() {
    model_to(2, |slots, world| {
        load_and_release(&slots[0], world);
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

/// Rule 7. A hazard pointer that is dropped while it protects a slot no longer protects it.
pub fn dropped_hazard_pointer_protects_nothing() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        // The second record stays taken, so the owners scan the records and do not skip the scan.
        let (mut hazard, _another) = (world.hazard(), world.hazard());
        let other = spawn(slots, world, |slots, _| retire(&slots[0]));
        protect_and_read(&mut hazard, &slots[0]);
        drop(hazard);
        join([other]);
        retire(&slots[0]);
        assert_eq!(world.mapped(), 0, "slot still protected");
    });
}

/// Rule 7. A hazard pointer is moved to another thread, and still protects the slot there.
pub fn moved_hazard_pointer_still_protects() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let mut hazard = world.hazard();
        // SAFETY: not proven here: the model exists to verify it.
        let region = unsafe { hazard.protect(&slots[0]) }.expect("no other thread runs yet");
        let address = region.as_ptr() as usize;
        let other = spawn(slots, world, move |_, _| {
            read_protected(
                std::ptr::NonNull::new(address as *mut Region).expect("the address of a region is not null"),
            );
            reset(&mut hazard);
        });
        retire(&slots[0]);
        join([other]);
    });
}

/// A scan that follows finds each protected slot, and each counted read is in the total.
pub fn protected_slot_is_seen_by_scan_and_counted() {
    model(|slots, world| {
        load_and_release(&slots[0], world);
        let hazards = &world.readers().hazards;
        let mut first = world.hazard();
        let mut second = world.hazard();
        let other = spawn(slots, world, move |slots, _| {
            assert!(protect_and_read(&mut second, &slots[0]), "the slot is mapped");
            second.count();
            second
        });
        visit(&mut first, &slots[0]);
        first.count();
        let mut second = other.join().expect("a model's thread does not panic");
        let protected = hazards.scan_after_barrier().expect("the barrier is available");
        assert!(protected.contains(&slots[0]) && !protected.contains(&slots[1]));
        assert_eq!(hazards.reads(), 2, "a read is missing in the count");
        reset(&mut second);
        assert!(!hazards.scan_unordered().contains(&slots[0]));
    });
}
