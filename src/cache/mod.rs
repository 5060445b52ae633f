//! The one floor that decides: which windows are mapped, for whom, and for how long.
//!
//! | file | what it does |
//! |---|---|
//! | `mod` | the hit, and what becomes of a file and of the cache |
//! | [`load`] | the miss: is it worth mapping, begin, make room, map, publish; and descriptors likewise |
//! | [`copy`] | reading without a mapping, where that is cheaper |
//! | [`read_in`] | having a window in memory before somebody reads all of it |
//! | [`check`] | was it there, what was read of a mapping? |
//! | [`evict`] | making room; what an owner does |
//! | [`residents`] | what is there, and who goes first |
//! | [`registry`] | which files are known |
//! | [`collector`] | the thread in the background |
//! | [`backoff`] | how a thread waits for others |
//!
//! Only `load` maps, only `evict` gives back, only `registry` names dashmap, only `collector` spawns and looks at the clock,
//! only `backoff` sleeps.

mod backoff;
mod check;
mod collector;
mod copy;
mod evict;
mod file;
mod load;
mod read_in;
pub(crate) mod region;
mod registry;
mod residents;

use std::path::Path;
use std::sync::{Arc, Weak};
use std::{fmt, fs, io};

pub(crate) use collector::Collector;
pub(crate) use evict::Effort;

use crate::cache::region::{Descriptor, DescriptorRef, Home, Hop, Reading, Region, Suspect};
use crate::config::{Config, Limits, LiveLimits, Overcommit, Revalidate};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::os::{self, Kind, Process, Stat};
use crate::policy::{self, Access};
use crate::protocol::budget::{Reservation, Usage};
use crate::protocol::hazard::acquire_after_last_reader;
use crate::protocol::slot::{Drain, Phase, Slot, SlotRef, UnmapToken};
use crate::protocol::wake_event::WakeEvent;
use crate::stats::{Counters, Event, Stats};
use backoff::Backoff;
use file::{Content, FileEntry, FileKey};
use registry::Registry;
use residents::Residents;

/// Everything that the handles of one manager share.
pub(crate) struct Cache {
    config: Config,
    limits: LiveLimits,
    regions: Residents<Mapping>,
    descriptors: Residents<fs::File>,
    registry: Registry,
    signal: Arc<WakeEvent>,
    stats: Counters,
    process: Process,
}

/// A file in a cache. Kept by handles, and by each mapping and descriptor of it (rule 5 of the protocol).
pub(crate) struct CachedFile {
    pub(crate) entry: FileEntry,
    cache: Weak<Cache>,
}

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
    /// The number of regions that leases, cursors and buffers hold. Each is unmapped when its last client releases it.
    ///
    /// If a cursor leaves such a region by moving to another window, the region stays mapped for about a second at
    /// most. The collector unmaps it then, or earlier the next call that closes, collects, or finds no other region to
    /// evict.
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
/// - On Unix, a change that keeps the time of modification and comes together with a change of the permissions, the
///   owner or the number of links.
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
    /// The file is longer. [`len`](crate::MappedFile::len) returns the new length. Bytes read before are still correct.
    Grown,
    /// The file is shorter. [`len`](crate::MappedFile::len) returns the new length. Release cursors and buffers before
    /// their next use, and do not read leases beyond the new end.
    Truncated,
    /// The length is the same, but the file was modified. Its time of modification differs or, on Unix, only its time
    /// of change, which no program can set back. The time of change also moves when the file is renamed or its extended
    /// attributes change.
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
        let (bytes, descriptors) = budgets(&limits);
        Arc::new(Self {
            config,
            limits: LiveLimits::new(limits),
            regions: Residents::new(bytes),
            descriptors: Residents::new(descriptors),
            registry: Registry::default(),
            signal: Arc::default(),
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

    /// Takes effect on the next reservation; what is above the new limits and unused goes at once, the rest as clients let
    /// go.
    pub(crate) fn set_limits(&self, limits: Limits) -> Result<()> {
        limits.validate()?;
        let (bytes, descriptors) = budgets(&limits);
        self.limits.set(limits, || {
            self.regions.budget.set_limit(bytes);
            self.descriptors.budget.set_limit(descriptors);
        });
        self.trim();
        self.signal.wake();
        Ok(())
    }

    /// The region of a window, if it is mapped, and up to `end` bytes into it at least: the hit. A touch, a take, a count;
    /// no lock, no allocation, no call. Else its slot, for who goes on from there.
    #[inline]
    pub(crate) fn hit<'f>(
        &self,
        file: &'f CachedFile,
        window: u64,
        end: u64,
        touch: Access,
    ) -> Result<SlotRef<Region>, &'f Slot<Region>> {
        let slot = self.touched(file, window, touch);
        let client = slot.take().map_err(|_| slot)?;
        // What crosses into the next window is never here; nor is the new tail of a file that has grown.
        if client.get().len() as u64 >= end && !client.get().is_faulted() {
            self.stats.count(Event::Hit);
            Ok(client)
        } else {
            Err(slot)
        }
    }

    /// The slot of a window, with that touch counted in.
    #[inline]
    fn touched<'f>(&self, file: &'f CachedFile, window: u64, touch: Access) -> &'f Slot<Region> {
        let slot = file.entry.slots().windows.at(window);
        if touch == Access::Counted {
            self.regions.touch(slot);
        }
        slot
    }

    /// What a cursor of one of this cache's files will read.
    pub(crate) fn reading(&self) -> Reading {
        Reading::new(&self.regions.hazards, &self.config.geometry)
    }

    /// The same hit for a cursor, which announces the region instead of counting itself in. It has let go of what it read before.
    pub(crate) fn protect<'f>(
        &self,
        reading: &mut Reading,
        file: &'f CachedFile,
        window: u64,
        end: u64,
        touch: Access,
    ) -> Result<(), &'f Slot<Region>> {
        let slot = self.touched(file, window, touch);
        // Asked first, since most of what comes here under pressure is cold, and then nothing need be announced.
        let may_be_there = slot.snapshot().phase() == Phase::Mapped;
        if may_be_there && reading.protect(slot, window, end) { Ok(()) } else { Err(slot) }
    }

    /// The same, of a window that the cursor has been at before; and whether the touch is full already, and need not be
    /// [kept](Self::touch).
    #[inline(always)]
    pub(crate) fn announce_near<'r>(&self, reading: &'r mut Reading, start: u64, end: u64) -> Option<(Hop<'r>, bool)> {
        let hop = reading.announce_near(start, end)?;
        let is_full = self.regions.is_full(hop.slot);
        Some((hop, is_full))
    }

    /// A touch by a reader who has come to its window by a hop.
    pub(crate) fn touch(&self, reading: &Reading, start: u64) {
        if let Some(slot) = reading.near(start) {
            self.regions.touch(slot);
        }
    }

    /// A cursor let go of what drains: it may be the one that its owner waits for. (If not, it goes when somebody needs room,
    /// or with the collector's next look.)
    #[cold]
    pub(crate) fn retry_deferred(&self) {
        self.regions.retry_deferred();
    }

    /// Opens by path: the path may lead to a file that is known by another name.
    pub(crate) fn open(self: &Arc<Self>, path: &Path) -> Result<Arc<CachedFile>> {
        let reservation = match self.reserve_descriptor(Effort::Demand(Overcommit::Fail)) {
            Ok(reservation) => reservation,
            Err(_) => match self.open_again(path) {
                Some(file) => return Ok(file),
                None => self.reserve_descriptor(self.demand())?,
            },
        };
        // Some things cannot even be opened (a socket); what they are says more than the system's number.
        let refused = |error| os::stat_path(path).ok().and_then(|stat| not_a_file(&stat)).unwrap_or(error);
        let file = self.open_descriptor(path).map_err(refused)?;
        self.adopt(reservation, file, Some(path))
    }

    /// Opens once more what is open: that takes no other descriptor.
    fn open_again(&self, path: &Path) -> Option<Arc<CachedFile>> {
        let stat = os::stat_path(path).ok()?;
        let file = self.registry.get(&FileKey::from(&stat))?;
        let descriptor = file.entry.slots().descriptor.take().ok()?;
        // As in `install`: counted while the descriptor has a client.
        file.entry.handles.enter();
        file.entry.remember(path);
        let noticed = self.revalidate(&file, descriptor.get());
        drop(descriptor);
        if noticed.is_err() {
            self.release(&file);
            return None;
        }
        Some(file)
    }

    /// Takes over a descriptor. One without a path is kept as long as a handle may need it.
    pub(crate) fn open_file(self: &Arc<Self>, file: fs::File) -> Result<Arc<CachedFile>> {
        let readable = os::is_readable(&file).map_err(|error| Error::io("cannot look at the descriptor", error))?;
        if !readable {
            let message = "the descriptor was not opened for reading: open the file with read access";
            return Err(Error::io(message, std::io::ErrorKind::PermissionDenied.into()));
        }
        let reservation = self.reserve_descriptor(self.demand())?;
        self.adopt(reservation, file, None)
    }

    fn adopt(
        self: &Arc<Self>,
        reservation: Reservation,
        descriptor: fs::File,
        name: Option<&Path>,
    ) -> Result<Arc<CachedFile>> {
        let stat = os::stat(&descriptor).map_err(cannot_look)?;
        check_kind(&descriptor, &stat)?;
        let key = FileKey::from(&stat);
        let file = self
            .registry
            .get_or_insert(key, || CachedFile { entry: FileEntry::new(key, &stat), cache: Arc::downgrade(self) });
        if let Some(name) = name {
            file.entry.remember(name);
        }
        let client = self.install(&file, reservation, descriptor);
        if let Err(error) = self.revalidate(&file, client.get()) {
            drop(client);
            self.release(&file);
            return Err(error);
        }
        if self.registry.len() == 1 {
            // The collector sleeps for long while there is no file to look after.
            self.signal.wake();
        }
        Ok(file)
    }

    /// Counts a handle in, with a descriptor in place: this one, if the file has none.
    ///
    /// The handle is counted while the descriptor has a client. So whoever lets go of the last handle and then wins the
    /// descriptor (a retire: it comes after that client's release) sees the new handle, and puts the descriptor back.
    ///
    /// (The reservation is the first parameter, so that a descriptor that is not needed is closed before it goes.)
    fn install(&self, file: &Arc<CachedFile>, reservation: Reservation, descriptor: fs::File) -> DescriptorRef {
        let slot = &file.entry.slots().descriptor;
        let mut wait = Backoff::new();
        let client = loop {
            if let Ok(client) = slot.take() {
                break client;
            }
            match slot.begin_load() {
                Ok(loading) => break self.descriptors.admit(loading, descriptor, reservation, Arc::clone(file) as _),
                Err(_) => wait.pause(),
            }
        };
        file.entry.handles.enter();
        client
    }

    /// A handle is gone. With the last one the descriptor goes; the mapped windows stay.
    pub(crate) fn release(&self, file: &CachedFile) {
        if file.entry.handles.leave() {
            self.close_unneeded(file);
        }
    }

    /// Closes the descriptor of a file without handles.
    fn close_unneeded(&self, file: &CachedFile) {
        let _transit = self.descriptors.budget.enter_transit();
        if let Some(token) = file.entry.slots().descriptor.retire() {
            if file.entry.handles.count() == 0 {
                drop(self.descriptors.reclaim(token));
            } else if let Err(token) = token.restore() {
                // Drained meanwhile: the cache is closing.
                drop(self.descriptors.reclaim(token));
            }
        }
    }

    /// A look at a file that is opened, which may be known already.
    fn revalidate(&self, file: &CachedFile, descriptor: &fs::File) -> Result<()> {
        match self.config.revalidate {
            Revalidate::AtOpen => self.notice(file, || os::stat(descriptor)).map(drop),
            Revalidate::Never => Ok(()),
        }
    }

    /// Takes notice of what the system says of a file. What is mapped from a changed end on goes.
    fn notice(&self, file: &CachedFile, look: impl FnOnce() -> io::Result<Stat>) -> Result<(Content, Stat)> {
        let _transit = self.regions.budget.enter_transit();
        let mut token = Vec::new();
        let noticed = file.entry.notice(look, |from| {
            let first = self.config.geometry.index(from);
            drain(file, first, |drained| token.extend(as_token(drained)));
        });
        self.regions.reclaim_all(token);
        noticed.map_err(cannot_look)
    }

    /// Looks at the file again, and at where `path` leads.
    pub(crate) fn refresh(&self, file: &Arc<CachedFile>, path: Option<&Path>) -> Result<Change> {
        let descriptor = self.descriptor(file, self.demand())?;
        let (content, stat) = self.notice(file, || os::stat(descriptor.get()))?;
        drop(descriptor);
        let leads_to = path.map(|path| os::stat_path(path).map(|stat| FileKey::from(&stat)));
        Ok(match (content, leads_to) {
            (Content::Truncated, _) => Change::Truncated,
            (_, Some(Ok(key))) if key != file.entry.key() => Change::Replaced,
            (_, Some(Err(error))) if leads_nowhere(&error) => Change::Deleted,
            (_, None) if stat.links == 0 => Change::Deleted,
            (Content::Grown, _) => Change::Grown,
            (Content::Modified, _) => Change::Modified,
            (Content::Same, _) => Change::Unchanged,
        })
    }

    pub(crate) fn collect(&self) -> Collected {
        evict::retry_orphans();
        let went = self.regions.collect();
        Collected { regions: went.items, bytes: went.bytes as u64 }
    }

    /// Drains every window of the files that `path` leads to: that file, or all below that directory.
    pub(crate) fn close(&self, path: &Path) -> Closed {
        let mut closed = Closed::default();
        for file in self.files_at(path) {
            let _transit = self.regions.budget.enter_transit();
            // What a cursor has left since it was closed before.
            self.regions.retry_deferred();
            let mut token = Vec::new();
            drain(&file, 0, |drained| match drained {
                Drain::Owned(region) => token.push(region),
                Drain::Held => closed.still_held += 1,
                Drain::Nothing => {}
            });
            closed.unmapped += self.regions.reclaim_all(token).items;
            closed.still_held += self.regions.count_protected(&file.entry.slots().windows);
            closed.still_held += file.entry.detached.count();
            // Windows does not let a file be deleted that is open. Elsewhere the descriptor keeps the handles reading,
            // whatever becomes of the path.
            if cfg!(windows) && file.entry.is_reachable() {
                if let Some(token) = file.entry.slots().descriptor.retire() {
                    drop(self.descriptors.reclaim(token));
                }
            }
        }
        closed
    }

    fn files_at(&self, path: &Path) -> Vec<Arc<CachedFile>> {
        if let Ok(stat) = os::stat_path(path) {
            if stat.kind == Kind::File {
                return self.registry.get(&FileKey::from(&stat)).into_iter().collect();
            }
        }
        // A directory; or nothing any more, and then the names that led to a file are all there is to go by.
        let path = real_name(path);
        let is_below =
            |file: &Arc<CachedFile>| file.entry.names().iter().any(|name| real_name(name).starts_with(&path));
        self.registry.files().into_iter().filter(is_below).collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let (used, peak, pinned) = (self.regions.budget.used(), self.regions.budget.peak(), self.regions.pinned());
        let total = |event| self.stats.total(event);
        Stats {
            hits: total(Event::Hit) + self.regions.hazards.reads(),
            misses: total(Event::Miss) + total(Event::Cold) + total(Event::Again),
            maps: total(Event::Map),
            unmaps: self.regions.given_back.total(),
            copies: total(Event::Copy) + total(Event::Cold) + total(Event::Again),
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
        }
    }

    /// The last handle is gone: nothing stays mapped or open but what leases hold. No lock on the way, for a child of `fork`.
    pub(crate) fn shut_down(&self) {
        self.regions.drain(|token| drop(self.regions.reclaim(token)));
        self.descriptors.drain(|token| drop(self.descriptors.reclaim(token)));
        self.regions.retry_deferred();
    }

    /// What a hole was found in is for those who hold it already, and goes with the last of them.
    fn drain_if_faulted(&self, slot: &Slot<Region>) {
        let _transit = self.regions.budget.enter_transit();
        if slot.take().is_ok_and(|client| client.get().is_faulted()) {
            self.regions.reclaim_all(as_token(slot.drain()).into_iter().collect());
        }
    }

    /// Brings what is used down to the [mark](Self::mark), as far as it is unused.
    fn trim(&self) {
        evict::retry_orphans();
        self.regions.trim(|| self.excess());
        let open = &self.descriptors.budget;
        self.descriptors.trim(|| open.used().items.saturating_sub(open.limit().items));
    }

    /// How many windows have to go for that. No more: a place that is freed for nothing is taken by whatever comes next, worth
    /// it or not.
    fn excess(&self) -> usize {
        let (used, mark) = (self.regions.budget.used(), self.mark(self.regions.budget.limit()));
        let window = self.config.geometry.window_bytes().map_or(usize::MAX, |bytes| bytes as usize);
        used.bytes.saturating_sub(mark.bytes).div_ceil(window).max(used.items.saturating_sub(mark.items))
    }

    /// How much of the limit may be mapped by who could read instead: all, unless others had to evict lately, who could not.
    fn mark(&self, limit: Usage) -> Usage {
        if !self.regions.under_pressure() {
            return limit;
        }
        let window = self.config.geometry.window_bytes().map_or(0, |bytes| bytes as usize);
        Usage {
            bytes: limit.bytes - policy::headroom(limit.bytes, window),
            items: limit.items - policy::headroom(limit.items, 1),
        }
    }

    /// Whether half of what is to be kept free is gone. No sooner does the collector come, and then for several at once: it
    /// takes a processor from somebody, and its barrier interrupts all who read.
    fn is_room_low(&self) -> bool {
        let (used, limit) = (self.regions.budget.used(), self.regions.budget.limit());
        let mark = self.mark(limit);
        let is_low = |used: usize, limit: usize, mark: usize| used > limit - (limit - mark) / 2;
        is_low(used.bytes, limit.bytes, mark.bytes) || is_low(used.items, limit.items, mark.items)
    }

    /// Whether that leaves room for one more of `bytes`.
    fn has_room(&self, bytes: usize) -> bool {
        let (used, mark) = (self.regions.budget.used(), self.mark(self.regions.budget.limit()));
        used.bytes.saturating_add(bytes) <= mark.bytes && used.items < mark.items
    }
}

fn budgets(limits: &Limits) -> (Usage, Usage) {
    let bytes = usize::try_from(limits.max_mapped_bytes).unwrap_or(usize::MAX);
    (Usage { bytes, items: limits.max_regions }, Usage { bytes: usize::MAX, items: limits.max_open_files })
}

/// Whether there is nothing at a path, as opposed to something that cannot be looked at.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn cannot_look(error: io::Error) -> Error {
    Error::io("cannot look at the file", error)
}

/// Drains all windows of a file from `first` on.
fn drain(file: &CachedFile, first: u64, mut each: impl FnMut(Drain<Region>)) {
    file.entry.slots().windows.for_each_from(first, |_, slot| each(slot.drain()));
}

fn as_token<P>(drained: Drain<P>) -> Option<UnmapToken<P>> {
    match drained {
        Drain::Owned(token) => Some(token),
        Drain::Held | Drain::Nothing => None,
    }
}

/// Refuses what cannot be mapped: what is no regular file, and what is generated while it is read.
fn check_kind(file: &fs::File, stat: &Stat) -> Result<()> {
    if let Some(error) = not_a_file(stat) {
        return Err(error);
    }
    if stat.len == 0 {
        let read = os::read_at(file, &mut [0], 0).map_err(|error| Error::io("cannot read", error))?;
        let grown = os::stat(file).is_ok_and(|stat| stat.len > 0);
        if read > 0 && !grown {
            let message =
                "has bytes but no length (it is generated while it is read, as those of /proc are): read it instead";
            return Err(Error::new(ErrorKind::NotAFile, message));
        }
    }
    Ok(())
}

fn not_a_file(stat: &Stat) -> Option<Error> {
    match stat.kind {
        Kind::File => None,
        Kind::Other(what) => Some(Error::new(ErrorKind::NotAFile, format!("is {what}, not a file that can be mapped"))),
    }
}

/// The name without links and dots, also of what does not exist any more, as long as its directory does.
fn real_name(path: &Path) -> std::path::PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    fs::canonicalize(&absolute)
        .or_else(|_| match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => fs::canonicalize(parent).map(|parent| parent.join(name)),
            _ => Ok(absolute.clone()),
        })
        .unwrap_or(absolute)
}

impl Home<Mapping> for CachedFile {
    fn check(self: Arc<Self>, offset: u64, bytes: &[u8], doubt: Suspect) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let name = || self.entry.names().into_iter().next();
        self.check_mapped(offset, bytes, doubt).map_err(|error| error.at(name().as_deref()).within(range))
    }

    fn reclaim(self: Arc<Self>, token: UnmapToken<Region>) {
        if token.is_detached() {
            // Nobody waits for the last one.
            let _ = self.entry.detached.leave();
        }
        match self.cache.upgrade() {
            Some(cache) => drop(cache.regions.reclaim(token)),
            None => {
                acquire_after_last_reader();
                evict::reclaim_orphan(token);
            }
        }
    }
}

impl Home<fs::File> for CachedFile {
    fn is_needed(&self) -> bool {
        self.entry.handles.count() > 0
    }

    /// By a name that still leads there.
    fn is_replaceable(&self) -> bool {
        self.entry.is_reachable()
    }

    fn reclaim(self: Arc<Self>, token: UnmapToken<Descriptor>) {
        match self.cache.upgrade() {
            Some(cache) => drop(cache.descriptors.reclaim(token)),
            None => drop(token.vacate(|descriptor| descriptor.give_back_now())),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.regions.take_deferred_mut().into_iter().for_each(evict::reclaim_orphan);
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        // In a child of `fork` it stays registered, as one that is gone: whoever finds it there makes another.
        if let Some(cache) = self.cache.upgrade().filter(|cache| cache.process.is_this()) {
            cache.registry.remove(&self.entry.key(), self);
        }
    }
}

impl fmt::Debug for CachedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFile")
            .field("key", &self.entry.key())
            .field("len", &self.entry.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("config", &self.config).field("limits", &self.limits()).finish_non_exhaustive()
    }
}
