//! What nobody should pass, and somebody will: each has one defined answer, an error that says what to do or an empty
//! result, and never a panic, a hang or a signal.

use std::error::Error as _;
#[cfg(unix)]
use std::fs;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::ops::{Bound, Range};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use smmap::Change;
use smmap::{
    Admission, Error, ErrorKind, Lease, Limits, MapManager, MapManagerBuilder, MappedFile, Overcommit, Window,
};

use crate::support::{self, Dir, manager, try_manager};

const MIB: u64 = 1 << 20;
const WINDOW: u64 = MIB;

/// The length of the file of most tests: three windows and a bit.
const LEN: u64 = 3 * WINDOW + 1000;

fn small_windows() -> MapManagerBuilder {
    MapManager::builder().window(Window::Sliding { bytes: WINDOW })
}

fn builder() -> MapManagerBuilder {
    small_windows().max_mapped_bytes(64 * MIB).max_regions(100).max_open_files(100)
}

const SEED: u64 = 5;

fn file_in(dir: &Dir, name: &str, len: u64) -> PathBuf {
    dir.file(name, len, SEED).path
}

/// A part of any of the files.
fn content(range: Range<u64>) -> Vec<u8> {
    support::bytes(SEED, range.end).split_off(range.start as usize)
}

/// A cache and a file of [`LEN`] bytes.
fn with_file() -> (Dir, MapManager, MappedFile) {
    let dir = Dir::new();
    let maps = manager(builder());
    let file = maps.open(file_in(&dir, "file", LEN)).unwrap();
    (dir, maps, file)
}

/// `build` does not accept this configuration, and says why.
#[track_caller]
fn assert_build_refuses(what: &str, builder: MapManagerBuilder) {
    let error = try_manager(builder).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{what}: {error:?}");
    assert_eq!((error.path(), error.range()), (None, None), "{what}: {error:?}");
    assert!(!error.to_string().is_empty(), "{what}");
}

/// Opening `path` fails as `kind`, at once, and the error says where; returns it.
#[track_caller]
fn assert_open_fails(maps: &MapManager, path: &Path, kind: ErrorKind) -> Error {
    let (send, answer) = mpsc::channel();
    thread::spawn({
        let (maps, path) = (maps.clone(), path.to_owned());
        move || send.send(maps.open(path))
    });
    let opened = answer.recv_timeout(Duration::from_secs(20));
    let error = opened.expect("open does not block").expect_err("it does not open");
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.path(), Some(path), "{error:?}");
    let name = path.to_str().expect("a name that is text");
    if !name.contains('\0') && name.len() < 1000 {
        assert!(error.to_string().contains(name), "does not name the file: {error}");
    }
    let stats = maps.stats();
    assert_eq!((stats.files, stats.open_files), (0, 0), "something stays: {stats:?}");
    error
}

/// Where an error, or one of its sources, is the system's.
fn raw_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let raw = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if raw.is_some() {
            return raw;
        }
        next = error.source();
    }
    None
}

/// A range of no sensible shape: both bounds as they come.
type Bounds = (Bound<u64>, Bound<u64>);

/// Every way to ask for `range`, each as the bytes it gave.
fn every_way(file: &MappedFile, range: Bounds) -> [(&'static str, Result<Vec<u8>, Error>); 3] {
    [
        ("lease", file.lease(range).map(|lease| lease.to_vec())),
        ("cursor.slice", file.cursor().slice(range).map(<[u8]>::to_vec)),
        ("buffer.slice", file.buffer().slice(range).map(<[u8]>::to_vec)),
    ]
}

// ---------------------------------------------------------------------------------------------------------------
// What is not a file
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_directory_is_not_a_file() {
    let dir = Dir::new();
    let maps = manager(builder());
    assert_open_fails(&maps, dir.path(), ErrorKind::NotAFile);
    assert_open_fails(&maps, &dir.path().join("."), ErrorKind::NotAFile);
}

/// A FIFO without a writer must not block `open`, and one with a writer must not lose what was written.
#[cfg(unix)]
#[test]
fn a_fifo_is_not_a_file_and_does_not_block() {
    let dir = Dir::new();
    let path = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("run mkfifo");
    assert!(made.success());
    let maps = manager(builder());
    assert_open_fails(&maps, &path, ErrorKind::NotAFile);

    // Opened for reading and writing it does not block us either, so that there is a writer and something to read.
    let mut both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    io::Write::write_all(&mut both, b"kept").unwrap();
    assert_open_fails(&maps, &path, ErrorKind::NotAFile);
    let by_descriptor = maps.open_file(both.try_clone().unwrap()).unwrap_err();
    assert_eq!(by_descriptor.kind(), ErrorKind::NotAFile, "{by_descriptor:?}");
    assert_eq!(by_descriptor.path(), None);
    let mut kept = [0; 4];
    both.read_exact(&mut kept).unwrap();
    assert_eq!(&kept, b"kept");
}

#[cfg(unix)]
#[test]
fn a_socket_is_not_a_file() {
    let dir = Dir::new();
    let path = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_open_fails(&manager(builder()), &path, ErrorKind::NotAFile);
}

#[cfg(unix)]
#[test]
fn a_device_is_not_a_file() {
    let maps = manager(builder());
    assert_open_fails(&maps, Path::new("/dev/null"), ErrorKind::NotAFile);
    assert_open_fails(&maps, Path::new("/dev/zero"), ErrorKind::NotAFile);
    let error = maps.open_file(File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
    let error = maps.open_file(File::open("/").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
}

/// It says that it is a regular file of length 0, and has content all the same: not to be taken for an empty file.
#[cfg(target_os = "linux")]
#[test]
fn a_file_of_proc_is_not_a_file() {
    let path = Path::new("/proc/self/status");
    assert!(!fs::read(path).unwrap().is_empty());
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
    let maps = manager(builder());
    assert_open_fails(&maps, path, ErrorKind::NotAFile);
    let error = maps.open_file(File::open(path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
}

/// It says that it is a regular file of one page, and is shorter and cannot be mapped: no byte is made up.
#[cfg(target_os = "linux")]
#[test]
fn a_file_of_sys_opens_and_cannot_be_read() {
    let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if !path.exists() {
        eprintln!("SKIPPED: a_file_of_sys_opens_and_cannot_be_read: no {}", path.display());
        return;
    }
    let maps = manager(builder());
    let file = maps.open(path).unwrap();
    assert!(file.len() > fs::read(path).unwrap().len() as u64);
    let refused = [
        file.lease(..).unwrap_err(),
        file.cursor().window_at(0).unwrap_err(),
        file.read_exact_at(&mut vec![0; file.len() as usize], 0).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Truncated), "{error:?}");
    }
    assert_eq!(maps.stats().mapped_bytes, 0);
}

#[cfg(unix)]
#[test]
fn a_symlink_is_what_it_leads_to() {
    use std::os::unix::fs::symlink;
    let dir = Dir::new();
    let maps = manager(builder());
    symlink(dir.path(), dir.path().join("to-a-directory")).unwrap();
    assert_open_fails(&maps, &dir.path().join("to-a-directory"), ErrorKind::NotAFile);
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    let error = assert_open_fails(&maps, &dir.path().join("dangling"), ErrorKind::Io);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    symlink("loop", dir.path().join("loop")).unwrap();
    assert_open_fails(&maps, &dir.path().join("loop"), ErrorKind::Io);
}

/// Who may not follow links opens the file himself, and hands the descriptor over: then nobody looks at the path again.
#[cfg(unix)]
#[test]
fn a_link_is_followed_and_a_descriptor_needs_no_path() {
    use std::os::unix::fs::{OpenOptionsExt as _, symlink};
    let dir = Dir::new();
    let (path, secret) = (file_in(&dir, "file", 5000), dir.file("secret", 5000, SEED + 1).path);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let maps = manager(builder().max_open_files(1));
    let followed = maps.open(&link).unwrap();
    assert_eq!((&*followed.lease(..).unwrap(), followed.path()), (&content(0..5000)[..], Some(&*link)));
    drop((followed, maps));

    let open = |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    assert!(open(&link).is_err(), "a link was followed");
    let maps = manager(builder().max_open_files(1));
    let file = maps.open_file(open(&path).unwrap()).unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    symlink(&secret, &path).unwrap();
    // It presses for the only place that a descriptor has.
    let other = maps.open(&path).unwrap();
    assert_eq!(&*other.lease(..).unwrap(), support::bytes(SEED + 1, 5000));
    maps.collect();
    assert_eq!(&*file.lease(..).unwrap(), content(0..5000));
    // Of the same file: the rename moved its time of change, for all that can be told.
    assert!(matches!(file.refresh().unwrap(), Change::Modified | Change::Unchanged));
    assert_eq!((file.path(), file.len()), (None, 5000));
}

/// A named file whose path leads elsewhere by now is not read from there, link or not.
#[cfg(unix)]
#[test]
fn a_path_that_became_a_link_does_not_deceive() {
    let dir = Dir::new();
    let (path, secret) = (file_in(&dir, "file", 5000), dir.file("secret", 5000, SEED + 1).path);
    let other = file_in(&dir, "other", 10);
    let maps = manager(builder().max_open_files(1));
    let file = maps.open(&path).unwrap();
    // Its descriptor is given up for this one, as it can be had again by its path.
    let other = maps.open(&other).unwrap();
    other.refresh().unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    assert_eq!(file.lease(..).unwrap_err().kind(), ErrorKind::Replaced);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap_err().kind(), ErrorKind::Replaced);
    assert_eq!(file.refresh().unwrap_err().kind(), ErrorKind::Replaced);
    // One that leads to a file that is known is that file.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
    let again = maps.open(&path).unwrap();
    assert_eq!((again.len(), maps.stats().files), (10, 2));
}

// ---------------------------------------------------------------------------------------------------------------
// Paths that lead nowhere
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_missing_file_keeps_the_systems_reason() {
    let dir = Dir::new();
    let path = dir.path().join("missing");
    let expected = File::open(&path).unwrap_err();
    let error = assert_open_fails(&manager(builder()), &path, ErrorKind::Io);
    let source = error.source().expect("a source").downcast_ref::<io::Error>().expect("an io::Error");
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(source.raw_os_error(), expected.raw_os_error());
    assert_eq!(error.range(), None);

    let converted = io::Error::from(error);
    assert_eq!(converted.kind(), io::ErrorKind::NotFound);
    assert_eq!(raw_error(&converted), expected.raw_os_error());
    assert!(converted.to_string().contains("missing"), "the path is lost: {converted}");
}

#[test]
fn paths_that_no_system_opens() {
    let dir = Dir::new();
    let file = file_in(&dir, "file", 10);
    let maps = manager(builder());
    let refused = |path: &Path| {
        let expected = File::open(path).unwrap_err().kind();
        let error = assert_open_fails(&maps, path, ErrorKind::Io);
        assert_eq!(io::Error::from(error).kind(), expected, "{path:?}");
        let closed = maps.close(path);
        assert_eq!((closed.unmapped, closed.still_held), (0, 0), "{path:?}");
    };
    refused(Path::new(""));
    refused(Path::new("inter\0ior"));
    refused(&dir.path().join("inter\0ior"));
    refused(&file.join("a-file-is-no-directory"));
    refused(&dir.path().join("long".repeat(20_000)));
}

#[cfg(unix)]
#[test]
fn no_permission_keeps_the_systems_reason() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Dir::new();
    let path = file_in(&dir, "secret", 10);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        eprintln!("not run: no_permission_keeps_the_systems_reason (root may read everything)");
        // But then the file has to open.
        assert_eq!(manager(builder()).open(&path).unwrap().len(), 10);
        return;
    }
    let error = assert_open_fails(&manager(builder()), &path, ErrorKind::Io);
    let source = error.source().expect("a source").downcast_ref::<io::Error>().expect("an io::Error");
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
}

/// It cannot be read, so it cannot be mapped: said when it is opened, not when it is read.
#[test]
fn a_descriptor_that_is_write_only_is_refused() {
    let dir = Dir::new();
    let path = file_in(&dir, "write-only", 5000);
    let maps = manager(builder());
    let error = maps.open_file(OpenOptions::new().write(true).open(&path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert_eq!(error.path(), None);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(maps.stats().files, 0);
    // One that can do both is fine.
    let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let file = maps.open_file(both).unwrap();
    assert_eq!(file.cursor().window_at(10).unwrap(), content(10..5000));
}

/// A name is bytes, not text.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_not_utf8_is_a_path() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = Dir::new();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9-\xff"));
    fs::write(&path, content(0..5000)).unwrap();
    let maps = manager(builder());
    let file = maps.open(&path).unwrap();
    assert_eq!(file.path(), Some(&*path));
    assert_eq!(file.cursor().window_at(1).unwrap(), content(1..5000));
    let error = file.lease(4000..6000).unwrap_err();
    assert_eq!(error.path(), Some(&*path));
    assert!(error.to_string().contains("caf"), "{error}");
    assert!(format!("{file:?} {error:?}").contains("caf"));
    assert!(io::Error::from(error).to_string().contains("caf"));
    assert_eq!(maps.close(&path).unmapped, 1);

    let missing = dir.path().join(std::ffi::OsStr::from_bytes(b"\xc3"));
    let error = maps.open(&missing).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&*missing)));
}

#[cfg(unix)]
#[test]
fn a_file_deleted_after_open_is_read_on() {
    let (dir, maps, file) = with_file();
    let descriptor = maps.open_file(File::open(dir.path().join("file")).unwrap()).unwrap();
    fs::remove_file(dir.path().join("file")).unwrap();
    assert_eq!(file.path(), Some(&*dir.path().join("file")));
    assert_eq!(descriptor.path(), None);
    for file in [&file, &descriptor] {
        assert_eq!(file.cursor().window_at(WINDOW).unwrap(), content(WINDOW..2 * WINDOW));
        assert_eq!(&*file.lease(2 * WINDOW..LEN).unwrap(), content(2 * WINDOW..LEN));
        let mut copy = vec![0; 2000];
        file.read_exact_at(&mut copy, WINDOW - 1000).unwrap();
        assert_eq!(copy, content(WINDOW - 1000..WINDOW + 1000));
        file.refresh().unwrap();
        assert_eq!(file.len(), LEN);
    }
    let error = maps.open(dir.path().join("file")).unwrap_err();
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

// ---------------------------------------------------------------------------------------------------------------
// Nothing to read
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn an_empty_file_is_empty_everywhere() {
    let dir = Dir::new();
    let path = file_in(&dir, "empty", 0);
    let maps = manager(builder());
    for file in [maps.open(&path).unwrap(), maps.open_file(File::open(&path).unwrap()).unwrap()] {
        assert_eq!((file.len(), file.is_empty()), (0, true));
        assert!(file.lease(..).unwrap().is_empty());
        assert!(file.lease(0..0).unwrap().is_empty());
        assert_eq!(file.lease(0..1).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(file.lease(1..1).unwrap_err().kind(), ErrorKind::OutOfBounds);
        let mut buf = [7; 4];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 0);
        file.read_exact_at(&mut [], 0).unwrap();
        assert_eq!(file.read_exact_at(&mut buf, 0).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(buf, [7; 4]);
        file.prefetch(..).unwrap();
        file.refresh().unwrap();

        let mut cursor = file.cursor();
        assert!(cursor.window_at(0).unwrap().is_empty());
        assert!(cursor.slice(..).unwrap().is_empty());
        assert_eq!(cursor.read(&mut buf).unwrap(), 0);
        assert!(cursor.fill_buf().unwrap().is_empty());
        assert_eq!(cursor.seek(SeekFrom::End(0)).unwrap(), 0);
        let mut windows = file.windows();
        assert_eq!(windows.len(), 0);
        assert!(windows.next().is_none());
        assert!(windows.next_back().is_none());

        let mut buffer = file.buffer();
        assert_eq!((buffer.len(), buffer.is_empty()), (0, true));
        assert_eq!(buffer.get(0).unwrap(), None);
        assert_eq!(buffer.get_back(0).unwrap(), None);
        assert_eq!(buffer.find(b"x").unwrap(), None);
        assert_eq!(buffer.rfind(b"x").unwrap(), None);
        assert_eq!(buffer.find_iter(b"x").count(), 0);
        assert!(buffer.equals(b"").unwrap() && buffer.starts_with(b"").unwrap() && buffer.ends_with(b"").unwrap());
        assert!(!buffer.equals(b"x").unwrap() && !buffer.starts_with(b"x").unwrap());
        assert_eq!(buffer.compare(b"x").unwrap(), std::cmp::Ordering::Less);
        assert_eq!(buffer.lines().count(), 0);
        assert_eq!(buffer.split(b',').map(|piece| piece.unwrap().len()).collect::<Vec<_>>(), [0]);
    }
    let stats = maps.stats();
    assert_eq!((stats.maps, stats.mapped_bytes, stats.regions), (0, 0, 0), "{stats:?}");
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 0));
}

/// A range of no bytes is there wherever a byte, or the end, is.
#[test]
fn a_zero_length_range_is_empty_up_to_the_end() {
    let (_dir, maps, file) = with_file();
    for at in [0, 1, WINDOW - 1, WINDOW, LEN - 1, LEN] {
        for (way, found) in every_way(&file, (Bound::Included(at), Bound::Excluded(at))) {
            assert!(found.unwrap().is_empty(), "{way} at {at}");
        }
        assert_eq!(file.lease(at..at).unwrap().len(), 0);
        file.prefetch(at..at).unwrap();
        assert_eq!(file.read_at(&mut [], at).unwrap(), 0);
        file.read_exact_at(&mut [], at).unwrap();
    }
    for at in [LEN + 1, u64::MAX - 1, u64::MAX] {
        for (way, found) in every_way(&file, (Bound::Included(at), Bound::Excluded(at))) {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::OutOfBounds, "{way} at {at}");
        }
    }
    assert_eq!(maps.stats().pinned_regions, 0);
}

// ---------------------------------------------------------------------------------------------------------------
// Ranges that are none
// ---------------------------------------------------------------------------------------------------------------

/// Reversed, past the end, and as far as a number goes: always the same kind of error, never a panic.
#[test]
fn ranges_that_are_not_in_the_file_are_out_of_bounds() {
    use Bound::{Excluded, Included, Unbounded};
    let (dir, maps, file) = with_file();
    let bad: [Bounds; 17] = [
        (Included(5), Excluded(3)),
        (Included(2 * WINDOW), Excluded(WINDOW)),
        (Included(LEN), Excluded(0)),
        (Included(0), Excluded(LEN + 1)),
        (Included(LEN), Excluded(LEN + 1)),
        (Included(LEN), Included(LEN)),
        (Included(LEN + 1), Unbounded),
        (Included(LEN + WINDOW), Excluded(LEN + 2 * WINDOW)),
        (Unbounded, Included(LEN)),
        (Unbounded, Excluded(u64::MAX)),
        (Included(0), Included(u64::MAX)),
        (Included(u64::MAX), Unbounded),
        (Included(u64::MAX), Included(u64::MAX)),
        (Excluded(u64::MAX), Unbounded),
        (Excluded(u64::MAX), Included(u64::MAX)),
        (Excluded(LEN), Unbounded),
        (Included(u64::MAX), Excluded(0)),
    ];
    for range in bad {
        for (way, found) in every_way(&file, range) {
            let error = found.map(|found| found.len()).expect_err(way);
            assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{way} {range:?}: {error:?}");
            assert_eq!(error.path(), Some(&*dir.path().join("file")), "{way} {range:?}");
            assert!(error.range().is_some(), "{way} {range:?}: {error:?}");
            assert!(error.to_string().contains(dir.path().join("file").to_str().unwrap()), "{error}");
        }
        let error = file.prefetch(range).expect_err("prefetch");
        assert_eq!(error.kind(), ErrorKind::OutOfBounds, "prefetch {range:?}: {error:?}");
    }
    // Nothing was mapped, or stays held, for any of them.
    assert_eq!(maps.stats().pinned_regions, 0);
    assert_eq!(maps.stats().maps, 0);
}

/// Bounds of every kind mean what they mean for a slice.
#[test]
fn bounds_of_every_kind_mean_what_they_do_for_slices() {
    use Bound::{Excluded, Included, Unbounded};
    let (_dir, _maps, file) = with_file();
    let all = content(0..LEN);
    let good: [(Bounds, Range<u64>); 9] = [
        ((Excluded(5), Included(7)), 6..8),
        ((Excluded(5), Excluded(6)), 6..6),
        ((Excluded(5), Excluded(9)), 6..9),
        ((Included(5), Included(5)), 5..6),
        ((Excluded(LEN - 1), Unbounded), LEN..LEN),
        ((Excluded(LEN - 2), Included(LEN - 1)), LEN - 1..LEN),
        ((Unbounded, Included(0)), 0..1),
        ((Unbounded, Excluded(0)), 0..0),
        ((Excluded(WINDOW - 10), Included(2 * WINDOW + 10)), WINDOW - 9..2 * WINDOW + 11),
    ];
    for (bounds, range) in good {
        let expected = &all[range.start as usize..range.end as usize];
        for (way, found) in every_way(&file, bounds) {
            assert!(found.unwrap() == expected, "{way} {bounds:?}");
        }
        assert_eq!(file.lease(bounds).unwrap().offset(), range.start, "{bounds:?}");
        file.prefetch(bounds).unwrap();
    }
    assert!(&*file.lease(..).unwrap() == all.as_slice());
}

// ---------------------------------------------------------------------------------------------------------------
// The largest number there is
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn the_largest_offset_is_only_past_the_end() {
    let (_dir, maps, file) = with_file();
    let mut cursor = file.cursor();
    let mut buffer = file.buffer();
    let mut buf = [9; 16];
    for offset in [LEN, LEN + 1, LEN + WINDOW, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 15, u64::MAX] {
        assert!(cursor.window_at(offset).unwrap().is_empty(), "{offset}");
        assert_eq!(file.read_at(&mut buf, offset).unwrap(), 0, "{offset}");
        let error = file.read_exact_at(&mut buf, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{offset}: {error:?}");
        assert_eq!(buf, [9; 16], "{offset}");
        assert_eq!(buffer.get(offset).unwrap(), None, "{offset}");
        assert_eq!(buffer.get_back(offset).unwrap(), None, "{offset}");
    }
    assert_eq!(buffer.get_back(LEN - 1).unwrap(), Some(content(0..1)[0]));
    assert_eq!(buffer.get_back(0).unwrap(), Some(content(LEN - 1..LEN)[0]));
    // A read that begins inside and ends far outside gives what is there, or nothing at all.
    assert_eq!(file.read_at(&mut buf, LEN - 5).unwrap(), 5);
    assert_eq!(buf[..5], content(LEN - 5..LEN));
    assert_eq!(file.read_exact_at(&mut buf, LEN - 5).unwrap_err().kind(), ErrorKind::OutOfBounds);
    buffer.release();
    cursor.release();
    assert_eq!(maps.stats().pinned_regions, 0);
}

#[test]
fn a_cursor_may_stand_anywhere_and_moves_nowhere_by_overflow() {
    let (_dir, _maps, file) = with_file();
    let mut cursor = file.cursor();
    let mut buf = [9; 16];

    // Past the end there is nothing to read, as in a file.
    for position in [LEN, LEN + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(cursor.seek(SeekFrom::Start(position)).unwrap(), position);
        assert_eq!(cursor.position(), position);
        assert_eq!(cursor.read(&mut buf).unwrap(), 0);
        assert!(cursor.fill_buf().unwrap().is_empty());
        assert_eq!(cursor.read_exact(&mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(cursor.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert_eq!(cursor.position(), position, "a read of nothing moves nothing");
        cursor.set_position(0);
        cursor.set_position(position);
        assert_eq!(cursor.stream_position().unwrap(), position);
    }

    // Before the start, and past the largest number, is an error that leaves the cursor where it is.
    let refused = |cursor: &mut smmap::Cursor, to: SeekFrom| {
        let before = cursor.position();
        assert_eq!(cursor.seek(to).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{before} {to:?}");
        assert_eq!(cursor.position(), before, "{to:?}");
    };
    refused(&mut cursor, SeekFrom::Current(1));
    refused(&mut cursor, SeekFrom::Current(i64::MAX));
    cursor.set_position(7);
    refused(&mut cursor, SeekFrom::Current(-8));
    refused(&mut cursor, SeekFrom::Current(i64::MIN));
    refused(&mut cursor, SeekFrom::End(-(LEN as i64) - 1));
    refused(&mut cursor, SeekFrom::End(i64::MIN));
    assert_eq!(cursor.seek(SeekFrom::End(i64::MAX)).unwrap(), LEN + i64::MAX as u64);
    assert_eq!(cursor.seek(SeekFrom::Current(i64::MIN)).unwrap(), LEN - 1);
    assert_eq!(cursor.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], content(LEN - 1..LEN)[0]);
    assert_eq!(cursor.seek(SeekFrom::End(-(LEN as i64))).unwrap(), 0);
    cursor.read_exact(&mut buf).unwrap();
    assert_eq!(&buf[..], content(0..16));
}

/// `Lease::slice` panics exactly where a slice does.
#[test]
fn a_lease_is_sliced_as_a_slice_is() {
    let (_dir, _maps, file) = with_file();
    let lease = file.lease(100..200).unwrap();
    let panics = |range: (Bound<usize>, Bound<usize>)| {
        let bytes = lease.to_vec();
        let ours = catch_unwind(|| drop(lease.slice(range))).is_err();
        let theirs = catch_unwind(|| bytes[range].len()).is_err();
        assert_eq!(ours, theirs, "{range:?}");
        ours
    };
    use Bound::{Excluded, Included, Unbounded};
    assert!(panics((Included(5), Excluded(3))));
    assert!(panics((Included(0), Excluded(101))));
    assert!(panics((Included(101), Unbounded)));
    assert!(panics((Included(0), Included(usize::MAX))));
    assert!(panics((Excluded(usize::MAX), Unbounded)));
    assert!(panics((Unbounded, Included(100))));
    assert!(!panics((Included(100), Unbounded)));
    assert!(!panics((Excluded(9), Included(99))));
    assert_eq!(lease.slice((Excluded(9), Included(99))).offset(), 110);
    // None of it harmed the lease.
    assert_eq!(&*lease, content(100..200));
    assert!(Lease::default().slice(0..0).is_empty());
    assert!(catch_unwind(|| Lease::default().slice(0..1)).is_err());
}

// ---------------------------------------------------------------------------------------------------------------
// Configurations
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn zero_limits_are_no_configuration() {
    assert_build_refuses("no bytes", builder().max_mapped_bytes(0));
    assert_build_refuses("no regions", builder().max_regions(0));
    assert_build_refuses("no open files", builder().max_open_files(0));
    let zero = Limits { max_mapped_bytes: 0, max_regions: 0, max_open_files: 0 };
    assert_build_refuses("nothing", MapManager::builder().limits(zero));
    assert_build_refuses("no bytes, whole files", builder().window(Window::WholeFile).max_mapped_bytes(0));
}

/// A running cache refuses them too, and goes on with what it has.
#[test]
fn a_running_cache_is_unchanged_by_limits_that_it_refuses() {
    let (_dir, maps, file) = with_file();
    let before = maps.limits();
    assert_eq!((before.max_mapped_bytes, before.max_regions, before.max_open_files), (64 * MIB, 100, 100));
    let mut cursor = file.cursor();
    for offset in [0, WINDOW, 2 * WINDOW] {
        cursor.window_at(offset).unwrap();
    }
    let zero = [
        Limits { max_mapped_bytes: 0, ..before },
        Limits { max_regions: 0, ..before },
        Limits { max_open_files: 0, ..before },
        // A good part does not make up for a bad one.
        Limits { max_mapped_bytes: WINDOW, max_regions: 0, max_open_files: 1 },
    ];
    for limits in zero {
        let error = maps.set_limits(limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        assert_eq!((error.path(), error.range()), (None, None));
        assert!(error.to_string().contains("max_"), "does not name the limit: {error}");
        assert_eq!(maps.limits(), before);
    }
    assert_eq!(maps.stats().regions, 3);
    assert_eq!(cursor.window_at(2 * WINDOW + 1).unwrap().len() as u64, WINDOW - 1);
}

/// A budget below one window makes the windows smaller; one below the smallest window is no configuration.
#[test]
fn a_budget_below_one_window_shrinks_the_window() {
    let dir = Dir::new();
    let path = file_in(&dir, "file", LEN);
    let small = 256 << 10;
    let maps = manager(builder().window(Window::Sliding { bytes: 16 * MIB }).max_mapped_bytes(small));
    let window = maps.window_bytes().unwrap();
    assert!(window > 0 && window <= small, "{window}");
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    let mut offset = 0;
    while offset < LEN {
        let found = cursor.window_at(offset).unwrap();
        assert!(!found.is_empty() && found.len() as u64 <= window);
        let end = offset + found.len() as u64;
        assert!(found == content(offset..end), "{offset}..{end}");
        assert!(maps.stats().mapped_bytes <= small);
        offset = end;
    }
    assert_eq!(offset, LEN);
    assert!(maps.stats().peak_mapped_bytes <= small);
    let mut all = vec![0; LEN as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == content(0..LEN));

    assert_build_refuses("one byte", builder().max_mapped_bytes(1));
    assert_build_refuses("less than a page", builder().max_mapped_bytes(4095));
    // Unaligned, but enough.
    let maps = manager(builder().max_mapped_bytes(3 * (64 << 10) + 1));
    assert!(maps.window_bytes().unwrap() <= 3 * (64 << 10) + 1);
    assert_eq!(maps.open(&path).unwrap().cursor().window_at(0).unwrap()[..100], content(0..100));
}

/// A window of no size is no configuration. One of a single byte is rounded up, and one of more bytes than there are
/// is refused, or shrinks to the budget.
#[test]
fn windows_of_extreme_sizes_are_refused_or_rounded() {
    let dir = Dir::new();
    let path = file_in(&dir, "file", LEN);
    let works = |maps: &MapManager| {
        let window = maps.window_bytes().expect("a sliding window");
        assert!((4096..=64 * MIB).contains(&window), "{window}");
        let file = maps.open(&path).unwrap();
        let mut cursor = file.cursor();
        let found = cursor.window_at(WINDOW + 5).unwrap();
        assert!(!found.is_empty() && found.len() as u64 <= window);
        assert!(*found == content(WINDOW + 5..WINDOW + 5 + found.len() as u64)[..]);
        assert!(*file.lease(WINDOW - 9..WINDOW + 9).unwrap() == content(WINDOW - 9..WINDOW + 9)[..]);
        assert_eq!(file.windows().len() as u64, LEN.div_ceil(window));
    };
    assert_build_refuses("a window of nothing", builder().window(Window::Sliding { bytes: 0 }));
    for bytes in [u64::MAX, u64::MAX - 4095, 1 << 63] {
        let builder = builder().window(Window::Sliding { bytes });
        match try_manager(builder) {
            Ok(maps) => works(&maps),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bytes}: {error:?}"),
        }
    }
    for bytes in [1, 4095, 4097, WINDOW + 1] {
        let maps = manager(builder().window(Window::Sliding { bytes }));
        assert!(maps.window_bytes().unwrap() >= bytes);
        works(&maps);
    }
}

/// Limits without limit are limits.
#[test]
fn the_largest_limits_are_limits() {
    let dir = Dir::new();
    let path = file_in(&dir, "file", LEN);
    let all = Limits { max_mapped_bytes: u64::MAX, max_regions: usize::MAX, max_open_files: usize::MAX };
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::MAX)] {
        let maps = manager(small_windows().limits(all).overcommit(overcommit).admission(Admission::Always));
        let file = maps.open(&path).unwrap();
        let leases: Vec<_> = file.windows().map(Result::unwrap).collect();
        assert_eq!(leases.len() as u64, LEN.div_ceil(WINDOW));
        assert!(*file.lease(..).unwrap() == content(0..LEN)[..]);
        assert_eq!(maps.stats().overcommits, 0);
        maps.set_limits(all).unwrap();
        assert!(*file.cursor().window_at(5).unwrap() == content(5..WINDOW)[..]);
    }
}

/// To wait for ever is to wait until somebody lets go.
#[test]
fn waiting_for_ever_is_no_overflow() {
    let dir = Dir::new();
    let maps = manager(builder().max_mapped_bytes(WINDOW).overcommit(Overcommit::Wait(Duration::MAX)));
    let file = maps.open(file_in(&dir, "file", LEN)).unwrap();
    let held = file.lease(0..WINDOW).unwrap();
    let (send, answer) = mpsc::channel();
    thread::spawn({
        let file = file.clone();
        move || send.send(file.lease(WINDOW..2 * WINDOW))
    });
    let early = answer.recv_timeout(Duration::from_millis(100));
    assert_eq!(early.unwrap_err(), mpsc::RecvTimeoutError::Timeout, "it did not wait");
    drop(held);
    let next = answer.recv_timeout(Duration::from_secs(20)).expect("it goes on").unwrap();
    assert!(*next == content(WINDOW..2 * WINDOW)[..]);
    assert_eq!(maps.stats().overcommits, 0);
    assert!(maps.stats().peak_mapped_bytes <= WINDOW);
}

/// Nothing to wait is not for ever.
#[test]
fn waiting_for_no_time_fails_at_once() {
    let dir = Dir::new();
    let maps = manager(builder().max_mapped_bytes(WINDOW).overcommit(Overcommit::Wait(Duration::ZERO)));
    let file = maps.open(file_in(&dir, "file", LEN)).unwrap();
    let held = file.lease(0..WINDOW).unwrap();
    let error = file.lease(WINDOW..2 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget, "{error:?}");
    assert!(*held == content(0..WINDOW)[..]);
}

// ---------------------------------------------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------------------------------------------

/// An error is read by somebody who was not there: where it was, and what to do.
#[track_caller]
fn assert_tells(error: &Error, path: &Path, range: &Range<u64>, advice: &[&str]) {
    let said = error.to_string();
    assert!(said.contains(path.to_str().unwrap()), "the path is not in: {said}");
    for bound in [range.start, range.end] {
        assert!(said.contains(&bound.to_string()), "{bound} is not in: {said}");
    }
    let lower = said.to_lowercase();
    assert!(advice.iter().any(|word| lower.contains(word)), "none of {advice:?} is in: {said}");
    let debug = format!("{error:?}");
    assert!(debug.contains(&format!("{:?}", error.kind())), "{debug}");
}

#[test]
fn an_error_out_of_bounds_tells_where() {
    let (dir, _maps, file) = with_file();
    let path = dir.path().join("file");
    let range = LEN - 3..LEN + 4;
    let error = file.lease(range.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds);
    assert_eq!((error.path(), error.range()), (Some(&*path), Some(range.clone())));
    // The remedy: to know the length, which is told.
    assert_tells(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    let error = file.cursor().slice(range.clone()).unwrap_err();
    assert_tells(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    let error = file.read_exact_at(&mut [0; 7], LEN - 3).unwrap_err();
    assert_tells(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    assert_eq!(error.range(), Some(range));

    let converted = io::Error::from(error);
    assert!(converted.to_string().contains(path.to_str().unwrap()), "the path is lost: {converted}");
    assert!(matches!(converted.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof), "{converted:?}");
}

#[test]
fn an_error_over_budget_tells_what_to_do() {
    let dir = Dir::new();
    let path = file_in(&dir, "file", LEN);
    let maps = manager(builder().max_mapped_bytes(WINDOW).overcommit(Overcommit::Fail));
    let file = maps.open(&path).unwrap();
    let _held = file.lease(0..WINDOW).unwrap();
    let range = WINDOW..2 * WINDOW;
    let error = file.lease(range.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget);
    assert_eq!((error.path(), error.range()), (Some(&*path), Some(range.clone())));
    let advice = ["max_mapped_bytes", "set_limits", "overcommit", "raise", "drop", "release", "let go"];
    assert_tells(&error, &path, &range, &advice);
    assert!(io::Error::from(error).to_string().contains(path.to_str().unwrap()));
}

/// Of a file without a name, the rest is told.
#[test]
fn an_error_of_a_descriptor_has_no_path() {
    let dir = Dir::new();
    let maps = manager(builder());
    let file = maps.open_file(File::open(file_in(&dir, "file", 10)).unwrap()).unwrap();
    let error = file.lease(8..12).unwrap_err();
    assert_eq!((error.kind(), error.path(), error.range()), (ErrorKind::OutOfBounds, None, Some(8..12)));
    let said = error.to_string();
    assert!(said.contains('8') && said.contains("12"), "{said}");
}

#[test]
fn errors_travel_between_threads_and_into_boxes() {
    fn travels<T: std::error::Error + Send + Sync + 'static>() {}
    travels::<Error>();
    let (_dir, _maps, file) = with_file();
    let fails = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        file.lease(LEN..LEN + 1)?;
        Ok(())
    };
    let error = fails().unwrap_err();
    assert!(error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfBounds));
    let reads = || -> io::Result<u8> {
        file.lease(LEN..=LEN)?;
        Ok(0)
    };
    assert!(reads().is_err());
}
