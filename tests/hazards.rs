//! Cursors announce what they read: with the system's barrier, without it, and where it is taken away; by the thousand, and
//! moved from thread to thread.
#![cfg(unix)]
#![allow(unsafe_code, reason = "filters of system calls")]

#[path = "it/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use smmap::{Admission, Cursor, ErrorKind, MapManager, MapManagerBuilder, Overcommit, Window};
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

/// Reads at random, by cursors that go from window to window, while the windows are evicted under them: each byte is right.
fn read_under_pressure(maps: &MapManager, data: &TestFile, threads: u64, reads: u64) {
    thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || {
                let mut rng = Rng::new(number);
                let mut cursor = maps.open(&data.path).expect("it opens").cursor();
                for _ in 0..reads {
                    let start = rng.below(data.len() - 300);
                    let end = start + 1 + rng.below(299);
                    let found = cursor.slice(start..end).expect("what is small is read at least");
                    assert_same(found, &data[start as usize..end as usize], start);
                }
            });
        }
    });
}

/// Thousands of cursors hold a few windows each of which one more reader would like to have the place: none of them moves.
#[test]
fn thousands_of_cursors_keep_what_they_read() {
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
        .map(|(number, cursor)| cursor.window_at(at(number)).expect("there is room").as_ptr())
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
        let window = cursor.window_at(start).expect("it holds it");
        assert_eq!(window.as_ptr(), place, "mapped anew");
        assert_same(window, &data[start as usize..(start + WINDOW) as usize], start);
    }
    // The windows go when the last of them has.
    cursors.truncate(1);
    maps.collect();
    assert_eq!(maps.stats().regions, 1);
    cursors.clear();
    maps.collect();
    assert_eq!(maps.stats().regions, 0);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

/// A cursor is handed from thread to thread while it holds a window, and others evict.
#[test]
fn cursors_move_between_threads() {
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
                let held = cursor.slice(at..at + 100).expect("it holds it");
                assert_same(held, &data[at as usize..at as usize + 100], at);
                back.send(cursor).expect("the other thread is there");
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
            there.send((at, cursor)).expect("the other thread is there");
            cursor = home.recv().expect("the other thread is there");
        }
        drop(there);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// What drains waits for its cursor, and goes with the next one who collects, or by itself.
#[test]
fn what_a_cursor_has_left_goes() {
    let dir = Dir::new();
    let data = dir.file("data", 4 * WINDOW, 4);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let hold = |at| {
        let mut cursor = file.cursor();
        cursor.window_at(at).unwrap();
        cursor
    };
    let (mut goes_on, released, dropped) = (hold(0), hold(WINDOW), hold(2 * WINDOW));
    let closed = maps.close(&data.path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 3));
    assert_eq!(maps.stats().pinned_regions, 3);
    assert_same(goes_on.slice(0..100).unwrap(), &data[..100], "closed, and held");
    // The way of letting go that looks who waits.
    let mut released = released;
    released.release();
    assert_eq!(maps.stats().regions, 2);
    drop(dropped);
    assert_eq!(maps.stats().regions, 1);
    // The quick one does not; what it leaves is nobody's, and the collector finds it.
    goes_on.window_at(3 * WINDOW).unwrap();
    assert_eq!(maps.stats().pinned_regions, 1);
    assert!(settles(|| maps.stats().regions == 1), "{:?}", maps.stats());
}

/// A window that is too short for what is asked is no hit, and nothing of it is left where the cursor was before.
#[test]
fn a_hop_that_fails_leaves_no_bytes_of_another_window() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOW + 100, 7);
    let maps = manager(windows(8));
    let file = maps.open(&data.path).unwrap();
    let mut cursor = file.cursor();
    for at in [0, WINDOW, 0, WINDOW, 0] {
        assert_eq!(cursor.slice(at..at + 1).unwrap(), &data[at as usize..at as usize + 1]);
    }
    assert_eq!(cursor.slice(WINDOW..WINDOW + 200).unwrap_err().kind(), ErrorKind::OutOfBounds);
    assert_same(cursor.slice(0..50).unwrap(), &data[..50], "the window before");
    cursor.check(0..50).unwrap();
    assert_same(cursor.window_at(WINDOW).unwrap(), &data[WINDOW as usize..], "the tail");
}

/// Who closes until nothing is held any more is not told so before it is true.
#[test]
fn closed_again_it_is_held_still() {
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
    // It went on, and nobody looked who waits: closing does.
    assert_eq!(maps.close(&data.path).still_held, 1, "the window where it is now");
    assert_eq!(maps.stats().regions, 1);
    cursor.release();
    assert_eq!(maps.close(&data.path).still_held, 0);
    assert_eq!(maps.stats().regions, 0);
}

/// One lets go while another closes: whoever of the two is last gives the window back, and nobody has to wait for the collector.
#[test]
fn who_lets_go_and_who_closes_leave_nothing() {
    let dir = Dir::new();
    let data = dir.file("data", WINDOWS * WINDOW, 10);
    // With room to spare, so that the collector has nothing to do but its look, each second.
    let maps = manager(windows(4 * WINDOWS));
    let file = maps.open(&data.path).unwrap();
    // It holds the last window. The others are held as well, so that whoever closes is at work for a while between its look at
    // who reads and keeping the last one for later.
    let mut cursors: Vec<_> = (1..WINDOWS).map(|_| file.cursor()).collect();
    let mut last = file.cursor();
    let (there, here) = mpsc::channel::<Cursor>();
    let (back, home) = mpsc::channel();
    let turn = AtomicU64::new(0);
    // Both begin at about the same moment.
    let meet = |round: u64| {
        turn.fetch_add(1, Ordering::AcqRel);
        while turn.load(Ordering::Acquire) < 2 * round {
            thread::yield_now();
        }
    };
    // Long before the collector's next look is due, mostly; but it may be in the middle of one.
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
                back.send(last).expect("the other thread is there");
            }
        });
        for round in 1..=500 * scale() {
            for (cursor, start) in cursors.iter_mut().zip((0..).step_by(WINDOW as usize)) {
                cursor.window_at(start).unwrap();
            }
            last.window_at((WINDOWS - 1) * WINDOW).unwrap();
            there.send(last).expect("the other thread is there");
            meet(round);
            let closed = maps.close(&data.path);
            last = home.recv().expect("the other thread is there");
            assert!(is_down_to(WINDOWS - 1), "round {round}: {closed:?}, {:?}", maps.stats());
            cursors.iter_mut().for_each(Cursor::release);
            assert!(is_down_to(0), "round {round}: {closed:?}, {:?}", maps.stats());
        }
        drop(there);
    });
}

/// A cursor that follows a file as it grows does not wait for itself, nor map beside what it has left.
#[test]
fn a_follower_leaves_its_old_tail_to_be_mapped_anew() {
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
        assert_eq!(maps.stats().regions, 1, "one window, mapped anew for {line}");
    }
}

#[cfg(target_os = "linux")]
mod filtered {
    use super::*;

    /// Has the system refuse `membarrier` to this process from now on, as a container may, or an old kernel.
    fn forbid_membarrier() {
        let statement = |code, value| libc::sock_filter { code, jt: 0, jf: 0, k: value };
        let jump = |value, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k: value };
        let mut program = [
            // The number of the call; if it is this one: an error, else go on.
            statement(0x20, 0),
            jump(libc::SYS_membarrier as u32, 1),
            statement(0x06, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
            statement(0x06, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: of this process alone, which is a child made for it.
        let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        // SAFETY: it reads the filter, and concerns this process alone.
        let done = promised && unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &filter) } == 0;
        assert!(done, "{}", std::io::Error::last_os_error());
        // SAFETY: a query.
        assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) }, -1);
    }

    /// Fences stand in for it.
    #[test]
    fn without_the_systems_barrier_all_is_as_with_it() {
        if !alone("filtered::without_the_systems_barrier_all_is_as_with_it") {
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

    /// A cursor with a window, at a manager that has chosen its barrier, when that is taken away; and whether there was one.
    fn cursor_that_loses_the_barrier(maps: &MapManager, data: &TestFile) -> (Cursor, bool) {
        let mut cursor = maps.open(&data.path).unwrap().cursor();
        cursor.window_at(0).unwrap();
        // SAFETY: a query.
        let had_one = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) } > 0;
        forbid_membarrier();
        (cursor, had_one)
    }

    /// A filter that comes when the choice is made: as long as there is a cursor nothing can be unmapped, since nobody can know
    /// what it reads; and all is read all the same.
    #[test]
    fn a_barrier_that_is_taken_away_costs_no_byte() {
        if !alone("filtered::a_barrier_that_is_taken_away_costs_no_byte") {
            return;
        }
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 6);
        let maps = manager(windows(8));
        let (mut cursor, had_one) = cursor_that_loses_the_barrier(&maps, &data);
        read_under_pressure(&maps, &data, 4, 1_000);
        let stats = maps.stats();
        assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        if had_one {
            assert_eq!((stats.unmaps, maps.collect().regions), (0, 0), "unmapped, and who knows under whom");
        }
        assert_same(cursor.slice(0..WINDOW).unwrap(), &data[..WINDOW as usize], "what it holds");
        drop(cursor);
        maps.collect();
        assert_eq!(maps.stats().regions, 0);
    }

    /// The same where the budget may be passed: then what is mapped grows, as long as that lasts, and no longer.
    #[test]
    fn a_barrier_that_is_taken_away_lets_what_is_mapped_grow() {
        if !alone("filtered::a_barrier_that_is_taken_away_lets_what_is_mapped_grow") {
            return;
        }
        let dir = Dir::new();
        let data = dir.file("data", WINDOWS * WINDOW, 11);
        let maps = manager(windows(8).overcommit(Overcommit::Allow));
        let (mut cursor, had_one) = cursor_that_loses_the_barrier(&maps, &data);
        for start in (0..WINDOWS).map(|window| window * WINDOW) {
            let window = cursor.window_at(start).unwrap();
            assert_same(window, &data[start as usize..(start + WINDOW) as usize], start);
        }
        let stats = maps.stats();
        if had_one {
            assert_eq!((stats.mapped_bytes, stats.unmaps), (WINDOWS * WINDOW, 0), "{stats:?}");
            assert_eq!(stats.overcommits, WINDOWS - 8, "{stats:?}");
        } else {
            assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
        }
        drop(cursor);
        assert!(settles(|| maps.stats().mapped_bytes <= 8 * WINDOW), "{:?}", maps.stats());
    }
}

/// A cursor notes where windows were mapped. They may be mapped elsewhere when it comes back.
#[test]
fn a_window_that_was_mapped_elsewhere_meanwhile_is_one_hit_and_has_its_bytes() {
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
    // In another order, so not all of them where they were.
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
