//! What the fuzz targets share: the one `unsafe` call, a place for files that costs no disk, bytes that tell where they
//! come from, and a look at what the system holds for us when a run is over.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs, io};

use arbitrary::{Arbitrary, Unstructured};
use memchr::memmem;
use smmap::{Error, MapManager, MapManagerBuilder};
use tempfile::TempDir;

/// A manager of these settings, or why there is none.
pub fn manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the targets read files of their own, in directories that nobody else knows. They append to them, and replace
    // and delete them as a whole; one that is made shorter is so while nobody reads or holds it, and refreshed then.
    unsafe { builder.build() }
}

/// Where the files are: in memory, if the system has a place for that.
fn ground() -> &'static Path {
    static GROUND: OnceLock<PathBuf> = OnceLock::new();
    GROUND.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let ground = if memory.is_dir() { memory.to_path_buf() } else { env::temp_dir() };
        ground.canonicalize().expect("a directory for temporary files")
    })
}

/// The directory of one run.
pub fn directory() -> TempDir {
    tempfile::Builder::new().prefix("smmap-fuzz-").tempdir_in(ground()).expect("a temporary directory")
}

/// A file without a name, for all runs.
pub fn nameless() -> fs::File {
    tempfile::tempfile_in(ground()).expect("a temporary file")
}

/// What the process holds of the files of all runs: areas of memory, and descriptors. Nothing, where there is no /proc.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    mapped: usize,
    descriptors: usize,
}

impl Held {
    fn now() -> Self {
        let ground = ground().as_os_str().as_encoded_bytes();
        let maps = fs::read("/proc/self/maps").unwrap_or_default();
        let links = fs::read_dir("/proc/self/fd").into_iter().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Self {
            mapped: memmem::find_iter(&maps, ground).count(),
            descriptors: links.filter(|link| link.as_os_str().as_encoded_bytes().starts_with(ground)).count(),
        }
    }
}

/// One run; after it, nothing may be held that was not held before the first one.
pub fn run(work: impl FnOnce()) {
    static BEFORE: OnceLock<Held> = OnceLock::new();
    let before = BEFORE.get_or_init(Held::now);
    work();
    assert_eq!(Held::now(), *before, "something is left behind");
}

/// What is done, one after the other, `MAX` at most: with all the bytes that the fuzzer gives, if it comes last. (A `Vec` asks
/// before each element whether there is one more, and is told not in half of the cases.)
#[derive(Debug)]
pub struct Script<T, const MAX: usize>(pub Vec<T>);

impl<'a, T: Arbitrary<'a>, const MAX: usize> Arbitrary<'a> for Script<T, MAX> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let count = bytes.int_in_range(0..=MAX)?;
        (0..count).map(|_| T::arbitrary(bytes)).collect::<Result<_, _>>().map(Script)
    }

    fn arbitrary_take_rest(mut bytes: Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut script = Vec::new();
        while !bytes.is_empty() && script.len() < MAX {
            script.push(T::arbitrary(&mut bytes)?);
        }
        Ok(Script(script))
    }
}

/// Bytes in `range` of the file of this generation: each file has others, and each place in it.
pub fn bytes_of(generation: u64, range: Range<u64>) -> Vec<u8> {
    let mixed = mix(generation);
    let mut bytes: Vec<u8> =
        (range.start / 8..range.end.div_ceil(8)).flat_map(|index| mix(mixed ^ index).to_le_bytes()).collect();
    bytes.truncate((range.end - range.start / 8 * 8) as usize);
    bytes.drain(..(range.start % 8) as usize);
    bytes
}

/// The finalizer of splitmix64.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Panics where two runs of bytes differ, and says at which byte instead of printing them all.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
        panic!("{what}: {} bytes in place of {}, the first that differs: {first:?}", found.len(), expected.len());
    }
}

/// How many of each kind a run keeps at a time.
pub const KEPT: usize = 6;

/// Keeps `value`; in the place of another one, if there are so many.
pub fn keep<T>(into: &mut Vec<T>, value: T) {
    if into.len() == KEPT {
        into.swap_remove(0);
    }
    into.push(value);
}

/// Whether nothing was there under that name.
pub fn is_not_found(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

/// The error that came through a trait of `std::io`.
pub fn of_io(error: io::Error) -> Error {
    error.downcast().expect("an error of the library")
}

/// The one that is chosen, of those that are there.
pub fn pick<T>(of: &[T], pick: u8) -> Option<usize> {
    (!of.is_empty()).then(|| usize::from(pick) % of.len())
}
