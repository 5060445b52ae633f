//! Any sequence of calls on a few files, against a `String` for each: whatever is opened, read, kept, limited, closed,
//! collected, appended to and replaced, each byte is the file's, no error comes that should not, and in the end nothing is
//! mapped. (The property test `tests/it/model.rs` knows more precisely when the budget may refuse; here are files that change,
//! and a fuzzer that looks where the calls lead.)

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
use smmap_fuzz::{Script, assert_same, directory, is_not_found, keep, manager, mix, nameless, of_io, pick, run};

const PAGE: u64 = 4096;
/// A range up to this may be read instead of mapped.
const SMALL: u64 = 256 << 10;
/// Enough for ranges that get a mapping of their own. It is not searched, which would take most of the time.
const LARGE: usize = 3 * SMALL as usize / 2;

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    ops: Script<Op, 100>,
}

#[derive(Arbitrary, Debug)]
struct Setup {
    /// Pages; 0 for whole files.
    window: u8,
    budget: u8,
    regions: u8,
    open_files: u8,
    overcommit: Patience,
    always: bool,
    lengths: [u16; 3],
    /// What goes first in the end.
    leases_first: bool,
    manager_first: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Patience {
    Allow,
    Fail,
    Wait,
}

/// Chooses one of those that are there, however many they are.
type Pick = u8;

/// An offset, by what is special about it; it may be past the end.
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

    /// And whether that is noticed at once.
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

/// A file from when it was made until nobody knows of it.
struct Life {
    text: Cow<'static, str>,
    /// How much of it was noticed, by anyone.
    noticed: u64,
    /// Whether it was ever opened by its path: only then can its descriptor be given up.
    named: bool,
}

/// Something of the file `life`.
struct Of<T> {
    life: usize,
    value: T,
}

struct Kept {
    life: usize,
    start: u64,
    lease: Lease,
}

struct World {
    _dir: tempfile::TempDir,
    /// Where each leads, if anywhere.
    paths: Vec<(PathBuf, Option<usize>)>,
    /// The first is the large one, which has no name and does not change.
    lives: Vec<Life>,
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

/// Few letters, so that searches find something, and line ends: pieces of one random text, put together at random.
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
        file.write_all(text.as_bytes()).expect("the file can be written");
        (file, text)
    })
}

/// In half windows; or enough for anything.
fn budget(half_windows: u8, window: u64) -> u64 {
    if half_windows % 4 == 0 { 8 * SMALL } else { u64::from(half_windows / 4) * window / 2 }
}

/// Puts one more in, in the place of another if there are too many.
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
            Patience::Allow => Overcommit::Allow,
            Patience::Fail => Overcommit::Fail,
            Patience::Wait => Overcommit::Wait(Duration::from_micros(50)),
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
            lives: vec![Life { text: Cow::Borrowed(&large().1), noticed: 0, named: false }],
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

    /// A new file where the path leads. Often of whole pages, or nearly.
    fn make(&mut self, path: usize, len: u16) {
        let len = match len % 4 {
            0 => usize::from(len / 4) % 40_000,
            1 => 0,
            by => usize::from(len / 4) % 10 * PAGE as usize + usize::from(by) - 2,
        };
        let text = letters(self.lives.len() as u64, len);
        let new = self.paths[path].0.with_extension("new");
        fs::write(&new, &text).expect("the file can be written");
        fs::rename(&new, &self.paths[path].0).expect("it can take the place");
        self.paths[path].1 = Some(self.lives.len());
        self.lives.push(Life { text: text.into(), noticed: 0, named: false });
    }

    fn border(&self) -> u64 {
        self.window.unwrap_or(4 * PAGE)
    }

    fn offset(&self, life: usize, spot: Spot) -> u64 {
        let len = self.lives[life].noticed;
        match spot {
            Spot::Anywhere(part) => len * u64::from(part) / (1 << 16),
            Spot::AtBorder(border, by) => {
                let borders = len / self.border() + 1;
                (u64::from(border) % borders * self.border()).saturating_add_signed(i64::from(by % 4))
            }
            Spot::AtEnd(by) => len.saturating_add_signed(i64::from(by)),
        }
    }

    /// From the spot on, inside the file; if the spot is past the end, so is the range.
    fn range(&self, life: usize, spot: Spot, size: Size) -> Range<u64> {
        let (start, len) = (self.offset(life, spot), self.lives[life].noticed);
        let end = start + self.size(life, size);
        start..if start <= len { end.min(len) } else { end }
    }

    fn size(&self, life: usize, size: Size) -> u64 {
        match size {
            Size::Few(bytes) => u64::from(bytes),
            Size::QuarterWindows(quarters) => u64::from(quarters % 20) * self.border() / 4,
            Size::Large(part) => self.lives[life].noticed * u64::from(part) / (1 << 16),
        }
    }

    fn is_inside(&self, life: usize, range: &Range<u64>) -> bool {
        range.end <= self.lives[life].noticed
    }

    fn bytes(&self, life: usize, range: Range<u64>) -> &[u8] {
        &self.lives[life].text.as_bytes()[range.start as usize..range.end as usize]
    }

    /// The text as far as it was noticed.
    fn text(&self, life: usize) -> &str {
        &self.lives[life].text[..self.lives[life].noticed as usize]
    }

    fn window_from(&self, life: usize, at: u64) -> Range<u64> {
        let len = self.lives[life].noticed;
        let end = self.window.map_or(len, |window| ((at / window + 1) * window).min(len));
        at..end.max(at)
    }

    /// What is mapped at a time for this range, at most.
    fn need(&self, life: usize, range: &Range<u64>) -> u64 {
        let len = self.lives[life].noticed;
        let window = pages(self.window.unwrap_or(len).min(len));
        if range.end - range.start > SMALL { window.max(range.end - range.start + 2 * PAGE) } else { window }
    }

    /// What a call gave, unless it failed for a reason that it may have. One that copies needs no room.
    fn judge<T>(&self, what: &str, life: usize, need: Option<u64>, result: smmap::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let is_gone = || self.lives[life].named && !self.paths.iter().any(|(_, leads_to)| *leads_to == Some(life));
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
                    (Ok(file), Some(life)) => self.opened(Some(usize::from(which) % self.paths.len()), life, file),
                    (Err(error), None) => {
                        let is_right = is_not_found(&error) || error.kind() == ErrorKind::OverBudget;
                        assert!(is_right, "open of nothing: {error}");
                    }
                    (Err(error), Some(life)) => drop(self.judge::<()>("open", life, Some(0), Err(error))),
                    (Ok(file), None) => panic!("{file:?} was opened where there is none"),
                }
            }
            Op::OpenDescriptor(which) => {
                let Some(maps) = self.managers.last() else { return };
                let (descriptor, life) = match self.paths.get(usize::from(which) % (self.paths.len() + 1)) {
                    None => (large().0.try_clone().expect("another descriptor"), 0),
                    Some((path, Some(life))) => (fs::File::open(path).expect("it is there"), *life),
                    Some((_, None)) => return,
                };
                let opened = maps.open_file(descriptor);
                if let Some(file) = self.judge("open_file", life, Some(0), opened) {
                    self.opened(None, life, file);
                }
            }
            Op::CloneHandle(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let (path, Of { life, value }) = &self.handles[index];
                    let twin = (*path, Of { life: *life, value: value.clone() });
                    keep(&mut self.handles, twin);
                }
            }
            Op::DropHandle(which) => remove(&mut self.handles, which),
            Op::CloneManager => self.managers.extend(self.managers.last().cloned().filter(|_| self.managers.len() < 3)),
            // Also the last one: then what is open goes on alone.
            Op::DropManager => drop(self.managers.pop()),

            Op::NewCursor(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let Of { life, value } = &self.handles[index].1;
                    let cursor = Of { life: *life, value: value.cursor() };
                    keep(&mut self.cursors, cursor);
                }
            }
            Op::CloneCursor(which) => {
                if let Some(index) = pick(&self.cursors, which) {
                    let Of { life, value } = &self.cursors[index];
                    let twin = Of { life: *life, value: value.clone() };
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
            Op::Slice(which, spot, size) => self.with_cursor(which, |world, Of { life, value }| {
                let range = world.range(*life, spot, size);
                let result = value.slice(range.clone());
                world.check_range("slice", *life, range, result);
            }),
            Op::WindowAt(which, spot) => self.with_cursor(which, |world, Of { life, value }| {
                let range = world.window_from(*life, world.offset(*life, spot));
                let need = world.need(*life, &(0..0));
                if let Some(found) = world.judge("window_at", *life, Some(need), value.window_at(range.start)) {
                    let is_empty = range.is_empty();
                    assert_same(found, if is_empty { &[] } else { world.bytes(*life, range) }, "window_at");
                }
            }),
            Op::SeekRead(which, spot, size) => {
                self.with_cursor(which, |world, cursor| world.seek_read(cursor, spot, size))
            }
            Op::ReadUntil(which, byte) => self.with_cursor(which, |world, cursor| world.read_until(cursor, byte)),
            Op::FillConsume(which, part) => self.with_cursor(which, |world, Of { life, value }| {
                let at = value.position();
                let range = world.window_from(*life, at);
                let need = world.need(*life, &(0..0));
                let filled = value.fill_buf().map_err(of_io);
                if let Some(found) = world.judge("fill_buf", *life, Some(need), filled) {
                    let is_empty = range.is_empty();
                    assert_same(found, if is_empty { &[] } else { world.bytes(*life, range) }, "fill_buf");
                    let amount = found.len() * usize::from(part) / usize::from(u16::MAX);
                    value.consume(amount);
                    assert_eq!(value.position(), at + amount as u64);
                }
            }),

            Op::Lease(which, spot, size) => {
                let Some(index) = pick(&self.handles, which) else { return };
                let Of { life, value } = &self.handles[index].1;
                let (life, range) = (*life, self.range(*life, spot, size));
                match value.lease(range.clone()) {
                    Err(error) => self.check_range("lease", life, range, Err(error)),
                    Ok(lease) => {
                        self.check_range("lease", life, range.clone(), Ok(&lease));
                        assert_eq!(lease.offset(), range.start);
                        keep(&mut self.leases, Kept { life, start: range.start, lease });
                    }
                }
            }
            Op::CloneLease(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { life, start, ref lease } = self.leases[index];
                    let twin = Kept { life, start, lease: lease.clone() };
                    assert_eq!(twin.lease.as_ptr(), lease.as_ptr());
                    keep(&mut self.leases, twin);
                }
            }
            Op::SliceLease(which, from, to) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { life, start, ref lease } = self.leases[index];
                    let part = |of: u16| lease.len() * usize::from(of) / usize::from(u16::MAX);
                    let (from, to) = (part(from.min(to)), part(from.max(to)));
                    let lease = lease.slice(from..to);
                    assert_eq!((lease.len(), lease.offset()), (to - from, start + from as u64));
                    keep(&mut self.leases, Kept { life, start: start + from as u64, lease });
                }
            }
            Op::DropLease(which) => remove(&mut self.leases, which),
            Op::DropLeaseElsewhere(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let Kept { life, start, lease } = self.leases.swap_remove(index);
                    let expected = self.bytes(life, start..start + lease.len() as u64).to_vec();
                    let thread = thread::spawn(move || assert_same(&lease, &expected, "a lease that was sent"));
                    thread.join().expect("it does not panic");
                }
            }
            Op::CheckLeases => self.check_leases("meanwhile"),

            Op::NewBuffer(which) => {
                if let Some(index) = pick(&self.handles, which) {
                    let Of { life, value } = &self.handles[index].1;
                    let buffer = Of { life: *life, value: value.buffer() };
                    assert_eq!(buffer.value.len(), self.lives[*life].noticed);
                    keep(&mut self.buffers, buffer);
                }
            }
            Op::CloneBuffer(which) => {
                if let Some(index) = pick(&self.buffers, which) {
                    let Of { life, value } = &self.buffers[index];
                    let twin = Of { life: *life, value: value.clone() };
                    keep(&mut self.buffers, twin);
                }
            }
            Op::DropBuffer(which) => remove(&mut self.buffers, which),
            Op::Get(which, spot) => self.with_buffer(which, |world, Of { life, value }| {
                let at = world.offset(*life, spot);
                if let Some(found) = world.judge("get", *life, None, value.get(at)) {
                    assert_eq!(found, world.text(*life).as_bytes().get(at as usize).copied(), "byte {at}");
                }
            }),
            Op::GetBack(which, part) => self.with_buffer(which, |world, Of { life, value }| {
                let text = world.text(*life);
                let at = (text.len() + 3) * usize::from(part) / usize::from(u16::MAX);
                if let Some(found) = world.judge("get_back", *life, None, value.get_back(at as u64)) {
                    assert_eq!(found, text.as_bytes().iter().nth_back(at).copied(), "byte {at} from the end");
                }
            }),
            Op::BufferSlice(which, spot, size) => self.with_buffer(which, |world, Of { life, value }| {
                let range = world.range(*life, spot, size);
                let result = value.slice(range.clone());
                world.check_range("slice of a buffer", *life, range, result);
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
            Op::Lines(which, count) => self.searching(which, |world, Of { life, value }| {
                let need = world.need(*life, &(0..world.lives[*life].noticed));
                let text = world.text(*life);
                let mut expected = text.lines().take(count.into());
                for line in value.lines().take(count.into()) {
                    let Some(line) = world.judge("lines", *life, Some(need), line) else { return };
                    assert_same(&line, expected.next().expect("not one more").as_bytes(), "a line");
                }
                assert!(expected.next().is_none(), "not one less");
            }),
            Op::Split(which, letter, count) => self.searching(which, |world, Of { life, value }| {
                let need = world.need(*life, &(0..world.lives[*life].noticed));
                let (text, letter) = (world.text(*life), b'a' + letter % 26);
                let mut expected = text.split(char::from(letter)).take(count.into());
                for piece in value.split(letter).take(count.into()) {
                    let Some(piece) = world.judge("split", *life, Some(need), piece) else { return };
                    assert_same(&piece, expected.next().expect("not one more").as_bytes(), "a piece");
                }
                assert!(expected.next().is_none(), "not one less");
            }),

            Op::ReadAt(which, spot, size) => self.with_handle(which, |world, Of { life, value }| {
                let (start, len) = (world.offset(*life, spot), world.lives[*life].noticed);
                let mut bytes = vec![0; world.size(*life, size) as usize];
                let Some(count) = world.judge("read_at", *life, None, value.read_at(&mut bytes, start)) else { return };
                assert_eq!(count as u64, len.saturating_sub(start).min(bytes.len() as u64));
                let expected = if count == 0 { &[] } else { world.bytes(*life, start..start + count as u64) };
                assert_same(&bytes[..count], expected, "read_at");
            }),
            Op::ReadExactAt(which, spot, size) => self.with_handle(which, |world, Of { life, value }| {
                let range = world.range(*life, spot, size);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let result = value.read_exact_at(&mut bytes, range.start).map(|()| &bytes[..]);
                world.check_copy("read_exact_at", *life, range, result);
            }),
            Op::Prefetch(which, spot, size) => self.with_handle(which, |world, Of { life, value }| {
                let range = world.range(*life, spot, size);
                let result = value.prefetch(range.clone());
                if world.is_inside(*life, &range) {
                    world.judge("prefetch", *life, Some(world.need(*life, &(0..0))), result);
                } else {
                    assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutOfBounds), "prefetch {range:?}");
                }
            }),
            Op::Windows(which, ends, kept) => self.windows(which, ends, kept),
            Op::Refresh(which) => self.refresh(which),

            Op::Append(which, more, is_noticed) => {
                let (path, Some(life)) = self.paths[usize::from(which) % self.paths.len()].clone() else { return };
                let more = letters(more.into(), usize::from(more) % 20_000);
                let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
                file.write_all(more.as_bytes()).expect("it can be appended to");
                self.lives[life].text.to_mut().push_str(&more);
                if is_noticed {
                    let known = self.handles.iter().position(|(_, handle)| handle.life == life);
                    known.inspect(|&index| self.refresh(index as u8));
                }
                self.check_leases("after a file has grown");
            }
            Op::Replace(which, len) => {
                self.make(usize::from(which) % self.paths.len(), len);
                self.check_leases("after a file was replaced");
            }
            Op::Delete(which) => {
                let (path, leads_to) = &mut self.paths[usize::from(which) % 3];
                if leads_to.take().is_some() {
                    fs::remove_file(path).expect("it is there");
                }
            }
            Op::Touch(which) => {
                if let (path, Some(_)) = &self.paths[usize::from(which) % self.paths.len()] {
                    let file = OpenOptions::new().write(true).open(path).expect("it is there");
                    file.set_modified(SystemTime::now()).expect("it can be touched");
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
                    maps.close(self.paths[0].0.parent().expect("a directory"));
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

    fn opened(&mut self, path: Option<usize>, life: usize, file: MappedFile) {
        self.lives[life].noticed = self.lives[life].text.len() as u64;
        self.lives[life].named |= path.is_some();
        assert_eq!((file.len(), file.path().is_some()), (self.lives[life].noticed, path.is_some()));
        keep(&mut self.handles, (path, Of { life, value: file }));
    }

    fn with_handle(&mut self, which: Pick, work: impl FnOnce(&World, &Of<MappedFile>)) {
        if let Some(index) = pick(&self.handles, which) {
            let handle = &self.handles[index].1;
            assert_eq!(handle.value.len(), self.lives[handle.life].noticed);
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

    /// With one of a file that is not large.
    fn searching(&mut self, which: Pick, work: impl FnOnce(&World, &mut Of<Buffer>)) {
        self.with_buffer(which, |world, buffer| {
            if buffer.life != 0 {
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

    /// What exactly this range gave: its bytes, or an error if it is none, or one that it may have. Small ranges are copied
    /// rather than refused.
    fn check_range(&self, what: &str, life: usize, range: Range<u64>, result: smmap::Result<&[u8]>) {
        let is_small = range.end.saturating_sub(range.start) <= SMALL;
        self.check(what, life, range.clone(), (!is_small).then(|| self.need(life, &range)), result);
    }

    fn check_copy(&self, what: &str, life: usize, range: Range<u64>, result: smmap::Result<&[u8]>) {
        self.check(what, life, range, None, result);
    }

    fn check(&self, what: &str, life: usize, range: Range<u64>, need: Option<u64>, result: smmap::Result<&[u8]>) {
        if !self.is_inside(life, &range) {
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutOfBounds), "{what} {range:?}");
        } else if let Some(found) = self.judge(what, life, need, result) {
            assert_same(found, self.bytes(life, range), what);
        }
    }

    fn check_leases(&self, when: &str) {
        for Kept { life, start, lease } in &self.leases {
            assert_same(lease, self.bytes(*life, *start..*start + lease.len() as u64), when);
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

    fn seek_read(&self, Of { life, value: cursor }: &mut Of<Cursor>, spot: Spot, size: Size) {
        let (at, len) = (self.offset(*life, spot), self.lives[*life].noticed);
        let to = match spot {
            Spot::Anywhere(_) => SeekFrom::Start(at),
            Spot::AtBorder(..) => SeekFrom::Current((at as i64).wrapping_sub(cursor.position() as i64)),
            Spot::AtEnd(_) => SeekFrom::End((at as i64).wrapping_sub(len as i64)),
        };
        assert_eq!(cursor.seek(to).expect("a place in the file, or behind it"), at, "{to:?}");
        let mut bytes = vec![0; self.size(*life, size) as usize];
        let Some(count) = self.judge("read", *life, None, cursor.read(&mut bytes).map_err(of_io)) else { return };
        let left = len.saturating_sub(at).min(bytes.len() as u64);
        assert!(count as u64 <= left && (count > 0) == (left > 0), "{count} of {left} at {at}");
        assert_eq!(cursor.position(), at + count as u64);
        if count > 0 {
            assert_same(&bytes[..count], self.bytes(*life, at..at + count as u64), "read");
        }
    }

    fn read_until(&self, Of { life, value: cursor }: &mut Of<Cursor>, byte: u8) {
        let (start, text) = (cursor.position(), self.text(*life));
        let rest = text.as_bytes().get(start as usize..).unwrap_or_default();
        let byte = b'a' + byte % 26;
        let expected = rest.iter().position(|&other| other == byte).map_or(rest, |at| &rest[..=at]);
        let mut found = Vec::new();
        let result = cursor.read_until(byte, &mut found).map_err(of_io);
        assert_eq!(cursor.position(), start + found.len() as u64, "what was consumed was given");
        let need = self.need(*life, &(0..0));
        match self.judge("read_until", *life, Some(need), result) {
            Some(count) => {
                assert_eq!(count, found.len());
                assert_same(&found, expected, "read_until");
            }
            None => assert!(expected.starts_with(&found), "read_until, in part"),
        }
    }

    /// Some letters of the file, or nearly, to be looked for.
    fn needle(&self, life: usize, spot: Spot, count: u8, changed: bool) -> String {
        let (start, text) = ((self.offset(life, spot) as usize), self.text(life));
        let start = start.min(text.len());
        // Short ones are found often, long ones go over borders.
        let count = if count < 128 { usize::from(count) % 8 } else { usize::from(count) * 40 };
        let mut needle = text[start..(start + count).min(text.len())].to_owned();
        if changed && needle.pop().is_some() {
            needle.push('!');
        }
        needle
    }

    fn find(&self, Of { life, value }: &mut Of<Buffer>, spot: Spot, count: u8, changed: bool) {
        let (needle, text, need) =
            (self.needle(*life, spot, count, changed), self.text(*life), self.need(*life, &(0..0)));
        if let Some(found) = self.judge("find", *life, Some(need), value.find(needle.as_bytes())) {
            assert_eq!(found, text.find(&needle).map(|at| at as u64), "find {needle:?}");
        }
        if let Some(found) = self.judge("rfind", *life, Some(need), value.rfind(needle.as_bytes())) {
            assert_eq!(found, text.rfind(&needle).map(|at| at as u64), "rfind {needle:?}");
        }
    }

    fn find_all(&self, Of { life, value }: &mut Of<Buffer>, spot: Spot, count: u8) {
        const ENOUGH: usize = 100;
        let (needle, text, need) =
            (self.needle(*life, spot, count, false), self.text(*life), self.need(*life, &(0..0)));
        let expected: Vec<u64> = text.match_indices(&needle).take(ENOUGH).map(|(at, _)| at as u64).collect();
        let found = value.find_iter(needle.as_bytes()).take(ENOUGH).collect::<smmap::Result<Vec<_>>>();
        if let Some(found) = self.judge("find_iter", *life, Some(need), found) {
            assert!(found == expected, "find_iter {needle:?}: {found:?} in place of {expected:?}");
        }
    }

    fn compare(&self, Of { life, value }: &mut Of<Buffer>, size: Size, changed: bool) {
        let (text, need) = (self.text(*life), self.need(*life, &(0..0)));
        let all = text.as_bytes();
        let size = (self.size(*life, size) as usize).min(all.len());
        let (mut head, mut tail) = (all[..size].to_vec(), all[all.len() - size..].to_vec());
        if let (true, Some(last), Some(first)) = (changed, head.last_mut(), tail.first_mut()) {
            (*last, *first) = (b'!', b'~');
        }
        if let Some(found) = self.judge("starts_with", *life, Some(need), value.starts_with(&head)) {
            assert_eq!(found, all.starts_with(&head));
        }
        if let Some(found) = self.judge("ends_with", *life, Some(need), value.ends_with(&tail)) {
            assert_eq!(found, all.ends_with(&tail));
        }
        if let Some(found) = self.judge("equals", *life, Some(need), value.equals(&head)) {
            assert_eq!(found, head == all);
        }
        if let Some(found) = self.judge("compare", *life, Some(need), value.compare(&head)) {
            assert_eq!(found, all.cmp(&head[..]));
        }
    }

    /// Some of the windows, from both ends in turns, and one of them kept.
    fn windows(&mut self, which: Pick, ends: u32, kept: u8) {
        let Some(index) = pick(&self.handles, which) else { return };
        let Of { life, value } = &self.handles[index].1;
        let (life, mut windows) = (*life, value.windows());
        let len = self.lives[life].noticed;
        let expected = if len == 0 { 0 } else { self.window.map_or(1, |window| len.div_ceil(window)) };
        assert_eq!(windows.len() as u64, expected);
        let mut rest = 0..len;
        for step in 0..expected.min(32) {
            let is_back = ends.rotate_right(step as u32) & 1 == 1;
            let next = if is_back { windows.next_back() } else { windows.next() }.expect("not one less");
            let Some(lease) = self.judge("windows", life, Some(self.need(life, &(0..0))), next) else { return };
            let size = lease.len() as u64;
            let range = if is_back { rest.end - size..rest.end } else { rest.start..rest.start + size };
            rest = if is_back { rest.start..range.start } else { range.end..rest.end };
            assert_eq!(lease.offset(), range.start);
            assert_same(&lease, self.bytes(life, range.clone()), "a window");
            if step == u64::from(kept) {
                keep(&mut self.leases, Kept { life, start: range.start, lease });
                return;
            }
        }
        assert_eq!(windows.next().is_none(), rest.is_empty());
    }

    fn refresh(&mut self, which: Pick) {
        let Some(index) = pick(&self.handles, which) else { return };
        let (path, Of { life, value }) = &self.handles[index];
        let life = *life;
        let Some(change) = self.judge("refresh", life, Some(0), value.refresh()) else { return };
        let old = self.lives[life].noticed;
        self.lives[life].noticed = self.lives[life].text.len() as u64;
        let leads_to = path.map(|path| self.paths[path].1);
        let has_name = self.paths.iter().any(|(_, leads_to)| *leads_to == Some(life));
        match change {
            Change::Replaced => assert!(leads_to.is_some_and(|leads_to| leads_to.is_some_and(|other| other != life))),
            Change::Deleted => assert!(leads_to == Some(None) || (leads_to.is_none() && !has_name)),
            Change::Grown => assert!(old < self.lives[life].noticed),
            Change::Unchanged | Change::Modified => assert_eq!(old, self.lives[life].noticed),
            other => panic!("{other:?}: no file was made shorter"),
        }
    }

    /// Everything goes, in one order or another, and nothing is left.
    fn end(mut self, setup: &Setup) {
        self.check_leases("in the end");
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
        self.check_leases("alone");
        self.leases.clear();
        if let Some(maps) = self.managers.pop() {
            maps.collect();
            let began = Instant::now();
            let is_left = || maps.stats().mapped_bytes > 0 || maps.stats().regions > 0;
            // The collector may be unmapping what it has won.
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
    // It stays open for all runs.
    large();
    run(|| {
        let mut world = World::new(&input.setup);
        // Something to begin with.
        let first = [Op::Open(0), Op::OpenDescriptor(3), Op::NewCursor(0), Op::NewBuffer(1)];
        for op in first.iter().chain(&input.ops.0) {
            world.run(op);
        }
        world.end(&input.setup);
    });
});
