//! Changes of a file after it was opened: growth, truncation, rewrites and changes of its path.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use smmap::{Change, ErrorKind, MapManager, Revalidate, Window};

use crate::fixture::seeded::{SMALL, SOON, TICK, assert_bytes, assert_reads, file_in, part, poll, small, visit};
use crate::support::{Dir, manager};

/// Appends to a file. `refresh` reports growth, the cache keeps the entry, and every lease stays valid.
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
    // The window of the old end is longer now. A cursor that stands in it can read past the old end, too.
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
    // Another `open` finds the same entry.
    let again = maps.open(&path).unwrap();
    assert_eq!(again.len(), NEW);
    assert_eq!(maps.stats().files, 1);
    assert_bytes(&tail, 12, 2 * SMALL);
    drop((tail, cursor));
    poll(&maps, SOON, "every region is unmapped after the last client is dropped", || {
        maps.collect();
        maps.stats().regions == 0
    });
}

/// Opens a grown file again, without a call of `refresh`. The new handle has the new length.
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
    assert_eq!(maps.stats().regions, 0, "the region of the old tail was leaked");
}

/// Appends to an open file under `Revalidate::Never`. Neither `open` nor mapping a window asks the OS for the length
/// again; only `refresh` does.
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

/// Truncates a file. After `refresh` reports it, reads past the new end are errors, not faults.
///
/// No byte is borrowed or leased while the file shrinks, as the caller of `build` promises.
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

    // The remaining bytes are right, and the windows past the new end are unmapped.
    visit(&file, SMALL, 22, 0..4);
    assert_reads(&file, 22, 0, NEW as usize);
    drop(cursor);
    poll(&maps, SOON, "the windows past the end are unmapped", || maps.stats().regions == 4);

    // Reads of bytes appended later return the new bytes.
    thread::sleep(TICK);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(&part(23, NEW..8 * SMALL)).unwrap();
    drop(log);
    assert_eq!(file.refresh().unwrap(), Change::Grown);
    visit(&file, SMALL, 22, 0..3);
    visit(&file, SMALL, 23, 4..8);
    assert_bytes(&file.lease(NEW..4 * SMALL).unwrap(), 23, NEW);
}

/// Truncates and grows a file, with a `refresh` after each change, while other threads request ranges of it. Each call
/// returns its whole range, or one of two errors.
///
/// No thread reads the mapped bytes, because they may be past the end.
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
                            assert_eq!(slice.len() as u64, SMALL / 2, "the slice is shorter than the requested range")
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
        // Also if this thread panics: otherwise the scope would wait for the others.
        let _done = SetOnDrop(&done);
        let on_disk = OpenOptions::new().write(true).open(&path).unwrap();
        for step in 0..if cfg!(windows) { 4_000 } else { 40_000_u64 } {
            match on_disk.set_len(step % 3 * 3 * SMALL + step % 5 * 1_000) {
                // Windows truncates no file that has a mapping (ERROR_USER_MAPPED_FILE).
                Err(error) if cfg!(windows) && error.raw_os_error() == Some(1224) => {}
                set => set.unwrap(),
            }
            file.refresh().unwrap();
        }
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Rewrites a file in place at the same length. `refresh` reports it, and later reads return the new bytes.
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

/// Truncates a file, as a log rotation that copies does, and writes more than before until the next look.
#[cfg(target_os = "linux")]
#[test]
fn refresh_after_a_truncated_file_has_regrown_says_modified() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    if version < vec![6, 5] {
        return crate::support::say("SKIPPED: Linux before 6.5 does not tell whether bytes are in the page cache");
    }
    let dir = Dir::new();
    for (name, kept) in [("log", 0), ("cut", SMALL), ("other tail", 2 * SMALL - 1)] {
        let path = file_in(&dir, name, 14, 2 * SMALL);
        let maps = manager(small());
        let file = maps.open(&path).unwrap();
        thread::sleep(TICK);
        let mut again = OpenOptions::new().append(true).open(&path).unwrap();
        again.set_len(kept).unwrap();
        again.write_all(&part(15, 0..3 * SMALL)).unwrap();
        assert_eq!(file.refresh().unwrap(), Change::Modified, "{kept} bytes kept");
        assert_eq!(file.len(), kept + 3 * SMALL);
        again.write_all(b"appended").unwrap();
        assert_eq!(file.refresh().unwrap(), Change::Grown);
    }
}

/// Rewrites a file and sets its modification time back. `refresh` still reports the change, by the change time (ctime),
/// which cannot be set.
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

/// Adds a hard link and changes permissions, which changes the ctime of a file but not its content.
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
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "after a hard link was added");
    thread::sleep(TICK);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "after a chmod");
    thread::sleep(TICK);
    fs::remove_file(dir.path().join("link")).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Unchanged, "after a link was removed");

    // Opening the file again by another name maps nothing either.
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
        // An additional name is no change.
        std::fs::hard_link(&path, dir.path().join("link")).unwrap();
        assert_eq!(all(), (Change::Unchanged, Change::Unchanged));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Unchanged), "the file still has another name");
        std::fs::remove_file(dir.path().join("link")).unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Deleted));
        dir.file("path", 50, 2);
        assert_eq!(all(), (Change::Replaced, Change::Deleted));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(dir.path()).unwrap();
        std::fs::write(dir.path(), "a file in place of the directory").unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Deleted));
        std::fs::remove_file(dir.path()).unwrap();
        // The path exists, but is a symlink to itself and cannot be resolved. The file has no name left.
        std::fs::create_dir(dir.path()).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert_eq!(all(), (Change::Deleted, Change::Deleted));
    }
    assert_eq!(file.len(), 100);
}

/// Lets the cache close the descriptors of two files, and then deletes the first and replaces the second. The handles'
/// paths tell what happened.
#[test]
fn refresh_without_a_descriptor_says_deleted_or_replaced() {
    let dir = Dir::new();
    let paths = [1, 2].map(|seed| file_in(&dir, &format!("closed-{seed}"), seed, SMALL));
    let maps = manager(small().max_open_files(1));
    let files = paths.each_ref().map(|path| maps.open(path).unwrap());
    for (file, seed) in files.iter().zip([1, 2]) {
        visit(file, SMALL, seed, 0..1);
    }
    let _other = maps.open(file_in(&dir, "other", 3, SMALL)).unwrap();
    assert_eq!(maps.stats().open_files, 1);
    // Windows neither deletes nor replaces a file that has a mapping.
    for path in &paths {
        assert_eq!(maps.close(path).still_held, 0);
    }

    fs::remove_file(&paths[0]).unwrap();
    fs::rename(file_in(&dir, "new", 4, 2 * SMALL), &paths[1]).unwrap();
    assert_eq!(files[0].refresh().unwrap(), Change::Deleted);
    assert_eq!(files[1].refresh().unwrap(), Change::Replaced);
    assert_eq!(files[0].read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(files[1].read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Replaced);
}

/// Truncates a file whose length is not asked again. Windows maps nothing beyond the end of a file.
#[cfg(windows)]
#[test]
fn lease_beyond_an_unnoticed_end_says_truncated() {
    let dir = Dir::new();
    let path = file_in(&dir, "truncated", 1, 4 * SMALL);
    let maps = manager(small().revalidate(Revalidate::Never));
    let file = maps.open(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(SMALL + 10).unwrap();
    let error = file.cursor().window_at(2 * SMALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
    assert!(error.to_string().contains(&format!("{} bytes", SMALL + 10)), "{error}");
}
