//! `open` and `open_file`: kinds of files and paths that open, and errors for those that do not.

use std::error::Error as _;
#[cfg(unix)]
use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
#[cfg(unix)]
use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use smmap::Change;
use smmap::{Error, ErrorKind, MapManager};

use crate::fixture::three_windows::{SEED, content, content_file, limited};
#[cfg(unix)]
use crate::support;
use crate::support::{Dir, manager};

/// Panics unless opening `path` fails at once with an error of `kind` that names the path. Returns the error.
#[track_caller]
fn assert_open_fails(maps: &MapManager, path: &Path, kind: ErrorKind) -> Error {
    let (send, answer) = mpsc::channel();
    thread::spawn({
        let (maps, path) = (maps.clone(), path.to_owned());
        move || send.send(maps.open(path))
    });
    let opened = answer.recv_timeout(Duration::from_secs(20));
    let error = opened.expect("open returns without blocking").expect_err("open refuses the path");
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.path(), Some(path), "{error:?}");
    let name = path.to_str().expect("the path is UTF-8");
    if !name.contains('\0') && name.len() < 1000 {
        assert!(error.to_string().contains(name), "the error does not name the file: {error}");
    }
    let stats = maps.stats();
    assert_eq!((stats.files, stats.open_files), (0, 0), "the cache keeps a file or descriptor: {stats:?}");
    error
}

/// Returns the OS error number of an error, or of the first of its sources that has one.
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

#[test]
fn open_of_a_directory_says_not_a_file() {
    let dir = Dir::new();
    let maps = manager(limited());
    assert_open_fails(&maps, dir.path(), ErrorKind::NotAFile);
    assert_open_fails(&maps, &dir.path().join("."), ErrorKind::NotAFile);
}

/// Opens a FIFO. Without a writer `open` does not block; with one, the written bytes stay in the FIFO.
#[cfg(unix)]
#[test]
fn open_of_a_fifo_says_not_a_file_without_blocking() {
    let dir = Dir::new();
    let path = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    let maps = manager(limited());
    assert_open_fails(&maps, &path, ErrorKind::NotAFile);

    // Opening for reading and writing does not block, and makes a writer.
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
fn open_of_a_socket_says_not_a_file() {
    let dir = Dir::new();
    let path = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_open_fails(&manager(limited()), &path, ErrorKind::NotAFile);
}

#[cfg(unix)]
#[test]
fn open_of_a_device_says_not_a_file() {
    let maps = manager(limited());
    assert_open_fails(&maps, Path::new("/dev/null"), ErrorKind::NotAFile);
    assert_open_fails(&maps, Path::new("/dev/zero"), ErrorKind::NotAFile);
    let error = maps.open_file(File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
    let error = maps.open_file(File::open("/").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
}

/// Opens a file of /proc. The OS reports a regular file of length 0, yet the file has content, so the cache must not
/// treat it as empty.
#[cfg(target_os = "linux")]
#[test]
fn open_of_a_proc_file_says_not_a_file() {
    let path = Path::new("/proc/self/status");
    assert!(!fs::read(path).unwrap().is_empty());
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
    let maps = manager(limited());
    assert_open_fails(&maps, path, ErrorKind::NotAFile);
    let error = maps.open_file(File::open(path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
}

#[cfg(unix)]
#[test]
fn open_of_a_symlink_judges_its_target() {
    use std::os::unix::fs::symlink;
    let dir = Dir::new();
    let maps = manager(limited());
    symlink(dir.path(), dir.path().join("to-a-directory")).unwrap();
    assert_open_fails(&maps, &dir.path().join("to-a-directory"), ErrorKind::NotAFile);
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    let error = assert_open_fails(&maps, &dir.path().join("dangling"), ErrorKind::Io);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    symlink("loop", dir.path().join("loop")).unwrap();
    assert_open_fails(&maps, &dir.path().join("loop"), ErrorKind::Io);
}

/// Opens a file through a link, and by a descriptor opened without following links. The cache never looks up a path for
/// the descriptor.
#[cfg(unix)]
#[test]
fn open_follows_a_link_and_open_file_needs_no_path() {
    use std::os::unix::fs::{OpenOptionsExt as _, symlink};
    let dir = Dir::new();
    let (path, secret) = (content_file(&dir, "file", 5000), dir.file("secret", 5000, SEED + 1).path);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let maps = manager(limited().max_open_files(1));
    let followed = maps.open(&link).unwrap();
    assert_eq!((&*followed.lease(..).unwrap(), followed.path()), (&content(0..5000)[..], Some(&*link)));
    drop((followed, maps));

    let open = |path: &Path| OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    assert!(open(&link).is_err(), "a link was followed");
    let maps = manager(limited().max_open_files(1));
    let file = maps.open_file(open(&path).unwrap()).unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    symlink(&secret, &path).unwrap();
    // Needs the only descriptor that the limit allows.
    let other = maps.open(&path).unwrap();
    assert_eq!(&*other.lease(..).unwrap(), support::bytes(SEED + 1, 5000));
    maps.collect();
    assert_eq!(&*file.lease(..).unwrap(), content(0..5000));
    // The rename changed the ctime, so `refresh` may not be able to exclude a modification.
    assert!(matches!(file.refresh().unwrap(), Change::Modified | Change::Unchanged));
    assert_eq!((file.path(), file.len()), (None, 5000));
}

/// Opens a path whose bytes are not UTF-8.
#[cfg(target_os = "linux")]
#[test]
fn open_of_a_non_utf8_path_succeeds() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = Dir::new();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9-\xff"));
    fs::write(&path, content(0..5000)).unwrap();
    let maps = manager(limited());
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

#[test]
fn open_of_an_impossible_path_fails_like_the_os() {
    let dir = Dir::new();
    let file = content_file(&dir, "file", 10);
    let maps = manager(limited());
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

#[test]
fn open_of_a_missing_file_keeps_the_os_error() {
    let dir = Dir::new();
    let path = dir.path().join("missing");
    let expected = File::open(&path).unwrap_err();
    let error = assert_open_fails(&manager(limited()), &path, ErrorKind::Io);
    let source = error
        .source()
        .expect("the error has a source")
        .downcast_ref::<io::Error>()
        .expect("the source is an io::Error");
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(source.raw_os_error(), expected.raw_os_error());
    assert_eq!(error.range(), None);

    let converted = io::Error::from(error);
    assert_eq!(converted.kind(), io::ErrorKind::NotFound);
    assert_eq!(raw_error(&converted), expected.raw_os_error());
    assert!(converted.to_string().contains("missing"), "the converted error does not name the path: {converted}");
}

#[cfg(unix)]
#[test]
fn open_without_permission_keeps_the_os_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Dir::new();
    let path = content_file(&dir, "secret", 10);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        eprintln!("not run: open_without_permission_keeps_the_os_error (root may read every file)");
        // Then the file must open.
        assert_eq!(manager(limited()).open(&path).unwrap().len(), 10);
        return;
    }
    let error = assert_open_fails(&manager(limited()), &path, ErrorKind::Io);
    let source = error
        .source()
        .expect("the error has a source")
        .downcast_ref::<io::Error>()
        .expect("the source is an io::Error");
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
}

/// Passes a write-only descriptor. `open_file` refuses it, because it can be neither read nor mapped.
#[test]
fn open_file_of_a_write_only_descriptor_is_refused() {
    let dir = Dir::new();
    let path = content_file(&dir, "write-only", 5000);
    let maps = manager(limited());
    let error = maps.open_file(OpenOptions::new().write(true).open(&path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert_eq!(error.path(), None);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(maps.stats().files, 0);
    // A descriptor for reading and writing is accepted.
    let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let file = maps.open_file(both).unwrap();
    assert_eq!(file.cursor().window_at(10).unwrap(), content(10..5000));
}

/// Passes descriptors that only name a file, or that read whole blocks only. `open_file` opens their file again.
#[cfg(target_os = "linux")]
#[test]
fn open_file_of_a_path_or_direct_descriptor_reads_any_range() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = Dir::new();
    let path = content_file(&dir, "file", 5000);
    for flag in [libc::O_PATH, libc::O_DIRECT] {
        let descriptor = match OpenOptions::new().read(true).custom_flags(flag).open(&path) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                support::say(format!("SKIPPED: the file system refuses the flag {flag:#o}: {error}"));
                continue;
            }
        };
        let maps = manager(limited());
        let file = maps.open_file(descriptor).unwrap();
        let mut read = [0; 100];
        file.read_exact_at(&mut read, 1234).unwrap();
        assert_eq!(read, content(1234..1334)[..]);
        assert_eq!(file.cursor().window_at(10).unwrap(), content(10..5000));
        assert_eq!(maps.stats().open_files, 1);
    }
    // The kinds that `open` refuses are refused here, too, and without waiting.
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()), "cannot make a pipe");
    for refused in [fifo.as_path(), dir.path()] {
        let descriptor = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(refused).unwrap();
        let error = manager(limited()).open_file(descriptor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAFile, "{error:?}");
    }
}
