//! The system's own limits, each in a process of its own: descriptors (`RLIMIT_NOFILE`), address space (`RLIMIT_AS`),
//! the number of maps (`vm.max_map_count`).
//!
//! Unix only, because the limits are: a shell's `ulimit` lowers them for a child, which is this very binary told to
//! run one of the ignored `child_…` tests, so that nothing here has to call the system unsafely. Not for the
//! fallback, which has no maps.
#![cfg(unix)]

#[path = "it/support.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Admission, ErrorKind, Lease, MapManager, MappedFile, Overcommit, Window};

use crate::support::manager;

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

fn numbered(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("object-{index}"))
}

fn content(index: usize) -> Vec<u8> {
    format!("object {index}, ").repeat(50).into_bytes()
}

/// EMFILE inside smmap on a large repository: 64 descriptors, 2,000 files with a handle to each, 8 threads.
#[test]
fn two_thousand_files_through_64_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..FILES {
        fs::write(numbered(dir.path(), index), content(index)).unwrap();
    }
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

    let share = FILES / 8;
    let open = |thread: usize| -> Vec<(usize, MappedFile)> {
        let mine = thread * share..(thread + 1) * share;
        mine.map(|index| {
            let file = maps.open(numbered(&dir, index)).unwrap();
            let mut found = vec![0; content(index).len()];
            file.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, content(index));
            (index, file)
        })
        .collect()
    };
    let read = |files: &[(usize, MappedFile)]| {
        for (index, file) in files {
            // A copy, a map of a file whose descriptor has long been given up, and a hit.
            let mut found = [0; 8];
            file.read_exact_at(&mut found, 3).unwrap();
            assert_eq!(found, content(*index)[3..11]);
            assert_eq!(file.cursor().window_at(0).unwrap(), content(*index));
            assert_eq!(&*file.lease(..).unwrap(), content(*index));
        }
    };
    let mut all = thread::scope(|scope| {
        let open = &open;
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || open(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    // Now each thread reads the files of others, in another order.
    all.sort_by_key(|(index, _)| index.wrapping_mul(7919) % FILES);
    thread::scope(|scope| {
        for part in all.chunks(share) {
            scope.spawn(move || read(part));
        }
    });
    let start = Instant::now();
    while maps.stats().open_files > 32 {
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", maps.stats());
        thread::sleep(Duration::from_millis(20));
    }
    let stats = maps.stats();
    assert_eq!(stats.files, FILES, "{stats:?}");
    assert!(stats.peak_open_files <= 32 + 8, "more than one too many per thread: {stats:?}");
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
    if cfg!(target_pointer_width = "32") {
        eprintln!("not run: the address space is small anyway");
        return;
    }
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
    assert!(stats.peak_mapped_bytes < GIB, "the limit was never met: {stats:?}");
    eprintln!("{DONE}");
}

/// The same from several threads at once, each with no more than three windows in hand: what one of them is about to
/// give back is no reason to refuse another.
#[test]
fn four_gib_stream_through_one_gib_of_address_space_by_threads() {
    if cfg!(target_pointer_width = "32") {
        eprintln!("not run: the address space is small anyway");
        return;
    }
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
    assert!(stats.peak_mapped_bytes < GIB, "the limit was never met: {stats:?}");
    assert_eq!(stats.pinned_regions, 0, "{stats:?}");
    eprintln!("{DONE}");
}

/// The same with everything pinned: an error that says which limit it was, and all is well when leases go.
#[test]
fn an_exhausted_address_space_is_an_error_that_passes() {
    if cfg!(target_pointer_width = "32") {
        eprintln!("not run: the address space is small anyway");
        return;
    }
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
    let count = fs::read_to_string("/proc/sys/vm/max_map_count").expect("read vm.max_map_count");
    let count: u64 = count.trim().parse().expect("a number");
    if count > FEASIBLE_MAPS {
        eprintln!("not run: vm.max_map_count is {count}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("maps")).unwrap().set_len((count + 1000) * STRIDE).unwrap();
    run("child_unused_maps", "true", dir.path());
    run("child_pinned_maps", "true", dir.path());
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
