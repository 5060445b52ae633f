//! Tests at the limits of the OS: descriptors (`RLIMIT_NOFILE`), address space (`RLIMIT_AS`), the number of mappings
//! (`vm.max_map_count`) and memory (a control group).
//!
//! Unix only. Each test starts this binary again as a child process and makes it run one of the ignored `child_…`
//! tests. A shell's `ulimit` lowers the limit for the child, so these tests need no unsafe call. `vm.max_map_count`
//! belongs to the whole machine and is not lowered: a child uses it up.
#![cfg(unix)]

#[path = "it/support.rs"]
mod support;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Admission, ErrorKind, Lease, Limits, MapManager, MappedFile, Overcommit, Window};

use crate::support::{
    assert_same, bytes, descriptors_below, manager, mapped_below, say, settles, surely_mapped_below, threads,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The environment variable that marks a child process. Its value is the child's directory.
const CHILD: &str = "SMMAP_LIMITS_CHILD";

/// The line that a child prints at its end. Without it, a child that ran no test would count as a success.
const DONE: &str = "smmap-limits-child-done";

/// The time after which a child counts as hung.
const PATIENCE: Duration = Duration::from_secs(180);

/// Lets one child run at a time, so that the children do not compete for the machine's memory and mappings.
static TURN: Mutex<()> = Mutex::new(());

/// Runs the ignored test `child` of this binary in `dir`, after the shell command `limit`.
#[track_caller]
fn run(child: &str, limit: &str, dir: &Path) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let output_path = dir.join("output");
    let output = File::create(&output_path).unwrap();
    let mut process = Command::new("sh")
        .arg("-c")
        .arg(format!("{limit} && exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .stdout(output)
        .spawn()
        .expect("start a shell");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > PATIENCE {
            process.kill().unwrap();
            process.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = String::from_utf8_lossy(&fs::read(&output_path).unwrap()).into_owned();
    let Some(status) = status else {
        panic!("{child} ran for more than {PATIENCE:?}:\n{output}");
    };
    assert!(status.success(), "{child}: {status}\n{output}");
    assert!(output.contains(DONE), "{child} did not reach its end:\n{output}");
    assert!(output.contains("1 passed"), "{child} was not run:\n{output}");
    output.lines().filter_map(|line| Some(&line[line.find("SKIPPED")?..])).for_each(say);
}

/// Returns the child's directory, or `None` if this process is not a child (`cargo test -- --ignored`).
fn child_dir() -> Option<PathBuf> {
    let dir = std::env::var_os(CHILD).map(PathBuf::from);
    if dir.is_none() {
        eprintln!("not run: this is the child of another test");
    }
    dir
}

/// Returns this process's soft limit as the kernel reports it, or `None` if it is unlimited or there is no /proc. The
/// check keeps a test from passing because its limit was never set.
fn soft_limit(name: &str) -> Option<u64> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    let limits = fs::read_to_string("/proc/self/limits").expect("read /proc/self/limits");
    let line = limits.lines().find(|line| line.starts_with(name)).expect("the kernel lists this limit");
    line[name.len()..].split_whitespace().next().expect("the line holds a soft limit").parse().ok()
}

/// Writes a sparse file. Each window begins with its index plus 1, in 8 bytes.
fn sparse(path: &Path, window: u64, windows: u64) {
    let file = File::create(path).unwrap();
    file.set_len(window * windows).unwrap();
    for index in 0..windows {
        file.write_all_at(&(index + 1).to_le_bytes(), index * window).unwrap();
    }
}

#[track_caller]
fn assert_window(found: &[u8], index: u64) {
    assert_eq!(found[..8], (index + 1).to_le_bytes(), "window {index}");
    assert_eq!(found[found.len() - 1], 0, "window {index}");
}

/// Checks that the error is `OutOfMaps` and that its message names the file, one of the limits in `limit`, and a
/// remedy.
#[track_caller]
fn assert_out_of_maps(error: &smmap::Error, path: &Path, limit: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::OutOfMaps, "{error:?}");
    assert_eq!(error.path(), Some(path));
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()), "the message does not name the file: {message}");
    assert!(limit.iter().any(|name| message.contains(name)), "the message names none of {limit:?}: {message}");
    let remedies = ["raise", "increase", "sysctl", "ulimit", "setrlimit"];
    assert!(remedies.iter().any(|word| message.contains(word)), "the message names no remedy: {message}");
}

// ---------------------------------------------------------------------------------------------------------------

const FILES: usize = 2_000;
const THREADS: usize = 16;

/// 2,000 files of up to 600 KiB in a child's directory. Each file starts at another offset of one pattern, so that all
/// bytes are known and no two files are equal.
struct Objects {
    dir: PathBuf,
    pattern: Vec<u8>,
}

impl Objects {
    const STEP: usize = 64;
    const LEN_MAX: usize = 600 << 10;

    fn of(dir: &Path) -> Objects {
        // A directory of its own separates these files from the other files that a child opens and maps.
        Objects { dir: dir.join("objects"), pattern: bytes(1, (FILES * Objects::STEP + Objects::LEN_MAX) as u64) }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("object-{index}"))
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let len = 1 + index * 7919 % Objects::LEN_MAX;
        &self.pattern[index * Objects::STEP..][..len]
    }

    fn write(&self) {
        fs::create_dir(&self.dir).unwrap();
        for index in 0..FILES {
            fs::write(self.path(index), self.bytes(index)).unwrap();
        }
    }

    /// Opens all files from 16 threads. Each thread reads files that it opened and files that other threads opened,
    /// several times. `watch` checks the limits concurrently, once a millisecond. At the end, no mapping, descriptor or
    /// thread is left.
    fn read_by_all(&self, maps: &MapManager, watch: impl Fn() + Sync) {
        let before = threads();
        let handles: Vec<OnceLock<MappedFile>> = (0..FILES).map(|_| OnceLock::new()).collect();
        let (opened, done) = (Barrier::new(THREADS), AtomicBool::new(false));
        let read = |thread: usize| {
            let mut found = vec![1; Objects::LEN_MAX];
            for index in (thread..FILES).step_by(THREADS) {
                let file = maps.open(self.path(index)).unwrap();
                let (found, expected) = (&mut found[..file.len() as usize], self.bytes(index));
                file.read_exact_at(found, 0).unwrap();
                assert_same(found, expected, format!("file {index}, read"));
                handles[index].set(file).unwrap();
            }
            opened.wait();
            let mut kept = VecDeque::with_capacity(5);
            for step in 0..FILES / 4 {
                let index = (step * THREADS + thread * 37) * 7 % FILES;
                let (file, expected) = (handles[index].get().unwrap(), self.bytes(index));
                let lease = file.lease(..).unwrap();
                assert_same(&lease, expected, format!("file {index}, by a lease"));
                assert_same(file.cursor().window_at(0).unwrap(), expected, format!("file {index}, by a cursor"));
                let part = expected.len() / 3..expected.len() / 3 * 2;
                let found = &mut found[..part.len()];
                file.read_exact_at(found, part.start as u64).unwrap();
                assert_same(found, &expected[part], format!("file {index}, read in part"));
                kept.push_back((index, lease));
                if kept.len() > 4 {
                    let (index, lease) = kept.pop_front().unwrap();
                    assert_same(&lease, self.bytes(index), format!("file {index}, by a lease kept for several steps"));
                }
            }
        };
        thread::scope(|scope| {
            let readers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let read = &read;
                    scope.spawn(move || read(thread))
                })
                .collect();
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    watch();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            done.store(true, Ordering::Relaxed);
            for result in results.into_iter().chain([watcher.join()]) {
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        let stats = maps.stats();
        assert_eq!((stats.files, stats.pinned_regions), (FILES, 0), "{stats:?}");
        drop(handles);
        maps.collect();
        let nothing = || mapped_below(&self.dir).is_none_or(|mapped| mapped.bytes == 0);
        assert!(settles(nothing), "{:?}, {:?}", mapped_below(&self.dir), maps.stats());
        assert_eq!((maps.stats().mapped_bytes, maps.stats().open_files), (0, 0));
        assert!(descriptors_below(&self.dir).is_none_or(|open| open == 0));
        assert!(settles(|| threads() <= before), "{:?} threads, {before:?} before", threads());
    }
}

fn objects(dir: &Path) -> Objects {
    let objects = Objects::of(dir);
    objects.write();
    objects
}

/// 2,000 files with a handle to each are read with 64 descriptors, as in a large repository. No call fails with EMFILE.
#[test]
fn two_thousand_files_with_64_descriptors_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    run("child_two_thousand_files", "ulimit -n 64", dir.path());
}

#[test]
#[ignore = "a child of two_thousand_files_with_64_descriptors_are_all_read"]
fn child_two_thousand_files() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max open files").unwrap_or(64), 64);
    // The default is half of what the OS allows.
    let maps = manager(MapManager::builder());
    assert_eq!(maps.limits().max_open_files, 32);
    // Each thread may exceed the limit by one descriptor, so that it need not wait for one.
    let most = 32 + THREADS;
    let watched = AtomicUsize::new(0);
    let objects = Objects::of(&dir);
    objects.read_by_all(&maps, || {
        let open = descriptors_below(&objects.dir).unwrap_or(0);
        assert!(open <= most, "{open} descriptors are open");
        watched.fetch_max(open, Ordering::Relaxed);
    });
    assert!(
        watched.into_inner() >= 16 || cfg!(not(target_os = "linux")),
        "the number of descriptors never came near the limit"
    );
    eprintln!("{DONE}");
}

/// If other code has taken all descriptors, `open` fails and names the limit. If the cache has unused descriptors,
/// `open` closes exactly one of them.
#[test]
fn open_without_free_descriptors_fails_until_one_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    run("child_descriptors", "ulimit -n 64", dir.path());
}

#[test]
#[ignore = "a child of open_without_free_descriptors_fails_until_one_is_freed"]
fn child_descriptors() {
    let Some(dir) = child_dir() else { return };
    let (objects, maps) = (Objects::of(&dir), manager(MapManager::builder()));
    // Queried before the descriptors run out, since both queries may open a file.
    assert!(maps.limits().max_open_files == 32 && threads().is_none_or(|count| count > 0));
    let take_all = || {
        let mut taken: Vec<File> = Vec::with_capacity(64);
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        taken
    };
    let mut taken = take_all();
    let error = maps.open(objects.path(7)).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(objects.path(7).as_path())));
    let message = error.to_string();
    assert!(
        ["64 descriptors", "ulimit -n", "raise", "max_open_files"].iter().all(|word| message.contains(word)),
        "{message}"
    );
    let source = std::error::Error::source(&error).expect("the error holds the error of the OS");
    assert!(message.ends_with(&source.to_string()), "{message}");

    taken.truncate(taken.len() - 20);
    let handles: Vec<MappedFile> = (0..20).map(|index| maps.open(objects.path(index)).unwrap()).collect();
    assert_eq!(maps.stats().open_files, 20);
    let rest = take_all();
    // The cache closes one descriptor to open another.
    let more = maps.open(objects.path(20)).unwrap();
    assert_same(&more.lease(..).unwrap(), objects.bytes(20), "opened at the limit");
    assert_eq!(maps.stats().open_files, 20);
    for (index, file) in handles.iter().enumerate() {
        assert_same(&file.lease(..).unwrap(), objects.bytes(index), format!("file {index}"));
    }
    assert_eq!(maps.stats().open_files, 20);
    drop((taken, rest, handles, more));
    eprintln!("{DONE}");
}

/// The default budget is at most half of the address space, and the cache stays within it.
#[test]
fn two_thousand_files_in_one_gib_of_address_space_are_all_read() {
    if cfg!(target_pointer_width = "32") {
        say("SKIPPED: a limited address space: a 32-bit address space is small without a limit");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    // By default, the C library's allocator reserves 64 MiB of addresses for each thread, which would leave none.
    run("child_files_address_space", "export MALLOC_ARENA_MAX=1 && ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of two_thousand_files_in_one_gib_of_address_space_are_all_read"]
fn child_files_address_space() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = manager(MapManager::builder());
    let budget = maps.limits().max_mapped_bytes;
    assert!(budget <= GIB / 2, "{budget} bytes");
    let (objects, peak) = (Objects::of(&dir), AtomicU64::new(0));
    objects.read_by_all(&maps, || {
        let mapped = surely_mapped_below(&objects.dir).unwrap_or(0);
        assert!(mapped <= budget, "{mapped} bytes are mapped");
        peak.fetch_max(mapped, Ordering::Relaxed);
    });
    assert!(
        peak.into_inner() > budget / 2 || cfg!(not(target_os = "linux")),
        "the mapped bytes never came near the budget"
    );
    eprintln!("{DONE}");
}

// ---------------------------------------------------------------------------------------------------------------

const STREAM_WINDOW: u64 = 16 * MIB;
const STREAM_WINDOWS: u64 = 256;

/// Returns a manager whose budget of 2 GiB exceeds the children's address space of 1 GiB.
fn manager_with_budget_beyond_address_space() -> MapManager {
    let maps = manager(
        MapManager::builder()
            .window(Window::Sliding { bytes: STREAM_WINDOW })
            .max_mapped_bytes(2 * GIB)
            .overcommit(Overcommit::Fail)
            .admission(Admission::Always),
    );
    assert_eq!(maps.limits().max_mapped_bytes, 2 * GIB, "the address space is the limit, not the budget");
    assert_eq!(maps.window_bytes(), Some(STREAM_WINDOW));
    maps
}

/// A file of 4 GiB is read in 1 GiB of address space with a budget of 2 GiB. If the OS refuses a mapping, the cache
/// unmaps all unused windows and maps again.
#[test]
fn four_gib_file_in_one_gib_of_address_space_is_streamed() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_stream", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of four_gib_file_in_one_gib_of_address_space_is_streamed"]
fn child_stream() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = manager_with_budget_beyond_address_space();
    let file = maps.open(dir.join("stream")).unwrap();
    assert_eq!(file.len(), STREAM_WINDOW * STREAM_WINDOWS);

    let mut seen = 0;
    for (index, lease) in (0..).zip(file.windows()) {
        let lease = lease.unwrap();
        assert_window(&lease, index);
        seen += lease.len() as u64;
    }
    assert_eq!(seen, file.len());

    let mut cursor = file.cursor();
    for index in (0..STREAM_WINDOWS).rev() {
        assert_window(cursor.window_at(index * STREAM_WINDOW).unwrap(), index);
    }
    let stats = maps.stats();
    assert!(stats.maps >= STREAM_WINDOWS, "{stats:?}");
    assert!(stats.unmaps > 0, "{stats:?}");
    // The peak includes the mapping that the OS refused.
    assert!(stats.peak_mapped_bytes <= GIB, "the limit was never reached: {stats:?}");
    eprintln!("{DONE}");
}

/// Four threads read the same 4 GiB file, each with at most three windows in use. A window that one thread is about to
/// unmap does not make the request of another thread fail.
#[test]
fn four_gib_file_in_one_gib_of_address_space_is_read_by_four_threads() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_stream_threads", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of four_gib_file_in_one_gib_of_address_space_is_read_by_four_threads"]
fn child_stream_threads() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = manager_with_budget_beyond_address_space();
    let file = maps.open(dir.join("stream")).unwrap();
    // Many rounds, since two threads reach the limit at the same time only by chance.
    const ROUNDS: u64 = 32;
    // All threads have started, and so their stacks are mapped, before the first window is mapped.
    let started = Barrier::new(4);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (file, started) = (&file, &started);
            scope.spawn(move || {
                started.wait();
                let mut cursor = file.cursor();
                let mut held = None;
                for step in 0..ROUNDS * STREAM_WINDOWS {
                    let index = (step * 37 + thread * 64) % STREAM_WINDOWS;
                    let start = index * STREAM_WINDOW;
                    if step % 3 == 0 {
                        held = Some((index, file.lease(start..start + STREAM_WINDOW).unwrap()));
                    } else {
                        assert_window(cursor.window_at(start).unwrap(), index);
                    }
                    if let Some((index, lease)) = &held {
                        assert_window(lease, *index);
                    }
                }
            });
        }
    });
    let stats = maps.stats();
    assert!(stats.unmaps > 0, "{stats:?}");
    // The peak includes one refused mapping for each thread.
    assert!(stats.peak_mapped_bytes < 2 * GIB, "the limit was never reached: {stats:?}");
    assert_eq!(stats.pinned_regions, 0, "{stats:?}");
    eprintln!("{DONE}");
}

/// With all of the address space pinned by leases, a new lease fails and the error names the limit. It succeeds after a
/// few leases are dropped.
#[test]
fn lease_without_address_space_fails_until_leases_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("pinned"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_address_space", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of lease_without_address_space_fails_until_leases_are_dropped"]
fn child_address_space() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let path = dir.join("pinned");
    let maps = manager_with_budget_beyond_address_space();
    let file = maps.open(&path).unwrap();
    let lease = |index: u64| file.lease(index * STREAM_WINDOW..(index + 1) * STREAM_WINDOW);
    let mut copy = vec![0; 64 << 10];
    // Memory to free for allocations after mappings have filled the address space.
    let reserve = vec![1u8; 4 << 20];

    let mut leases: Vec<Lease> = Vec::with_capacity(STREAM_WINDOWS as usize);
    let error = loop {
        let index = leases.len() as u64;
        assert!(index < STREAM_WINDOWS, "all {index} windows are mapped");
        match lease(index) {
            Ok(lease) => leases.push(lease),
            Err(error) => break error,
        }
    };
    let pinned = leases.len() as u64;
    let again = file.cursor().window_at(pinned * STREAM_WINDOW).map(<[u8]>::len);
    drop(reserve);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::OutOfMaps);
    assert!(pinned > 16, "no more than {pinned} windows fit into 1 GiB");
    assert!(pinned < 64, "{pinned} windows fit into 1 GiB");
    assert_out_of_maps(&error, &path, &["RLIMIT_AS", "ulimit -v", "address space"]);
    assert_eq!(error.range(), Some(pinned * STREAM_WINDOW..(pinned + 1) * STREAM_WINDOW));
    let io = std::io::Error::from(error);
    assert!(io.to_string().contains("pinned"), "{io}");

    // The held windows have the right bytes, and copying reads still succeed.
    for (index, lease) in (0..).zip(&leases) {
        assert_window(lease, index);
    }
    for index in [0, pinned, pinned + 1, STREAM_WINDOWS - 1] {
        file.read_exact_at(&mut copy, index * STREAM_WINDOW).unwrap();
        assert_window(&copy, index);
    }
    let stats = maps.stats();
    assert_eq!(stats.mapped_bytes, pinned * STREAM_WINDOW, "a failed mapping was counted: {stats:?}");
    assert_eq!(stats.regions as u64, pinned, "{stats:?}");

    // Leases succeed after some of the others are dropped.
    leases.truncate(leases.len() - 4);
    let three: Vec<_> = (pinned..pinned + 3).map(|index| lease(index).unwrap()).collect();
    for (index, lease) in (pinned..).zip(&three) {
        assert_window(lease, index);
    }
    drop(leases);
    let mut cursor = file.cursor();
    for index in 0..STREAM_WINDOWS {
        assert_window(cursor.window_at(index * STREAM_WINDOW).unwrap(), index);
    }
    eprintln!("{DONE}");
}

// ---------------------------------------------------------------------------------------------------------------

/// The largest `vm.max_map_count` at which the test takes an acceptable time and amount of kernel memory.
const FEASIBLE_MAPS: u64 = 200_000;

/// The cache's own limits exceed `vm.max_map_count`, so the kernel refuses mappings with ENOMEM although memory is
/// free.
#[cfg(target_os = "linux")]
#[test]
fn cache_at_the_map_count_limit_unmaps_and_continues() {
    if cfg!(target_pointer_width = "32") {
        say("SKIPPED: vm.max_map_count: on 32 bit, that many mappings leave no memory for the test itself");
        return;
    }
    let count = fs::read_to_string("/proc/sys/vm/max_map_count").expect("read vm.max_map_count");
    let count: u64 = count.trim().parse().expect("a number");
    if count > FEASIBLE_MAPS {
        say(format!("SKIPPED: vm.max_map_count is {count}, too many mappings for this test"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("maps")).unwrap().set_len((count + 1000) * STRIDE).unwrap();
    run("child_unused_maps", "true", dir.path());
    run("child_pinned_maps", "true", dir.path());
    run("child_refused_unmap", "true", dir.path());
    objects(dir.path());
    run("child_files_few_maps", "true", dir.path());
}

/// The distance between mapped windows: two of the largest pages, so that the kernel cannot merge neighbouring
/// mappings.
const STRIDE: u64 = 128 * KIB;

/// Returns a manager whose limits exceed those of the OS, with the smallest possible windows; the open file; the size
/// of a window; and the number of windows to map.
#[cfg(target_os = "linux")]
fn manager_without_limits(dir: &Path) -> (MapManager, MappedFile, u64, u64) {
    let maps = manager(
        MapManager::builder()
            .window(Window::Sliding { bytes: 4 * KIB })
            .max_mapped_bytes(1 << 40)
            .max_regions(10 * FEASIBLE_MAPS as usize)
            .overcommit(Overcommit::Fail)
            .admission(Admission::Always),
    );
    let window = maps.window_bytes().unwrap();
    assert!(2 * window <= STRIDE, "{window}");
    let file = maps.open(dir.join("maps")).unwrap();
    let windows = file.len() / STRIDE;
    (maps, file, window, windows)
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of cache_at_the_map_count_limit_unmaps_and_continues"]
fn child_unused_maps() {
    let Some(dir) = child_dir() else { return };
    let (maps, file, window, windows) = manager_without_limits(&dir);
    let mut cursor = file.cursor();
    for index in 0..windows {
        assert_eq!(cursor.window_at(index * STRIDE).unwrap().len() as u64, window, "window {index}");
    }
    let stats = maps.stats();
    assert!(stats.maps >= windows, "{stats:?}");
    assert!((stats.peak_regions as u64) < windows, "the limit was never reached: {stats:?}");
    eprintln!("{DONE}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of cache_at_the_map_count_limit_unmaps_and_continues"]
fn child_pinned_maps() {
    let Some(dir) = child_dir() else { return };
    let (maps, file, window, windows) = manager_without_limits(&dir);
    let mut leases: Vec<Lease> = Vec::with_capacity(windows as usize);
    let mut copy = vec![1; window as usize];
    // A lease this small holds a copy if the window cannot be mapped.
    while let Ok(lease) = file.lease(leases.len() as u64 * STRIDE..leases.len() as u64 * STRIDE + window) {
        if !lease.is_mapped() {
            break;
        }
        leases.push(lease);
        assert!((leases.len() as u64) < windows, "all windows are mapped");
    }
    let pinned = leases.len() as u64;
    assert!(pinned > windows / 2, "{pinned} of {windows}");
    let error = file.cursor().window_at(pinned * STRIDE).unwrap_err();
    assert_out_of_maps(&error, &dir.join("maps"), &["max_map_count"]);
    assert!(error.range().is_some_and(|range| range.contains(&(pinned * STRIDE))), "{error:?}");
    file.read_exact_at(&mut copy, pinned * STRIDE).unwrap();
    assert!(copy.iter().all(|&byte| byte == 0));
    assert_eq!(maps.stats().regions as u64, pinned);

    // Drops every second lease, so that each unmapped window lies between two mapped ones.
    let mut keep = false;
    leases.retain(|_| {
        keep = !keep;
        keep
    });
    let mut cursor = file.cursor();
    for index in pinned..windows {
        assert_eq!(cursor.window_at(index * STRIDE).unwrap().len() as u64, window, "window {index}");
    }
    // Checks every 500th lease only: each first access makes the kernel read the pages around it.
    assert!(leases.iter().step_by(500).all(|lease| lease[0] == 0));
    drop((leases, cursor));
    maps.collect();
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.mapped_bytes), (0, 0), "{stats:?}");
    eprintln!("{DONE}");
}

/// Leases windows of a second cache until the OS refuses a mapping or `most` windows are leased.
#[cfg(target_os = "linux")]
fn fill(file: &MappedFile, window: u64, most: u64) -> Vec<Lease> {
    let mut leases = Vec::with_capacity(most as usize);
    while (leases.len() as u64) < most {
        match file.lease(leases.len() as u64 * STRIDE..leases.len() as u64 * STRIDE + window) {
            Ok(lease) if lease.is_mapped() => leases.push(lease),
            _ => break,
        }
    }
    leases
}

/// At the limit, the OS refuses to unmap a window that the kernel has merged with its neighbours: the split would add
/// one area. The window stays counted, and the cache unmaps it later.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of cache_at_the_map_count_limit_unmaps_and_continues"]
fn child_refused_unmap() {
    let Some(dir) = child_dir() else { return };
    let (other_maps, file, window, windows) = manager_without_limits(&dir);
    let merged_path = dir.join("merged");
    fs::write(&merged_path, bytes(3, 64 * window)).unwrap();
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: window }).admission(Admission::Always));
    let merged = maps.open(&merged_path).unwrap();
    // Maps the last window first. The kernel places each mapping below the previous one, so the addresses follow the
    // file's order.
    let mut leases: Vec<Option<Lease>> =
        (0..64).rev().map(|at| Some(merged.lease(at * window..(at + 1) * window).unwrap())).collect();
    leases.reverse();
    let areas = mapped_below(&merged_path).unwrap().areas;
    if areas > 16 {
        say(format!("SKIPPED: a refused unmap: the kernel did not merge the mappings: {areas} areas for 64 windows"));
        eprintln!("{DONE}");
        return;
    }
    let mut filled = fill(&file, window, windows);
    assert!(file.cursor().window_at(filled.len() as u64 * STRIDE).is_err(), "the limit of the OS was not reached");

    let before = maps.stats();
    // Windows inside an area: both neighbours are mapped at adjacent addresses.
    let inside = (1..63).filter(|&at| {
        let address = |at: usize| leases[at].as_ref().unwrap().as_ptr().addr();
        address(at - 1) + window as usize == address(at) && address(at) + window as usize == address(at + 1)
    });
    let inside = inside.collect::<Vec<_>>()[10];
    leases[inside] = None;
    assert_eq!(maps.collect().regions, 0, "the OS refuses to unmap the window");
    let stats = maps.stats();
    assert_eq!(
        (stats.mapped_bytes, stats.pinned_regions),
        (before.mapped_bytes, 64),
        "the window is no longer counted: {stats:?}"
    );
    assert_eq!(mapped_below(&merged_path).unwrap().bytes, 64 * window, "the window is no longer mapped");
    let mut copy = vec![0; window as usize];
    merged.read_exact_at(&mut copy, inside as u64 * window).unwrap();
    let content = bytes(3, 64 * window);
    assert_same(&copy, &content[inside * window as usize..][..window as usize], "a read of the window");

    filled.truncate(filled.len() - 100);
    other_maps.collect();
    // The collector may have unmapped the window before this call.
    maps.collect();
    let is_unmapped =
        || maps.stats().mapped_bytes == 63 * window && mapped_below(&merged_path).unwrap().bytes == 63 * window;
    assert!(settles(is_unmapped), "{:?}", maps.stats());
    for (at, lease) in leases.iter().enumerate().filter_map(|(at, lease)| Some((at, lease.as_ref()?))) {
        assert_same(lease, &content[at * window as usize..][..window as usize], format!("window {at}"));
    }
    eprintln!("{DONE}");
}

/// 16 threads read 2,000 files while another cache leaves fewer than 2,000 mappings below `vm.max_map_count`. The
/// cache's own limit, half of `vm.max_map_count`, is not reached.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of cache_at_the_map_count_limit_unmaps_and_continues"]
fn child_files_few_maps() {
    let Some(dir) = child_dir() else { return };
    let (other_maps, file, window, windows) = manager_without_limits(&dir);
    let mut filled = fill(&file, window, windows);
    assert!((filled.len() as u64) < windows, "the limit of the OS was not reached");
    filled.truncate(filled.len() - 1000);
    other_maps.collect();

    let maps = manager(MapManager::builder());
    assert!(maps.limits().max_regions > FILES);
    let objects = Objects::of(&dir);
    let peak = AtomicUsize::new(0);
    objects.read_by_all(&maps, || {
        peak.fetch_max(maps.stats().regions, Ordering::Relaxed);
    });
    assert!((500..1000).contains(&peak.into_inner()), "the limit was never met: {:?}", maps.stats());
    eprintln!("{DONE}");
}

// ---------------------------------------------------------------------------------------------------------------

/// A memory control group below this process's own. Dropping it removes the group.
#[cfg(target_os = "linux")]
struct MemoryGroup {
    path: PathBuf,
    /// `true` for cgroup version 1, `false` for version 2. The file names differ.
    is_version_1: bool,
}

#[cfg(target_os = "linux")]
impl MemoryGroup {
    /// Creates the group.
    ///
    /// # Errors
    ///
    /// Returns the reason if the group cannot be created.
    fn new(limit: u64) -> Result<MemoryGroup, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let find = |is_memory: fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, group) = rest.split_once(':')?;
                is_memory(controllers).then(|| group.trim_start_matches('/').to_owned())
            })
        };
        let version_1 = find(|controllers| controllers.split(',').any(|name| name == "memory"));
        let is_version_1 = version_1.is_some();
        let (root, group) = match version_1 {
            Some(group) => ("/sys/fs/cgroup/memory", group),
            None => ("/sys/fs/cgroup", find(str::is_empty).ok_or("this process is in no memory control group")?),
        };
        let own = Path::new(root).join(group);
        let path = own.join(format!("smmap-limits-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| format!("cannot create a control group below {}: {error}", own.display()))?;
        let made = MemoryGroup { path, is_version_1 };
        let file = made.path.join(if is_version_1 { "memory.limit_in_bytes" } else { "memory.max" });
        match fs::write(&file, limit.to_string()) {
            Ok(()) => Ok(made),
            Err(error) => {
                Err(format!("{}: {error} (is the memory controller enabled for child groups?)", file.display()))
            }
        }
    }

    fn read(&self, version_1: &str, version_2: &str) -> String {
        fs::read_to_string(self.path.join(if self.is_version_1 { version_1 } else { version_2 })).unwrap_or_default()
    }

    fn oom_kills(&self) -> u64 {
        let events = self.read("memory.oom_control", "memory.events");
        let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kernel reports oom_kill").trim().parse().expect("a number")
    }

    /// Returns the peak memory use in bytes, or `None` if the kernel does not report it.
    fn peak(&self) -> Option<u64> {
        self.read("memory.max_usage_in_bytes", "memory.peak").trim().parse().ok()
    }
}

#[cfg(target_os = "linux")]
impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The group's last process may still be exiting.
        if !settles(|| fs::remove_dir(&self.path).is_ok()) {
            say(format!("{} could not be removed", self.path.display()));
        }
    }
}

const GROUP: u64 = 64 * MIB;
const GROUP_STREAM: u64 = 2 * GIB;

/// A file of 2 GiB is read in 64 MiB of memory. The OS can reclaim the pages of mappings, so no process is killed.
#[cfg(target_os = "linux")]
#[test]
fn two_gib_file_in_a_64_mib_control_group_is_read_without_oom_kill() {
    let group = match MemoryGroup::new(GROUP) {
        Ok(group) => group,
        Err(why) => {
            say(format!("SKIPPED: two_gib_file_in_a_64_mib_control_group_is_read_without_oom_kill: {why}"));
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), MIB, GROUP_STREAM / MIB);
    let join = format!("echo $$ > '{}'", group.path.join("cgroup.procs").display());
    run("child_control_group", &join, dir.path());
    assert_eq!(group.oom_kills(), 0);
    let peak = group.peak();
    assert!(
        peak.is_none_or(|peak| (GROUP / 2..=GROUP).contains(&peak)),
        "the memory use never came near the limit: {peak:?}"
    );
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of two_gib_file_in_a_64_mib_control_group_is_read_without_oom_kill"]
fn child_control_group() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(Limits::default().max_mapped_bytes, GROUP / 2, "half of the group's memory");
    let maps = manager(MapManager::builder());
    let budget = maps.limits().max_mapped_bytes;
    assert_eq!(budget, GROUP / 2);
    let file = maps.open(dir.join("stream")).unwrap();
    let expected = |index: u64| {
        let mut expected = vec![0; MIB as usize];
        expected[..8].copy_from_slice(&(index + 1).to_le_bytes());
        expected
    };
    let mut seen = 0;
    for lease in file.windows() {
        let lease = lease.unwrap();
        for (part, index) in lease.chunks(MIB as usize).zip(lease.offset() / MIB..) {
            assert_same(part, &expected(index), format!("MiB {index}, by `windows`"));
            seen += part.len() as u64;
        }
        assert!(mapped_below(&dir).is_none_or(|mapped| mapped.bytes <= budget), "{:?}", mapped_below(&dir));
    }
    assert_eq!(seen, GROUP_STREAM);
    // Two threads, each reading one half of the file by a cursor and by copying reads.
    thread::scope(|scope| {
        for forward in [true, false] {
            let (file, expected) = (&file, &expected);
            scope.spawn(move || {
                let (mut cursor, mut copy) = (file.cursor(), vec![0; MIB as usize]);
                for step in 0..GROUP_STREAM / MIB / 2 {
                    let index = if forward { step } else { GROUP_STREAM / MIB - 1 - step };
                    let range = index * MIB..(index + 1) * MIB;
                    let what = format!("MiB {index}, {}", if forward { "forward" } else { "backward" });
                    assert_same(cursor.slice(range.clone()).unwrap(), &expected(index), &what);
                    if step % 16 == 0 {
                        file.read_exact_at(&mut copy, range.start).unwrap();
                        assert_same(&copy, &expected(index), &what);
                    }
                }
            });
        }
    });
    let stats = maps.stats();
    assert!(stats.peak_mapped_bytes <= budget && stats.overcommits == 0, "{stats:?}");
    eprintln!("{DONE}");
}
