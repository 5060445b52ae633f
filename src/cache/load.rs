//! The miss: is it worth mapping, begin, make room, map, publish. Nothing is mapped anywhere else.
//!
//! One thread loads a window; the others read meanwhile, if they may, or wait for it and for nothing else. What cannot
//! stand in its slot (a range across windows; a window whose slot is still held by an older mapping that drains) is
//! mapped *detached*: for its clients alone, inside the budget, in no table.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use super::backoff::Backoff;
use super::evict::{Effort, Refused, Room, TRANSIT_MAX};
use super::file::FileKey;
use super::{Cache, CachedFile, cannot_look};
use crate::cache::region::{DescriptorRef, Region, RegionRef, View};
use crate::config::{Admission, Revalidate};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::os::{self, Kind};
use crate::policy::{self, Access};
use crate::protocol::budget::{InTransit, Reservation};
use crate::protocol::slot::{Loading, Phase, Slot, SlotRef};
use crate::stats::Event;

/// How long to wait for a slot to be given up by an older mapping, or by an evictor that sleeps, before mapping beside it.
const DRAIN_MAX: Duration = Duration::from_millis(5);

/// Misses that make the policy's time go on together.
const STRIDE: u64 = 16;

impl Cache {
    /// The region of a window that was no [`hit`](Self::hit) a moment ago, up to `end` bytes into it at least.
    ///
    /// How far to go for it, [`worth`](Self::worth) says; or it has to be. `None`: it is not to be had at once, and who may
    /// read reads. Never an error for want of room then.
    #[cold]
    pub(crate) fn miss(
        &self,
        file: &Arc<CachedFile>,
        window: u64,
        end: u64,
        effort: Effort,
    ) -> Result<Option<RegionRef>> {
        let slot = file.entry.slots().windows.at(window);
        if self.stats.count(Event::Miss) % STRIDE == 0 {
            self.tick();
        }
        // What is waited for another loader counts towards what may be waited for room.
        let (mut patience, mut for_drain) = (Backoff::new(), Backoff::new());
        let mapped = loop {
            let state = match slot.take() {
                Ok(client) => {
                    let region = RegionRef::new(client);
                    if region.len() as u64 >= end && !region.is_faulted() {
                        break region;
                    }
                    drop(region);
                    self.drain_if_faulted(slot);
                    // The tail of a file that has grown since. Whoever noticed that drains it, in a moment.
                    slot.snapshot()
                }
                Err(state) => state,
            };
            match slot.begin_load() {
                Ok(loading) => match self.load(file, loading, window, effort, &mut patience)? {
                    Some(region) => break region,
                    None => return Ok(self.read_instead()),
                },
                // It may be the reader itself who has just left it.
                Err(now) if now.is_draining() && self.regions.retry_deferred() > 0 => {}
                Err(_) if !effort.is_demand() => return Ok(self.read_instead()),
                Err(_) if state.phase() == Phase::Loading && !state.is_draining() => patience.pause(),
                Err(_) if for_drain.pause_within(DRAIN_MAX) => {}
                Err(_) => {
                    let span = self.config.geometry.span(window, file.entry.len());
                    break self.detached(file, span)?;
                }
            }
        };
        // Somebody may have noticed, since the caller looked, that the file is shorter.
        let start = self.config.geometry.start(window);
        if (mapped.len() as u64) < end {
            return Err(truncated(start + mapped.len() as u64, start + end));
        }
        Ok(Some(mapped))
    }

    /// What is neither mapped nor to be had is read.
    fn read_instead(&self) -> Option<RegionRef> {
        self.stats.count(Event::Copy);
        None
    }

    /// What is done for who must have it.
    pub(crate) fn demand(&self) -> Effort {
        Effort::Demand(self.config.overcommit)
    }

    /// The policy's time goes on with the touches of what is not mapped: by [`STRIDE`] of them at once, so that those who read
    /// do not meet at its clock.
    #[cold]
    fn tick(&self) {
        let limit = self.regions.budget.limit();
        let window = self.config.geometry.window_bytes();
        let in_bytes = window.map_or(1, |bytes| limit.bytes as u64 / bytes);
        let has_room = self.has_room(window.unwrap_or(0) as usize);
        self.regions.tick(STRIDE as u32, in_bytes.min(limit.items as u64) as usize, has_room);
    }

    /// How far to go for it that a small range of a window is mapped, which was no [`hit`](Self::hit) a moment ago. `None`: it
    /// is to be read, and has been counted as a miss that is.
    #[inline]
    pub(crate) fn worth(&self, file: &CachedFile, slot: &Slot<Region>, window: u64, touch: Access) -> Option<Effort> {
        let is_whole = self.config.geometry.window_bytes().is_none();
        let admission = if is_whole { Admission::Always } else { self.config.admission };
        let credit = self.regions.credit(slot);
        if policy::admits_with_room(admission, touch, credit) {
            let effort = self.worth_of_one(file, window, admission, touch, credit);
            if effort.is_some() {
                return effort;
            }
        }
        if touch != Access::Counted {
            self.stats.count(Event::Again);
        } else if self.stats.count(Event::Cold) % STRIDE == 0 {
            self.tick();
        }
        None
    }

    /// The same for one that is worth mapping where there is room.
    #[cold]
    fn worth_of_one(
        &self,
        file: &CachedFile,
        window: u64,
        admission: Admission,
        touch: Access,
        credit: u8,
    ) -> Option<Effort> {
        let span = self.config.geometry.span(window, file.entry.len());
        let pages = Mapping::addressable(span.end - span.start).map_or(usize::MAX, Mapping::pages);
        if self.has_room(pages) {
            return Some(Effort::Spare);
        }
        policy::admits_over_victim(admission, touch, credit, self.regions.admission_threshold()).map(Effort::Duel)
    }

    /// Maps a window into its slot. Whatever goes wrong, dropping `loading` leaves the slot vacant.
    fn load(
        &self,
        file: &Arc<CachedFile>,
        loading: Loading<'_, Region>,
        window: u64,
        effort: Effort,
        patience: &mut Backoff,
    ) -> Result<Option<RegionRef>> {
        // Not before the slot is ours: whoever changes the length drains the slot afterwards.
        let span = self.config.geometry.span(window, file.entry.len_to_map());
        let mapped = self.map(file, span, effort, patience, |mapping, reservation| {
            self.regions.admit(loading, mapping, reservation, Arc::clone(file) as _)
        });
        match mapped {
            Ok(region) => Ok(Some(region)),
            Err(Unmapped::NoRoom(..) | Unmapped::NoMaps(..)) if !effort.is_demand() => Ok(None),
            Err(unmapped) => Err(self.explain(unmapped)),
        }
    }

    /// Maps `span` for its clients alone.
    pub(crate) fn detached(&self, file: &Arc<CachedFile>, span: Range<u64>) -> Result<RegionRef> {
        let granule = os::mapping_granularity() as u64;
        let start = span.start / granule * granule;
        let mapped = self.map(file, start..span.end, self.demand(), &mut Backoff::new(), |mapping, reservation| {
            file.entry.detached.enter();
            self.regions.admit_detached(mapping, reservation, Arc::clone(file) as _)
        });
        let region = mapped.map_err(|unmapped| self.explain(unmapped))?;
        let len = region.len();
        Ok(region.narrow((span.start - start) as usize..len))
    }

    /// Descriptor, length, room, mapping; then `publish`.
    fn map(
        &self,
        file: &Arc<CachedFile>,
        span: Range<u64>,
        effort: Effort,
        patience: &mut Backoff,
        publish: impl FnOnce(Mapping, Reservation) -> SlotRef<Region>,
    ) -> Result<RegionRef, Unmapped> {
        // Who may read instead needs the descriptor for that, and does not wait for it.
        let descriptor = self.descriptor(file, if effort.is_demand() { effort } else { Effort::Force })?;
        // A mapping beyond the end would fault when it is touched.
        let len = match self.config.revalidate {
            Revalidate::AtOpen => os::stat(descriptor.get()).map_err(cannot_look)?.len,
            Revalidate::Never => file.entry.len(),
        };
        if len < span.end || span.is_empty() {
            return Err(truncated(len, file.entry.len()).into());
        }
        let bytes = span.end - span.start;
        let Some(len) = Mapping::addressable(bytes) else { return Err(Unmapped::NoRoom(Refused::TooLarge, bytes)) };

        let mut transit = self.regions.budget.enter_transit();
        let pages = Mapping::pages(len);
        if effort.is_demand() && !self.has_room(pages) {
            self.regions.note_pressure();
        }
        let room = self.regions.make_room(&mut transit, pages, effort, patience);
        let Room { reservation, over } = room.map_err(|refused| Unmapped::NoRoom(refused, pages as u64))?;
        if over {
            self.stats.count(Event::Overcommit);
        }
        let mapping = self.map_or_collect(&descriptor, span.start, len, effort)?;
        self.stats.count(Event::Map);
        let region = RegionRef::new(publish(mapping, reservation));
        drop(transit);

        if self.is_room_low() {
            self.signal.wake();
        }
        Ok(region)
    }

    /// Asks the system for a mapping; if it refuses for want of room, gives back everything unused and asks once more.
    ///
    /// Where a mapping has to be, it goes on so for a short time: other threads may be unmapping at this moment what they
    /// won, or have mapped at once what was given back, and are done with it already.
    fn map_or_collect(
        &self,
        descriptor: &DescriptorRef,
        start: u64,
        len: usize,
        effort: Effort,
    ) -> Result<Mapping, Unmapped> {
        let mut wait = Backoff::new();
        let mut is_first = true;
        loop {
            let error = match Mapping::map(descriptor.get(), start, len) {
                Ok(mapping) => return Ok(mapping),
                Err(error) => error,
            };
            if !os::is_out_of_maps(&error) && !os::is_out_of_descriptors(&error) {
                return Err(Error::io("cannot map", error).into());
            }
            // Who may read instead does so, and leaves what is mapped to those who use it.
            if !effort.is_demand() || !(is_first || wait.pause_within(TRANSIT_MAX)) {
                return Err(Unmapped::NoMaps(error, len));
            }
            is_first = false;
            self.collect();
        }
    }

    /// A client of the file's descriptor, if it is open.
    #[inline]
    pub(super) fn open_descriptor_of(&self, file: &CachedFile) -> Option<DescriptorRef> {
        let slot = &file.entry.slots().descriptor;
        let client = slot.take().ok()?;
        self.descriptors.touch(slot);
        Some(client)
    }

    /// A client of the file's descriptor, which is reopened if it was given up.
    #[cold]
    pub(super) fn descriptor(&self, file: &Arc<CachedFile>, effort: Effort) -> Result<DescriptorRef> {
        let slot = &file.entry.slots().descriptor;
        let mut wait = Backoff::new();
        loop {
            if let Some(client) = self.open_descriptor_of(file) {
                return Ok(client);
            }
            // Before the slot is this thread's: it may have to wait, and others are not to wait for it.
            let reservation = self.reserve_descriptor(effort)?;
            match slot.begin_load() {
                Ok(loading) => {
                    let descriptor = self.reopen(file)?;
                    return Ok(self.descriptors.admit(loading, descriptor, reservation, Arc::clone(file) as _));
                }
                // Somebody else is reopening it, or closing it.
                Err(_) => {
                    drop(reservation);
                    wait.pause();
                }
            }
        }
    }

    /// Opens the first of the file's names that still leads to it.
    pub(super) fn reopen(&self, file: &Arc<CachedFile>) -> Result<fs::File> {
        let mut failed =
            Error::new(ErrorKind::Replaced, "its descriptor was given up, and it has no name to open it by");
        for name in file.entry.names() {
            let (descriptor, stat) = match self.open_descriptor(&name) {
                Ok(descriptor) => {
                    let stat = os::stat(&descriptor).map_err(cannot_look)?;
                    (descriptor, stat)
                }
                Err(error) => {
                    failed = error;
                    continue;
                }
            };
            if stat.kind == Kind::File && FileKey::from(&stat) == file.entry.key() {
                return Ok(descriptor);
            }
            let message = "the path leads to another file by now, and the descriptor of the old one was given up for \
                           max_open_files; open the path again, or raise max_open_files";
            failed = Error::new(ErrorKind::Replaced, message);
        }
        Err(failed)
    }

    /// Opens a path; if the system refuses for want of descriptors, closes one that is unused and tries again, until none is
    /// left; then unmaps everything unused and tries once more.
    ///
    /// One at a time: what was closed and is then taken by others in this process could not be opened again.
    pub(super) fn open_descriptor(&self, path: &Path) -> Result<fs::File> {
        let mut is_last_try = false;
        loop {
            let error = match os::open(path) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            };
            if !os::is_out_of_descriptors(&error) {
                return Err(Error::io("cannot open", error));
            }
            if is_last_try {
                let message = format!("cannot open, with nothing unused left; {}", os::descriptor_limit_hint());
                return Err(Error::io(message, error));
            }
            match self.descriptors.victim() {
                Some(token) => drop(self.descriptors.reclaim(token)),
                None => {
                    self.collect();
                    is_last_try = true;
                }
            }
        }
    }

    pub(super) fn reserve_descriptor(&self, effort: Effort) -> Result<Reservation> {
        let mut transit: InTransit<'_> = self.descriptors.budget.enter_transit();
        let room = self.descriptors.make_room(&mut transit, 0, effort, &mut Backoff::new());
        if let Ok(Room { over: true, .. }) = &room {
            self.stats.count(Event::Overcommit);
        }
        room.map(|room| room.reservation).map_err(|_| {
            let limit = self.descriptors.budget.limit().items;
            let message =
                format!("all {limit} descriptors of max_open_files are in use or could not be reopened; raise it");
            Error::new(ErrorKind::OverBudget, message)
        })
    }

    #[cold]
    fn explain(&self, unmapped: Unmapped) -> Error {
        match unmapped {
            Unmapped::NoRoom(Refused::TooLarge, bytes) => self.too_large(bytes),
            Unmapped::NoRoom(Refused::AllPinned, bytes) => self.all_pinned(bytes),
            Unmapped::NoMaps(error, len) => {
                let hint = os::map_limit_hint();
                let message = format!("the system refused a mapping of {len} bytes, with nothing unused left; {hint}");
                Error::new(ErrorKind::OutOfMaps, message).because(error)
            }
            Unmapped::Failed(error) => error,
        }
    }

    fn too_large(&self, bytes: u64) -> Error {
        let limit = self.regions.budget.limit().bytes;
        let message = format!(
            "a mapping of {bytes} bytes is larger than the whole budget of {limit}; raise max_mapped_bytes, \
             ask for less at once, or use smaller windows"
        );
        Error::new(ErrorKind::OverBudget, message)
    }

    fn all_pinned(&self, bytes: u64) -> Error {
        let (used, limit) = (self.regions.budget.used(), self.regions.budget.limit());
        let message = format!(
            "no room for {bytes} bytes: all of {} bytes in {} regions are in use (limits: {} bytes, {} regions); \
             drop leases or cursors, raise the limits, or allow overcommit",
            used.bytes, used.items, limit.bytes, limit.items
        );
        Error::new(ErrorKind::OverBudget, message)
    }
}

#[cold]
pub(super) fn truncated(now: u64, before: u64) -> Error {
    let message = format!("the file has shrunk to {now} bytes, from {before}; refresh the handle");
    Error::new(ErrorKind::Truncated, message)
}

/// Why a window was not mapped. Where a copy does as well, nobody asks for the words, some of which take long to find.
#[derive(Debug)]
enum Unmapped {
    /// For want of room for so many bytes.
    NoRoom(Refused, u64),
    /// The system refused a mapping of so many bytes.
    NoMaps(io::Error, usize),
    Failed(Error),
}

impl From<Error> for Unmapped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::as_token;
    use crate::config::{Config, Limits, Overcommit, Window};
    use std::sync::mpsc;
    use std::thread;

    const WINDOW: u64 = 64 << 10;
    const LONG: Duration = Duration::from_secs(10);

    struct Opened {
        cache: Arc<Cache>,
        file: Arc<CachedFile>,
        on_disk: tempfile::NamedTempFile,
    }

    impl Opened {
        /// A cache of so many windows, and a file of `len` bytes in it.
        fn new(windows: u64, len: u64) -> Self {
            let limits = Limits { max_mapped_bytes: windows * WINDOW, max_regions: 1_000, max_open_files: 10 };
            let config = Config {
                geometry: Window::Sliding { bytes: WINDOW }.geometry(limits.max_mapped_bytes).unwrap(),
                overcommit: Overcommit::Allow,
                admission: Admission::Adaptive,
                revalidate: Revalidate::AtOpen,
            };
            let on_disk = tempfile::NamedTempFile::new().unwrap();
            on_disk.as_file().set_len(len).unwrap();
            let cache = Cache::new(config, limits);
            let file = cache.open(on_disk.path()).unwrap();
            Self { cache, file, on_disk }
        }

        fn slot(&self, window: u64) -> &Slot<Region> {
            self.file.entry.slots().windows.at(window)
        }

        /// A miss of the first window that has to be mapped.
        fn map(&self) -> RegionRef {
            self.cache.miss(&self.file, 0, 1, self.cache.demand()).unwrap().expect("a mapping, or an error")
        }
    }

    impl Drop for Opened {
        fn drop(&mut self) {
            self.cache.shut_down();
        }
    }

    #[test]
    fn a_loader_is_waited_for_however_long_it_takes() {
        let opened = Opened::new(8, WINDOW);
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            let loading = opened.slot(0).begin_load().expect("vacant");
            scope.spawn(|| done.send(opened.map()));
            let early = is_done.recv_timeout(6 * DRAIN_MAX);
            assert!(early.is_err(), "somebody else is loading, and it is mapped beside that");
            drop(loading);
            let _region = is_done.recv_timeout(LONG).expect("nobody is loading any more");
            assert_eq!((opened.cache.stats().maps, opened.file.entry.detached.count()), (1, 0));
        });
    }

    #[test]
    fn a_loader_whose_window_goes_at_once_is_not_waited_for() {
        let opened = Opened::new(8, WINDOW);
        let slot = opened.slot(0);
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            let loading = slot.begin_load().expect("vacant");
            assert!(as_token(slot.drain()).is_none());
            scope.spawn(|| done.send(opened.map()));
            let region = is_done.recv_timeout(LONG);
            drop(loading);
            assert!(region.is_ok(), "what is loaded now is not for who comes later");
            assert_eq!(opened.file.entry.detached.count(), 1);
        });
    }

    #[test]
    fn a_window_waits_a_moment_for_its_slot() {
        let opened = Opened::new(8, WINDOW);
        // Where the client is slow to go, the window may well be mapped beside it: so more than one try.
        let has_waited = (0..200).any(|_| {
            let older = opened.map();
            assert!(as_token(opened.slot(0).drain()).is_none());
            let misses = opened.cache.stats().misses;
            let newer = thread::scope(|scope| {
                scope.spawn(|| {
                    while opened.cache.stats().misses == misses {
                        thread::yield_now();
                    }
                    thread::sleep(Duration::from_millis(1));
                    drop(older);
                });
                opened.map()
            });
            let has_waited = opened.file.entry.detached.count() == 0;
            drop(newer);
            has_waited
        });
        assert!(has_waited, "always mapped beside what was just going");
    }

    #[test]
    fn a_window_that_became_shorter_says_from_where_to_where() {
        let opened = Opened::new(8, WINDOW + 3_000);
        opened.on_disk.as_file().set_len(WINDOW + 1_000).unwrap();
        opened.cache.refresh(&opened.file, None).unwrap();
        let error = opened.cache.miss(&opened.file, 1, 3_000, opened.cache.demand()).unwrap_err();
        let says = format!("shrunk to {} bytes, from {};", WINDOW + 1_000, WINDOW + 3_000);
        assert!(error.kind() == ErrorKind::Truncated && error.to_string().contains(&says), "{error}");
    }

    #[test]
    fn time_goes_on_with_misses_for_each_window_in_the_budget() {
        let opened = Opened::new(64, 2 * WINDOW);
        let other = opened.slot(1);
        (0..8).for_each(|_| opened.cache.regions.touch(other));
        let cold = |touch| assert_eq!(opened.cache.worth(&opened.file, opened.slot(0), 0, touch), None);
        let period = u64::from(policy::clock_period(64, true));
        // The first miss brings its stride with it.
        (0..period - STRIDE).for_each(|_| cold(Access::Counted));
        (0..period).for_each(|_| cold(Access::Repeat));
        assert_eq!(opened.cache.regions.credit(other), 8);
        cold(Access::Counted);
        assert_eq!(opened.cache.regions.credit(other), 4);
        let stats = opened.cache.stats();
        assert_eq!((stats.misses, stats.copies), (2 * period - STRIDE + 1, stats.misses));
    }

    #[test]
    fn time_goes_on_with_what_has_to_be_mapped() {
        let opened = Opened::new(64, 2 * WINDOW);
        let other = opened.slot(1);
        (0..8).for_each(|_| opened.cache.regions.touch(other));
        (0..policy::clock_period(64, true)).for_each(|_| drop(opened.map()));
        assert_eq!(opened.cache.regions.credit(other), 4);
    }

    #[test]
    fn a_window_is_mapped_where_there_is_room_after_some_touches() {
        let opened = Opened::new(64, WINDOW);
        let slot = opened.slot(0);
        for touches in 1..policy::ADMIT_AFTER {
            opened.cache.regions.touch(slot);
            assert_eq!(opened.cache.worth(&opened.file, slot, 0, Access::Counted), None, "{touches}");
        }
        assert_eq!(opened.cache.worth(&opened.file, slot, 0, Access::Sustained), Some(Effort::Spare));
        opened.cache.regions.touch(slot);
        assert_eq!(opened.cache.worth(&opened.file, slot, 0, Access::Counted), Some(Effort::Spare));
        let region = opened.cache.miss(&opened.file, 0, WINDOW, Effort::Spare).unwrap();
        assert!(region.is_some_and(|region| region.len() as u64 == WINDOW));
    }

    #[test]
    fn nothing_is_given_up_for_a_path_that_leads_nowhere() {
        let opened = Opened::new(8, WINDOW);
        drop(opened.map());
        let error = opened.cache.open_descriptor(&opened.on_disk.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().starts_with("cannot open:"), "{error}");
        assert_eq!((opened.cache.stats().regions, opened.cache.stats().open_files), (1, 1));
    }
}
