//! Shared parts of the models of slots: memory that is mapped and unmapped, regions, files, and the owner's steps.

use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicUsize as StdAtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};

use crate::protocol::budget::Reservation;
use crate::protocol::clock_ring::{ClockRing, RingEntry};
use crate::protocol::hazard::{HazardDomain, HazardPointer, ProtectedSet};
use crate::protocol::slot::{Payload, Slot, SlotRef, UnmapToken};
use crate::sync::epoch::Epoch;

/// The bytes of one window. A reader reads the cell; the loader and the owner write it when they map and unmap.
///
/// Loom therefore fails a model in which a reader may read unmapped memory, or in which a map is not ordered after the
/// preceding unmap.
#[derive(Debug)]
pub(super) struct Memory(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Default for Memory {
    fn default() -> Self {
        Self(UnsafeCell::new(false))
    }
}

impl Memory {
    pub(super) fn map(&self) {
        // SAFETY: loom's cell checks that the access is exclusive; the models exist to verify it.
        self.0.with_mut(|is_mapped| assert!(!unsafe { is_mapped.replace(true) }, "mapped twice"));
    }

    fn read(&self) {
        // SAFETY: loom's cell checks that no write is concurrent.
        assert!(self.0.with(|is_mapped| unsafe { *is_mapped }), "read after the unmap");
    }

    pub(super) fn unmap(&self) {
        // SAFETY: loom's cell checks that the access is exclusive; the models exist to verify it.
        self.0.with_mut(|is_mapped| assert!(unsafe { is_mapped.replace(false) }, "unmapped twice"));
    }
}

/// The state of one execution: the clock ring, the epoch, and counts of maps, unmaps and drops.
///
/// The counts are `std` atomics: they are exact at every step, and loom does not explore accesses to them.
#[derive(Default)]
pub(super) struct World {
    pub(super) ring: ClockRing<Slot<Region>>,
    pub(super) epoch: StdArc<Epoch>,
    pub(super) memory: StdArc<Memory>,
    /// The state of hazard-protected readers, if the model has any.
    pub(super) readers: Option<Readers>,
    maps: StdAtomicUsize,
    unmaps: StdAtomicUsize,
    drops: StdAtomicUsize,
}

impl World {
    pub(super) fn maps(&self) -> usize {
        self.maps.load(Relaxed)
    }

    pub(super) fn mapped(&self) -> usize {
        self.maps() - self.unmaps.load(Relaxed)
    }

    /// Asserts that each mapped region has been unmapped, and dropped once.
    pub(super) fn assert_all_unmapped(&self) {
        assert_eq!(self.mapped(), 0, "regions left mapped");
        assert_eq!(self.maps(), self.drops.load(Relaxed), "regions not dropped once each");
    }
}

/// The hazard records of the readers, and the list of deferred unmaps.
#[derive(Default)]
pub(super) struct Readers {
    pub(super) hazards: StdArc<HazardDomain<Region>>,
    deferred: Mutex<Vec<UnmapToken<Region>>>,
}

impl World {
    /// Creates a world with readers that protect slots by hazard records.
    pub(super) fn with_readers() -> Self {
        Self { readers: Some(Readers::default()), ..Self::default() }
    }

    pub(super) fn readers(&self) -> &Readers {
        self.readers.as_ref().expect("a world created by `with_readers`")
    }

    pub(super) fn hazard(&self) -> HazardPointer<Region> {
        HazardPointer::new(&self.readers().hazards)
    }

    /// Tries again to unmap each region on the deferred list.
    pub(super) fn retry_deferred(&self) {
        let deferred = std::mem::take(&mut *self.readers().deferred.lock().expect("no panic"));
        deferred.into_iter().for_each(reclaim);
    }

    /// Scans again after a region was deferred: its last reader may have left before it was on the list.
    fn rescan_deferred(&self) {
        let Some(protected) = self.readers().hazards.scan_after_barrier() else { return };
        let mut deferred = self.readers().deferred.lock().expect("no panic");
        let (still_protected, unprotected): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *deferred).into_iter().partition(|token| protected.contains_token(token));
        *deferred = still_protected;
        drop(deferred);
        unprotected.into_iter().for_each(reclaim);
    }
}

/// Performs the owner's steps: scans the hazard records if the world has readers, then unmaps, restores, or defers.
pub(super) fn reclaim(token: UnmapToken<Region>) {
    let world = Arc::clone(&token.payload().world);
    let Some(readers) = &world.readers else { return unmap(token) };
    let protected = readers.hazards.scan_after_barrier();
    reclaim_unless_protected(protected, token);
}

/// Unmaps the region if `protected` does not contain it. Otherwise restores it, or defers the unmap if the slot drains.
///
/// If `protected` is `None`, the heavy barrier failed, and every slot counts as protected.
pub(super) fn reclaim_unless_protected(protected: Option<ProtectedSet<Region>>, token: UnmapToken<Region>) {
    if protected.is_some_and(|protected| !protected.contains_token(&token)) {
        return unmap(token);
    }
    // Cloned before the restore: afterwards another owner may unmap and drop the region at any time.
    let world = Arc::clone(&token.payload().world);
    if let Err(token) = token.restore() {
        world.readers().deferred.lock().expect("no panic").push(token);
        world.rescan_deferred();
    }
}

/// Protects `slot` and reads its region. Returns `false` if the slot is not mapped or drains.
pub(super) fn protect_and_read(hazard: &mut HazardPointer<Region>, slot: &Slot<Region>) -> bool {
    // SAFETY: not proven here: the models exist to verify it.
    match unsafe { hazard.protect(slot) } {
        Some(region) => {
            // SAFETY: the slot is protected, so by rule 7 its region stays mapped; the models exist to verify it.
            unsafe { region.as_ref() }.memory.read();
            true
        }
        None => false,
    }
}

/// Reads a region that the caller has protected.
pub(super) fn read_protected(region: std::ptr::NonNull<Region>) {
    // SAFETY: the caller has protected the slot, so by rule 7 its region stays mapped; the models exist to verify it.
    unsafe { region.as_ref() }.memory.read();
}

/// Maps the world's window.
pub(super) fn map(world: &Arc<World>) -> Region {
    world.memory.map();
    world.maps.fetch_add(1, Relaxed);
    Region {
        memory: StdArc::clone(&world.memory),
        world: Arc::clone(world),
        is_mapped: true,
        ring_entry: None,
        reservation: None,
        file: None,
    }
}

/// Loads the slot if it is vacant, or takes it if it is mapped. Returns `None` if neither is possible.
pub(super) fn load_or_take(slot: &Slot<Region>, world: &Arc<World>) -> Option<SlotRef<Region>> {
    match slot.begin_load() {
        Ok(loading) => Some(loading.publish(map(world))),
        Err(_) => slot.take().ok(),
    }
}

/// The payload of a slot.
pub(super) struct Region {
    memory: StdArc<Memory>,
    pub(super) world: Arc<World>,
    is_mapped: bool,
    pub(super) ring_entry: Option<RingEntry>,
    pub(super) reservation: Option<Reservation>,
    /// Keeps the slot's memory (rule 5).
    pub(super) file: Option<Arc<File>>,
}

// SAFETY: a slot of the models is in an `Arc` that each thread holds, or in a file. In a file, the region keeps the
// file, and the slot is freed through the epoch.
unsafe impl Payload for Region {
    fn last_client_dropped(token: UnmapToken<Self>) {
        reclaim(token);
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

/// Reads the region as its owner, before the owner decides to unmap or to restore.
pub(super) fn inspect(token: &UnmapToken<Region>) {
    token.payload().memory.read();
}

/// Performs the owner's unmap: removes the ring entry, unmaps, vacates the slot, then releases the reservation and the
/// file.
pub(super) fn unmap(token: UnmapToken<Region>) {
    let vacated = token.vacate(|region| {
        if let Some(entry) = region.ring_entry.take() {
            region.world.ring.remove(entry);
        }
        region.memory.unmap();
        region.is_mapped = false;
        region.world.unmaps.fetch_add(1, Relaxed);
        Ok::<(), ()>(())
    });
    let mut region = vacated.expect("the unmap of a model never fails");
    drop(region.reservation.take());
    drop(region);
}

/// A file with one window. Evictors inspect its slot without keeping the file, so the slot is freed through the epoch.
#[derive(Debug)]
pub(super) struct File {
    slot: Option<Box<Slot<Region>>>,
    epoch: StdArc<Epoch>,
}

impl File {
    pub(super) fn new(world: &World) -> Arc<Self> {
        Arc::new(Self { slot: Some(Box::default()), epoch: StdArc::clone(&world.epoch) })
    }

    pub(super) fn slot(&self) -> &Slot<Region> {
        self.slot.as_deref().expect("only `drop` takes the slot")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.epoch.retire(slot);
        }
    }
}

/// Loads the file's window. The region gets its ring entry and its reference to the file before it is published (rules
/// 5 and 6).
pub(super) fn load(file: &Arc<File>, world: &Arc<World>) -> Option<SlotRef<Region>> {
    let loading = file.slot().begin_load().ok()?;
    let ring_entry = loading.enlist(&world.ring);
    let mut region = map(world);
    (region.ring_entry, region.file) = (Some(ring_entry), Some(Arc::clone(file)));
    Some(loading.publish(region))
}
