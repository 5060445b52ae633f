//! Telling the OS how a mapping is read, and bringing a window into memory before a sequential reader touches it.
//!
//! By default the OS reads far around each page that a reader touches. So a window that scattered reads have mapped is
//! *scattered*: the OS reads only the pages that readers touch. (LMDB's `MDB_NORDAHEAD`, RocksDB's
//! `advise_random_on_open` and Lucene's `ReadAdvice.RANDOM` do this for whole files.) A reader of contiguous pages in
//! such a window would then wait for the disk once a page. If several of its reads in a row are contiguous, the cache
//! reads ahead for it, in steps that grow, and then the rest of the window, which is no longer scattered. After some
//! reads that were not contiguous, the window is *settled*: its reads are hits like all others, until one begins at its
//! start, where a sequential reader would enter.
//!
//! If a sequential reader's window is not in the page cache, the OS reads it as large pages, which are cheap to map,
//! two at a time and ahead of the reader. This ends when the reader enters the next window. If the OS cannot do that,
//! the window is read through the descriptor. Either way the disk gets large requests. A window that is in the page
//! cache is left alone: each first touch then maps sixteen pages, or a large one. Mapping all pages in advance
//! (`MADV_POPULATE_READ`) was slower in a warm scan, because it walks over each page.

use std::ops::Range;
use std::sync::Arc;

use super::region::Region;
use super::{Cache, CachedFile};
use crate::config;
use crate::error::Result;
use crate::os::{self, Advice, ReadAhead};
use crate::sync::Ordering;

/// The way in which the caller that maps a window is known to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Unknown,
    /// Small reads in no order.
    Scattered,
    /// Several reads in a row were contiguous, so the rest of the window will be read.
    Sequential,
}

/// The two high bits of a mapping's [pattern](crate::mapping::Mapping::pattern): its state. At first it is 0.
const STATE: u32 = 0b11 << 30;
/// The OS reads ahead as it does by default.
const PLAIN: u32 = 0b01 << 30;
/// The OS reads only what is touched. The low bits contain the [`LastReads`].
const SCATTERED: u32 = 0b10 << 30;
/// The rest of the window was read ahead, was in memory, or must not be read ahead. This is final, so that the OS is
/// asked once a mapping.
const CHECKED: u32 = 0b11 << 30;
/// As [`CHECKED`], and the OS reads by large pages until the reader has left the window.
const LARGE_PAGES: u32 = CHECKED | 1;

/// Contiguous reads, by leases and copies, after which a scattered window is read ahead. Two threads that read one
/// small window at random seldom make as many by chance.
const SEVERAL_SHARED: u32 = 8;
/// Contiguous reads of one cursor after which a scattered window is read ahead.
const SEVERAL_OWN: u32 = 4;
/// Contiguous reads after which the rest of a scattered window is read.
const MANY: u32 = 32;
/// The largest step of read-ahead in a scattered window, in bytes. The next one is the rest of the window.
const STEP_MAX: u64 = 256 << 10;

/// The bytes at the start of a settled window in which a sequential reader begins to read it.
const FIRST: u64 = 4096;
/// The fewest bytes of a settled window of which the reads are recorded again after one that begins there. In a smaller
/// window, random reads would do so too often.
const RESTART_MIN: usize = 1 << 20;

/// The last reads in a scattered window. Several threads share the value, so it is an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastReads {
    /// Reads that were not contiguous: 15 at most, and then the window is settled.
    jumps: u32,
    /// Reads of the current contiguous run of leases and copies, without its first one: 63 at most.
    run: u32,
    /// The low 20 bits of the index of the page after the last one that a lease or a copy read.
    end: u32,
}

impl LastReads {
    const PAGES: u32 = (1 << 20) - 1;
    const RUN_MAX: u32 = (1 << 6) - 1;
    const JUMPS_MAX: u32 = (1 << 4) - 1;

    #[inline]
    fn of_word(word: u32) -> Self {
        Self { jumps: word >> 26 & Self::JUMPS_MAX, run: word >> 20 & Self::RUN_MAX, end: word & Self::PAGES }
    }

    fn to_word(self) -> u32 {
        SCATTERED | self.jumps << 26 | self.run << 20 | self.end
    }

    #[inline]
    fn is_settled(self) -> bool {
        self.jumps == Self::JUMPS_MAX
    }

    /// Returns the state before a read that is recorded: that of a settled window begins anew.
    fn restarted(self) -> Self {
        Self { jumps: if self.is_settled() { 0 } else { self.jumps }, ..self }
    }

    /// Returns the state after a read that was not contiguous.
    fn jumped(self) -> Self {
        Self { jumps: (self.jumps + 1).min(Self::JUMPS_MAX), run: 0, ..self }
    }

    /// Returns the state after a read of the pages from `first` to `end`, or `None` if that read the last page again.
    fn next(self, first: u64, end: u64) -> Option<Self> {
        let gap = (first as u32).wrapping_sub(self.end) & Self::PAGES;
        // The read begins in the page where the last one ended, or in the next one.
        let is_contiguous = gap == 0 || gap == Self::PAGES;
        let end = end as u32 & Self::PAGES;
        match is_contiguous {
            true if end == self.end => None,
            true => Some(Self { end, run: (self.run + 1).min(Self::RUN_MAX), ..self }),
            false => Some(Self { end, ..self.jumped() }),
        }
    }
}

/// Returns the index of the page of a region that contains the byte at `at`.
fn page(at: u64) -> u64 {
    at >> os::page_size().trailing_zeros()
}

impl Region {
    /// Tells the OS how the region will be read. For the caller that maps the region at offset `start` of the file: if
    /// another one was quicker, its pattern stays, unless the new one is sequential.
    pub(crate) fn expect(&self, start: u64, pattern: Pattern) {
        // The pages of such files are in memory, and so are those of copies.
        if self.file().system.allocates_holes() || self.mapping().is_private() {
            return;
        }
        let settle = |state| {
            // Relaxed, here and below: the word is a hint, and orders nothing.
            self.mapping().pattern().compare_exchange(0, state, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        match (self.file().advice(), pattern) {
            // Final, so that nothing is read ahead.
            (config::Advice::Random, _) if settle(CHECKED) => self.mapping().advise(Advice::Random),
            (config::Advice::Random, _) => {}
            (config::Advice::Sequential, _) | (_, Pattern::Sequential) => self.read_rest(start, start),
            (_, Pattern::Scattered) if settle(SCATTERED) => self.mapping().advise(Advice::Random),
            (_, Pattern::Scattered) => {}
            (_, Pattern::Unknown) => _ = settle(PLAIN),
        }
    }

    /// Returns `true` if the OS reads only those pages of the region that are touched.
    #[inline]
    pub(crate) fn is_scattered(&self) -> bool {
        self.mapping().pattern().load(Ordering::Relaxed) & STATE == SCATTERED
    }

    /// Returns `true` if all reads of the region are to be recorded.
    #[inline]
    pub(crate) fn records_reads(&self) -> bool {
        let word = self.mapping().pattern().load(Ordering::Relaxed);
        // One comparison for the state and the number of jumps, which are the high bits.
        word.wrapping_sub(SCATTERED) < LastReads::JUMPS_MAX << 26
    }

    /// Returns `true` if a read at index `at` of the region is to be recorded, although others are not: a sequential
    /// reader may enter the region there.
    #[inline]
    pub(crate) fn records_first_read(&self, at: u64) -> bool {
        at < FIRST && self.is_scattered() && self.mapping().len() >= RESTART_MIN
    }

    /// Lets the OS read ahead by default in a scattered region, for a reader of all of it.
    #[cold]
    pub(crate) fn end_scattered(&self) {
        let pattern = self.mapping().pattern();
        let word = pattern.load(Ordering::Relaxed);
        let is_mine = || pattern.compare_exchange(word, PLAIN, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if word & STATE == SCATTERED && is_mine() {
            self.mapping().advise(Advice::Normal);
        }
    }

    /// Returns `true` if a read by a lease or a copy at index `at` of the region is to be recorded.
    #[inline]
    pub(crate) fn records_read(&self, at: u64) -> bool {
        self.records_reads() || self.records_first_read(at)
    }

    /// Records a read by a lease or a copy, and reads ahead if several of them were contiguous. The region starts at
    /// `start` of the file. `read` is not empty, and consists of indices in the region.
    #[cold]
    pub(crate) fn record_read(&self, start: u64, read: Range<u64>) {
        let pattern = self.mapping().pattern();
        let word = pattern.load(Ordering::Relaxed);
        let last = LastReads::of_word(word).restarted();
        let next = last.next(page(read.start), page(read.end - 1) + 1);
        let Some(next) = next.filter(|_| word & STATE == SCATTERED) else { return };
        // If it fails, another thread has read at the same time: the run has ended.
        if pattern.compare_exchange(word, next.to_word(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.follow(start, start + read.start..start + read.end, next.run, SEVERAL_SHARED);
        }
    }

    /// Records a read by a cursor in a scattered region, and reads ahead if its last `run` reads were contiguous,
    /// before that of `range`.
    pub(crate) fn follow_cursor(&self, start: u64, range: Range<u64>, run: u32) {
        let pattern = self.mapping().pattern();
        let word = pattern.load(Ordering::Relaxed);
        let last = LastReads::of_word(word);
        let next = if run == 0 { last.restarted().jumped() } else { last.restarted() };
        if word & STATE == SCATTERED && next != last {
            // If it fails, another thread has recorded a read, and this one is lost.
            _ = pattern.compare_exchange(word, next.to_word(), Ordering::Relaxed, Ordering::Relaxed);
        }
        self.follow(start, range, run, SEVERAL_OWN);
    }

    /// Reads ahead as much as was read in the run, by ever longer steps, and at last the rest of the window.
    fn follow(&self, start: u64, range: Range<u64>, run: u32, several: u32) {
        if run < several {
            return;
        }
        let len = (range.end - range.start).max(os::page_size() as u64);
        let ahead = len.saturating_mul(run.into());
        if run >= MANY || ahead > STEP_MAX {
            self.read_rest(start, range.end);
        } else if run.is_power_of_two() {
            let at = (range.end - start) as usize;
            let end = self.mapping().len().min(at + ahead as usize);
            self.mapping().will_need(at..end);
        }
    }

    /// Reads the region from the offset `from` of the file on, if it is not in memory. The region starts at `start`.
    ///
    /// A hint: errors are left to the reader that touches the bytes. It does nothing to the page cache if the file's
    /// descriptor is closed. It does nothing at all after its first call for a mapping: a hit makes no system call.
    pub(crate) fn read_rest(&self, start: u64, from: u64) {
        let pattern = self.mapping().pattern();
        // The load spares the readers of a shared window the write.
        if pattern.load(Ordering::Relaxed) & STATE == CHECKED {
            return;
        }
        let before = pattern.swap(CHECKED, Ordering::Relaxed) & STATE;
        // In a file with holes to allocate, it would allocate them. All other pages are in memory, or swapped out.
        if before == CHECKED || self.file().system.allocates_holes() || self.mapping().is_private() {
            return;
        }
        if before == SCATTERED {
            self.mapping().advise(Advice::Normal);
        }
        // A detached region is mapped from the start of the page.
        let start = start - start % os::mapping_granularity() as u64;
        if let Some(open) = &*self.file().descriptor.peek() {
            if self.mapping().read_ahead(&open.file, start, (from - start) as usize) == ReadAhead::OnAccess {
                pattern.store(LARGE_PAGES, Ordering::Relaxed);
            }
        }
        self.mapping().advise(Advice::Sequential);
    }

    /// Ends read-ahead by large pages. A random access of an evicted page would otherwise read several MiB.
    fn end_large_pages(&self) {
        let change = (LARGE_PAGES, CHECKED);
        let pattern = self.mapping().pattern();
        if pattern.compare_exchange(change.0, change.1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.mapping().advise(Advice::SmallPages);
        }
    }
}

impl Cache {
    /// Asks the OS to read the pages of `range` of a file into memory, without waiting for the disk. Returns `false` if
    /// the OS has no call for that.
    pub(crate) fn will_need(&self, file: &Arc<CachedFile>, range: Range<u64>) -> Result<bool> {
        Ok(os::will_need(&self.descriptor(file, None)?.file, range))
    }
}

impl CachedFile {
    /// Ends the read-ahead by large pages in a window, which a sequential reader has left.
    pub(crate) fn end_large_pages(&self, window: u64) {
        if let Some(client) = self.windows().get(window).and_then(|slot| slot.take().ok()) {
            client.end_large_pages();
        }
    }

    /// Returns `true` if a window is mapped and its end was accessed through the mapping.
    ///
    /// For a cursor that enters the window after it: the cursor does not record its reads inside a window.
    pub(crate) fn was_end_of_window_read(&self, window: u64) -> bool {
        let client = self.windows().get(window).and_then(|slot| slot.take().ok());
        client.is_some_and(|client| client.mapping().was_end_accessed())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::cache::load::tests::{Opened, WINDOW as SMALL_WINDOW};
    use crate::cache::room::{RoomPolicy, WhenFull};
    use crate::os::{self, page_cache};
    use crate::{Admission, Cursor, MapManager, MappedFile, Window};
    use std::fs;
    use std::io::Read as _;

    const WINDOW: usize = 1 << 20;

    /// Returns a file of three windows and one byte, none of it in memory, and a function that returns `true` if all of
    /// a window is in memory. Returns `None` if the OS keeps the file's pages.
    fn cold() -> Option<(MappedFile, impl Fn(usize) -> bool)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![7; 3 * WINDOW + 1]).unwrap();
        // A small read maps its window as well.
        let builder =
            MapManager::builder().window(Window::Sliding { bytes: WINDOW as u64 }).admission(Admission::Always);
        #[allow(unsafe_code, reason = "the promise is kept: no process changes the file")]
        // SAFETY: no process changes the file.
        let maps = unsafe { builder.build() }.unwrap();
        let file = page_cache::drop_pages(&os::open(&path).unwrap()).then(|| maps.open(&path).unwrap())?;
        let is_in_memory = move |window| {
            let pages = page_cache::pages(&os::open(&directory.path().join("file")).unwrap());
            !pages.chunks(WINDOW / os::page_size()).nth(window).unwrap().contains(&false)
        };
        Some((file, is_in_memory))
    }

    const PIECE: u64 = 64 << 10;

    /// Reads some bytes at an offset: an access.
    type Touch = fn(&mut Cursor, u64);
    const TOUCH: [Touch; 3] = [
        |cursor, at| assert!(cursor.window_at(at).unwrap().iter().all(|&byte| byte == 7)),
        |cursor, at| assert_eq!(cursor.slice(at..at + PIECE).unwrap(), [7; PIECE as usize]),
        |cursor, at| {
            cursor.set_position(at);
            cursor.read_exact(&mut [0; PIECE as usize]).unwrap();
        },
    ];

    /// Returns `true` if a cursor that made these accesses prefaulted the window of the last one.
    fn is_prefaulted(file: &MappedFile, touch: Touch, offsets: impl Iterator<Item = u64>) -> bool {
        let mut cursor = file.cursor();
        offsets.for_each(|at| touch(&mut cursor, at));
        cursor.held().region().is_some_and(|region| region.mapping().pattern().load(Ordering::Relaxed) == CHECKED)
    }

    #[test]
    fn sequential_cursor_prefaults_the_next_window() {
        for touch in TOUCH {
            let Some((file, is_in_memory)) = cold() else { return };
            assert!(is_prefaulted(&file, touch, (0..=WINDOW as u64).step_by(PIECE as usize)));
            assert!(is_in_memory(1));
        }
    }

    #[test]
    fn last_reads_count_contiguous_ones_and_jumps() {
        let read = |last: LastReads, pages: Range<u64>| last.next(pages.start, pages.end);
        let at = |end, run| LastReads { jumps: 2, run, end };
        let after_jump = |end| LastReads { jumps: 3, run: 0, end };
        assert_eq!(read(at(7, 3), 7..9), Some(at(9, 4)));
        assert_eq!(read(at(7, 3), 6..8), Some(at(8, 4)), "from the page where the last one ended");
        assert_eq!(read(at(7, 3), 6..7), None);
        assert_eq!([8, 5].map(|page| read(at(7, 3), page..page + 1)), [9, 6].map(|end| Some(after_jump(end))));
        assert_eq!(read(at(LastReads::PAGES, 63), 0xf_ffff..0x10_0001), Some(at(1, 63)), "both numbers have an end");
        let most = LastReads { jumps: LastReads::JUMPS_MAX, ..at(LastReads::PAGES, LastReads::RUN_MAX) };
        for last in [at(0, 0), most] {
            assert_eq!((LastReads::of_word(last.to_word()), last.to_word() & STATE), (last, SCATTERED));
        }
        assert_eq!(most.jumped().jumps, LastReads::JUMPS_MAX);
        assert_eq!((most.restarted().jumps, at(0, 0).restarted().jumps), (0, 2));
    }

    #[test]
    fn scattered_region_is_settled_by_jumps_until_a_read_begins_at_its_start() {
        for (len, restarts) in [(RESTART_MIN as u64, true), (SMALL_WINDOW, false)] {
            let opened = Opened::new(64, 2 * RESTART_MIN as u64);
            let held = opened.cache.map_detached(&opened.file, 0..len, RoomPolicy::Required(WhenFull::Fail)).unwrap();
            let region = held.region().expect("it is mapped");
            region.expect(0, Pattern::Scattered);
            let record = |at: u64| {
                if region.records_read(at) {
                    region.record_read(0, at..at + 1);
                }
            };
            let jump = |number: u64| record(20_000 * (number % 2) + 5_000);
            for number in 0..u64::from(LastReads::JUMPS_MAX) {
                assert!(region.records_reads(), "{number}");
                jump(number);
            }
            assert!(!region.records_reads() && region.is_scattered());
            jump(0);
            assert!(!region.records_reads());
            record(0);
            assert_eq!(region.records_reads(), restarts, "{len} bytes");
            // By a cursor, whose contiguous reads are counted elsewhere.
            region.follow_cursor(0, 0..1, 1);
            let jumps = (0..).take_while(|_| region.records_reads()).map(|_| region.follow_cursor(0, 9_000..9_001, 0));
            assert!(jumps.count() <= LastReads::JUMPS_MAX as usize);
        }
    }

    #[test]
    fn region_keeps_the_first_pattern_unless_a_later_one_is_sequential() {
        use Pattern::{Scattered, Sequential, Unknown};
        for (patterns, state) in [
            ([Scattered, Unknown], SCATTERED),
            ([Unknown, Scattered], PLAIN),
            ([Scattered, Sequential], CHECKED),
            ([Sequential, Scattered], CHECKED),
        ] {
            let opened = Opened::new(8, SMALL_WINDOW);
            let region = opened.cache.map_window(&opened.file, 0, SMALL_WINDOW);
            patterns.into_iter().for_each(|pattern| region.expect(0, pattern));
            let region = region.region().expect("it is mapped");
            assert_eq!(region.mapping().pattern().load(Ordering::Relaxed), state, "{patterns:?}");
            region.end_scattered();
            assert!(!region.is_scattered());
        }
    }

    #[test]
    fn large_pages_end_once_when_a_reader_leaves_the_window() {
        let opened = Opened::new(8, 2 * SMALL_WINDOW);
        let region = opened.cache.map_window(&opened.file, 1, SMALL_WINDOW);
        let pattern = || region.region().expect("it is mapped").mapping().pattern();
        for (before, after) in [(LARGE_PAGES, CHECKED), (CHECKED, CHECKED), (SCATTERED, SCATTERED), (0, 0)] {
            pattern().store(before, Ordering::Relaxed);
            [0, 1, u64::MAX].into_iter().for_each(|window| opened.file.end_large_pages(window));
            assert_eq!(pattern().load(Ordering::Relaxed), after);
        }
    }

    #[test]
    fn advice_of_the_file_decides_before_the_pattern() {
        for (advice, state) in [(config::Advice::Random, CHECKED), (config::Advice::Sequential, CHECKED)] {
            for pattern in [Pattern::Unknown, Pattern::Scattered, Pattern::Sequential] {
                let opened = Opened::new(8, SMALL_WINDOW);
                opened.file.set_advice(advice);
                let region = opened.cache.map_window(&opened.file, 0, SMALL_WINDOW);
                region.expect(0, pattern);
                let region = region.region().expect("it is mapped");
                assert_eq!(region.mapping().pattern().load(Ordering::Relaxed), state, "{advice:?}, {pattern:?}");
            }
        }
    }

    #[test]
    fn cursor_that_moves_backward_prefaults_nothing() {
        for touch in TOUCH {
            let Some((file, _)) = cold() else { return };
            assert!(!is_prefaulted(&file, touch, [2, 1, 0].map(|window| window * WINDOW as u64).into_iter()));
        }
    }

    #[test]
    fn windows_prefault_each_window() {
        let Some((file, is_in_memory)) = cold() else { return };
        let mut windows = file.windows();
        let last = windows.next_back().unwrap().unwrap();
        assert_eq!((last.len(), is_in_memory(3)), (1, true));
        for window in 0..3 {
            assert_eq!(windows.next().unwrap().unwrap().len(), WINDOW);
            assert!(is_in_memory(window), "{window}");
        }
    }

    /// The window was mapped before its pages left the page cache.
    #[test]
    fn windows_prefault_a_mapped_window() {
        let Some((file, is_in_memory)) = cold() else { return };
        let mut cursor = file.cursor();
        cursor.window_at(WINDOW as u64).unwrap();
        assert!(!is_in_memory(1));
        file.windows().nth(1).unwrap().unwrap();
        assert!(is_in_memory(1));
    }
}
