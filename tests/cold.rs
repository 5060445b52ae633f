//! System calls of mapped hits, and bytes that are read from the disk for data that is not in memory.
//!
//! Linux only. The tests of cold data drop the pages of their file from the page cache, and skip aloud where the OS
//! keeps them, or does not count what a process reads.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "a seccomp filter, and dropping pages")]

#[path = "it/support.rs"]
mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smmap::{Admission, Advice, MapManager, MapManagerBuilder, MappedFile, OpenOptions, Window};

use crate::support::{Dir, Rng, manager, say};

/// The environment variable that marks a child process.
const CHILD: &str = "SMMAP_COLD_CHILD";
/// The line that a child prints at its end.
const DONE: &str = "smmap-cold-child-done";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Ends the process at any system call of this thread but those that print and exit, and but `other`. Returns `false`
/// if the OS installs no filter.
fn forbid_system_calls(other: libc::c_long) -> bool {
    let allowed = [libc::SYS_write, libc::SYS_exit_group, libc::SYS_exit, other];
    let statement = |code, value| libc::sock_filter { code, jt: 0, jf: 0, k: value };
    // Load the number of the call; for each allowed one, jump to the last statement.
    let mut program = vec![statement(0x20, 0)];
    for (at, number) in allowed.iter().enumerate() {
        let jt = (allowed.len() - at) as u8;
        program.push(libc::sock_filter { code: 0x15, jt, jf: 0, k: *number as u32 });
    }
    program.push(statement(0x06, libc::SECCOMP_RET_KILL_PROCESS));
    program.push(statement(0x06, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the call takes no pointer.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    // SAFETY: the kernel copies the program, which is a valid one.
    promised && unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) } == 0
}

/// Prints without a buffer, and ends the process.
fn finish(line: &str) -> ! {
    let line = format!("\n{line}\n");
    // SAFETY: the bytes are those of `line`.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
    // SAFETY: the call does not return.
    unsafe { libc::_exit(0) }
}

/// Runs an ignored test of this binary in a process of its own.
#[track_caller]
fn run(child: &str) {
    let arguments = ["--exact", child, "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(std::env::current_exe().unwrap()).args(arguments).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("SKIPPED") {
        return say(format!("SKIPPED: {child}: the OS installs no seccomp filter"));
    }
    assert!(output.status.success() && text.contains(DONE), "{child}: {:?}\n{text}", output.status);
}

/// A reader of 64 bytes at an offset.
type Reader<'r> = Box<dyn FnMut(u64) + 'r>;

fn readers(file: &MappedFile) -> [Reader<'_>; 4] {
    let (mut slices, mut windows, mut copies) = (file.cursor(), file.cursor(), [0; 64]);
    [
        Box::new(move |at| assert_eq!(slices.slice(at..at + 64).unwrap().len(), 64)),
        Box::new(move |at| assert!(!windows.window_at(at).unwrap().is_empty())),
        Box::new(move |at| assert_eq!(file.lease(at..at + 64).unwrap().len(), 64)),
        Box::new(move |at| file.read_exact_at(&mut copies, at).unwrap()),
    ]
}

#[test]
fn mapped_hits_make_no_system_call() {
    run("child_mapped_hits");
}

#[test]
#[ignore = "a child of mapped_hits_make_no_system_call"]
fn child_mapped_hits() {
    const WINDOWS: u64 = 64;
    const HITS: u64 = 1_000_000;
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let dir = Dir::new();
    let path = dir.path().join("file");
    fs::write(&path, vec![7; (WINDOWS * MIB) as usize]).unwrap();
    let window = Window::Sliding { bytes: MIB };
    // Windows mapped by scattered reads, and by calls that must map.
    let maps = [false, true].map(|must_map| {
        let maps = manager(MapManager::builder().window(window).admission(Admission::Always));
        let file = maps.open(&path).unwrap();
        let mut rng = Rng::new(3);
        for window in 0..WINDOWS {
            let at = window * MIB + rng.below(MIB - 64);
            match must_map {
                true => assert!(!file.cursor().window_at(at).unwrap().is_empty()),
                false => file.read_exact_at(&mut [0; 64], at).unwrap(),
            }
        }
        assert_eq!(maps.stats().maps, WINDOWS);
        (maps, file)
    });
    let mut readers: Vec<Reader<'_>> = maps.iter().flat_map(|(_, file)| readers(file)).collect();
    assert!(maps.iter().all(|(_, file)| file.windows().count() == WINDOWS as usize));
    // The first call of a thread may allocate, and so may the second window of a cursor.
    for read in &mut readers {
        (0..WINDOWS).rev().for_each(|window| read(window * MIB + 500_000));
    }
    if !forbid_system_calls(libc::SYS_write) {
        finish("SKIPPED");
    }
    // The windows were checked by an earlier iterator.
    assert!(maps.iter().all(|(_, file)| file.windows().count() == WINDOWS as usize));
    let mut rng = Rng::new(4);
    for read in &mut readers {
        for _ in 0..HITS / 4 {
            read(rng.below(WINDOWS * MIB / 64) * 64);
        }
        // Near the starts of windows.
        for _ in 0..HITS / 4 {
            read(rng.below(WINDOWS) * MIB + rng.below(4096 - 64));
        }
        // Two windows by turns, and headers at a fixed stride.
        for hit in 0..HITS / 4 {
            read(hit % 2 * MIB);
        }
        for hit in 0..HITS / 4 {
            read(hit % WINDOWS * MIB);
        }
    }
    finish(DONE);
}

/// The tests that measure what this process reads run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is not in memory.
struct Cold {
    _dir: Dir,
    file: File,
    path: std::path::PathBuf,
}

impl Cold {
    /// Returns a file of `len` bytes, or `None` if the OS keeps its pages or does not count what is read.
    fn new(len: u64) -> Option<Cold> {
        let dir = Dir::new();
        let path = dir.path().join("file");
        fs::write(&path, vec![7; len as usize]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let cold = Cold { _dir: dir, file, path };
        let read = cold.bytes_read(|| cold.file.read_exact_at(&mut [0; 64], 0).unwrap());
        if read.is_none_or(|read| read == 0) {
            say("SKIPPED: cold data: the OS keeps its pages, or does not count what a process reads".to_owned());
            return None;
        }
        Some(cold)
    }

    /// Drops the file's pages, calls `read`, and returns the bytes that were read from the disk meanwhile.
    fn bytes_read(&self, read: impl FnOnce()) -> Option<u64> {
        // SAFETY: the descriptor is open, and advice changes no byte.
        assert_eq!(unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
        self.bytes_read_warm(read)
    }

    /// Calls `read`, and returns the bytes that were read from the disk meanwhile.
    fn bytes_read_warm(&self, read: impl FnOnce()) -> Option<u64> {
        let total = || {
            let counts = fs::read_to_string("/proc/self/io").ok()?;
            counts.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse::<u64>().ok()
        };
        let before = total()?;
        read();
        Some(total()? - before)
    }
}

fn windows_of(bytes: u64) -> MapManagerBuilder {
    MapManager::builder().window(Window::Sliding { bytes })
}

#[test]
fn headers_at_a_fixed_stride_read_little_more_than_the_headers() {
    let _alone = alone();
    const HEADERS: u64 = 64;
    let Some(cold) = Cold::new(HEADERS * MIB) else { return };
    for admission in [Admission::Adaptive, Admission::Always] {
        for reader in 0..4 {
            // Without a pattern yet, `window_at` maps its first windows as the OS reads them by default.
            if reader == 1 {
                continue;
            }
            let maps = manager(windows_of(MIB).admission(admission));
            let file = maps.open(&cold.path).unwrap();
            let read = &mut readers(&file)[reader];
            let read = cold.bytes_read(|| (0..HEADERS).for_each(|header| read(header * MIB))).unwrap();
            assert!(read <= HEADERS * 4 * KIB * 12 / 10, "reader {reader}, {admission:?}: {read} bytes");
        }
    }
}

#[test]
fn random_reads_of_cold_data_read_little_more_than_their_pages() {
    let _alone = alone();
    const LEN: u64 = 64 * MIB;
    let Some(cold) = Cold::new(LEN) else { return };
    let mut rng = Rng::new(5);
    let offsets: Vec<u64> = (0..1000).map(|_| rng.below(LEN / 64) * 64).collect();
    let by_pread = cold.bytes_read(|| {
        offsets.iter().for_each(|&at| cold.file.read_exact_at(&mut [0; 64], at).unwrap());
    });
    for reader in [0, 2, 3] {
        // 64 windows with about 16 reads each: half of them map.
        let maps = manager(windows_of(MIB));
        let file = maps.open(&cold.path).unwrap();
        let read = &mut readers(&file)[reader];
        let read = cold.bytes_read(|| offsets.iter().for_each(|&at| read(at))).unwrap();
        assert!(maps.stats().maps > 40, "{:?}", maps.stats());
        assert!(read <= by_pread.unwrap() * 12 / 10, "reader {reader}: {read} bytes, and {by_pread:?} by pread");
    }
}

/// Returns the number of times that this process waited for the disk in an access to mapped bytes.
fn waits() -> libc::c_long {
    // SAFETY: zeros are a valid `rusage`, which consists of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one `rusage` to the pointer.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }, 0);
    usage.ru_majflt
}

/// Each window was mapped by a read at one place, so the OS reads only the pages that are touched.
#[test]
fn sequential_reader_of_scattered_windows_seldom_waits_for_the_disk() {
    let _alone = alone();
    const WINDOW: u64 = 8 * MIB;
    const PAGES: u64 = 2 * WINDOW / (4 * KIB);
    let Some(cold) = Cold::new(3 * WINDOW) else { return };
    for reader in [0, 2, 3] {
        for skipped in [0, 2 * MIB] {
            let maps = manager(windows_of(WINDOW).admission(Admission::Always));
            let file = maps.open(&cold.path).unwrap();
            let mut waited = 0;
            cold.bytes_read(|| {
                (0..3).for_each(|window| file.read_exact_at(&mut [0; 64], window * WINDOW + 1_500_000).unwrap());
                let (before, read) = (waits(), &mut readers(&file)[reader]);
                (skipped / 64..2 * WINDOW / 64).for_each(|record| read(record * 64));
                waited = waits() - before;
            });
            assert_eq!(maps.stats().maps, 3);
            assert!(waited <= PAGES as libc::c_long / 16, "reader {reader}: {waited} waits for {PAGES} pages");
        }
    }
}

#[test]
fn advice_decides_how_much_of_cold_windows_is_read() {
    let _alone = alone();
    const WINDOWS: u64 = 16;
    let Some(cold) = Cold::new(WINDOWS * MIB) else { return };
    let first_bytes = |builder: MapManagerBuilder, options: &OpenOptions| {
        let maps = manager(builder.window(Window::Sliding { bytes: MIB }));
        let file = maps.open_with(&cold.path, options).unwrap();
        let read = || (0..WINDOWS).for_each(|window| assert_eq!(file.cursor().window_at(window * MIB).unwrap()[0], 7));
        cold.bytes_read(read).unwrap()
    };
    for advice in [Advice::Random, Advice::Sequential] {
        let of_manager = first_bytes(MapManager::builder().advice(advice), &OpenOptions::new());
        let of_file = first_bytes(MapManager::builder(), &OpenOptions::new().advice(advice));
        for read in [of_manager, of_file] {
            match advice {
                Advice::Random => assert!(read <= WINDOWS * 16 * KIB, "{read} bytes"),
                _ => assert_eq!(read, WINDOWS * MIB),
            }
        }
    }
}

#[test]
fn prefetch_reads_the_pages_of_the_range_and_maps_large_parts() {
    let _alone = alone();
    const WINDOW: u64 = 4 * MIB;
    const WINDOWS: u64 = 8;
    let Some(cold) = Cold::new(WINDOWS * WINDOW) else { return };
    for (len, maps_window) in [(4 * KIB, false), (WINDOW / 2, true), (WINDOW, true)] {
        let maps = manager(windows_of(WINDOW));
        let file = maps.open(&cold.path).unwrap();
        let starts = (0..WINDOWS).map(|window| window * WINDOW);
        let read = cold.bytes_read(|| {
            starts.clone().for_each(|start| file.prefetch(start..start + len).unwrap());
        });
        assert_eq!(read, Some(WINDOWS * len));
        assert_eq!(maps.stats().maps, if maps_window { WINDOWS } else { 0 });
        // The pages are in memory.
        let mut buffer = vec![0; len as usize];
        let again = cold.bytes_read_warm(|| {
            starts.clone().for_each(|start| file.read_exact_at(&mut buffer, start).unwrap());
        });
        assert!(again.is_some_and(|again| again <= WINDOWS * len / 8), "{len}: {again:?} bytes");
    }
}

#[test]
fn open_of_an_unchanged_file_makes_one_system_call() {
    run("child_open_of_an_unchanged_file_only_examines_its_path");
}

#[test]
#[ignore = "a child of open_of_an_unchanged_file_makes_one_system_call"]
fn child_open_of_an_unchanged_file_only_examines_its_path() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let dir = Dir::new();
    let path = dir.file("known", 10, 1).path;
    let maps = manager(MapManager::builder().collector(false));
    let file = maps.open(&path).unwrap();
    // The first calls of a kind may allocate.
    drop((maps.open(&path).unwrap(), fs::metadata(&path).unwrap()));
    if !forbid_system_calls(libc::SYS_statx) {
        finish("SKIPPED");
    }
    for _ in 0..100 {
        let again = maps.open(&path).unwrap();
        assert_eq!(again.len(), file.len());
    }
    finish(DONE);
}
