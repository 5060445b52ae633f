//! Files that change while they are read: one thread appends to, replaces, deletes and touches them, two others read
//! them.
//!
//! Every byte read must belong to a state that the file had. Between the phases, files are truncated as
//! `MapManagerBuilder::build` allows it: no thread reads or holds the file, and it is refreshed. Bytes that are
//! appended after a truncation differ from those before it.

#![no_main]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smmap::{Admission, Buffer, Change, Cursor, ErrorKind, Lease, MapManager, MappedFile, Overcommit, Window};
use smmap_fuzz::{Steps, assert_same, bytes_of, directory, is_not_found, keep, manager, of_io, pick, run};

const PAGE: u64 = 4096;
/// The length of the first word, which identifies the file. No file is shorter.
const SHORTEST: u64 = 8;
/// The longest length of a new file. A file may grow to twice that length.
const LONGEST: u64 = 16 * PAGE;

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    phases: Steps<Phase, 4>,
}

#[derive(Arbitrary, Debug)]
struct Setup {
    /// The window in pages; 0 for whole files.
    window: u8,
    /// The budget in windows.
    budget: u8,
    open_files: u8,
    may_exceed: bool,
    always: bool,
    lengths: [u16; 2],
}

/// The concurrent steps of the three threads, and then the truncations of the files.
#[derive(Arbitrary, Debug)]
struct Phase {
    changes: Steps<Action, 16>,
    reads: [Steps<Step, 16>; 2],
    cuts: [Option<u16>; 2],
}

type Pick = u8;

#[derive(Arbitrary, Debug)]
enum Action {
    Append(Pick, u16),
    Replace(Pick, u16),
    Delete(Pick),
    Touch(Pick),
    Collect,
    Close(Pick),
    Yield,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Open(Pick),
    OpenFile(Pick),
    Drop(Pick),
    Refresh(Pick),
    Slice(Pick, u16, u16),
    WindowAt(Pick, u16),
    Read(Pick, u16, u16),
    FillBuf(Pick, u16),
    Lease(Pick, u16, u16),
    CheckLeases,
    DropLease(Pick),
    ReadAt(Pick, u16, u16),
    Windows(Pick),
    LastWindow(Pick),
    Get(Pick, u16),
    Find(Pick, u16),
    Prefetch(Pick),
    Yield,
}

/// A file, from its creation on.
#[derive(Debug)]
struct Inode {
    number: u64,
    /// The parts `(start, seed)` of the content. Each truncation adds a part with a new seed.
    parts: Mutex<Vec<(u64, u64)>>,
}

struct Place {
    path: PathBuf,
    now: Mutex<Now>,
}

/// The file at a path, if there is one, and its length. True whenever the lock is free.
#[derive(Clone)]
struct Now {
    inode: Option<Arc<Inode>>,
    len: u64,
}

struct World {
    _dir: tempfile::TempDir,
    maps: MapManager,
    places: Vec<Place>,
    inodes: Mutex<Vec<Arc<Inode>>>,
    may_refuse: bool,
}

/// The objects that a thread keeps from one phase to the next.
#[derive(Default)]
struct Thread {
    readers: Vec<Reader>,
    leases: Vec<(Arc<Inode>, Lease)>,
}

struct Reader {
    place: usize,
    is_named: bool,
    inode: Arc<Inode>,
    file: MappedFile,
    cursor: Cursor,
    buffer: Buffer,
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inode {
    fn new(number: u64) -> Self {
        Self { number, parts: Mutex::new(vec![(0, number)]) }
    }

    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let parts = locked(&self.parts);
        let ends = parts.iter().skip(1).map(|part| part.0).chain([u64::MAX]);
        let mut bytes = Vec::new();
        for (&(start, seed), end) in parts.iter().zip(ends) {
            let (start, end) = (start.max(range.start), end.min(range.end));
            if start < end {
                bytes.extend(bytes_of(seed, start..end));
            }
        }
        for (byte, at) in bytes.iter_mut().zip(range.start..SHORTEST) {
            *byte = self.number.to_le_bytes()[at as usize];
        }
        bytes
    }

    fn check(&self, what: &str, offset: u64, found: &[u8]) {
        assert_same(found, &self.bytes(offset..offset + found.len() as u64), what);
    }
}

/// Maps the fuzzer's choice to a length: often whole pages, or one byte more or less.
fn length(of: u16) -> u64 {
    let len = match of % 3 {
        0 => u64::from(of / 3) % LONGEST,
        by => (u64::from(of / 3) % (LONGEST / PAGE) * PAGE).saturating_add_signed(i64::from(by) - 1),
    };
    len.max(SHORTEST)
}

impl World {
    fn new(setup: &Setup) -> Self {
        let dir = directory();
        let window = u64::from(setup.window % 4) * PAGE;
        // The budget must hold the largest mapping; otherwise every call that has to map would fail.
        let unit = if window == 0 { 2 * LONGEST } else { window };
        let builder = MapManager::builder()
            .window(if window == 0 { Window::WholeFile } else { Window::Sliding { bytes: window } })
            .max_mapped_bytes((u64::from(setup.budget % 16) + 1) * unit)
            .max_open_files(usize::from(setup.open_files % 4) + 1)
            .overcommit(if setup.may_exceed { Overcommit::Allow } else { Overcommit::Fail })
            .admission(if setup.always { Admission::Always } else { Admission::Adaptive });
        let place = |number| Place {
            path: dir.path().join(format!("file {number}")),
            now: Mutex::new(Now { inode: None, len: 0 }),
        };
        let world = Self {
            places: (0..setup.lengths.len()).map(place).collect(),
            _dir: dir,
            maps: manager(builder).expect("these settings are valid"),
            inodes: Mutex::default(),
            may_refuse: !setup.may_exceed,
        };
        for (place, &len) in world.places.iter().zip(&setup.lengths) {
            world.make(place, length(len));
        }
        world
    }

    /// Replaces the file at the path by a new one, in one step.
    fn make(&self, place: &Place, len: u64) {
        let mut now = locked(&place.now);
        let inode = {
            let mut inodes = locked(&self.inodes);
            let inode = Arc::new(Inode::new(inodes.len() as u64));
            inodes.push(Arc::clone(&inode));
            inode
        };
        let new = place.path.with_extension("new");
        fs::write(&new, inode.bytes(0..len)).expect("the file is written");
        fs::rename(&new, &place.path).expect("the file is renamed");
        *now = Now { inode: Some(inode), len };
    }

    fn change(&self, action: &Action) {
        let place = |which: Pick| &self.places[usize::from(which) % self.places.len()];
        match *action {
            Action::Append(which, more) => {
                let place = place(which);
                let mut now = locked(&place.now);
                let len = now.len + u64::from(more) % (3 * PAGE);
                if let Some(inode) = now.inode.as_ref().filter(|_| len <= 2 * LONGEST) {
                    let mut file = OpenOptions::new().append(true).open(&place.path).expect("the file opens");
                    file.write_all(&inode.bytes(now.len..len)).expect("the file is appended to");
                    now.len = len;
                }
            }
            Action::Replace(which, len) => self.make(place(which), length(len)),
            Action::Delete(which) => {
                let place = place(which);
                let mut now = locked(&place.now);
                if now.inode.take().is_some() {
                    fs::remove_file(&place.path).expect("the file is deleted");
                }
            }
            Action::Touch(which) => {
                let place = place(which);
                let now = locked(&place.now);
                if now.inode.is_some() {
                    let file = OpenOptions::new().write(true).open(&place.path).expect("the file opens");
                    file.set_modified(SystemTime::now()).expect("the file's time is set");
                }
            }
            Action::Collect => drop(self.maps.collect()),
            Action::Close(which) => drop(self.maps.close(&place(which).path)),
            Action::Yield => thread::yield_now(),
        }
    }

    /// Truncates the file. No thread runs; first releases everything that the threads hold of the file.
    fn cut(&self, place: &Place, len: u16, threads: &mut [Thread]) {
        let mut now = locked(&place.now);
        let Now { inode: Some(inode), len: before } = &*now else { return };
        let (before, len) = (*before, u64::from(len) % (now.len + 1));
        if len < SHORTEST || len == before {
            return;
        }
        for thread in threads {
            thread.leases.retain(|(of, _)| !Arc::ptr_eq(of, inode));
            for reader in thread.readers.iter_mut().filter(|reader| Arc::ptr_eq(&reader.inode, inode)) {
                reader.cursor.release();
                reader.buffer.release();
            }
        }
        let file = OpenOptions::new().write(true).open(&place.path);
        file.and_then(|file| file.set_len(len)).expect("the file is truncated");
        // Opening refreshes the file for all of its handles.
        let file = loop {
            match self.maps.open(&place.path) {
                Ok(file) => break file,
                Err(error) => assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}"),
            }
            // Files without a name keep their descriptors, and have used up the limit. Raise it.
            let limits = self.maps.limits();
            let more = smmap::Limits { max_open_files: limits.max_open_files + 1, ..limits };
            self.maps.set_limits(more).expect("the limits are valid");
        };
        assert_eq!(file.len(), len);
        let mut parts = locked(&inode.parts);
        parts.retain(|&(start, _)| start < len);
        let seed = parts.last().map_or(0, |part| part.1) + 1000;
        parts.push((len, seed));
        drop(parts);
        now.len = len;
    }

    /// Returns the value of a call, or `None` if it failed with an error that the current state explains. Panics
    /// otherwise.
    fn judge<T>(&self, what: &str, reader: &Reader, maps: bool, result: smmap::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let is_gone = || {
            let now = locked(&self.places[reader.place].now);
            now.inode.as_ref().is_none_or(|inode| !Arc::ptr_eq(inode, &reader.inode))
        };
        let is_excused = match error.kind() {
            ErrorKind::OverBudget => maps && self.may_refuse,
            ErrorKind::Replaced => is_gone(),
            ErrorKind::Io => is_not_found(&error) && is_gone(),
            _ => false,
        };
        assert!(is_excused, "{what}: {error} ({:?})", error.kind());
        None
    }

    fn open(&self, which: Pick, is_named: bool) -> Option<Reader> {
        let index = usize::from(which) % self.places.len();
        let place = &self.places[index];
        let before = locked(&place.now).inode.clone();
        let opened = match is_named {
            true => self.maps.open(&place.path),
            false => self.maps.open_file(fs::File::open(&place.path).ok()?),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                let after = locked(&place.now).inode.clone();
                let is_there = before.zip(after).is_some_and(|(before, after)| Arc::ptr_eq(&before, &after));
                let is_refused = error.kind() == ErrorKind::OverBudget && self.may_refuse;
                assert!(is_refused || (is_not_found(&error) && !is_there), "open: {error}");
                return None;
            }
        };
        let mut number = [0; SHORTEST as usize];
        if let Err(error) = file.read_exact_at(&mut number, 0) {
            // The descriptor was closed to stay within the limit, and the path then led to another file or none.
            assert!(error.kind() == ErrorKind::Replaced || is_not_found(&error), "{error}");
            return None;
        }
        let number = u64::from_le_bytes(number);
        let after = locked(&place.now).inode.clone();
        let is_before = before.as_ref().is_none_or(|inode| inode.number <= number);
        assert!(is_before && after.is_none_or(|inode| number <= inode.number), "{number} was opened after {before:?}");
        let inode =
            Arc::clone(locked(&self.inodes).get(number as usize).expect("the first word is that of a known file"));
        let (cursor, buffer) = (file.cursor(), file.buffer());
        Some(Reader { place: index, is_named, inode, file, cursor, buffer })
    }

    fn step(&self, thread: &mut Thread, step: &Step) {
        let Thread { readers, leases } = thread;
        match *step {
            Step::Open(which) => {
                if let Some(reader) = self.open(which, true) {
                    keep(readers, reader);
                }
            }
            Step::OpenFile(which) => {
                if let Some(reader) = self.open(which, false) {
                    keep(readers, reader);
                }
            }
            Step::Drop(which) => {
                if let Some(index) = pick(readers, which) {
                    readers.swap_remove(index);
                }
            }
            Step::Refresh(which) => {
                let Some(reader) = chosen(readers, which) else { return };
                self.refresh(reader);
            }
            Step::Slice(which, at, len) => {
                let Some(reader) = chosen(readers, which) else { return };
                let range = range(reader, at, len);
                let result = reader.cursor.slice(range.clone()).map(<[u8]>::to_vec);
                if let Some(found) = self.judge("slice", reader, false, result) {
                    assert_eq!(found.len() as u64, range.end - range.start);
                    reader.inode.check("slice", range.start, &found);
                }
            }
            Step::WindowAt(which, at) => {
                let Some(reader) = chosen(readers, which) else { return };
                let (at, len) = (range(reader, at, 0).start, reader.file.len());
                let result = reader.cursor.window_at(at).map(<[u8]>::to_vec);
                if let Some(found) = self.judge("window_at", reader, true, result) {
                    assert!(!found.is_empty() || at >= len, "no bytes at {at} of {len}");
                    reader.inode.check("window_at", at, &found);
                }
            }
            Step::Read(which, at, len) => {
                let Some(reader) = chosen(readers, which) else { return };
                let range = range(reader, at, len);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                reader.cursor.seek(SeekFrom::Start(range.start)).expect("a cursor may seek to any offset");
                let result = reader.cursor.read_exact(&mut bytes).map_err(of_io);
                if self.judge("read", reader, false, result).is_some() {
                    reader.inode.check("read", range.start, &bytes);
                }
            }
            Step::FillBuf(which, amount) => {
                let Some(reader) = chosen(readers, which) else { return };
                let at = reader.cursor.position();
                let result = reader.cursor.fill_buf().map(<[u8]>::to_vec).map_err(of_io);
                if let Some(found) = self.judge("fill_buf", reader, false, result) {
                    reader.inode.check("fill_buf", at, &found);
                    reader.cursor.consume(usize::from(amount).min(found.len()));
                }
            }
            Step::Lease(which, at, len) => {
                let Some(reader) = chosen(readers, which) else { return };
                let range = range(reader, at, len);
                let result = reader.file.lease(range.clone());
                if let Some(lease) = self.judge("lease", reader, false, result) {
                    assert_eq!((lease.offset(), lease.len() as u64), (range.start, range.end - range.start));
                    reader.inode.check("lease", range.start, &lease);
                    keep(leases, (Arc::clone(&reader.inode), lease));
                }
            }
            Step::CheckLeases => leases.iter().for_each(check),
            Step::DropLease(which) => {
                if let Some(index) = pick(leases, which) {
                    check(&leases.swap_remove(index));
                }
            }
            Step::ReadAt(which, at, len) => {
                let Some(reader) = chosen(readers, which) else { return };
                let range = range(reader, at, len);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let result = reader.file.read_at(&mut bytes, range.start);
                if let Some(count) = self.judge("read_at", reader, false, result) {
                    assert_eq!(count, bytes.len());
                    reader.inode.check("read_at", range.start, &bytes);
                }
            }
            Step::Windows(which) => {
                let Some(reader) = chosen(readers, which) else { return };
                let mut next = 0;
                for window in reader.file.windows() {
                    let Some(lease) = self.judge("windows", reader, true, window) else { return };
                    assert_eq!(lease.offset(), next);
                    reader.inode.check("windows", next, &lease);
                    next += lease.len() as u64;
                }
            }
            Step::LastWindow(which) => {
                let Some(reader) = chosen(readers, which) else { return };
                let (len, last) =
                    (reader.file.len(), reader.file.windows().next_back().expect("the file is not empty"));
                if let Some(lease) = self.judge("the last window", reader, true, last) {
                    assert!(lease.offset() + lease.len() as u64 >= len);
                    reader.inode.check("the last window", lease.offset(), &lease);
                    keep(leases, (Arc::clone(&reader.inode), lease));
                }
            }
            Step::Get(which, at) => {
                let Some(reader) = chosen(readers, which) else { return };
                let at = range(reader, at, 0).start;
                let result = reader.buffer.get(at);
                if let Some(found) = self.judge("get", reader, false, result) {
                    reader.inode.check("get", at, found.as_slice());
                }
            }
            Step::Find(which, at) => {
                let Some(reader) = chosen(readers, which) else { return };
                let range = range(reader, at, 20);
                let needle = reader.inode.bytes(range.clone());
                let result = reader.buffer.rfind(&needle);
                if let Some(found) = self.judge("rfind", reader, true, result) {
                    let at = found.expect("bytes of the file are found");
                    assert!(at >= range.start);
                    reader.inode.check("rfind", at, &needle);
                }
            }
            Step::Prefetch(which) => {
                let Some(reader) = chosen(readers, which) else { return };
                let result = reader.file.prefetch(..);
                self.judge("prefetch", reader, true, result);
            }
            Step::Yield => thread::yield_now(),
        }
    }

    fn refresh(&self, reader: &Reader) {
        let place = &self.places[reader.place];
        let before = locked(&place.now).clone();
        let Some(change) = self.judge("refresh", reader, true, reader.file.refresh()) else { return };
        let after = locked(&place.now).clone();
        let is_it = |now: &Now| now.inode.as_ref().is_some_and(|inode| Arc::ptr_eq(inode, &reader.inode));
        let is_right = match change {
            Change::Unchanged | Change::Grown | Change::Modified => is_it(&before) || !reader.is_named,
            Change::Replaced | Change::Deleted => !is_it(&after),
            _ => false,
        };
        assert!(
            is_right,
            "{change:?}: {before:?}, {after:?}, {:?}",
            reader.inode,
            before = before.inode,
            after = after.inode
        );
        assert!(!is_it(&before) || reader.file.len() >= before.len, "{} of {}", reader.file.len(), before.len);
    }
}

fn chosen(readers: &mut [Reader], which: Pick) -> Option<&mut Reader> {
    pick(readers, which).map(|index| &mut readers[index])
}

/// Returns a range inside the file.
fn range(reader: &Reader, at: u16, len: u16) -> Range<u64> {
    let file_len = reader.file.len();
    let start = u64::from(at) * 2 % (file_len + 1);
    start..(start + u64::from(len)).min(file_len)
}

fn check((inode, lease): &(Arc<Inode>, Lease)) {
    inode.check("a kept lease", lease.offset(), lease);
}

fuzz_target!(|input: Input| {
    run(|| {
        let world = World::new(&input.setup);
        let mut threads = [Thread::default(), Thread::default()];
        for thread in &mut threads {
            world.step(thread, &Step::Open(0));
        }
        for phase in &input.phases.0 {
            thread::scope(|scope| {
                let world = &world;
                for (thread, steps) in threads.iter_mut().zip(&phase.reads) {
                    scope.spawn(move || steps.0.iter().for_each(|step| world.step(thread, step)));
                }
                phase.changes.0.iter().for_each(|change| world.change(change));
            });
            for (place, cut) in world.places.iter().zip(phase.cuts) {
                if let Some(len) = cut {
                    world.cut(place, len, &mut threads);
                }
            }
        }
        for thread in &threads {
            thread.leases.iter().for_each(check);
        }
        drop(threads);
        world.maps.collect();
        let began = Instant::now();
        // The collector may still be unmapping regions that it owns.
        while world.maps.stats().mapped_bytes > 0 && began.elapsed() < Duration::from_secs(5) {
            thread::yield_now();
        }
        assert_eq!(world.maps.stats().mapped_bytes, 0, "{:?}", world.maps.stats());
    });
});
