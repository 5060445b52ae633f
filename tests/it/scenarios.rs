//! What users of such caches have suffered, each as a test.
//!
//! Nothing here knows how the cache is built: only the public interface is used, and, on Linux, what the kernel
//! itself says about this process (`/proc/self/maps`, `/proc/self/fd`), looked up by the files' names, because other
//! tests of the same process map files at the same time.
//!
//! Left out on purpose:
//! - *a file truncated under a map killed the process*: see `tests/fault_guard.rs`, which has processes of its own. Nothing
//!   here touches a mapped byte past the end of a shrunken file.
//! - *madvise on each lookup*: a cost, not a behaviour; the benches watch it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smmap::{
    Admission, Change, Collected, ErrorKind, Lease, Limits, MapManager, MapManagerBuilder, MappedFile, Overcommit,
    Revalidate, Window,
};

use crate::support::{self, Dir, Mapped, Rng, manager, pattern};

const MIB: u64 = 1 << 20;

/// A small window: a multiple of every platform's mapping granularity.
const SMALL: u64 = 64 << 10;

/// A window whose lease is never "small and cold" (256 KiB at most), so that it always maps.
const LARGE: u64 = MIB;

/// How long the collector may take for what it does by itself.
const SOON: Duration = Duration::from_secs(5);

/// How long the collector may take to notice that a file is gone.
#[cfg(unix)]
const STALE: Duration = Duration::from_secs(10);

/// Longer than a tick of any file system's clock, so that two changes have two times.
const TICK: Duration = Duration::from_millis(20);

// ---------------------------------------------------------------------------------------------------------------
// Files with known bytes
// ---------------------------------------------------------------------------------------------------------------

/// A part of the file of `seed`.
fn bytes(seed: u8, range: Range<u64>) -> Vec<u8> {
    support::bytes(seed.into(), range.end).split_off(range.start as usize)
}

/// Whether `found` are the bytes of `seed` from `offset` on: all of them if they are few, else the ends and a
/// sample between them.
fn has_bytes(found: &[u8], seed: u8, offset: u64) -> bool {
    let last = found.len().saturating_sub(1);
    let step = if found.len() < 4096 { 1 } else { 61 };
    let sample = (0..found.len()).step_by(step).chain((!found.is_empty()).then_some(last));
    sample.into_iter().all(|at| found[at] == pattern(seed.into(), offset + at as u64))
}

#[track_caller]
fn assert_bytes(found: &[u8], seed: u8, offset: u64) {
    assert!(has_bytes(found, seed, offset), "wrong bytes at offset {offset}, expected those of seed {seed}");
}

/// Creates `name` with `len` bytes of `seed`.
fn file_in(dir: &Dir, name: &str, seed: u8, len: u64) -> PathBuf {
    dir.file(name, len, seed.into()).path
}

fn small() -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: SMALL })
        .max_mapped_bytes(64 * MIB)
        .max_regions(1024)
        .max_open_files(256)
        .admission(Admission::Always)
}

fn large() -> MapManagerBuilder {
    small().window(Window::Sliding { bytes: LARGE })
}

/// Maps the windows with these indices, one after the other, and leaves them unused.
#[track_caller]
fn visit(file: &MappedFile, window: u64, seed: u8, windows: Range<u64>) {
    let mut cursor = file.cursor();
    for index in windows {
        let offset = index * window;
        let found = cursor.window_at(offset).expect("map a window");
        assert!(!found.is_empty(), "window {index} is empty");
        assert_bytes(found, seed, offset);
    }
}

#[track_caller]
fn assert_reads(file: &MappedFile, seed: u8, offset: u64, len: usize) {
    let mut copy = vec![0; len];
    file.read_exact_at(&mut copy, offset).expect("a copying read");
    assert_bytes(&copy, seed, offset);
}

// ---------------------------------------------------------------------------------------------------------------
// What the system says
// ---------------------------------------------------------------------------------------------------------------

/// What the kernel has mapped of the files in `dir`; `None` where nobody tells.
fn mapped(dir: &Dir) -> Option<Mapped> {
    dir.mapped()
}

/// Waits until `done`, or fails with `what` and the last state after `limit`.
#[track_caller]
fn poll(maps: &MapManager, limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}; {:?}", maps.stats());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The kernel has mapped of `dir` what the cache says it has mapped in all.
#[track_caller]
fn poll_kernel_agrees(maps: &MapManager, dir: &Dir) {
    poll(maps, SOON, "the kernel's mapped bytes equal the cache's", || {
        mapped(dir).is_none_or(|mapped| mapped.bytes == maps.stats().mapped_bytes)
    });
}

// ---------------------------------------------------------------------------------------------------------------
// Threads
// ---------------------------------------------------------------------------------------------------------------

/// smmap issue 24: a thread pool over one manager made the client counts go negative.
#[test]
fn a_thread_pool_over_one_manager_keeps_the_client_counts_whole() {
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
                let gone = held.swap_remove((dice.below(4)) as usize);
                assert_bytes(&gone, 3, gone.offset());
            }
            if round % 64 == 0 {
                // A count below zero is a huge one.
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
    poll(&maps, SOON, "all is unmapped once nobody holds anything", || {
        maps.collect();
        maps.stats().regions == 0
    });
    let stats = maps.stats();
    assert_eq!(stats.mapped_bytes, 0, "{stats:?}");
    assert_eq!(stats.maps, stats.unmaps, "{stats:?}");
    assert!(stats.maps > 0 && stats.hits > 0, "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// libgit2 5591: use after free between threads, with low window limits.
#[test]
fn low_window_limits_never_unmap_under_another_thread() {
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
                    // Held across a chance for the others to evict: still there, still right.
                    assert_bytes(window, other, start);
                    thread::yield_now();
                    assert_eq!(&*lease, bytes(seed, offset..offset + 4096));
                    assert_bytes(window, other, start);
                }
            });
        }
    });

    let stats = maps.stats();
    assert!(stats.evictions > 0, "there was no pressure: {stats:?}");
    assert_eq!(stats.pinned_regions, 0, "{stats:?}");
    poll(&maps, SOON, "back inside the limits", || {
        let stats = maps.stats();
        stats.mapped_bytes <= 2 * SMALL && stats.regions <= 2
    });
}

// ---------------------------------------------------------------------------------------------------------------
// Maps and descriptors are few
// ---------------------------------------------------------------------------------------------------------------

/// "47,336 live maps, ENOMEM with 22 GiB free": as many windows, and only a handful of them mapped at any moment.
/// (`limits.rs` goes up to the system's own limit.)
#[cfg(unix)]
#[test]
fn many_windows_never_make_many_maps() {
    const WINDOWS: u64 = 47_336;
    const MAPPED: usize = 32;

    let dir = Dir::new();
    let path = dir.path().join("sparse");
    fs::File::create(&path).unwrap().set_len(WINDOWS * SMALL).unwrap();
    let maps = manager(small().max_mapped_bytes(64 << 30).max_regions(MAPPED));
    let file = maps.open(&path).unwrap();

    let mut cursor = file.cursor();
    for index in 0..WINDOWS {
        assert_eq!(cursor.window_at(index * SMALL).unwrap().len() as u64, SMALL);
        if index % 4_000 == 0 {
            let live = mapped(&dir).unwrap_or_default();
            assert!(live.areas <= MAPPED, "{live:?} at window {index}");
        }
    }
    let stats = maps.stats();
    assert!(stats.maps >= WINDOWS, "{stats:?}");
    assert!(stats.peak_regions <= MAPPED, "{stats:?}");
    let live = mapped(&dir).unwrap_or_default();
    assert!(live.areas <= MAPPED && live.bytes <= MAPPED as u64 * SMALL, "{live:?}");
}

/// The same with one map per file: 200 small files (loose objects, small packs) and `max_regions` below that.
#[test]
fn many_small_files_keep_to_max_regions() {
    let dir = Dir::new();
    let maps = manager(small().max_regions(7));
    let mut handles = Vec::new();
    for index in 0..200u8 {
        let file = maps.open(file_in(&dir, &format!("loose-{index}"), index, 1000)).unwrap();
        visit(&file, SMALL, index, 0..1);
        handles.push(file);
        let stats = maps.stats();
        assert!(stats.regions <= 7, "after {index} files: {stats:?}");
    }
    // And once more through the handles, which all go on working.
    for (index, file) in (0..200u8).zip(&handles) {
        assert_bytes(&file.lease(..).unwrap(), index, 0);
    }
    let stats = maps.stats();
    assert!(stats.peak_regions <= 7, "{stats:?}");
    assert!(stats.peak_regions > 1, "nothing is cached at all: {stats:?}");
    assert!(stats.evictions >= 193, "{stats:?}");
    assert_eq!(stats.overcommits, 0, "{stats:?}");
}

/// EMFILE inside smmap on a large repository: many more files than descriptors, all of them in use.
/// (`limits.rs` does it with a hard limit of the system.)
#[test]
fn many_files_keep_to_max_open_files() {
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

// ---------------------------------------------------------------------------------------------------------------
// What is mapped is what is counted
// ---------------------------------------------------------------------------------------------------------------

/// OpenSearch 18226: 246,000 of 252,000 maps belonged to deleted files. The collector lets the unused regions of
/// deleted and of replaced files go by itself: nobody reads, nobody collects, there is no pressure.
#[cfg(unix)]
#[test]
fn the_collector_drops_unused_regions_of_deleted_and_replaced_files() {
    const FILES: u8 = 20;
    let dir = Dir::new();
    let maps = manager(small());

    let live = maps.open(file_in(&dir, "live", 200, 2 * SMALL)).unwrap();
    visit(&live, SMALL, 200, 0..2);
    let held = {
        let file = maps.open(file_in(&dir, "held", 201, SMALL)).unwrap();
        file.lease(..).unwrap()
    };
    let mut handles = Vec::new();
    for index in 0..FILES {
        let file = maps.open(file_in(&dir, &format!("segment-{index}"), index, 2 * SMALL)).unwrap();
        visit(&file, SMALL, index, 0..2);
        if index % 4 < 2 {
            handles.push((index, file)); // of the others nothing is left but their regions
        }
    }
    assert_eq!(maps.stats().regions, 3 + 2 * usize::from(FILES));

    fs::remove_file(dir.path().join("held")).unwrap();
    for index in 0..FILES {
        let path = dir.path().join(format!("segment-{index}"));
        if index % 2 == 0 {
            fs::remove_file(&path).unwrap();
        } else {
            let new = file_in(&dir, "new", 100 + index, 2 * SMALL);
            fs::rename(new, &path).unwrap();
        }
    }
    poll(&maps, STALE, "only the live file's and the held region are left", || maps.stats().regions == 3);
    assert_eq!(maps.stats().mapped_bytes, 3 * SMALL);
    poll(&maps, STALE, "files without handles and regions are forgotten", || maps.stats().files <= 2 + handles.len());

    // The live file was left alone, the held bytes and the handles are as good as ever.
    let before = maps.stats().maps;
    visit(&live, SMALL, 200, 0..2);
    assert_eq!(maps.stats().maps, before, "the live file had to be mapped again");
    assert_bytes(&held, 201, 0);
    for (index, file) in &handles {
        visit(file, SMALL, *index, 0..2);
    }
}

/// Evicting an entry did not unmap it, because somebody held the `Arc`: the budget was fiction.
/// Here what is unused is unmapped, as the kernel sees it, …
#[test]
fn an_evicted_window_is_unmapped() {
    const BUDGET: u64 = 4 * SMALL;
    let dir = Dir::new();
    let path = file_in(&dir, "evicted", 5, 64 * SMALL);
    let maps = manager(small().max_mapped_bytes(BUDGET));
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    for index in 0..64 {
        assert_bytes(cursor.window_at(index * SMALL).unwrap(), 5, index * SMALL);
        let stats = maps.stats();
        assert!(stats.mapped_bytes <= BUDGET, "{stats:?}");
        let mapped = mapped(&dir).unwrap_or_default().bytes;
        assert!(mapped <= BUDGET, "the kernel has {mapped} bytes mapped, {stats:?}");
    }
    let stats = maps.stats();
    assert!(stats.evictions >= 60, "{stats:?}");
    assert!(stats.peak_mapped_bytes <= BUDGET, "{stats:?}");
    assert!(stats.peak_mapped_bytes > SMALL, "nothing is cached at all: {stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// … and what is still held when its entry goes is still counted, until it is unmapped.
#[test]
fn what_is_held_past_its_entry_is_still_counted() {
    let dir = Dir::new();
    let path = file_in(&dir, "held", 6, 8 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 6, 0..8);
    let first = file.lease(0..SMALL).unwrap();
    let third = file.lease(2 * SMALL..3 * SMALL).unwrap();
    maps.close(&path);
    drop(file);

    assert_eq!(maps.stats().mapped_bytes, 2 * SMALL);
    assert_eq!(maps.stats().regions, 2);
    poll_kernel_agrees(&maps, &dir);
    drop(first);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    assert_bytes(&third, 6, 2 * SMALL);
    drop(third);
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.regions), (0, 0), "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// A group of regions counted as one stayed mapped because of one reader: a reader of one region keeps that one only.
#[test]
fn one_reader_keeps_one_region_mapped() {
    let dir = Dir::new();
    let path = file_in(&dir, "group", 7, 16 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    let fifteen = Collected { regions: 15, bytes: 15 * SMALL };

    // By a lease, even of one byte.
    visit(&file, SMALL, 7, 0..16);
    let byte = file.lease(5 * SMALL..5 * SMALL + 1).unwrap();
    assert!(byte.is_mapped());
    assert_eq!(maps.stats().pinned_regions, 1);
    assert_eq!(maps.stats().pinned_bytes, SMALL);
    assert_eq!(maps.collect(), fifteen);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    poll_kernel_agrees(&maps, &dir);
    assert_bytes(&byte, 7, 5 * SMALL);
    drop(byte);

    // By a cursor that stands in a window.
    visit(&file, SMALL, 7, 0..16);
    let mut cursor = file.cursor();
    let window = cursor.window_at(9 * SMALL).unwrap();
    assert_eq!(maps.stats().pinned_regions, 1);
    assert_eq!(maps.collect(), fifteen);
    assert_bytes(window, 7, 9 * SMALL);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    cursor.release();
    assert_eq!(maps.stats().pinned_regions, 0);
    maps.collect(); // or the collector, if it was faster
    poll(&maps, SOON, "the last region goes", || maps.stats().mapped_bytes == 0);
    assert_eq!(maps.collect(), Collected::default());
}

// ---------------------------------------------------------------------------------------------------------------
// Which file is it, and has it changed?
// ---------------------------------------------------------------------------------------------------------------

/// Inode numbers are reused as soon as nobody holds the file: a new file never gets an old one's bytes.
#[cfg(unix)]
#[test]
fn a_reused_inode_never_serves_the_old_bytes() {
    use std::os::unix::fs::MetadataExt as _;
    const LEN: u64 = SMALL + 1234;
    let dir = Dir::new();
    let maps = manager(small());
    let mut reused = 0;
    for round in 0..200u32 {
        let old = file_in(&dir, &format!("a-{round}"), 1, LEN);
        let inode = fs::metadata(&old).unwrap().ino();
        let first = maps.open(&old).unwrap();
        visit(&first, SMALL, 1, 0..2);
        match round % 4 {
            0 => {
                drop(first);
                maps.close(&old);
                fs::remove_file(&old).unwrap();
            }
            1 => {
                drop(first);
                fs::remove_file(&old).unwrap();
                maps.collect();
            }
            2 => {
                fs::remove_file(&old).unwrap();
                drop(first); // its regions stay for now, and keep the inode
            }
            _ => {
                fs::remove_file(&old).unwrap();
                maps.collect();
                drop(first);
            }
        }
        // Under its own name and under the old one.
        let name = if round % 8 < 4 { "a" } else { "b" };
        let new = file_in(&dir, &format!("{name}-{round}"), 2, LEN);
        reused += usize::from(fs::metadata(&new).unwrap().ino() == inode);
        let second = maps.open(&new).unwrap();
        assert_eq!(second.len(), LEN);
        visit(&second, SMALL, 2, 0..2);
        assert_reads(&second, 2, 0, LEN as usize);
        assert_bytes(&second.lease(100..5000).unwrap(), 2, 100);
        drop(second);
        maps.close(&new);
        fs::remove_file(&new).unwrap();
    }
    eprintln!("{reused} of 200 inodes were reused");
}

/// The same where nothing keeps the inode but a handle whose descriptor was given up for `max_open_files`: the new
/// file gets its own bytes, and the old handle may fail, but never gives the new file's.
#[cfg(unix)]
#[test]
fn a_reused_inode_is_no_way_into_another_file() {
    let dir = Dir::new();
    let maps = manager(small().max_open_files(1));
    let other = maps.open(file_in(&dir, "other", 9, SMALL)).unwrap();
    for round in 0..40 {
        let path = file_in(&dir, "a", 1, SMALL);
        let first = maps.open(&path).unwrap();
        visit(&first, SMALL, 1, 0..1);
        assert_reads(&other, 9, 0, 10);
        visit(&other, SMALL, 9, 0..1);
        maps.collect();
        fs::remove_file(&path).unwrap();
        thread::sleep(TICK);

        let new = file_in(&dir, "b", 2, SMALL);
        let second = maps.open(&new).unwrap();
        visit(&second, SMALL, 2, 0..1);
        assert_reads(&second, 2, 7, 1000);

        let mut copy = [0; 100];
        match first.read_exact_at(&mut copy, 50) {
            Ok(()) => assert_bytes(&copy, 1, 50),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Replaced | ErrorKind::Io), "round {round}: {error:?}")
            }
        }
        if let Ok(found) = first.cursor().window_at(0) {
            assert_bytes(found, 1, 0);
        }
        drop((first, second));
        fs::remove_file(&new).unwrap();
        maps.collect();
    }
    assert_reads(&other, 9, 0, 1000);
}

/// A hard link or a chmod changes the file's ctime, but not the file.
#[cfg(unix)]
#[test]
fn a_hard_link_or_chmod_is_no_change() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Dir::new();
    let path = file_in(&dir, "linked", 11, 4 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 11, 0..4);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);

    thread::sleep(TICK);
    fs::hard_link(&path, dir.path().join("link")).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "a hard link");
    thread::sleep(TICK);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "a chmod");
    thread::sleep(TICK);
    fs::remove_file(dir.path().join("link")).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "a link gone");

    // Nor did opening it again, by whatever name, cost a map.
    fs::hard_link(&path, dir.path().join("again")).unwrap();
    visit(&maps.open(dir.path().join("again")).unwrap(), SMALL, 11, 0..4);
    visit(&file, SMALL, 11, 0..4);
    let stats = maps.stats();
    assert_eq!((stats.maps, stats.regions, stats.files), (4, 4, 1), "{stats:?}");
}

/// An append is growth, not a new file: the entry stays, and so does every lease.
#[test]
fn an_append_is_growth() {
    const OLD: u64 = 2 * SMALL + 777;
    const NEW: u64 = 5 * SMALL + 99;
    let dir = Dir::new();
    let path = file_in(&dir, "log", 12, OLD);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 12, 0..3);
    let tail = file.lease(2 * SMALL..OLD).unwrap();
    let mut cursor = file.cursor();
    assert_eq!(cursor.window_at(2 * SMALL).unwrap().len(), 777);

    thread::sleep(TICK);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&bytes(12, OLD..NEW)).unwrap();
    drop(log);
    assert_eq!(file.refresh().unwrap(), Change::Grown);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);

    assert_eq!(file.len(), NEW);
    assert_eq!(tail.len(), 777);
    assert_bytes(&tail, 12, 2 * SMALL);
    // The window that the old end was in goes further now; a cursor that stood in it gets on from there too.
    assert_eq!(file.cursor().window_at(2 * SMALL).unwrap().len() as u64, SMALL);
    assert!(cursor.window_at(2 * SMALL).unwrap().len() >= 777);
    let rest = cursor.window_at(OLD).unwrap();
    assert_eq!(rest.len() as u64, 3 * SMALL - OLD);
    assert_bytes(rest, 12, OLD);
    let across = OLD - 10..OLD + 10;
    assert_eq!(cursor.slice(across.clone()).unwrap(), bytes(12, across.clone()));
    assert_eq!(&*file.lease(across.clone()).unwrap(), bytes(12, across));
    visit(&file, SMALL, 12, 0..6);
    assert_reads(&file, 12, 0, NEW as usize);
    // It is the same file.
    let again = maps.open(&path).unwrap();
    assert_eq!(again.len(), NEW);
    assert_eq!(maps.stats().files, 1);
    assert_bytes(&tail, 12, 2 * SMALL);
    drop((tail, cursor));
    poll(&maps, SOON, "all is unmapped once nobody holds anything", || {
        maps.collect();
        maps.stats().regions == 0
    });
}

/// A file that has grown is seen as it is by whoever opens it, `refresh` or not.
#[test]
fn opening_a_grown_file_sees_its_growth() {
    let dir = Dir::new();
    let path = file_in(&dir, "log", 13, 1000);
    let maps = manager(small());
    let old = maps.open(&path).unwrap();
    visit(&old, SMALL, 13, 0..1);
    thread::sleep(TICK);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&bytes(13, 1000..3 * SMALL)).unwrap();
    drop(log);
    let new = maps.open(&path).unwrap();
    assert_eq!(new.len(), 3 * SMALL);
    visit(&new, SMALL, 13, 0..3);
    assert_eq!(maps.stats().files, 1);
    assert_reads(&old, 13, 0, 1000);
}

/// Rewritten in place, at the same length: `refresh` tells, and what is read afterwards is new.
#[test]
fn a_rewrite_in_place_is_noticed() {
    let dir = Dir::new();
    let path = file_in(&dir, "rewritten", 14, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 14, 0..2);
    thread::sleep(TICK);
    let mut again = OpenOptions::new().write(true).open(&path).unwrap();
    again.write_all(&bytes(15, 0..2 * SMALL)).unwrap();
    drop(again);
    assert_eq!(file.refresh().unwrap(), Change::Modified);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
    visit(&file, SMALL, 15, 0..2);
    assert_reads(&file, 15, 0, 1000);
    assert_eq!(maps.stats().files, 1);
}

/// The time of modification can be set back; the time of change cannot.
#[cfg(unix)]
#[test]
fn a_rewrite_that_sets_its_time_back_is_noticed() {
    let dir = Dir::new();
    let path = file_in(&dir, "backdated", 14, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 14, 0..2);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    thread::sleep(TICK);
    let mut again = OpenOptions::new().write(true).open(&path).unwrap();
    again.write_all(&bytes(15, 0..2 * SMALL)).unwrap();
    again.set_modified(before).unwrap();
    drop(again);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    assert_eq!(file.refresh().unwrap(), Change::Modified);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
    visit(&file, SMALL, 15, 0..2);
}

/// Who says that files never change is believed until he asks: no open, and no map, looks at a length again.
#[test]
fn files_that_never_change_are_looked_at_once() {
    let dir = Dir::new();
    let path = file_in(&dir, "segment", 13, SMALL + 1000);
    let maps = manager(small().revalidate(Revalidate::Never));
    let old = maps.open(&path).unwrap();
    visit(&old, SMALL, 13, 0..1);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&bytes(13, SMALL + 1000..3 * SMALL)).unwrap();
    drop(log);
    let new = maps.open(&path).unwrap();
    assert_eq!((old.len(), new.len()), (SMALL + 1000, SMALL + 1000));
    visit(&new, SMALL, 13, 0..2);
    assert_eq!(new.refresh().unwrap(), Change::Grown);
    assert_eq!((old.len(), new.len()), (3 * SMALL, 3 * SMALL));
    visit(&old, SMALL, 13, 0..3);
}

/// Replaced by rename (how git, editors and databases write): two files, each with its own bytes.
#[cfg(unix)]
#[test]
fn a_file_replaced_by_rename_is_another_file() {
    let dir = Dir::new();
    let path = file_in(&dir, "index", 16, 4 * SMALL);
    let maps = manager(small());
    let old = maps.open(&path).unwrap();
    let lease = old.lease(0..SMALL).unwrap();
    assert_eq!(old.refresh().unwrap(), Change::Unchanged);

    fs::rename(file_in(&dir, "index.lock", 17, 3 * SMALL), &path).unwrap();
    let new = maps.open(&path).unwrap();
    assert_eq!((new.len(), old.len()), (3 * SMALL, 4 * SMALL));
    visit(&new, SMALL, 17, 0..3);
    assert_eq!(maps.stats().files, 2);

    assert_eq!(old.refresh().unwrap(), Change::Replaced);
    assert_eq!(new.refresh().unwrap(), Change::Unchanged);
    assert_eq!(old.len(), 4 * SMALL);
    assert_bytes(&lease, 16, 0);
    visit(&old, SMALL, 16, 0..4);
    assert_reads(&old, 16, SMALL, 5000);
    assert_eq!(old.refresh().unwrap(), Change::Replaced);
    drop((old, lease));
    visit(&new, SMALL, 17, 0..3);
}

/// A file whose name is gone goes on being read through its handles, although `max_open_files` is 1 and many others
/// want that one descriptor: one whose path leads elsewhere is never given up.
#[cfg(unix)]
#[test]
fn the_descriptor_of_a_deleted_file_is_never_given_up() {
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
        // Each time a part of the file that was never mapped and never read.
        let fresh = u64::from(index) * SMALL;
        assert_reads(&file, 18, fresh + 10, 4096);
        visit(&file, SMALL, 18, u64::from(index)..u64::from(index) + 1);
    }
    // Another file under the old name is none of its business.
    file_in(&dir, "unlinked", 19, 32 * SMALL);
    for (index, other) in (0..32u8).zip(&others) {
        assert_reads(other, 100 + index, 0, 2000);
        assert_reads(&file, 18, u64::from(index) * SMALL, 100);
    }
    // Once its last handle is gone, nothing has to be kept.
    drop(file);
    for (index, other) in (0..32u8).zip(&others) {
        assert_reads(other, 100 + index, 0, 2000);
    }
    maps.collect();
    poll(&maps, SOON, "back inside max_open_files", || maps.stats().open_files <= 1);
}

/// The same for a file whose name leads to another one by now.
#[cfg(unix)]
#[test]
fn the_descriptor_of_a_replaced_file_is_never_given_up() {
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

/// A truncation that `refresh` notices is an error from then on, not a crash.
/// (Nothing is borrowed or leased while the file shrinks: that is the promise.)
#[cfg(unix)]
#[test]
fn a_truncation_is_noticed_by_refresh() {
    const NEW: u64 = 3 * SMALL + 100;
    let dir = Dir::new();
    let path = file_in(&dir, "shrunk", 22, 8 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 22, 0..8);

    thread::sleep(TICK);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(NEW).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Truncated);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
    assert_eq!(file.len(), NEW);

    let past_the_end = |error: smmap::Error| {
        assert!(matches!(error.kind(), ErrorKind::OutOfBounds | ErrorKind::Truncated), "{error:?}");
    };
    let mut buf = [0; 200];
    let mut cursor = file.cursor();
    for gone in [6 * SMALL..6 * SMALL + 10, NEW - 50..NEW + 50, NEW..NEW + 1] {
        past_the_end(file.lease(gone.clone()).unwrap_err());
        past_the_end(cursor.slice(gone.clone()).unwrap_err());
        let len = (gone.end - gone.start) as usize;
        past_the_end(file.read_exact_at(&mut buf[..len], gone.start).unwrap_err());
    }
    assert_eq!(cursor.window_at(3 * SMALL).unwrap().len(), 100);
    assert!(cursor.window_at(6 * SMALL).unwrap().is_empty());
    assert_eq!(file.read_at(&mut buf, 6 * SMALL).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, NEW - 50).unwrap(), 50);
    assert_eq!(file.buffer().get(NEW).unwrap(), None);

    // What is left is right, and what was mapped past the end is not mapped any more.
    visit(&file, SMALL, 22, 0..4);
    assert_reads(&file, 22, 0, NEW as usize);
    drop(cursor);
    poll(&maps, SOON, "the windows past the end are unmapped", || maps.stats().regions == 4);

    // What is appended afterwards is what is read.
    thread::sleep(TICK);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&bytes(23, NEW..8 * SMALL)).unwrap();
    drop(log);
    assert_eq!(file.refresh().unwrap(), Change::Grown);
    visit(&file, SMALL, 22, 0..3);
    visit(&file, SMALL, 23, 4..8);
    assert_bytes(&file.lease(NEW..4 * SMALL).unwrap(), 23, NEW);
}

/// One file by many names is one entry, and a window of it is mapped once.
#[cfg(unix)]
#[test]
fn one_file_by_many_names_is_one_entry() {
    let dir = Dir::new();
    let path = file_in(&dir, "name", 24, 2 * SMALL);
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink(&path, dir.path().join("symlink")).unwrap();
    fs::hard_link(&path, dir.path().join("sub/hardlink")).unwrap();
    std::os::unix::fs::symlink("sub", dir.path().join("subway")).unwrap();

    let maps = manager(small());
    let mut files = vec![maps.open_file(fs::File::open(&path).unwrap()).unwrap()];
    assert_eq!(files[0].path(), None);
    for name in ["name", "./name", "sub/../name", "symlink", "sub/hardlink", "subway/hardlink"] {
        files.push(maps.open(dir.path().join(name)).unwrap());
    }
    files.push(maps.open_file(fs::File::open(dir.path().join("symlink")).unwrap()).unwrap());
    files.push(files[3].clone());

    let leases: Vec<_> = files.iter().map(|file| file.lease(0..SMALL).unwrap()).collect();
    for (lease, file) in leases.iter().zip(&files) {
        assert_bytes(lease, 24, 0);
        assert_eq!(lease.as_ptr(), leases[0].as_ptr());
        visit(file, SMALL, 24, 0..2);
    }
    let stats = maps.stats();
    assert_eq!((stats.files, stats.maps, stats.regions), (1, 2, 2), "{stats:?}");
    assert_eq!((stats.pinned_regions, stats.mapped_bytes), (1, 2 * SMALL), "{stats:?}");

    // And two files of the same content are two.
    let twin = maps.open(file_in(&dir, "twin", 24, 2 * SMALL)).unwrap();
    visit(&twin, SMALL, 24, 0..2);
    assert_eq!((maps.stats().files, maps.stats().maps), (2, 4));
}

// ---------------------------------------------------------------------------------------------------------------
// Closing
// ---------------------------------------------------------------------------------------------------------------

/// smmap's `force_map_handle_removal_win`, by any name that leads to the file; handles stay usable and map again.
#[cfg(unix)]
#[test]
fn close_finds_a_file_by_any_name() {
    let dir = Dir::new();
    let path = file_in(&dir, "name", 25, 3 * SMALL);
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink(&path, dir.path().join("symlink")).unwrap();
    fs::hard_link(&path, dir.path().join("hardlink")).unwrap();
    let maps = manager(small());
    let bystander = maps.open(file_in(&dir, "name2", 26, SMALL)).unwrap();
    visit(&bystander, SMALL, 26, 0..1);
    let file = maps.open(&path).unwrap();
    for name in ["name", "symlink", "hardlink", "sub/../name"] {
        let before = maps.stats().maps;
        visit(&file, SMALL, 25, 0..3);
        assert_eq!(maps.stats().maps, before + 3, "closed windows are mapped anew, by {name}");
        let closed = maps.close(dir.path().join(name));
        assert_eq!((closed.unmapped, closed.still_held), (3, 0), "by {name}");
        assert_eq!(maps.stats().regions, 1, "by {name}");
        assert!(mapped(&dir).is_none_or(|mapped| mapped.bytes == SMALL), "by {name}: {:?}", mapped(&dir));
        assert_reads(&file, 25, 10, 1000);
        assert_bytes(&file.lease(SMALL + 1..2 * SMALL).unwrap(), 25, SMALL + 1);
        let used = maps.stats().regions - 1;
        assert!(used > 0);
        assert_eq!(maps.close(&path).unmapped, used, "once more, before {name} is used again");
    }
    // What is not there, or not known, has nothing to be closed.
    for name in ["missing", "sub"] {
        let closed = maps.close(dir.path().join(name));
        assert_eq!((closed.unmapped, closed.still_held), (0, 0), "{name}");
    }
    assert_eq!(maps.stats().regions, 1);
}

/// `close` of a directory goes by whole components: `/tmp/ab` is no part of `/tmp/abc/x`.
#[test]
fn close_of_a_directory_goes_by_whole_components() {
    let dir = Dir::new();
    for name in ["ab", "ab/deep", "abc"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let maps = manager(small());
    let inside = ["ab/x", "ab/y", "ab/deep/z"];
    let outside = ["abc/x", "abx", "x"];
    let open = |name: &&str| {
        let file = maps.open(file_in(&dir, name, 27, 2 * SMALL)).unwrap();
        visit(&file, SMALL, 27, 0..2);
        file
    };
    let inside: Vec<_> = inside.iter().map(open).collect();
    let outside: Vec<_> = outside.iter().map(open).collect();
    let held = inside[2].lease(SMALL..SMALL + 10).unwrap();

    let closed = maps.close(dir.path().join("ab"));
    assert_eq!((closed.unmapped, closed.still_held), (5, 1));
    assert_eq!(maps.stats().regions, 6 + 1);
    let before = maps.stats().maps;
    outside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.stats().maps, before, "files beside the directory were closed");
    assert_bytes(&held, 27, SMALL);
    drop(held);
    assert_eq!(maps.stats().regions, 6);

    inside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.stats().maps, before + 6, "closed files map again");
    // With a separator at the end it is the same directory; the one above has them all.
    assert_eq!(maps.close(dir.path().join("ab/")).unmapped, 6);
    inside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.close(dir.path()).unmapped, 12);
    assert_eq!(maps.stats().regions, 0);
    outside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
}

/// What is held when its file is closed is reported, stays readable, and is unmapped when its last client goes.
#[test]
fn close_reports_what_is_held_and_its_last_client_unmaps_it() {
    let dir = Dir::new();
    let path = file_in(&dir, "held", 28, 6 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 28, 0..6);
    let lease = file.lease(SMALL + 5..SMALL + 500).unwrap();
    let part = lease.slice(10..20);
    let whole = file.lease(3 * SMALL..4 * SMALL).unwrap();

    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (4, 2));
    assert_eq!(maps.stats().regions, 2);
    poll_kernel_agrees(&maps, &dir);

    // The handle maps anew; the old mappings stay what they were.
    let fresh = file.lease(SMALL + 5..SMALL + 500).unwrap();
    assert_eq!(&*fresh, &*lease);
    assert_bytes(&lease, 28, SMALL + 5);
    drop(fresh);
    maps.collect();
    assert_eq!(maps.stats().regions, 2);

    drop(lease);
    assert_eq!(maps.stats().regions, 2, "a part of the lease is still there");
    assert_bytes(&part, 28, SMALL + 15);
    drop(part);
    assert_eq!(maps.stats().regions, 1);
    drop(whole);
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.mapped_bytes), (0, 0), "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
    visit(&file, SMALL, 28, 0..6);
}

/// A cursor that stands in a window holds it as a lease would.
#[test]
fn close_under_a_cursor_leaves_its_window() {
    let dir = Dir::new();
    let path = file_in(&dir, "cursor", 29, 4 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 29, 0..4);
    let mut cursor = file.cursor();
    let window = cursor.window_at(2 * SMALL).unwrap();
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (3, 1));
    assert_bytes(window, 29, 2 * SMALL);
    assert_eq!(maps.stats().regions, 1);

    // Also when it goes on with the same window, and with another one.
    assert_bytes(cursor.window_at(2 * SMALL + 9).unwrap(), 29, 2 * SMALL + 9);
    assert_bytes(cursor.window_at(0).unwrap(), 29, 0);
    assert_bytes(cursor.window_at(2 * SMALL).unwrap(), 29, 2 * SMALL);
    cursor.release();
    poll(&maps, SOON, "all is unmapped once the cursor let go", || {
        maps.collect();
        maps.stats().regions == 0
    });
    poll_kernel_agrees(&maps, &dir);
}

/// What a cursor let go of after `close` goes by itself: nobody needs to collect.
#[test]
fn what_a_cursor_lets_go_of_after_close_goes_by_itself() {
    let dir = Dir::new();
    let path = file_in(&dir, "cursor", 30, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    assert_bytes(cursor.window_at(0).unwrap(), 30, 0);
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 1));
    cursor.release();
    poll(&maps, SOON, "the window is unmapped", || maps.stats().regions == 0);
}

// ---------------------------------------------------------------------------------------------------------------
// Limits of a running cache
// ---------------------------------------------------------------------------------------------------------------

/// Lowered limits are reached by the collector as clients let go, without another read.
#[test]
fn lowered_limits_are_reached_as_clients_let_go() {
    let dir = Dir::new();
    let path = file_in(&dir, "lowered", 31, 8 * LARGE);
    let maps = manager(large());
    let file = maps.open(&path).unwrap();
    visit(&file, LARGE, 31, 0..8);
    let mut leases: Vec<_> = (0..6).map(|index| file.lease(index * LARGE..(index + 1) * LARGE).unwrap()).collect();

    let lowered = Limits { max_mapped_bytes: 3 * LARGE, ..maps.limits() };
    maps.set_limits(lowered).unwrap();
    assert_eq!(maps.limits(), lowered);
    poll(&maps, SOON, "the two unused ones go", || maps.stats().mapped_bytes == 6 * LARGE);
    leases.iter().zip(0..).for_each(|(lease, index)| assert_bytes(lease, 31, index * LARGE));

    leases.truncate(4);
    poll(&maps, SOON, "what was let go of goes", || maps.stats().mapped_bytes == 4 * LARGE);
    leases.truncate(1);
    poll(&maps, SOON, "inside the bytes", || maps.stats().mapped_bytes <= 3 * LARGE);

    // The same by number.
    drop(leases);
    maps.set_limits(Limits { max_mapped_bytes: 64 * MIB, max_regions: 2, ..lowered }).unwrap();
    poll(&maps, SOON, "inside the number", || maps.stats().regions <= 2);
    visit(&file, LARGE, 31, 0..8);
    assert!(maps.stats().regions <= 2);

    // Raised again, everything fits.
    maps.set_limits(Limits { max_mapped_bytes: 64 * MIB, max_regions: 100, ..lowered }).unwrap();
    visit(&file, LARGE, 31, 0..8);
    assert_eq!(maps.stats().regions, 8);
    poll_kernel_agrees(&maps, &dir);
}

/// Lowered `max_open_files` too: descriptors go, the handles stay.
#[test]
fn a_lowered_max_open_files_is_reached() {
    let dir = Dir::new();
    let maps = manager(small());
    let files: Vec<_> =
        (0..20u8).map(|seed| maps.open(file_in(&dir, &format!("file-{seed}"), seed, 3000)).unwrap()).collect();
    files.iter().zip(0..).for_each(|(file, seed)| assert_reads(file, seed, 0, 100));
    assert_eq!(maps.stats().open_files, 20);
    maps.set_limits(Limits { max_open_files: 4, ..maps.limits() }).unwrap();
    poll(&maps, SOON, "inside max_open_files", || {
        maps.stats().open_files <= 4 && dir.descriptors().is_none_or(|open| open <= 4)
    });
    files.iter().zip(0..).for_each(|(file, seed)| assert_reads(file, seed, 0, 3000));
    assert!(maps.stats().open_files <= 4);
    assert_eq!(maps.stats().files, 20);
}

/// Lowered below one window, only copying reads succeed; raised again, all is as before.
#[test]
fn below_one_window_only_copying_reads_succeed() {
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::from_millis(20))] {
        let dir = Dir::new();
        let path = file_in(&dir, "narrow", 32, 3 * LARGE);
        let maps = manager(large().overcommit(overcommit));
        let before = maps.limits();
        let file = maps.open(&path).unwrap();
        visit(&file, LARGE, 32, 0..3);
        maps.set_limits(Limits { max_mapped_bytes: LARGE / 2, ..before }).unwrap();
        poll(&maps, SOON, "everything is unmapped", || maps.stats().mapped_bytes == 0);

        let over = |error: smmap::Error| assert_eq!(error.kind(), ErrorKind::OverBudget, "{overcommit:?}: {error:?}");
        over(file.cursor().window_at(0).unwrap_err());
        over(file.lease(LARGE..2 * LARGE).unwrap_err());
        over(file.windows().next().unwrap().unwrap_err());
        assert_reads(&file, 32, LARGE - 5, 10_000);
        let mut part = [0; 100];
        assert_eq!(file.read_at(&mut part, 3 * LARGE - 40).unwrap(), 40);
        assert_eq!(maps.stats().mapped_bytes, 0);

        maps.set_limits(before).unwrap();
        visit(&file, LARGE, 32, 0..3);
        assert_eq!(maps.stats().mapped_bytes, 3 * LARGE);
    }
}

/// A descriptor that was given up is opened again by its path, and is the same file.
#[test]
fn a_closed_descriptor_is_opened_again() {
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

/// If the path leads to another file by then, that is an error of its own kind, and never that file's bytes.
#[cfg(unix)]
#[test]
fn a_closed_descriptor_is_never_opened_again_as_another_file() {
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
    // Until here the path led to the file, so that its descriptor could be given up.
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
        for (how, read) in reads.into_iter().enumerate() {
            match read {
                Ok(found) => assert_bytes(&found, 34, offset),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Replaced, "way {how}: {error:?}");
                    assert_eq!(error.path(), Some(&*path));
                }
            }
        }
    }
    // The same fact, said either way.
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

// ---------------------------------------------------------------------------------------------------------------
// Everything pinned
// ---------------------------------------------------------------------------------------------------------------

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
fn overcommit_allow_goes_over_and_says_so() {
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
fn overcommit_fail_names_what_it_could_not_map() {
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
fn cursors_pin_their_windows() {
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
fn overcommit_wait_times_out() {
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
fn overcommit_wait_goes_on_when_another_thread_lets_go() {
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

/// The budget holds in every mode as long as something is unused: nothing is refused, and nothing overshoots.
#[test]
fn no_mode_fails_or_overshoots_while_there_is_something_to_unmap() {
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
