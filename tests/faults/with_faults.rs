//! The tests. Fault injection affects the whole process, so the tests run one at a time.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use smmap::{
    Admission, Change, Cursor, Error, ErrorKind, Lease, MapManager, MapManagerBuilder, MappedFile, Overcommit, Window,
};

use crate::support::{
    Dir, Mapped, Rng, TestFile, assert_same, manager, own_faults, say, scale, settles, surely_mapped_below,
};
use crate::system::{CALLS, Call, Faults};
use crate::world::{World, op, setup};

static TURN: Mutex<()> = Mutex::new(());

fn lock_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the number of injected faults of each call since `before`. Panics if a call never failed, since the test has
/// then tested nothing.
fn report(what: &str, before: [u64; CALLS.len()]) {
    let failed = CALLS.map(Call::failed);
    let counts: Vec<_> = CALLS.iter().zip(failed).zip(before).map(|((call, now), was)| (call, now - was)).collect();
    assert!(counts.iter().all(|(_, count)| *count > 0), "{what}: {counts:?}");
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    say(format!("{what}: {all} faults: {counts:?}"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Random operations
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn random_operations_with_faults_match_the_model() {
    let _turn = lock_turn();
    let before = CALLS.map(Call::failed);
    let operations = AtomicU64::new(0);
    let every = || prop_oneof![1 => Just(0_u64), 3 => 2..12_u64];
    let rates = prop::array::uniform(every());
    let default = ProptestConfig::default();
    let cases = default.cases * scale() as u32;
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_time: 60_000, ..default };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&(setup(), vec(op(), 1..80), any::<u64>(), rates), |(setup, ops, seed, rates)| {
        let mut world = World::new(setup);
        let faults = Faults::new(seed, rates);
        for op in &ops {
            world.run(op);
        }
        drop(faults);
        operations.fetch_add(ops.len() as u64, Ordering::Relaxed);
        world.end();
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    report(&format!("{} operations", operations.into_inner()), before);
}

// ---------------------------------------------------------------------------------------------------------------------
// Eight threads
// ---------------------------------------------------------------------------------------------------------------------

const WINDOW: u64 = 64 << 10;
const THREADS: u64 = 8;
/// The budget: for each thread the windows it holds, the window it maps next, and one window that it owns to unmap it.
const BUDGET: u64 = THREADS * 4 * WINDOW;

fn cache(settings: impl FnOnce(MapManagerBuilder) -> MapManagerBuilder) -> MapManager {
    manager(settings(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(BUDGET)))
}

/// One thread's work. Each call returns the right bytes, or an error if a fault was injected into this thread.
struct Worker<'a> {
    maps: &'a MapManager,
    files: &'a [TestFile],
    refuses: bool,
    rng: Rng,
    file: usize,
    handle: Option<MappedFile>,
    cursor: Option<Cursor>,
    kept: Option<Lease>,
    failed: u64,
}

impl<'a> Worker<'a> {
    fn new(maps: &'a MapManager, files: &'a [TestFile], refuses: bool, seed: u64) -> Worker<'a> {
        let rng = Rng::new(seed);
        Worker { maps, files, refuses, rng, file: 0, handle: None, cursor: None, kept: None, failed: 0 }
    }

    /// Returns the value of a successful call. Returns `None` for an error after checking that it is allowed: the
    /// budget is full, or a fault was injected into this thread since `before`.
    fn judge<T>(&mut self, before: u64, what: &str, result: smmap::Result<T>) -> Option<T> {
        let Err(error) = result else { return result.ok() };
        let is_full = error.kind() == ErrorKind::OverBudget && self.refuses;
        let is_injected = matches!(error.kind(), ErrorKind::Io | ErrorKind::OutOfMaps) && number(&error).is_some();
        assert!(is_full || (is_injected && own_faults() > before), "{what}: {error:?}");
        assert!(error.path().is_some_and(|path| path.starts_with(self.files[0].path.parent().unwrap())), "{error}");
        self.failed += 1;
        None
    }

    fn step(&mut self) {
        let before = own_faults();
        let Some(handle) = self.handle.clone() else {
            self.file = self.rng.below(self.files.len() as u64) as usize;
            let opened = self.maps.open(&self.files[self.file].path);
            self.handle = self.judge(before, "open", opened);
            self.cursor = self.handle.as_ref().map(MappedFile::cursor);
            return;
        };
        let expected = &self.files[self.file];
        let start = self.rng.below(expected.len());
        let end = (start + 1 + self.rng.below(3000)).min(expected.len());
        let part = &expected[start as usize..end as usize];
        let window = start / WINDOW * WINDOW..(start / WINDOW * WINDOW + WINDOW).min(expected.len());
        let rest = &expected[start as usize..window.end as usize];
        match self.rng.below(20) {
            0..5 => {
                let mut bytes = vec![0; part.len()];
                let read = handle.read_exact_at(&mut bytes, start);
                if self.judge(before, "read_exact_at", read).is_some() {
                    assert_same(&bytes, part, "copied");
                }
            }
            5..9 => {
                let mut cursor = self.cursor.take().expect("each handle has a cursor");
                let found = cursor.window_at(start).map(|found| assert_same(found, rest, "the window"));
                self.judge(before, "window_at", found);
                let found = cursor.slice(start..end).map(|found| assert_same(found, part, "a slice"));
                self.judge(before, "slice", found);
                self.cursor = Some(cursor);
            }
            9..14 => {
                let lease = handle.lease(if start % 2 == 0 { window.clone() } else { start..end });
                if let Some(lease) = self.judge(before, "lease", lease) {
                    self.kept = Some(lease);
                }
            }
            14 => {
                let leased = handle.windows().nth((start / WINDOW) as usize).expect("the file has this window");
                if let Some(leased) = self.judge(before, "windows", leased) {
                    assert_same(&leased, &expected[window.start as usize..window.end as usize], "a window");
                }
            }
            15 => {
                let prefetched = handle.prefetch(start..end);
                self.judge(before, "prefetch", prefetched);
            }
            16 => {
                let change = handle.refresh();
                let change = self.judge(before, "refresh", change);
                assert!(change.is_none_or(|change| change == Change::Unchanged), "{change:?}");
            }
            17 => drop(self.maps.collect()),
            18 => drop(self.maps.close(&expected.path)),
            _ => (self.handle, self.cursor) = (None, None),
        }
        self.check_kept();
        if self.rng.below(4) == 0 {
            self.kept = None;
        }
    }

    fn check_kept(&self) {
        if let Some(kept) = &self.kept {
            let start = kept.offset() as usize;
            // The file that the lease belongs to is not recorded. Its bytes tell which one it is.
            let is_same = |file: &&TestFile| file.get(start..start + kept.len()).is_some_and(|bytes| *bytes == **kept);
            assert!(self.files.iter().any(|file| is_same(&file)), "the kept lease {kept:?} matches no file");
        }
    }
}

/// Returns the `errno` of the source error.
fn number(error: &Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

#[test]
fn eight_threads_with_faults_read_right_bytes_within_budget() {
    let _turn = lock_turn();
    let before = CALLS.map(Call::failed);
    let mut operations = 0;
    for (seed, overcommit) in [(1, Overcommit::Allow), (2, Overcommit::Fail), (3, Overcommit::Wait(Duration::ZERO))] {
        let dir = Dir::new();
        let lengths = [40 * WINDOW + 17, 20 * WINDOW, 5000];
        let files: Vec<_> = (0..).zip(lengths).map(|(n, len)| dir.file(&format!("file {n}"), len, n)).collect();
        let refuses = overcommit != Overcommit::Allow;
        let admission = if refuses { Admission::Always } else { Admission::Adaptive };
        let maps = cache(|builder| builder.overcommit(overcommit).admission(admission).max_open_files(2));

        let faults = Faults::new(seed, [5, 5, 7, 9, 5, 5, 3]);
        let done = AtomicBool::new(false);
        let steps = 3000 * scale();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mapped = surely_mapped_below(dir.path()).unwrap_or(0);
                    assert!(mapped <= BUDGET || !refuses, "{mapped} bytes are mapped: {:?}", maps.stats());
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (maps, files) = (&maps, &files);
                    scope.spawn(move || {
                        let mut worker = Worker::new(maps, files, refuses, seed << 32 | thread);
                        (0..steps).for_each(|_| worker.step());
                        worker.failed
                    })
                })
                .collect();
            let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            done.store(true, Ordering::Relaxed);
            let failed: u64 = results.into_iter().map(|failed| failed.expect("the thread did not panic")).sum();
            watcher.join().expect("the thread did not panic");
            assert!(failed > 0);
        });
        operations += steps * THREADS;
        drop(faults);

        // All reads succeed as soon as the faults stop.
        for file in &files {
            let handle = maps.open(&file.path).unwrap();
            for lease in handle.windows() {
                let lease = lease.unwrap();
                assert_same(&lease, &file[lease.offset() as usize..][..lease.len()], "afterwards");
            }
        }
        assert_nothing_left(&dir, maps);
    }
    report(&format!("{operations} operations by {THREADS} threads"), before);
}

/// Checks that no region, mapping or descriptor is left after all handles were dropped.
#[track_caller]
fn assert_nothing_left(dir: &Dir, maps: MapManager) {
    maps.collect();
    let nothing = || {
        let stats = maps.stats();
        let counted = (stats.regions, stats.mapped_bytes, stats.pinned_regions, stats.maps - stats.unmaps);
        counted == (0, 0, 0, 0) && dir.mapped() == Some(Mapped::default())
    };
    assert!(settles(nothing), "{:?}, {:?}", maps.stats(), dir.mapped());
    drop(maps);
    assert!(settles(|| dir.descriptors() == Some(0)));
}

// ---------------------------------------------------------------------------------------------------------------------
// Every call of one kind fails
// ---------------------------------------------------------------------------------------------------------------------

/// Checks the kind and the file of an error, that it holds an `errno`, and that its message contains all `words`.
#[track_caller]
fn assert_error(error: &Error, kind: ErrorKind, file: &TestFile, words: &[&str]) {
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    assert_eq!(error.path(), Some(file.path.as_path()), "{message}");
    assert!(number(error).is_some(), "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "{message}: does not contain all of {words:?}");
}

#[test]
fn copying_read_without_mappings_reads_the_file() {
    let _turn = lock_turn();
    let dir = Dir::new();
    let file = dir.file("file", 4 * WINDOW, 1);
    let maps = cache(|builder| builder);
    let handle = maps.open(&file.path).unwrap();
    let mut cursor = handle.cursor();

    for number in [libc::ENOMEM, libc::EAGAIN, libc::EIO] {
        let _faults = Faults::all(Call::Map, number);
        let error = cursor.window_at(WINDOW).unwrap_err();
        match number {
            libc::EIO => assert_error(&error, ErrorKind::Io, &file, &["cannot map"]),
            _ => assert_error(&error, ErrorKind::OutOfMaps, &file, &["max_map_count", "raise", "max_regions"]),
        }
        assert!(error.range().is_some_and(|range| range.contains(&WINDOW)), "{error}");
        // A copying read reads the file, whatever the reason of the refusal.
        let mut bytes = vec![0; 3 * WINDOW as usize];
        handle.read_exact_at(&mut bytes, 100).unwrap();
        assert_same(&bytes, &file[100..][..bytes.len()], "read");
    }
    assert_eq!((maps.stats().maps, maps.stats().mapped_bytes), (0, 0), "a failed mapping is not counted");

    assert_same(
        cursor.window_at(WINDOW).unwrap(),
        &file[WINDOW as usize..2 * WINDOW as usize],
        "the call after the faults",
    );
    drop((cursor, handle));
    assert_nothing_left(&dir, maps);
}

/// Refuses mappings by the errors that concern the file itself. The OS is not asked again, even after the faults.
#[test]
fn file_whose_mapping_was_refused_for_good_is_not_mapped_again() {
    let _turn = lock_turn();
    let dir = Dir::new();
    for number in [libc::ENODEV, libc::EACCES, libc::EPERM, libc::ENOTSUP] {
        let file = dir.file(&format!("file-{number}"), 4 * WINDOW, 1);
        let maps = cache(|builder| builder.admission(Admission::Always));
        let handle = maps.open(&file.path).unwrap();
        let faults = Faults::all(Call::Map, number);
        let mut bytes = vec![0; 3 * WINDOW as usize];
        handle.read_exact_at(&mut bytes, 100).unwrap();
        assert_eq!((maps.stats().unmappable_files, maps.stats().maps), (1, 0));
        drop(faults);
        handle.read_exact_at(&mut bytes, 100).unwrap();
        assert_same(&bytes, &file[100..][..bytes.len()], "read");
        assert_same(handle.cursor().window_at(WINDOW).unwrap(), &file[WINDOW as usize..][..WINDOW as usize], "a copy");
        assert_eq!((maps.stats().regions, maps.stats().maps), (0, 1), "only the copy of one window was made");
        drop(handle);
        assert_nothing_left(&dir, maps);
    }
}

#[test]
fn region_with_refused_unmap_stays_counted_and_is_retried() {
    let _turn = lock_turn();
    let dir = Dir::new();
    let file = dir.file("file", 8 * WINDOW, 1);
    let maps = cache(|builder| builder.max_mapped_bytes(2 * WINDOW).overcommit(Overcommit::Fail));
    let handle = maps.open(&file.path).unwrap();
    let mut cursor = handle.cursor();
    for window in 0..2 {
        assert_eq!(cursor.window_at(window * WINDOW).unwrap().len() as u64, WINDOW);
    }
    cursor.release();

    let faults = Faults::all(Call::Unmap, libc::ENOMEM);
    assert_eq!(maps.collect().regions, 0, "no region was unmapped");
    assert_eq!(dir.mapped().unwrap().bytes, 2 * WINDOW);
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.regions, stats.unmaps), (2 * WINDOW, 2, 0), "every mapped region is counted");
    // The budget counts mapped bytes, also those of regions whose unmap was refused.
    let error = cursor.window_at(5 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}");
    assert_eq!(dir.mapped().unwrap().bytes, 2 * WINDOW);
    let mut bytes = [0; 100];
    handle.read_exact_at(&mut bytes, 10).unwrap();
    assert_same(&bytes, &file[10..110], "copied, since the window is about to be unmapped");
    drop(faults);

    assert_same(
        cursor.window_at(5 * WINDOW).unwrap(),
        &file[5 * WINDOW as usize..][..WINDOW as usize],
        "the call after the faults",
    );
    drop((cursor, handle));
    assert_nothing_left(&dir, maps);
}

/// The OS refuses to unmap regions when the last handle is dropped, and when a lease that outlives it is dropped.
#[test]
fn region_with_refused_unmap_is_unmapped_by_the_next_manager() {
    let _turn = lock_turn();
    let (dir, other) = (Dir::new(), Dir::new());
    let file = dir.file("file", 4 * WINDOW, 1);
    let maps = cache(|builder| builder);
    let handle = maps.open(&file.path).unwrap();
    handle.prefetch(..).unwrap();
    let (early, late) = (handle.lease(..WINDOW).unwrap(), handle.lease(WINDOW..2 * WINDOW).unwrap());

    let faults = Faults::all(Call::Unmap, libc::ENOMEM);
    drop(early);
    drop((handle, maps));
    assert_same(&late, &file[WINDOW as usize..2 * WINDOW as usize], "a lease that outlives the manager");
    drop(late);
    assert_eq!(dir.mapped().unwrap().bytes, 4 * WINDOW, "no region was unmapped");
    drop(faults);

    // The next manager retries the refused unmaps.
    let file = other.file("file", WINDOW, 2);
    let maps = cache(|builder| builder);
    assert_same(&maps.open(&file.path).unwrap().lease(..).unwrap(), &file, "leased");
    assert_nothing_left(&other, maps);
    assert_eq!(dir.mapped(), Some(Mapped::default()));
    assert_eq!(dir.descriptors(), Some(0));
}

#[test]
fn held_regions_without_descriptors_stay_readable() {
    let _turn = lock_turn();
    let dir = Dir::new();
    let (one, two) = (dir.file("one", 4 * WINDOW, 1), dir.file("two", 4 * WINDOW, 2));
    let maps = cache(|builder| builder);
    let first = maps.open(&one.path).unwrap();
    first.prefetch(..WINDOW).unwrap();
    let lease = first.lease(..WINDOW).unwrap();

    let faults = Faults::all(Call::Open, libc::EMFILE);
    let error = maps.open(&two.path).unwrap_err();
    assert_error(&error, ErrorKind::Io, &two, &["cannot open", "ulimit -n", "raise", "max_open_files"]);
    assert_same(&lease, &one[..WINDOW as usize], "the held lease");
    assert_same(&first.lease(100..200).unwrap(), &one[100..200], "in the same window");
    // The cache closed the descriptor of the first file so that the second could be opened, which failed nevertheless.
    let error = first.cursor().window_at(3 * WINDOW).unwrap_err();
    assert_error(&error, ErrorKind::Io, &one, &["cannot open", "ulimit -n"]);
    drop(faults);

    assert_same(
        first.cursor().window_at(3 * WINDOW).unwrap(),
        &one[3 * WINDOW as usize..],
        "the call after the faults",
    );
    assert_same(&maps.open(&two.path).unwrap().lease(..).unwrap(), &two, "the call after the faults");
    drop((first, lease));
    assert_nothing_left(&dir, maps);
}

#[test]
fn mapped_windows_with_a_failing_disk_stay_readable() {
    let _turn = lock_turn();
    let dir = Dir::new();
    let file = dir.file("file", 4 * WINDOW, 1);
    let maps = cache(|builder| builder.max_mapped_bytes(WINDOW));
    let handle = maps.open(&file.path).unwrap();
    let mut cursor = handle.cursor();
    assert_eq!(cursor.window_at(0).unwrap().len() as u64, WINDOW);

    let mut bytes = [0; 100];
    for call in [Call::Read, Call::Stat] {
        let _faults = Faults::all(call, libc::EIO);
        handle.read_exact_at(&mut bytes, 10).unwrap();
        assert_same(&bytes, &file[10..110], "from its window");
        assert_same(cursor.slice(50..150).unwrap(), &file[50..150], "in its window");
        let (error, word) = match call {
            Call::Read => (handle.read_exact_at(&mut bytes, 2 * WINDOW).unwrap_err(), "cannot read"),
            _ => (cursor.window_at(2 * WINDOW).unwrap_err(), "cannot read the file's status"),
        };
        assert_error(&error, ErrorKind::Io, &file, &[word]);
    }
    handle.read_exact_at(&mut bytes, 2 * WINDOW).unwrap();
    assert_same(&bytes, &file[2 * WINDOW as usize..][..100], "the call after the faults");
    assert_same(
        cursor.window_at(2 * WINDOW).unwrap(),
        &file[2 * WINDOW as usize..][..WINDOW as usize],
        "the call after the faults",
    );
    drop((handle, cursor));
    assert_nothing_left(&dir, maps);
}
