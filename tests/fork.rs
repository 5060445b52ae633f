//! `fork`: a child reads what it holds and drops it, whatever the other threads were at, and the parent goes on.
//!
//! Unix only. Each test forks from a process of its own, so that the threads of other tests are not among those that vanish.
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

/// No child takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` in a child of `fork`. Panics if it does, or if it hangs.
#[allow(unsafe_code, reason = "fork")]
fn in_a_child(what: &str, work: impl FnOnce()) {
    // SAFETY: the child has this thread alone. It calls nothing but what this is the test of, and the allocator, which the C
    // library keeps usable; and it ends without running what others left to be run at the end.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        // SAFETY: ends this process, which is a child.
        unsafe { libc::_exit(if worked { 0 } else { 1 }) };
    }
    let start = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: waits for a child of this process, and writes its status to where it is told.
        let ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        if ended == child {
            break;
        }
        assert_eq!(ended, 0, "{}", std::io::Error::last_os_error());
        if start.elapsed() > PATIENCE {
            // SAFETY: a child that was not waited for yet, so the number is its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &mut status, 0) };
            panic!("{what}: the child hung");
        }
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(status, 0, "{what}: the child failed (its own words are above)");
}

/// One of everything that can be held.
struct Holder {
    maps: MapManager,
    file: TestFile,
    handle: MappedFile,
    cursor: Cursor,
    lease: Lease,
    /// Larger than a copy, over a border: a mapping of its own.
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

    /// What was taken before the fork.
    fn check(&mut self) {
        assert_same(&self.lease, &self.file[5 * WINDOW as usize..6 * WINDOW as usize], "the lease");
        assert_same(&self.long, &self.file[LONG.start as usize..LONG.end as usize], "the long lease");
        assert_same(&self.copy, &self.file[WINDOW as usize - 10..WINDOW as usize + 10], "the copy");
        let start = 3 * WINDOW + 7;
        let found = self.cursor.slice(start..start + 100).unwrap();
        assert_same(found, &self.file[start as usize..][..100], "in the cursor's window");
        assert_same(&self.lease.clone().slice(10..20), &self.lease[10..20], "a slice of a clone");
    }

    /// What the budget and the kernel count.
    fn counts(&self, dir: &Dir) -> (usize, u64, Option<Mapped>) {
        let stats = self.maps.stats();
        (stats.pinned_regions, stats.mapped_bytes, dir.mapped())
    }

    /// Lets go of all; in the end nothing is left of its file.
    fn end(self, leases_first: bool) {
        let Holder { maps, file, handle, cursor, lease, long, copy } = self;
        if leases_first {
            drop((lease, long, copy, cursor, handle, maps));
        } else {
            drop((maps, handle, cursor));
            assert_same(&lease, &file[5 * WINDOW as usize..6 * WINDOW as usize], "a lease, alone");
            drop((lease, long, copy));
        }
        assert!(mapped_below(&file.path).is_none_or(|mapped| mapped == Mapped::default()), "something is left");
        assert!(descriptors_below(&file.path).is_none_or(|open| open == 0), "a descriptor is left");
    }
}

/// With nobody else at work, the child does all that it likes.
#[test]
fn a_child_reads_and_drops_and_the_parent_goes_on() {
    if !alone("a_child_reads_and_drops_and_the_parent_goes_on") {
        return;
    }
    let dir = Dir::new();
    let mut holder = Some(Holder::new(&dir));
    let other = dir.file("other", 3 * WINDOW, 2);
    // The collector has had its look at the file, and sleeps.
    assert!(settles(|| collector_threads().is_none_or(|count| count == 1)));
    thread::sleep(Duration::from_millis(100));
    let before = holder.as_ref().unwrap().counts(&dir);
    for leases_first in [true, false] {
        in_a_child("alone", || {
            let mut holder = holder.take().unwrap();
            holder.check();
            // Also what it did not hold.
            assert_same(&holder.maps.open(&other.path).unwrap().lease(..).unwrap(), &other, "opened in the child");
            for lease in holder.handle.windows() {
                let lease = lease.unwrap();
                assert_same(&lease, &holder.file[lease.offset() as usize..][..lease.len()], "mapped in the child");
            }
            holder.maps.collect();
            holder.end(leases_first);
            // And a cache of its own, with a collector.
            let maps = manager(MapManager::builder());
            assert_same(&maps.open(&other.path).unwrap().lease(..).unwrap(), &other, "in a manager of the child's");
            assert!(settles(|| collector_threads().is_none_or(|count| count == 1)));
        });
        let holder = holder.as_mut().unwrap();
        assert_eq!(holder.counts(&dir), before, "what the parent holds is its own");
        holder.check();
    }
    assert!(collector_threads().is_none_or(|count| count == 1));
    holder.unwrap().end(true);
    assert!(collector_threads().is_none_or(|count| count == 0));
}

/// Threads that open, map, look and drop all the time, and vanish in the child in the middle of it: with whatever locks and
/// counts they have.
#[test]
fn a_child_reads_and_drops_whatever_others_were_at() {
    if !alone("a_child_reads_and_drops_whatever_others_were_at") {
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
                        0 => assert_same(&handle.lease(..).unwrap(), file, "beside it"),
                        1 => drop(maps.close(&file.path)),
                        2 => drop(maps.stats()),
                        _ => drop(handle.refresh().unwrap()),
                    }
                }
            });
        }
        // A panic here would leave the others at work for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..forks {
                // Files that go with these handles.
                let mut handles: Option<Vec<_>> =
                    Some((0..64).map(|n| maps.as_ref().unwrap().open(&files[n].path).unwrap()).collect());
                in_a_child("beside others", || {
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

/// The last handle goes in the child, while the collector of the parent, which is not there, was at work on many files.
#[test]
fn the_last_handle_goes_in_a_child_whatever_the_collector_was_at() {
    if !alone("the_last_handle_goes_in_a_child_whatever_the_collector_was_at") {
        return;
    }
    let dir = Dir::new();
    let mut holder = Some(Holder::new(&dir));
    let files: Vec<_> = (0..200).map(|n| dir.file(&format!("{n}"), 1000, n)).collect();
    let mut handles: Option<Vec<_>> =
        Some(files.iter().map(|file| holder.as_ref().unwrap().maps.open(&file.path).unwrap()).collect());
    let start = Instant::now();
    let mut forks = 0;
    // A few of its looks, one each second.
    while forks < 500 || start.elapsed() < Duration::from_secs(3) {
        // It has something to do.
        let maps = &holder.as_ref().unwrap().maps;
        maps.set_limits(maps.limits()).unwrap();
        in_a_child("beside the collector", || {
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

/// A manager with room for so many windows, which maps whatever is read.
fn narrow(windows: u64) -> MapManager {
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(windows * WINDOW);
    manager(builder.admission(Admission::Always).overcommit(Overcommit::Fail))
}

/// Reads here and there by a cursor of its own.
fn read_at_random(handle: &MappedFile, file: &TestFile, seed: u64, reads: u64) {
    let (mut rng, mut cursor) = (Rng::new(seed), handle.cursor());
    for _ in 0..reads {
        let start = rng.below(file.len() - 100);
        let found = cursor.slice(start..start + 100).expect("what is small is read at least");
        assert_same(found, &file[start as usize..start as usize + 100], start);
    }
}

/// Cursors of threads that the child does not have announce their windows there for ever. These stay mapped, and nothing else
/// does: the child evicts, collects, closes and lets go of all as if these windows were held. (They are: with a cursor its file
/// and its cache stay as well.)
#[test]
fn what_cursors_of_other_threads_read_stays_mapped_in_a_child() {
    if !alone("what_cursors_of_other_threads_read_stays_mapped_in_a_child") {
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
        // Goes with this thread's part, also by a panic: then the others end.
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
                assert_eq!(held.as_ptr() as usize, place, "mapped anew in the parent");
                assert_same(held, &file[(other * WINDOW) as usize..][..WINDOW as usize], "in the parent");
            });
        }
        let places: Vec<(u64, usize)> = (0..OTHERS).map(|_| told.recv().unwrap()).collect();
        let (mine, leased) = (40 * WINDOW, 41 * WINDOW);
        let mut cursor = handle.cursor();
        let place = cursor.window_at(mine).unwrap().as_ptr();
        let lease = handle.lease(leased..leased + WINDOW).unwrap();
        // The collector sleeps.
        thread::sleep(Duration::from_millis(100));
        let before = maps.stats();
        // All that this thread has.
        let mut held = Some((maps, handle, cursor, lease));
        in_a_child("beside cursors", || {
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
            // None of those that are read was among them, here or there.
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
                assert_eq!(found.as_ptr() as usize, place, "mapped anew");
                assert_same(found, &file[(other * WINDOW) as usize..][..WINDOW as usize], "what another one reads");
            }
            drop((cursor, lease));
            maps.collect();
            let closed = maps.close(&file.path);
            assert_eq!((closed.unmapped, closed.still_held), (0, OTHERS as usize));
            drop((handle, maps));
            let left = mapped_below(&file.path);
            assert!(left.is_none_or(|left| left.bytes == OTHERS * WINDOW), "{left:?}");
        });
        // The child has told the parent nothing.
        let (maps, handle, cursor, lease) = held.unwrap();
        assert_eq!(maps.stats().evictions, before.evictions);
        assert_eq!(maps.stats().pinned_regions, OTHERS as usize + 2);
        assert_same(&lease, &file[leased as usize..][..WINDOW as usize], "the parent's lease");
        drop((cursor, lease, handle));
        drop((ends, maps));
    });
    assert!(dir.mapped().is_none_or(|mapped| mapped == Mapped::default()), "something is left");
}

/// Threads whose cursors go from window to window, let go, end and begin, all the time, while another one closes: the child
/// finds them in the middle of whatever a cursor or an owner does.
#[test]
fn a_child_lets_go_whatever_the_cursors_of_others_were_at() {
    if !alone("a_child_lets_go_whatever_the_cursors_of_others_were_at") {
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
        // A panic here would leave the others at work for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..200 * scale() {
                let handle = maps.open(&mine.path).unwrap();
                let mut cursor = handle.cursor();
                let place = cursor.window_at(WINDOW).unwrap().as_ptr();
                let lease = handle.lease(2 * WINDOW..3 * WINDOW).unwrap();
                if round % 2 == 0 {
                    // Its owner waits for the cursor then, in the parent.
                    let is_mapped = lease.is_mapped();
                    assert_eq!(
                        maps.close(&mine.path).still_held,
                        1 + usize::from(is_mapped),
                        "the cursor's and the lease's"
                    );
                }
                let mut held = Some((handle, cursor, lease));
                in_a_child("beside cursors at work", || {
                    let (handle, mut cursor, lease) = held.take().unwrap();
                    let found = cursor.window_at(WINDOW).unwrap();
                    assert_eq!(found.as_ptr(), place, "mapped anew");
                    assert_same(found, &mine[WINDOW as usize..][..WINDOW as usize], "the child's cursor");
                    assert_same(&lease, &mine[2 * WINDOW as usize..][..WINDOW as usize], "the child's lease");
                    cursor.release();
                    drop((cursor, lease, handle));
                });
                let (_handle, mut cursor, lease) = held.unwrap();
                assert_eq!(cursor.window_at(WINDOW).unwrap().as_ptr(), place, "mapped anew in the parent");
                assert_same(&lease, &mine[2 * WINDOW as usize..][..WINDOW as usize], "the parent's lease");
            }
        }));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    maps.collect();
    assert_eq!(maps.stats().regions, 0);
    drop((handle, maps));
    assert!(dir.mapped().is_none_or(|mapped| mapped == Mapped::default()), "something is left");
}
