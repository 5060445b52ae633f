//! The threads of a manager: their signals, a refused thread, and a manager without any.
//!
//! Linux only: the tests look at the threads in /proc. Each runs in a process of its own.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "installs seccomp filters")]

#[path = "it/support.rs"]
mod support;

use std::fs;
use std::time::Duration;

use smmap::{Admission, Change, ErrorKind, MapManager, MapManagerBuilder, Overcommit, Window};
use support::{Dir, Rng, alone, assert_same, collector_threads, manager, settles, threads};

const WINDOW: u64 = 64 << 10;

fn windows(in_budget: u64) -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: WINDOW })
        .admission(Admission::Always)
        .max_mapped_bytes(in_budget * WINDOW)
}

/// Returns the signals that a thread blocks: bit n − 1 is signal n.
fn blocked_signals(thread: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

#[test]
fn collector_blocks_all_signals() {
    if !alone("collector_blocks_all_signals") {
        return;
    }
    // SAFETY: only returns a number.
    let this = unsafe { libc::syscall(libc::SYS_gettid) }.to_string();
    let before = blocked_signals(&this);
    let _maps = manager(MapManager::builder());
    assert_eq!(blocked_signals(&this), before, "the mask of the calling thread changed");
    // A new thread has its name after a moment.
    assert!(settles(|| collector_threads() == Some(1)));
    let name = |thread: &str| fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap();
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name().into_string().unwrap());
    let collector = tasks.into_iter().find(|task| name(task).starts_with("smmap-collector")).expect("the thread runs");
    // No thread can block these two. The C library keeps 32 and 33 for itself.
    let unblockable = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1) | 1 << 31 | 1 << 32;
    assert_eq!(blocked_signals(&collector) | unblockable, u64::MAX);
}

/// Makes the OS refuse new threads to the calling thread, as at the limit of processes.
fn forbid_threads() {
    let statement = |code, value| libc::sock_filter { code, jt: 0, jf: 0, k: value };
    let jump = |value, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k: value };
    let mut program = [
        // Load the number of the system call. `clone` and `clone3` fail with EAGAIN; every other call is allowed.
        statement(0x20, 0),
        jump(libc::SYS_clone as u32, 1, 0),
        jump(libc::SYS_clone3 as u32, 0, 1),
        statement(0x06, libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
        statement(0x06, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the flag affects this thread alone.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    // SAFETY: the call reads the filter, which outlives it, and affects this thread alone.
    let done = promised && unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) } == 0;
    assert!(done, "{}", std::io::Error::last_os_error());
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "the filter refuses no thread");
}

#[test]
fn refused_collector_thread_is_an_error_that_names_the_remedy() {
    if !alone("refused_collector_thread_is_an_error_that_names_the_remedy") {
        return;
    }
    let dir = Dir::new();
    let data = dir.file("data", 3 * WINDOW, 1);
    forbid_threads();
    // SAFETY: no file is read.
    let error = unsafe { MapManager::builder().build() }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let text = error.to_string();
    assert!(["thread", "ulimit -u", "collector(false)"].iter().all(|part| text.contains(part)), "{text}");
    let maps = manager(MapManager::builder().collector(false));
    assert_same(&maps.open(&data.path).unwrap().lease(..).unwrap(), &data, "without a thread");
}

/// Without a collector, readers evict, and unmap what cursors have left and what exceeds the budget.
#[test]
fn manager_without_collector_starts_no_thread_and_keeps_its_budget() {
    if !alone("manager_without_collector_starts_no_thread_and_keeps_its_budget") {
        return;
    }
    let dir = Dir::new();
    let data = dir.file("data", 64 * WINDOW, 2);
    let before = threads().expect("Linux has /proc");
    let maps = manager(windows(8).overcommit(Overcommit::Fail).collector(false));
    let file = maps.open(&data.path).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (file, data) = (&file, &data);
            scope.spawn(move || {
                let (mut rng, mut cursor) = (Rng::new(seed), file.cursor());
                for _ in 0..2_000 {
                    let start = rng.below(data.len() - 300);
                    let found = cursor.slice(start..start + 300).unwrap();
                    assert_same(found, &data[start as usize..start as usize + 300], start);
                }
            });
        }
    });
    let stats = maps.stats();
    assert!(stats.evictions > 500 && stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
    assert!(settles(|| threads() == Some(before)), "{:?} threads, {before} before", threads());
    assert_eq!(collector_threads(), Some(0));

    // The next call that maps unmaps the draining window that a cursor has left.
    maps.collect();
    let mut cursor = file.cursor();
    cursor.window_at(0).unwrap();
    assert_eq!(maps.close(&data.path).still_held, 1);
    cursor.window_at(WINDOW).unwrap();
    file.prefetch(2 * WINDOW..3 * WINDOW).unwrap();
    assert_eq!(maps.stats().regions, 2, "{:?}", maps.stats());
    drop((cursor, file, maps));
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

#[test]
fn manager_without_collector_returns_to_its_budget_at_the_next_mapping() {
    if !alone("manager_without_collector_returns_to_its_budget_at_the_next_mapping") {
        return;
    }
    let dir = Dir::new();
    let data = dir.file("data", 64 * WINDOW, 3);
    let maps = manager(windows(4).collector(false));
    let file = maps.open(&data.path).unwrap();
    let mut cursors: Vec<_> = (0..8).map(|_| file.cursor()).collect();
    for (window, cursor) in (0..).zip(&mut cursors) {
        cursor.window_at(window * WINDOW).unwrap();
    }
    assert_eq!((maps.stats().regions, maps.stats().overcommits), (8, 4));
    drop(cursors);
    file.prefetch(20 * WINDOW..21 * WINDOW).unwrap();
    assert!(maps.stats().regions <= 4, "{:?}", maps.stats());
    // The regions of a deleted file stay until the next `collect`.
    fs::remove_file(&data.path).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(maps.stats().regions > 0);
    assert_eq!(file.refresh().unwrap(), Change::Deleted);
    maps.collect();
    assert_eq!(maps.stats().regions, 0);
}
