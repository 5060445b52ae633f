//! What the tests share: the one `unsafe` call, files of which every byte is known, and a look at what the *system*
//! holds for us (mappings, descriptors, threads). A budget is judged by the kernel's list, not by our own counters.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::cell::Cell;
use std::io::{self, BufRead as _, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use smmap::{MapManager, MapManagerBuilder};
use tempfile::TempDir;

/// A manager of these settings, which have to be valid.
#[track_caller]
pub(crate) fn manager(builder: MapManagerBuilder) -> MapManager {
    try_manager(builder).expect("these settings are valid")
}

/// A manager of these settings, or why there is none.
#[expect(unsafe_code, reason = "the promise that the library asks for, made once for all tests")]
pub(crate) fn try_manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the tests read files in temporary directories of their own, which nobody else knows. A test that changes
    // a file appends to it, removes it or puts another in its place; one that shortens it or writes over it does so
    // while no byte of it is borrowed or leased.
    unsafe { builder.build() }
}

// ---------------------------------------------------------------------------------------------------------------------
// Bytes that are known
// ---------------------------------------------------------------------------------------------------------------------

/// The byte at `offset` in the file of `seed`: looks random, and tells one position from another.
pub(crate) fn pattern(seed: u64, offset: u64) -> u8 {
    word(seed, offset / 8).to_le_bytes()[(offset % 8) as usize]
}

/// The first `len` bytes of [`pattern`].
pub(crate) fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize + 8);
    for index in 0..len.div_ceil(8) {
        bytes.extend_from_slice(&word(seed, index).to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// `len` bytes of the given letters: pieces of one random text, put together at random (a debug build is slow to make
/// up a letter at a time).
pub(crate) fn letters(seed: u64, len: u64, alphabet: &[u8]) -> Vec<u8> {
    const PIECE: usize = 64;
    let choose = |random: u8| alphabet[usize::from(random) % alphabet.len()];
    let source: Vec<u8> = bytes(seed, 4096).into_iter().map(choose).collect();
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(len as usize + PIECE);
    while (bytes.len() as u64) < len {
        let start = rng.below((source.len() - PIECE) as u64) as usize;
        bytes.extend_from_slice(&source[start..start + PIECE]);
    }
    bytes.truncate(len as usize);
    bytes
}

fn word(seed: u64, index: u64) -> u64 {
    mix(mix(seed) ^ index)
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A small random number generator, the same on every run of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Panics where two runs of bytes differ, and says at which byte instead of printing them all.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: impl std::fmt::Display) {
    if found == expected {
        return;
    }
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    panic!("{what}: {} bytes found, {} expected, the first that differs: {first:?}", found.len(), expected.len(),);
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

/// A temporary directory of one test. Its path is the one that the kernel would print.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    _keep: TempDir,
}

/// A file and what is in it; derefs to the bytes.
#[derive(Clone, Debug)]
pub(crate) struct TestFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Arc<[u8]>,
}

impl Dir {
    pub(crate) fn new() -> Dir {
        let keep = tempfile::Builder::new().prefix("smmap-").tempdir().expect("a temporary directory");
        let path = keep.path().canonicalize().expect("it is there");
        Dir { path, _keep: keep }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new file of `len` bytes of [`pattern`].
    pub(crate) fn file(&self, name: &str, len: u64, seed: u64) -> TestFile {
        self.write(name, bytes(seed, len))
    }

    /// A new file of these bytes.
    pub(crate) fn write(&self, name: &str, bytes: impl Into<Arc<[u8]>>) -> TestFile {
        let (path, bytes) = (self.path.join(name), bytes.into());
        fs::write(&path, &bytes).expect("the file can be written");
        TestFile { path, bytes }
    }

    /// What is mapped of the files in here, as [`mapped_below`].
    pub(crate) fn mapped(&self) -> Option<Mapped> {
        mapped_below(&self.path)
    }

    /// How many descriptors the process has of files in here, as [`descriptors_below`].
    pub(crate) fn descriptors(&self) -> Option<usize> {
        descriptors_below(&self.path)
    }
}

impl TestFile {
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A descriptor of its own.
    pub(crate) fn descriptor(&self) -> fs::File {
        fs::File::open(&self.path).expect("the file is there")
    }
}

impl Deref for TestFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the system holds
// ---------------------------------------------------------------------------------------------------------------------

/// Bytes and areas (entries of the kernel's list) that are mapped. Neighbours may merge into one area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) bytes: u64,
    pub(crate) areas: usize,
}

/// What this process has mapped of files below `dir`, deleted ones too. None where there is no /proc.
///
/// The kernel does not stop the others while it writes its list. So with threads that map and unmap meanwhile this can
/// show a window both where it was and where it is now: see [`surely_mapped_below`].
pub(crate) fn mapped_below(dir: &Path) -> Option<Mapped> {
    let areas = areas_below(dir)?;
    Some(Mapped { bytes: areas.iter().map(|area| area.end - area.start).sum(), areas: areas.len() })
}

/// A number of bytes that *were* mapped at one moment of files below `dir`, also with threads at work.
///
/// What stands in two lists was mapped all the time between them (but for an area that went and came back, of the same
/// bytes and at the same address, in that fraction of a millisecond), so its sum was mapped at one moment. What was
/// just coming or going is left out.
pub(crate) fn surely_mapped_below(dir: &Path) -> Option<u64> {
    let (first, second) = (areas_below(dir)?, areas_below(dir)?);
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    Some(pairs.map(|(a, b)| a.shared_with(b)).sum())
}

/// One line of /proc/self/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    start: u64,
    end: u64,
    /// Where in the file `start` is.
    offset: u64,
    file: String,
}

impl Area {
    /// Bytes at the same address, of the same place in the same file.
    fn shared_with(&self, other: &Area) -> u64 {
        let same =
            self.file == other.file && self.start.wrapping_sub(self.offset) == other.start.wrapping_sub(other.offset);
        if same { self.end.min(other.end).saturating_sub(self.start.max(other.start)) } else { 0 }
    }
}

fn areas_below(dir: &Path) -> Option<Vec<Area>> {
    if !proc_is_here("what is mapped") {
        return None;
    }
    // Line by line: at the system's limit of mappings there may be no memory for all of it.
    let list = io::BufReader::new(fs::File::open("/proc/self/maps").expect("/proc is mounted"));
    let lines = list.split(b'\n').map(|line| line.expect("the kernel's list can be read"));
    Some(lines.filter_map(|line| parse(&String::from_utf8_lossy(&line), dir)).collect())
}

/// `start-end permissions offset device inode   path`, if the path is below `dir`.
fn parse(line: &str, dir: &Path) -> Option<Area> {
    let mut rest = line;
    let mut fields = [""; 5];
    for field in &mut fields {
        let (head, tail) = rest.trim_start().split_once(' ')?;
        (*field, rest) = (head, tail);
    }
    let file = rest.trim_start();
    if !Path::new(file).starts_with(dir) {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    let (start, end) = fields[0].split_once('-').expect("two addresses");
    // The inode stays with the name: a file that was replaced has the same name, and then " (deleted)".
    let file = format!("{} {file}", fields[4]);
    Some(Area { start: number(start), end: number(end), offset: number(fields[2]), file })
}

/// How many descriptors this process has of files below `dir`, deleted ones too. None where there is no /proc.
pub(crate) fn descriptors_below(dir: &Path) -> Option<usize> {
    if !proc_is_here("which descriptors are open") {
        return None;
    }
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    // Another thread may have closed a descriptor since it was listed: that is no error.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter(|link| link.starts_with(dir)).count())
}

/// How many threads this process has, of all kinds. None where there is no /proc.
pub(crate) fn threads() -> Option<usize> {
    proc_is_here("which threads live").then(|| tasks().len())
}

/// How many threads bear a name of this library's. None where there is no /proc.
pub(crate) fn collector_threads() -> Option<usize> {
    proc_is_here("which threads live").then(|| tasks().iter().filter(|name| name.starts_with("smmap")).count())
}

/// The names of this process's threads, but for those that have ended: also after it was joined, a thread may stand in
/// the kernel's list for a moment.
fn tasks() -> Vec<String> {
    const EXITING: u64 = 4;
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    // `id (name) state parent group session tty foreground flags ..`
    let alive = stats.filter_map(|stat| {
        let (head, tail) = stat.rsplit_once(") ")?;
        let flags: u64 = tail.split(' ').nth(6)?.parse().ok()?;
        (flags & EXITING == 0).then(|| head.split_once('(').map(|(_, name)| name.to_owned()))?
    });
    alive.collect()
}

fn proc_is_here(what: &str) -> bool {
    if cfg!(target_os = "linux") {
        return true;
    }
    eprintln!("not checked, there is no /proc here: {what}");
    false
}

// ---------------------------------------------------------------------------------------------------------------------
// Calls of the system that fail on purpose
// ---------------------------------------------------------------------------------------------------------------------

thread_local! {
    static OWN_FAULTS: Cell<u64> = const { Cell::new(0) };
}

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Threads that want no faults.
static CALM: AtomicUsize = AtomicUsize::new(0);

/// How many calls of the system were made to fail so far, in all threads. None, but in `tests/faults.rs`.
pub(crate) fn faults() -> u64 {
    FAULTS.load(Ordering::SeqCst)
}

/// The same, in this thread.
pub(crate) fn own_faults() -> u64 {
    OWN_FAULTS.get()
}

pub(crate) fn note_fault() {
    OWN_FAULTS.set(OWN_FAULTS.get() + 1);
    FAULTS.fetch_add(1, Ordering::SeqCst);
}

/// Runs `work` without faults in any thread.
pub(crate) fn calm<T>(work: impl FnOnce() -> T) -> T {
    struct Calm;
    impl Drop for Calm {
        fn drop(&mut self) {
            CALM.fetch_sub(1, Ordering::SeqCst);
        }
    }
    CALM.fetch_add(1, Ordering::SeqCst);
    let _calm = Calm;
    work()
}

pub(crate) fn is_calm() -> bool {
    CALM.load(Ordering::SeqCst) > 0
}

// ---------------------------------------------------------------------------------------------------------------------
// Running
// ---------------------------------------------------------------------------------------------------------------------

/// How much the stress tests do, as a multiple: `SMMAP_STRESS=20` for a long run.
pub(crate) fn scale() -> u64 {
    let value = env::var("SMMAP_STRESS").ok();
    value.map_or(1, |value| value.parse().expect("SMMAP_STRESS is a number"))
}

/// Waits until `done`, for what another thread does in its own time. False if that takes longer than anyone would wait.
pub(crate) fn settles(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Says it past the harness, which keeps back what a test that passes prints: what was not checked, and why; what came out.
pub(crate) fn say(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Runs the test of this full name (`module::function`) in a process of its own, where it may count what the whole
/// process has. True in that process: go on. False in the first one: the other has done it, and passed.
#[track_caller]
pub(crate) fn alone(test: &str) -> bool {
    const NAME: &str = "SMMAP_TEST_ALONE";
    if env::var_os(NAME).is_some_and(|alone| alone == test) {
        return true;
    }
    let output = process::Command::new(env::current_exe().expect("this binary"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, test)
        .output()
        .expect("this binary runs");
    let (told, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}, alone:\n{told}\n{warned}");
    assert!(told.contains("1 passed"), "no test has the name {test}:\n{told}");
    for line in warned.lines().filter(|line| line.starts_with("SKIPPED")) {
        // Past the harness, which keeps to itself what a test prints that passes.
        let _ = writeln!(io::stderr(), "{line}");
    }
    false
}

#[test]
fn bytes_match_the_pattern() {
    let found = bytes(7, 1003);
    assert_eq!(found.len(), 1003);
    assert!((0..1003).all(|offset| found[offset as usize] == pattern(7, offset)));
    assert_ne!(found, bytes(8, 1003));
}

#[test]
fn kernel_mapping_line_is_parsed() {
    let line = "7f00-9f00 r--s 00003000 fe:01 4711                       /tmp/a b/some file (deleted)";
    let area = parse(line, Path::new("/tmp/a b")).expect("below that directory");
    assert_eq!((area.start, area.end, area.offset), (0x7f00, 0x9f00, 0x3000));
    assert_eq!(parse(line, Path::new("/tmp/a")), None, "whole components");
    assert_eq!(parse("7f00-9f00 rw-p 00000000 00:00 0 ", Path::new("/tmp")), None, "of no file");

    let moved = Area { start: area.start + 0x1000, offset: area.offset + 0x1000, ..area.clone() };
    assert_eq!(area.shared_with(&moved), 0x1000);
    let other = Area { offset: 0, ..moved };
    assert_eq!(area.shared_with(&other), 0);
}

#[test]
fn threads_are_listed_only_while_alive() {
    if collector_threads().is_none() {
        return;
    }
    // Short, so that the kernel does not cut it, and of no other test.
    const NAME: &str = "listed (a) b";
    let listed = || tasks().iter().filter(|name| *name == NAME).count();
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = thread::Builder::new().name(NAME.into()).spawn(move || wait.recv()).expect("a thread");
    assert!(settles(|| listed() == 1), "{:?}", tasks());
    drop(stop);
    assert!(thread.join().is_ok());
    assert_eq!(listed(), 0, "at once, when it was joined");
}
