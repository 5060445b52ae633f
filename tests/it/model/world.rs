//! A cache and its clients, driven by random calls. Each result is compared with a plain `Vec<u8>`.
//!
//! `tests/faults/` includes this file too. There, system calls fail at random, and a call may report such a fault.

use std::error::Error as _;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use smmap::{
    Admission, Buffer, Change, Cursor, Error, ErrorKind, Lease, Limits, MapManager, MappedFile, Overcommit, Stats,
    Window,
};

use crate::support::{Dir, TestFile, assert_same, calm, faults, letters, manager, mapped_below, own_faults, settles};

/// The granularity of mappings.
const PAGE: u64 = if cfg!(windows) { 64 << 10 } else { 4096 };
/// The longest range that may be copied instead of mapped.
const SMALL: u64 = 256 << 10;
/// The most clients of each kind that are kept. A further one replaces an old one.
const KEPT: usize = 8;

// ---------------------------------------------------------------------------------------------------------------------
// Random calls
// ---------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    seed: u64,
    /// Pages of a window; `None` for whole files.
    window: Option<u64>,
    /// Budget in windows, or in quarters of the longest file if windows are whole files.
    budget: u64,
    regions: usize,
    open_files: usize,
    overcommit: Overcommit,
    admission: Admission,
    pages: u64,
    delta: i64,
    /// `true` if the leases are dropped before the cache in the end.
    leases_first: bool,
}

/// Chooses one of the present items, modulo their number.
pub(crate) type Pick = u8;

/// An offset, relative to the file, a window border or the end. It may be past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    Anywhere(u16),
    AtBorder(u8, i8),
    AtEnd(i8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Few(u8),
    Pages(u8),
    QuarterWindows(u8),
    Large(u16),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    OpenPath(Pick),
    OpenDescriptor(Pick),
    CloneHandle(Pick),
    DropHandle(Pick),
    CloneManager(Pick),
    DropManager(Pick),

    NewCursor(Pick),
    CloneCursor(Pick),
    DropCursor(Pick),
    Slice(Pick, Spot, Size),
    WindowAt(Pick, Spot),
    Release(Pick),
    SeekRead(Pick, Whence, Size),
    ReadUntil(Pick, Spot, u8),
    FillConsume(Pick, u16),

    Lease(Pick, Spot, Size),
    LeaseClone(Pick),
    LeaseSlice(Pick, u16, u16),
    DropLease(Pick),
    CheckLeases,

    NewBuffer(Pick),
    CloneBuffer(Pick),
    DropBuffer(Pick),
    ReleaseBuffer(Pick),
    Get(Pick, Spot),
    GetBack(Pick, u16),
    BufferSlice(Pick, Spot, Size),
    Find(Pick, Spot, u8, bool),
    FindAll(Pick, Spot, u8),
    StartsEnds(Pick, Size, bool),
    Lines(Pick, u8),
    Split(Pick, u8, u8),

    ReadAt(Pick, Spot, Size),
    ReadExactAt(Pick, Spot, Size),
    Prefetch(Pick, Spot, Size),
    Windows(Pick, u32, Pick),
    Refresh(Pick),

    Collect,
    CloseFile(Pick),
    CloseAll,
    SetLimits(u8, u8, u8),
    Stats,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Whence {
    Start(Spot),
    End(i32),
    Current(i32),
}

/// Letters of the files: few, so that searches find something, and line ends.
const ALPHABET: &[u8] = b"aaab\r\nabcdabcdefghefghefghijklmnopqrstuvw";

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let overcommit = prop_oneof![
        3 => Just(Overcommit::Allow),
        2 => Just(Overcommit::Fail),
        1 => Just(Overcommit::Wait(Duration::from_millis(1))),
    ];
    let settings = (
        prop_oneof![5 => (1..=3_u64).prop_map(Some), 2 => (4..=16_u64).prop_map(Some), 1 => Just(None)],
        1..=8_u64,
        prop_oneof![3 => Just(1000_usize), 1 => 1..10_usize],
        prop_oneof![1 => Just(100_usize), 1 => 1..4_usize],
        overcommit,
        prop_oneof![Just(Admission::Adaptive), Just(Admission::Always)],
    );
    (settings, any::<u64>(), 1..6_u64, -1..=1_i64, any::<bool>()).prop_map(
        |((window, budget, regions, open_files, overcommit, admission), seed, pages, delta, leases_first)| Setup {
            seed,
            window,
            budget,
            regions,
            open_files,
            overcommit,
            admission,
            pages,
            delta,
            leases_first,
        },
    )
}

fn spot() -> impl Strategy<Value = Spot> {
    prop_oneof![
        4 => any::<u16>().prop_map(Spot::Anywhere),
        3 => (any::<u8>(), -3..=3_i8).prop_map(|(border, by)| Spot::AtBorder(border, by)),
        1 => (-20..=5_i8).prop_map(Spot::AtEnd),
    ]
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        4 => any::<u8>().prop_map(Size::Few),
        2 => (0..6_u8).prop_map(Size::Pages),
        3 => (0..14_u8).prop_map(Size::QuarterWindows),
        1 => any::<u16>().prop_map(Size::Large),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let pick = any::<Pick>;
    let files = prop_oneof![
        4 => pick().prop_map(Op::OpenPath),
        2 => pick().prop_map(Op::OpenDescriptor),
        1 => pick().prop_map(Op::CloneHandle),
        2 => pick().prop_map(Op::DropHandle),
        1 => pick().prop_map(Op::CloneManager),
        1 => pick().prop_map(Op::DropManager),
        3 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::ReadAt(a, b, c)),
        2 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::ReadExactAt(a, b, c)),
        1 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::Prefetch(a, b, c)),
        1 => (pick(), any::<u32>(), pick()).prop_map(|(a, b, c)| Op::Windows(a, b, c)),
        1 => pick().prop_map(Op::Refresh),
    ];
    let cursors = prop_oneof![
        3 => pick().prop_map(Op::NewCursor),
        1 => pick().prop_map(Op::CloneCursor),
        2 => pick().prop_map(Op::DropCursor),
        6 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::Slice(a, b, c)),
        5 => (pick(), spot()).prop_map(|(a, b)| Op::WindowAt(a, b)),
        2 => pick().prop_map(Op::Release),
        3 => (pick(), whence(), size()).prop_map(|(a, b, c)| Op::SeekRead(a, b, c)),
        2 => (pick(), spot(), any::<u8>()).prop_map(|(a, b, c)| Op::ReadUntil(a, b, c)),
        2 => (pick(), any::<u16>()).prop_map(|(a, b)| Op::FillConsume(a, b)),
    ];
    let leases = prop_oneof![
        7 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::Lease(a, b, c)),
        2 => pick().prop_map(Op::LeaseClone),
        2 => (pick(), any::<u16>(), any::<u16>()).prop_map(|(a, b, c)| Op::LeaseSlice(a, b, c)),
        4 => pick().prop_map(Op::DropLease),
        1 => Just(Op::CheckLeases),
    ];
    let buffers = prop_oneof![
        3 => pick().prop_map(Op::NewBuffer),
        1 => pick().prop_map(Op::CloneBuffer),
        1 => pick().prop_map(Op::DropBuffer),
        1 => pick().prop_map(Op::ReleaseBuffer),
        2 => (pick(), spot()).prop_map(|(a, b)| Op::Get(a, b)),
        2 => (pick(), any::<u16>()).prop_map(|(a, b)| Op::GetBack(a, b)),
        2 => (pick(), spot(), size()).prop_map(|(a, b, c)| Op::BufferSlice(a, b, c)),
        4 => (pick(), spot(), any::<u8>(), any::<bool>()).prop_map(|(a, b, c, d)| Op::Find(a, b, c, d)),
        1 => (pick(), spot(), any::<u8>()).prop_map(|(a, b, c)| Op::FindAll(a, b, c)),
        1 => (pick(), size(), any::<bool>()).prop_map(|(a, b, c)| Op::StartsEnds(a, b, c)),
        1 => (pick(), any::<u8>()).prop_map(|(a, b)| Op::Lines(a, b)),
        1 => (pick(), any::<u8>(), any::<u8>()).prop_map(|(a, b, c)| Op::Split(a, b, c)),
    ];
    let limits = prop_oneof![
        3 => Just(Op::Collect),
        1 => pick().prop_map(Op::CloseFile),
        1 => Just(Op::CloseAll),
        2 => (0..18_u8, 0..12_u8, 0..5_u8).prop_map(|(a, b, c)| Op::SetLimits(a, b, c)),
        2 => Just(Op::Stats),
    ];
    prop_oneof![5 => files, 8 => cursors, 5 => leases, 4 => buffers, 2 => limits]
}

fn whence() -> impl Strategy<Value = Whence> {
    prop_oneof![
        3 => spot().prop_map(Whence::Start),
        1 => (-100_000..10_i32).prop_map(Whence::End),
        1 => (-10_000..10_000_i32).prop_map(Whence::Current),
    ]
}

// ---------------------------------------------------------------------------------------------------------------------
// Expected results
// ---------------------------------------------------------------------------------------------------------------------

/// How a call gets its bytes, which decides whether it may fail with `OverBudget`. Calls that always copy may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Copies or maps: may copy if the range is small and admission is not `Always`.
    Either,
    /// Always maps.
    Maps,
}

/// Whether a call may fail with `OverBudget`.
#[derive(Clone, Copy, Debug)]
enum Excuse {
    None,
    /// Only for a moment: the held regions leave enough room, but the collector may not have unmapped the others yet.
    ForNow,
    Full,
}

impl Excuse {
    /// Returns the value of the call, or `None` if it failed with an excused `OverBudget` or reported an injected
    /// fault. Panics on any other error.
    fn judge<T>(self, what: &str, mut call: impl FnMut() -> smmap::Result<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            let before = own_faults();
            match (call(), self) {
                (Ok(value), _) => return Some(value),
                (Err(error), _) if own_faults() > before && reports_a_fault(&error) => return None,
                (Err(error), _) if !matches!(error.kind(), ErrorKind::OverBudget) => {
                    panic!("{what}: {error}")
                }
                (Err(_), Excuse::Full) => return None,
                (Err(_), Excuse::ForNow) if start.elapsed() < Duration::from_secs(2) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                (Err(error), _) => panic!("{what}: {error}, without an excuse ({self:?})"),
            }
        }
    }

    fn judge_io<T>(self, what: &str, mut call: impl FnMut() -> io::Result<T>) -> Option<T> {
        self.judge(what, || call().map_err(from_io))
    }
}

/// Returns `true` if a failed system call can cause this error: an error with an OS number, or `OverBudget` because a
/// region could not be unmapped or checked.
fn reports_a_fault(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match error.kind() {
        ErrorKind::Io | ErrorKind::OutOfMaps => source.is_some_and(|source| source.raw_os_error().is_some()),
        kind => kind == ErrorKind::OverBudget,
    }
}

/// Returns the library's error inside an error of a `std::io` trait. Panics if there is none.
fn from_io(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => panic!("the io::Error does not contain an error of this library: {error}"),
    }
}

/// A cursor or buffer of file `file`, and the most mapped bytes that it holds.
struct Reader<T> {
    file: usize,
    value: T,
    holds: u64,
}

impl<T> Reader<T> {
    fn new(file: usize, value: T) -> Reader<T> {
        Reader { file, value, holds: 0 }
    }

    /// Notes that the reader may hold `bytes` now. It may also still hold its previous window, because a copy does not
    /// always release it.
    fn may_hold(&mut self, bytes: u64) {
        self.holds = self.holds.max(bytes);
    }
}

/// A lease and the range that it must have.
struct Kept {
    file: usize,
    start: u64,
    lease: Lease,
    /// The mapped bytes that the lease holds.
    holds: u64,
}

pub(crate) struct World {
    setup: Setup,
    dir: Dir,
    files: Vec<TestFile>,
    /// The window size as the manager rounds it; `None` for whole files.
    window: Option<u64>,
    limits: Limits,
    highest: Limits,
    last: Stats,
    /// Files that were opened by descriptor. The descriptor may be the only way to such a file, and then stays open.
    nameless: [bool; 4],

    managers: Vec<MapManager>,
    handles: Vec<(usize, MappedFile)>,
    cursors: Vec<Reader<Cursor>>,
    buffers: Vec<Reader<Buffer>>,
    leases: Vec<Kept>,
}

impl Spot {
    fn at(self, len: u64, window: u64) -> u64 {
        match self {
            Spot::Anywhere(part) => len * u64::from(part) / (1 << 16),
            Spot::AtBorder(border, by) => {
                let borders = len / window + 1;
                (u64::from(border) % borders * window).saturating_add_signed(i64::from(by))
            }
            Spot::AtEnd(by) => len.saturating_add_signed(i64::from(by)),
        }
    }
}

impl Size {
    fn bytes(self, len: u64, window: u64) -> u64 {
        match self {
            Size::Few(bytes) => u64::from(bytes),
            Size::Pages(pages) => u64::from(pages) * PAGE,
            Size::QuarterWindows(quarters) => u64::from(quarters) * window / 4,
            Size::Large(part) => SMALL / 2 + len * u64::from(part) / (1 << 16),
        }
    }
}

fn pick<T>(of: &[T], pick: Pick) -> Option<usize> {
    (!of.is_empty()).then(|| usize::from(pick) % of.len())
}

/// Returns the share `part / u16::MAX` of `len`. Computes in 64 bits, because the product may exceed 32.
fn part_of(len: usize, part: u16) -> usize {
    (len as u64 * u64::from(part) / u64::from(u16::MAX)) as usize
}

/// Adds a value, in the place of the first one if there are already [`KEPT`].
fn keep<T>(into: &mut Vec<T>, value: T) {
    if into.len() == KEPT {
        into.swap_remove(0);
    }
    into.push(value);
}

impl World {
    /// Creates a world with one open file, a cursor and a buffer.
    pub(crate) fn new(setup: Setup) -> World {
        let mut world = World::without_handles(setup);
        world.run(&Op::OpenPath(3));
        world.run(&Op::NewCursor(0));
        world.run(&Op::NewBuffer(0));
        world
    }

    fn without_handles(setup: Setup) -> World {
        let dir = Dir::new();
        let granule = setup.window.unwrap_or(4) * PAGE;
        let lengths = [
            0,
            1,
            (setup.pages * PAGE).saturating_add_signed(setup.delta),
            // 40 windows: the last one is whole or a byte short, or a 41st window has one byte.
            (40 * granule).saturating_add_signed(setup.delta),
        ];
        let files: Vec<TestFile> = (0_u64..)
            .zip(lengths)
            .map(|(n, len)| dir.write(&format!("file {n}"), letters(setup.seed ^ n, len, ALPHABET)))
            .collect();

        let unit = if setup.window.is_some() { granule } else { 10 * granule };
        let limits = Limits {
            max_mapped_bytes: setup.budget * unit,
            max_regions: setup.regions,
            max_open_files: setup.open_files,
        };
        let builder = MapManager::builder()
            .window(setup.window.map_or(Window::WholeFile, |pages| Window::Sliding { bytes: pages * PAGE }))
            .limits(limits)
            .overcommit(setup.overcommit)
            .admission(setup.admission);
        let maps = manager(builder);
        let window = maps.window_bytes();
        World {
            dir,
            files,
            window,
            limits,
            highest: limits,
            last: maps.stats(),
            nameless: [false; 4],
            managers: vec![maps],
            handles: Vec::new(),
            cursors: Vec::new(),
            buffers: Vec::new(),
            leases: Vec::new(),
            setup,
        }
    }

    /// Returns the window size, or ten pages for whole files, which have no borders.
    fn border(&self) -> u64 {
        self.window.unwrap_or(10 * PAGE)
    }

    /// Returns the range of the window of `file` at `at`, cut at the end of the file.
    fn window_of(&self, file: usize, at: u64) -> Range<u64> {
        let len = self.files[file].len();
        match self.window {
            Some(window) => at / window * window..(at / window * window).saturating_add(window).min(len),
            None => 0..len,
        }
    }

    fn offset(&self, file: usize, spot: Spot) -> u64 {
        spot.at(self.files[file].len(), self.border())
    }

    /// Returns a range that starts at `spot`. It is cut at the end of the file, unless `spot` is past the end.
    fn range(&self, file: usize, spot: Spot, size: Size) -> Range<u64> {
        let len = self.files[file].len();
        let start = self.offset(file, spot);
        let end = start + size.bytes(len, self.border());
        start..if start <= len { end.min(len) } else { end }
    }

    fn bytes(&self, file: usize, range: Range<u64>) -> &[u8] {
        &self.files[file][range.start as usize..range.end as usize]
    }

    /// Returns the most regions, and bytes of them, that clients hold.
    fn held(&self) -> (usize, u64) {
        (0..self.files.len()).map(|file| self.held_of(file)).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    fn held_of(&self, file: usize) -> (usize, u64) {
        let cursors = self.cursors.iter().map(|cursor| (cursor.file, cursor.holds));
        let buffers = self.buffers.iter().map(|buffer| (buffer.file, buffer.holds));
        let leases = self.leases.iter().map(|kept| (kept.file, kept.holds));
        let holders = cursors.chain(buffers).chain(leases).filter(|(of, bytes)| *of == file && *bytes > 0);
        holders.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes))
    }

    /// Returns the bytes mapped at a time for this range: those of a window, or of a detached region if the range is
    /// long and crosses a window border.
    fn need(&self, way: Way, file: usize, range: &Range<u64>) -> u64 {
        let window = self.window_of(file, range.start);
        let long = way == Way::Either && range.end - range.start > SMALL && range.end > window.end;
        pages(if long { range.end - range.start + PAGE } else { window.end.saturating_sub(window.start) })
    }

    /// Returns the bytes of the first window of a file, which is its longest.
    fn window_bytes(&self, file: usize) -> u64 {
        self.need(Way::Maps, file, &(0..0))
    }

    /// Returns the excuse of a call for `OverBudget`. The client that calls releases `own` bytes first.
    fn excuse(&self, way: Way, file: usize, range: &Range<u64>, own: u64) -> Excuse {
        let small = range.end - range.start <= SMALL;
        let copies = match way {
            Way::Either => small && matches!(self.setup.admission, Admission::Adaptive),
            Way::Maps => false,
        };
        if copies || range.is_empty() {
            return Excuse::None;
        }
        if self.lacks_descriptors(|other| other != file) {
            return Excuse::Full;
        }
        let need = self.need(way, file, range);
        if need > self.limits.max_mapped_bytes || self.window > Some(self.limits.max_mapped_bytes) {
            return Excuse::Full;
        }
        if matches!(self.setup.overcommit, Overcommit::Allow) {
            return Excuse::None;
        }
        let (regions, bytes) = self.held();
        let (regions, bytes) = (regions - usize::from(own > 0), bytes - own);
        // Twice the need, because an iterator may hold a window of its own.
        let fits = bytes + 2 * need <= self.limits.max_mapped_bytes && regions + 2 <= self.limits.max_regions;
        if fits { Excuse::ForNow } else { Excuse::Full }
    }

    /// Returns `true` if there may be no descriptor for one more file, because those of the files for which `stays` is
    /// true cannot be closed.
    fn lacks_descriptors(&self, stays: impl Fn(usize) -> bool) -> bool {
        let staying = (0..self.files.len()).filter(|file| self.nameless[*file] && stays(*file)).count();
        staying + 1 > self.limits.max_open_files && !matches!(self.setup.overcommit, Overcommit::Allow)
    }

    /// Returns the excuse of an `open` for `OverBudget`, which a hard limit of open files gives.
    ///
    /// This includes the open of an open file: it takes a second descriptor until the cache knows which file it is.
    fn excuse_open(&self) -> Excuse {
        match self.setup.overcommit {
            Overcommit::Allow => Excuse::None,
            _ if self.lacks_descriptors(|_| true) => Excuse::Full,
            _ => Excuse::ForNow,
        }
    }

    fn out_of_bounds(&self, file: usize, range: &Range<u64>) -> bool {
        range.end > self.files[file].len()
    }

    /// Compares every byte of each kept lease.
    fn check_leases(&self, when: &str) {
        for Kept { file, start, lease, .. } in &self.leases {
            let expected = self.bytes(*file, *start..*start + lease.len() as u64);
            assert_same(lease, expected, format!("{when}: {} bytes leased at {start} of file {file}", lease.len()));
        }
    }

    /// Checks that the counts are consistent with each other and with the kernel's list.
    fn check_stats(&mut self) {
        let Some(maps) = self.managers.first() else {
            return;
        };
        self.recover(maps);
        let (stats, last) = (maps.stats(), self.last);
        assert_eq!(maps.limits(), self.limits);
        let mapped = self.dir.mapped();
        if let Some(mapped) = mapped {
            assert!(mapped.bytes <= stats.mapped_bytes, "more bytes are mapped than counted: {mapped:?}, {stats:?}");
        }
        let monotonic = |counts: &Stats| {
            [
                counts.hits,
                counts.misses,
                counts.maps,
                counts.unmaps,
                counts.copies,
                counts.evictions,
                counts.overcommits,
            ]
        };
        assert!(
            monotonic(&stats).iter().zip(monotonic(&last)).all(|(new, old)| *new >= old),
            "{last:?}, then {stats:?}"
        );
        assert!(stats.unmaps <= stats.maps && stats.evictions <= stats.unmaps, "{stats:?}");
        assert!(stats.mapped_bytes <= stats.peak_mapped_bytes && stats.regions <= stats.peak_regions, "{stats:?}");
        assert!(stats.open_files <= stats.peak_open_files && stats.open_files <= stats.files, "{stats:?}");
        assert!((0.0..=1.0).contains(&stats.hit_ratio()), "{stats:?}");
        let (regions, bytes) = self.held();
        assert!(stats.pinned_regions <= regions && stats.pinned_bytes <= bytes, "{regions}, {bytes}, {stats:?}");

        let within =
            stats.peak_mapped_bytes <= self.highest.max_mapped_bytes && stats.peak_regions <= self.highest.max_regions;
        let hard = !matches!(self.setup.overcommit, Overcommit::Allow);
        assert!(within || (!hard && stats.overcommits > 0), "{:?}, {stats:?}", self.highest);
        self.last = stats;
    }

    /// After injected faults, waits until `collect` has unmapped the regions that the OS refused to unmap before.
    fn recover(&self, maps: &MapManager) {
        if faults() > 0 {
            calm(|| maps.collect());
            let (regions, bytes) = self.held();
            let only_held = || {
                let stats = maps.stats();
                stats.pinned_regions <= regions && stats.pinned_bytes <= bytes
            };
            assert!(calm(|| settles(only_held)), "{regions} regions of {bytes} bytes are held: {:?}", maps.stats());
        }
    }

    /// Checks that only held regions of these files are mapped, after every unused one was unmapped.
    fn check_unmapped(&self, what: &str, files: Range<usize>) {
        match self.managers.first() {
            Some(maps) => self.recover(maps),
            // The cache was dropped. A collect of any other cache retries its unmaps.
            None if faults() > 0 => drop(calm(|| manager(MapManager::builder()).collect())),
            None => {}
        }
        for file in files {
            let (path, (_, held)) = (&self.files[file].path, self.held_of(file));
            let only_held = || mapped_below(path).is_none_or(|mapped| mapped.bytes <= held);
            assert!(only_held() || settles(only_held), "{what}: {held} bytes are held, {:?}", mapped_below(path));
        }
    }

    pub(crate) fn run(&mut self, op: &Op) {
        match *op {
            Op::OpenPath(which) => {
                if let Some(maps) = self.managers.last() {
                    let file = usize::from(which) % self.files.len();
                    let excuse = self.excuse_open();
                    let Some(opened) = excuse.judge("open", || maps.open(&self.files[file].path)) else { return };
                    assert_eq!(opened.path(), Some(self.files[file].path.as_path()));
                    self.opened(file, opened);
                }
            }
            Op::OpenDescriptor(which) => {
                if let Some(maps) = self.managers.last() {
                    let file = usize::from(which) % self.files.len();
                    let excuse = self.excuse_open();
                    self.nameless[file] = true;
                    let opened = excuse.judge("open_file", || {
                        let descriptor = calm(|| self.files[file].descriptor());
                        maps.open_file(descriptor)
                    });
                    let Some(opened) = opened else { return };
                    assert_eq!(opened.path(), None);
                    self.opened(file, opened);
                }
            }
            Op::CloneHandle(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let twin = self.handles[index].clone();
                    keep(&mut self.handles, twin);
                }
            }
            Op::DropHandle(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    self.handles.swap_remove(index);
                }
            }
            Op::CloneManager(which) => {
                if let Some(index) = pick(&self.managers, which) {
                    let twin = self.managers[index].clone();
                    keep(&mut self.managers, twin);
                }
            }
            // May drop the last manager. Open handles then keep the cache alive.
            Op::DropManager(which) => {
                if let Some(index) = pick(&self.managers, which) {
                    self.managers.swap_remove(index);
                }
            }

            Op::NewCursor(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let (file, handle) = &self.handles[index];
                    let cursor = Reader::new(*file, handle.cursor());
                    keep(&mut self.cursors, cursor);
                }
            }
            Op::CloneCursor(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    let cursor = &self.cursors[index];
                    let twin = Reader::new(cursor.file, cursor.value.clone());
                    assert_eq!(twin.value.position(), cursor.value.position());
                    // The library does not promise whether a clone holds the window of the original.
                    let twin = Reader { holds: cursor.holds, ..twin };
                    keep(&mut self.cursors, twin);
                }
            }
            Op::DropCursor(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    self.cursors.swap_remove(index);
                }
            }
            Op::Release(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    let cursor = &mut self.cursors[index];
                    cursor.value.release();
                    cursor.holds = 0;
                }
            }
            Op::Slice(which, spot, size) => self.slice(which, spot, size),
            Op::WindowAt(which, spot) => self.window_at(which, spot),
            Op::SeekRead(which, whence, size) => self.seek_read(which, whence, size),
            Op::ReadUntil(which, spot, byte) => self.read_until(which, spot, byte),
            Op::FillConsume(which, count) => self.fill_consume(which, count),

            Op::Lease(which, spot, size) => self.lease(which, spot, size),
            Op::LeaseClone(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { file, start, ref lease, holds } = self.leases[index];
                    let twin = Kept { file, start, lease: lease.clone(), holds };
                    assert_eq!(twin.lease.as_ptr(), lease.as_ptr());
                    keep(&mut self.leases, twin);
                }
            }
            Op::LeaseSlice(which, from, to) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { file, start, ref lease, holds } = self.leases[index];
                    let part = |of: u16| part_of(lease.len(), of);
                    let (from, to) = (part(from.min(to)), part(from.max(to)));
                    let part = lease.slice(from..to);
                    assert_eq!(part.len(), to - from);
                    assert_eq!(part.offset(), lease.offset() + from as u64);
                    keep(&mut self.leases, Kept { file, start: start + from as u64, lease: part, holds });
                }
            }
            Op::DropLease(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    self.leases.swap_remove(index);
                }
            }
            Op::CheckLeases => self.check_leases("between calls"),

            Op::NewBuffer(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let (file, handle) = &self.handles[index];
                    let buffer = Reader::new(*file, handle.buffer());
                    assert_eq!(buffer.value.len(), self.files[*file].len());
                    keep(&mut self.buffers, buffer);
                }
            }
            Op::CloneBuffer(which) => {
                if let Some(index) = pick(&self.buffers, which) {
                    let buffer = &self.buffers[index];
                    let twin = Reader { file: buffer.file, value: buffer.value.clone(), holds: buffer.holds };
                    keep(&mut self.buffers, twin);
                }
            }
            Op::DropBuffer(which) => {
                if let Some(index) = pick(&self.buffers, which) {
                    self.buffers.swap_remove(index);
                }
            }
            Op::ReleaseBuffer(which) => {
                if let Some(index) = pick(&self.buffers, which) {
                    let buffer = &mut self.buffers[index];
                    buffer.value.release();
                    buffer.holds = 0;
                }
            }
            Op::Get(which, spot) => self.get(which, spot),
            Op::GetBack(which, part) => self.get_back(which, part),
            Op::BufferSlice(which, spot, size) => self.buffer_slice(which, spot, size),
            Op::Find(which, spot, count, changed) => self.find(which, spot, count, changed),
            Op::FindAll(which, spot, count) => self.find_all(which, spot, count),
            Op::StartsEnds(which, size, changed) => self.starts_ends(which, size, changed),
            Op::Lines(which, count) => self.lines(which, count),
            Op::Split(which, letter, count) => self.split(which, letter, count),

            Op::ReadAt(which, spot, size) => self.read_at(which, spot, size),
            Op::ReadExactAt(which, spot, size) => self.read_exact_at(which, spot, size),
            Op::Prefetch(which, spot, size) => self.prefetch(which, spot, size),
            Op::Windows(which, ends, kept) => self.windows(which, ends, kept),
            Op::Refresh(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    if let Some(change) = self.excuse_open().judge("refresh", || self.handles[index].1.refresh()) {
                        assert!(matches!(change, Change::Unchanged), "{change:?}");
                    }
                }
            }

            Op::Collect => {
                if let Some(maps) = self.managers.last() {
                    maps.collect();
                    self.check_unmapped("collect", 0..4);
                    self.check_leases("after collect");
                }
            }
            Op::CloseFile(which) => {
                if let Some(maps) = self.managers.last() {
                    let file = usize::from(which) % self.files.len();
                    let closed = maps.close(&self.files[file].path);
                    assert!(closed.still_held <= self.held_of(file).0, "{closed:?}");
                    self.check_unmapped("close", file..file + 1);
                    self.check_leases("after close");
                }
            }
            Op::CloseAll => {
                if let Some(maps) = self.managers.last() {
                    let closed = maps.close(self.dir.path());
                    assert!(closed.still_held <= self.held().0, "{closed:?}");
                    // A file that was opened only by descriptor has no known path, so no directory contains it.
                    if self.nameless == [false; 4] {
                        self.check_unmapped("close", 0..4);
                    }
                    self.check_leases("after close");
                }
            }
            Op::SetLimits(bytes, regions, open_files) => {
                if let Some(maps) = self.managers.last() {
                    let unit = self.window.unwrap_or(40 * PAGE);
                    self.limits = Limits {
                        max_mapped_bytes: (u64::from(bytes) * unit / 2).max(1),
                        max_regions: if regions == 0 { 1000 } else { usize::from(regions) },
                        max_open_files: usize::from(open_files) + 1,
                    };
                    self.highest.max_mapped_bytes = self.highest.max_mapped_bytes.max(self.limits.max_mapped_bytes);
                    self.highest.max_regions = self.highest.max_regions.max(self.limits.max_regions);
                    maps.set_limits(self.limits).unwrap();
                    self.check_leases("after set_limits");
                }
            }
            Op::Stats => self.check_stats(),
        }
    }

    fn opened(&mut self, file: usize, opened: MappedFile) {
        assert_eq!(opened.len(), self.files[file].len());
        assert_eq!(opened.is_empty(), self.files[file].is_empty());
        keep(&mut self.handles, (file, opened));
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Cursors
    // -----------------------------------------------------------------------------------------------------------------

    fn slice(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.cursors, which) else {
            return;
        };
        let file = self.cursors[index].file;
        let range = self.range(file, spot, size);
        if self.out_of_bounds(file, &range) {
            let error = self.cursors[index].value.slice(range.clone()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfBounds), "{range:?}: {error}");
            return;
        }
        let excuse = self.excuse(Way::Either, file, &range, self.cursors[index].holds);
        let expected = self.files[file].bytes.clone();
        let need = self.need(Way::Either, file, &range);
        let cursor = &mut self.cursors[index];
        cursor.may_hold(need);
        let before = cursor.value.position();
        excuse.judge("slice", || {
            let found = cursor.value.slice(range.clone())?;
            assert_same(
                found,
                &expected[range.start as usize..range.end as usize],
                format!("{range:?} of file {file}"),
            );
            Ok(())
        });
        assert_eq!(cursor.value.position(), before, "a slice does not move the cursor");
    }

    fn window_at(&mut self, which: Pick, spot: Spot) {
        let Some(index) = pick(&self.cursors, which) else {
            return;
        };
        let file = self.cursors[index].file;
        let at = self.offset(file, spot);
        let expected = match self.window_of(file, at) {
            window if at < window.end => at..window.end,
            _ => at..at,
        };
        let excuse = self.excuse(Way::Maps, file, &expected, self.cursors[index].holds);
        let bytes = self.files[file].bytes.clone();
        let need = self.need(Way::Maps, file, &expected);
        let cursor = &mut self.cursors[index];
        cursor.may_hold(need);
        let past_the_end = expected.is_empty();
        let found = excuse.judge("window_at", || {
            let found = cursor.value.window_at(at)?;
            if past_the_end {
                assert!(found.is_empty(), "past the end: {at} of file {file}");
            } else {
                let expected = &bytes[expected.start as usize..expected.end as usize];
                assert_same(found, expected, format!("the window at {at} of file {file}"));
            }
            Ok(())
        });
        if found.is_some() && !past_the_end {
            cursor.holds = need;
        }
    }

    fn seek_read(&mut self, which: Pick, whence: Whence, size: Size) {
        let Some(index) = pick(&self.cursors, which) else {
            return;
        };
        let file = self.cursors[index].file;
        let len = self.files[file].len();
        let seek = match whence {
            Whence::Start(spot) => SeekFrom::Start(self.offset(file, spot)),
            Whence::End(by) => SeekFrom::End(i64::from(by)),
            Whence::Current(by) => SeekFrom::Current(i64::from(by)),
        };
        let mut bytes = vec![0; size.bytes(len, self.border()) as usize];
        let need = self.window_bytes(file);
        let cursor = &mut self.cursors[index];
        cursor.may_hold(need);
        let cursor = &mut cursor.value;

        let before = cursor.position();
        let expected = match seek {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => len.checked_add_signed(by),
            SeekFrom::Current(by) => before.checked_add_signed(by),
        };
        match (cursor.seek(seek), expected) {
            (Ok(at), Some(expected)) => assert_eq!(at, expected, "{seek:?}"),
            (Err(error), None) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{seek:?}"),
            (found, expected) => panic!("{seek:?} from {before}: {found:?}, not {expected:?}"),
        }
        let at = cursor.position();
        assert_eq!(at, expected.unwrap_or(before));

        let left = len.saturating_sub(at).min(bytes.len() as u64);
        let read = Excuse::None.judge_io("read", || {
            let count = cursor.read(&mut bytes).inspect_err(|_| assert_eq!(cursor.position(), at))?;
            assert!(count as u64 <= left && (count > 0) == (left > 0), "{count} of {left} at {at}");
            cursor.read_exact(&mut bytes[count..left as usize])
        });
        if read.is_some() {
            assert_eq!(cursor.position(), at + left);
            let expected = self.files[file].get(at as usize..(at + left) as usize).unwrap_or(&[]);
            assert_same(&bytes[..left as usize], expected, format!("{left} bytes read at {at} of file {file}"));
        }
    }

    fn read_until(&mut self, which: Pick, spot: Spot, byte: u8) {
        let Some(index) = pick(&self.cursors, which) else {
            return;
        };
        let file = self.cursors[index].file;
        let start = self.offset(file, spot);
        let byte = ALPHABET.get(usize::from(byte)).copied().unwrap_or(b'!');
        let expected = self.files[file].get(start as usize..).unwrap_or(&[]);
        let expected = match expected.iter().position(|other| *other == byte) {
            Some(at) => &expected[..=at],
            None => expected,
        };
        let need = self.window_bytes(file);
        let cursor = &mut self.cursors[index];
        cursor.may_hold(need);
        let cursor = &mut cursor.value;
        let before = own_faults();
        let done = Excuse::None.judge_io("read_until", || {
            cursor.set_position(start);
            let mut found = Vec::new();
            let result = cursor.read_until(byte, &mut found);
            assert_eq!(cursor.position(), start + found.len() as u64, "the position moved by the returned bytes");
            match result {
                Ok(count) => {
                    assert_eq!(count, found.len());
                    assert_same(&found, expected, format!("until {byte} from {start} of file {file}"));
                }
                Err(_) => assert!(expected.starts_with(&found), "until {byte} from {start} of file {file}, in part"),
            }
            result
        });
        assert!(done.is_some() || own_faults() > before);
    }

    fn fill_consume(&mut self, which: Pick, part: u16) {
        let Some(index) = pick(&self.cursors, which) else {
            return;
        };
        let file = self.cursors[index].file;
        let at = self.cursors[index].value.position();
        // A cursor that holds a range longer than a window returns the rest of that.
        let expected = self.files[file].get(at as usize..).unwrap_or(&[]);
        let need = self.window_bytes(file);
        let cursor = &mut self.cursors[index];
        cursor.may_hold(need);
        let filled = Excuse::None.judge_io("fill_buf", || {
            // A part of the window, if that is not mapped.
            let found = cursor.value.fill_buf()?;
            assert_eq!(found.is_empty(), expected.is_empty());
            assert_same(found, &expected[..found.len()], format!("filled at {at} of file {file}"));
            Ok(found.len())
        });
        assert_eq!(cursor.value.position(), at);
        if let Some(filled) = filled {
            let count = part_of(filled, part);
            cursor.value.consume(count);
            assert_eq!(cursor.value.position(), at + count as u64);
        }
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Files
    // -----------------------------------------------------------------------------------------------------------------

    fn lease(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.handles, which) else {
            return;
        };
        let (file, handle) = &self.handles[index];
        let file = *file;
        let range = self.range(file, spot, size);
        if self.out_of_bounds(file, &range) {
            let error = handle.lease(range.clone()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfBounds), "{range:?}: {error}");
            return;
        }
        let excuse = self.excuse(Way::Either, file, &range, 0);
        let Some(lease) = excuse.judge("lease", || handle.lease(range.clone())) else {
            return;
        };
        let expected = self.bytes(file, range.clone());
        assert_same(&lease, expected, format!("{range:?} of file {file}"));
        assert!(range.is_empty() || lease.offset() == range.start, "{range:?}: {}", lease.offset());
        let holds = if lease.is_mapped() { self.need(Way::Either, file, &range) } else { 0 };
        keep(&mut self.leases, Kept { file, start: range.start, lease, holds });
    }

    fn read_at(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.handles, which) else {
            return;
        };
        let (file, handle) = &self.handles[index];
        let (start, len) = (self.offset(*file, spot), handle.len());
        let mut bytes = vec![0; size.bytes(len, self.border()) as usize];
        let left = len.saturating_sub(start).min(bytes.len() as u64) as usize;
        let read = Excuse::None.judge("read_at", || {
            let mut count = 0;
            while count < left {
                let more = handle.read_at(&mut bytes[count..], start + count as u64)?;
                assert!(more > 0 && count + more <= left, "{count} and {more} of {left} at {start} of file {file}");
                count += more;
            }
            assert_eq!(handle.read_at(&mut bytes[count..], start + count as u64)?, 0);
            Ok(())
        });
        if read.is_some() && left > 0 {
            let expected = self.bytes(*file, start..start + left as u64);
            assert_same(&bytes[..left], expected, format!("{left} bytes read at {start} of file {file}"));
        }
    }

    fn read_exact_at(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.handles, which) else {
            return;
        };
        let (file, handle) = &self.handles[index];
        let range = self.range(*file, spot, size);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        if self.out_of_bounds(*file, &range) {
            // An empty range past the end may succeed or fail.
            let result = handle.read_exact_at(&mut bytes, range.start);
            assert!(range.is_empty() || matches!(result.unwrap_err().kind(), ErrorKind::OutOfBounds), "{range:?}");
            return;
        }
        let read = Excuse::None.judge("read_exact_at", || handle.read_exact_at(&mut bytes, range.start));
        if read.is_none() {
            return;
        }
        assert_same(&bytes, self.bytes(*file, range.clone()), format!("exactly {range:?} of file {file}"));
    }

    fn prefetch(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.handles, which) else {
            return;
        };
        let (file, handle) = &self.handles[index];
        let range = self.range(*file, spot, size);
        if self.out_of_bounds(*file, &range) {
            let error = handle.prefetch(range.clone()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfBounds), "{range:?}: {error}");
            return;
        }
        let excuse = self.excuse(Way::Maps, *file, &range, 0);
        excuse.judge("prefetch", || handle.prefetch(range.clone()));
    }

    /// Iterates over all windows from both ends in random order, and keeps a lease of one.
    fn windows(&mut self, which: Pick, ends: u32, kept: Pick) {
        let Some(index) = pick(&self.handles, which) else {
            return;
        };
        let (file, handle) = &self.handles[index];
        let (file, len) = (*file, handle.len());
        let expected = match self.window {
            _ if len == 0 => 0,
            Some(window) => len.div_ceil(window),
            None => 1,
        };
        let excuse = self.excuse(Way::Maps, file, &(0..len), 0);
        let lease = excuse.judge("windows", || {
            let mut windows = handle.windows();
            assert_eq!(windows.len() as u64, expected);
            let (mut rest, mut keep) = (0..len, None);
            for step in 0..expected {
                let back = ends.rotate_right(step as u32) & 1 == 1;
                let next = if back { windows.next_back() } else { windows.next() };
                let lease = next.expect("the iterator has a window left")?;
                let size = lease.len() as u64;
                let range = if back { rest.end - size..rest.end } else { rest.start..rest.start + size };
                rest = if back { rest.start..range.start } else { range.end..rest.end };
                assert_eq!(lease.offset(), range.start);
                assert_same(&lease, self.bytes(file, range.clone()), format!("window {range:?} of file {file}"));
                if step % 256 == u64::from(kept) % expected {
                    keep = Some(lease.slice(lease.len() / 2..));
                }
            }
            assert!(rest.is_empty() && windows.next().is_none() && windows.next_back().is_none());
            Ok(keep)
        });
        if let Some(Some(lease)) = lease {
            let holds = self.window_bytes(file);
            keep(&mut self.leases, Kept { file, start: lease.offset(), lease, holds });
        }
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Buffers
    // -----------------------------------------------------------------------------------------------------------------

    fn get(&mut self, which: Pick, spot: Spot) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let at = self.offset(file, spot);
        let range = if at < self.files[file].len() { at..at + 1 } else { at..at };
        let excuse = self.excuse(Way::Either, file, &range, self.buffers[index].holds);
        let need = self.need(Way::Either, file, &range);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        if let Some(found) = excuse.judge("get", || buffer.value.get(at)) {
            assert_eq!(found, self.files[file].get(at as usize).copied(), "byte {at} of file {file}");
        }
    }

    fn get_back(&mut self, which: Pick, part: u16) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let len = self.files[file].len();
        let at = (len + 3) * u64::from(part) / u64::from(u16::MAX);
        let expected = len.checked_sub(at + 1).map(|at| self.files[file][at as usize]);
        let start = len.saturating_sub(at + 1);
        let range = start..start + u64::from(expected.is_some());
        let excuse = self.excuse(Way::Either, file, &range, self.buffers[index].holds);
        let need = self.need(Way::Either, file, &range);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        if let Some(found) = excuse.judge("get_back", || buffer.value.get_back(at)) {
            assert_eq!(found, expected, "byte {at} from the end of file {file}");
        }
    }

    fn buffer_slice(&mut self, which: Pick, spot: Spot, size: Size) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let range = self.range(file, spot, size);
        if self.out_of_bounds(file, &range) {
            let error = self.buffers[index].value.slice(range.clone()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfBounds), "{range:?}: {error}");
            return;
        }
        let excuse = self.excuse(Way::Either, file, &range, self.buffers[index].holds);
        let expected = &self.files[file][range.start as usize..range.end as usize];
        let need = self.need(Way::Either, file, &range);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        excuse.judge("slice of a buffer", || {
            assert_same(buffer.value.slice(range.clone())?, expected, format!("{range:?} of file {file}"));
            Ok(())
        });
    }

    /// Returns bytes of the file to search for. With `changed`, their last byte is one that no file has.
    fn needle(&self, file: usize, spot: Spot, count: u8, changed: bool) -> String {
        let len = self.files[file].len();
        let start = self.offset(file, spot).min(len);
        // Short needles are found often, and long ones cross window borders.
        let count = if count < 128 { u64::from(count) % 8 } else { u64::from(count) * 40 };
        let mut needle = self.bytes(file, start..(start + count).min(len)).to_vec();
        if let (true, Some(last)) = (changed, needle.last_mut()) {
            *last = b'!';
        }
        String::from_utf8(needle).expect("the file is text")
    }

    fn text(&self, file: usize) -> &str {
        std::str::from_utf8(&self.files[file]).expect("the file is text")
    }

    fn find(&mut self, which: Pick, spot: Spot, count: u8, changed: bool) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let needle = self.needle(file, spot, count, changed);
        let excuse = self.excuse(Way::Maps, file, &(0..self.files[file].len()), self.buffers[index].holds);
        let expected = (self.text(file).find(&needle), self.text(file).rfind(&needle));
        let need = self.window_bytes(file);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        if let Some(found) = excuse.judge("find", || buffer.value.find(needle.as_bytes())) {
            assert_eq!(found, expected.0.map(|at| at as u64), "find {needle:?} in file {file}");
        }
        if let Some(found) = excuse.judge("rfind", || buffer.value.rfind(needle.as_bytes())) {
            assert_eq!(found, expected.1.map(|at| at as u64), "rfind {needle:?} in file {file}");
        }
    }

    fn find_all(&mut self, which: Pick, spot: Spot, count: u8) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let needle = self.needle(file, spot, count, false);
        if needle.is_empty() {
            return;
        }
        let excuse = self.excuse(Way::Maps, file, &(0..self.files[file].len()), self.buffers[index].holds);
        // Compares the first thousand matches only.
        let expected = self.text(file).match_indices(&needle).take(1000).map(|(at, _)| at as u64);
        let expected: Vec<u64> = expected.collect();
        let need = self.window_bytes(file);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        excuse.judge("find_iter", || {
            let found: Vec<u64> = buffer.value.find_iter(needle.as_bytes()).take(1000).collect::<Result<_, Error>>()?;
            assert!(found == expected, "{needle:?} in file {file}: {} of {}", found.len(), expected.len());
            Ok(())
        });
    }

    fn starts_ends(&mut self, which: Pick, size: Size, changed: bool) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let len = self.files[file].len();
        let excuse = self.excuse(Way::Maps, file, &(0..len), self.buffers[index].holds);
        let all = self.files[file].bytes.clone();
        let size = size.bytes(len, self.border()).min(len) as usize;
        let (mut head, mut tail) = (all[..size].to_vec(), all[all.len() - size..].to_vec());
        if let (true, Some(last), Some(first)) = (changed, head.last_mut(), tail.first_mut()) {
            (*last, *first) = (b'!', b'~');
        }
        let need = self.window_bytes(file);
        let buffer = &mut self.buffers[index];
        buffer.may_hold(need);
        if let Some(found) = excuse.judge("starts_with", || buffer.value.starts_with(&head)) {
            assert_eq!(found, all.starts_with(&head), "starts with {size} bytes of file {file}");
        }
        if let Some(found) = excuse.judge("ends_with", || buffer.value.ends_with(&tail)) {
            assert_eq!(found, all.ends_with(&tail), "ends with {size} bytes of file {file}");
        }
        if let Some(found) = excuse.judge("equals", || buffer.value.equals(&head)) {
            assert_eq!(found, head == *all, "equals {size} bytes of file {file}");
        }
        if let Some(found) = excuse.judge("compare", || buffer.value.compare(&head)) {
            assert_eq!(found, (*all).cmp(&head[..]), "compared with {size} bytes of file {file}");
        }
    }

    fn lines(&mut self, which: Pick, count: u8) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        let excuse = self.excuse(Way::Maps, file, &(0..self.files[file].len()), 0);
        let buffer = &self.buffers[index].value;
        excuse.judge("lines", || {
            let mut expected = self.files[file].bytes.lines().take(usize::from(count));
            for line in buffer.lines().take(usize::from(count)) {
                let expected = expected.next().expect("the iterator has no extra item").unwrap();
                assert_same(&line?, expected.as_bytes(), format!("a line of file {file}"));
            }
            assert!(expected.next().is_none(), "an item is missing");
            Ok(())
        });
    }

    fn split(&mut self, which: Pick, letter: u8, count: u8) {
        let Some(index) = pick(&self.buffers, which) else {
            return;
        };
        let file = self.buffers[index].file;
        // Splitting at an absent letter gives one piece, the whole file, which may exceed the budget. So only small
        // files are split at one.
        let letter = match ALPHABET.get(usize::from(letter) % 64) {
            None if self.files[file].len() <= SMALL => b'!',
            letter => letter.copied().unwrap_or(b'q'),
        };
        let excuse = self.excuse(Way::Maps, file, &(0..self.files[file].len()), 0);
        let buffer = &self.buffers[index].value;
        excuse.judge("split", || {
            let mut expected = self.files[file].split(|byte| *byte == letter).take(usize::from(count));
            for piece in buffer.split(letter).take(usize::from(count)) {
                let expected = expected.next().expect("the iterator has no extra item");
                assert_same(&piece?, expected, format!("a piece of file {file}"));
            }
            assert!(expected.next().is_none(), "an item is missing");
            Ok(())
        });
    }

    // -----------------------------------------------------------------------------------------------------------------
    // The end
    // -----------------------------------------------------------------------------------------------------------------

    pub(crate) fn end(mut self) {
        self.check_leases("in the end");
        self.check_stats();
        // With one manager left, `collect` unmaps every region without clients, and every count returns to zero.
        if let Some(maps) = self.managers.first().cloned() {
            self.managers.clear();
            self.handles.clear();
            self.cursors.clear();
            self.buffers.clear();
            maps.collect();
            self.check_unmapped("the last collect", 0..4);
            if self.setup.leases_first {
                self.leases.clear();
                maps.collect();
                let nothing = || {
                    let stats = maps.stats();
                    let held = (stats.pinned_regions, stats.pinned_bytes);
                    (stats.regions, stats.mapped_bytes, held, stats.maps - stats.unmaps) == (0, 0, (0, 0), 0)
                };
                assert!(settles(nothing), "{:?}", maps.stats());
            }
        } else {
            self.handles.clear();
            self.cursors.clear();
            self.buffers.clear();
        }
        self.check_leases("without the cache");
        self.check_unmapped("the last handle", 0..4);
        self.leases.clear();
        if let Some(mapped) = self.dir.mapped() {
            assert_eq!(mapped.bytes, 0, "no file is mapped in the end");
        }
        assert!(settles(|| self.dir.descriptors().is_none_or(|open| open == 0)), "a descriptor is still open");
    }
}

/// Returns `bytes` rounded up to whole pages.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) * PAGE
}
