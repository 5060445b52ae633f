//! `fork`: a child process can read and drop every handle that it inherits, in whatever state the parent's other
//! threads were. The parent is not affected.
//!
//! Unix only. Each test runs in a process of its own, so that no other test's threads vanish at the fork.
#![cfg(unix)]

#[path = "it/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Admission, Cursor, Lease, MapManager, MappedFile, Overcommit, Window};

use crate::support::{
    Dir, Mapped, Rng, TestFile, alone, assert_same, collector_threads, descriptors_below, manager, mapped_below, scale,
    settles,
};

const WINDOW: u64 = 64 << 10;

/// The time after which a child counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` in a forked child and waits for the child.
///
/// # Panics
///
/// Panics if `work` panics or the child hangs.
#[allow(unsafe_code, reason = "fork")]
fn in_a_child(what: &str, work: impl FnOnce()) {
    // SAFETY: the child has only this thread. It calls only the code under test and the allocator, which the C library
    // keeps usable after `fork`. It ends by `_exit`, so no exit handlers run.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        // SAFETY: `_exit` ends this process, which is the child.
        unsafe { libc::_exit(if worked { 0 } else { 1 }) };
    }
    let start = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: `child` is a child of this process, and `status` is valid for writes.
        let ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        if ended == child {
            break;
        }
        assert_eq!(ended, 0, "{}", std::io::Error::last_os_error());
        if start.elapsed() > PATIENCE {
            // SAFETY: the child has not been waited for yet, so its process number has not been reused.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as for the `waitpid` above.
            unsafe { libc::waitpid(child, &mut status, 0) };
            panic!("the child {what} hung");
        }
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(status, 0, "the child {what} failed (its output is above)");
}

/// One handle of each kind.
struct Holder {
    maps: MapManager,
    file: TestFile,
    handle: MappedFile,
    cursor: Cursor,
    lease: Lease,
    /// A lease that crosses windows and is longer than a copy may be, so it holds a detached region.
    long: Lease,
    copy: Lease,
}

const LONG: std::ops::Range<u64> = 100..100 + 6 * WINDOW;

impl Holder {
    fn new(dir: &Dir) -> Holder {
        let file = dir.file("file", 16 * WINDOW, 1);
        let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }));
        let handle = maps.open(&file.path).unwrap();
        let mut cursor = handle.cursor();
        assert_eq!(cursor.window_at(3 * WINDOW).unwrap().len() as u64, WINDOW);
        handle.prefetch(5 * WINDOW..6 * WINDOW).unwrap();
        let lease = handle.lease(5 * WINDOW..6 * WINDOW).unwrap();
        let long = handle.lease(LONG).unwrap();
        let copy = handle.lease(WINDOW - 10..WINDOW + 10).unwrap();
        assert!(lease.is_mapped() && long.is_mapped() && !copy.is_mapped());
        Holder { maps, file, handle, cursor, lease, long, copy }
    }

    /// Checks the bytes of all handles, which were taken before the fork.
    fn check(&mut self) {
        assert_same(&self.lease, &self.file[5 * WINDOW as usize..6 * WINDOW as usize], "the lease");
        assert_same(&self.long, &self.file[LONG.start as usize..LONG.end as usize], "the long lease");
        assert_same(&self.copy, &self.file[WINDOW as usize - 10..WINDOW as usize + 10], "the copy");
        let start = 3 * WINDOW + 7;
        let found = self.cursor.slice(start..start + 100).unwrap();
        assert_same(found, &self.file[start as usize..][..100], "in the cursor's window");
        assert_same(&self.lease.clone().slice(10..20), &self.lease[10..20], "a slice of a clone");
    }

    /// Returns the pinned regions, the mapped bytes, and the kernel's list of mappings.
    fn counts(&self, dir: &Dir) -> (usize, u64, Option<Mapped>) {
        let stats = self.maps.stats();
        (stats.pinned_regions, stats.mapped_bytes, dir.mapped())
    }

    /// Drops all handles. Checks that no mapping and no descriptor of the file is left.
    fn end(self, leases_first: bool) {
        let Holder { maps, file, handle, cursor, lease, long, copy } = self;
        if leases_first {
            drop((lease, long, copy, cursor, handle, maps));
        } else {
            drop((maps, handle, cursor));
            assert_same(&lease, &file[5 * WINDOW as usize..6 * WINDOW as usize], "a lease that outlives the manager");
            drop((lease, long, copy));
        }
        assert!(mapped_below(&file.path).is_none_or(|mapped| mapped == Mapped::default()), "a mapping is left");
        assert!(descriptors_below(&file.path).is_none_or(|open| open == 0), "a descriptor is left");
    }
}

/// If no other thread of the parent is at work, the child can also open, map and build a manager.
#[test]
fn child_of_idle_process_reads_and_drops_without_affecting_parent() {
    if !alone("child_of_idle_process_reads_and_drops_without_affecting_parent") {
        return;
    }
    let dir = Dir::new();
    let mut holder = Some(Holder::new(&dir));
    let other = dir.file("other", 3 * WINDOW, 2);
    // The collector has finished its pass and sleeps.
    assert!(settles(|| collector_threads().is_none_or(|count| count == 1)));
    thread::sleep(Duration::from_millis(100));
    let before = holder.as_ref().unwrap().counts(&dir);
    for leases_first in [true, false] {
        in_a_child("of an idle process", || {
            let mut holder = holder.take().unwrap();
            holder.check();
            // The child can also read files and windows that it did not hold.
            assert_same(&holder.maps.open(&other.path).unwrap().lease(..).unwrap(), &other, "opened in the child");
            for lease in holder.handle.windows() {
                let lease = lease.unwrap();
                assert_same(&lease, &holder.file[lease.offset() as usize..][..lease.len()], "mapped in the child");
            }
            holder.maps.collect();
            holder.end(leases_first);
            // It can also build a manager of its own, with a collector.
            let maps = manager(MapManager::builder());
            assert_same(&maps.open(&other.path).unwrap().lease(..).unwrap(), &other, "through the child's own manager");
            assert!(settles(|| collector_threads().is_none_or(|count| count == 1)));
        });
        let holder = holder.as_mut().unwrap();
        assert_eq!(holder.counts(&dir), before, "the child changed the counts of the parent");
        holder.check();
    }
    assert!(collector_threads().is_none_or(|count| count == 1));
    holder.unwrap().end(true);
    assert!(collector_threads().is_none_or(|count| count == 0));
}

/// The parent's other threads open, map, refresh and close at the time of the fork. They vanish in the child together
/// with the locks and counts that they hold.
#[test]
fn child_forked_from_busy_process_reads_and_drops() {
    if !alone("child_forked_from_busy_process_reads_and_drops") {
        return;
    }
    let dir = Dir::new();
    let mut holder = Some(Holder::new(&dir));
    let files: Vec<_> = (0..64).map(|n| dir.file(&format!("{n}"), 1000, n)).collect();
    let maps = holder.as_ref().unwrap().maps.clone();
    let mut maps = Some(maps);
    let done = AtomicBool::new(false);
    let forks = 300 * scale();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (files, maps, done) = (&files, maps.clone().unwrap(), &done);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                while !done.load(Ordering::Relaxed) {
                    let file = &files[rng.below(64) as usize];
                    let handle = maps.open(&file.path).unwrap();
                    match rng.below(4) {
                        0 => assert_same(&handle.lease(..).unwrap(), file, "leased in the parent"),
                        1 => drop(maps.close(&file.path)),
                        2 => drop(maps.stats()),
                        _ => drop(handle.refresh().unwrap()),
                    }
                }
            });
        }
        // A panic is caught, so that the other threads are told to end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..forks {
                // These are the last handles of their files, so dropping them closes the files.
                let mut handles: Option<Vec<_>> =
                    Some((0..64).map(|n| maps.as_ref().unwrap().open(&files[n].path).unwrap()).collect());
                in_a_child("of a process with busy threads", || {
                    let mut holder = holder.take().unwrap();
                    holder.check();
                    drop((handles.take(), maps.take()));
                    drop(holder);
                });
                drop(handles);
                if round % 50 == 0 {
                    holder.as_mut().unwrap().check();
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    drop(maps);
    holder.as_mut().unwrap().check();
    holder.unwrap().end(false);
}

/// The child drops the last handle. At the fork the parent's collector, which the child lacks, may be in a pass over
/// many files.
#[test]
fn child_forked_during_collector_passes_drops_last_handle() {
    if !alone("child_forked_during_collector_passes_drops_last_handle") {
        return;
    }
    let dir = Dir::new();
    let mut holder = Some(Holder::new(&dir));
    let files: Vec<_> = (0..200).map(|n| dir.file(&format!("{n}"), 1000, n)).collect();
    let mut handles: Option<Vec<_>> =
        Some(files.iter().map(|file| holder.as_ref().unwrap().maps.open(&file.path).unwrap()).collect());
    let start = Instant::now();
    let mut forks = 0;
    // Long enough for a few passes, one each second.
    while forks < 500 || start.elapsed() < Duration::from_secs(3) {
        // New limits wake the collector.
        let maps = &holder.as_ref().unwrap().maps;
        maps.set_limits(maps.limits()).unwrap();
        in_a_child("during a pass of the collector", || {
            let mut holder = holder.take().unwrap();
            holder.check();
            drop(handles.take());
            holder.end(true);
        });
        forks += 1;
    }
    assert!(collector_threads().is_none_or(|count| count == 1));
    drop(handles);
    holder.as_mut().unwrap().check();
    holder.unwrap().end(false);
}

/// Returns a manager with a budget of `windows` windows that maps every window read.
fn narrow(windows: u64) -> MapManager {
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(windows * WINDOW);
    manager(builder.admission(Admission::Always).overcommit(Overcommit::Fail))
}

/// Reads and checks `reads` random ranges through a cursor of its own.
fn read_at_random(handle: &MappedFile, file: &TestFile, seed: u64, reads: u64) {
    let (mut rng, mut cursor) = (Rng::new(seed), handle.cursor());
    for _ in 0..reads {
        let start = rng.below(file.len() - 100);
        let found = cursor.slice(start..start + 100).expect("a small range can always be read from the file");
        assert_same(found, &file[start as usize..start as usize + 100], start);
    }
}

/// The cursors of vanished threads protect their windows in the child for ever. These windows stay mapped there, and no
/// others do. The child evicts, collects, closes and drops everything else. (Each such cursor also keeps its file and
/// the cache alive.)
#[test]
fn windows_protected_by_vanished_threads_stay_mapped_in_child() {
    if !alone("windows_protected_by_vanished_threads_stay_mapped_in_child") {
        return;
    }
    const OTHERS: u64 = 5;
    const BUDGET: u64 = 16;
    const WINDOWS: u64 = 64;
    let dir = Dir::new();
    let file = dir.file("file", WINDOWS * WINDOW, 3);
    let maps = narrow(BUDGET);
    let handle = maps.open(&file.path).unwrap();
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        // Dropped at the end of this scope, also by a panic; the other threads then end.
        let mut ends = Vec::new();
        for other in 0..OTHERS {
            let (mut cursor, file, tell) = (handle.cursor(), &file, tell.clone());
            let (end, is_over) = mpsc::channel::<()>();
            ends.push(end);
            scope.spawn(move || {
                let place = cursor.window_at(other * WINDOW).unwrap().as_ptr() as usize;
                tell.send((other, place)).unwrap();
                let _ = is_over.recv();
                let held = cursor.window_at(other * WINDOW).unwrap();
                assert_eq!(held.as_ptr() as usize, place, "the window was remapped in the parent");
                assert_same(held, &file[(other * WINDOW) as usize..][..WINDOW as usize], "in the parent");
            });
        }
        let places: Vec<(u64, usize)> = (0..OTHERS).map(|_| told.recv().unwrap()).collect();
        let (mine, leased) = (40 * WINDOW, 41 * WINDOW);
        let mut cursor = handle.cursor();
        let place = cursor.window_at(mine).unwrap().as_ptr();
        let lease = handle.lease(leased..leased + WINDOW).unwrap();
        // The collector has finished its pass and sleeps.
        thread::sleep(Duration::from_millis(100));
        let before = maps.stats();
        // All handles of this thread.
        let mut held = Some((maps, handle, cursor, lease));
        in_a_child("of a process with cursors", || {
            let (maps, handle, mut cursor, lease) = held.take().unwrap();
            thread::scope(|scope| {
                for seed in 0..2 {
                    let (handle, file) = (&handle, &file);
                    scope.spawn(move || read_at_random(handle, file, seed, 2_000));
                }
                read_at_random(&handle, &file, 2, 2_000);
            });
            let stats = maps.stats();
            assert!(stats.evictions > before.evictions + 1_000, "{stats:?}");
            assert!(stats.peak_mapped_bytes <= BUDGET * WINDOW, "{stats:?}");
            // No protected window was evicted, neither this thread's nor those of the vanished threads.
            assert_eq!(cursor.window_at(mine).unwrap().as_ptr(), place);
            assert_same(
                cursor.window_at(mine).unwrap(),
                &file[mine as usize..][..WINDOW as usize],
                "the child's cursor",
            );
            assert_same(&lease, &file[leased as usize..][..WINDOW as usize], "the child's lease");
            maps.collect();
            assert_eq!((maps.stats().regions, maps.stats().pinned_regions), (OTHERS as usize + 2, OTHERS as usize + 2));
            for &(other, place) in &places {
                let mut beside = handle.cursor();
                let found = beside.window_at(other * WINDOW).unwrap();
                assert_eq!(found.as_ptr() as usize, place, "the window was remapped in the child");
                assert_same(
                    found,
                    &file[(other * WINDOW) as usize..][..WINDOW as usize],
                    "a window of a vanished thread's cursor",
                );
            }
            drop((cursor, lease));
            maps.collect();
            let closed = maps.close(&file.path);
            assert_eq!((closed.unmapped, closed.still_held), (0, OTHERS as usize));
            drop((handle, maps));
            let left = mapped_below(&file.path);
            assert!(left.is_none_or(|left| left.bytes == OTHERS * WINDOW), "{left:?}");
        });
        // The child has not changed the state of the parent.
        let (maps, handle, cursor, lease) = held.unwrap();
        assert_eq!(maps.stats().evictions, before.evictions);
        assert_eq!(maps.stats().pinned_regions, OTHERS as usize + 2);
        assert_same(&lease, &file[leased as usize..][..WINDOW as usize], "the parent's lease");
        drop((cursor, lease, handle));
        drop((ends, maps));
    });
    assert!(dir.mapped().is_none_or(|mapped| mapped == Mapped::default()), "a mapping is left");
}

/// The parent's other threads create, move and drop cursors, and one thread closes and collects, at the time of the
/// fork. The child inherits every cursor and owner in the middle of its current step.
#[test]
fn child_forked_while_cursors_switch_windows_reads_and_releases() {
    if !alone("child_forked_while_cursors_switch_windows_reads_and_releases") {
        return;
    }
    let dir = Dir::new();
    let (mine, theirs) = (dir.file("mine", 4 * WINDOW, 4), dir.file("theirs", 32 * WINDOW, 5));
    let maps = narrow(16);
    let handle = maps.open(&theirs.path).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..3 {
            let (handle, theirs, done) = (&handle, &theirs, &done);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !done.load(Ordering::Relaxed) {
                    read_at_random(handle, theirs, rng.next(), 50);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                maps.close(&theirs.path);
                maps.collect();
            }
        });
        // A panic is caught, so that the other threads are told to end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..200 * scale() {
                let handle = maps.open(&mine.path).unwrap();
                let mut cursor = handle.cursor();
                let place = cursor.window_at(WINDOW).unwrap().as_ptr();
                let lease = handle.lease(2 * WINDOW..3 * WINDOW).unwrap();
                if round % 2 == 0 {
                    // The closed window then waits for the cursor in the parent.
                    let is_mapped = lease.is_mapped();
                    assert_eq!(
                        maps.close(&mine.path).still_held,
                        1 + usize::from(is_mapped),
                        "the cursor's window, and the lease's if it is mapped"
                    );
                }
                let mut held = Some((handle, cursor, lease));
                in_a_child("of a process with busy cursors", || {
                    let (handle, mut cursor, lease) = held.take().unwrap();
                    let found = cursor.window_at(WINDOW).unwrap();
                    assert_eq!(found.as_ptr(), place, "the window was remapped in the child");
                    assert_same(found, &mine[WINDOW as usize..][..WINDOW as usize], "the child's cursor");
                    assert_same(&lease, &mine[2 * WINDOW as usize..][..WINDOW as usize], "the child's lease");
                    cursor.release();
                    drop((cursor, lease, handle));
                });
                let (_handle, mut cursor, lease) = held.unwrap();
                assert_eq!(cursor.window_at(WINDOW).unwrap().as_ptr(), place, "the window was remapped in the parent");
                assert_same(&lease, &mine[2 * WINDOW as usize..][..WINDOW as usize], "the parent's lease");
            }
        }));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    maps.collect();
    assert_eq!(maps.stats().regions, 0);
    drop((handle, maps));
    assert!(dir.mapped().is_none_or(|mapped| mapped == Mapped::default()), "a mapping is left");
}

/// In a new PID namespace, parent and child can both be process 1. The child drops a manager whose collector thread it
/// lacks.
#[test]
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "unshare")]
fn child_with_the_process_number_of_its_parent_drops_the_manager() {
    if !alone("child_with_the_process_number_of_its_parent_drops_the_manager") {
        return;
    }
    // SAFETY: takes a number, and has an effect on later children only.
    let unshare = || unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0;
    if !unshare() {
        eprintln!("SKIPPED: no PID namespace: {}", std::io::Error::last_os_error());
        return;
    }
    let dir = Dir::new();
    in_a_child("that is process 1", || {
        assert_eq!(std::process::id(), 1);
        let mut holder = Some(Holder::new(&dir));
        // The collector has finished its pass and sleeps.
        thread::sleep(Duration::from_millis(100));
        assert!(unshare(), "{}", std::io::Error::last_os_error());
        in_a_child("that is process 1 as its parent", || {
            assert_eq!(std::process::id(), 1);
            let mut holder = holder.take().unwrap();
            holder.check();
            holder.end(true);
        });
        holder.as_mut().unwrap().check();
        holder.unwrap().end(false);
    });
}
