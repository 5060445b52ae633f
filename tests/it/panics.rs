//! Panics in code of the caller: closures over iterators, writers, ranges and paths. Unwinding releases the clients
//! that were held, and the cursors and leases that outlive the panic stay usable.

use std::any::Any;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{Bound, RangeBounds};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use smmap::{Buffer, Cursor, Lease, MapManager, MappedFile, Window};

use crate::support::{Dir, Mapped, TestFile, assert_same, letters, manager, settles};

/// A multiple of the granularity of mappings, which is 64 KiB on Windows.
const WINDOW: u64 = if cfg!(windows) { 64 << 10 } else { 4 * 4096 };
const WINDOWS: u64 = 32;
/// Budget: less than the whole file, and more than the detached region of a [`LONG`] lease.
const BUDGET: u64 = 20 * WINDOW;
/// A length above the largest copy, so that a lease of it is a detached region.
const LONG: u64 = 17 * WINDOW;

/// Unwinds as a panic does, but without a message.
fn throw() -> ! {
    panic::resume_unwind(Box::new(Thrown))
}

struct Thrown;

/// The caller's code that throws.
#[derive(Clone, Copy, Debug)]
enum Way {
    HoldsLeases,
    HoldsCursors,
    BorrowsWindow,
    BorrowsSlice,
    Windows,
    WindowsBackwards,
    CollectsWindows,
    FindIter,
    Lines,
    Split,
    Writes,
    Range,
    RangeOfCursor,
    RangeOfBuffer,
    RangeOfPrefetch,
    Path,
    SlicesTooFar,
    OnAnotherThread,
    #[cfg(feature = "rayon")]
    ParWindows,
}

const WAYS: &[Way] = &[
    Way::HoldsLeases,
    Way::HoldsCursors,
    Way::BorrowsWindow,
    Way::BorrowsSlice,
    Way::Windows,
    Way::WindowsBackwards,
    Way::CollectsWindows,
    Way::FindIter,
    Way::Lines,
    Way::Split,
    Way::Writes,
    Way::Range,
    Way::RangeOfCursor,
    Way::RangeOfBuffer,
    Way::RangeOfPrefetch,
    Way::Path,
    Way::SlicesTooFar,
    Way::OnAnotherThread,
    #[cfg(feature = "rayon")]
    Way::ParWindows,
];

/// A range or path that throws when its start or end is read.
struct Throwing {
    at_start: bool,
}

impl<T: Default> RangeBounds<T> for Throwing
where
    T: 'static,
{
    fn start_bound(&self) -> Bound<&T> {
        if self.at_start { throw() } else { Bound::Unbounded }
    }

    fn end_bound(&self) -> Bound<&T> {
        throw()
    }
}

impl AsRef<Path> for Throwing {
    fn as_ref(&self) -> &Path {
        throw()
    }
}

/// A writer that throws after this many bytes.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).unwrap_or_else(|| throw());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The cache and the clients that outlive the panics.
struct World {
    dir: Dir,
    file: TestFile,
    maps: MapManager,
    handle: MappedFile,
    cursor: Cursor,
    buffer: Buffer,
    kept: Vec<Lease>,
}

impl World {
    fn new(seed: u64) -> World {
        let dir = Dir::new();
        let file = dir.write("file", letters(seed, WINDOWS * WINDOW - 100, b"abcdefghij klmnop\nqrstuvw"));
        let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(BUDGET));
        let handle = maps.open(&file.path).unwrap();
        let (cursor, buffer) = (handle.cursor(), handle.buffer());
        World { dir, file, maps, handle, cursor, buffer, kept: Vec::new() }
    }

    fn window(&self, at: u64) -> &[u8] {
        &self.file[(at * WINDOW) as usize..((at + 1) * WINDOW).min(self.file.len()) as usize]
    }

    /// Throws in this way, near window `at`. If `keeps` is set, two leases are held during the throw.
    fn throw(&mut self, way: Way, at: u64, keeps: bool) {
        let Self { file, maps, handle, cursor, buffer, .. } = self;
        let (start, steps) = (at * WINDOW, at as usize);
        // Held below the throwing frame, so that unwinding drops them.
        let _lease = keeps.then(|| handle.lease(start..start + 10).unwrap());
        let _long = keeps.then(|| handle.lease(..LONG).unwrap());
        match way {
            Way::HoldsLeases => {
                let leases: Vec<_> = handle.windows().take(steps + 1).map(Result::unwrap).collect();
                let _parts: Vec<_> = leases.iter().map(|lease| lease.slice(1..)).collect();
                throw();
            }
            Way::HoldsCursors => {
                let mut cursors: Vec<_> = (0..steps + 1).map(|_| handle.cursor()).collect();
                for (index, cursor) in (0..).zip(&mut cursors) {
                    cursor.window_at(index * WINDOW).unwrap();
                }
                let _clones = cursors.clone();
                throw();
            }
            Way::BorrowsWindow => {
                let _borrowed = cursor.window_at(start).unwrap();
                throw();
            }
            Way::BorrowsSlice => {
                let _borrowed = buffer.slice(start / 2..start + 100).unwrap();
                throw();
            }
            Way::Windows => {
                for (index, lease) in handle.windows().enumerate() {
                    let _lease = lease.unwrap();
                    if index >= steps {
                        throw();
                    }
                }
            }
            Way::WindowsBackwards => {
                let mut left = steps;
                handle.windows().rev().for_each(|lease| {
                    let _lease = lease.unwrap();
                    left = left.checked_sub(1).unwrap_or_else(|| throw());
                });
            }
            Way::CollectsWindows => {
                let _leases: Vec<Lease> = handle
                    .windows()
                    .enumerate()
                    .map(|(index, lease)| if index < steps { lease.unwrap() } else { throw() })
                    .collect();
            }
            Way::FindIter => {
                let mut left = steps;
                buffer.find_iter(b"a").for_each(|found| {
                    assert_eq!(file[found.unwrap() as usize], b'a');
                    left = left.checked_sub(1).unwrap_or_else(|| throw());
                });
            }
            Way::Lines => {
                let mut lines = Vec::new();
                for line in buffer.lines() {
                    lines.push(line.unwrap());
                    if lines.len() > steps {
                        throw();
                    }
                }
            }
            Way::Split => {
                let pieces = buffer.split(b'b').map(|piece| piece.unwrap());
                let _longest = pieces.enumerate().max_by_key(|(index, piece)| {
                    if *index > steps {
                        throw();
                    }
                    piece.len()
                });
            }
            Way::Writes => {
                cursor.seek(SeekFrom::Start(0)).unwrap();
                let _ = io::copy(cursor, &mut Sink(start));
            }
            Way::Range => drop(handle.lease(Throwing { at_start: keeps })),
            Way::RangeOfCursor => drop(cursor.slice(Throwing { at_start: keeps })),
            Way::RangeOfBuffer => drop(buffer.slice(Throwing { at_start: keeps })),
            Way::RangeOfPrefetch => handle.prefetch(Throwing { at_start: keeps }).unwrap(),
            Way::Path => drop(if keeps {
                maps.open(Throwing { at_start: true }).map(drop)
            } else {
                maps.close(Throwing { at_start: true });
                Ok(())
            }),
            Way::SlicesTooFar => {
                let lease = handle.lease(start..start + 10).unwrap();
                let _first = lease.slice(Throwing { at_start: keeps });
            }
            Way::OnAnotherThread => {
                let (mut cursor, lease) = (handle.cursor(), handle.lease(start..start + 10).unwrap());
                let result = thread::spawn(move || {
                    let _lease = lease.clone();
                    let _borrowed = cursor.window_at(start).unwrap();
                    throw();
                })
                .join();
                panic::resume_unwind(result.unwrap_err());
            }
            #[cfg(feature = "rayon")]
            Way::ParWindows => {
                use rayon::prelude::*;
                handle.par_windows().enumerate().for_each(|(index, lease)| {
                    let _lease = lease.unwrap();
                    if index == steps {
                        throw();
                    }
                });
            }
        }
    }

    /// Checks that the surviving clients and handles read the right bytes.
    fn check(&mut self, at: u64) {
        let start = at * WINDOW + 10;
        let part = self.file[start as usize..][..3000].to_vec();
        assert_same(self.cursor.slice(start..start + 3000).unwrap(), &part, "slice of the cursor");
        assert_same(self.buffer.slice(start..start + 3000).unwrap(), &part, "slice of the buffer");
        let mut bytes = vec![0; 3000];
        self.cursor.seek(SeekFrom::Start(start)).unwrap();
        self.cursor.read_exact(&mut bytes).unwrap();
        assert_same(&bytes, &part, "read of the cursor");
        let lease = self.handle.lease(at * WINDOW..((at + 1) * WINDOW).min(self.file.len())).unwrap();
        assert_same(&lease, self.window(at), "lease of the window");
        if self.kept.len() < 3 {
            self.kept.push(lease);
        }
        for lease in &self.kept {
            assert_same(lease, &self.file[lease.offset() as usize..][..lease.len()], "kept lease");
        }
    }

    fn end(mut self) {
        // The cursor, the buffer and each kept lease may pin one region.
        let most = 2 + self.kept.len();
        assert!(self.maps.stats().pinned_regions <= most, "{:?}", self.maps.stats());
        self.kept.clear();
        self.cursor.release();
        self.buffer.release();
        let stats = self.maps.stats();
        assert_eq!((stats.pinned_regions, stats.pinned_bytes), (0, 0), "{stats:?}");
        // No handle may be leaked either: dropping the last one closes the descriptor and removes the file's entry.
        let Self { dir, maps, handle, cursor, buffer, .. } = self;
        drop((handle, cursor, buffer));
        maps.collect();
        // The collector may be about to unmap a region that it has just retired.
        let nothing = || {
            let stats = maps.stats();
            let counts = (stats.mapped_bytes, stats.regions, stats.maps - stats.unmaps, stats.open_files, stats.files);
            counts == (0, 0, 0, 0, 0) && dir.mapped().unwrap_or_default() == Mapped::default()
        };
        assert!(settles(nothing), "{:?}, {:?}", maps.stats(), dir.mapped());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn panics_in_callers_leave_no_client_counted(
        seed in any::<u64>(),
        throws in vec((select(WAYS), 0..WINDOWS, 0..WINDOWS, any::<bool>()), 1..20),
    ) {
        let mut world = World::new(seed);
        for (way, at, then, keeps) in throws {
            let thrown = panic::catch_unwind(AssertUnwindSafe(|| world.throw(way, at, keeps)));
            let thrown: Box<dyn Any + Send> = thrown.expect_err("every way throws");
            assert!(thrown.is::<Thrown>(), "{way:?} at {at}: another panic than the thrown one, see above");
            world.check(then);
        }
        world.end();
    }
}

/// Slices a lease out of range, which panics in the library.
#[test]
fn lease_slice_that_panics_releases_its_client() {
    let world = World::new(1);
    world.handle.prefetch(..).unwrap();
    let lease = world.handle.lease(..100).unwrap();
    let twin = lease.clone();
    let thrown = panic::catch_unwind(move || twin.slice(50..101));
    let message = thrown.unwrap_err();
    assert!(message.downcast_ref::<String>().is_some_and(|message| message.contains("50..101 of a lease of 100")));
    assert_eq!(world.maps.stats().pinned_regions, 1, "only the first lease pins a region");
    assert_same(&lease, &world.file[..100], "after the panic");
    drop(lease);
    world.end();
}
