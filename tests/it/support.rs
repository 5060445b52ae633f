//! Helpers of all integration tests: the one `unsafe` call, files with known bytes, and the mappings, descriptors and
//! threads that the OS lists for this process. Tests check budgets by the kernel's list, not by the cache's counters.

#![allow(dead_code, reason = "no test binary uses all of the helpers")]

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

/// Returns a manager with these settings. Panics if they are invalid.
#[track_caller]
pub(crate) fn manager(builder: MapManagerBuilder) -> MapManager {
    try_manager(builder).expect("the settings are valid")
}

/// Returns a manager with these settings, or the error of `build`.
#[expect(unsafe_code, reason = "`build` is unsafe; tests that include this file call it only here")]
pub(crate) fn try_manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the tests read files in temporary directories of their own, which no other program uses. A test changes a
    // file only by appending, removing or replacing it. If a test truncates or overwrites a file, no byte of the file
    // is borrowed or leased during the change.
    unsafe { builder.build() }
}

// ---------------------------------------------------------------------------------------------------------------------
// Known bytes
// ---------------------------------------------------------------------------------------------------------------------

/// Returns the byte at `offset` in the file of `seed`. The bytes look random, so that a read at a wrong offset shows.
pub(crate) fn pattern(seed: u64, offset: u64) -> u8 {
    word(seed, offset / 8).to_le_bytes()[(offset % 8) as usize]
}

/// Returns the first `len` bytes of [`pattern`].
pub(crate) fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize + 8);
    for index in 0..len.div_ceil(8) {
        bytes.extend_from_slice(&word(seed, index).to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// Returns `len` bytes of these letters: pieces of one random text in random order.
///
/// The text is made of pieces because a debug build is slow at choosing each letter.
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

/// Mixes the bits of a number, as the finalizer of splitmix64 does.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A small random number generator that repeats its numbers for the same seed.
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

    /// Returns a number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Panics if two byte strings differ, with the lengths and the first difference instead of all bytes.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: impl std::fmt::Display) {
    if found == expected {
        return;
    }
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    panic!("{what}: {} bytes found, {} expected, first difference at {first:?}", found.len(), expected.len());
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

/// A temporary directory of one test. Its path is canonical, as the kernel lists it.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    _keep: TempDir,
}

/// A file and its expected bytes, to which it derefs.
#[derive(Clone, Debug)]
pub(crate) struct TestFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Arc<[u8]>,
}

impl Dir {
    pub(crate) fn new() -> Dir {
        let keep = tempfile::Builder::new().prefix("smmap-").tempdir().expect("a temporary directory can be created");
        let path = keep.path().canonicalize().expect("the directory exists");
        Dir { path, _keep: keep }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file of `len` bytes of [`pattern`].
    pub(crate) fn file(&self, name: &str, len: u64, seed: u64) -> TestFile {
        self.write(name, bytes(seed, len))
    }

    /// Creates a file of these bytes.
    pub(crate) fn write(&self, name: &str, bytes: impl Into<Arc<[u8]>>) -> TestFile {
        let (path, bytes) = (self.path.join(name), bytes.into());
        fs::write(&path, &bytes).expect("the file can be written");
        TestFile { path, bytes }
    }

    /// Returns the mappings of files in this directory, as [`mapped_below`] does.
    pub(crate) fn mapped(&self) -> Option<Mapped> {
        mapped_below(&self.path)
    }

    /// Returns the number of descriptors of files in this directory, as [`descriptors_below`] does.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        descriptors_below(&self.path)
    }
}

impl TestFile {
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Opens a new descriptor of the file.
    pub(crate) fn descriptor(&self) -> fs::File {
        fs::File::open(&self.path).expect("the file exists")
    }
}

impl Deref for TestFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Mappings, descriptors and threads that the OS lists
// ---------------------------------------------------------------------------------------------------------------------

/// Mapped bytes and areas, which are entries of the kernel's list. The kernel may merge neighbouring mappings into one
/// area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) bytes: u64,
    pub(crate) areas: usize,
}

/// Returns the mappings of this process of files below `dir`, deleted ones included, or `None` without /proc.
///
/// The kernel does not stop other threads while it writes its list. If they map and unmap concurrently, the list can
/// show a window both at its old and its new address: see [`surely_mapped_below`].
pub(crate) fn mapped_below(dir: &Path) -> Option<Mapped> {
    let areas = areas_below(dir)?;
    Some(Mapped { bytes: areas.iter().map(|area| area.end - area.start).sum(), areas: areas.len() })
}

/// Returns a number of bytes of files below `dir` that were mapped at one moment, also while other threads map, or
/// `None` without /proc.
///
/// Sums the areas that are in two lists taken in turn. Each of them was mapped during the whole time between the lists,
/// unless it was unmapped and mapped again at the same address within a fraction of a millisecond. Areas that were
/// mapped or unmapped between the lists are left out.
pub(crate) fn surely_mapped_below(dir: &Path) -> Option<u64> {
    let (first, second) = (areas_below(dir)?, areas_below(dir)?);
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    Some(pairs.map(|(a, b)| a.shared_with(b)).sum())
}

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    start: u64,
    end: u64,
    /// The offset in the file at which `start` is mapped.
    offset: u64,
    file: String,
}

impl Area {
    /// Returns the number of bytes that both areas map at the same address from the same offset of the same file.
    fn shared_with(&self, other: &Area) -> u64 {
        let same =
            self.file == other.file && self.start.wrapping_sub(self.offset) == other.start.wrapping_sub(other.offset);
        if same { self.end.min(other.end).saturating_sub(self.start.max(other.start)) } else { 0 }
    }
}

fn areas_below(dir: &Path) -> Option<Vec<Area>> {
    if !has_proc("mappings") {
        return None;
    }
    // Reads line by line, because at the OS limit of mappings there may be no memory for the whole list.
    let list = io::BufReader::new(fs::File::open("/proc/self/maps").expect("/proc can be read"));
    let lines = list.split(b'\n').map(|line| line.expect("the list of mappings can be read"));
    Some(lines.filter_map(|line| parse(&String::from_utf8_lossy(&line), dir)).collect())
}

/// Parses a line `start-end permissions offset device inode   path`. Returns `None` if the path is not below `dir`.
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
    let number = |text| u64::from_str_radix(text, 16).expect("the field is a hexadecimal number");
    let (start, end) = fields[0].split_once('-').expect("the field has two addresses");
    // The inode is kept with the name, because a replaced file has the same name, followed by " (deleted)".
    let file = format!("{} {file}", fields[4]);
    Some(Area { start: number(start), end: number(end), offset: number(fields[2]), file })
}

/// Returns the number of descriptors of this process of files below `dir`, deleted ones included, or `None` without
/// /proc.
pub(crate) fn descriptors_below(dir: &Path) -> Option<usize> {
    if !has_proc("open descriptors") {
        return None;
    }
    let entries = fs::read_dir("/proc/self/fd").expect("/proc can be read");
    // Another thread may have closed a descriptor since it was listed, which is no error.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter(|link| link.starts_with(dir)).count())
}

/// Returns the number of threads of this process, or `None` without /proc.
pub(crate) fn threads() -> Option<usize> {
    has_proc("live threads").then(|| tasks().len())
}

/// Returns the number of threads with a name of this library, or `None` without /proc.
pub(crate) fn collector_threads() -> Option<usize> {
    has_proc("live threads").then(|| tasks().iter().filter(|name| name.starts_with("smmap")).count())
}

/// Returns the names of the threads of this process, except those that have ended. The kernel may list a thread for a
/// moment after it was joined.
fn tasks() -> Vec<String> {
    const EXITING: u64 = 4;
    let tasks = fs::read_dir("/proc/self/task").expect("/proc can be read");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    // `id (name) state parent group session tty foreground flags ..`
    let alive = stats.filter_map(|stat| {
        let (head, tail) = stat.rsplit_once(") ")?;
        let flags: u64 = tail.split(' ').nth(6)?.parse().ok()?;
        (flags & EXITING == 0).then(|| head.split_once('(').map(|(_, name)| name.to_owned()))?
    });
    alive.collect()
}

/// Returns `true` if there is /proc. Otherwise prints the name of the skipped check.
fn has_proc(what: &str) -> bool {
    if cfg!(target_os = "linux") {
        return true;
    }
    eprintln!("not checked, there is no /proc here: {what}");
    false
}

// ---------------------------------------------------------------------------------------------------------------------
// Injected faults of system calls
// ---------------------------------------------------------------------------------------------------------------------

thread_local! {
    static OWN_FAULTS: Cell<u64> = const { Cell::new(0) };
}

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Number of calls of [`calm`] in progress.
static CALM: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of system calls made to fail so far, in all threads. It is 0 except in `tests/faults/`.
pub(crate) fn faults() -> u64 {
    FAULTS.load(Ordering::SeqCst)
}

/// Returns the number of system calls made to fail so far in this thread.
pub(crate) fn own_faults() -> u64 {
    OWN_FAULTS.get()
}

/// Counts a system call that was made to fail in this thread.
pub(crate) fn note_fault() {
    OWN_FAULTS.set(OWN_FAULTS.get() + 1);
    FAULTS.fetch_add(1, Ordering::SeqCst);
}

/// Runs `work` without injected faults in any thread.
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

/// Returns `true` while any thread runs [`calm`].
pub(crate) fn is_calm() -> bool {
    CALM.load(Ordering::SeqCst) > 0
}

// ---------------------------------------------------------------------------------------------------------------------
// Running tests
// ---------------------------------------------------------------------------------------------------------------------

/// Returns the factor for the length of stress tests, from the variable `SMMAP_STRESS`, or 1 without it.
pub(crate) fn scale() -> u64 {
    let value = env::var("SMMAP_STRESS").ok();
    value.map_or(1, |value| value.parse().expect("SMMAP_STRESS is a number"))
}

/// Waits until `done` returns `true`, for work of another thread. Returns `false` after ten seconds.
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

/// Prints a skipped check or a result, although the harness captures the output of passing tests.
pub(crate) fn say(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Runs the test of this full name (`module::function`) in a process of its own, where it may count resources of the
/// whole process.
///
/// Returns `true` in the new process, which runs the test. Returns `false` in the calling process after the new one has
/// passed. Panics if it has not.
#[track_caller]
pub(crate) fn alone(test: &str) -> bool {
    const NAME: &str = "SMMAP_TEST_ALONE";
    if env::var_os(NAME).is_some_and(|alone| alone == test) {
        return true;
    }
    let output = process::Command::new(env::current_exe().expect("the path of this binary is known"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, test)
        .output()
        .expect("this binary can be run");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}, in its own process:\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "no test has the name {test}:\n{stdout}");
    for line in stderr.lines().filter(|line| line.starts_with("SKIPPED")) {
        // Written to stderr directly, because the harness captures the output of passing tests.
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
    let area = parse(line, Path::new("/tmp/a b")).expect("the path is below the directory");
    assert_eq!((area.start, area.end, area.offset), (0x7f00, 0x9f00, 0x3000));
    assert_eq!(parse(line, Path::new("/tmp/a")), None, "a path matches by whole components");
    assert_eq!(parse("7f00-9f00 rw-p 00000000 00:00 0 ", Path::new("/tmp")), None, "an anonymous mapping has no file");

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
    // Short, because the kernel truncates long names, and not used by another test.
    const NAME: &str = "listed (a) b";
    let listed = || tasks().iter().filter(|name| *name == NAME).count();
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = thread::Builder::new().name(NAME.into()).spawn(move || wait.recv()).expect("a thread can be spawned");
    assert!(settles(|| listed() == 1), "{:?}", tasks());
    drop(stop);
    assert!(thread.join().is_ok());
    assert_eq!(listed(), 0, "a joined thread is not listed");
}
