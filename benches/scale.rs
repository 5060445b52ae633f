//! Measures how the cache scales with the number of files, windows and cursors.
//!
//! The work of a hit, of opening a file again, of evicting and of collecting does not grow with the number of files or
//! windows. Two quantities do grow: the memory of the cache itself; and the work of evicting, with the number of
//! cursors, because the evicting thread scans the hazard record of each.
//!
//! The bench counts instructions in user space under callgrind, per operation, with few and with many files or windows.
//! Target: at most 1.25 × as many instructions with many. (A window's slot is found in a hash table, in
//! as many steps among a million windows as among a thousand.) The bench's allocator counts the memory.
//!
//! `cargo bench --bench scale -- ratios` measures and prints the table. It needs valgrind. The first run creates
//! 100,000 small files beside the build, and keeps them for later runs.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use smmap::{Cursor, MapManager, MappedFile, Window};
use support::{Report, Target, build, measuring};

mod support;

const WINDOW: u64 = 4096;
/// The number of windows that the budget holds, unless a benchmark varies it.
const BUDGET: u64 = 4096;
/// The number of files or windows that the hits visit by turns.
const SPREAD: u64 = 64;
const OPERATIONS: u64 = 10_000;

/// An allocator that counts the bytes allocated and not yet freed.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded to the system's allocator unchanged; the counter has no influence on it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A benchmark, run with three numbers of files, windows or cursors.
struct Work {
    name: &'static str,
    what: &'static str,
    sizes: [u64; 3],
    /// Prepares the cache, runs the measured part inside [`counted`], and returns the number of operations in that
    /// part.
    run: fn(u64) -> u64,
    /// `true` if the work is expected to grow with the size. Such work has no target.
    grows: bool,
}

const WORK: [Work; 7] = [
    Work { name: "hit-windows", what: "windows", sizes: [64, 10_000, 1_000_000], run: hit_windows, grows: false },
    Work { name: "hit-files", what: "files", sizes: [64, 10_000, 100_000], run: hit_files, grows: false },
    Work { name: "lease-files", what: "files", sizes: [64, 10_000, 100_000], run: lease_files, grows: false },
    Work { name: "open-again", what: "files known", sizes: [1_000, 10_000, 100_000], run: open_again, grows: false },
    Work { name: "evict", what: "windows mapped", sizes: [64, 1_000, 10_000], run: evict, grows: false },
    Work { name: "collect", what: "windows mapped", sizes: [64, 1_000, 10_000], run: collect, grows: false },
    Work {
        name: "evict-cursors",
        what: "cursors at rest",
        sizes: [1, 1_000, 10_000],
        run: evict_beside_cursors,
        grows: true,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, name, size] = &arguments[..] {
        if word == "work" {
            let work = WORK.iter().find(|work| work.name == name).expect("the argument names an entry of WORK");
            println!("{}", (work.run)(size.parse().expect("the size is a number")));
            return;
        }
    }
    if !measuring() {
        // Cargo's test mode: run each benchmark once with its smallest size.
        WORK.iter().for_each(|work| assert!((work.run)(work.sizes[0]) > 0));
        return;
    }
    let mut report = Report::new("scale");
    files(WORK.iter().filter(|work| work.what.starts_with("files")).map(|work| work.sizes[2]).max().unwrap_or(0));
    memory(&mut report);
    for work in &WORK {
        let counts: Vec<f64> = work.sizes.iter().map_while(|&size| instructions(work.name, size)).collect();
        let [few, some, many] = counts[..] else {
            report.note(format!("SKIPPED: {}: valgrind is not installed, or counted nothing", work.name));
            continue;
        };
        let [a, b, c] = work.sizes;
        let what = work.what;
        report.note(format!(
            "{}: instructions each: {few:.0} with {a} {what}, {some:.0} with {b}, {many:.0} with {c}",
            work.name
        ));
        if !work.grows {
            report.ratio(&format!("with {c} {what} / with {a}"), many / few, Target::AtMost(1.25));
        }
    }
    report.print();
}

/// Returns the instructions of an operation, as callgrind counts them. Returns `None` if callgrind cannot count.
fn instructions(name: &str, size: u64) -> Option<f64> {
    eprintln!("counting: {name}, {size}");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=scale::counted*"])
        .arg(std::env::current_exe().expect("the path of this bench"))
        .args(["work", name, &size.to_string()])
        .output()
        .ok()?;
    let output_text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, {size}: {output_text}");
    let collected =
        output_text.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse::<f64>().ok()?;
    let operations: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of operations");
    (collected > 0.0).then(|| collected / operations)
}

/// Runs `work`. Callgrind counts the instructions inside this function only.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

// ---------------------------------------------------------------------------------------------------------------------
// The work
// ---------------------------------------------------------------------------------------------------------------------

/// Measures hits of one cursor in changing windows, out of `count` mapped ones.
fn hit_windows(count: u64) -> u64 {
    let (maps, file, _sparse) = windows(count, BUDGET);
    let mut cursor = file.cursor();
    (0..count).for_each(|window| touch(&mut cursor, window));
    // Windows in descending order: before a step to the next higher window, the cursor asks the OS whether it is
    // resident.
    let spread: Vec<u64> = (0..SPREAD).rev().map(|n| n * count / SPREAD).collect();
    spread.iter().for_each(|&window| touch(&mut cursor, window));
    let before = maps.stats().misses;
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|&window| touch(&mut cursor, window)));
    assert_eq!(maps.stats().misses, before, "not every read was a hit");
    OPERATIONS
}

/// Measures small reads of files, out of `count` open ones.
fn hit_files(count: u64) -> u64 {
    let (_maps, files) = opened(count);
    let read = |file: &MappedFile| file.read_exact_at(&mut [0; 8], 0).expect("a file of a page");
    let spread: Vec<&MappedFile> = (0..SPREAD).map(|n| &files[(n * count / SPREAD) as usize]).collect();
    spread.iter().for_each(|file| read(file));
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|file| read(file)));
    OPERATIONS
}

/// Measures leases of files, out of `count` open ones.
fn lease_files(count: u64) -> u64 {
    let (_maps, files) = opened(count);
    let lease = |file: &MappedFile| drop(black_box(file.lease(0..8).expect("a file of a page")));
    let spread: Vec<&MappedFile> = (0..SPREAD).map(|n| &files[(n * count / SPREAD) as usize]).collect();
    spread.iter().for_each(|file| lease(file));
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|file| lease(file)));
    OPERATIONS
}

/// Measures opening files that are open already, out of `count` open ones. Most of those have no descriptor left.
fn open_again(count: u64) -> u64 {
    let (maps, _files) = opened(count);
    let paths: Vec<PathBuf> = (0..SPREAD).map(|n| path(n * count / SPREAD)).collect();
    let open = |path: &PathBuf| drop(maps.open(path).expect("the file opens"));
    paths.iter().for_each(open);
    counted(|| paths.iter().cycle().take(OPERATIONS as usize / 10).for_each(open));
    OPERATIONS / 10
}

/// Measures a miss that has to evict, with `count` windows mapped.
fn evict(count: u64) -> u64 {
    evict_one_of(count, 0)
}

/// Measures a miss that has to evict, beside `count` idle cursors, each with a protected window. The evicting thread
/// scans the hazard record of every cursor.
fn evict_beside_cursors(count: u64) -> u64 {
    evict_one_of(BUDGET, count)
}

fn evict_one_of(regions: u64, cursors: u64) -> u64 {
    let more = OPERATIONS / 10;
    let (maps, file, _sparse) = windows(regions + more, regions);
    let mut cursors: Vec<Cursor> = (0..cursors).map(|_| file.cursor()).collect();
    cursors.iter_mut().zip((0..SPREAD).cycle()).for_each(|(cursor, window)| touch(cursor, window));
    let mut cursor = file.cursor();
    (0..regions).for_each(|window| touch(&mut cursor, window));
    counted(|| (regions..regions + more).for_each(|window| touch(&mut cursor, window)));
    let stats = maps.stats();
    assert!(stats.evictions + regions / 16 + 1 >= more, "too few evictions: {stats:?}");
    more
}

/// Measures `collect` with `count` unused windows, per window.
fn collect(count: u64) -> u64 {
    let (maps, file, _sparse) = windows(count, 2 * count);
    let mut cursor = file.cursor();
    (0..count).for_each(|window| touch(&mut cursor, window));
    cursor.release();
    let collected = counted(|| maps.collect());
    assert_eq!(collected.regions as u64, count);
    count
}

fn touch(cursor: &mut Cursor, window: u64) {
    let bytes = cursor.window_at(window * WINDOW).expect("a window of the file");
    assert_eq!(black_box(bytes).len() as u64, WINDOW);
}

// ---------------------------------------------------------------------------------------------------------------------
// Files and memory
// ---------------------------------------------------------------------------------------------------------------------

/// The path of a sparse file, which is deleted on drop. Drop it after the measurement: of a deleted file, the cache
/// unmaps unused windows.
struct SparseFile(PathBuf);

impl Drop for SparseFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Creates a sparse file of `count` windows, under a budget of `budget` windows.
fn windows(count: u64, budget: u64) -> (MapManager, MappedFile, SparseFile) {
    fs::create_dir_all(directory()).expect("the directory beside the build is created");
    let sparse = SparseFile(directory().join(format!("sparse-{}", std::process::id())));
    File::create(&sparse.0).and_then(|file| file.set_len(count * WINDOW)).expect("the sparse file is created");
    let maps = build(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_mapped_bytes(budget * WINDOW)
            .max_regions(budget as usize),
    );
    let file = maps.open(&sparse.0).expect("the file opens");
    (maps, file, sparse)
}

fn opened(count: u64) -> (MapManager, Vec<MappedFile>) {
    files(count);
    let maps = build(MapManager::builder().max_open_files(256));
    let open = |n| maps.open(path(n)).expect("the file opens");
    let files = (0..count).map(open).collect();
    (maps, files)
}

/// Creates the files `0..count` of one page each that do not exist yet.
fn files(count: u64) {
    fs::create_dir_all(directory()).expect("the directory beside the build is created");
    // The last file is created last, so if it exists, all of them do.
    if count > 0 && !path(count - 1).exists() {
        eprintln!("making {count} files in {}", directory().display());
        for n in (0..count).filter(|&n| !path(n).exists()) {
            fs::create_dir_all(path(n).parent().expect("every path has a parent")).expect("the directory is created");
            fs::write(path(n), [1; WINDOW as usize]).expect("the file is written");
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("smmap-bench-files")
}

fn path(n: u64) -> PathBuf {
    directory().join((n / 1000).to_string()).join(n.to_string())
}

/// Reports the memory that the cache itself takes, by file and by window.
fn memory(report: &mut Report) {
    let live = || LIVE.load(Ordering::Relaxed) as f64;
    let mut line = |what: &str, count: u64, bytes: f64| {
        report.note(format!("{what}: {:.0} bytes each ({count} of them)", bytes / count as f64));
    };
    let empty = live();
    let maps = build(MapManager::builder());
    line("a manager", 1, live() - empty);
    drop(maps);

    let count = 10_000;
    files(count);
    let maps = build(MapManager::builder().max_open_files(256));
    let mut files = Vec::with_capacity(count as usize);
    let before = live();
    files.extend((0..count).map(|n| maps.open(path(n)).expect("the file opens")));
    let names = path(count - 1).as_os_str().len();
    line(&format!("a file that is open, with its path of {names} bytes"), count, live() - before);
    let before = live();
    files.iter().for_each(|file| drop(file.lease(..).expect("a file of a page")));
    line("its first window, mapped", count, live() - before);
    drop(files);
    drop(maps);

    let count = 16_000;
    for (name, stride) in [("a window beside others", 1), ("a window by itself, a thousand from the next", 1_000)] {
        let (_maps, file, _sparse) = windows(count * stride, 2 * count);
        let mut cursor = file.cursor();
        touch(&mut cursor, 0);
        let before = live();
        (1..=count - 1).for_each(|n| touch(&mut cursor, n * stride));
        line(&format!("{name}, mapped"), count - 1, live() - before);
    }
    line("a cursor on the stack", 1, size_of::<Cursor>() as f64);
    line("a lease on the stack", 1, size_of::<smmap::Lease>() as f64);
}
