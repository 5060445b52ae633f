//! The tests. The faults are the process's, so one test at a time.

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

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many of each failed since `before`, for the record; some of each, or the test has tested nothing.
fn report(what: &str, before: [u64; CALLS.len()]) {
    let failed = CALLS.map(Call::failed);
    let counts: Vec<_> = CALLS.iter().zip(failed).zip(before).map(|((call, now), was)| (call, now - was)).collect();
    assert!(counts.iter().all(|(_, count)| *count > 0), "{what}: {counts:?}");
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    say(format!("{what}: {all} faults: {counts:?}"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Any sequence of calls
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn any_sequence_of_calls_reads_like_a_vector() {
    let _turn = my_turn();
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
// Many threads
// ---------------------------------------------------------------------------------------------------------------------

const WINDOW: u64 = 64 << 10;
const THREADS: u64 = 8;
/// For each thread what it holds, what it is about to hold, and one window that it has won to unmap it.
const BUDGET: u64 = THREADS * 4 * WINDOW;

fn cache(settings: impl FnOnce(MapManagerBuilder) -> MapManagerBuilder) -> MapManager {
    manager(settings(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(BUDGET)))
}

/// What one thread does; each call gives the right bytes, or an error that it has met a fault for.
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

    fn judge<T>(&mut self, before: u64, what: &str, result: smmap::Result<T>) -> Option<T> {
        let Err(error) = result else { return result.ok() };
        let is_full = error.kind() == ErrorKind::OverBudget && self.refuses;
        let is_told = matches!(error.kind(), ErrorKind::Io | ErrorKind::OutOfMaps) && number(&error).is_some();
        assert!(is_full || (is_told && own_faults() > before), "{what}: {error:?}");
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
                let mut cursor = self.cursor.take().expect("with each handle");
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
                let leased = handle.windows().nth((start / WINDOW) as usize).expect("it has this window");
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
            // Of which file it was is in its bytes.
            let is_same = |file: &&TestFile| file.get(start..start + kept.len()).is_some_and(|bytes| *bytes == **kept);
            assert!(self.files.iter().any(|file| is_same(&file)), "kept: {kept:?}");
        }
    }
}

/// The error's number, as the system gave it.
fn number(error: &Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

#[test]
fn many_threads_read_right_and_the_budget_holds() {
    let _turn = my_turn();
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
            let failed: u64 = results.into_iter().map(|failed| failed.expect("no panic")).sum();
            watcher.join().expect("no panic");
            assert!(failed > 0);
        });
        operations += steps * THREADS;
        drop(faults);

        // All is well at once.
        for file in &files {
            let handle = maps.open(&file.path).unwrap();
            for lease in handle.windows() {
                let lease = lease.unwrap();
                assert_same(&lease, &file[lease.offset() as usize..][..lease.len()], "afterwards");
            }
        }
        goes_back(&dir, maps);
    }
    report(&format!("{operations} operations by {THREADS} threads"), before);
}

/// Nobody holds anything: nothing stays.
#[track_caller]
fn goes_back(dir: &Dir, maps: MapManager) {
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
// Each call alone, and always
// ---------------------------------------------------------------------------------------------------------------------

/// What has to be in an error: the file, the range, what the system said, and what to do about it.
#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, file: &TestFile, words: &[&str]) {
    let said = error.to_string();
    assert_eq!(error.kind(), kind, "{said}");
    assert_eq!(error.path(), Some(file.path.as_path()), "{said}");
    assert!(number(error).is_some(), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}: not {words:?}");
}

#[test]
fn without_maps_it_reads() {
    let _turn = my_turn();
    let dir = Dir::new();
    let file = dir.file("file", 4 * WINDOW, 1);
    let maps = cache(|builder| builder);
    let handle = maps.open(&file.path).unwrap();
    let mut cursor = handle.cursor();

    for number in [libc::ENOMEM, libc::EAGAIN, libc::EIO] {
        let _faults = Faults::all(Call::Map, number);
        let error = cursor.window_at(WINDOW).unwrap_err();
        match number {
            libc::EIO => assert_says(&error, ErrorKind::Io, &file, &["cannot map"]),
            _ => assert_says(&error, ErrorKind::OutOfMaps, &file, &["max_map_count", "raise", "max_regions"]),
        }
        assert!(error.range().is_some_and(|range| range.contains(&WINDOW)), "{error}");
        // What may copy does, unless it was something else than a limit.
        let mut bytes = vec![0; 3 * WINDOW as usize];
        match handle.read_exact_at(&mut bytes, 100) {
            Err(error) if number == libc::EIO => assert_says(&error, ErrorKind::Io, &file, &["cannot map"]),
            read => {
                read.unwrap();
                assert_same(&bytes, &file[100..][..bytes.len()], "read");
            }
        }
    }
    assert_eq!((maps.stats().maps, maps.stats().mapped_bytes), (0, 0), "what failed is not counted");

    assert_same(cursor.window_at(WINDOW).unwrap(), &file[WINDOW as usize..2 * WINDOW as usize], "the same call");
    drop((cursor, handle));
    goes_back(&dir, maps);
}

#[test]
fn what_is_not_unmapped_is_counted_and_tried_again() {
    let _turn = my_turn();
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
    assert_eq!(maps.collect().regions, 0, "none was unmapped");
    assert_eq!(dir.mapped().unwrap().bytes, 2 * WINDOW);
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.regions, stats.unmaps), (2 * WINDOW, 2, 0), "all are counted");
    // The budget is one for what is mapped, not for what is listed.
    let error = cursor.window_at(5 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}");
    assert_eq!(dir.mapped().unwrap().bytes, 2 * WINDOW);
    let mut bytes = [0; 100];
    handle.read_exact_at(&mut bytes, 10).unwrap();
    assert_same(&bytes, &file[10..110], "read, since the window is on its way out");
    drop(faults);

    assert_same(
        cursor.window_at(5 * WINDOW).unwrap(),
        &file[5 * WINDOW as usize..][..WINDOW as usize],
        "the same call",
    );
    drop((cursor, handle));
    goes_back(&dir, maps);
}

/// The last handle, and what is held longer than that.
#[test]
fn what_is_not_unmapped_when_all_is_dropped_goes_later() {
    let _turn = my_turn();
    let (dir, other) = (Dir::new(), Dir::new());
    let file = dir.file("file", 4 * WINDOW, 1);
    let maps = cache(|builder| builder);
    let handle = maps.open(&file.path).unwrap();
    handle.prefetch(..).unwrap();
    let (early, late) = (handle.lease(..WINDOW).unwrap(), handle.lease(WINDOW..2 * WINDOW).unwrap());

    let faults = Faults::all(Call::Unmap, libc::ENOMEM);
    drop(early);
    drop((handle, maps));
    assert_same(&late, &file[WINDOW as usize..2 * WINDOW as usize], "a lease, alone");
    drop(late);
    assert_eq!(dir.mapped().unwrap().bytes, 4 * WINDOW, "none was unmapped");
    drop(faults);

    // Whoever comes next takes it along.
    let file = other.file("file", WINDOW, 2);
    let maps = cache(|builder| builder);
    assert_same(&maps.open(&file.path).unwrap().lease(..).unwrap(), &file, "leased");
    goes_back(&other, maps);
    assert_eq!(dir.mapped(), Some(Mapped::default()));
    assert_eq!(dir.descriptors(), Some(0));
}

#[test]
fn without_descriptors_what_is_held_stays_readable() {
    let _turn = my_turn();
    let dir = Dir::new();
    let (one, two) = (dir.file("one", 4 * WINDOW, 1), dir.file("two", 4 * WINDOW, 2));
    let maps = cache(|builder| builder);
    let first = maps.open(&one.path).unwrap();
    first.prefetch(..WINDOW).unwrap();
    let lease = first.lease(..WINDOW).unwrap();

    let faults = Faults::all(Call::Open, libc::EMFILE);
    let error = maps.open(&two.path).unwrap_err();
    assert_says(&error, ErrorKind::Io, &two, &["cannot open", "ulimit -n", "raise", "max_open_files"]);
    assert_same(&lease, &one[..WINDOW as usize], "held");
    assert_same(&first.lease(100..200).unwrap(), &one[100..200], "in the same window");
    // Its descriptor was given up, in vain, so that the other file could be opened.
    let error = first.cursor().window_at(3 * WINDOW).unwrap_err();
    assert_says(&error, ErrorKind::Io, &one, &["cannot open", "ulimit -n"]);
    drop(faults);

    assert_same(first.cursor().window_at(3 * WINDOW).unwrap(), &one[3 * WINDOW as usize..], "the same call");
    assert_same(&maps.open(&two.path).unwrap().lease(..).unwrap(), &two, "the same call");
    drop((first, lease));
    goes_back(&dir, maps);
}

#[test]
fn where_the_disk_fails_what_is_mapped_stays_readable() {
    let _turn = my_turn();
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
            _ => (cursor.window_at(2 * WINDOW).unwrap_err(), "cannot look at the file"),
        };
        assert_says(&error, ErrorKind::Io, &file, &[word]);
    }
    handle.read_exact_at(&mut bytes, 2 * WINDOW).unwrap();
    assert_same(&bytes, &file[2 * WINDOW as usize..][..100], "the same call");
    assert_same(
        cursor.window_at(2 * WINDOW).unwrap(),
        &file[2 * WINDOW as usize..][..WINDOW as usize],
        "the same call",
    );
    drop((handle, cursor));
    goes_back(&dir, maps);
}
