//! Shared by the fuzz targets: the only `unsafe` call, temporary files (in memory if possible), file content that
//! identifies its file and offset, and a check that a run releases all resources.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs, io};

use arbitrary::{Arbitrary, Unstructured};
use memchr::memmem;
use smmap::{Error, MapManager, MapManagerBuilder};
use tempfile::TempDir;

/// Builds a manager with these settings. Returns the library's error if it rejects them.
pub fn manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the targets read files of their own, in directories that no other process uses. They only append to the
    // files, and replace and delete them. They truncate a file only while no thread reads or holds it, and then refresh
    // it.
    unsafe { builder.build() }
}

/// Returns the parent of all runs' directories: in memory, if the OS has such a file system.
fn base_directory() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_path_buf() } else { env::temp_dir() };
        base.canonicalize().expect("a directory for temporary files")
    })
}

/// Creates the directory of one run.
pub fn directory() -> TempDir {
    tempfile::Builder::new().prefix("smmap-fuzz-").tempdir_in(base_directory()).expect("a temporary directory")
}

/// Creates a file without a name, for all runs.
pub fn nameless() -> fs::File {
    tempfile::tempfile_in(base_directory()).expect("a temporary file")
}

/// The mappings and descriptors of the runs' files that the process holds. Both are 0 on a system without /proc.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    mapped: usize,
    descriptors: usize,
}

impl Held {
    fn now() -> Self {
        let base = base_directory().as_os_str().as_encoded_bytes();
        let maps = fs::read("/proc/self/maps").unwrap_or_default();
        let links = fs::read_dir("/proc/self/fd").into_iter().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Self {
            mapped: memmem::find_iter(&maps, base).count(),
            descriptors: links.filter(|link| link.as_os_str().as_encoded_bytes().starts_with(base)).count(),
        }
    }
}

/// Runs `work` once. Panics if the process then holds more or less than before the first run.
pub fn run(work: impl FnOnce()) {
    static BEFORE: OnceLock<Held> = OnceLock::new();
    let before = BEFORE.get_or_init(Held::now);
    work();
    assert_eq!(Held::now(), *before, "the run did not release all mappings and descriptors");
}

/// A list of at most `MAX` steps. As the last field of the input, it uses all the remaining bytes of the fuzzer.
///
/// (A `Vec` draws a bit before each element, and ends as soon as one is 0, so its lists are short.)
#[derive(Debug)]
pub struct Steps<T, const MAX: usize>(pub Vec<T>);

impl<'a, T: Arbitrary<'a>, const MAX: usize> Arbitrary<'a> for Steps<T, MAX> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let count = bytes.int_in_range(0..=MAX)?;
        (0..count).map(|_| T::arbitrary(bytes)).collect::<Result<_, _>>().map(Steps)
    }

    fn arbitrary_take_rest(mut bytes: Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut steps = Vec::new();
        while !bytes.is_empty() && steps.len() < MAX {
            steps.push(T::arbitrary(&mut bytes)?);
        }
        Ok(Steps(steps))
    }
}

/// Returns the bytes in `range` of the file of this generation. Each generation, and each offset, has other bytes.
pub fn bytes_of(generation: u64, range: Range<u64>) -> Vec<u8> {
    let mixed = mix(generation);
    let mut bytes: Vec<u8> =
        (range.start / 8..range.end.div_ceil(8)).flat_map(|index| mix(mixed ^ index).to_le_bytes()).collect();
    bytes.truncate((range.end - range.start / 8 * 8) as usize);
    bytes.drain(..(range.start % 8) as usize);
    bytes
}

/// Mixes the bits of `value` (the finalizer of splitmix64).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Panics if `found` differs from `expected`, with the index of the first difference instead of all bytes.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
        panic!("{what}: {} bytes, expected {}; first difference at {first:?}", found.len(), expected.len());
    }
}

/// The number of objects of each kind that a run keeps at most.
pub const KEPT: usize = 6;

/// Adds `value`, and drops another one if `into` has [`KEPT`] values already.
pub fn keep<T>(into: &mut Vec<T>, value: T) {
    if into.len() == KEPT {
        into.swap_remove(0);
    }
    into.push(value);
}

/// Returns `true` if the error says that no file had the name.
pub fn is_not_found(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

/// Returns the library's error inside an error that came through a trait of `std::io`.
pub fn of_io(error: io::Error) -> Error {
    error.downcast().expect("the I/O error contains an error of the library")
}

/// Maps the fuzzer's `choice` to an index of `values`. Returns `None` if there are no values.
pub fn pick<T>(values: &[T], choice: u8) -> Option<usize> {
    (!values.is_empty()).then(|| usize::from(choice) % values.len())
}
