//! The cache: which windows are mapped, for which reader, and for how long.
//!
//! [`Cache::lookup`] is the hit, and [`Cache::acquire`] is the one decision between mapping and reading. Only [`load`]
//! maps, and only [`reclaim`] unmaps. docs/architecture.md lists the files of this folder.

mod backoff;
mod collector;
mod copy;
mod descriptors;
pub(crate) mod file;
mod load;
mod open;
mod pool;
pub(crate) mod prefault;
mod reclaim;
pub(crate) mod region;
mod registry;
mod room;
mod server_calls;
mod slotless;
mod validate;
pub(crate) mod window_guard;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use collector::Collector;
pub(crate) use file::CachedFile;

use crate::config::{Admission, Config, Limits, LiveLimits};
use crate::error::{ErrorKind, Result};
use crate::mapping::Mapping;
use crate::os::Process;
use crate::policy::{self, Access, Earnings};
use crate::protocol::budget::Usage;
use crate::protocol::slot::{Phase, Slot};
use crate::protocol::wake_event::WakeEvent;
use crate::stats::{Counters, Event, Stats};
use crate::sync::epoch;
use descriptors::Descriptors;
use pool::RegionPool;
use prefault::Pattern;
use region::{Region, RegionRef};
use registry::Registry;
use room::RoomPolicy;
pub(crate) use room::WhenFull;
use server_calls::ServerCalls;
use window_guard::WindowGuard;

/// The state that all handles of one manager share.
pub(crate) struct Cache {
    config: Config,
    limits: LiveLimits,
    regions: RegionPool,
    descriptors: Descriptors,
    registry: Registry,
    wake_event: Arc<WakeEvent>,
    server_calls: Arc<ServerCalls>,
    stats: Counters,
    process: Process,
}

/// The need of a caller that missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A mapped window.
    Window,
    /// A mapped window, or a detached region if the range crosses windows or the budget has no room for the window.
    Mapped,
    /// A mapped window if that pays off; otherwise the caller reads the file.
    Optional(Access),
}

impl Need {
    /// Returns what this call alone tells about the pattern of the reader.
    pub(crate) fn pattern(self) -> Pattern {
        match self {
            Self::Window | Self::Mapped => Pattern::Unknown,
            Self::Optional(_) => Pattern::Scattered,
        }
    }
}

/// The result of [`Cache::acquire`].
pub(crate) enum Acquired {
    /// A region, the offset of its first byte in the file, and the window's index. `window` is `None` for a range that
    /// is no window.
    Region { region: RegionRef, start: u64, window: Option<u64> },
    /// The caller reads the file. The copy of a range in one window is counted already; [`Cache::copy`] counts those of
    /// a range across windows.
    ReadFile,
}

/// The number of accesses to unmapped windows, counted for each thread, after which the policy's clock advances, by as
/// many ticks. So readers rarely write the clock's cache line.
const TICKS: u64 = 16;

/// The regions that a call of [`MapManager::collect`](crate::MapManager::collect) unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The number of regions unmapped.
    pub regions: usize,
    /// The bytes of the budget that these regions had reserved, in whole pages.
    pub bytes: u64,
}

/// The regions that a call of [`MapManager::close`](crate::MapManager::close) found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The number of unused regions. The call has unmapped them.
    pub unmapped: usize,
    /// The number of regions that leases, cursors and buffers hold, or that another thread is mapping now. Each is
    /// unmapped after the last of them releases it.
    ///
    /// If a cursor leaves such a region by moving to another window, the collector unmaps it within about a second. The
    /// next call that closes, collects, or finds no other region to evict does so earlier.
    pub still_held: usize,
}

/// The change of a file that [`MappedFile::refresh`](crate::MappedFile::refresh) found.
///
/// The cache compares length and times with those it last saw, through any handle of the file. Each change of the
/// content is therefore reported once. If several changes apply, `Truncated` is reported first, then `Replaced` or
/// `Deleted`, then the others.
///
/// Three changes that keep the length are not found:
///
/// - A change within one tick of the file's timestamps (a few milliseconds) after the last check.
/// - On Unix, a change that keeps the time of modification, together with one of permissions, owner or number of links.
/// - Stores through a writable mapping into pages that are dirty already. The OS changes the times only when it writes
///   these pages back.
///
/// # Examples
///
/// ```
/// # use smmap::{Change, MapManager};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// assert_eq!(maps.open("Cargo.toml")?.refresh()?, Change::Unchanged);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The file is the same, with the same length and times. A new hard link, new permissions, or another way by which
    /// a symbolic link leads to the file, are not a change.
    Unchanged,
    /// The file is longer. [`len`](crate::MappedFile::len) returns the new length. Bytes read before are still correct,
    /// unless the file was truncated and has grown beyond its old length since the last look: the metadata do not tell.
    /// On Linux 6.5 and later, such a change is `Modified` if the last bytes before the old end differ and were in the
    /// page cache at that look.
    Grown,
    /// The file is shorter. [`len`](crate::MappedFile::len) returns the new length. Release cursors and buffers before
    /// their next use, and do not read leases beyond the new end.
    Truncated,
    /// The file was modified, and its length is the same, or larger while bytes before the old end differ. Its time of
    /// modification differs or, on Unix, only its time of change, which no program can set back. The time of change
    /// also moves when the file is renamed or its extended attributes change.
    Modified,
    /// The path now leads to another file. This handle still reads the old file; open the path again to read the new
    /// one.
    Replaced,
    /// The path now leads nowhere, or the file has no name and was opened from a descriptor. This handle still reads
    /// the file, as long as its descriptor is open.
    Deleted,
}

impl Cache {
    pub(crate) fn new(config: Config, limits: Limits) -> Arc<Self> {
        let (regions, descriptors) = budgets(&limits);
        // The first pin of a process needs a large stack. A reader's may be small.
        drop(epoch::pin());
        Arc::new(Self {
            config,
            limits: LiveLimits::new(limits),
            regions: RegionPool::new(regions),
            descriptors: Descriptors::new(descriptors),
            registry: Registry::default(),
            wake_event: Arc::default(),
            server_calls: ServerCalls::new(config.has_collector),
            stats: Counters::default(),
            process: Process::this(),
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Changes the limits for the next reservation. Unused regions beyond the new limits are unmapped at once, the
    /// others as their clients release them.
    pub(crate) fn set_limits(&self, limits: Limits) -> Result<()> {
        limits.validate()?;
        let (regions, descriptors) = budgets(&limits);
        self.limits.set(limits, || {
            self.regions.budget.set_limit(regions);
            self.descriptors.budget.set_limit(descriptors);
        });
        self.trim_budgets();
        self.wake_event.wake();
        Ok(())
    }

    /// Returns a client of a window's region, with the `len` bytes at `at` in the window, if all of them are mapped:
    /// the hit of a lease or a copy. Otherwise returns the window's slot, if it has one, for
    /// [`acquire`](Self::acquire).
    ///
    /// Takes no lock, allocates nothing, and makes no system call. Counts a hit. If `access` is `Counted`, counts an
    /// access of the window, if it has a slot.
    #[inline(always)]
    pub(crate) fn lookup<'f>(
        &self,
        file: &'f CachedFile,
        window: u64,
        at: u64,
        len: u64,
        access: Access,
    ) -> Result<RegionRef, Option<&'f Slot<Region>>> {
        // Before the client is taken: a load after that waits for it.
        let slot = self.slot(file, window, access).ok_or(None)?;
        let counter = self.stats.counter(Event::Hit);
        // A range that crosses into the next window is not here, nor is the new tail of a file that has grown.
        let client = slot.take().ok().filter(|client| !client.mapping().is_faulted()).ok_or(Some(slot))?;
        // Before the client becomes a part: a part that is borrowed would be in memory.
        if access == Access::Counted && client.records_read(at) && at + len <= client.mapping().len() as u64 {
            client.record_read(self.config.geometry.start(window), at..at + len);
        }
        let Some(part) = RegionRef::part(client, at, len) else { return Err(Some(slot)) };
        counter.count();
        Ok(part)
    }

    /// Protects a window in `guard` if it is mapped up to the offset `end`. This is the hit of a cursor that could not
    /// [switch](WindowGuard::switch).
    ///
    /// Otherwise returns the slot, if there is one, for [`acquire`](Self::acquire).
    pub(crate) fn lookup_protected<'f>(
        &self,
        guard: &mut WindowGuard,
        file: &'f CachedFile,
        window: u64,
        window_start: u64,
        end: u64,
        access: Access,
    ) -> Result<(), Option<&'f Slot<Region>>> {
        let slot = self.slot(file, window, access).ok_or(None)?;
        // Under pressure most windows that come here are not mapped. The snapshot spares those the protection.
        let may_be_mapped = slot.snapshot().phase() == Phase::Mapped;
        if may_be_mapped && guard.protect(slot, window_start, end) { Ok(()) } else { Err(Some(slot)) }
    }

    /// Returns a window's slot, and counts the access. Returns `None` if the window has none;
    /// [`acquire`](Self::acquire) then counts it.
    #[inline]
    fn slot<'f>(&self, file: &'f CachedFile, window: u64, access: Access) -> Option<&'f Slot<Region>> {
        let slot = file.windows().get(window)?;
        if access.is_counted() {
            self.regions.record_access(slot);
        }
        Some(slot)
    }

    /// Keeps what the admission policy knows of a file whose last handle and last region were dropped.
    fn keep_frequencies(&self, file: &CachedFile) {
        self.regions.keep_frequencies(file, || self.windows_in_budget());
    }

    fn windows_in_budget(&self) -> usize {
        let limit = self.regions.budget.limit();
        let in_bytes = self.config.geometry.window_bytes().map_or(1, |bytes| limit.bytes as u64 / bytes);
        in_bytes.min(limit.items as u64) as usize
    }

    /// Makes the guard of a new cursor of `file`, one of this cache's.
    pub(crate) fn window_guard(&self, file: &CachedFile) -> WindowGuard {
        WindowGuard::new(&self.regions.hazards, &self.config.geometry, file)
    }

    /// Counts a hit of the window of `slot` in its frequency.
    // Inlined: beside a call, which could unwind, the caller's client would have to be in memory.
    #[inline(always)]
    pub(crate) fn record_access(&self, slot: &Slot<Region>) {
        self.regions.record_access(slot);
    }

    /// Decides how to serve a range that was not a hit: by its window, by a detached region, or by reading the file.
    ///
    /// `slot` is the slot of the window in which `range` starts, or `None` if the window was never mapped. `range` is
    /// not empty, and inside the file.
    ///
    /// | the range | `Need::Window` | `Need::Mapped` | `Need::Optional` |
    /// |---|---|---|---|
    /// | lies in one window | the window | the window, else a detached region if the budget has no room for the window | the window if [admitted](Self::admit) and available at once, else the file |
    /// | crosses windows | – | a detached region | the file |
    ///
    /// With `Need::Optional` it never waits for room or for a loader, and never fails for want of room.
    #[inline]
    pub(crate) fn acquire(
        &self,
        file: &Arc<CachedFile>,
        slot: Option<&Slot<Region>>,
        range: &Range<u64>,
        need: Need,
    ) -> Result<Acquired> {
        let Need::Optional(access) = need else {
            return self.acquire_mapped(file, slot, range, need, self.when_full());
        };
        if !self.config.geometry.is_in_one(range) {
            return Ok(Acquired::ReadFile);
        }
        match self.admit(file, slot, self.config.geometry.index(range.start), access) {
            Some(policy) => self.acquire_window(file, slot, range, policy),
            None => Ok(Acquired::ReadFile),
        }
    }

    /// Returns what a call that begins now does if it finds no room.
    pub(crate) fn when_full(&self) -> WhenFull {
        WhenFull::from_now(self.config.overcommit)
    }

    /// [Acquires](Self::acquire) a mapping for a call that may have begun before. `need` is not `Need::Optional`.
    #[cold]
    pub(crate) fn acquire_mapped(
        &self,
        file: &Arc<CachedFile>,
        slot: Option<&Slot<Region>>,
        range: &Range<u64>,
        need: Need,
        when_full: WhenFull,
    ) -> Result<Acquired> {
        if self.config.geometry.is_in_one(range) {
            let slot = slot.unwrap_or_else(|| {
                let slot = self.regions.make_slot(file, self.config.geometry.index(range.start));
                self.regions.record_access(slot);
                slot
            });
            match self.acquire_window(file, Some(slot), range, RoomPolicy::Required(when_full)) {
                // The budget has no room for the window. It may have room for the range.
                Err(error) if error.kind() == ErrorKind::OverBudget && need == Need::Mapped => {}
                acquired => return acquired,
            }
        }
        let region = self.map_detached(file, range.clone(), RoomPolicy::Required(when_full));
        let region = region.map_err(|error| error.within(range.clone()))?;
        Ok(Acquired::Region { region, start: range.start, window: None })
    }

    #[cold]
    fn acquire_window(
        &self,
        file: &Arc<CachedFile>,
        slot: Option<&Slot<Region>>,
        range: &Range<u64>,
        policy: RoomPolicy,
    ) -> Result<Acquired> {
        let (window, start) = self.config.geometry.locate(range.start);
        let slot = slot.unwrap_or_else(|| self.regions.make_slot(file, window));
        let region = self.load_window(file, slot, window, range.end - start, policy);
        Ok(match region.map_err(|error| error.within(start..range.end))? {
            Some(region) => Acquired::Region { region, start, window: Some(window) },
            None => Acquired::ReadFile,
        })
    }

    /// Returns the policy by which an optional mapping of a window gets room, or `None` if the mapping does not pay
    /// off. The caller then reads the file; the miss and the copy are counted here.
    #[inline(always)]
    fn admit(&self, file: &CachedFile, slot: Option<&Slot<Region>>, window: u64, access: Access) -> Option<RoomPolicy> {
        let is_whole_file = self.config.geometry.window_bytes().is_none();
        let admission = if is_whole_file { Admission::Always } else { self.config.admission };
        let frequency = match slot {
            Some(slot) => self.regions.frequency(slot),
            None if access.is_counted() => {
                self.regions.record_slotless_access(file, window, || self.windows_in_budget())
            }
            None => self.regions.slotless_frequency(file, window),
        };
        if policy::admits_with_room(admission, access, frequency, self.regions.earnings()) {
            let policy = self.admit_frequent(file, window, admission, access, frequency);
            if policy.is_some() {
                return policy;
            }
        }
        if !access.is_counted() {
            self.stats.count(Event::ReadRepeat);
            return None;
        }
        let count = self.stats.count(Event::ReadMiss);
        if count % TICKS == 0 {
            self.tick(count);
        }
        None
    }

    /// [Admits](Self::admit) a window that pays off where there is room for it.
    #[cold]
    fn admit_frequent(
        &self,
        file: &CachedFile,
        window: u64,
        admission: Admission,
        access: Access,
        frequency: u8,
    ) -> Option<RoomPolicy> {
        let fits_budget = file.len() <= self.regions.budget.limit().bytes as u64;
        let is_admitted = fits_budget || policy::admits_with_room(admission, access, frequency, Earnings::NONE);
        if file.is_unmappable() || !is_admitted {
            return None;
        }
        let span = self.config.geometry.span(window, file.len());
        let bytes = Mapping::addressable(span.end - span.start)
            .map_or(usize::MAX, |len| Mapping::budget_bytes(span.start, len, file.system.page()));
        if self.has_room(bytes) {
            return Some(RoomPolicy::Free);
        }
        let threshold = self.regions.admission_threshold();
        policy::admits_over_victim(admission, access, frequency, threshold).map(RoomPolicy::AtMost)
    }

    /// Advances the policy's clock by [`TICKS`] accesses to windows that are not mapped, `count` so far in this thread.
    #[cold]
    fn tick(&self, count: u64) {
        let has_room = self.has_room(self.config.geometry.window_bytes().unwrap_or(0) as usize);
        self.regions.tick(TICKS as u32, self.windows_in_budget(), has_room);
        self.regions.sample_earnings(has_room, (count / TICKS) as u32);
    }

    /// Unmaps each unused region, and waits for the collector to unmap those that it owns.
    pub(crate) fn collect(&self) -> Collected {
        reclaim::retry_orphans();
        let mut freed = self.regions.collect();
        if self.regions.wait_for_trims() {
            // The collector may have restored or deferred a region that its last reader has left since.
            reclaim::add(&mut freed, self.regions.collect());
        }
        Collected { regions: freed.items, bytes: freed.bytes as u64 }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (used, peak, pinned) = (self.regions.budget.used(), self.regions.budget.peak(), self.regions.pinned());
        let total = |event| self.stats.total(event);
        Stats {
            hits: total(Event::Hit) + self.regions.hazards.reads(),
            misses: total(Event::Miss) + total(Event::ReadMiss) + total(Event::ReadRepeat),
            maps: total(Event::Map),
            unmaps: self.regions.unmapped.total(),
            copies: total(Event::Copy) + total(Event::ReadMiss) + total(Event::ReadRepeat),
            evictions: self.regions.evicted.total(),
            overcommits: total(Event::Overcommit),
            mapped_bytes: used.bytes as u64,
            peak_mapped_bytes: peak.bytes as u64,
            regions: used.items,
            peak_regions: peak.items,
            pinned_bytes: pinned.bytes as u64,
            pinned_regions: pinned.items,
            open_files: self.descriptors.budget.used().items,
            peak_open_files: self.descriptors.budget.peak().items,
            files: self.registry.len(),
            unmappable_files: total(Event::Unmappable),
        }
    }

    /// Unmaps everything but what leases hold. Called when the last handle was dropped, so each descriptor is closed
    /// already. In a child of `fork`, takes no lock.
    pub(crate) fn shut_down(&self) {
        self.server_calls.end();
        self.regions.drain_all(|token| drop(self.regions.reclaim(token)));
        self.regions.retry_deferred();
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.regions.take_deferred_mut().into_iter().for_each(reclaim::reclaim_orphan);
    }
}

fn budgets(limits: &Limits) -> (Usage, Usage) {
    let bytes = usize::try_from(limits.max_mapped_bytes).unwrap_or(usize::MAX);
    (Usage { bytes, items: limits.max_regions }, Usage { bytes: usize::MAX, items: limits.max_open_files })
}
