//! Random sequences of calls on a few files, compared with a `String` for each file.
//!
//! The calls open, read, keep leases, change limits, close, collect, append and replace. Each byte must be the file's,
//! each error must have a reason, and at the end nothing may be mapped.
//!
//! The property test `tests/it/model.rs` predicts more precisely when the budget may refuse a call. This target adds
//! files that change, and a fuzzer that follows the coverage.

#![no_main]

use std::borrow::Cow;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use std::{path::PathBuf, thread};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smmap::{Admission, Buffer, Change, Cursor, ErrorKind, Lease, Limits, MapManager, MappedFile, Overcommit, Window};
use smmap_fuzz::{Steps, assert_same, directory, is_not_found, keep, manager, mix, nameless, of_io, pick, run};

const PAGE: u64 = 4096;
/// The longest range that may be copied instead of mapped.
const SMALL: u64 = 256 << 10;
/// The length of the large file: enough for ranges that are mapped as detached regions. It is not searched, which would
/// take most of the time.
const LARGE: usize = 3 * SMALL as usize / 2;

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    ops: Steps<Op, 100>,
}

#[derive(Arbitrary, Debug)]
struct Setup {
    /// The window in pages; 0 for whole files.
    window: u8,
    budget: u8,
    regions: u8,
    open_files: u8,
    overcommit: OnOverBudget,
    always: bool,
    lengths: [u16; 3],
    /// The order in which objects are dropped at the end.
    leases_first: bool,
    manager_first: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum OnOverBudget {
    Allow,
    Fail,
    Wait,
}

/// Chooses one of the existing objects, whatever their number.
type Pick = u8;

/// An offset relative to a position of interest. It may lie past the end.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Spot {
    Anywhere(u16),
    AtBorder(u8, i8),
    AtEnd(i8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Few(u8),
    QuarterWindows(u8),
    Large(u16),
}

#[derive(Arbitrary, Debug)]
enum Op {
    Open(Pick),
    OpenDescriptor(Pick),
    CloneHandle(Pick),
    DropHandle(Pick),
    CloneManager,
    DropManager,

    NewCursor(Pick),
    CloneCursor(Pick),
    DropCursor(Pick),
    Slice(Pick, Spot, Size),
    WindowAt(Pick, Spot),
    Release(Pick),
    SeekRead(Pick, Spot, Size),
    ReadUntil(Pick, u8),
    FillConsume(Pick, u16),

    Lease(Pick, Spot, Size),
    CloneLease(Pick),
    SliceLease(Pick, u16, u16),
    DropLease(Pick),
    DropLeaseElsewhere(Pick),
    CheckLeases,

    NewBuffer(Pick),
    CloneBuffer(Pick),
    DropBuffer(Pick),
    Get(Pick, Spot),
    GetBack(Pick, u16),
    BufferSlice(Pick, Spot, Size),
    Find(Pick, Spot, u8, bool),
    FindAll(Pick, Spot, u8),
    Compare(Pick, Size, bool),
    Lines(Pick, u8),
    Split(Pick, u8, u8),

    ReadAt(Pick, Spot, Size),
    ReadExactAt(Pick, Spot, Size),
    Prefetch(Pick, Spot, Size),
    Windows(Pick, u32, u8),
    Refresh(Pick),

    /// Appends bytes. If the flag is set, the handle is refreshed at once.
    Append(Pick, u16, bool),
    Replace(Pick, u16),
    Delete(Pick),
    Touch(Pick),

    Collect,
    Close(Pick),
    CloseAll,
    SetLimits(u8, u8, u8),
    Stats,
}

/// A file, from its creation until no object refers to it.
struct Inode {
    text: Cow<'static, str>,
    /// The length that smmap knows, through any handle.
    known_len: u64,
    /// `true` if the file was ever opened by its path. Only then may smmap close its descriptor to stay within the
    /// limit.
    named: bool,
}

/// An object of the file with the index `inode`.
struct Of<T> {
    inode: usize,
    value: T,
}

struct Kept {
    inode: usize,
    start: u64,
    lease: Lease,
}

struct World {
    _dir: tempfile::TempDir,
    /// The paths, and for each the index of its file, if it has one.
    paths: Vec<(PathBuf, Option<usize>)>,
    /// All files. The first is the large one, which has no name and does not change.
    inodes: Vec<Inode>,
    window: Option<u64>,
    overcommit: Overcommit,
    highest: Limits,
    limits: Limits,

    managers: Vec<MapManager>,
    handles: Vec<(Option<usize>, Of<MappedFile>)>,
    cursors: Vec<Of<Cursor>>,
    buffers: Vec<Of<Buffer>>,
    leases: Vec<Kept>,
}

/// Returns a text of few different letters and line ends, so that searches find something. The text consists of random
/// pieces of one random source.
fn letters(seed: u64, len: usize) -> String {
    const LETTERS: &[u8] = b"aaab\r\nabcdabcdefghefghefghijklmnopqrstuvw";
    const PIECE: usize = 64;
    static SOURCE: OnceLock<String> = OnceLock::new();
    let source = SOURCE.get_or_init(|| {
        (0..4096).map(|index| char::from(LETTERS[(mix(index) % LETTERS.len() as u64) as usize])).collect()
    });
    let mut text = String::with_capacity(len + PIECE);
    for index in 0..len.div_ceil(PIECE) as u64 {
        let start = (mix(seed ^ index) % (source.len() - PIECE) as u64) as usize;
        text.push_str(&source[start..start + PIECE]);
    }
    text.truncate(len);
    text
}

fn large() -> &'static (fs::File, String) {
    static LARGE_FILE: OnceLock<(fs::File, String)> = OnceLock::new();
    LARGE_FILE.get_or_init(|| {
        let (mut file, text) = (nameless(), letters(7, LARGE));
        file.write_all(text.as_bytes()).expect("the file is written");
        (file, text)
    })
}

/// Maps the fuzzer's choice to a budget: a number of half windows, or enough for all files.
fn budget(half_windows: u8, window: u64) -> u64 {
    if half_windows % 4 == 0 { 8 * SMALL } else { u64::from(half_windows / 4) * window / 2 }
}

/// Rounds up to whole pages.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) * PAGE
}

impl World {
    fn new(setup: &Setup) -> Self {
        let dir = directory();
        let window = u64::from(setup.window % 5) * PAGE;
        let unit = if window == 0 { 4 * PAGE } else { window };
        let limits = Limits {
            max_mapped_bytes: budget(setup.budget, unit).max(unit),
            max_regions: if setup.regions % 4 == 0 { usize::from(setup.regions / 4) + 1 } else { 1000 },
            max_open_files: if setup.open_files % 4 == 0 { usize::from(setup.open_files / 4) + 1 } else { 1000 },
        };
        let overcommit = match setup.overcommit {
            OnOverBudget::Allow => Overcommit::Allow,
            OnOverBudget::Fail => Overcommit::Fail,
            OnOverBudget::Wait => Overcommit::Wait(Duration::from_micros(50)),
        };
        let builder = MapManager::builder()
            .window(if window == 0 { Window::WholeFile } else { Window::Sliding { bytes: window } })
            .limits(limits)
            .overcommit(overcommit)
            .admission(if setup.always { Admission::Always } else { Admission::Adaptive });
        let maps = manager(builder).expect("these settings are valid");
        let mut world = Self {
            paths: (0..3).map(|number| (dir.path().join(format!("file {number}")), None)).collect(),
            _dir: dir,
            inodes: vec![Inode { text: Cow::Borrowed(&large().1), known_len: 0, named: false }],
            window: maps.window_bytes(),
            overcommit,
            highest: limits,
            limits,
            managers: vec![maps],
            handles: Vec::new(),
            cursors: Vec::new(),
            buffers: Vec::new(),
            leases: Vec::new(),
        };
        for (path, &len) in setup.lengths.iter().enumerate() {
            world.make(path, len);
        }
        world
    }

    /// Replaces the file at the path by a new one. Its length is often a whole number of pages, or one byte more or
    /// less.
    fn make(&mut self, path: usize, len: u16) {
        let len = match len % 4 {
            0 => usize::from(len / 4) % 40_000,
            1 => 0,
            by => usize::from(len / 4) % 10 * PAGE as usize + usize::from(by) - 2,
        };
        let text = letters(self.inodes.len() as u64, len);
        let new = self.paths[path].0.with_extension("new");
        fs::write(&new, &text).expect("the file is written");
        fs::rename(&new, &self.paths[path].0).expect("the file is renamed");
        self.paths[path].1 = Some(self.inodes.len());
        self.inodes.push(Inode { text: text.into(), known_len: 0, named: false });
    }

    fn border(&self) -> u64 {
        self.window.unwrap_or(4 * PAGE)
    }

    fn offset(&self, inode: usize, spot: Spot) -> u64 {
        let len = self.inodes[inode].known_len;
        match spot {
            Spot::Anywhere(part) => len * u64::from(part) / (1 << 16),
            Spot::AtBorder(border, by) => {
                let borders = len / self.border() + 1;
                (u64::from(border) % borders * self.border()).saturating_add_signed(i64::from(by % 4))
            }
            Spot::AtEnd(by) => len.saturating_add_signed(i64::from(by)),
        }
    }

    /// Returns a range from `spot` on. It lies inside the file, unless `spot` is past the end.
    fn range(&self, inode: usize, spot: Spot, size: Size) -> Range<u64> {
        let (start, len) = (self.offset(inode, spot), self.inodes[inode].known_len);
        let end = start + self.size(inode, size);
        start..if start <= len { end.min(len) } else { end }
    }

    fn size(&self, inode: usize, size: Size) -> u64 {
        match size {
            Size::Few(bytes) => u64::from(bytes),
            Size::QuarterWindows(quarters) => u64::from(quarters % 20) * self.border() / 4,
            Size::Large(part) => self.inodes[inode].known_len * u64::from(part) / (1 << 16),
        }
    }

    fn is_inside(&self, inode: usize, range: &Range<u64>) -> bool {
        range.end <= self.inodes[inode].known_len
    }

    fn bytes(&self, inode: usize, range: Range<u64>) -> &[u8] {
        &self.inodes[inode].text.as_bytes()[range.start as usize..range.end as usize]
    }

    /// Returns the text up to the length that smmap knows.
    fn text(&self, inode: usize) -> &str {
        &self.inodes[inode].text[..self.inodes[inode].known_len as usize]
    }

    fn window_from(&self, inode: usize, at: u64) -> Range<u64> {
        let len = self.inodes[inode].known_len;
        let end = self.window.map_or(len, |window| ((at / window + 1) * window).min(len));
        at..end.max(at)
    }

    /// Returns the most bytes that a call for this range may have to map at a time.
    fn need(&self, inode: usize, range: &Range<u64>) -> u64 {
        let len = self.inodes[inode].known_len;
        let window = pages(self.window.unwrap_or(len).min(len));
        if range.end - range.start > SMALL { window.max(range.end - range.start + 2 * PAGE) } else { window }
    }

    /// Returns the value of a call, or `None` if it failed with an error that the current state explains. Panics
    /// otherwise.
    ///
    /// `need` is the number of bytes that the call has to map, or `None` for a call that copies instead.
    fn judge<T>(&self, what: &str, inode: usize, need: Option<u64>, result: smmap::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let is_gone = || self.inodes[inode].named && !self.paths.iter().any(|(_, leads_to)| *leads_to == Some(inode));
        let is_excused = match error.kind() {
            ErrorKind::OverBudget => need.is_some_and(|need| {
                let too_large = need > self.limits.max_mapped_bytes || self.window > Some(self.limits.max_mapped_bytes);
                too_large || self.overcommit != Overcommit::Allow
            }),
            ErrorKind::Replaced => is_gone(),
            ErrorKind::Io => is_not_found(&error) && is_gone(),
            _ => false,
        };
        assert!(is_excused, "{what}: {error} ({:?})", error.kind());
        None
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Open(which) => {
                let Some(maps) = self.managers.last() else { return };
                let path = usize::from(which) % self.paths.len();
                let (path, leads_to) = (&self.paths[path].0, self.paths[path].1);
                match (maps.open(path), leads_to) {
                    (Ok(file), Some(inode)) => self.opened(Some(usize::from(which) % self.paths.len()), inode, file),
                    (Err(error), None) => {
                        let is_right = is_not_found(&error) || error.kind() == ErrorKind::OverBudget;
                        assert!(is_right, "open of a missing file: {error}");
                    }
                    (Err(error), Some(inode)) => drop(self.judge::<()>("open", inode, Some(0), Err(error))),
                    (Ok(file), None) => panic!("{file:?} was opened, but its path has no file"),
                }
            }
            Op::OpenDescriptor(which) => {
                let Some(maps) = self.managers.last() else { return };
                let (descriptor, inode) = match self.paths.get(usize::from(which) % (self.paths.len() + 1)) {
                    None => (large().0.try_clone().expect("the descriptor is cloned"), 0),
                    Some((path, Some(inode))) => (fs::File::open(path).expect("the file opens"), *inode),
                    Some((_, None)) => return,
                };
                let opened = maps.open_file(descriptor);
                if let Some(file) = self.judge("open_file", inode, Some(0), opened) {
                    self.opened(None, inode, file);
                }
            }
            Op::CloneHandle(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let (path, Of { inode, value }) = &self.handles[index];
                    let twin = (*path, Of { inode: *inode, value: value.clone() });
                    keep(&mut self.handles, twin);
                }
            }
            Op::DropHandle(which) => remove(&mut self.handles, which),
            Op::CloneManager => self.managers.extend(self.managers.last().cloned().filter(|_| self.managers.len() < 3)),
            // May drop the last manager. Open files then keep working without it.
            Op::DropManager => drop(self.managers.pop()),

            Op::NewCursor(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let Of { inode, value } = &self.handles[index].1;
                    let cursor = Of { inode: *inode, value: value.cursor() };
                    keep(&mut self.cursors, cursor);
                }
            }
            Op::CloneCursor(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    let Of { inode, value } = &self.cursors[index];
                    let twin = Of { inode: *inode, value: value.clone() };
                    assert_eq!(twin.value.position(), value.position());
                    keep(&mut self.cursors, twin);
                }
            }
            Op::DropCursor(which) => remove(&mut self.cursors, which),
            Op::Release(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    self.cursors[index].value.release();
                }
                if let Some(index) = pick(&self.buffers, which) {
                    self.buffers[index].value.release();
                }
            }
            Op::Slice(which, spot, size) => self.with_cursor(which, |world, Of { inode, value }| {
                let range = world.range(*inode, spot, size);
                let result = value.slice(range.clone());
                world.check_range("slice", *inode, range, result);
            }),
            Op::WindowAt(which, spot) => self.with_cursor(which, |world, Of { inode, value }| {
                let range = world.window_from(*inode, world.offset(*inode, spot));
                let need = world.need(*inode, &(0..0));
                if let Some(found) = world.judge("window_at", *inode, Some(need), value.window_at(range.start)) {
                    let is_empty = range.is_empty();
                    assert_same(found, if is_empty { &[] } else { world.bytes(*inode, range) }, "window_at");
                }
            }),
            Op::SeekRead(which, spot, size) => {
                self.with_cursor(which, |world, cursor| world.seek_read(cursor, spot, size))
            }
            Op::ReadUntil(which, byte) => self.with_cursor(which, |world, cursor| world.read_until(cursor, byte)),
            Op::FillConsume(which, part) => self.with_cursor(which, |world, Of { inode, value }| {
                let at = value.position();
                let range = world.window_from(*inode, at);
                let filled = value.fill_buf().map_err(of_io);
                if let Some(found) = world.judge("fill_buf", *inode, None, filled) {
                    assert_eq!(found.is_empty(), range.is_empty());
                    // A part of the window, if that is not mapped, or the rest of a longer range that the cursor holds.
                    let filled = at..at + found.len() as u64;
                    let expected = if filled.is_empty() { &[] } else { world.bytes(*inode, filled) };
                    assert_same(found, expected, "fill_buf");
                    let amount = found.len() * usize::from(part) / usize::from(u16::MAX);
                    value.consume(amount);
                    assert_eq!(value.position(), at + amount as u64);
                }
            }),

            Op::Lease(which, spot, size) => {
                let Some(index) = pick(&self.handles, which) else { return };
                let Of { inode, value } = &self.handles[index].1;
                let (inode, range) = (*inode, self.range(*inode, spot, size));
                match value.lease(range.clone()) {
                    Err(error) => self.check_range("lease", inode, range, Err(error)),
                    Ok(lease) => {
                        self.check_range("lease", inode, range.clone(), Ok(&lease));
                        assert_eq!(lease.offset(), range.start);
                        keep(&mut self.leases, Kept { inode, start: range.start, lease });
                    }
                }
            }
            Op::CloneLease(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { inode, start, ref lease } = self.leases[index];
                    let twin = Kept { inode, start, lease: lease.clone() };
                    assert_eq!(twin.lease.as_ptr(), lease.as_ptr());
                    keep(&mut self.leases, twin);
                }
            }
            Op::SliceLease(which, from, to) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { inode, start, ref lease } = self.leases[index];
                    let part = |of: u16| lease.len() * usize::from(of) / usize::from(u16::MAX);
                    let (from, to) = (part(from.min(to)), part(from.max(to)));
                    let lease = lease.slice(from..to);
                    assert_eq!((lease.len(), lease.offset()), (to - from, start + from as u64));
                    keep(&mut self.leases, Kept { inode, start: start + from as u64, lease });
                }
            }
            Op::DropLease(which) => remove(&mut self.leases, which),
            Op::DropLeaseElsewhere(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { inode, start, lease } = self.leases.swap_remove(index);
                    let expected = self.bytes(inode, start..start + lease.len() as u64).to_vec();
                    let thread =
                        thread::spawn(move || assert_same(&lease, &expected, "a lease sent to another thread"));
                    thread.join().expect("the thread does not panic");
                }
            }
            Op::CheckLeases => self.check_leases("between other calls"),

            Op::NewBuffer(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let Of { inode, value } = &self.handles[index].1;
                    let buffer = Of { inode: *inode, value: value.buffer() };
                    assert_eq!(buffer.value.len(), self.inodes[*inode].known_len);
                    keep(&mut self.buffers, buffer);
                }
            }
            Op::CloneBuffer(which) => {
                if let Some(index) = pick(&self.buffers, which) {
                    let Of { inode, value } = &self.buffers[index];
                    let twin = Of { inode: *inode, value: value.clone() };
                    keep(&mut self.buffers, twin);
                }
            }
            Op::DropBuffer(which) => remove(&mut self.buffers, which),
            Op::Get(which, spot) => self.with_buffer(which, |world, Of { inode, value }| {
                let at = world.offset(*inode, spot);
                if let Some(found) = world.judge("get", *inode, None, value.get(at)) {
                    assert_eq!(found, world.text(*inode).as_bytes().get(at as usize).copied(), "byte {at}");
                }
            }),
            Op::GetBack(which, part) => self.with_buffer(which, |world, Of { inode, value }| {
                let text = world.text(*inode);
                let at = (text.len() + 3) * usize::from(part) / usize::from(u16::MAX);
                if let Some(found) = world.judge("get_back", *inode, None, value.get_back(at as u64)) {
                    assert_eq!(found, text.as_bytes().iter().nth_back(at).copied(), "byte {at} from the end");
                }
            }),
            Op::BufferSlice(which, spot, size) => self.with_buffer(which, |world, Of { inode, value }| {
                let range = world.range(*inode, spot, size);
                let result = value.slice(range.clone());
                world.check_range("slice of a buffer", *inode, range, result);
            }),
            Op::Find(which, spot, count, changed) => {
                self.searching(which, |world, buffer| world.find(buffer, spot, count, changed));
            }
            Op::FindAll(which, spot, count) => {
                self.searching(which, |world, buffer| world.find_all(buffer, spot, count))
            }
            Op::Compare(which, size, changed) => {
                self.with_buffer(which, |world, buffer| world.compare(buffer, size, changed))
            }
            Op::Lines(which, count) => self.searching(which, |world, Of { inode, value }| {
                let need = world.need(*inode, &(0..world.inodes[*inode].known_len));
                let text = world.text(*inode);
                let mut expected = text.lines().take(count.into());
                for line in value.lines().take(count.into()) {
                    let Some(line) = world.judge("lines", *inode, Some(need), line) else { return };
                    assert_same(&line, expected.next().expect("no surplus line").as_bytes(), "a line");
                }
                assert!(expected.next().is_none(), "a line is missing");
            }),
            Op::Split(which, letter, count) => self.searching(which, |world, Of { inode, value }| {
                let need = world.need(*inode, &(0..world.inodes[*inode].known_len));
                let (text, letter) = (world.text(*inode), b'a' + letter % 26);
                let mut expected = text.split(char::from(letter)).take(count.into());
                for piece in value.split(letter).take(count.into()) {
                    let Some(piece) = world.judge("split", *inode, Some(need), piece) else { return };
                    assert_same(&piece, expected.next().expect("no surplus piece").as_bytes(), "a piece");
                }
                assert!(expected.next().is_none(), "a piece is missing");
            }),

            Op::ReadAt(which, spot, size) => self.with_handle(which, |world, Of { inode, value }| {
                let (start, len) = (world.offset(*inode, spot), world.inodes[*inode].known_len);
                let mut bytes = vec![0; world.size(*inode, size) as usize];
                let Some(count) = world.judge("read_at", *inode, None, value.read_at(&mut bytes, start)) else {
                    return;
                };
                assert_eq!(count as u64, len.saturating_sub(start).min(bytes.len() as u64));
                let expected = if count == 0 { &[] } else { world.bytes(*inode, start..start + count as u64) };
                assert_same(&bytes[..count], expected, "read_at");
            }),
            Op::ReadExactAt(which, spot, size) => self.with_handle(which, |world, Of { inode, value }| {
                let range = world.range(*inode, spot, size);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let result = value.read_exact_at(&mut bytes, range.start).map(|()| &bytes[..]);
                world.check_copy("read_exact_at", *inode, range, result);
            }),
            Op::Prefetch(which, spot, size) => self.with_handle(which, |world, Of { inode, value }| {
                let range = world.range(*inode, spot, size);
                let result = value.prefetch(range.clone());
                if world.is_inside(*inode, &range) {
                    world.judge("prefetch", *inode, Some(world.need(*inode, &(0..0))), result);
                } else {
                    assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutOfBounds), "prefetch {range:?}");
                }
            }),
            Op::Windows(which, ends, kept) => self.windows(which, ends, kept),
            Op::Refresh(which) => self.refresh(which),

            Op::Append(which, more, is_refreshed) => {
                let (path, Some(inode)) = self.paths[usize::from(which) % self.paths.len()].clone() else { return };
                let more = letters(more.into(), usize::from(more) % 20_000);
                let mut file = OpenOptions::new().append(true).open(path).expect("the file opens");
                file.write_all(more.as_bytes()).expect("the file is appended to");
                self.inodes[inode].text.to_mut().push_str(&more);
                if is_refreshed {
                    let known = self.handles.iter().position(|(_, handle)| handle.inode == inode);
                    known.inspect(|&index| self.refresh(index as u8));
                }
                self.check_leases("after an append");
            }
            Op::Replace(which, len) => {
                self.make(usize::from(which) % self.paths.len(), len);
                self.check_leases("after a replacement");
            }
            Op::Delete(which) => {
                let (path, leads_to) = &mut self.paths[usize::from(which) % 3];
                if leads_to.take().is_some() {
                    fs::remove_file(path).expect("the file is deleted");
                }
            }
            Op::Touch(which) => {
                if let (path, Some(_)) = &self.paths[usize::from(which) % self.paths.len()] {
                    let file = OpenOptions::new().write(true).open(path).expect("the file opens");
                    file.set_modified(SystemTime::now()).expect("the file's time is set");
                }
            }

            Op::Collect => {
                if let Some(maps) = self.managers.last() {
                    maps.collect();
                    self.check_leases("after collect");
                }
            }
            Op::Close(which) => {
                if let Some(maps) = self.managers.last() {
                    maps.close(&self.paths[usize::from(which) % self.paths.len()].0);
                    self.check_leases("after close");
                }
            }
            Op::CloseAll => {
                if let Some(maps) = self.managers.last() {
                    maps.close(self.paths[0].0.parent().expect("every path has a parent"));
                    self.check_leases("after close");
                }
            }
            Op::SetLimits(bytes, regions, open_files) => {
                if let Some(maps) = self.managers.last() {
                    self.limits = Limits {
                        max_mapped_bytes: budget(bytes, self.border()).max(1),
                        max_regions: if regions % 2 == 0 { 1000 } else { usize::from(regions) },
                        max_open_files: usize::from(open_files % 8) + 1,
                    };
                    self.highest.max_mapped_bytes = self.highest.max_mapped_bytes.max(self.limits.max_mapped_bytes);
                    self.highest.max_regions = self.highest.max_regions.max(self.limits.max_regions);
                    maps.set_limits(self.limits).expect("no limit is 0");
                    self.check_leases("after set_limits");
                }
            }
            Op::Stats => self.check_stats(),
        }
    }

    fn opened(&mut self, path: Option<usize>, inode: usize, file: MappedFile) {
        self.inodes[inode].known_len = self.inodes[inode].text.len() as u64;
        self.inodes[inode].named |= path.is_some();
        assert_eq!((file.len(), file.path().is_some()), (self.inodes[inode].known_len, path.is_some()));
        keep(&mut self.handles, (path, Of { inode, value: file }));
    }

    fn with_handle(&mut self, which: Pick, work: impl FnOnce(&World, &Of<MappedFile>)) {
        if let Some(index) = pick(&self.handles, which) {
            let handle = &self.handles[index].1;
            assert_eq!(handle.value.len(), self.inodes[handle.inode].known_len);
            work(self, handle);
        }
    }

    fn with_cursor(&mut self, which: Pick, work: impl FnOnce(&World, &mut Of<Cursor>)) {
        if let Some(index) = pick(&self.cursors, which) {
            let mut cursor = self.cursors.swap_remove(index);
            work(self, &mut cursor);
            self.cursors.push(cursor);
        }
    }

    /// Calls `work` with a buffer, unless it is one of the large file.
    fn searching(&mut self, which: Pick, work: impl FnOnce(&World, &mut Of<Buffer>)) {
        self.with_buffer(which, |world, buffer| {
            if buffer.inode != 0 {
                work(world, buffer);
            }
        });
    }

    fn with_buffer(&mut self, which: Pick, work: impl FnOnce(&World, &mut Of<Buffer>)) {
        if let Some(index) = pick(&self.buffers, which) {
            let mut buffer = self.buffers.swap_remove(index);
            work(self, &mut buffer);
            self.buffers.push(buffer);
        }
    }

    /// Checks the result for a range: it must be the file's bytes, an out-of-bounds error if the range is not inside
    /// the file, or an error that the current state explains. Small ranges are copied rather than refused.
    fn check_range(&self, what: &str, inode: usize, range: Range<u64>, result: smmap::Result<&[u8]>) {
        let is_small = range.end.saturating_sub(range.start) <= SMALL;
        self.check(what, inode, range.clone(), (!is_small).then(|| self.need(inode, &range)), result);
    }

    fn check_copy(&self, what: &str, inode: usize, range: Range<u64>, result: smmap::Result<&[u8]>) {
        self.check(what, inode, range, None, result);
    }

    fn check(&self, what: &str, inode: usize, range: Range<u64>, need: Option<u64>, result: smmap::Result<&[u8]>) {
        if !self.is_inside(inode, &range) {
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutOfBounds), "{what} {range:?}");
        } else if let Some(found) = self.judge(what, inode, need, result) {
            assert_same(found, self.bytes(inode, range), what);
        }
    }

    fn check_leases(&self, when: &str) {
        for Kept { inode, start, lease } in &self.leases {
            assert_same(lease, self.bytes(*inode, *start..*start + lease.len() as u64), when);
        }
    }

    fn check_stats(&self) {
        let Some(maps) = self.managers.last() else { return };
        let stats = maps.stats();
        assert_eq!(maps.limits(), self.limits);
        assert!(stats.unmaps <= stats.maps && stats.evictions <= stats.unmaps, "{stats:?}");
        assert!(stats.mapped_bytes <= stats.peak_mapped_bytes && stats.regions <= stats.peak_regions, "{stats:?}");
        assert!(stats.pinned_bytes <= stats.mapped_bytes && stats.pinned_regions <= stats.regions, "{stats:?}");
        let most = self.highest;
        let is_within = stats.peak_mapped_bytes <= most.max_mapped_bytes && stats.peak_regions <= most.max_regions;
        assert!(is_within || (self.overcommit == Overcommit::Allow && stats.overcommits > 0), "{most:?}, {stats:?}");
    }

    fn seek_read(&self, Of { inode, value: cursor }: &mut Of<Cursor>, spot: Spot, size: Size) {
        let (at, len) = (self.offset(*inode, spot), self.inodes[*inode].known_len);
        let to = match spot {
            Spot::Anywhere(_) => SeekFrom::Start(at),
            Spot::AtBorder(..) => SeekFrom::Current((at as i64).wrapping_sub(cursor.position() as i64)),
            Spot::AtEnd(_) => SeekFrom::End((at as i64).wrapping_sub(len as i64)),
        };
        assert_eq!(cursor.seek(to).expect("the offset is in the file or behind it"), at, "{to:?}");
        let mut bytes = vec![0; self.size(*inode, size) as usize];
        let Some(count) = self.judge("read", *inode, None, cursor.read(&mut bytes).map_err(of_io)) else { return };
        let left = len.saturating_sub(at).min(bytes.len() as u64);
        assert!(count as u64 <= left && (count > 0) == (left > 0), "{count} of {left} at {at}");
        assert_eq!(cursor.position(), at + count as u64);
        if count > 0 {
            assert_same(&bytes[..count], self.bytes(*inode, at..at + count as u64), "read");
        }
    }

    fn read_until(&self, Of { inode, value: cursor }: &mut Of<Cursor>, byte: u8) {
        let (start, text) = (cursor.position(), self.text(*inode));
        let rest = text.as_bytes().get(start as usize..).unwrap_or_default();
        let byte = b'a' + byte % 26;
        let expected = rest.iter().position(|&other| other == byte).map_or(rest, |at| &rest[..=at]);
        let mut found = Vec::new();
        let result = cursor.read_until(byte, &mut found).map_err(of_io);
        assert_eq!(cursor.position(), start + found.len() as u64, "every consumed byte is returned");
        match self.judge("read_until", *inode, None, result) {
            Some(count) => {
                assert_eq!(count, found.len());
                assert_same(&found, expected, "read_until");
            }
            None => assert!(expected.starts_with(&found), "read_until, partial result"),
        }
    }

    /// Returns letters of the file to search for. If `changed` is set, they do not occur in it.
    fn needle(&self, inode: usize, spot: Spot, count: u8, changed: bool) -> String {
        let (start, text) = ((self.offset(inode, spot) as usize), self.text(inode));
        let start = start.min(text.len());
        // Short needles have many matches; long ones cross window boundaries.
        let count = if count < 128 { usize::from(count) % 8 } else { usize::from(count) * 40 };
        let mut needle = text[start..(start + count).min(text.len())].to_owned();
        if changed && needle.pop().is_some() {
            needle.push('!');
        }
        needle
    }

    fn find(&self, Of { inode, value }: &mut Of<Buffer>, spot: Spot, count: u8, changed: bool) {
        let (needle, text, need) =
            (self.needle(*inode, spot, count, changed), self.text(*inode), self.need(*inode, &(0..0)));
        if let Some(found) = self.judge("find", *inode, Some(need), value.find(needle.as_bytes())) {
            assert_eq!(found, text.find(&needle).map(|at| at as u64), "find {needle:?}");
        }
        if let Some(found) = self.judge("rfind", *inode, Some(need), value.rfind(needle.as_bytes())) {
            assert_eq!(found, text.rfind(&needle).map(|at| at as u64), "rfind {needle:?}");
        }
    }

    fn find_all(&self, Of { inode, value }: &mut Of<Buffer>, spot: Spot, count: u8) {
        const MOST: usize = 100;
        let (needle, text, need) =
            (self.needle(*inode, spot, count, false), self.text(*inode), self.need(*inode, &(0..0)));
        let expected: Vec<u64> = text.match_indices(&needle).take(MOST).map(|(at, _)| at as u64).collect();
        let found = value.find_iter(needle.as_bytes()).take(MOST).collect::<smmap::Result<Vec<_>>>();
        if let Some(found) = self.judge("find_iter", *inode, Some(need), found) {
            assert!(found == expected, "find_iter {needle:?}: {found:?}, expected {expected:?}");
        }
    }

    fn compare(&self, Of { inode, value }: &mut Of<Buffer>, size: Size, changed: bool) {
        let (text, need) = (self.text(*inode), self.need(*inode, &(0..0)));
        let all = text.as_bytes();
        let size = (self.size(*inode, size) as usize).min(all.len());
        let (mut head, mut tail) = (all[..size].to_vec(), all[all.len() - size..].to_vec());
        if let (true, Some(last), Some(first)) = (changed, head.last_mut(), tail.first_mut()) {
            (*last, *first) = (b'!', b'~');
        }
        if let Some(found) = self.judge("starts_with", *inode, Some(need), value.starts_with(&head)) {
            assert_eq!(found, all.starts_with(&head));
        }
        if let Some(found) = self.judge("ends_with", *inode, Some(need), value.ends_with(&tail)) {
            assert_eq!(found, all.ends_with(&tail));
        }
        if let Some(found) = self.judge("equals", *inode, Some(need), value.equals(&head)) {
            assert_eq!(found, head == all);
        }
        if let Some(found) = self.judge("compare", *inode, Some(need), value.compare(&head)) {
            assert_eq!(found, all.cmp(&head[..]));
        }
    }

    /// Reads some of the windows from both ends by turns, and keeps one of them.
    fn windows(&mut self, which: Pick, ends: u32, kept: u8) {
        let Some(index) = pick(&self.handles, which) else { return };
        let Of { inode, value } = &self.handles[index].1;
        let (inode, mut windows) = (*inode, value.windows());
        let len = self.inodes[inode].known_len;
        let expected = if len == 0 { 0 } else { self.window.map_or(1, |window| len.div_ceil(window)) };
        assert_eq!(windows.len() as u64, expected);
        let mut rest = 0..len;
        for step in 0..expected.min(32) {
            let is_back = ends.rotate_right(step as u32) & 1 == 1;
            let next = if is_back { windows.next_back() } else { windows.next() }.expect("no window is missing");
            let Some(lease) = self.judge("windows", inode, Some(self.need(inode, &(0..0))), next) else { return };
            let size = lease.len() as u64;
            let range = if is_back { rest.end - size..rest.end } else { rest.start..rest.start + size };
            rest = if is_back { rest.start..range.start } else { range.end..rest.end };
            assert_eq!(lease.offset(), range.start);
            assert_same(&lease, self.bytes(inode, range.clone()), "a window");
            if step == u64::from(kept) {
                keep(&mut self.leases, Kept { inode, start: range.start, lease });
                return;
            }
        }
        assert_eq!(windows.next().is_none(), rest.is_empty());
    }

    fn refresh(&mut self, which: Pick) {
        let Some(index) = pick(&self.handles, which) else { return };
        let (path, Of { inode, value }) = &self.handles[index];
        let inode = *inode;
        let Some(change) = self.judge("refresh", inode, Some(0), value.refresh()) else { return };
        let old = self.inodes[inode].known_len;
        self.inodes[inode].known_len = self.inodes[inode].text.len() as u64;
        let leads_to = path.map(|path| self.paths[path].1);
        let has_name = self.paths.iter().any(|(_, leads_to)| *leads_to == Some(inode));
        match change {
            Change::Replaced => assert!(leads_to.is_some_and(|leads_to| leads_to.is_some_and(|other| other != inode))),
            Change::Deleted => assert!(leads_to == Some(None) || (leads_to.is_none() && !has_name)),
            Change::Grown => assert!(old < self.inodes[inode].known_len),
            Change::Unchanged | Change::Modified => assert_eq!(old, self.inodes[inode].known_len),
            other => panic!("{other:?}, but no file was truncated"),
        }
    }

    /// Drops everything in the order of `setup`, and checks that nothing stays mapped.
    fn end(mut self, setup: &Setup) {
        self.check_leases("at the end");
        self.check_stats();
        if setup.manager_first {
            self.managers.clear();
        }
        if setup.leases_first {
            self.leases.clear();
        }
        self.handles.clear();
        self.cursors.clear();
        self.buffers.clear();
        self.check_leases("after everything else was dropped");
        self.leases.clear();
        if let Some(maps) = self.managers.pop() {
            maps.collect();
            let began = Instant::now();
            let is_left = || maps.stats().mapped_bytes > 0 || maps.stats().regions > 0;
            // The collector may still be unmapping regions that it owns.
            while is_left() && began.elapsed() < Duration::from_secs(5) {
                thread::yield_now();
            }
            assert!(!is_left(), "{:?}", maps.stats());
        }
    }
}

fn remove<T>(from: &mut Vec<T>, which: Pick) {
    if let Some(index) = pick(from, which) {
        from.swap_remove(index);
    }
}

fuzz_target!(|input: Input| {
    // Created before the first run, because it stays open for all runs.
    large();
    run(|| {
        let mut world = World::new(&input.setup);
        // Start with some objects.
        let first = [Op::Open(0), Op::OpenDescriptor(3), Op::NewCursor(0), Op::NewBuffer(1)];
        for op in first.iter().chain(&input.ops.0) {
            world.run(op);
        }
        world.end(&input.setup);
    });
});
