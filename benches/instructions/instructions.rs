//! Counts the instructions of operations, in an emulator (Valgrind), so that other programs on the machine do not
//! disturb the counts.
//!
//! ```sh
//! bash .ci/run instructions           # compares with counts.txt; more than 3 % above a count fails
//! RECORD=1 bash .ci/run instructions  # writes the counts of this checkout to counts.txt
//! ```
//!
//! Each count is that of [`OPERATIONS`] operations, without their setup. `none` is the loop with its random numbers,
//! which the other counts include. System calls count as one instruction.
//!
//! The counts depend on the compiler, so another version than that of counts.txt is not compared. They depend on the
//! processor only where glibc chooses the implementation of `memcpy` by its features; these are turned off.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use smmap::{Cursor, MapManager, MappedFile, Window};

const OPERATIONS: u64 = 1000;
/// The bytes of a window.
const WINDOW: u64 = 64 << 10;
/// The windows that are mapped before the count begins.
const MAPPED: u64 = 64;
/// The windows of a large file.
const MANY: u64 = 1_000_000;
/// The largest excess of a count over counts.txt, in percent.
const TOLERANCE: u64 = 3;

/// Returns the configuration of a bench with the limit from counts.txt. Without a recorded count, the bench fails.
fn limited(name: &str) -> LibraryBenchmarkConfig {
    let counts = include_str!("counts.txt").lines().filter_map(|line| line.split_once(' '));
    let count = counts.filter(|(bench, _)| *bench == name).find_map(|(_, count)| count.parse::<u64>().ok());
    let limit = count.map_or(0, |count| count + count * TOLERANCE / 100);
    let mut config = LibraryBenchmarkConfig::default();
    config
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-AVX512VL,-ERMS,-FSRM,-SSSE3")
        .tool(Callgrind::with_args(["--cache-sim=no"]).hard_limits([(EventKind::Ir, limit)]));
    config
}

/// A file of a manager, and a cursor of it. Returned by each bench, so that its drop is not counted.
struct Opened {
    manager: MapManager,
    path: PathBuf,
    file: MappedFile,
    cursor: Cursor,
    /// The distance between the windows that are read, in windows.
    stride: u64,
}

/// Opens a file of `windows` windows, of which [`MAPPED`] are mapped and read often.
fn mapped(windows: u64) -> Opened {
    // Without holes, a file of tmpfs is mapped too. The path has the same length for each checkout, because `open_known`
    // takes it apart.
    let directory = if windows == MAPPED { "/tmp" } else { env!("CARGO_TARGET_TMPDIR") };
    let stride = windows / MAPPED;
    let mut opened = open(directory, windows, |file| {
        for window in 0..MAPPED {
            file.write_all_at(&[7; WINDOW as usize], window * stride * WINDOW).expect("the file can be written");
        }
    });
    for _ in 0..300 {
        (0..MAPPED).for_each(|window| drop(opened.cursor.window_at(window * stride * WINDOW + WINDOW / 2)));
    }
    opened.cursor.window_at(0).expect("the window can be mapped");
    assert_eq!(opened.manager.stats().maps, MAPPED);
    opened
}

/// Opens a file of which each window is read at most once, and so never mapped.
fn copied() -> Opened {
    let mut opened = open(env!("CARGO_TARGET_TMPDIR"), MANY, |_| {});
    // The first read of a window without a slot makes a table.
    opened.cursor.slice(WINDOW..WINDOW + 64).expect("bytes of the file");
    opened
}

fn open(directory: &str, windows: u64, write: impl Fn(&File)) -> Opened {
    let path = Path::new(directory).join(format!("smmap-instructions-{:010}", std::process::id()));
    let file = File::create(&path).expect("the directory can be written");
    file.set_len(windows * WINDOW).expect("the file can be extended");
    write(&file);
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).collector(false);
    // SAFETY: no other process knows the file.
    let manager = unsafe { builder.build() }.expect("the limits are valid");
    let file = manager.open(&path).expect("the file opens");
    Opened { cursor: file.cursor(), manager, path, file, stride: windows / MAPPED }
}

/// Removes the file. Runs after the count.
fn remove(opened: Opened) {
    fs::remove_file(&opened.path).expect("the file is removed once");
}

/// Calls `operation` for each number of a sequence that looks random.
#[inline(always)]
fn for_each_random(mut operation: impl FnMut(u64)) {
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..OPERATIONS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        operation(random);
    }
}

impl Opened {
    /// Returns an offset in one of the mapped windows, far from its start.
    #[inline(always)]
    fn elsewhere(&self, random: u64) -> u64 {
        random % MAPPED * self.stride * WINDOW + 8192 + (random >> 32) % (WINDOW / 2)
    }
}

#[library_benchmark(config = limited("none"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn none(opened: Opened) -> Opened {
    for_each_random(|random| _ = black_box(random % WINDOW));
    opened
}

#[library_benchmark(config = limited("slice_in_window"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn slice_in_window(mut opened: Opened) -> Opened {
    for_each_random(|random| {
        let start = random % (WINDOW / 2);
        black_box(opened.cursor.slice(start..start + 64).expect("bytes of the file"));
    });
    opened
}

#[library_benchmark(config = limited("slice_elsewhere"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn slice_elsewhere(opened: Opened) -> Opened {
    slices(opened)
}

#[library_benchmark(config = limited("slice_elsewhere_of_many"))]
#[bench::count(args = (MANY), setup = mapped, teardown = remove)]
fn slice_elsewhere_of_many(opened: Opened) -> Opened {
    slices(opened)
}

#[inline(always)]
fn slices(mut opened: Opened) -> Opened {
    for_each_random(|random| {
        let start = opened.elsewhere(random);
        black_box(opened.cursor.slice(start..start + 64).expect("bytes of the file"));
    });
    opened
}

#[library_benchmark(config = limited("slice_copied"))]
#[bench::count(setup = copied, teardown = remove)]
fn slice_copied(mut opened: Opened) -> Opened {
    for_each_random(|random| {
        let start = random % MANY * WINDOW + 8192;
        black_box(opened.cursor.slice(start..start + 64).expect("bytes of the file"));
    });
    opened
}

#[library_benchmark(config = limited("lease"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn lease(opened: Opened) -> Opened {
    for_each_random(|random| {
        let start = opened.elsewhere(random);
        drop(black_box(opened.file.lease(start..start + 64).expect("bytes of the file")));
    });
    opened
}

#[library_benchmark(config = limited("read_at_mapped"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn read_at_mapped(opened: Opened) -> Opened {
    let mut bytes = [0; 64];
    for_each_random(|random| {
        opened.file.read_at(black_box(&mut bytes), opened.elsewhere(random)).expect("bytes of the file");
    });
    opened
}

#[library_benchmark(config = limited("read_at_copied"))]
#[bench::count(setup = copied, teardown = remove)]
fn read_at_copied(opened: Opened) -> Opened {
    let mut bytes = [0; 64];
    for_each_random(|random| {
        opened.file.read_at(black_box(&mut bytes), random % MANY * WINDOW + 8192).expect("bytes of the file");
    });
    opened
}

#[library_benchmark(config = limited("new_cursor"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn new_cursor(opened: Opened) -> Opened {
    for_each_random(|random| {
        let start = opened.elsewhere(random);
        let mut cursor = opened.file.cursor();
        black_box(cursor.slice(start..start + 64).expect("bytes of the file"));
    });
    opened
}

#[library_benchmark(config = limited("read_exact_1"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn read_exact_1(mut opened: Opened) -> Opened {
    read_exact::<1>(&mut opened.cursor);
    opened
}

#[library_benchmark(config = limited("read_exact_16"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn read_exact_16(mut opened: Opened) -> Opened {
    read_exact::<16>(&mut opened.cursor);
    opened
}

#[inline(always)]
fn read_exact<const LEN: usize>(cursor: &mut Cursor) {
    let mut bytes = [0; LEN];
    for _ in 0..OPERATIONS {
        cursor.read_exact(black_box(&mut bytes)).expect("bytes of the file");
    }
}

#[library_benchmark(config = limited("fill_buf_consume"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn fill_buf_consume(mut opened: Opened) -> Opened {
    for _ in 0..OPERATIONS {
        black_box(opened.cursor.fill_buf().expect("bytes of the file"));
        opened.cursor.consume(4);
    }
    opened
}

#[library_benchmark(config = limited("seek_read_30"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn seek_read_30(mut opened: Opened) -> Opened {
    let mut bytes = [0; 30];
    for_each_random(|random| {
        opened.cursor.seek(SeekFrom::Start(random % (WINDOW / 2))).expect("an offset of the file");
        opened.cursor.read_exact(black_box(&mut bytes)).expect("bytes of the file");
    });
    opened
}

#[library_benchmark(config = limited("open_known"))]
#[bench::count(args = (MAPPED), setup = mapped, teardown = remove)]
fn open_known(opened: Opened) -> Opened {
    for _ in 0..OPERATIONS {
        drop(black_box(opened.manager.open(&opened.path).expect("the file opens")));
    }
    opened
}

library_benchmark_group!(
    name = operations,
    benchmarks = [
        none,
        slice_in_window,
        slice_elsewhere,
        slice_elsewhere_of_many,
        slice_copied,
        lease,
        read_at_mapped,
        read_at_copied,
        new_cursor,
        read_exact_1,
        read_exact_16,
        fill_buf_consume,
        seek_read_30,
        open_known,
    ]
);

main!(library_benchmark_groups = operations);
