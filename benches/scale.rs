//! What does not grow with the cache: the work of a hit, of opening once more, of evicting, of collecting; and what does: the
//! memory that it takes itself, and with the number of cursors, of whom each may read what is to go, the work of evicting.
//!
//! Work is counted, not timed: instructions in user space under callgrind, per operation, with few and with many files or
//! windows. Target: with many at most 1.25 × as many. (A window's slot is found in a tree of 64 branches a node, so a hit
//! among a million windows passes two nodes more than one among a thousand.) Bytes are counted by the allocator.
//!
//! `cargo bench --bench scale -- ratios` measures; the first run makes 100,000 small files beside the build, and keeps them.

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
/// Windows that the budget holds, where that is not what varies.
const BUDGET: u64 = 4096;
/// Files or windows that hits go to, by turns.
const SPREAD: u64 = 64;
const OPERATIONS: u64 = 10_000;

/// Counts what is allocated and not freed.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is the system's doing; beside it, a number changes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is counted, with how many of what.
struct Work {
    name: &'static str,
    what: &'static str,
    sizes: [u64; 3],
    /// Sets up, and does [`counted`] work; how many operations that was.
    run: fn(u64) -> u64,
    /// Whether it is known to grow.
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
            let work = WORK.iter().find(|work| work.name == name).expect("a name of WORK");
            println!("{}", (work.run)(size.parse().expect("a number")));
            return;
        }
    }
    if !measuring() {
        // Each is tried once, small.
        WORK.iter().for_each(|work| assert!((work.run)(work.sizes[0]) > 0));
        return;
    }
    let mut report = Report::new("scale");
    files(WORK.iter().filter(|work| work.what.starts_with("files")).map(|work| work.sizes[2]).max().unwrap_or(0));
    memory(&mut report);
    for work in &WORK {
        let counts: Vec<f64> = work.sizes.iter().map_while(|&size| instructions(work.name, size)).collect();
        let [few, some, many] = counts[..] else {
            report.note(format!("SKIPPED: {}: valgrind is not here, or counted nothing", work.name));
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

/// Instructions of an operation, as callgrind counts them. `None` where it cannot.
fn instructions(name: &str, size: u64) -> Option<f64> {
    eprintln!("counting: {name}, {size}");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=scale::counted*"])
        .arg(std::env::current_exe().expect("this bench"))
        .args(["work", name, &size.to_string()])
        .output()
        .ok()?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, {size}: {told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse::<f64>().ok()?;
    let operations: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of operations");
    (collected > 0.0).then(|| collected / operations)
}

/// The only function of which instructions are counted.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

// ---------------------------------------------------------------------------------------------------------------------
// The work
// ---------------------------------------------------------------------------------------------------------------------

/// From window to window by a cursor, where so many were mapped one after the other.
fn hit_windows(count: u64) -> u64 {
    let (maps, file, _hole) = windows(count, BUDGET);
    let mut cursor = file.cursor();
    (0..count).for_each(|window| touch(&mut cursor, window));
    // A few of them, from end to end, and backwards: who goes on to the next window asks the system whether it is in memory.
    let spread: Vec<u64> = (0..SPREAD).rev().map(|n| n * count / SPREAD).collect();
    spread.iter().for_each(|&window| touch(&mut cursor, window));
    let before = maps.stats().misses;
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|&window| touch(&mut cursor, window)));
    assert_eq!(maps.stats().misses, before, "not only hits");
    OPERATIONS
}

/// Small reads of files, of which so many are open.
fn hit_files(count: u64) -> u64 {
    let (_maps, files) = opened(count);
    let read = |file: &MappedFile| file.read_exact_at(&mut [0; 8], 0).expect("a file of a page");
    let spread: Vec<&MappedFile> = (0..SPREAD).map(|n| &files[(n * count / SPREAD) as usize]).collect();
    spread.iter().for_each(|file| read(file));
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|file| read(file)));
    OPERATIONS
}

/// Leases of files, of which so many are open.
fn lease_files(count: u64) -> u64 {
    let (_maps, files) = opened(count);
    let lease = |file: &MappedFile| drop(black_box(file.lease(0..8).expect("a file of a page")));
    let spread: Vec<&MappedFile> = (0..SPREAD).map(|n| &files[(n * count / SPREAD) as usize]).collect();
    spread.iter().for_each(|file| lease(file));
    counted(|| spread.iter().cycle().take(OPERATIONS as usize).for_each(|file| lease(file)));
    OPERATIONS
}

/// Opening what is open, beside so many others, more than may have a descriptor.
fn open_again(count: u64) -> u64 {
    let (maps, _files) = opened(count);
    let paths: Vec<PathBuf> = (0..SPREAD).map(|n| path(n * count / SPREAD)).collect();
    let open = |path: &PathBuf| drop(maps.open(path).expect("it is open"));
    paths.iter().for_each(open);
    counted(|| paths.iter().cycle().take(OPERATIONS as usize / 10).for_each(open));
    OPERATIONS / 10
}

/// Mapping one more where so many are mapped and one has to go.
fn evict(count: u64) -> u64 {
    evict_one_of(count, 0)
}

/// The same, beside so many cursors that hold a window each, and do nothing: who evicts looks what they read.
fn evict_beside_cursors(count: u64) -> u64 {
    evict_one_of(BUDGET, count)
}

fn evict_one_of(regions: u64, cursors: u64) -> u64 {
    let more = OPERATIONS / 10;
    let (maps, file, _hole) = windows(regions + more, regions);
    let mut cursors: Vec<Cursor> = (0..cursors).map(|_| file.cursor()).collect();
    cursors.iter_mut().zip((0..SPREAD).cycle()).for_each(|(cursor, window)| touch(cursor, window));
    let mut cursor = file.cursor();
    (0..regions).for_each(|window| touch(&mut cursor, window));
    counted(|| (regions..regions + more).for_each(|window| touch(&mut cursor, window)));
    let stats = maps.stats();
    assert!(stats.evictions + regions / 16 + 1 >= more, "nothing had to go: {stats:?}");
    more
}

/// Collecting so many; counted for each.
fn collect(count: u64) -> u64 {
    let (maps, file, _hole) = windows(count, 2 * count);
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

/// A file that goes with it. It must not go before: of a deleted file, what is unused is unmapped.
struct Hole(PathBuf);

impl Drop for Hole {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file of so many windows, all of it a hole, under a budget of so many.
fn windows(count: u64, budget: u64) -> (MapManager, MappedFile, Hole) {
    fs::create_dir_all(directory()).expect("a directory beside the build");
    let hole = Hole(directory().join(format!("hole-{}", std::process::id())));
    File::create(&hole.0).and_then(|file| file.set_len(count * WINDOW)).expect("a hole in a file");
    let maps = build(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_mapped_bytes(budget * WINDOW)
            .max_regions(budget as usize),
    );
    let file = maps.open(&hole.0).expect("it is there");
    (maps, file, hole)
}

fn opened(count: u64) -> (MapManager, Vec<MappedFile>) {
    files(count);
    let maps = build(MapManager::builder().max_open_files(256));
    let open = |n| maps.open(path(n)).expect("it is there");
    let files = (0..count).map(open).collect();
    (maps, files)
}

/// Makes what is missing of so many files of a page each.
fn files(count: u64) {
    fs::create_dir_all(directory()).expect("a directory beside the build");
    // The last is made last.
    if count > 0 && !path(count - 1).exists() {
        eprintln!("making {count} files in {}", directory().display());
        for n in (0..count).filter(|&n| !path(n).exists()) {
            fs::create_dir_all(path(n).parent().expect("a directory")).expect("a directory");
            fs::write(path(n), [1; WINDOW as usize]).expect("a file of a page");
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("smmap-bench-files")
}

fn path(n: u64) -> PathBuf {
    directory().join((n / 1000).to_string()).join(n.to_string())
}

/// What the cache takes for itself, by file and by window.
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
    files.extend((0..count).map(|n| maps.open(path(n)).expect("it is there")));
    let names = path(count - 1).as_os_str().len();
    line(&format!("a file that is open, with its path of {names} bytes"), count, live() - before);
    let before = live();
    files.iter().for_each(|file| drop(file.lease(..).expect("a file of a page")));
    line("its first window, mapped", count, live() - before);
    drop(files);
    drop(maps);

    let count = 16_000;
    for (name, stride) in [("a window beside others", 1), ("a window by itself, a thousand from the next", 1_000)] {
        let (_maps, file, _hole) = windows(count * stride, 2 * count);
        let mut cursor = file.cursor();
        touch(&mut cursor, 0);
        let before = live();
        (1..=count - 1).for_each(|n| touch(&mut cursor, n * stride));
        line(&format!("{name}, mapped"), count - 1, live() - before);
    }
    line("a cursor on the stack", 1, size_of::<Cursor>() as f64);
    line("a lease on the stack", 1, size_of::<smmap::Lease>() as f64);
}
