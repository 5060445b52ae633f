//! What the models of slots share: memory that is mapped and unmapped, regions, files, and who unmaps.

use std::sync::Arc as Kept;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::Relaxed;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};

use crate::protocol::budget::Reservation;
use crate::protocol::clock_ring::{ClockRing, RingEntry};
use crate::protocol::hazard::{HazardDomain, HazardPointer, ProtectedSet};
use crate::protocol::slot::{Payload, Slot, SlotRef, UnmapToken};
use crate::sync::epoch::Epoch;

/// One window's bytes. Readers read them, who maps and who unmaps writes them, so loom fails a model in which a reader
/// could read what is not mapped, or in which a map does not come after the unmap before it.
#[derive(Debug)]
pub(super) struct Memory(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Default for Memory {
    fn default() -> Self {
        Self(UnsafeCell::new(false))
    }
}

impl Memory {
    pub(super) fn map(&self) {
        // SAFETY: this is what the models are there to find out.
        self.0.with_mut(|is_mapped| assert!(!unsafe { is_mapped.replace(true) }, "mapped twice"));
    }

    fn read(&self) {
        // SAFETY: as above.
        assert!(self.0.with(|is_mapped| unsafe { *is_mapped }), "read after the unmap");
    }

    pub(super) fn unmap(&self) {
        // SAFETY: as above.
        self.0.with_mut(|is_mapped| assert!(unsafe { is_mapped.replace(false) }, "unmapped twice"));
    }
}

/// One execution: what evictors walk, the epoch, and what happened. The counts are not loom's: they are exact at every
/// step, and no step more for it to explore.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) ring: ClockRing<Slot<Region>>,
    pub(super) epoch: Kept<Epoch>,
    pub(super) memory: Kept<Memory>,
    /// Of those who read without being counted, if the model has any.
    pub(super) readers: Option<Readers>,
    maps: Count,
    unmaps: Count,
    drops: Count,
}

impl World {
    pub(super) fn maps(&self) -> usize {
        self.maps.load(Relaxed)
    }

    pub(super) fn mapped(&self) -> usize {
        self.maps() - self.unmaps.load(Relaxed)
    }

    /// Whatever was mapped is unmapped, and dropped once.
    pub(super) fn assert_all_went(&self) {
        assert_eq!(self.mapped(), 0, "left mapped");
        assert_eq!(self.maps(), self.drops.load(Relaxed), "left undropped");
    }
}

/// Who reads without being counted, and what waits for them.
#[derive(Debug, Default)]
pub(super) struct Readers {
    pub(super) hazards: Kept<HazardDomain<Region>>,
    deferred: Mutex<Vec<UnmapToken<Region>>>,
}

impl World {
    /// One in which some announce what they read.
    pub(super) fn with_readers() -> Self {
        Self { readers: Some(Readers::default()), ..Self::default() }
    }

    pub(super) fn readers(&self) -> &Readers {
        self.readers.as_ref().expect("a world with readers")
    }

    pub(super) fn hazard(&self) -> HazardPointer<Region> {
        HazardPointer::new(&self.readers().hazards)
    }

    /// What waited for a reader, once more.
    pub(super) fn retry_deferred(&self) {
        let waiting = std::mem::take(&mut *self.readers().deferred.lock().expect("no panic"));
        waiting.into_iter().for_each(give_back);
    }

    /// After something was kept for readers, of whom the last may have let go before.
    fn rescan_deferred(&self) {
        let Some(protected) = self.readers().hazards.scan_after_barrier() else { return };
        let mut deferred = self.readers().deferred.lock().expect("no panic");
        let (left, read) =
            std::mem::take(&mut *deferred).into_iter().partition(|token| !protected.contains_token(token));
        *deferred = read;
        drop(deferred);
        let left: Vec<_> = left;
        left.into_iter().for_each(give_back);
    }
}

/// What an owner does where some may read without being counted: it looks, and unmaps, restores, or keeps for later.
pub(super) fn give_back(token: UnmapToken<Region>) {
    let world = Arc::clone(&token.payload().world);
    let Some(readers) = &world.readers else { return unmap(token) };
    let protected = readers.hazards.scan_after_barrier();
    give_back_unless(protected, token);
}

pub(super) fn give_back_unless(protected: Option<ProtectedSet<Region>>, token: UnmapToken<Region>) {
    // Without a barrier nothing is known.
    if protected.is_some_and(|protected| !protected.contains_token(&token)) {
        return unmap(token);
    }
    // Before it is restored: then it may go at any time.
    let world = Arc::clone(&token.payload().world);
    if let Err(token) = token.restore() {
        world.readers().deferred.lock().expect("no panic").push(token);
        world.rescan_deferred();
    }
}

/// Reads what is in `slot`, if it can be announced.
pub(super) fn protect(hazard: &mut HazardPointer<Region>, slot: &Slot<Region>) -> bool {
    // SAFETY: this is what the models are there to find out.
    match unsafe { hazard.protect(slot) } {
        Some(region) => {
            // SAFETY: as above.
            unsafe { region.as_ref() }.memory.read();
            true
        }
        None => false,
    }
}

/// Reads what is announced, once more.
pub(super) fn read_on(region: std::ptr::NonNull<Region>) {
    // SAFETY: as above.
    unsafe { region.as_ref() }.memory.read();
}

/// Maps the one window.
pub(super) fn map(world: &Arc<World>) -> Region {
    world.memory.map();
    world.maps.fetch_add(1, Relaxed);
    Region {
        memory: Kept::clone(&world.memory),
        world: Arc::clone(world),
        is_mapped: true,
        ring_entry: None,
        reservation: None,
        home: None,
    }
}

/// Loads if the slot is vacant; a client either way, or nothing.
pub(super) fn load_or_take(slot: &Slot<Region>, world: &Arc<World>) -> Option<SlotRef<Region>> {
    match slot.begin_load() {
        Ok(loading) => Some(loading.publish(map(world))),
        Err(_) => slot.take().ok(),
    }
}

/// A slot's payload.
#[derive(Debug)]
pub(super) struct Region {
    memory: Kept<Memory>,
    pub(super) world: Arc<World>,
    is_mapped: bool,
    pub(super) ring_entry: Option<RingEntry>,
    pub(super) reservation: Option<Reservation>,
    /// Keeps the slot (rule 5).
    pub(super) home: Option<Arc<File>>,
}

// SAFETY: a slot of the models stands in a file that the region keeps (and that goes through the epoch), or in an `Arc`
// that each thread holds.
unsafe impl Payload for Region {
    fn orphaned(token: UnmapToken<Self>) {
        give_back(token);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!self.is_mapped, "dropped before the unmap");
            self.world.drops.fetch_add(1, Relaxed);
        }
    }
}

pub(super) fn read(client: &SlotRef<Region>) {
    client.memory.read();
}

/// What an owner reads of a region before it decides.
pub(super) fn look(token: &UnmapToken<Region>) {
    token.payload().memory.read();
}

/// What an owner does: off its seat, unmapped, vacant; then the reservation goes back, and last the file.
pub(super) fn unmap(token: UnmapToken<Region>) {
    let vacated = token.vacate(|region| {
        if let Some(seat) = region.ring_entry.take() {
            region.world.ring.remove(seat);
        }
        region.memory.unmap();
        region.is_mapped = false;
        region.world.unmaps.fetch_add(1, Relaxed);
        Ok::<(), ()>(())
    });
    let mut region = vacated.expect("an unmap that succeeds");
    drop(region.reservation.take());
    drop(region);
}

/// A file with one window. Evictors look at its slot without holding it, so that goes through the epoch.
#[derive(Debug)]
pub(super) struct File {
    slot: Option<Box<Slot<Region>>>,
    epoch: Kept<Epoch>,
}

impl File {
    pub(super) fn new(world: &World) -> Arc<Self> {
        Arc::new(Self { slot: Some(Box::default()), epoch: Kept::clone(&world.epoch) })
    }

    pub(super) fn slot(&self) -> &Slot<Region> {
        self.slot.as_deref().expect("taken in drop only")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.epoch.retire(slot);
        }
    }
}

/// Loads the file's window, seated and keeping the file from before it is published (rules 5 and 6).
pub(super) fn load(file: &Arc<File>, world: &Arc<World>) -> Option<SlotRef<Region>> {
    let loading = file.slot().begin_load().ok()?;
    let ring_entry = loading.enlist(&world.ring);
    let mut region = map(world);
    (region.ring_entry, region.home) = (Some(ring_entry), Some(Arc::clone(file)));
    Some(loading.publish(region))
}
