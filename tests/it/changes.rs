//! Files that change, and limits that are reached, in the middle of a call.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Admission, Change, ErrorKind, MapManager, Overcommit, Window};

use crate::support::{Dir, manager, settles};

const WINDOW: u64 = 64 << 10;

/// A file is cut and grown again, and each time noticed, while others ask for ranges that come and go. Each gets all of
/// its range, or an error that says why not. Nobody touches mapped bytes, since they may be behind the end.
#[test]
fn a_change_of_length_in_the_middle_of_a_call_is_an_error_or_nothing() {
    let dir = Dir::new();
    let path = dir.file("changing", 8 * WINDOW, 1).path;
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }));
    let (file, done) = (maps.open(&path).unwrap(), AtomicBool::new(false));
    let is_allowed = |kind| matches!(kind, ErrorKind::Truncated | ErrorKind::OutOfBounds);

    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (file, done) = (&file, &done);
            scope.spawn(move || {
                let mut cursor = file.cursor();
                for step in thread.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let start = step % 8 * WINDOW + step % 7;
                    let range = start..start + WINDOW / 2;
                    match file.lease(range.clone()) {
                        Ok(lease) => assert_eq!(lease.len() as u64, WINDOW / 2),
                        Err(error) => assert!(is_allowed(error.kind()), "{error}"),
                    }
                    match cursor.slice(range) {
                        Ok(slice) => {
                            assert_eq!(slice.len() as u64, WINDOW / 2, "a slice that is not what was asked for")
                        }
                        Err(error) => assert!(is_allowed(error.kind()), "{error}"),
                    }
                    for window in file.windows().take(2) {
                        if let Err(error) = window {
                            assert!(is_allowed(error.kind()), "{error}");
                        }
                    }
                }
            });
        }
        let on_disk = OpenOptions::new().write(true).open(&path).unwrap();
        for step in 0..40_000_u64 {
            on_disk.set_len(step % 3 * 3 * WINDOW + step % 5 * 1_000).unwrap();
            file.refresh().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_reader_of_the_tail_sees_what_was_appended() {
    let dir = Dir::new();
    let path = dir.write("log", *b"aaa\n").path;
    let maps = manager(MapManager::builder());
    let file = maps.open(&path).unwrap();
    let (mut cursor, mut buffer) = (file.cursor(), file.buffer());
    assert_eq!(cursor.window_at(0).unwrap(), b"aaa\n");
    assert_eq!(buffer.get(0).unwrap(), Some(b'a'));

    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"bbb\n").unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Grown);
    assert_eq!(buffer.rfind(b"bbb").unwrap(), Some(4));
    assert_eq!(buffer.find(b"a\nb").unwrap(), Some(2));
    assert_eq!(cursor.window_at(0).unwrap(), b"aaa\nbbb\n");
    drop((cursor, buffer));
    maps.collect();
    assert_eq!(maps.stats().regions, 0, "the old tail was leaked");
}

/// A thread waits for a descriptor's place, which takes long; another reads a copy of the same file meanwhile.
#[test]
fn who_copies_does_not_wait_for_who_waits_for_a_descriptor() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let dir = Dir::new();
    let (named, nameless) = (dir.file("named", 100, 1), dir.file("nameless", 100, 2));
    let maps = manager(MapManager::builder().max_open_files(1).overcommit(Overcommit::Wait(PATIENCE)));
    let named = maps.open(&named.path).unwrap();
    // It takes the place of the other's descriptor, which could be had again, and never gives it back.
    let nameless = maps.open_file(nameless.descriptor()).unwrap();

    let began = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| named.cursor().window_at(0).map(<[u8]>::len));
        thread::sleep(Duration::from_millis(100));
        named.read_exact_at(&mut [0; 10], 0).unwrap();
        assert!(began.elapsed() < PATIENCE / 2, "it waited with the other");
        drop(nameless);
        assert_eq!(waiting.join().unwrap().unwrap(), 100);
    });
    assert!(began.elapsed() < PATIENCE / 2, "it waited although there was a place");
}

#[test]
fn what_is_held_after_a_close_is_shown_as_pinned() {
    let dir = Dir::new();
    let file = dir.file("held", 100, 1);
    let maps = manager(MapManager::builder().admission(Admission::Always));
    let lease = maps.open(&file.path).unwrap().lease(..).unwrap();
    assert_eq!(maps.close(&file.path).still_held, 1);
    assert_eq!((maps.stats().pinned_regions, maps.stats().regions), (1, 1));
    drop(lease);
    assert_eq!((maps.stats().pinned_regions, maps.stats().regions), (0, 0));
}

/// Also where there is no room for another descriptor: what is open needs none.
#[test]
fn what_is_open_can_be_opened_again() {
    let dir = Dir::new();
    let (one, other) = (dir.file("one", 100, 1), dir.file("other", 100, 2));
    let maps = manager(MapManager::builder().max_open_files(1).overcommit(Overcommit::Fail));
    let nameless = maps.open_file(one.descriptor()).unwrap();
    let named = maps.open(&one.path).unwrap();
    assert_eq!((maps.stats().open_files, maps.stats().files), (1, 1));
    drop(nameless);
    assert_eq!(&named.lease(..).unwrap()[..], &one.bytes[..]);
    OpenOptions::new().append(true).open(&one.path).unwrap().write_all(b"more").unwrap();
    assert_eq!(maps.open(&one.path).unwrap().len(), 104, "opened again, and its growth not noticed");
    drop(named);
    assert_eq!(&maps.open(&other.path).unwrap().lease(..).unwrap()[..], &other.bytes[..]);
}

#[test]
fn close_counts_what_is_mapped_by_itself_and_leaves_the_descriptor() {
    let dir = Dir::new();
    let long = dir.file("long", 20 * WINDOW, 1);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always));
    let file = maps.open(&long.path).unwrap();
    let across = file.lease(10..9 * WINDOW).unwrap();
    let within = file.lease(15 * WINDOW..15 * WINDOW + 10).unwrap();
    file.cursor().window_at(17 * WINDOW).unwrap();
    let closed = maps.close(&long.path);
    assert_eq!((closed.unmapped, closed.still_held), (1, 2));
    #[cfg(unix)]
    assert_eq!(maps.stats().open_files, 1);
    drop((across, within));
    assert_eq!(maps.stats().regions, 0);
}

/// They may have all of the budget, until somebody who must have a mapping finds no place: then a sixteenth is kept free.
#[test]
fn cold_reads_leave_some_free_for_those_who_had_to_evict() {
    let dir = Dir::new();
    let long = dir.file("long", 40 * WINDOW, 1);
    let windows = MapManager::builder().window(Window::Sliding { bytes: WINDOW });
    for maps in [manager(windows.clone().max_regions(16)), manager(windows.max_mapped_bytes(16 * WINDOW))] {
        let file = maps.open(&long.path).unwrap();
        // The eighth touch is worth a mapping, where there is room.
        let mapped_by = |window: u64| {
            let mut leases = (0..8).map(|_| file.lease(window * WINDOW..window * WINDOW + 10).unwrap());
            leases.position(|lease| lease.is_mapped())
        };
        for window in 0..38 {
            assert_eq!(mapped_by(window), (window < 16).then_some(7), "window {window}");
        }
        assert_eq!((maps.stats().maps, maps.stats().copies, maps.stats().evictions), (16, 38 * 8 - 16, 0));

        assert_eq!(file.cursor().window_at(38 * WINDOW).unwrap().len() as u64, WINDOW);
        assert!(settles(|| maps.stats().regions == 15), "{:?}", maps.stats());
        assert_eq!((maps.stats().maps, maps.stats().overcommits), (17, 0));
        assert_eq!(mapped_by(39), None, "it took the place that is to be free");
        assert!(settles(|| maps.stats().regions == 15), "{:?}", maps.stats());
    }
}

#[test]
fn what_became_of_the_path_is_told() {
    let dir = Dir::new();
    let path = dir.file("path", 100, 1).path;
    let maps = manager(MapManager::builder());
    let (file, nameless) = (maps.open(&path).unwrap(), maps.open_file(std::fs::File::open(&path).unwrap()).unwrap());
    let all = || (file.refresh().unwrap(), nameless.refresh().unwrap());
    assert_eq!(all(), (Change::Unchanged, Change::Unchanged));

    #[cfg(unix)]
    {
        // Another name, other permissions: no change.
        std::fs::hard_link(&path, dir.path().join("link")).unwrap();
        assert_eq!(all(), (Change::Unchanged, Change::Unchanged));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Unchanged), "it has another name still");
        std::fs::remove_file(dir.path().join("link")).unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Deleted));
        dir.file("path", 50, 2);
        assert_eq!(all(), (Change::Replaced, Change::Deleted));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(dir.path()).unwrap();
        std::fs::write(dir.path(), "no directory any more").unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Deleted));
        std::fs::remove_file(dir.path()).unwrap();
        // Something is there, but nobody can tell what.
        std::fs::create_dir(dir.path()).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert_eq!(all(), (Change::Unchanged, Change::Deleted));
    }
    assert_eq!(file.len(), 100);
}

#[test]
fn a_read_past_the_new_end_says_where_that_is() {
    let dir = Dir::new();
    let path = dir.file("cut", 4 * WINDOW, 1).path;
    // No window fits, so that all is read, and nothing mapped is touched past the end.
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW });
    let maps = manager(builder.max_mapped_bytes(WINDOW));
    let mut limits = maps.limits();
    limits.max_mapped_bytes = 1;
    maps.set_limits(limits).unwrap();
    let file = maps.open(&path).unwrap();
    file.read_exact_at(&mut [0; 100], 2 * WINDOW).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * WINDOW + 10).unwrap();
    let error = file.read_exact_at(&mut [0; 100], 2 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.to_string().contains(&(2 * WINDOW + 10).to_string()), "{error}");
    assert_eq!((maps.stats().maps, maps.stats().copies), (0, 2));
}

#[test]
fn a_copy_of_what_is_mapped_is_a_hit() {
    let dir = Dir::new();
    let long = dir.file("long", 4 * WINDOW, 1);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }));
    let file = maps.open(&long.path).unwrap();
    file.prefetch(..).unwrap();
    let (mut buf, before) = (vec![0; 3 * WINDOW as usize], maps.stats());
    file.read_exact_at(&mut buf, 10).unwrap();
    assert_eq!(buf[..], long.bytes[10..][..buf.len()]);
    let after = maps.stats();
    assert_eq!((after.hits - before.hits, after.misses - before.misses, after.copies), (4, 0, 0));
}
