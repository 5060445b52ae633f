//! The system's own limits, each in a process of its own: descriptors (`RLIMIT_NOFILE`), address space (`RLIMIT_AS`),
//! the number of maps (`vm.max_map_count`), memory (a control group).
//!
//! Unix only, because the limits are: a shell's `ulimit` lowers them for a child, which is this very binary told to
//! run one of the ignored `child_…` tests, so that nothing here has to call the system unsafely. The number of maps is the
//! machine's and stays as it is: a child uses it up.
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

/// Tells a child that it is one, and which directory is its own.
const CHILD: &str = "SMMAP_LIMITS_CHILD";

/// What a child says at its very end, so that one that ran nothing is not taken for one that succeeded.
const DONE: &str = "smmap-limits-child-done";

/// No child takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// One at a time: the children are heavy, and what they need of the machine should be theirs.
static TURN: Mutex<()> = Mutex::new(());

/// Runs the ignored test `child` of this binary in `dir`, after the shell command `limit`.
#[track_caller]
fn run(child: &str, limit: &str, dir: &Path) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let said = dir.join("said");
    let out = File::create(&said).unwrap();
    let mut process = Command::new("sh")
        .arg("-c")
        .arg(format!("{limit} && exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stderr(out.try_clone().unwrap())
        .stdout(out)
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
    let said = String::from_utf8_lossy(&fs::read(&said).unwrap()).into_owned();
    let Some(status) = status else {
        panic!("{child} hung for {PATIENCE:?}:\n{said}");
    };
    assert!(status.success(), "{child}: {status}\n{said}");
    assert!(said.contains(DONE), "{child} did not do its work:\n{said}");
    assert!(said.contains("1 passed"), "{child} was not run:\n{said}");
    said.lines().filter_map(|line| Some(&line[line.find("SKIPPED")?..])).for_each(say);
}

/// The directory of a child; `None` when somebody runs all ignored tests by hand.
fn child_dir() -> Option<PathBuf> {
    let dir = std::env::var_os(CHILD).map(PathBuf::from);
    if dir.is_none() {
        eprintln!("not run: this is the child of another test");
    }
    dir
}

/// The soft limit that the kernel has for us, so that no test passes because its limit was never set.
fn soft_limit(name: &str) -> Option<u64> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    let limits = fs::read_to_string("/proc/self/limits").expect("read /proc/self/limits");
    let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit of this name");
    line[name.len()..].split_whitespace().next().expect("a soft limit").parse().ok()
}

/// A sparse file with its own window index at the start of each window.
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

/// What has to be said by an error that the system's limit caused: which one, and how to raise it.
#[track_caller]
fn assert_out_of_maps(error: &smmap::Error, path: &Path, limit: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::OutOfMaps, "{error:?}");
    assert_eq!(error.path(), Some(path));
    let said = error.to_string();
    assert!(said.contains(path.to_str().unwrap()), "does not name the file: {said}");
    assert!(limit.iter().any(|name| said.contains(name)), "names none of {limit:?}: {said}");
    let how = ["raise", "increase", "sysctl", "ulimit", "setrlimit"];
    assert!(how.iter().any(|word| said.contains(word)), "does not say what to do: {said}");
}

// ---------------------------------------------------------------------------------------------------------------

const FILES: usize = 2_000;
const THREADS: usize = 16;

/// Files of up to 600 KiB in a child's directory, 2,000 of them. Each begins elsewhere in the same pattern, so that all their
/// bytes are known, and no two are alike.
struct Objects {
    dir: PathBuf,
    pattern: Vec<u8>,
}

impl Objects {
    const STEP: usize = 64;
    const LEN_MAX: usize = 600 << 10;

    fn of(dir: &Path) -> Objects {
        // Not beside what else a child has open and mapped.
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

    /// 16 threads open all of them, and read each several times: what a thread has opened, and what others have. Meanwhile
    /// `watch` looks whether the limits hold. In the end all of it comes back.
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
                assert_same(&lease, expected, format!("file {index}, leased"));
                assert_same(file.cursor().window_at(0).unwrap(), expected, format!("file {index}, mapped"));
                let part = expected.len() / 3..expected.len() / 3 * 2;
                let found = &mut found[..part.len()];
                file.read_exact_at(found, part.start as u64).unwrap();
                assert_same(found, &expected[part], format!("file {index}, read in part"));
                kept.push_back((index, lease));
                if kept.len() > 4 {
                    let (index, lease) = kept.pop_front().unwrap();
                    assert_same(&lease, self.bytes(index), format!("file {index}, kept"));
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

/// EMFILE inside smmap on a large repository: 64 descriptors, 2,000 files with a handle to each.
#[test]
fn two_thousand_files_through_64_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    run("child_two_thousand_files", "ulimit -n 64", dir.path());
}

#[test]
#[ignore = "a child of two_thousand_files_through_64_descriptors"]
fn child_two_thousand_files() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max open files").unwrap_or(64), 64);
    // The default, half of what the system allows.
    let maps = manager(MapManager::builder());
    assert_eq!(maps.limits().max_open_files, 32);
    // No thread has to wait for a descriptor to read: it may be one too many.
    let most = 32 + THREADS;
    let watched = AtomicUsize::new(0);
    let objects = Objects::of(&dir);
    objects.read_by_all(&maps, || {
        let open = descriptors_below(&objects.dir).unwrap_or(0);
        assert!(open <= most, "{open} descriptors are open");
        watched.fetch_max(open, Ordering::Relaxed);
    });
    assert!(watched.into_inner() >= 16 || cfg!(not(target_os = "linux")), "the limit was never near");
    eprintln!("{DONE}");
}

/// With all descriptors taken by others: what cannot be opened says so, and what the cache has itself it gives up one by one.
#[test]
fn exhausted_descriptors_are_an_error_that_passes() {
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    run("child_descriptors", "ulimit -n 64", dir.path());
}

#[test]
#[ignore = "a child of exhausted_descriptors_are_an_error_that_passes"]
fn child_descriptors() {
    let Some(dir) = child_dir() else { return };
    let (objects, maps) = (Objects::of(&dir), manager(MapManager::builder()));
    // Known now, so that they need no descriptor later.
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
    let said = error.to_string();
    assert!(
        ["64 descriptors", "ulimit -n", "raise", "max_open_files"].iter().all(|word| said.contains(word)),
        "{said}"
    );
    let source = std::error::Error::source(&error).expect("what the system said");
    assert!(said.ends_with(&source.to_string()), "{said}");

    taken.truncate(taken.len() - 20);
    let handles: Vec<MappedFile> = (0..20).map(|index| maps.open(objects.path(index)).unwrap()).collect();
    assert_eq!(maps.stats().open_files, 20);
    let rest = take_all();
    // One goes for one.
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

/// With the defaults the cache stays well below what the address space has room for.
#[test]
fn two_thousand_files_in_one_gib_of_address_space() {
    if cfg!(target_pointer_width = "32") {
        say("SKIPPED: a limited address space: on 32 bit it is small anyway");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    objects(dir.path());
    // (The C library's allocator would reserve 64 MiB of addresses for each thread, and leave none.)
    run("child_files_address_space", "export MALLOC_ARENA_MAX=1 && ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of two_thousand_files_in_one_gib_of_address_space"]
fn child_files_address_space() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = manager(MapManager::builder());
    let budget = maps.limits().max_mapped_bytes;
    assert!(budget <= GIB / 2, "{budget} bytes");
    let (objects, most) = (Objects::of(&dir), AtomicU64::new(0));
    objects.read_by_all(&maps, || {
        let mapped = surely_mapped_below(&objects.dir).unwrap_or(0);
        assert!(mapped <= budget, "{mapped} bytes are mapped");
        most.fetch_max(mapped, Ordering::Relaxed);
    });
    assert!(most.into_inner() > budget / 2 || cfg!(not(target_os = "linux")), "never near the limit");
    eprintln!("{DONE}");
}

// ---------------------------------------------------------------------------------------------------------------

const STREAM_WINDOW: u64 = 16 * MIB;
const STREAM_WINDOWS: u64 = 256;

fn roomy() -> MapManager {
    let maps = manager(
        MapManager::builder()
            .window(Window::Sliding { bytes: STREAM_WINDOW })
            .max_mapped_bytes(2 * GIB)
            .overcommit(Overcommit::Fail)
            .admission(Admission::Always),
    );
    assert_eq!(maps.limits().max_mapped_bytes, 2 * GIB, "the budget is not what stops these tests");
    assert_eq!(maps.window_bytes(), Some(STREAM_WINDOW));
    maps
}

/// 1 GiB of address space, a budget of 2 GiB, a file of 4 GiB: where the system says no, all that is unused goes, and
/// the map is tried again.
#[test]
fn four_gib_stream_through_one_gib_of_address_space() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_stream", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of four_gib_stream_through_one_gib_of_address_space"]
fn child_stream() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = roomy();
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
    // The peak counts what was refused as well.
    assert!(stats.peak_mapped_bytes <= GIB, "the limit was never met: {stats:?}");
    eprintln!("{DONE}");
}

/// The same from several threads at once, each with no more than three windows in hand: what one of them is about to
/// give back is no reason to refuse another.
#[test]
fn four_gib_stream_through_one_gib_of_address_space_by_threads() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_stream_threads", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of four_gib_stream_through_one_gib_of_address_space_by_threads"]
fn child_stream_threads() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let maps = roomy();
    let file = maps.open(dir.join("stream")).unwrap();
    // Often, because only the threads' luck brings two of them to the limit at once.
    const ROUNDS: u64 = 32;
    // All threads, and so their stacks, are there before the maps are.
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
    // As above, for each thread.
    assert!(stats.peak_mapped_bytes < 2 * GIB, "the limit was never met: {stats:?}");
    assert_eq!(stats.pinned_regions, 0, "{stats:?}");
    eprintln!("{DONE}");
}

/// The same with everything pinned: an error that says which limit it was, and all is well when leases go.
#[test]
fn an_exhausted_address_space_is_an_error_that_passes() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("pinned"), STREAM_WINDOW, STREAM_WINDOWS);
    run("child_address_space", "ulimit -v 1048576", dir.path());
}

#[test]
#[ignore = "a child of an_exhausted_address_space_is_an_error_that_passes"]
fn child_address_space() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(soft_limit("Max address space").unwrap_or(GIB), GIB);
    let path = dir.join("pinned");
    let maps = roomy();
    let file = maps.open(&path).unwrap();
    let lease = |index: u64| file.lease(index * STREAM_WINDOW..(index + 1) * STREAM_WINDOW);
    let mut copy = vec![0; 64 << 10];
    // Room for what is allocated once all else is full of maps.
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

    // What is held is right, and what copies goes on.
    for (index, lease) in (0..).zip(&leases) {
        assert_window(lease, index);
    }
    for index in [0, pinned, pinned + 1, STREAM_WINDOWS - 1] {
        file.read_exact_at(&mut copy, index * STREAM_WINDOW).unwrap();
        assert_window(&copy, index);
    }
    let stats = maps.stats();
    assert_eq!(stats.mapped_bytes, pinned * STREAM_WINDOW, "a failed map is counted: {stats:?}");
    assert_eq!(stats.regions as u64, pinned, "{stats:?}");

    // With some of the leases gone it works.
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

/// More than this, and the test would take too long and too much of the kernel's memory.
const FEASIBLE_MAPS: u64 = 200_000;

/// "47,336 live maps, ENOMEM with 22 GiB free": up to `vm.max_map_count`, with limits of the cache that are above it.
#[cfg(target_os = "linux")]
#[test]
fn the_systems_own_number_of_maps_is_survived() {
    if cfg!(target_pointer_width = "32") {
        say("SKIPPED: the system's number of maps: on 32 bit it leaves no memory for the test itself");
        return;
    }
    let count = fs::read_to_string("/proc/sys/vm/max_map_count").expect("read vm.max_map_count");
    let count: u64 = count.trim().parse().expect("a number");
    if count > FEASIBLE_MAPS {
        say(format!("SKIPPED: the system's own number of maps: vm.max_map_count is {count}"));
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

/// From one mapped window to the next: two of the largest pages there are, so that the kernel has nothing to merge.
const STRIDE: u64 = 128 * KIB;

/// A cache whose own limits are no limits, with the smallest windows that the system has; their size, and how many
/// there are to be mapped.
#[cfg(target_os = "linux")]
fn boundless(dir: &Path) -> (MapManager, MappedFile, u64, u64) {
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
#[ignore = "a child of the_systems_own_number_of_maps_is_survived"]
fn child_unused_maps() {
    let Some(dir) = child_dir() else { return };
    let (maps, file, window, windows) = boundless(&dir);
    let mut cursor = file.cursor();
    for index in 0..windows {
        assert_eq!(cursor.window_at(index * STRIDE).unwrap().len() as u64, window, "window {index}");
    }
    let stats = maps.stats();
    assert!(stats.maps >= windows, "{stats:?}");
    assert!((stats.peak_regions as u64) < windows, "the limit was never met: {stats:?}");
    eprintln!("{DONE}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of the_systems_own_number_of_maps_is_survived"]
fn child_pinned_maps() {
    let Some(dir) = child_dir() else { return };
    let (maps, file, window, windows) = boundless(&dir);
    let mut leases: Vec<Lease> = Vec::with_capacity(windows as usize);
    let mut copy = vec![1; window as usize];
    // A lease this small may be a copy, once there is nothing else to be had.
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

    // Every second one goes, so that what is unmapped lies between others.
    let mut keep = false;
    leases.retain(|_| {
        keep = !keep;
        keep
    });
    let mut cursor = file.cursor();
    for index in pinned..windows {
        assert_eq!(cursor.window_at(index * STRIDE).unwrap().len() as u64, window, "window {index}");
    }
    // (Some of them: each touch makes the kernel read around it.)
    assert!(leases.iter().step_by(500).all(|lease| lease[0] == 0));
    drop((leases, cursor));
    maps.collect();
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.mapped_bytes), (0, 0), "{stats:?}");
    eprintln!("{DONE}");
}

/// Maps of a cache that is not the one to be tested, until the system refuses, or `most` are there.
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

/// What the kernel has merged with its neighbours cannot be unmapped at the limit: that would be one area more. It stays
/// counted, and goes as soon as it can.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of the_systems_own_number_of_maps_is_survived"]
fn child_refused_unmap() {
    let Some(dir) = child_dir() else { return };
    let (others, file, window, windows) = boundless(&dir);
    let merged_path = dir.join("merged");
    fs::write(&merged_path, bytes(3, 64 * window)).unwrap();
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: window }).admission(Admission::Always));
    let merged = maps.open(&merged_path).unwrap();
    // The last first, since the kernel puts one below the other: so they come to lie as in the file.
    let mut leases: Vec<Option<Lease>> =
        (0..64).rev().map(|at| Some(merged.lease(at * window..(at + 1) * window).unwrap())).collect();
    leases.reverse();
    let areas = mapped_below(&merged_path).unwrap().areas;
    if areas > 16 {
        say(format!("SKIPPED: a refused unmap, since the kernel does not merge: {areas} areas for 64 windows"));
        eprintln!("{DONE}");
        return;
    }
    let mut filled = fill(&file, window, windows);
    assert!(file.cursor().window_at(filled.len() as u64 * STRIDE).is_err(), "not at the limit");

    let before = maps.stats();
    // Not at the edge of an area, wherever these are.
    let inside = (1..63).filter(|&at| {
        let address = |at: usize| leases[at].as_ref().unwrap().as_ptr().addr();
        address(at - 1) + window as usize == address(at) && address(at) + window as usize == address(at + 1)
    });
    let inside = inside.collect::<Vec<_>>()[10];
    leases[inside] = None;
    assert_eq!(maps.collect().regions, 0, "the system refuses");
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.pinned_regions), (before.mapped_bytes, 64), "it is counted: {stats:?}");
    assert_eq!(mapped_below(&merged_path).unwrap().bytes, 64 * window, "because it is there");
    let mut copy = vec![0; window as usize];
    merged.read_exact_at(&mut copy, inside as u64 * window).unwrap();
    let content = bytes(3, 64 * window);
    assert_same(&copy, &content[inside * window as usize..][..window as usize], "read meanwhile");

    filled.truncate(filled.len() - 100);
    others.collect();
    // The collector may have been first.
    maps.collect();
    let is_gone =
        || maps.stats().mapped_bytes == 63 * window && mapped_below(&merged_path).unwrap().bytes == 63 * window;
    assert!(settles(is_gone), "{:?}", maps.stats());
    for (at, lease) in leases.iter().enumerate().filter_map(|(at, lease)| Some((at, lease.as_ref()?))) {
        assert_same(lease, &content[at * window as usize..][..window as usize], format!("window {at}"));
    }
    eprintln!("{DONE}");
}

/// 2,000 files and 16 threads in what others have left of the system's number of maps, which is less than that: the cache's
/// own limit, half of the system's, is no limit here.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of the_systems_own_number_of_maps_is_survived"]
fn child_files_few_maps() {
    let Some(dir) = child_dir() else { return };
    let (others, file, window, windows) = boundless(&dir);
    let mut filled = fill(&file, window, windows);
    assert!((filled.len() as u64) < windows, "not at the limit");
    filled.truncate(filled.len() - 1000);
    others.collect();

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

/// A control group for memory, below this process's own; removed when it is dropped.
#[cfg(target_os = "linux")]
struct MemoryGroup {
    path: PathBuf,
    /// How the kernel names things in it: version 1 or 2.
    is_first: bool,
}

#[cfg(target_os = "linux")]
impl MemoryGroup {
    /// Or why it cannot be made.
    fn new(limit: u64) -> Result<MemoryGroup, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let find = |is_memory: fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, group) = rest.split_once(':')?;
                is_memory(controllers).then(|| group.trim_start_matches('/').to_owned())
            })
        };
        let first = find(|controllers| controllers.split(',').any(|name| name == "memory"));
        let is_first = first.is_some();
        let (root, group) = match first {
            Some(group) => ("/sys/fs/cgroup/memory", group),
            None => ("/sys/fs/cgroup", find(str::is_empty).ok_or("this process is in no control group for memory")?),
        };
        let own = Path::new(root).join(group);
        let path = own.join(format!("smmap-limits-{}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| format!("no control group can be made below {}: {error}", own.display()))?;
        let made = MemoryGroup { path, is_first };
        let file = made.path.join(if is_first { "memory.limit_in_bytes" } else { "memory.max" });
        match fs::write(&file, limit.to_string()) {
            Ok(()) => Ok(made),
            Err(error) => Err(format!("{}: {error} (is the memory controller given to groups below?)", file.display())),
        }
    }

    fn read(&self, first: &str, second: &str) -> String {
        fs::read_to_string(self.path.join(if self.is_first { first } else { second })).unwrap_or_default()
    }

    fn oom_kills(&self) -> u64 {
        let events = self.read("memory.oom_control", "memory.events");
        let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kernel counts them").trim().parse().expect("a number")
    }

    /// The most memory that it ever had; `None` on kernels that don't say.
    fn peak(&self) -> Option<u64> {
        self.read("memory.max_usage_in_bytes", "memory.peak").trim().parse().ok()
    }
}

#[cfg(target_os = "linux")]
impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process may not be quite gone.
        if !settles(|| fs::remove_dir(&self.path).is_ok()) {
            say(format!("{} could not be removed", self.path.display()));
        }
    }
}

const GROUP: u64 = 64 * MIB;
const GROUP_STREAM: u64 = 2 * GIB;

/// A stream of 2 GiB in 64 MiB of memory: what is mapped is the system's to take back, and nobody is killed for it.
#[cfg(target_os = "linux")]
#[test]
fn two_gib_stream_through_a_control_group_of_64_mib() {
    let group = match MemoryGroup::new(GROUP) {
        Ok(group) => group,
        Err(why) => {
            say(format!("SKIPPED: two_gib_stream_through_a_control_group_of_64_mib: {why}"));
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("stream"), MIB, GROUP_STREAM / MIB);
    let join = format!("echo $$ > '{}'", group.path.join("cgroup.procs").display());
    run("child_control_group", &join, dir.path());
    assert_eq!(group.oom_kills(), 0);
    let peak = group.peak();
    assert!(peak.is_none_or(|peak| (GROUP / 2..=GROUP).contains(&peak)), "the limit was never near: {peak:?}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a child of two_gib_stream_through_a_control_group_of_64_mib"]
fn child_control_group() {
    let Some(dir) = child_dir() else { return };
    assert_eq!(Limits::default().max_mapped_bytes, GROUP / 2, "half of what the group has");
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
            assert_same(part, &expected(index), format!("MiB {index}, window by window"));
            seen += part.len() as u64;
        }
        assert!(mapped_below(&dir).is_none_or(|mapped| mapped.bytes <= budget), "{:?}", mapped_below(&dir));
    }
    assert_eq!(seen, GROUP_STREAM);
    // Two at once, each with a half of it, and copies.
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
