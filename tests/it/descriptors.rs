//! Descriptors: the limit `max_open_files`, and files whose descriptor was closed to stay within it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Change, ErrorKind, Limits, MapManager, Overcommit};

use crate::fixture::seeded::{SMALL, SOON, assert_bytes, assert_reads, file_in, poll, small, visit};
use crate::support::{Dir, manager};

/// Reads 300 files in turn with at most eight descriptors, as for a large repository where Python's smmap fails with
/// EMFILE.
///
/// The test binary `tests/limits.rs` does this with a limit of the OS.
#[test]
fn max_open_files_with_300_files_in_use_is_kept() {
    const FILES: u16 = 300;
    let dir = Dir::new();
    let maps = manager(small().max_open_files(8).max_regions(16));
    let mut handles = Vec::new();
    for index in 0..FILES {
        let seed = index as u8;
        let file = maps.open(file_in(&dir, &format!("object-{index}"), seed, 3000)).unwrap();
        assert_reads(&file, seed, 5, 100);
        handles.push(file);
        if index % 16 == 0 {
            let (open, kernel) = (maps.stats().open_files, dir.descriptors());
            assert!(open <= 8, "after {index} files: {open} are open");
            assert!(kernel.unwrap_or(0) <= 8, "after {index} files: {kernel:?} descriptors");
        }
    }
    for (index, file) in handles.iter().enumerate().rev() {
        assert_reads(file, index as u8, 1000, 2000);
        visit(file, SMALL, index as u8, 0..1);
    }
    let stats = maps.stats();
    assert_eq!(stats.files, usize::from(FILES), "{stats:?}");
    assert!(stats.peak_open_files <= 8, "{stats:?}");
    assert!(stats.peak_open_files > 0, "{stats:?}");
}

/// Lowers `max_open_files` of a running cache. Descriptors are closed; the handles stay usable.
#[test]
fn lowered_max_open_files_is_reached() {
    let dir = Dir::new();
    let maps = manager(small());
    let files: Vec<_> =
        (0..20u8).map(|seed| maps.open(file_in(&dir, &format!("file-{seed}"), seed, 3000)).unwrap()).collect();
    files.iter().zip(0..).for_each(|(file, seed)| assert_reads(file, seed, 0, 100));
    assert_eq!(maps.stats().open_files, 20);
    maps.set_limits(Limits { max_open_files: 4, ..maps.limits() }).unwrap();
    poll(&maps, SOON, "open files within the lowered max_open_files", || {
        maps.stats().open_files <= 4 && dir.descriptors().is_none_or(|open| open <= 4)
    });
    files.iter().zip(0..).for_each(|(file, seed)| assert_reads(file, seed, 0, 3000));
    assert!(maps.stats().open_files <= 4);
    assert_eq!(maps.stats().files, 20);
}

/// Reads a file after its descriptor was closed. The cache reopens it by its path and finds the same file.
#[test]
fn closed_descriptor_is_reopened_by_its_path() {
    let dir = Dir::new();
    let maps = manager(small().max_open_files(1));
    let first = maps.open(file_in(&dir, "first", 33, 4 * SMALL)).unwrap();
    assert_reads(&first, 33, 0, 100);
    for index in 0..4u8 {
        let other = maps.open(file_in(&dir, &format!("other-{index}"), 40 + index, 2000)).unwrap();
        assert_reads(&other, 40 + index, 0, 2000);
        assert!(dir.descriptors().unwrap_or(1) <= 1);
        let at = u64::from(index);
        visit(&first, SMALL, 33, at..at + 1);
        assert_reads(&first, 33, at * SMALL + 17, 1000);
        assert_eq!(first.refresh().unwrap(), Change::Unchanged);
        assert!(dir.descriptors().unwrap_or(1) <= 1);
    }
    let stats = maps.stats();
    assert!(stats.open_files <= 1, "{stats:?}");
    assert_eq!(stats.peak_open_files, 1, "{stats:?}");
}

/// Replaces a file after its descriptor was closed. Reads that need the descriptor fail with `Replaced` and never
/// return the bytes of the new file.
#[cfg(unix)]
#[test]
fn closed_descriptor_is_never_reopened_as_another_file() {
    let dir = Dir::new();
    let path = file_in(&dir, "a", 34, 8 * SMALL);
    let maps = manager(small().max_open_files(1));
    let old = maps.open(&path).unwrap();
    assert_reads(&old, 34, 0, 100);
    let mapped = old.lease(0..SMALL).unwrap();
    for index in 0..16u8 {
        let other = maps.open(file_in(&dir, &format!("b-{index}"), 100 + index, 2000)).unwrap();
        assert_reads(&other, 100 + index, 0, 2000);
    }
    // Until now the path led to the file, so its descriptor could be closed.
    fs::rename(file_in(&dir, "new", 35, 8 * SMALL), &path).unwrap();

    let mut cursor = old.cursor();
    let mut buffer = old.buffer();
    for offset in (1..8).map(|index| index * SMALL) {
        let mut copy = vec![0; 4096];
        let reads = [
            old.read_exact_at(&mut copy, offset).map(|()| copy),
            old.lease(offset..offset + SMALL).map(|lease| lease.to_vec()),
            cursor.window_at(offset).map(<[u8]>::to_vec),
            buffer.slice(offset..offset + 10).map(<[u8]>::to_vec),
        ];
        for (way, read) in reads.into_iter().enumerate() {
            match read {
                Ok(found) => assert_bytes(&found, 34, offset),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Replaced, "way {way}: {error:?}");
                    assert_eq!(error.path(), Some(&*path));
                }
            }
        }
    }
    // `refresh` reports the replacement as a change or as an error.
    match old.refresh() {
        Ok(change) => assert_eq!(change, Change::Replaced),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Replaced, "{error:?}"),
    }
    assert_bytes(&mapped, 34, 0);
    let new = maps.open(&path).unwrap();
    visit(&new, SMALL, 35, 0..8);
    assert_reads(&new, 35, 0, 10_000);
    assert_bytes(&mapped, 34, 0);
}

/// Reads a deleted file while 32 other files need the only descriptor of `max_open_files`. The descriptor of a file
/// that cannot be reopened by its path is never closed.
#[cfg(unix)]
#[test]
fn descriptor_of_a_deleted_file_is_never_closed() {
    let dir = Dir::new();
    let path = file_in(&dir, "unlinked", 18, 32 * SMALL);
    let maps = manager(small().max_open_files(1).max_regions(4));
    let file = maps.open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut others = Vec::new();
    for index in 0..32u8 {
        let other = maps.open(file_in(&dir, &format!("other-{index}"), 100 + index, 2000)).unwrap();
        assert_reads(&other, 100 + index, 0, 2000);
        visit(&other, SMALL, 100 + index, 0..1);
        others.push(other);
        // A part of the deleted file that was neither mapped nor read before.
        let fresh = u64::from(index) * SMALL;
        assert_reads(&file, 18, fresh + 10, 4096);
        visit(&file, SMALL, 18, u64::from(index)..u64::from(index) + 1);
    }
    // A new file under the old name does not affect the handle.
    file_in(&dir, "unlinked", 19, 32 * SMALL);
    for (index, other) in (0..32u8).zip(&others) {
        assert_reads(other, 100 + index, 0, 2000);
        assert_reads(&file, 18, u64::from(index) * SMALL, 100);
    }
    // After its last handle is dropped, the descriptor can be closed.
    drop(file);
    for (index, other) in (0..32u8).zip(&others) {
        assert_reads(other, 100 + index, 0, 2000);
    }
    maps.collect();
    poll(&maps, SOON, "open files within max_open_files", || maps.stats().open_files <= 1);
}

/// Reads a file whose path now leads to another one, while 16 other files need the only descriptor of `max_open_files`.
/// The descriptor is never closed.
#[cfg(unix)]
#[test]
fn descriptor_of_a_replaced_file_is_never_closed() {
    let dir = Dir::new();
    let path = file_in(&dir, "replaced", 20, 16 * SMALL);
    let maps = manager(small().max_open_files(1).max_regions(4));
    let file = maps.open(&path).unwrap();
    fs::rename(file_in(&dir, "new", 21, 16 * SMALL), &path).unwrap();
    for index in 0..16u8 {
        let other = maps.open(file_in(&dir, &format!("other-{index}"), 100 + index, 2000)).unwrap();
        assert_reads(&other, 100 + index, 0, 2000);
        visit(&file, SMALL, 20, u64::from(index)..u64::from(index) + 1);
        assert_reads(&file, 20, u64::from(index) * SMALL, 1000);
    }
    visit(&maps.open(&path).unwrap(), SMALL, 21, 0..16);
}

/// Opens an open file again when `max_open_files` allows no second descriptor.
#[test]
fn open_of_an_open_file_needs_no_second_descriptor() {
    let dir = Dir::new();
    let (one, other) = (dir.file("one", 100, 1), dir.file("other", 100, 2));
    let maps = manager(MapManager::builder().max_open_files(1).overcommit(Overcommit::Fail));
    let nameless = maps.open_file(one.descriptor()).unwrap();
    let named = maps.open(&one.path).unwrap();
    assert_eq!((maps.stats().open_files, maps.stats().files), (1, 1));
    drop(nameless);
    assert_eq!(&named.lease(..).unwrap()[..], &one.bytes[..]);
    OpenOptions::new().append(true).open(&one.path).unwrap().write_all(b"more").unwrap();
    assert_eq!(maps.open(&one.path).unwrap().len(), 104, "the second open did not see the new length");
    drop(named);
    assert_eq!(&maps.open(&other.path).unwrap().lease(..).unwrap()[..], &other.bytes[..]);
}

/// Copies bytes of a file while another thread waits to open a descriptor of it. The copying read returns at once.
#[test]
fn copying_read_while_another_thread_waits_for_a_descriptor_does_not_wait() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let dir = Dir::new();
    let (named, nameless) = (dir.file("named", 100, 1), dir.file("nameless", 100, 2));
    let maps = manager(MapManager::builder().max_open_files(1).overcommit(Overcommit::Wait(PATIENCE)));
    let named = maps.open(&named.path).unwrap();
    // Closes the descriptor of `named`, which can be reopened, and never closes its own, which has no path.
    let nameless = maps.open_file(nameless.descriptor()).unwrap();

    let began = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| named.cursor().window_at(0).map(<[u8]>::len));
        thread::sleep(Duration::from_millis(100));
        named.read_exact_at(&mut [0; 10], 0).unwrap();
        assert!(began.elapsed() < PATIENCE / 2, "the copying read waited for the descriptor");
        drop(nameless);
        assert_eq!(waiting.join().unwrap().unwrap(), 100);
    });
    assert!(began.elapsed() < PATIENCE / 2, "the thread waited although the descriptor was closed");
}
