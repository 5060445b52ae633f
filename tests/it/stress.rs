//! Many threads at work: every byte is right, the kernel's mapped bytes stay within the budget, and every count returns
//! to zero. `SMMAP_STRESS=20` makes the runs twenty times as long.

use std::io::{BufRead, Read, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use smmap::{
    Admission, Buffer, Change, Cursor, ErrorKind, Lease, Limits, MapManager, MapManagerBuilder, MappedFile, Overcommit,
    Window,
};

use crate::fixture::seeded::{SMALL, SOON, assert_bytes, file_in, part, poll, poll_kernel_agrees, small};
use crate::support::{
    Dir, Rng, TestFile, alone, assert_same, collector_threads, manager, scale, settles, surely_mapped_below, threads,
};

const THREADS: u64 = 8;
const WINDOW: u64 = 128 << 10;
/// The most windows that one thread holds: one of its cursor, one of its lease, and one of the current call.
const PINS: u64 = 3;
/// Bytes of every window that can be pinned, and of one more for each thread: a window that it has retired and not
/// unmapped yet.
const BUDGET: u64 = THREADS * (PINS + 1) * WINDOW;
/// A length above the largest copy. With a page at each end the detached region takes at most `PINS` windows.
const LONG: u64 = (256 << 10) + 1000;

struct World {
    dir: Dir,
    files: Vec<TestFile>,
    maps: MapManager,
    admission: Admission,
    /// `true` if a call that maps may fail with `OverBudget`.
    refuses: bool,
}

impl World {
    /// Creates four files of about 100 windows in all, and a cache for them.
    fn new(
        seed: u64,
        admission: Admission,
        refuses: bool,
        settings: impl FnOnce(MapManagerBuilder) -> MapManagerBuilder,
    ) -> World {
        let dir = Dir::new();
        let lengths = [8 * 1024 * 1024 + 17, 4 * 1024 * 1024, 400_000, 5000];
        let files = (0..).zip(lengths).map(|(n, len)| dir.file(&format!("file {n}"), len, seed + n)).collect();
        let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(BUDGET);
        let maps = manager(settings(builder.admission(admission)));
        assert_eq!(maps.window_bytes(), Some(WINDOW));
        World { dir, files, maps, admission, refuses }
    }

    fn bytes(&self, file: usize, start: u64, len: u64) -> &[u8] {
        &self.files[file][start as usize..(start + len) as usize]
    }

    /// Runs the workers, a thread that compares the kernel's mapped bytes with `highest`, and one that calls `meddle`.
    /// Returns the number of refused calls.
    fn run(&self, steps: u64, highest: u64, meddle: impl Fn(&mut Rng) + Sync) -> u64 {
        let done = AtomicBool::new(false);
        let watch = || {
            let (mut checks, mut most) = (0_u64, 0);
            while !done.load(Ordering::Relaxed) {
                if let Some(mapped) = surely_mapped_below(self.dir.path()) {
                    assert!(mapped <= highest, "{mapped} bytes are mapped of {highest}: {:?}", self.maps.stats());
                    most = most.max(mapped);
                }
                let counted = self.maps.stats().mapped_bytes;
                assert!(counted <= highest, "{counted} bytes are counted of {highest}");
                checks += 1;
                thread::sleep(Duration::from_micros(500));
            }
            (checks, most)
        };
        let interfere = || {
            let mut rng = Rng::new(99);
            while !done.load(Ordering::Relaxed) {
                meddle(&mut rng);
                thread::sleep(Duration::from_millis(1));
            }
        };
        thread::scope(|scope| {
            let (watcher, meddler) = (scope.spawn(watch), scope.spawn(interfere));
            let workers: Vec<_> = (0..THREADS)
                .map(|n| {
                    scope.spawn(move || {
                        let mut worker = Worker::new(self, n);
                        for _ in 0..steps {
                            worker.step();
                        }
                        worker.refused
                    })
                })
                .collect();
            let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            // Set before a worker's panic is resumed, because the other threads would never end otherwise.
            done.store(true, Ordering::Relaxed);
            let refused = results.into_iter().map(|result| result.unwrap_or_else(|panic| panic::resume_unwind(panic)));
            let refused = refused.sum();
            let (checks, most) = watcher.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            meddler.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            assert!(checks > 10, "the watcher made {checks} checks");
            assert!(most > 0 || !cfg!(target_os = "linux"), "the watcher saw no mapped byte");
            refused
        })
    }

    /// Checks that no client is left, that `collect` unmaps every region, and that every descriptor is closed.
    fn end(self) {
        let stats = self.maps.stats();
        assert_eq!((stats.pinned_regions, stats.pinned_bytes), (0, 0));
        self.maps.collect();
        let nothing = || {
            let stats = self.maps.stats();
            (stats.regions, stats.mapped_bytes, stats.maps - stats.unmaps) == (0, 0, 0)
        };
        assert!(settles(nothing), "{:?}", self.maps.stats());
        assert!(self.dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
        drop(self.maps);
        assert!(settles(|| self.dir.descriptors().is_none_or(|open| open == 0)), "a descriptor is still open");
    }
}

/// The state of one worker thread: between steps it holds at most a cursor and a lease.
struct Worker<'a> {
    world: &'a World,
    rng: Rng,
    refused: u64,
    file: usize,
    handle: MappedFile,
    cursor: Cursor,
    kept: Lease,
}

impl<'a> Worker<'a> {
    fn new(world: &'a World, n: u64) -> Worker<'a> {
        let handle = world.maps.open(&world.files[0].path).unwrap();
        let cursor = handle.cursor();
        Worker { world, rng: Rng::new(n), refused: 0, file: 0, handle, cursor, kept: Lease::default() }
    }

    fn len(&self) -> u64 {
        self.world.files[self.file].len()
    }

    /// Returns the start and length of a random range of at most `most` bytes.
    fn range(&mut self, most: u64) -> (u64, u64) {
        let start = self.rng.below(self.len());
        (start, (1 + self.rng.below(most)).min(self.len() - start))
    }

    fn expected(&self, start: u64, len: u64) -> &'a [u8] {
        self.world.bytes(self.file, start, len)
    }

    fn what(&self, what: &str, start: u64, len: u64) -> String {
        format!("{what}: {len} bytes at {start} of file {}", self.file)
    }

    /// Returns the value of a call, or `None` if the call maps and was refused with `OverBudget`, where the world
    /// allows it.
    fn judge<T>(&mut self, result: smmap::Result<T>, maps: bool) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let over = matches!(error.kind(), ErrorKind::OverBudget);
                assert!(over && maps && self.world.refuses, "{error}");
                self.refused += 1;
                None
            }
        }
    }

    /// Returns `true` if small ranges must be mapped, too.
    fn always(&self) -> bool {
        matches!(self.world.admission, Admission::Always)
    }

    /// Drops the lease and releases the cursor before a call that holds several windows.
    fn release_all(&mut self) {
        self.check_kept();
        self.kept = Lease::default();
        self.cursor.release();
    }

    fn check_kept(&self) {
        let (start, len) = (self.kept.offset(), self.kept.len() as u64);
        if len > 0 {
            assert_same(&self.kept, self.expected(start, len), self.what("kept", start, len));
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..25 => self.slice(),
            25..45 => self.window_at(),
            45..60 => self.lease(),
            60..64 => self.slice_lease(),
            64..72 => self.read_at(),
            72..78 => self.read(),
            78..82 => self.fill_buf(),
            82..85 => self.cursor.release(),
            85..88 => self.long_lease(),
            88..90 => self.windows(),
            90..92 => self.prefetch(),
            92..94 => self.buffer(),
            94..95 => assert!(matches!(self.handle.refresh(), Ok(Change::Unchanged))),
            95..96 => self.cursor = self.cursor.clone(),
            _ => self.another_file(),
        }
    }

    fn slice(&mut self) {
        let (start, len) = self.range(3000);
        let (expected, what) = (self.expected(start, len), self.what("slice", start, len));
        let result = self.cursor.slice(start..start + len).map(|found| assert_same(found, expected, what));
        let always = self.always();
        self.judge(result, always);
    }

    fn window_at(&mut self) {
        let start = self.rng.below(self.len());
        let len = (WINDOW - start % WINDOW).min(self.len() - start);
        let (expected, what) = (self.expected(start, len), self.what("window", start, len));
        let result = self.cursor.window_at(start).map(|found| assert_same(found, expected, what));
        self.judge(result, true);
    }

    fn lease(&mut self) {
        self.check_kept();
        let (mut start, mut len) = self.range(5000);
        if start % 4 == 0 {
            start -= start % WINDOW;
            len = WINDOW.min(self.len() - start);
        }
        let result = self.handle.lease(start..start + len);
        let always = self.always();
        if let Some(lease) = self.judge(result, always) {
            assert_same(&lease, self.expected(start, len), self.what("lease", start, len));
            assert_eq!(lease.offset(), start);
            self.kept = lease;
        }
    }

    fn slice_lease(&mut self) {
        let len = self.kept.len() as u64;
        if len > 0 {
            let from = self.rng.below(len) as usize;
            self.kept = self.kept.clone().slice(from..).slice(..(len as usize - from).div_ceil(2));
            self.check_kept();
        }
    }

    fn read_at(&mut self) {
        let (start, len) = self.range(20_000);
        let mut bytes = vec![0; len as usize];
        if start % 2 == 0 {
            let result = self.handle.read_exact_at(&mut bytes, start);
            self.judge(result, false);
            assert_same(&bytes, self.expected(start, len), self.what("read_exact_at", start, len));
        } else {
            let result = self.handle.read_at(&mut bytes, start);
            let count = self.judge(result, false).unwrap_or(0);
            assert!(count > 0);
            assert_same(&bytes[..count], self.expected(start, count as u64), self.what("read_at", start, len));
        }
    }

    fn read(&mut self) {
        let (start, len) = self.range(20_000);
        let mut bytes = vec![0; len as usize];
        self.cursor.seek(SeekFrom::Start(start)).unwrap();
        self.cursor.read_exact(&mut bytes).unwrap();
        assert_same(&bytes, self.expected(start, len), self.what("read", start, len));
    }

    fn fill_buf(&mut self) {
        let start = self.rng.below(self.len());
        self.cursor.set_position(start);
        let filled = self.cursor.fill_buf().unwrap().len() as u64;
        assert!(filled > 0 && filled <= self.len() - start);
        let (expected, what) = (self.expected(start, filled), self.what("fill_buf", start, filled));
        assert_same(self.cursor.fill_buf().unwrap(), expected, what);
    }

    fn long_lease(&mut self) {
        if self.len() > LONG {
            self.release_all();
            let start = self.rng.below(self.len() - LONG);
            let result = self.handle.lease(start..start + LONG);
            if let Some(lease) = self.judge(result, true) {
                assert!(lease.is_mapped());
                assert_same(&lease, self.expected(start, LONG), self.what("long lease", start, LONG));
            }
        }
    }

    fn windows(&mut self) {
        self.release_all();
        let mut windows = self.handle.windows();
        for _ in 0..3 {
            let skip = self.rng.below(5) as usize;
            let result = if skip % 2 == 0 { windows.nth(skip) } else { windows.nth_back(skip) };
            let Some(result) = result else { break };
            if let Some(lease) = self.judge(result, true) {
                let (start, len) = (lease.offset(), lease.len() as u64);
                assert_same(&lease, self.expected(start, len), self.what("windows", start, len));
            }
        }
    }

    fn prefetch(&mut self) {
        self.release_all();
        let start = self.rng.below(self.len()) / WINDOW * WINDOW;
        let result = self.handle.prefetch(start..(start + WINDOW).min(self.len()));
        self.judge(result, true);
    }

    fn buffer(&mut self) {
        self.release_all();
        let at = self.rng.below(self.len());
        let mut buffer = self.handle.buffer();
        let (result, always) = (buffer.get(at), self.always());
        if let Some(byte) = self.judge(result, always) {
            assert_eq!(byte, Some(self.expected(at, 1)[0]));
        }
        // A search reads the whole file, so only short files are searched.
        if self.len() < 1_000_000 {
            let needle = self.expected(at, (self.len() - at).min(12));
            let expected = self.world.files[self.file].windows(needle.len()).position(|other| other == needle);
            let result = buffer.find(needle);
            if let Some(found) = self.judge(result, true) {
                assert_eq!(found, expected.map(|at| at as u64));
            }
        }
    }

    fn another_file(&mut self) {
        self.release_all();
        self.file = self.rng.below(self.world.files.len() as u64) as usize;
        let file = &self.world.files[self.file];
        let opened = match self.rng.below(3) {
            0 => self.world.maps.open_file(file.descriptor()),
            _ => self.world.maps.open(&file.path),
        };
        self.handle = opened.unwrap();
        self.cursor = self.handle.cursor();
        assert_eq!(self.handle.len(), file.len());
    }
}

/// Does not interfere with the workers.
fn no_interference(_: &mut Rng) {}

/// Runs the workers with a budget for every pinned window and one more for each thread. Mapped bytes never exceed it.
#[test]
fn mapped_bytes_under_load_stay_within_the_budget() {
    for admission in [Admission::Adaptive, Admission::Always] {
        let world = World::new(1, admission, false, |builder| builder.overcommit(Overcommit::Allow));
        assert_eq!(world.run(3000 * scale(), BUDGET, no_interference), 0);
        let stats = world.maps.stats();
        assert!(stats.peak_mapped_bytes <= BUDGET, "{stats:?}");
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        assert!(stats.evictions > 100, "windows were evicted: {stats:?}");
        world.end();
    }
}

/// Runs the workers with a limit of regions instead of bytes.
#[test]
fn regions_under_load_stay_within_max_regions() {
    let most = (THREADS * (PINS + 1)) as usize;
    let world = World::new(2, Admission::Always, false, |builder| builder.max_regions(most).max_mapped_bytes(1 << 30));
    assert_eq!(world.run(1500 * scale(), 1 << 30, no_interference), 0);
    let stats = world.maps.stats();
    assert!(stats.peak_regions <= most, "{stats:?}");
    assert!(stats.evictions > 100, "windows were evicted: {stats:?}");
    world.end();
}

/// Runs the workers with a hard budget that is too small for all. Calls that map are refused; copying reads never are.
#[test]
fn hard_budget_under_load_is_never_exceeded() {
    const TIGHT: u64 = 6 * WINDOW;
    let ways = [Overcommit::Fail, Overcommit::Wait(Duration::from_millis(2))];
    for (overcommit, admission) in ways.into_iter().zip([Admission::Adaptive, Admission::Always]) {
        let world = World::new(3, admission, true, |builder| builder.max_mapped_bytes(TIGHT).overcommit(overcommit));

        // First, one thread pins the whole budget.
        let mapped = world.maps.open(&world.files[0].path).unwrap();
        let pins: Vec<Lease> = mapped.windows().take(6).map(Result::unwrap).collect();
        let error = mapped.cursor().window_at(20 * WINDOW).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OverBudget), "{error}");
        let mut bytes = [0; 100];
        mapped.read_exact_at(&mut bytes, 20 * WINDOW).unwrap();
        assert_same(&bytes, world.bytes(0, 20 * WINDOW, 100), "a copy");
        drop((pins, mapped));

        world.run(1500 * scale(), TIGHT, no_interference);
        let stats = world.maps.stats();
        assert!(stats.peak_mapped_bytes <= TIGHT, "{stats:?}");
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        world.end();
    }
}

/// Runs the workers while another thread changes the limits, closes files and collects.
#[test]
fn changing_limits_are_never_exceeded() {
    for admission in [Admission::Adaptive, Admission::Always] {
        let world = World::new(4, admission, true, |builder| builder);
        let meddle = |rng: &mut Rng| match rng.below(8) {
            0 => drop(world.maps.collect()),
            1 => drop(world.maps.close(world.dir.path())),
            2 => drop(world.maps.close(&world.files[rng.below(4) as usize].path)),
            _ => {
                let limits = Limits {
                    // Sometimes below one window, where only copying reads succeed.
                    max_mapped_bytes: match rng.below(8) {
                        0 => 1,
                        _ => WINDOW + rng.below(BUDGET - WINDOW),
                    },
                    max_regions: 1 + rng.below(60) as usize,
                    max_open_files: 1 + rng.below(6) as usize,
                };
                world.maps.set_limits(limits).unwrap();
                assert_eq!(world.maps.limits(), limits);
            }
        };
        world.run(1500 * scale(), BUDGET, meddle);
        assert!(world.maps.stats().peak_mapped_bytes <= BUDGET, "the peak is within the highest of the limits");
        world.maps.set_limits(Limits { max_mapped_bytes: BUDGET, max_regions: 100, max_open_files: 10 }).unwrap();

        // Lowers the limits while no thread reads. The collector unmaps the excess on its own.
        let mapped = world.maps.open(&world.files[0].path).unwrap();
        mapped.prefetch(..10 * WINDOW).unwrap();
        let low = Limits { max_mapped_bytes: 3 * WINDOW, max_regions: 2, max_open_files: 1 };
        world.maps.set_limits(low).unwrap();
        let within = || {
            let stats = world.maps.stats();
            stats.mapped_bytes <= low.max_mapped_bytes && stats.regions <= low.max_regions
        };
        assert!(settles(within), "{:?}", world.maps.stats());
        let kernel_within = || world.dir.mapped().is_none_or(|mapped| mapped.bytes <= low.max_mapped_bytes);
        assert!(kernel_within(), "{:?}", world.dir.mapped());
        drop(mapped);
        world.end();
    }
}

/// Requests the same cold window from 64 threads at a time. One thread maps it for all.
#[test]
fn cold_window_wanted_by_64_threads_is_mapped_once() {
    const CROWD: usize = 64;
    const ROUNDS: u64 = 50;
    let dir = Dir::new();
    let window = 64 << 10;
    let file = dir.file("wanted", ROUNDS * window, 5);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: window }).max_mapped_bytes(100 * window));
    let mapped = maps.open(&file.path).unwrap();
    let barrier = Barrier::new(CROWD + 1);
    // A panic would leave the other threads at the barrier, so failures are collected and reported at the end.
    let failures = Mutex::new(Vec::new());
    let attempt = |what: String, action: &mut dyn FnMut()| {
        if panic::catch_unwind(AssertUnwindSafe(action)).is_err() {
            failures.lock().unwrap().push(what);
        }
    };
    thread::scope(|scope| {
        for n in 0..CROWD {
            let (mapped, file, barrier, attempt) = (&mapped, &file, &barrier, &attempt);
            scope.spawn(move || {
                let mut cursor = mapped.cursor();
                for round in 0..ROUNDS {
                    // A scattered order, so that read-ahead does not map the window first.
                    let start = round * 7 % ROUNDS * window;
                    let expected = &file[start as usize..(start + window) as usize];
                    barrier.wait();
                    attempt(format!("round {round}, thread {n}"), &mut || match n % 4 {
                        0 => {
                            let mut bytes = [0; 1000];
                            mapped.read_exact_at(&mut bytes, start + 7).unwrap();
                            assert_same(&bytes, &expected[7..1007], "copying read");
                        }
                        1 => assert_same(&mapped.lease(start + 9..start + 5000).unwrap(), &expected[9..5000], "lease"),
                        _ => assert_same(cursor.window_at(start).unwrap(), expected, "window of the cursor"),
                    });
                    barrier.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            barrier.wait();
            barrier.wait();
            attempt(format!("round {round}"), &mut || {
                assert_eq!(maps.stats().maps, round + 1, "one map for each window")
            });
        }
    });
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
    let stats = maps.stats();
    assert_eq!((stats.maps, stats.regions, stats.pinned_regions), (ROUNDS, ROUNDS as usize, 0));
    assert_eq!(stats.peak_mapped_bytes, ROUNDS * window, "each window reserved its bytes once");
}

/// A lease or cursor of a file that threads pass on. The receiving thread checks its bytes.
enum Parcel {
    Lease(usize, Lease),
    Cursor(usize, Cursor),
}

impl Parcel {
    fn check(&mut self, world: &World, rng: &mut Rng) {
        match self {
            Parcel::Lease(file, lease) => {
                let (start, len) = (lease.offset(), lease.len() as u64);
                assert_same(lease, world.bytes(*file, start, len), format!("{len} bytes leased at {start} of {file}"));
            }
            Parcel::Cursor(file, cursor) => {
                let start = rng.below(world.files[*file].len() - 100);
                let found = cursor.slice(start..start + 100).unwrap();
                assert_same(found, world.bytes(*file, start, 100), format!("a slice at {start} of {file}"));
            }
        }
    }

    fn duplicate(&self) -> Parcel {
        match self {
            Parcel::Lease(file, lease) => Parcel::Lease(*file, lease.slice(lease.len() / 3..)),
            Parcel::Cursor(file, cursor) => Parcel::Cursor(*file, cursor.clone()),
        }
    }
}

/// Creates, clones and drops leases and cursors in different threads.
#[test]
fn clones_passed_between_threads_read_the_right_bytes() {
    let world = World::new(6, Admission::Adaptive, false, |builder| builder.max_mapped_bytes(20 * WINDOW));
    let (senders, receivers): (Vec<SyncSender<Parcel>>, Vec<Receiver<Parcel>>) =
        (0..THREADS).map(|_| mpsc::sync_channel(8)).unzip();
    thread::scope(|scope| {
        for (n, receiver) in (0..).zip(receivers) {
            let (world, senders) = (&world, senders.clone());
            scope.spawn(move || {
                let mut rng = Rng::new(n);
                let handles: Vec<MappedFile> =
                    world.files.iter().map(|file| world.maps.open(&file.path).unwrap()).collect();
                for _ in 0..1000 * scale() {
                    let mut parcel = match receiver.try_recv() {
                        Ok(parcel) => parcel,
                        Err(_) => {
                            let file = rng.below(handles.len() as u64) as usize;
                            let (start, len) = (rng.below(handles[file].len() - 1000), 1 + rng.below(1000));
                            if rng.below(2) == 0 {
                                Parcel::Cursor(file, handles[file].cursor())
                            } else {
                                Parcel::Lease(file, handles[file].lease(start..start + len).unwrap())
                            }
                        }
                    };
                    parcel.check(world, &mut rng);
                    let to = &senders[rng.below(THREADS) as usize];
                    // If the channel of the receiver is full, the parcel is dropped here.
                    match rng.below(3) {
                        0 => drop(to.try_send(parcel)),
                        1 => drop(to.try_send(parcel.duplicate())),
                        _ => drop((to.try_send(parcel.duplicate()), senders[n as usize].try_send(parcel))),
                    }
                }
                drop(senders);
                // Receives until every other thread has dropped its senders.
                for mut parcel in receiver {
                    parcel.check(world, &mut rng);
                }
            });
        }
        drop(senders);
    });
    let stats = world.maps.stats();
    assert!(stats.maps > 0 && stats.hits > 0, "{stats:?}");
    world.end();
}

/// Opens and drops two files from all threads, so that their entries are created and removed concurrently.
#[test]
fn files_opened_and_dropped_concurrently_leave_nothing() {
    let dir = Dir::new();
    let files = [dir.file("a", 300_000, 7), dir.file("b", 3, 8)];
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(2 * WINDOW));
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (maps, files) = (&maps, &files);
            scope.spawn(move || {
                let mut rng = Rng::new(n);
                for _ in 0..300 * scale() {
                    let file = &files[rng.below(2) as usize];
                    let mapped = match rng.below(3) {
                        0 => maps.open_file(file.descriptor()).unwrap(),
                        _ => maps.open(&file.path).unwrap(),
                    };
                    let start = rng.below(file.len());
                    let end = (start + 50_000).min(file.len());
                    let lease = mapped.lease(start..end).unwrap();
                    let window = mapped.cursor().window_at(start).unwrap().len();
                    drop(mapped);
                    assert_same(&lease, &file[start as usize..end as usize], "lease");
                    assert!(window > 0);
                    if rng.below(10) == 0 {
                        maps.collect();
                    }
                }
            });
        }
    });
    maps.collect();
    let nothing = || {
        let stats = maps.stats();
        (stats.regions, stats.mapped_bytes, stats.files, stats.open_files) == (0, 0, 0, 0)
    };
    assert!(settles(nothing), "{:?}", maps.stats());
    assert_eq!(maps.stats().maps, maps.stats().unmaps);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
    assert!(settles(|| dir.descriptors().is_none_or(|open| open == 0)));
}

/// A handle that keeps the cache alive.
enum Handle {
    Manager(#[expect(dead_code, reason = "the handle is only dropped")] MapManager),
    File(#[expect(dead_code, reason = "the handle is only dropped")] MappedFile),
    Cursor(Cursor),
    Buffer(Buffer),
}

/// Drops 64 handles concurrently. The last one joins the collector, and each lease stays readable until it is dropped.
#[test]
fn last_handle_dropped_joins_the_collector() {
    if !alone("stress::last_handle_dropped_joins_the_collector") {
        return;
    }
    let dir = Dir::new();
    let files: Vec<TestFile> = (0..4).map(|n| dir.file(&format!("file {n}"), 20 * WINDOW + n, n)).collect();
    let before = threads();
    for round in 0..20 * scale() {
        let (handles, leases) = many_handles(&files, round);
        assert_eq!(handles.len(), 64);
        if let Some(before) = before {
            assert!(settles(|| collector_threads() == Some(1)), "one collector: {:?}", collector_threads());
            assert!(threads() > Some(before));
        }
        let barrier = Barrier::new(handles.len());
        thread::scope(|scope| {
            for handle in handles {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    drop(handle);
                });
            }
        });
        assert!(collector_threads().is_none_or(|count| count == 0), "the collector was not joined");
        // A scope waits for its threads but does not join them, so they may need a moment to exit.
        assert!(settles(|| threads() == before), "{:?} threads, {before:?} before", threads());

        for (file, lease) in &leases {
            let start = lease.offset() as usize;
            assert_same(lease, &files[*file][start..start + lease.len()], "a lease after every handle was dropped");
        }
        let most = leases.iter().filter(|(_, lease)| lease.is_mapped()).count() as u64 * WINDOW;
        assert!(most > 0);
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes <= most && mapped.bytes > 0), "{:?}", dir.mapped());
        let (first_half, second_half) = leases.split_at(leases.len() / 2);
        let (first_half, second_half) = (first_half.to_vec(), second_half.to_vec());
        drop(leases);
        thread::scope(|scope| {
            scope.spawn(move || drop(first_half));
            scope.spawn(move || drop(second_half));
        });
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0), "{:?}", dir.mapped());
        assert!(settles(|| dir.descriptors().is_none_or(|open| open == 0)), "{:?}", dir.descriptors());
    }
}

/// Creates a manager, 64 handles of all kinds that have read, and ten leases with the index of their file.
fn many_handles(files: &[TestFile], seed: u64) -> (Vec<Handle>, Vec<(usize, Lease)>) {
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(8 * WINDOW);
    let maps = manager(builder.admission(Admission::Always));
    let mut rng = Rng::new(seed);
    let (mut handles, mut leases) = (Vec::new(), Vec::new());
    for n in 0..64 {
        let index = rng.below(files.len() as u64) as usize;
        let file = &files[index];
        let mapped = if n % 2 == 0 { maps.open(&file.path) } else { maps.open_file(file.descriptor()) }.unwrap();
        let start = rng.below(file.len() - 1000);
        leases.push((index, mapped.lease(start..start + 1000).unwrap()));
        handles.push(match n % 4 {
            0 => Handle::Manager(maps.clone()),
            1 => Handle::File(mapped),
            2 => {
                let mut cursor = mapped.cursor();
                cursor.window_at(start).unwrap();
                Handle::Cursor(cursor)
            }
            _ => {
                let mut buffer = mapped.buffer();
                assert_eq!(buffer.get(start).unwrap(), Some(file[start as usize]));
                Handle::Buffer(buffer)
            }
        });
    }
    for handle in &mut handles {
        match handle {
            Handle::Cursor(cursor) => assert!(!cursor.window_at(0).unwrap().is_empty()),
            Handle::Buffer(buffer) => assert!(buffer.get(0).unwrap().is_some()),
            Handle::Manager(_) | Handle::File(_) => {}
        }
    }
    leases.truncate(10);
    (handles, leases)
}

/// Reads from a thread pool through one manager. All client counts return to zero.
///
/// smmap issue 24: in this case the client counts of Python's smmap became negative.
#[test]
fn client_counts_after_a_thread_pool_are_zero() {
    const THREADS: u64 = 8;
    const WINDOWS: u64 = 64;
    let rounds = if cfg!(miri) { 50 } else { 2_000 };

    let dir = Dir::new();
    let path = file_in(&dir, "pool", 3, WINDOWS * SMALL);
    let maps = manager(small().max_mapped_bytes(8 * SMALL).max_regions(8));
    let handle = maps.open(&path).unwrap();

    let work = |thread: u64| {
        let mut dice = Rng::new(thread);
        let mut held: Vec<Lease> = Vec::new();
        let mut cursor = handle.cursor();
        for round in 0..rounds {
            let start = dice.below(WINDOWS) * SMALL + dice.below(1000);
            match dice.below(5) {
                0 => held.push(handle.lease(start..start + 4096).unwrap()),
                1 => assert_bytes(cursor.window_at(start).unwrap(), 3, start),
                2 => held.extend(held.last().cloned()),
                3 => {
                    let mut other = cursor.clone();
                    assert_bytes(other.slice(start..start + 100).unwrap(), 3, start);
                }
                _ => {
                    let again = maps.open(&path).unwrap();
                    assert_bytes(again.cursor().window_at(start).unwrap(), 3, start);
                    cursor.release();
                }
            }
            if held.len() > 4 {
                let lease = held.swap_remove((dice.below(4)) as usize);
                assert_bytes(&lease, 3, lease.offset());
            }
            if round % 64 == 0 {
                // A negative count would show as a huge one.
                let stats = maps.stats();
                assert!(stats.pinned_regions < 1_000_000, "{stats:?}");
                assert!(stats.regions < 1_000_000, "{stats:?}");
                assert!(stats.pinned_bytes < 1 << 40, "{stats:?}");
                assert!(stats.mapped_bytes < 1 << 40, "{stats:?}");
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });

    let stats = maps.stats();
    assert_eq!((stats.pinned_regions, stats.pinned_bytes), (0, 0), "{stats:?}");
    poll(&maps, SOON, "every region is unmapped after the last client is dropped", || {
        maps.collect();
        maps.stats().regions == 0
    });
    let stats = maps.stats();
    assert_eq!(stats.mapped_bytes, 0, "{stats:?}");
    assert_eq!(stats.maps, stats.unmaps, "{stats:?}");
    assert!(stats.maps > 0 && stats.hits > 0, "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// Reads three files from four threads with room for two windows. A borrowed window is never unmapped under its reader.
///
/// libgit2 5591: with low window limits, another thread unmapped a window in use.
#[test]
fn borrowed_windows_under_low_limits_stay_mapped() {
    const WINDOWS: u64 = 16;
    let rounds = if cfg!(miri) { 20 } else { 1_000 };

    let dir = Dir::new();
    let maps = manager(small().max_mapped_bytes(2 * SMALL).max_regions(2).max_open_files(2));
    let files: Vec<_> = (0..3u8)
        .map(|seed| maps.open(file_in(&dir, &format!("pack-{seed}"), seed, WINDOWS * SMALL)).unwrap())
        .collect();

    thread::scope(|scope| {
        for thread in 0..4u64 {
            let files = &files;
            scope.spawn(move || {
                let mut dice = Rng::new(thread);
                let mut cursors: Vec<_> = files.iter().map(MappedFile::cursor).collect();
                for _ in 0..rounds {
                    let seed = (dice.below(3)) as u8;
                    let offset = dice.below(WINDOWS * SMALL - 4096);
                    let lease = files[usize::from(seed)].lease(offset..offset + 4096).unwrap();
                    let other = (dice.below(3)) as u8;
                    let start = dice.below(WINDOWS) * SMALL;
                    let window = cursors[usize::from(other)].window_at(start).unwrap();
                    // The borrow and the lease last while other threads may evict.
                    assert_bytes(window, other, start);
                    thread::yield_now();
                    assert_eq!(&*lease, part(seed, offset..offset + 4096));
                    assert_bytes(window, other, start);
                }
            });
        }
    });

    let stats = maps.stats();
    assert!(stats.evictions > 0, "no window was evicted: {stats:?}");
    assert_eq!(stats.pinned_regions, 0, "{stats:?}");
    poll(&maps, SOON, "the cache is within its limits", || {
        let stats = maps.stats();
        stats.mapped_bytes <= 2 * SMALL && stats.regions <= 2
    });
}
