//! `Overcommit`: requests for a window while every mapped one is pinned.

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

/// A cache of two windows, by bytes or by number, and a file of six.
fn two_windows(dir: &Dir, overcommit: Overcommit, by_number: bool) -> (MapManager, PathBuf, MappedFile) {
    let builder = large().overcommit(overcommit);
    let maps = manager(if by_number { builder.max_regions(2) } else { builder.max_mapped_bytes(2 * LARGE) });
    let path = file_in(dir, "pinned", 36, 6 * LARGE);
    let file = maps.open(&path).unwrap();
    visit(&file, LARGE, 36, 0..6); // there is always room while nothing is pinned
    assert_eq!(maps.stats().overcommits, 0);
    assert!(two_at_most(&maps, by_number), "{:?}", maps.stats());
    (maps, path, file)
}

/// Whether the limit of [`two_windows`] held all the time.
fn two_at_most(maps: &MapManager, by_number: bool) -> bool {
    let stats = maps.stats();
    if by_number { stats.peak_regions <= 2 } else { stats.peak_mapped_bytes <= 2 * LARGE }
}

fn pin(file: &MappedFile, window: u64) -> Lease {
    let lease = file.lease(window * LARGE..(window + 1) * LARGE).unwrap();
    assert!(lease.is_mapped());
    lease
}

/// `Allow`: what is pinned goes over the budget, `stats` shows it, and it comes back by itself.
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
        poll(&maps, SOON, "back inside the budget", || maps.stats().regions <= 2);
        assert!(maps.stats().mapped_bytes <= 2 * LARGE);
    }
}

/// `Fail`: an error that names the file and the range, at once; copying reads go on.
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
        // What is mapped is still to be had.
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

/// Cursors pin what they stand in, as leases do.
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
    // A cursor lets go of its window before it loads another one …
    assert_bytes(first.window_at(4 * LARGE).unwrap(), 36, 4 * LARGE);
    // … and one that let go pins nothing.
    second.release();
    assert_bytes(third.window_at(5 * LARGE).unwrap(), 36, 5 * LARGE);
    assert!(maps.stats().peak_mapped_bytes <= 2 * LARGE);
}

/// `Wait`: not before its time, an error when nothing is let go of meanwhile; copying reads never wait.
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

/// `Wait`: goes on as soon as another thread lets go; a copying read does not wait with it.
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
        assert!(start.elapsed() < WAIT / 2, "a copying read waited");

        let let_go = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(60));
                let_go.store(true, Ordering::SeqCst);
                drop(first);
            });
            let third = pin(&file, 2);
            assert!(let_go.load(Ordering::SeqCst), "mapped although everything was pinned");
            assert_bytes(&third, 36, 2 * LARGE);
        });
        assert!(start.elapsed() < WAIT / 2, "went on only after {:?}", start.elapsed());
        assert_bytes(&second, 36, LARGE);
        let stats = maps.stats();
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        assert!(two_at_most(&maps, by_number), "{stats:?}");
    }
}

/// To wait for ever is to wait until somebody lets go.
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
    assert_eq!(early.unwrap_err(), mpsc::RecvTimeoutError::Timeout, "it did not wait");
    drop(held);
    let next = answer.recv_timeout(Duration::from_secs(20)).expect("it goes on").unwrap();
    assert!(*next == content(WINDOW..2 * WINDOW)[..]);
    assert_eq!(maps.stats().overcommits, 0);
    assert!(maps.stats().peak_mapped_bytes <= WINDOW);
}

/// Nothing to wait is not for ever.
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

/// The budget holds in every mode as long as something is unused: nothing is refused, and nothing overshoots.
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
