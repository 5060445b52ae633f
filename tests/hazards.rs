//! Cursors protect the windows that they read with hazard records.
//!
//! The tests cover thousands of cursors, cursors that move between threads, and a refused `membarrier`: from the start,
//! and after cursors exist.
#![cfg(unix)]
#![allow(unsafe_code, reason = "installs seccomp filters")]

#[path = "it/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use smmap::{Admission, Cursor, ErrorKind, Limits, MapManager, MapManagerBuilder, Overcommit, Window};
use support::{Dir, Rng, TestFile, alone, assert_same, manager, scale, settles};

const WINDOW: u64 = 64 << 10;
const WINDOWS: u64 = 64;

fn windows(in_budget: u64) -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: WINDOW })
        .admission(Admission::Always)
        .overcommit(Overcommit::Fail)
        .max_mapped_bytes(in_budget * WINDOW)
}

/// Reads random ranges through one cursor per thread while other threads evict windows. Checks every byte.
fn read_under_pressure(maps: &MapManager, data: &TestFile, threads: u64, reads: u64) {
    thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || {
                let mut rng = Rng::new(number);
                let mut cursor = maps.open(&data.path).expect("the file can be opened").cursor();
                for _ in 0..reads {
                    let start = rng.below(data.len() - 300);
                    let end = start + 1 + rng.below(299);
                    let found = cursor.slice(start..end).expect("a small range can always be read from the file");
                    assert_same(found, &data[start as usize..end as usize], start);
                }
            });
        }
    });
}

/// 4,000 cursors protect 8 windows while readers with a small budget evict all others. No protected window is remapped.
#[test]
fn four_thousand_cursors_under_pressure_keep_their_windows() {
    const HELD: u64 = 8;
    let dir = Dir::new();
    let data = dir.file("data", WINDOWS * WINDOW, 1);
    let maps = manager(windows(HELD + 8));
    let file = maps.open(&data.path).unwrap();
    let mut cursors: Vec<Cursor> = (0..4_000).map(|_| file.cursor()).collect();
    let at = |number: usize| number as u64 % HELD * WINDOW;
    let places: Vec<*const u8> = cursors
        .iter_mut()
        .enumerate()
        .map(|(number, cursor)| cursor.window_at(at(number)).expect("the budget has room for the window").as_ptr())
        .collect();
    let stats = maps.stats();
    assert_eq!((stats.pinned_regions as u64, stats.pinned_bytes), (HELD, HELD * WINDOW));
    read_under_pressure(&maps, &data, 4, 2_000);
    assert!(maps.stats().evictions > 1_000, "{:?}", maps.stats());
    assert!(maps.stats().peak_mapped_bytes <= (HELD + 8) * WINDOW, "{:?}", maps.stats());
    maps.collect();
    assert_eq!(maps.stats().regions as u64, HELD);
    for (number, (cursor, place)) in cursors.iter_mut().zip(places).enumerate() {
        let start = at(number);
        let window = cursor.window_at(start).expect("the cursor holds this window");
        assert_eq!(window.as_ptr(), place, "the protected window was remapped");
        assert_same(window, &data[start as usize..(start + WINDOW) as usize], start);
    }
    // A window can be unmapped after its last cursor has left.
    cursors.truncate(1);
    maps.collect();
    assert_eq!(maps.stats().regions, 1);
    cursors.clear();
    maps.collect();
    assert_eq!(maps.stats().regions, 0);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

/// Two threads pass one cursor to and fro while it holds a window. A third thread evicts.
#[test]
fn cursor_sent_between_threads_keeps_its_window() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOWS * WINDOW, 2);
    let maps = manager(windows(8));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (maps, data, is_over) = (&maps, &data, &is_over);
        let (there, here) = mpsc::channel::<(u64, Cursor)>();
        let (back, home) = mpsc::channel();
        scope.spawn(move || {
            for (at, mut cursor) in here {
                let held = cursor.slice(at..at + 100).expect("the cursor holds this window");
                assert_same(held, &data[at as usize..at as usize + 100], at);
                back.send(cursor).expect("the other thread is running");
            }
        });
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                maps.collect();
                read_under_pressure(maps, data, 1, 50);
            }
        });
        let mut rng = Rng::new(3);
        let mut cursor = maps.open(&data.path).unwrap().cursor();
        for _ in 0..2_000 {
            let at = rng.below(WINDOWS) * WINDOW;
            if let Err(error) = cursor.window_at(at) {
                assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}");
                continue;
            }
            there.send((at, cursor)).expect("the other thread is running");
            cursor = home.recv().expect("the other thread is running");
        }
        drop(there);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// A draining window stays mapped for its cursor. `release`, `drop` or the collector's next pass unmaps it afterwards.
#[test]
fn draining_window_is_unmapped_after_its_cursor_leaves() {
    let dir = Dir::new();
    let data = dir.file("data", 4 * WINDOW, 4);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let hold = |at| {
        let mut cursor = file.cursor();
        cursor.window_at(at).unwrap();
        cursor
    };
    let (mut moved, released, dropped) = (hold(0), hold(WINDOW), hold(2 * WINDOW));
    let closed = maps.close(&data.path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 3));
    assert_eq!(maps.stats().pinned_regions, 3);
    assert_same(moved.slice(0..100).unwrap(), &data[..100], "a closed window that a cursor still protects");
    // `release` and `drop` check the deferred list.
    let mut released = released;
    released.release();
    assert_eq!(maps.stats().regions, 2);
    drop(dropped);
    assert_eq!(maps.stats().regions, 1);
    // A switch to another window does not check it. The collector unmaps the window that the cursor has left.
    moved.window_at(3 * WINDOW).unwrap();
    assert_eq!(maps.stats().pinned_regions, 1);
    assert!(settles(|| maps.stats().regions == 1), "{:?}", maps.stats());
}

/// A range beyond the end of the last window is `OutOfBounds`. The cursor then still returns the bytes of the right
/// window.
#[test]
fn slice_after_a_failed_window_switch_returns_the_right_bytes() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOW + 100, 7);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let mut cursor = file.cursor();
    for at in [0, WINDOW, 0, WINDOW, 0] {
        assert_eq!(cursor.slice(at..at + 1).unwrap(), &data[at as usize..at as usize + 1]);
    }
    assert_eq!(cursor.slice(WINDOW..WINDOW + 200).unwrap_err().kind(), ErrorKind::OutOfBounds);
    assert_same(cursor.slice(0..50).unwrap(), &data[..50], "the previous window");
    cursor.check(0..50).unwrap();
    assert_same(cursor.window_at(WINDOW).unwrap(), &data[WINDOW as usize..], "the tail");
}

/// Each call of `close` counts the windows that cursors protect and leases hold, until the last of them is released.
#[test]
fn close_counts_protected_windows_as_held() {
    let dir = Dir::new();
    let data = dir.file("data", 4 * WINDOW, 8);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let mut cursor = file.cursor();
    cursor.window_at(0).unwrap();
    let lease = file.lease(0..WINDOW).unwrap();
    for _ in 0..3 {
        assert_eq!(maps.close(&data.path).still_held, 1);
    }
    drop(lease);
    for _ in 0..3 {
        assert_eq!(maps.close(&data.path).still_held, 1);
    }
    cursor.window_at(WINDOW).unwrap();
    // A window switch does not check the deferred list; `close` does.
    assert_eq!(maps.close(&data.path).still_held, 1, "only the cursor's current window is held");
    assert_eq!(maps.stats().regions, 1);
    cursor.release();
    assert_eq!(maps.close(&data.path).still_held, 0);
    assert_eq!(maps.stats().regions, 0);
}

/// One thread releases a cursor while another thread closes its file. The later of the two unmaps the window; neither
/// leaves it to the collector.
#[test]
fn release_concurrent_with_close_leaves_no_window_mapped() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOWS * WINDOW, 10);
    // The budget has spare room, so that the collector has no work but its pass, once a second.
    let maps = manager(windows(4 * WINDOWS));
    let file = maps.open(&data.path).unwrap();
    // `last` holds the last window. The other cursors hold all other windows. The closing thread therefore works for a
    // while between its scan of the hazard records and the deferral of the last window.
    let mut cursors: Vec<_> = (1..WINDOWS).map(|_| file.cursor()).collect();
    let mut last = file.cursor();
    let (there, here) = mpsc::channel::<Cursor>();
    let (back, home) = mpsc::channel();
    let turn = AtomicU64::new(0);
    // Lets both threads begin at about the same moment.
    let meet = |round: u64| {
        turn.fetch_add(1, Ordering::AcqRel);
        while turn.load(Ordering::Acquire) < 2 * round {
            thread::yield_now();
        }
    };
    // Waits at most 100 ms: mostly long before the collector's next pass is due. A pass may be under way, though.
    let is_down_to = |regions: u64| {
        (0..100).any(|_| {
            maps.stats().regions as u64 == regions || {
                thread::sleep(Duration::from_millis(1));
                false
            }
        })
    };
    thread::scope(|scope| {
        let meet = &meet;
        scope.spawn(move || {
            let mut rng = Rng::new(10);
            for (round, mut last) in (1..).zip(here) {
                meet(round);
                (0..rng.below(4_000)).for_each(|_| std::hint::spin_loop());
                last.release();
                back.send(last).expect("the other thread is running");
            }
        });
        for round in 1..=500 * scale() {
            for (cursor, start) in cursors.iter_mut().zip((0..).step_by(WINDOW as usize)) {
                cursor.window_at(start).unwrap();
            }
            last.window_at((WINDOWS - 1) * WINDOW).unwrap();
            there.send(last).expect("the other thread is running");
            meet(round);
            let closed = maps.close(&data.path);
            last = home.recv().expect("the other thread is running");
            assert!(is_down_to(WINDOWS - 1), "round {round}: {closed:?}, {:?}", maps.stats());
            cursors.iter_mut().for_each(Cursor::release);
            assert!(is_down_to(0), "round {round}: {closed:?}, {:?}", maps.stats());
        }
        drop(there);
    });
}

/// A cursor follows a growing file. It neither waits for its own old tail window nor maps the new tail beside it.
#[test]
fn cursor_following_appends_keeps_one_window_mapped() {
    use std::io::Write as _;
    let dir = Dir::new();
    let data = dir.file("log", 100, 9);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let mut log = std::fs::OpenOptions::new().append(true).open(&data.path).unwrap();
    let mut cursor = file.cursor();
    for line in 1..=50 {
        let known = cursor.window_at(0).unwrap().len();
        assert_eq!(known, 100 * line);
        log.write_all(&[line as u8; 100]).unwrap();
        file.refresh().unwrap();
        assert_eq!(cursor.window_at(known as u64).unwrap(), [line as u8; 100]);
        assert_eq!(maps.stats().regions, 1, "one window, remapped after append {line}");
    }
}

#[cfg(target_os = "linux")]
mod filtered {
    use super::*;

    /// Makes the OS refuse `membarrier` to this process from now on, as a container's filter or an old kernel may.
    fn forbid_membarrier() {
        let statement = |code, value| libc::sock_filter { code, jt: 0, jf: 0, k: value };
        let jump = |value, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k: value };
        let mut program = [
            // Load the number of the system call. `membarrier` fails with ENOSYS; every other call is allowed.
            statement(0x20, 0),
            jump(libc::SYS_membarrier as u32, 1),
            statement(0x06, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
            statement(0x06, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the flag affects this process alone, which is a child process of the test.
        let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        // SAFETY: the call reads the filter, which outlives it, and affects this process alone.
        let done = promised && unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &filter) } == 0;
        assert!(done, "{}", std::io::Error::last_os_error());
        // SAFETY: MEMBARRIER_CMD_QUERY takes no pointers and changes nothing.
        assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) }, -1);
    }

    /// Cursors use fences if `membarrier` is refused from the start.
    #[test]
    fn cursors_without_membarrier_read_and_evict_as_with_it() {
        if !alone("filtered::cursors_without_membarrier_read_and_evict_as_with_it") {
            return;
        }
        forbid_membarrier();
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 5);
        let maps = manager(windows(8));
        read_under_pressure(&maps, &data, 4, 10_000);
        let stats = maps.stats();
        assert!(stats.evictions > 1_000 && stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        maps.collect();
        assert_eq!(maps.stats().regions, 0);
    }

    /// A manager that is built after the filter uses fences, even though an earlier manager uses `membarrier`.
    #[test]
    fn second_manager_after_membarrier_was_refused_keeps_its_budget() {
        if !alone("filtered::second_manager_after_membarrier_was_refused_keeps_its_budget") {
            return;
        }
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 6);
        let first = manager(windows(8));
        let mut cursor = first.open(&data.path).unwrap().cursor();
        cursor.window_at(0).unwrap();
        forbid_membarrier();
        let second = manager(windows(8).overcommit(Overcommit::Allow));
        read_under_pressure(&second, &data, 4, 10_000);
        let file = second.open(&data.path).unwrap();
        let mut cursors = [file.cursor(), file.cursor()];
        for window in 0..WINDOWS {
            for cursor in &mut cursors {
                assert_same(
                    cursor.window_at(window * WINDOW).unwrap(),
                    &data[(window * WINDOW) as usize..][..WINDOW as usize],
                    window,
                );
            }
        }
        let stats = second.stats();
        assert!(stats.evictions > 1_000 && stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        assert_eq!(stats.overcommits, 0, "{stats:?}");
        // The first manager's cursor still has its window, and reads it beside those of the second.
        assert_same(cursor.slice(0..100).unwrap(), &data[..100], "the first manager's window");
    }

    /// Returns a cursor that holds a window, and whether the OS offered `membarrier` when the manager chose its
    /// barrier. `membarrier` is refused from then on.
    fn cursor_before_membarrier_is_refused(maps: &MapManager, data: &TestFile) -> (Cursor, bool) {
        let mut cursor = maps.open(&data.path).unwrap().cursor();
        cursor.window_at(0).unwrap();
        // SAFETY: MEMBARRIER_CMD_QUERY takes no pointers and changes nothing.
        let had_membarrier = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) } > 0;
        forbid_membarrier();
        (cursor, had_membarrier)
    }

    /// The OS refuses `membarrier` after the manager has chosen it. While a cursor exists, no owner can learn which
    /// windows are protected, so no window is unmapped. All bytes can be read nevertheless.
    #[test]
    fn membarrier_refused_later_keeps_windows_mapped_and_bytes_right() {
        if !alone("filtered::membarrier_refused_later_keeps_windows_mapped_and_bytes_right") {
            return;
        }
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 6);
        let maps = manager(windows(8));
        let (mut cursor, had_membarrier) = cursor_before_membarrier_is_refused(&maps, &data);
        read_under_pressure(&maps, &data, 4, 1_000);
        let stats = maps.stats();
        assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        let (done, is_done) = mpsc::channel();
        let (trimmed, limits) = (maps.clone(), Limits { max_regions: 4, ..maps.limits() });
        thread::spawn(move || done.send(trimmed.set_limits(limits)));
        let is_set = is_done.recv_timeout(Duration::from_secs(10));
        is_set.expect("the trim to the lowered limit ends, although it unmaps nothing").unwrap();
        if had_membarrier {
            assert_eq!(
                (stats.unmaps, maps.collect().regions),
                (0, 0),
                "a window was unmapped although a cursor may have protected it"
            );
        }
        assert_same(cursor.slice(0..WINDOW).unwrap(), &data[..WINDOW as usize], "the window that the cursor holds");
        drop(cursor);
        maps.collect();
        assert_eq!(maps.stats().regions, 0);
    }

    /// With `Overcommit::Allow` and `membarrier` refused later, the mapped bytes exceed the budget while a cursor
    /// exists. They fall back below it after the last cursor is dropped.
    #[test]
    fn membarrier_refused_later_with_allow_exceeds_the_budget() {
        if !alone("filtered::membarrier_refused_later_with_allow_exceeds_the_budget") {
            return;
        }
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 11);
        let maps = manager(windows(8).overcommit(Overcommit::Allow));
        let (mut cursor, had_membarrier) = cursor_before_membarrier_is_refused(&maps, &data);
        for start in (0..WINDOWS).map(|window| window * WINDOW) {
            let window = cursor.window_at(start).unwrap();
            assert_same(window, &data[start as usize..(start + WINDOW) as usize], start);
        }
        let stats = maps.stats();
        if had_membarrier {
            assert_eq!((stats.mapped_bytes, stats.unmaps), (WINDOWS * WINDOW, 0), "{stats:?}");
            assert_eq!(stats.overcommits, WINDOWS - 8, "{stats:?}");
        } else {
            assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        }
        drop(cursor);
        assert!(settles(|| maps.stats().mapped_bytes <= 8 * WINDOW), "{:?}", maps.stats());
    }
}

/// A cursor caches the addresses of the windows that it has read. A window may be mapped at another address when the
/// cursor returns to it.
#[test]
fn window_remapped_at_another_address_is_one_hit_with_the_right_bytes() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOWS * WINDOW, 2);
    let maps = manager(windows(WINDOWS));
    let file = maps.open(&data.path).unwrap();
    let (mut cursor, mut other) = (file.cursor(), file.cursor());
    for window in [1, 2, 3, 1, 2, 3] {
        cursor.slice(window * WINDOW..window * WINDOW + 9).unwrap();
    }
    cursor.release();
    assert_eq!(maps.collect().regions, 3);
    // Mapped in another order, so that not all windows get their old addresses.
    let place_of = |cursor: &mut Cursor, window: u64| cursor.window_at(window * WINDOW).unwrap().as_ptr();
    let places = [7, 3, 2, 1].map(|window| place_of(&mut other, window));
    other.release();
    let hits = maps.stats().hits;
    for window in [1, 2, 3, 1, 2, 3] {
        let start = window * WINDOW + 5;
        let found = cursor.slice(start..start + 100).unwrap();
        assert_eq!(found.as_ptr().wrapping_sub(5), places[4 - window as usize]);
        assert_same(found, &data[start as usize..start as usize + 100], start);
    }
    assert_eq!((maps.stats().hits - hits, maps.stats().maps), (6, 7));
}
