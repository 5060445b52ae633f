//! Changes of a file after it was opened: growth, truncation, rewrites and changes of its path.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use smmap::{Change, ErrorKind, MapManager, Revalidate, Window};

use crate::fixture::seeded::{SMALL, SOON, TICK, assert_bytes, assert_reads, file_in, part, poll, small, visit};
use crate::support::{Dir, manager};

/// An append is growth, not a new file: the entry stays, and so does every lease.
#[test]
fn refresh_after_an_append_says_grown_and_keeps_leases() {
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
    log.write_all(&part(12, OLD..NEW)).unwrap();
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
    assert_eq!(cursor.slice(across.clone()).unwrap(), part(12, across.clone()));
    assert_eq!(&*file.lease(across.clone()).unwrap(), part(12, across));
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
fn open_of_a_grown_file_sees_the_new_length() {
    let dir = Dir::new();
    let path = file_in(&dir, "log", 13, 1000);
    let maps = manager(small());
    let old = maps.open(&path).unwrap();
    visit(&old, SMALL, 13, 0..1);
    thread::sleep(TICK);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&part(13, 1000..3 * SMALL)).unwrap();
    drop(log);
    let new = maps.open(&path).unwrap();
    assert_eq!(new.len(), 3 * SMALL);
    visit(&new, SMALL, 13, 0..3);
    assert_eq!(maps.stats().files, 1);
    assert_reads(&old, 13, 0, 1000);
}

#[test]
fn readers_of_the_tail_after_an_append_see_the_new_bytes() {
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

/// Who says that files never change is believed until he asks: no open, and no map, looks at a length again.
#[test]
fn open_with_never_keeps_the_old_length_until_refresh() {
    let dir = Dir::new();
    let path = file_in(&dir, "segment", 13, SMALL + 1000);
    let maps = manager(small().revalidate(Revalidate::Never));
    let old = maps.open(&path).unwrap();
    visit(&old, SMALL, 13, 0..1);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&part(13, SMALL + 1000..3 * SMALL)).unwrap();
    drop(log);
    let new = maps.open(&path).unwrap();
    assert_eq!((old.len(), new.len()), (SMALL + 1000, SMALL + 1000));
    visit(&new, SMALL, 13, 0..2);
    assert_eq!(new.refresh().unwrap(), Change::Grown);
    assert_eq!((old.len(), new.len()), (3 * SMALL, 3 * SMALL));
    visit(&old, SMALL, 13, 0..3);
}

/// A truncation that `refresh` notices is an error from then on, not a crash.
/// (Nothing is borrowed or leased while the file shrinks: that is the promise.)
#[cfg(unix)]
#[test]
fn refresh_after_a_truncation_says_truncated() {
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
    log.write_all(&part(23, NEW..8 * SMALL)).unwrap();
    drop(log);
    assert_eq!(file.refresh().unwrap(), Change::Grown);
    visit(&file, SMALL, 22, 0..3);
    visit(&file, SMALL, 23, 4..8);
    assert_bytes(&file.lease(NEW..4 * SMALL).unwrap(), 23, NEW);
}

/// A file is cut and grown again, and each time noticed, while others ask for ranges that come and go. Each gets all of
/// its range, or an error that says why not. Nobody touches mapped bytes, since they may be behind the end.
#[test]
fn length_change_during_a_read_gives_the_whole_range_or_an_error() {
    let dir = Dir::new();
    let path = dir.file("changing", 8 * SMALL, 1).path;
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: SMALL }));
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
                    let start = step % 8 * SMALL + step % 7;
                    let range = start..start + SMALL / 2;
                    match file.lease(range.clone()) {
                        Ok(lease) => assert_eq!(lease.len() as u64, SMALL / 2),
                        Err(error) => assert!(is_allowed(error.kind()), "{error}"),
                    }
                    match cursor.slice(range) {
                        Ok(slice) => {
                            assert_eq!(slice.len() as u64, SMALL / 2, "a slice that is not what was asked for")
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
            on_disk.set_len(step % 3 * 3 * SMALL + step % 5 * 1_000).unwrap();
            file.refresh().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Rewritten in place, at the same length: `refresh` tells, and what is read afterwards is new.
#[test]
fn refresh_after_a_rewrite_in_place_says_modified() {
    let dir = Dir::new();
    let path = file_in(&dir, "rewritten", 14, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 14, 0..2);
    thread::sleep(TICK);
    let mut again = OpenOptions::new().write(true).open(&path).unwrap();
    again.write_all(&part(15, 0..2 * SMALL)).unwrap();
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
fn refresh_after_a_backdated_rewrite_says_modified() {
    let dir = Dir::new();
    let path = file_in(&dir, "backdated", 14, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 14, 0..2);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    thread::sleep(TICK);
    let mut again = OpenOptions::new().write(true).open(&path).unwrap();
    again.write_all(&part(15, 0..2 * SMALL)).unwrap();
    again.set_modified(before).unwrap();
    drop(again);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    assert_eq!(file.refresh().unwrap(), Change::Modified);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
    visit(&file, SMALL, 15, 0..2);
}

/// A hard link or a chmod changes the file's ctime, but not the file.
#[cfg(unix)]
#[test]
fn refresh_after_a_hard_link_or_chmod_says_unchanged() {
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

#[test]
fn refresh_after_the_path_changed_says_deleted_or_replaced() {
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
