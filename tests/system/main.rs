//! What mounts, privileges, locks and leases outside of the cache do to its files.
//!
//! Linux only, and mostly for root. Each test starts this binary again in a mount namespace of its own, after a shell
//! command that prepares files, and makes it run one of the ignored `child_…` tests. The mounts end with the child.
#![cfg(target_os = "linux")]

mod fuse;
mod special_files;
#[path = "../it/support.rs"]
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use smmap::{Admission, Change, ErrorKind, MapManager, MapManagerBuilder, Window};

use crate::support::{Dir, assert_same, bytes, manager, say};

/// The environment variable that marks a child process. Its value is the child's directory.
const CHILD: &str = "SMMAP_SYSTEM_CHILD";

/// The line that a child prints at its end. Without it, a child that ran no test would count as a success.
const DONE: &str = "smmap-system-child-done";

/// The line that the shell prints if it cannot prepare the files.
const UNPREPARED: &str = "smmap-system-refused";

const WINDOW: u64 = 64 << 10;

/// Runs the ignored test `child` of this binary in a mount namespace, after the shell command `prepare`, whose
/// working directory is the child's.
#[track_caller]
fn run(child: &str, prepare: &str) {
    let dir = Dir::new();
    let command = format!("({prepare}) || {{ echo {UNPREPARED}; exit; }}; exec \"$0\" \"$@\"");
    let process = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &command])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
        .current_dir(dir.path())
        .env(CHILD, dir.path())
        .stdin(Stdio::null())
        .output();
    let output = match process {
        Ok(output) => output,
        Err(error) => return say(format!("SKIPPED: {child}: cannot start unshare: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if text.contains(UNPREPARED) || text.contains("unshare failed") {
        return say(format!("SKIPPED: {child}: cannot prepare: {}", text.trim()));
    }
    assert!(output.status.success() && text.contains(DONE) && text.contains("1 passed"), "{child}:\n{text}");
}

/// Returns the child's directory, or `None` if this process is not a child (`cargo test -- --ignored`).
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn small() -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: WINDOW })
        .max_mapped_bytes(16 << 20)
        .max_open_files(8)
        .admission(Admission::Always)
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

const OVERLAY: &str =
    "mkdir lower upper work merged && head -c 100000 /dev/zero | tr '\\0' a > lower/file && cp lower/file lower/twin &&
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged";

/// An overlay file system copies a lower file up when a program opens it for writing. A descriptor opened before still
/// maps the lower file, but reports the length of the upper one.
#[test]
fn overlay_file_appended_after_open_reads_the_new_bytes() {
    run("child_overlay_file_appended_after_open", OVERLAY);
}

#[test]
#[ignore = "a child of overlay_file_appended_after_open_reads_the_new_bytes"]
fn child_overlay_file_appended_after_open() {
    let Some(dir) = child_dir() else { return };
    let expected = [vec![b'a'; 100_000], vec![b'b'; 300_000]].concat();
    for (name, opens_again) in [("file", false), ("twin", true)] {
        let path = dir.join("merged").join(name);
        let maps = manager(small());
        let file = maps.open(&path).unwrap();
        assert_same(file.cursor().window_at(WINDOW).unwrap(), &expected[WINDOW as usize..100_000], "the lower file");
        append(&path, &[b'b'; 300_000]);
        let mut handles = vec![file];
        if opens_again {
            handles.push(maps.open(&path).unwrap());
        }
        assert_eq!(handles[0].refresh().unwrap(), Change::Grown);
        for file in &handles {
            assert_eq!(file.len(), 400_000);
            let mut read = vec![0; 400_000];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_same(&read, &expected, "a copy");
            assert_same(&file.lease(..).unwrap(), &expected, "a lease");
            let mut cursor = file.cursor();
            for at in (0..400_000).step_by(WINDOW as usize) {
                let end = (at + WINDOW as usize).min(400_000);
                assert_same(cursor.window_at(at as u64).unwrap(), &expected[at..end], format!("the window at {at}"));
            }
        }
    }
    println!("{DONE}");
}

/// Overwrites bytes of a lower file. A window that was mapped before the file was copied up shows the old bytes.
#[test]
fn overlay_file_overwritten_after_open_reads_the_new_bytes_after_refresh() {
    run("child_overlay_file_overwritten_after_open", OVERLAY);
}

#[test]
#[ignore = "a child of overlay_file_overwritten_after_open_reads_the_new_bytes_after_refresh"]
fn child_overlay_file_overwritten_after_open() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("merged/file");
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    assert_eq!(file.cursor().window_at(0).unwrap()[0], b'a');
    fs::write(&path, vec![b'c'; 100_000]).unwrap();
    assert_eq!(file.refresh().unwrap(), Change::Modified);
    assert_same(file.cursor().window_at(0).unwrap(), &[b'c'; WINDOW as usize], "a window");
    let mut read = vec![0; 100_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_same(&read, &[b'c'; 100_000], "a copy");
    println!("{DONE}");
}

/// An ext4 with inodes of 128 bytes, which have no room for a time of birth.
const SMALL_INODES: &str = "truncate -s 16M image && mkfs.ext4 -q -I 128 image && mkdir merged &&
    mount -o loop image merged";

#[test]
fn reused_inode_without_time_of_birth_is_another_file() {
    run("child_reused_inode_is_another_file", SMALL_INODES);
}

/// The file system of the child's directory records times of birth, but only in steps of some milliseconds.
#[test]
fn reused_inode_within_a_tick_is_another_file() {
    run("child_reused_inode_is_another_file", "mkdir merged && mount -t tmpfs tmpfs merged");
    run(
        "child_reused_inode_is_another_file",
        "truncate -s 16M image && mkfs.ext4 -q image && mkdir merged && mount -o loop image merged",
    );
}

#[test]
#[ignore = "a child of other tests"]
fn child_reused_inode_is_another_file() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("merged/file");
    let mut reused = 0;
    for round in 0..20 {
        let (old, new) = (bytes(2 * round, 3 * WINDOW), bytes(2 * round + 1, 3 * WINDOW));
        let maps = manager(small().max_open_files(1));
        fs::write(&path, &old).unwrap();
        let file = maps.open(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let lease = file.lease(..).unwrap();
        // The cache closes the descriptor of `file` to open another file. No descriptor keeps the inode then.
        let other_path = dir.join("merged/other");
        fs::write(&other_path, "other").unwrap();
        let other = maps.open(&other_path).unwrap();
        assert_eq!(maps.stats().open_files, 1);
        drop(lease);
        maps.collect();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &new).unwrap();
        reused += u64::from(fs::metadata(&path).unwrap().ino() == inode);

        let mut read = vec![0; old.len()];
        let error = file.read_exact_at(&mut read, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Replaced, "{error}");
        assert_eq!(file.lease(0..2 * WINDOW).unwrap_err().kind(), ErrorKind::Replaced);
        assert_eq!(file.len(), old.len() as u64);
        let fresh = maps.open(&path).unwrap();
        fresh.read_exact_at(&mut read, 0).unwrap();
        assert_same(&read, &new, "the new file");
        assert_same(&fresh.lease(..).unwrap(), &new, "a lease of the new file");
        drop((file, fresh, other));
        fs::remove_file(&path).unwrap();
    }
    println!("{reused} of 20 inodes were reused");
    if reused == 0 {
        println!("SKIPPED: the file system reused no inode number");
    }
    println!("{DONE}");
}

/// A descriptor that is open pins the inode, so the number cannot be reused. The file was modified, not replaced.
#[test]
fn grown_file_without_time_of_birth_is_the_same_file() {
    run("child_grown_file_is_the_same_file", SMALL_INODES);
}

#[test]
#[ignore = "a child of grown_file_without_time_of_birth_is_the_same_file"]
fn child_grown_file_is_the_same_file() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("merged/file");
    fs::write(&path, [1; 1000]).unwrap();
    let maps = manager(small());
    let first = maps.open(&path).unwrap();
    append(&path, &[2; 1000]);
    let second = maps.open_file(File::open(&path).unwrap()).unwrap();
    assert_eq!((first.len(), second.len(), maps.stats().files), (2000, 2000, 1));
    println!("{DONE}");
}

// ---------------------------------------------------------------------------------------------------------------------
// Record locks, privileges and write leases
// ---------------------------------------------------------------------------------------------------------------------

/// Calls `fcntl` with a lock of the whole file, and returns the lock.
#[allow(unsafe_code, reason = "record locks")]
fn lock(file: &File, command: libc::c_int, kind: libc::c_int) -> libc::flock {
    // SAFETY: all bits zero are a valid `flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads or writes one `flock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    lock
}

/// Returns `true` if this process has a record lock on the file. `probe` is a descriptor of the file.
fn is_locked(probe: &File) -> bool {
    lock(probe, libc::F_OFD_GETLK, libc::F_WRLCK).l_type != libc::F_UNLCK as libc::c_short
}

/// POSIX drops all record locks that a process has on a file as soon as the process closes any descriptor of the file.
#[test]
fn record_lock_during_opens_of_a_known_file_is_kept() {
    run("child_record_lock_during_opens", "mkdir merged");
    run("child_record_lock_during_opens", OVERLAY);
}

#[test]
#[ignore = "a child of record_lock_during_opens_of_a_known_file_is_kept"]
fn child_record_lock_during_opens() {
    let Some(dir) = child_dir().map(|dir| dir.join("merged")) else { return };
    let path = dir.join("database");
    fs::write(&path, [7; 1000]).unwrap();
    std::os::unix::fs::symlink(&path, dir.join("link")).unwrap();
    fs::hard_link(&path, dir.join("other name")).unwrap();
    let own = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let probe = File::open(&path).unwrap();
    lock(&own, libc::F_SETLK, libc::F_WRLCK);
    assert!(is_locked(&probe));
    let maps = manager(small());
    let first = maps.open(&path).unwrap();
    assert!(is_locked(&probe), "the first open released the lock");
    for name in ["database", "link", "other name"] {
        let again = maps.open(dir.join(name)).unwrap();
        assert_eq!(&*again.lease(..).unwrap(), [7; 1000]);
        again.refresh().unwrap();
        drop(again);
        assert!(is_locked(&probe), "opening {name:?} released the lock");
    }
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (maps, path) = (maps.clone(), path.clone());
            std::thread::spawn(move || drop(maps.open(path).unwrap()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    maps.collect();
    maps.close(&path);
    assert!(is_locked(&probe));
    drop(first);
    assert!(!is_locked(&probe), "the last handle closes the descriptor");
    println!("{DONE}");
}

#[test]
fn kept_descriptor_beyond_max_open_files_is_not_closed() {
    run("child_kept_descriptor", "true");
}

#[test]
#[ignore = "a child of kept_descriptor_beyond_max_open_files_is_not_closed"]
fn child_kept_descriptor() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("database");
    fs::write(&path, [7; 1000]).unwrap();
    let maps = manager(small().max_open_files(1));
    let kept = maps.open_with(&path, &smmap::OpenOptions::new().keep_descriptor(true)).unwrap();
    let own = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let probe = File::open(&path).unwrap();
    lock(&own, libc::F_SETLK, libc::F_WRLCK);
    for number in 0..10 {
        let other = dir.join(number.to_string());
        fs::write(&other, [number; 10]).unwrap();
        let other = maps.open(&other).unwrap();
        assert_eq!(&*other.lease(..).unwrap(), [number; 10]);
        assert!(is_locked(&probe));
        assert!(maps.stats().open_files <= 2, "{:?}", maps.stats());
    }
    assert_eq!(&*kept.lease(..).unwrap(), [7; 1000]);
    drop(kept);
    assert!(!is_locked(&probe), "the last handle closes the descriptor");
    println!("{DONE}");
}

/// Opens a file as root, and then gives the privilege up, as daemons do.
#[test]
fn descriptor_after_privileges_were_dropped_is_kept() {
    run("child_descriptor_without_privileges", "test $(id -u) = 0");
}

#[test]
#[ignore = "a child of descriptor_after_privileges_were_dropped_is_kept"]
#[allow(unsafe_code, reason = "changes the effective user")]
fn child_descriptor_without_privileges() {
    let Some(dir) = child_dir() else { return };
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = dir.join("secret");
    fs::write(&secret, [7; 1000]).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let others: Vec<_> = (0..10_u8)
        .map(|number| {
            let path = dir.join(number.to_string());
            fs::write(&path, [number; 100]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            path
        })
        .collect();
    let maps = manager(small().max_open_files(1));
    let file = maps.open(&secret).unwrap();
    // SAFETY: changes the effective user of this process, which no other test uses.
    assert_eq!(unsafe { libc::seteuid(65534) }, 0);
    assert!(File::open(&secret).is_err(), "the process may no longer open the file");
    for (number, path) in others.iter().enumerate() {
        let other = maps.open(path).unwrap();
        assert_eq!(&*other.lease(..).unwrap(), [number as u8; 100]);
        let mut read = [0; 1000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [7; 1000]);
        assert!(maps.stats().open_files <= 2, "{:?}", maps.stats());
    }
    println!("{DONE}");
}

/// A write lease (`F_SETLEASE`) makes an open that must not wait fail with EAGAIN until its holder gives it up.
#[test]
fn open_under_a_write_lease_waits_as_a_plain_open_does() {
    run("child_open_under_a_write_lease", "true");
}

#[test]
#[ignore = "a child of open_under_a_write_lease_waits_as_a_plain_open_does"]
#[allow(unsafe_code, reason = "write leases")]
fn child_open_under_a_write_lease() {
    let Some(dir) = child_dir() else { return };
    let (path, other) = (dir.join("leased"), dir.join("other"));
    fs::write(&path, [7; 1000]).unwrap();
    fs::write(&other, [8; 1000]).unwrap();
    let maps = manager(small());
    let other = maps.open(&other).unwrap();
    let mapped = other.cursor().window_at(0).unwrap().len();
    assert_eq!((mapped, maps.stats().regions), (1000, 1));
    let holder = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: the kernel tells the holder by SIGIO, which would end the process.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    // SAFETY: the descriptor is open.
    if unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } != 0 {
        println!("SKIPPED: the file system has no leases: {}", std::io::Error::last_os_error());
        return println!("{DONE}");
    }
    let opener = std::thread::spawn({
        let (maps, path) = (maps.clone(), path.clone());
        move || maps.open(path)
    });
    // The kernel answers with the lease that the holder should change to.
    // SAFETY: the descriptor is open.
    while unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_GETLEASE) } == libc::F_WRLCK {
        assert!(!opener.is_finished(), "the open did not wait: {:?}", opener.join());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(maps.stats().regions, 1, "the open has unmapped windows");
    assert!(!opener.is_finished(), "the open did not wait: {:?}", opener.join());
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) }, 0);
    let file = opener.join().unwrap().unwrap();
    assert_eq!(&*file.lease(..).unwrap(), [7; 1000]);
    println!("{DONE}");
}
