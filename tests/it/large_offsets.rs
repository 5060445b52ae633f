//! Offsets above 4 GiB, which 32 bits cannot hold: a file of 8 GiB, read through windows of 4 MiB in a budget of 1 GiB.
//!
//! A 32-bit process has address space for this budget. `.ci/run` runs these tests for a 32-bit target too.
//!
//! The tests are for Unix only: elsewhere, the sparse file would occupy 8 GiB on disk.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;

use smmap::{Admission, ErrorKind, Lease, MapManager, MapManagerBuilder, MappedFile, Overcommit, Window};

use crate::support::{Dir, assert_same, manager, surely_mapped_below};

const GIB: u64 = 1 << 30;
const WINDOW: u64 = 4 << 20;
const BUDGET: u64 = GIB;
/// Length of the file. The last window is short.
const LEN: u64 = 8 * GIB + 4321;
const WINDOWS: u64 = LEN.div_ceil(WINDOW);
/// Length of a [`mark`] in bytes.
const MARK: u64 = 16;

/// Returns the bytes written at `offset`: the offset itself and its complement. A read at an offset that lost its upper
/// half finds other bytes.
fn mark(offset: u64) -> [u8; MARK as usize] {
    let mut mark = [0; MARK as usize];
    mark[..8].copy_from_slice(&offset.to_le_bytes());
    mark[8..].copy_from_slice(&(!offset).to_le_bytes());
    mark
}

/// Returns the offset of the mark in a window. It differs between windows and is away from the ends.
fn mark_of(window: u64) -> u64 {
    window * WINDOW + 100 + window * 1999 % (WINDOW.min(LEN - window * WINDOW) - 200)
}

/// Returns the offsets of more marks: across each multiple of a GiB, and at the end of the file.
fn corners() -> impl Iterator<Item = u64> {
    (1..=8).map(|border| border * GIB - MARK / 2).chain([LEN - MARK])
}

/// Creates a sparse file with all marks and returns its path.
fn marked_file(dir: &Dir) -> PathBuf {
    let path = dir.path().join("marked");
    let file = File::create(&path).unwrap();
    file.set_len(LEN).unwrap();
    for offset in (0..WINDOWS).map(mark_of).chain(corners()) {
        file.write_all_at(&mark(offset), offset).unwrap();
    }
    path
}

fn builder() -> MapManagerBuilder {
    MapManager::builder().max_mapped_bytes(BUDGET).overcommit(Overcommit::Fail).admission(Admission::Always)
}

fn small_windows() -> MapManager {
    let maps = manager(builder().window(Window::Sliding { bytes: WINDOW }));
    assert_eq!(maps.window_bytes(), Some(WINDOW));
    maps
}

#[track_caller]
fn assert_mark(found: &[u8], offset: u64, what: &str) {
    assert_same(found, &mark(offset), format!("{what} at {offset}"));
}

/// Panics unless the lease, which may be longer than the mark, has the mark of `offset`.
#[track_caller]
fn assert_mark_in(lease: &Lease, offset: u64, what: &str) {
    let at = (offset - lease.offset()) as usize;
    assert_mark(&lease[at..at + MARK as usize], offset, what);
}

/// Reads every window from four threads in a scattered order. The kernel never has more bytes mapped than the budget.
#[test]
fn reads_of_8_gib_in_4_mib_windows_stay_within_1_gib() {
    const THREADS: u64 = 4;
    let dir = Dir::new();
    let maps = small_windows();
    let file = maps.open(marked_file(&dir)).unwrap();
    assert_eq!(file.len(), LEN);

    let read = |thread: u64| {
        let mut cursor = file.cursor();
        let mut kept = Lease::default();
        let mut copies = 0;
        for step in (thread..WINDOWS).step_by(THREADS as usize) {
            let window = step * 1021 % WINDOWS;
            let (start, at) = (window * WINDOW, mark_of(window));
            let found = cursor.window_at(start).unwrap();
            assert_eq!(found.len() as u64, WINDOW.min(LEN - start), "window {window}");
            assert_mark(&found[(at - start) as usize..][..MARK as usize], at, "a window");

            if !kept.is_empty() {
                assert_mark(&kept, kept.offset(), "a kept lease");
            }
            kept = file.lease(at..at + MARK).unwrap();
            // The lease is a copy if an evicting thread has retired the cursor's window and not restored it yet.
            copies += u64::from(!kept.is_mapped());
            assert_eq!(kept.offset(), at);

            let mut copy = [0; MARK as usize];
            file.read_exact_at(&mut copy, at).unwrap();
            assert_mark(&copy, at, "a copy");
            if step % 64 == thread {
                let mapped = surely_mapped_below(dir.path()).unwrap_or_default();
                assert!(mapped <= BUDGET, "{mapped} bytes are mapped: {:?}", maps.stats());
            }
        }
        assert!(copies <= WINDOWS / THREADS / 20, "{copies} leases of the cursor's window are copies");
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let read = &read;
            scope.spawn(move || read(thread));
        }
    });

    let stats = maps.stats();
    let peak = stats.peak_mapped_bytes;
    assert!(peak > BUDGET / 2 && peak <= BUDGET, "the peak is above half the budget and within it: {stats:?}");
    // The collector counts an eviction after the unmap, once for each batch.
    assert!(stats.maps >= WINDOWS && stats.unmaps >= WINDOWS - BUDGET / WINDOW, "{stats:?}");
    assert!(stats.evictions > WINDOWS / 2, "{stats:?}");
    assert_eq!((stats.overcommits, stats.pinned_regions), (0, 0), "{stats:?}");
    maps.collect();
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0), "{:?}", maps.stats());
}

/// Reads marks on both sides of 4 GiB and across window borders by every public call.
#[test]
fn every_way_of_reading_beyond_4_gib_gives_the_right_bytes() {
    let dir = Dir::new();
    let path = marked_file(&dir);
    let maps = small_windows();
    let file = maps.open(&path).unwrap();

    let four_gib = 4 * GIB / WINDOW;
    let windows = [0, 1, 511, 512, four_gib - 1, four_gib, four_gib + 1, WINDOWS - 2, WINDOWS - 1];
    for at in windows.map(mark_of).into_iter().chain(corners()) {
        read_in_every_way(&file, at);
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes <= BUDGET), "{:?}", maps.stats());
    }

    // Iterates over windows from both ends. Skipped windows are not mapped.
    let mut all = file.windows();
    assert_eq!(all.len() as u64, WINDOWS);
    let mut window = four_gib - 2;
    let mut next = all.nth(window as usize);
    while window < four_gib + 3 {
        let lease = next.unwrap().unwrap();
        assert_eq!((lease.offset(), lease.len() as u64), (window * WINDOW, WINDOW));
        assert_mark_in(&lease, mark_of(window), "a window");
        (window, next) = (window + 1, all.next());
    }
    for window in [WINDOWS - 1, WINDOWS - 2] {
        let lease = all.next_back().unwrap().unwrap();
        assert_eq!(lease.offset(), window * WINDOW);
        assert_mark_in(&lease, mark_of(window), "a window from the end");
    }

    // The range crosses a window border and is too long for a copy, so the lease is a detached region.
    let border = 4 * GIB;
    let lease = file.lease(border - WINDOW..border + WINDOW).unwrap();
    assert!(lease.is_mapped());
    assert_eq!((lease.offset(), lease.len() as u64), (border - WINDOW, 2 * WINDOW));
    for at in [mark_of(four_gib - 1), border - MARK / 2, mark_of(four_gib)] {
        assert_mark_in(&lease, at, "across 4 GiB");
    }
    let part = lease.slice(WINDOW as usize - MARK as usize / 2..).slice(..MARK as usize);
    assert_eq!(part.offset(), border - MARK / 2);
    assert_mark(&part, border - MARK / 2, "a part of a lease");

    let end = LEN - 5..LEN + 1;
    let error = file.lease(end.clone()).unwrap_err();
    assert_eq!((error.kind(), error.range()), (ErrorKind::OutOfBounds, Some(end)));
    assert_eq!(file.read_at(&mut [0; 8], LEN).unwrap(), 0);
    assert!(maps.stats().peak_mapped_bytes <= BUDGET);
}

fn read_in_every_way(file: &MappedFile, at: u64) {
    let range = at..at + MARK;
    let mut copy = [0; MARK as usize];
    let count = file.read_at(&mut copy, at).unwrap();
    assert_same(&copy[..count], &mark(at)[..count], format!("read_at {at}"));
    assert!(count > 0);

    let mut cursor = file.cursor();
    assert_mark(cursor.slice(range.clone()).unwrap(), at, "a slice");
    let window = cursor.window_at(at).unwrap();
    let count = window.len().min(MARK as usize);
    assert_same(&window[..count], &mark(at)[..count], format!("the window at {at}"));

    for seek in [SeekFrom::Start(at), SeekFrom::End(at as i64 - LEN as i64), SeekFrom::Current(0)] {
        assert_eq!(cursor.seek(seek).unwrap(), at, "{seek:?}");
        copy.fill(0);
        cursor.read_exact(&mut copy).unwrap();
        assert_mark(&copy, at, "read");
        assert_eq!(cursor.position(), at + MARK);
        cursor.seek(SeekFrom::Current(-(MARK as i64))).unwrap();
    }
    let count = cursor.fill_buf().unwrap().len().min(3);
    assert_same(&cursor.fill_buf().unwrap()[..count], &mark(at)[..count], format!("fill_buf at {at}"));
    cursor.consume(count);
    assert_eq!(cursor.position(), at + count as u64);

    file.prefetch(range.clone()).unwrap();
    let lease = file.lease(range.clone()).unwrap();
    assert_eq!(lease.offset(), at);
    assert_mark(&lease, at, "a lease");

    let mut buffer = file.buffer();
    assert_eq!(buffer.len(), LEN);
    assert_mark(buffer.slice(range).unwrap(), at, "a slice of a buffer");
    for (index, byte) in (at..).zip(mark(at)) {
        assert_eq!(buffer.get(index).unwrap(), Some(byte), "byte {index}");
        assert_eq!(buffer.get_back(LEN - 1 - index).unwrap(), Some(byte), "byte {index}, by its distance from the end");
    }
    assert!(buffer.ends_with(&mark(LEN - MARK)).unwrap());
    assert_eq!(buffer.rfind(&mark(LEN - MARK)).unwrap(), Some(LEN - MARK));
    assert_eq!(buffer.get(LEN).unwrap(), None);
}

/// Reads the file with whole-file windows. The file exceeds the budget, and on 32 bit also the address space, whatever
/// the budget. Requests to map fail; copying reads succeed.
#[test]
fn file_too_large_to_map_whole_is_read_by_copies() {
    let dir = Dir::new();
    let path = marked_file(&dir);
    let boundless = (u64::MAX, Overcommit::Allow);
    let budgets = [(BUDGET, Overcommit::Fail), boundless];
    let refusing = if cfg!(target_pointer_width = "32") { &budgets[..] } else { &budgets[..1] };
    for &(bytes, overcommit) in refusing {
        let whole = builder().window(Window::WholeFile).admission(Admission::Adaptive);
        let maps = manager(whole.max_mapped_bytes(bytes).overcommit(overcommit));
        let file = maps.open(&path).unwrap();
        for at in corners() {
            let error = file.cursor().window_at(at).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}");
            let mut copy = [0; MARK as usize];
            file.read_exact_at(&mut copy, at).unwrap();
            assert_mark(&copy, at, "a copy");
            assert_mark(file.cursor().slice(at..at + MARK).unwrap(), at, "a slice");
            let lease = file.lease(at..at + MARK).unwrap();
            assert!(!lease.is_mapped());
            assert_mark(&lease, at, "a lease");
        }
        assert_eq!((maps.stats().maps, maps.stats().mapped_bytes), (0, 0));
    }
}
