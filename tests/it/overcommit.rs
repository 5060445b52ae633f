//! `Overcommit`: requests for another window while every mapped window is pinned.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smmap::{ErrorKind, Lease, MapManager, MappedFile, Overcommit};

use crate::fixture::seeded::{
    LARGE, SOON, assert_bytes, assert_reads, file_in, large, poll, poll_kernel_agrees, visit,
};
use crate::fixture::three_windows::{LEN, WINDOW, content, content_file, limited};
use crate::support::{Dir, manager};

/// Returns a cache limited to two windows, by bytes or by number, with the path and handle of a file of six windows.
fn two_windows(dir: &Dir, overcommit: Overcommit, by_number: bool) -> (MapManager, PathBuf, MappedFile) {
    let builder = large().overcommit(overcommit);
    let maps = manager(if by_number { builder.max_regions(2) } else { builder.max_mapped_bytes(2 * LARGE) });
    let path = file_in(dir, "pinned", 36, 6 * LARGE);
    let file = maps.open(&path).unwrap();
    visit(&file, LARGE, 36, 0..6); // Succeeds in every mode, because no window is pinned.
    assert_eq!(maps.stats().overcommits, 0);
    assert!(two_at_most(&maps, by_number), "{:?}", maps.stats());
    (maps, path, file)
}

/// Returns `true` if the cache of [`two_windows`] never exceeded its limit.
fn two_at_most(maps: &MapManager, by_number: bool) -> bool {
    let stats = maps.stats();
    if by_number { stats.peak_regions <= 2 } else { stats.peak_mapped_bytes <= 2 * LARGE }
}

/// Leases the whole window of this index, which maps it.
fn pin(file: &MappedFile, window: u64) -> Lease {
    let lease = file.lease(window * LARGE..(window + 1) * LARGE).unwrap();
    assert!(lease.is_mapped());
    lease
}

/// Pins more than the budget under `Allow`. The stats count the overcommits, and the collector brings the cache back
/// within its budget after the pins are dropped.
#[test]
fn allow_with_everything_pinned_exceeds_the_budget_and_counts_it() {
    for by_number in [false, true] {
        let dir = Dir::new();
        let (maps, _, file) = two_windows(&dir, Overcommit::Allow, by_number);
        let leases: Vec<_> = (0..4).map(|window| pin(&file, window)).collect();
        let mut cursor = file.cursor();
        assert_bytes(cursor.window_at(4 * LARGE).unwrap(), 36, 4 * LARGE);
        assert_reads(&file, 36, 5 * LARGE, 4096);
        leases.iter().zip(0..).for_each(|(lease, window)| assert_bytes(lease, 36, window * LARGE));

        let stats = maps.stats();
        assert!(stats.overcommits > 0, "{stats:?}");
        assert!(stats.mapped_bytes > 2 * LARGE, "{stats:?}");
        assert!(stats.peak_mapped_bytes >= stats.mapped_bytes, "{stats:?}");
        assert_eq!(stats.pinned_regions, 5, "{stats:?}");
        assert_eq!(stats.pinned_bytes, 5 * LARGE, "{stats:?}");
        poll_kernel_agrees(&maps, &dir);
        drop((leases, cursor));
        poll(&maps, SOON, "regions within the budget", || maps.stats().regions <= 2);
        assert!(maps.stats().mapped_bytes <= 2 * LARGE);
    }
}

/// Requests a third window under `Fail`. The error is immediate and names the file and the range. Copying reads
/// succeed.
#[test]
fn fail_with_everything_pinned_names_the_file_and_range() {
    for by_number in [false, true] {
        let dir = Dir::new();
        let (maps, path, file) = two_windows(&dir, Overcommit::Fail, by_number);
        let first = pin(&file, 0);
        let second = pin(&file, 1);

        let error = file.lease(2 * LARGE..3 * LARGE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
        assert_eq!(error.path(), Some(&*path));
        assert_eq!(error.range(), Some(2 * LARGE..3 * LARGE));
        let mut cursor = file.cursor();
        let error = cursor.window_at(5 * LARGE + 7).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
        assert_eq!(error.path(), Some(&*path));
        assert!(error.range().is_some_and(|range| range.contains(&(5 * LARGE + 7))), "{error:?}");
        assert_reads(&file, 36, 2 * LARGE, 10_000);
        assert_reads(&file, 36, 5 * LARGE - 50, 100);
        // Reads of mapped windows succeed.
        assert_bytes(cursor.window_at(LARGE + 7).unwrap(), 36, LARGE + 7);
        assert_bytes(&pin(&file, 0), 36, 0);
        cursor.release();

        let stats = maps.stats();
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        assert!(two_at_most(&maps, by_number), "{stats:?}");
        drop(first);
        let third = pin(&file, 2);
        assert_bytes(&third, 36, 2 * LARGE);
        assert_bytes(&second, 36, LARGE);
        assert!(two_at_most(&maps, by_number), "{:?}", maps.stats());
    }
}

/// Lets three cursors read under `Fail`. Each cursor pins the window it stands in, as a lease does.
#[test]
fn fail_with_windows_pinned_by_cursors_refuses_another() {
    let dir = Dir::new();
    let (maps, _, file) = two_windows(&dir, Overcommit::Fail, false);
    let mut cursors = [file.cursor(), file.cursor(), file.cursor()];
    let [first, second, third] = &mut cursors;
    let one = first.window_at(0).unwrap();
    let two = second.window_at(3 * LARGE).unwrap();
    assert_eq!(maps.stats().pinned_regions, 2);
    assert_eq!(third.window_at(5 * LARGE).unwrap_err().kind(), ErrorKind::OverBudget);
    assert_bytes(one, 36, 0);
    assert_bytes(two, 36, 3 * LARGE);
    // A cursor releases its window before it loads another one.
    assert_bytes(first.window_at(4 * LARGE).unwrap(), 36, 4 * LARGE);
    // A released cursor pins nothing.
    second.release();
    assert_bytes(third.window_at(5 * LARGE).unwrap(), 36, 5 * LARGE);
    assert!(maps.stats().peak_mapped_bytes <= 2 * LARGE);
}

/// Requests a third window under `Wait` while no pin is dropped. The call fails after the given time and not before.
/// Copying reads never wait.
#[test]
fn wait_without_a_release_times_out() {
    const WAIT: Duration = Duration::from_millis(50);
    for by_number in [false, true] {
        let dir = Dir::new();
        let (maps, path, file) = two_windows(&dir, Overcommit::Wait(WAIT), by_number);
        let held = (pin(&file, 0), pin(&file, 1));
        let start = Instant::now();
        let error = file.lease(2 * LARGE..3 * LARGE).unwrap_err();
        let waited = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
        assert_eq!(error.path(), Some(&*path));
        assert_eq!(error.range(), Some(2 * LARGE..3 * LARGE));
        assert!(waited >= WAIT, "gave up after {waited:?}");
        assert!(waited < SOON, "gave up only after {waited:?}");
        assert_reads(&file, 36, 2 * LARGE, 10_000);
        assert_eq!(maps.stats().overcommits, 0);
        assert!(two_at_most(&maps, by_number), "{:?}", maps.stats());
        drop(held);
        assert_bytes(&pin(&file, 2), 36, 2 * LARGE);
    }
}

/// Requests a third window under `Wait` while another thread drops a lease. The call returns as soon as it does. A
/// copying read does not wait.
#[test]
fn wait_ends_when_another_thread_drops_a_lease() {
    const WAIT: Duration = Duration::from_secs(60);
    for by_number in [false, true] {
        let dir = Dir::new();
        let (maps, _, file) = two_windows(&dir, Overcommit::Wait(WAIT), by_number);
        let first = pin(&file, 0);
        let second = pin(&file, 1);
        let start = Instant::now();
        assert_reads(&file, 36, 5 * LARGE, 10_000);
        assert!(start.elapsed() < WAIT / 2, "the copying read waited");

        let dropped = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(60));
                dropped.store(true, Ordering::SeqCst);
                drop(first);
            });
            let third = pin(&file, 2);
            assert!(dropped.load(Ordering::SeqCst), "mapped while every window was pinned");
            assert_bytes(&third, 36, 2 * LARGE);
        });
        assert!(start.elapsed() < WAIT / 2, "the call returned only after {:?}", start.elapsed());
        assert_bytes(&second, 36, LARGE);
        let stats = maps.stats();
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        assert!(two_at_most(&maps, by_number), "{stats:?}");
    }
}

/// Requests a window under `Wait(Duration::MAX)`. The call waits until a lease is dropped, without an overflow.
#[test]
fn wait_for_the_longest_duration_ends_when_a_lease_is_dropped() {
    let dir = Dir::new();
    let maps = manager(limited().max_mapped_bytes(WINDOW).overcommit(Overcommit::Wait(Duration::MAX)));
    let file = maps.open(content_file(&dir, "file", LEN)).unwrap();
    let held = file.lease(0..WINDOW).unwrap();
    let (send, answer) = mpsc::channel();
    thread::spawn({
        let file = file.clone();
        move || send.send(file.lease(WINDOW..2 * WINDOW))
    });
    let early = answer.recv_timeout(Duration::from_millis(100));
    assert_eq!(early.unwrap_err(), mpsc::RecvTimeoutError::Timeout, "the call did not wait");
    drop(held);
    let next =
        answer.recv_timeout(Duration::from_secs(20)).expect("the call returns after the lease is dropped").unwrap();
    assert!(*next == content(WINDOW..2 * WINDOW)[..]);
    assert_eq!(maps.stats().overcommits, 0);
    assert!(maps.stats().peak_mapped_bytes <= WINDOW);
}

/// Requests a window under `Wait(Duration::ZERO)`, which does not mean for ever.
#[test]
fn wait_for_zero_time_fails_at_once() {
    let dir = Dir::new();
    let maps = manager(limited().max_mapped_bytes(WINDOW).overcommit(Overcommit::Wait(Duration::ZERO)));
    let file = maps.open(content_file(&dir, "file", LEN)).unwrap();
    let held = file.lease(0..WINDOW).unwrap();
    let error = file.lease(WINDOW..2 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
    assert!(*held == content(0..WINDOW)[..]);
}

/// Requests windows in every mode while one mapped window is unused. No call fails, and the budget is never exceeded.
#[test]
fn every_mode_with_an_unused_window_keeps_the_budget() {
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::ZERO)] {
        let dir = Dir::new();
        let (maps, _, file) = two_windows(&dir, overcommit, false);
        let held = pin(&file, 0);
        for round in 0..3 {
            for window in 0..6 {
                let lease = pin(&file, window);
                assert_bytes(&lease, 36, window * LARGE);
                assert!(maps.stats().mapped_bytes <= 2 * LARGE, "{overcommit:?}, round {round}");
            }
        }
        assert_bytes(&held, 36, 0);
        let stats = maps.stats();
        assert_eq!(stats.overcommits, 0, "{overcommit:?}: {stats:?}");
        assert!(stats.peak_mapped_bytes <= 2 * LARGE, "{overcommit:?}: {stats:?}");
    }
}

/// A call that waits for several things in turn waits as long as one that waits for one thing, and its error says so.
#[test]
fn wait_for_window_and_then_range_waits_once() {
    const WAIT: Duration = Duration::from_millis(400);
    for by_number in [false, true] {
        let dir = Dir::new();
        let (maps, _, file) = two_windows(&dir, Overcommit::Wait(WAIT), by_number);
        let _held = (pin(&file, 0), pin(&file, 1));
        // A window, then the range alone. A range across windows. Several windows.
        let calls: [&dyn Fn() -> smmap::Result<()>; 4] = [
            &|| file.lease(2 * LARGE..3 * LARGE).map(drop),
            &|| file.lease(2 * LARGE..4 * LARGE - 1).map(drop),
            &|| file.cursor().window_at(2 * LARGE).map(drop),
            &|| file.prefetch(2 * LARGE..4 * LARGE),
        ];
        for (number, call) in calls.into_iter().enumerate() {
            let start = Instant::now();
            let error = call().unwrap_err();
            let waited = start.elapsed();
            assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
            assert!(waited >= WAIT && waited < WAIT * 3 / 2, "call {number} waited {waited:?}");
            assert!(error.to_string().contains("after a wait of 400ms"), "{error}");
        }
        assert!(two_at_most(&maps, by_number), "{:?}", maps.stats());
    }
}

/// A call waits for a descriptor during most of its time, and then for room. Both waits share the time.
#[test]
#[cfg(unix)]
fn wait_for_descriptor_and_then_room_waits_once() {
    const WAIT: Duration = Duration::from_millis(400);
    let dir = Dir::new();
    let maps = manager(limited().max_mapped_bytes(WINDOW).max_open_files(1).overcommit(Overcommit::Wait(WAIT)));
    let file = maps.open(content_file(&dir, "file", LEN)).unwrap();
    let _held = file.lease(0..WINDOW).unwrap();
    // The descriptor of a deleted file is needed as long as the file has a handle.
    let gone = content_file(&dir, "gone", LEN);
    let handle = maps.open(&gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(WAIT * 3 / 4);
            drop(handle);
        });
        let error = file.lease(WINDOW..2 * WINDOW).unwrap_err();
        let waited = start.elapsed();
        assert!(waited >= WAIT && waited < WAIT * 3 / 2, "{waited:?}");
        assert!(error.to_string().contains("after a wait of 400ms"), "{error}");
    });
    let other = maps.open(content_file(&dir, "other", LEN)).unwrap();
    std::fs::remove_file(other.path().unwrap()).unwrap();
    let error = maps.open(content_file(&dir, "another", LEN)).unwrap_err();
    assert!(error.to_string().contains("max_open_files") && error.to_string().contains("400ms"), "{error}");
}

/// Each of 16 threads holds one window while it waits for a descriptor, or for another window. No thread keeps a
/// descriptor while it waits for a window, so each wait ends.
#[test]
fn threads_that_wait_for_descriptors_and_windows_do_not_wait_for_each_other() {
    const THREADS: u64 = 16;
    const STEPS: u64 = 30;
    let dir = Dir::new();
    let builder = limited().max_regions(2).max_open_files(2).overcommit(Overcommit::Wait(Duration::from_secs(10)));
    let maps = manager(builder);
    let paths: Vec<_> = (0..THREADS).map(|number| content_file(&dir, &number.to_string(), LEN)).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (maps, paths) = (&maps, &paths);
            scope.spawn(move || {
                let mut held = None;
                for step in 0..STEPS {
                    let file = maps.open(&paths[((thread + step * 7) % THREADS) as usize]).unwrap();
                    drop(held.take());
                    let mut cursor = file.cursor();
                    assert!(cursor.window_at(0).unwrap() == &content(0..WINDOW)[..]);
                    held = Some(cursor);
                }
            });
        }
    });
    let stats = maps.stats();
    assert!(stats.peak_regions <= 2 && stats.peak_open_files <= 2 && stats.overcommits == 0, "{stats:?}");
}

/// Leases a range larger than the whole budget. `Allow` maps it, after evicting everything unused. The other modes
/// refuse it at once, although nothing is pinned.
#[test]
fn range_above_the_whole_budget_is_mapped_under_allow_and_refused_at_once_otherwise() {
    const BUDGET: u64 = 2 * WINDOW;
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::MAX)] {
        let dir = Dir::new();
        let maps = manager(limited().max_mapped_bytes(BUDGET).overcommit(overcommit));
        let path = content_file(&dir, "file", LEN);
        let file = maps.open(&path).unwrap();
        drop(file.lease(0..WINDOW).unwrap());
        let range = 10..10 + BUDGET + 1;
        let mapped = file.lease(range.clone());
        if overcommit == Overcommit::Allow {
            let lease = mapped.unwrap();
            assert!(lease.is_mapped() && *lease == content(range)[..]);
            let stats = maps.stats();
            assert_eq!((stats.regions, stats.overcommits, stats.evictions), (1, 1, 1), "{stats:?}");
            assert!(stats.mapped_bytes > BUDGET && stats.peak_mapped_bytes == stats.mapped_bytes, "{stats:?}");
            drop(lease);
            assert_eq!(maps.stats().mapped_bytes, 0);
        } else {
            let error = mapped.unwrap_err();
            assert_eq!((error.kind(), error.range()), (ErrorKind::OverBudget, Some(range.clone())), "{error:?}");
            let message = error.to_string();
            let pages = BUDGET + (64 << 10);
            for part in [range.start, range.end, BUDGET].map(|number| number.to_string()) {
                assert!(message.contains(&part), "{part} is not in {message:?}");
            }
            let lengths = BUDGET + 1..=pages + 1;
            assert!(lengths.into_iter().any(|len| message.contains(&format!(" {len} bytes"))), "{message}");
            let stats = maps.stats();
            assert_eq!((stats.overcommits, stats.peak_mapped_bytes), (0, WINDOW), "{stats:?}");
        }
    }
}

/// Lets four threads per core hold default windows, with a budget far below 16 MiB per thread.
#[test]
fn default_windows_of_four_threads_per_core_fit_the_budget() {
    let dir = Dir::new();
    let maps = manager(MapManager::builder().max_mapped_bytes(4 << 20));
    let threads = 4 * thread::available_parallelism().unwrap().get() as u64;
    let window = maps.window_bytes().unwrap();
    assert!(window.is_power_of_two() && (64 << 10..=16 << 20).contains(&window), "{window}");
    if threads * (64 << 10) > 4 << 20 {
        return; // The smallest window is too large for so many cores.
    }
    let file = maps.open(dir.file("file", threads * window, 3).path).unwrap();
    let mut cursors: Vec<_> = (0..threads).map(|_| file.cursor()).collect();
    for (cursor, index) in cursors.iter_mut().zip(0..) {
        assert_eq!(cursor.window_at(index * window).unwrap().len() as u64, window);
    }
    let stats = maps.stats();
    assert_eq!((stats.regions as u64, stats.overcommits), (threads, 0), "{stats:?}");
    assert!(stats.peak_mapped_bytes <= 4 << 20, "{stats:?}");
}
