//! Mapping a window or a range: begin the load, make room, map, publish. Nothing is mapped anywhere else.
//!
//! One thread loads a window. Concurrently, other threads read the file if they may, or wait for that loader only. A
//! range is mapped *detached* (for its clients alone, inside the budget, in no table) in two cases: it crosses windows,
//! so it has no slot; or a draining region or a sleeping evicting thread holds the slot.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::copy::ended_early;
use super::descriptors::OpenFile;
use super::open::cannot_stat;
use super::region::{Region, RegionRef};
use super::room::{Room, RoomPolicy, TRANSIT_MAX, WhenFull};
use super::validate::reaches;
use super::{Cache, CachedFile, TICKS};
use crate::config::Revalidate;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::os;
use crate::protocol::budget::{InTransit, Reservation};
use crate::protocol::slot::{Loading, Phase, Slot};
use crate::stats::Event;

/// The longest wait for a slot that an older region or a sleeping evicting thread still holds. Then the window is
/// mapped detached.
const DRAIN_MAX: Duration = Duration::from_millis(5);

impl Cache {
    /// Returns the region of a window of which at least `min_len` bytes are mapped, and maps the window if necessary.
    ///
    /// Returns `None` if `policy` is not [`RoomPolicy::Required`] and the window is not available at once. The caller
    /// then reads the file; the copy is counted here. Want of room is never an error then.
    #[cold]
    pub(super) fn load_window(
        &self,
        file: &Arc<CachedFile>,
        slot: &Slot<Region>,
        window: u64,
        min_len: u64,
        policy: RoomPolicy,
    ) -> Result<Option<RegionRef>> {
        let count = self.stats.count(Event::Miss);
        if count % TICKS == 0 {
            self.tick(count);
        }
        let (mut for_loader, mut for_drain) = (Backoff::new(), Backoff::new());
        let mapped = loop {
            let state = match slot.take() {
                Ok(client) => {
                    let region = RegionRef::new(client);
                    if region.len() as u64 >= min_len && !is_faulted(&region) {
                        break Some(region);
                    }
                    drop(region);
                    self.drain_if_faulted(slot);
                    // Otherwise this is the old tail of a file that has grown. The thread that noticed the growth is
                    // about to drain the region.
                    slot.snapshot()
                }
                Err(state) => state,
            };
            match slot.begin_load() {
                Ok(loading) => break self.load(file, loading, window, policy)?,
                // This thread's cursor may have left the draining region by a switch, without trying the deferred list.
                Err(now) if now.is_draining() && self.regions.retry_deferred() > 0 => {}
                Err(_) if !policy.is_required() => break None,
                // `state` is older than the refused `begin_load`: a load that began since is waited for in the next
                // turn.
                Err(_) if state.phase() == Phase::Loading && !state.is_draining() => for_loader.pause(),
                Err(_) if for_drain.pause_within(DRAIN_MAX) => {}
                Err(_) => {
                    let span = self.config.geometry.span(window, file.len());
                    break Some(self.map_detached(file, span, policy)?);
                }
            }
        };
        let Some(mapped) = mapped else {
            self.stats.count(Event::Copy);
            return Ok(None);
        };
        // Another thread may have noticed, since the caller checked the range, that the file is shorter.
        let start = self.config.geometry.start(window);
        if (mapped.len() as u64) < min_len {
            return Err(truncated(start + mapped.len() as u64, start + min_len));
        }
        Ok(Some(mapped))
    }

    /// Maps a window into its slot. On an error, dropping `loading` leaves the slot vacant.
    fn load(
        &self,
        file: &Arc<CachedFile>,
        loading: Loading<'_, Region>,
        window: u64,
        policy: RoomPolicy,
    ) -> Result<Option<RegionRef>> {
        // The length is read after `begin_load`: a thread that changes it later drains the slot.
        let span = self.config.geometry.span(window, file.len_to_map());
        match self.map(file, Some(loading), span, policy) {
            Ok(region) => Ok(Some(region)),
            Err(NotMapped::Failed(error)) => Err(error),
            Err(_) if !policy.is_required() => Ok(None),
            Err(not_mapped) => Err(self.explain(file, not_mapped)),
        }
    }

    pub(super) fn map_detached(
        &self,
        file: &Arc<CachedFile>,
        span: Range<u64>,
        policy: RoomPolicy,
    ) -> Result<RegionRef> {
        let granule = os::mapping_granularity() as u64;
        let start = span.start / granule * granule;
        let mapped = self.map(file, None, start..span.end, policy);
        let region = mapped.map_err(|not_mapped| self.explain(file, not_mapped))?;
        let len = region.len();
        Ok(region.narrow((span.start - start) as usize..len))
    }

    /// Gets the descriptor, the room and the mapping of `span`, and publishes the mapping. Without a `loading`, the
    /// region is detached.
    ///
    /// If the file cannot be mapped, or an access to a mapping would allocate the pages of its holes, a required
    /// mapping is a copy. It has at most the length of a window. It is detached, because it does not follow changes of
    /// the file.
    fn map(
        &self,
        file: &Arc<CachedFile>,
        loading: Option<Loading<'_, Region>>,
        span: Range<u64>,
        policy: RoomPolicy,
    ) -> Result<RegionRef, NotMapped> {
        let is_range = loading.is_none();
        let (source, reservation, transit) = self.source_and_room(file, &span, policy, is_range)?;
        let (start, len) = (span.start, (span.end - span.start) as usize);
        let mapped = match source.is_copied {
            true => None,
            false => self.map_or_collect(file, &source.descriptor, start, len, policy)?,
        };
        let (mapping, loading) = match mapped {
            Some(mapping) => (mapping, loading),
            None if self.may_copy(&span, policy) => (copy_span(file, &source.descriptor.file, start, len)?, None),
            None => return Err(NotMapped::Unmappable(len as u64)),
        };
        self.stats.count(Event::Map);
        let region = RegionRef::new(self.regions.publish(loading, mapping, reservation, file));
        drop(transit);

        if !self.config.has_collector {
            self.trim_without_collector();
        } else if self.is_room_low() {
            self.wake_event.wake();
        }
        Ok(region)
    }

    /// Returns `true` if a copy may take the place of a mapping of `span`, which has at most one window, not counting
    /// the bytes that were put in front of it to align its start.
    fn may_copy(&self, span: &Range<u64>, policy: RoomPolicy) -> bool {
        let (window, granule) = (self.config.geometry.window_bytes(), os::mapping_granularity() as u64);
        policy.is_required() && window.is_none_or(|window| span.end - span.start < window.saturating_add(granule))
    }

    /// Returns `true` if a range larger than the whole budget is mapped. A budget below one window permits only copies.
    fn may_exceed_whole_budget(&self, policy: RoomPolicy) -> bool {
        let (window, limit) = (self.config.geometry.window_bytes(), self.regions.budget.limit());
        policy.when_full() == Some(WhenFull::Exceed) && window.is_none_or(|window| window <= limit.bytes as u64)
    }

    /// Returns the descriptor of a file that reaches to the end of `span`, room for the mapping, and the transit of the
    /// thread, which lasts until the mapping is published.
    ///
    /// The thread holds neither while it waits for the other. Otherwise two threads could wait for each other: this one
    /// for a window, and the one that holds the window, in a call of `open`, for this one's descriptor.
    fn source_and_room(
        &self,
        file: &Arc<CachedFile>,
        span: &Range<u64>,
        policy: RoomPolicy,
        is_range: bool,
    ) -> Result<(Source, Reservation, InTransit<'_>), NotMapped> {
        let mut room: Option<(Reservation, InTransit<'_>)> = None;
        loop {
            let descriptor = match &room {
                // An optional mapping needs the descriptor for its copy as well. It exceeds max_open_files instead of
                // waiting.
                None => self.descriptor(file, policy.when_full())?,
                Some(_) => match file.descriptor.get() {
                    Some(descriptor) => descriptor,
                    // Closed while this thread waited for room.
                    None => {
                        room = None;
                        continue;
                    }
                },
            };
            let source = self.source(file, descriptor, span)?;
            if source.is_copied && !self.may_copy(span, policy) {
                return Err(NotMapped::Unmappable(span.end - span.start));
            }
            let bytes = span.end - span.start;
            let len = Mapping::addressable(bytes).ok_or(NotMapped::TooLarge(bytes))?;
            let page = if source.is_copied { os::page_size() } else { file.system.page() };
            let pages = Mapping::budget_bytes(span.start, len, page);
            // Otherwise the room does not fit: the file has lost its last hole while this thread waited, and its pages
            // are larger than those of a copy.
            if let Some((reservation, transit)) = room.take().filter(|(room, _)| room.bytes() == pages) {
                return Ok((source, reservation, transit));
            }
            let mut transit = self.regions.budget.enter_transit();
            let exceeds_whole_budget = pages > self.regions.budget.limit().bytes;
            if exceeds_whole_budget && !(is_range && self.may_exceed_whole_budget(policy)) {
                return Err(NotMapped::TooLarge(pages as u64));
            }
            // Headroom would not help a range that never fits.
            if policy.is_required() && !exceeds_whole_budget && !self.has_room(pages) {
                self.regions.note_pressure();
            }
            if let Some(reservation) = self.regions.reserve_or_evict(pages, policy) {
                return Ok((source, reservation, transit));
            }
            drop(source);
            let made = if policy.is_required() { self.regions.make_room(&mut transit, pages, policy) } else { None };
            let Room { reservation, over } = made.ok_or(NotMapped::AllPinned(pages as u64))?;
            // At once: the limit is exceeded even if the mapping fails.
            if over {
                self.stats.count(Event::Overcommit);
            }
            room = Some((reservation, transit));
        }
    }

    /// Checks that the file reaches to the end of `span`, and decides how the bytes become readable. With
    /// `Revalidate::AtOpen` asks the OS for the length: an access to a mapping beyond the end of the file would fault.
    fn source(&self, file: &Arc<CachedFile>, mut descriptor: Arc<OpenFile>, span: &Range<u64>) -> Result<Source> {
        let (len, has_holes) = if self.config.revalidate == Revalidate::AtOpen || file.system.allocates_holes() {
            let stat = file.system.stat(&descriptor.file).map_err(cannot_stat)?;
            if descriptor.maps_another_file(&stat) {
                descriptor = self.replace_descriptor(file, &descriptor)?;
            }
            (stat.len, stat.is_sparse && file.system.allocates_holes())
        } else {
            (file.len(), false)
        };
        if len < span.end || span.is_empty() {
            return Err(truncated(len, file.len()));
        }
        Ok(Source { descriptor, is_copied: has_holes || file.is_unmappable() })
    }

    /// Asks the OS for a mapping. If the OS has no room, unmaps each unused region and asks again. Returns `None` if
    /// the OS does not map this file.
    ///
    /// A required mapping is tried for [`TRANSIT_MAX`]: other threads may be unmapping what they have retired, or may
    /// have mapped what was unmapped here.
    fn map_or_collect(
        &self,
        file: &CachedFile,
        descriptor: &OpenFile,
        start: u64,
        len: usize,
        policy: RoomPolicy,
    ) -> Result<Option<Mapping>, NotMapped> {
        let mut backoff = Backoff::new();
        let mut is_first = true;
        loop {
            let error = match Mapping::map(&descriptor.file, start, len, file.system.page()) {
                Ok(mapping) => {
                    if mapping.is_private() {
                        file.set_private();
                    }
                    return Ok(Some(mapping));
                }
                Err(error) => error,
            };
            if !os::is_out_of_maps(&error) && !os::is_out_of_descriptors(&error) {
                // Windows maps nothing beyond the end of a file, which may have been truncated since the look at its
                // length.
                reaches(&descriptor.file, start + len as u64)?;
                if os::is_unmappable(&error) {
                    if file.set_refusal(&error) {
                        self.stats.count(Event::Unmappable);
                    }
                    return Ok(None);
                }
                // It may have grown again since.
                if !std::mem::take(&mut is_first) {
                    return Err(NotMapped::Refused(error));
                }
                continue;
            }
            // A caller that may read the file instead leaves the mapped regions to their users.
            if !policy.is_required() || !(is_first || backoff.pause_within(TRANSIT_MAX)) {
                return Err(NotMapped::NoMaps(error, len));
            }
            is_first = false;
            self.collect();
        }
    }

    #[cold]
    fn explain(&self, file: &CachedFile, not_mapped: NotMapped) -> Error {
        let (used, limit) = (self.regions.budget.used(), self.regions.budget.limit());
        let message = match not_mapped {
            NotMapped::Failed(error) => return error,
            NotMapped::Refused(error) => return Error::io("cannot map", error),
            NotMapped::Unmappable(bytes) => {
                let message = format!(
                    "{bytes} bytes are too long for a copy, which has at most one window, and the file cannot be mapped: \
                     ask for less at once, or use `read_at`"
                );
                let error = Error::new(ErrorKind::Unmappable, message);
                return match file.refusal() {
                    Some(refusal) => error.because(refusal),
                    None => error,
                };
            }
            NotMapped::NoMaps(error, len) => {
                let hint = os::map_limit_hint(&error);
                let message = format!("the OS refused a mapping of {len} bytes, with nothing unused left: {hint}");
                return Error::new(ErrorKind::OutOfMaps, message).because(error);
            }
            NotMapped::TooLarge(bytes) => format!(
                "a mapping of {bytes} bytes is larger than the whole budget of {} bytes: raise max_mapped_bytes, ask \
                 for less at once, use smaller windows, or allow overcommit",
                limit.bytes
            ),
            NotMapped::AllPinned(bytes) => format!(
                "no room for {bytes} bytes, because all of {} bytes in {} regions are in use (limits: {} bytes, {} \
                 regions){}: drop leases or cursors, raise the limits, or allow overcommit",
                used.bytes,
                used.items,
                limit.bytes,
                limit.items,
                self.config.overcommit.after_wait()
            ),
        };
        Error::new(ErrorKind::OverBudget, message)
    }
}

/// Reads `len` bytes of the file into memory of their own.
fn copy_span(file: &CachedFile, descriptor: &File, start: u64, len: usize) -> Result<Mapping, NotMapped> {
    match Mapping::copy(descriptor, start, len) {
        Ok(Some(copy)) => Ok(copy),
        Ok(None) => Err(ended_early(descriptor, start, start + len as u64, file.len()).into()),
        Err(error) if os::is_out_of_maps(&error) => Err(NotMapped::NoMaps(error, len)),
        Err(error) => Err(Error::io("cannot read", error).into()),
    }
}

fn is_faulted(region: &RegionRef) -> bool {
    region.region().is_some_and(|region| region.mapping().is_faulted())
}

#[cold]
pub(super) fn truncated(now: u64, before: u64) -> Error {
    let message = format!("the file has shrunk to {now} bytes, from {before}: refresh the handle");
    Error::new(ErrorKind::Truncated, message)
}

/// The descriptor of a file whose bytes become readable.
struct Source {
    descriptor: Arc<OpenFile>,
    /// The bytes are read into memory instead of mapped.
    is_copied: bool,
}

/// Why a span was not mapped. An optional mapping drops the reason, so the message, which can take long, is made later.
#[derive(Debug)]
enum NotMapped {
    /// This many bytes are more than the whole budget.
    TooLarge(u64),
    /// The budget has no room for this many bytes now.
    AllPinned(u64),
    /// The OS had no room for a mapping of this many bytes.
    NoMaps(io::Error, usize),
    /// The OS does not map this file, or must not, and this many bytes are too long for a copy.
    Unmappable(u64),
    /// The OS refused the mapping for another reason.
    Refused(io::Error),
    /// Another failure, with its message.
    Failed(Error),
}

impl From<Error> for NotMapped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cache::reclaim::token_of;
    use crate::cache::region::tests::REFUSES_UNMAP;
    use crate::config::{Admission, Advice, Config, Limits, Overcommit, Window};
    use crate::geometry::Geometry;
    use crate::policy::{self, Access};
    use std::sync::mpsc;
    use std::thread;

    pub(in crate::cache) const WINDOW: u64 = 64 << 10;
    const LONG: Duration = Duration::from_secs(10);

    impl Cache {
        pub(in crate::cache) fn for_tests(geometry: Geometry, limits: Limits) -> Arc<Self> {
            let (overcommit, admission, revalidate) = (Overcommit::Allow, Admission::Adaptive, Revalidate::AtOpen);
            let advice = Advice::Adaptive;
            Self::new(Config { geometry, overcommit, admission, revalidate, advice, has_collector: true }, limits)
        }

        /// Returns the region of a window, mapped if it was not.
        pub(in crate::cache) fn map_window(&self, file: &Arc<CachedFile>, window: u64, min_len: u64) -> RegionRef {
            let policy = RoomPolicy::Required(self.when_full());
            let loaded = self.load_window(file, file.windows().at(window), window, min_len, policy);
            loaded.unwrap().expect("a required window is mapped, or there is an error")
        }
    }

    pub(in crate::cache) struct Opened {
        pub(in crate::cache) cache: Arc<Cache>,
        pub(in crate::cache) file: Arc<CachedFile>,
        pub(in crate::cache) on_disk: tempfile::NamedTempFile,
    }

    impl Opened {
        /// Makes a cache with room for `windows`, and opens a file of `len` bytes in it.
        pub(in crate::cache) fn new(windows: u64, len: u64) -> Self {
            let limits = Limits { max_mapped_bytes: windows * WINDOW, max_regions: 1_000, max_open_files: 10 };
            let geometry = Window::Sliding { bytes: WINDOW }.geometry(limits.max_mapped_bytes).unwrap();
            let on_disk = tempfile::NamedTempFile::new().unwrap();
            on_disk.as_file().set_len(len).unwrap();
            let cache = Cache::for_tests(geometry, limits);
            let file = cache.open(on_disk.path()).unwrap();
            Self { cache, file, on_disk }
        }

        pub(in crate::cache) fn slot(&self, window: u64) -> &Slot<Region> {
            self.file.windows().at(window)
        }

        fn load(&self, window: u64, min_len: u64, policy: RoomPolicy) -> Result<Option<RegionRef>> {
            self.cache.load_window(&self.file, self.slot(window), window, min_len, policy)
        }

        /// Maps the first window.
        fn map(&self) -> RegionRef {
            self.cache.map_window(&self.file, 0, 1)
        }
    }

    impl Drop for Opened {
        fn drop(&mut self) {
            REFUSES_UNMAP.set(false);
            self.cache.shut_down();
        }
    }

    #[test]
    fn load_waits_for_another_loader_without_a_limit() {
        let opened = Opened::new(8, WINDOW);
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            let loading = opened.slot(0).begin_load().expect("vacant");
            scope.spawn(|| done.send(opened.map()));
            let early = is_done.recv_timeout(6 * DRAIN_MAX);
            assert!(early.is_err(), "the window was mapped beside another loader");
            drop(loading);
            let _region = is_done.recv_timeout(LONG).expect("the other loader has abandoned its load");
            assert_eq!((opened.cache.stats().maps, opened.file.detached.count()), (1, 0));
        });
    }

    #[test]
    fn load_beside_a_draining_loader_maps_detached() {
        let opened = Opened::new(8, WINDOW);
        let slot = opened.slot(0);
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            let loading = slot.begin_load().expect("vacant");
            assert!(token_of(slot.drain()).is_none());
            scope.spawn(|| done.send(opened.map()));
            let region = is_done.recv_timeout(LONG);
            drop(loading);
            assert!(region.is_ok(), "the thread waited for a loader whose region is draining already");
            assert_eq!(opened.file.detached.count(), 1);
        });
    }

    #[test]
    fn load_waits_a_moment_for_a_draining_slot() {
        let opened = Opened::new(8, WINDOW);
        // If the client is slow, the window is rightly mapped detached. So the test tries more than once.
        let has_waited = (0..200).any(|_| {
            let older = opened.map();
            assert!(token_of(opened.slot(0).drain()).is_none());
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
            let has_waited = opened.file.detached.count() == 0;
            drop(newer);
            has_waited
        });
        assert!(has_waited, "each try mapped a detached window");
    }

    #[test]
    fn load_past_a_new_end_names_both_lengths() {
        let opened = Opened::new(8, WINDOW + 3_000);
        opened.on_disk.as_file().set_len(WINDOW + 1_000).unwrap();
        opened.cache.refresh(&opened.file, None).unwrap();
        let error = opened.load(1, 3_000, RoomPolicy::Required(WhenFull::Exceed)).err().expect("too short");
        let says = format!("shrunk to {} bytes, from {}:", WINDOW + 1_000, WINDOW + 3_000);
        assert!(error.kind() == ErrorKind::Truncated && error.to_string().contains(&says), "{error}");
    }

    #[test]
    fn clock_advances_with_counted_misses() {
        let opened = Opened::new(64, 2 * WINDOW);
        let other = opened.slot(1);
        (0..8).for_each(|_| opened.cache.regions.record_access(other));
        let miss = |access| assert_eq!(opened.cache.admit(&opened.file, Some(opened.slot(0)), 0, access), None);
        let period = u64::from(policy::clock_period(64, true));
        // The first miss advances the clock by all its ticks at once.
        (0..period - TICKS).for_each(|_| miss(Access::Counted));
        (0..period).for_each(|_| miss(Access::Repeat));
        assert_eq!(opened.cache.regions.frequency(other), 8);
        miss(Access::Counted);
        assert_eq!(opened.cache.regions.frequency(other), 4);
        let stats = opened.cache.stats();
        assert_eq!((stats.misses, stats.copies), (2 * period - TICKS + 1, stats.misses));
    }

    #[test]
    fn clock_advances_with_required_mappings() {
        let opened = Opened::new(64, 2 * WINDOW);
        let other = opened.slot(1);
        (0..8).for_each(|_| opened.cache.regions.record_access(other));
        (0..policy::clock_period(64, true)).for_each(|_| drop(opened.map()));
        assert_eq!(opened.cache.regions.frequency(other), 4);
    }

    #[test]
    fn mapping_larger_than_the_budget_is_no_pressure() {
        let opened = Opened::new(2, 4 * WINDOW);
        let map_detached =
            |span, when_full| opened.cache.map_detached(&opened.file, span, RoomPolicy::Required(when_full));
        assert!(map_detached(0..3 * WINDOW, WhenFull::Fail).is_err());
        drop(map_detached(0..3 * WINDOW, WhenFull::Exceed).unwrap());
        assert!(!opened.cache.regions.under_pressure());
        let _most = map_detached(0..2 * WINDOW, WhenFull::Fail).unwrap();
        drop(opened.map());
        assert!(opened.cache.regions.under_pressure());
    }

    #[test]
    fn window_is_admitted_at_the_first_access_if_mappings_pay_off_and_the_file_fits_the_budget() {
        for (windows, admitted) in [(4, Some(RoomPolicy::Free)), (5, None)] {
            let opened = Opened::new(4, windows * WINDOW);
            let admit = || opened.cache.admit(&opened.file, None, 1, Access::Counted);
            assert_eq!(admit(), None);
            drop(opened.map());
            (0..100).for_each(|_| opened.cache.regions.record_access(opened.slot(0)));
            (0..100).for_each(|number| opened.cache.regions.sample_earnings(true, number));
            assert_eq!(admit(), admitted, "{windows} windows");
            opened.cache.regions.sample_earnings(false, 0);
            assert_eq!(admit(), None, "the earnings were not forgotten");
        }
    }

    #[test]
    fn window_is_admitted_with_room_after_some_accesses() {
        let opened = Opened::new(64, WINDOW);
        let slot = opened.slot(0);
        for accesses in 1..policy::ADMIT_AFTER {
            opened.cache.regions.record_access(slot);
            assert_eq!(opened.cache.admit(&opened.file, Some(slot), 0, Access::Counted), None, "{accesses}");
        }
        assert_eq!(opened.cache.admit(&opened.file, Some(slot), 0, Access::Sustained), Some(RoomPolicy::Free));
        opened.cache.regions.record_access(slot);
        assert_eq!(opened.cache.admit(&opened.file, Some(slot), 0, Access::Counted), Some(RoomPolicy::Free));
        let region = opened.load(0, WINDOW, RoomPolicy::Free).unwrap();
        assert!(region.is_some_and(|region| region.len() as u64 == WINDOW));
    }

    #[test]
    fn open_of_a_missing_path_evicts_nothing() {
        let opened = Opened::new(8, WINDOW);
        drop(opened.map());
        let error = opened.cache.open_descriptor(&opened.on_disk.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().starts_with("cannot open:"), "{error}");
        assert_eq!((opened.cache.stats().regions, opened.cache.stats().open_files), (1, 1));
    }

    #[test]
    fn window_past_an_unnoticed_end_is_not_mapped() {
        let opened = Opened::new(8, 2 * WINDOW);
        opened.on_disk.as_file().set_len(WINDOW - 1).unwrap();
        for window in [0, 1] {
            for policy in [RoomPolicy::Free, RoomPolicy::Required(WhenFull::Exceed)] {
                let error = opened.load(window, 1, policy).err().expect("an access past the end would fault");
                assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
            }
        }
        assert_eq!((opened.cache.stats().maps, opened.cache.stats().regions), (0, 0));
    }
}
