//! Promises of the test suite of Python's smmap, for programs that are ported from it.
//!
//! The numbers are those of its tests: files of about 8 MB, windows of a hundredth of the file, a budget of a third of
//! it, 15 handles (in Python's smmap each mapped region costs one), and 5,000 random accesses.

use smmap::{
    Admission, Collected, Cursor, ErrorKind, Limits, MapManager, MapManagerBuilder, MappedFile, Overcommit, Stats,
    Window,
};

use crate::support::{Dir, Rng, TestFile, assert_same, manager, settles};

/// Length of the file; no multiple of a page or a window.
const SIZE: u64 = 8 * 1000 * 1000 + 5195;
const HANDLES: usize = 15;
/// The largest mapping granularity of a platform.
const GRANULE: u64 = 64 << 10;

#[derive(Clone, Copy, Debug)]
enum By {
    Path,
    Descriptor,
}

const WAYS: [By; 2] = [By::Path, By::Descriptor];

fn open(maps: &MapManager, file: &TestFile, by: By) -> MappedFile {
    match by {
        By::Path => maps.open(&file.path).unwrap(),
        By::Descriptor => maps.open_file(file.descriptor()).unwrap(),
    }
}

fn file() -> (Dir, TestFile) {
    let dir = Dir::new();
    let file = dir.file("from python", SIZE, 101);
    (dir, file)
}

/// Returns tight settings with windows, as of Python's `SlidingWindowMapManager`.
fn sliding() -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: SIZE / 100 })
        .max_mapped_bytes(SIZE / 3)
        .max_regions(HANDLES)
        .max_open_files(HANDLES)
}

/// Returns settings that map whole files, as Python's `StaticWindowMapManager` does, with room for one of them.
fn whole() -> MapManagerBuilder {
    sliding().window(Window::WholeFile).max_mapped_bytes(SIZE + GRANULE)
}

/// Panics unless the cache is within the limits, by its own counts and by the kernel's.
#[track_caller]
fn assert_within(limits: Limits, stats: &Stats, dir: &Dir) {
    assert!(
        stats.mapped_bytes <= limits.max_mapped_bytes && stats.regions <= limits.max_regions,
        "{limits:?}, {stats:?}"
    );
    if let Some(mapped) = dir.mapped() {
        assert!(
            mapped.bytes <= limits.max_mapped_bytes && mapped.areas <= limits.max_regions,
            "{limits:?}, {mapped:?}"
        );
    }
}

/// Panics unless nothing stays mapped after `collect` with no clients left. Waits for a region that the collector
/// thread is still unmapping.
#[track_caller]
fn assert_nothing_left(maps: &MapManager, dir: &Dir) {
    assert_eq!(maps.stats().pinned_regions, 0);
    let nothing = || (maps.stats().regions, maps.stats().mapped_bytes) == (0, 0);
    assert!(settles(nothing), "{:?}", maps.stats());
    assert_eq!(maps.stats().maps, maps.stats().unmaps, "every mapping was unmapped");
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

// ---------------------------------------------------------------------------------------------------------------------
// Managers
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn new_manager_holds_nothing() {
    for builder in [sliding(), whole(), MapManager::builder()] {
        let maps = manager(builder);
        let (stats, limits) = (maps.stats(), maps.limits());
        assert_eq!((stats.regions, stats.mapped_bytes, stats.files, stats.open_files), (0, 0, 0, 0));
        assert_eq!((stats.hits, stats.misses, stats.maps, stats.peak_mapped_bytes), (0, 0, 0, 0));
        assert!(limits.max_mapped_bytes > 0 && limits.max_regions > 0 && limits.max_open_files > 0);
        assert_eq!(maps.collect(), Collected::default(), "nothing to collect");
        assert!(maps.window_bytes().is_none_or(|bytes| bytes > 0 && bytes <= limits.max_mapped_bytes));
    }
}

/// Reads the settings back. The window size is rounded up by less than one granule.
#[test]
fn settings_read_back_as_set() {
    let maps = manager(sliding());
    let expected = Limits { max_mapped_bytes: SIZE / 3, max_regions: HANDLES, max_open_files: HANDLES };
    assert_eq!(maps.limits(), expected);
    let window = maps.window_bytes().unwrap();
    assert!((SIZE / 100..SIZE / 100 + GRANULE).contains(&window), "{window}");
    assert_eq!(window % 4096, 0, "whole pages");
    assert_eq!(manager(whole()).window_bytes(), None);

    let other = Limits { max_mapped_bytes: SIZE, max_regions: 3, max_open_files: 2 };
    maps.set_limits(other).unwrap();
    assert_eq!(maps.limits(), other);
    assert_eq!(maps.window_bytes(), Some(window), "set_limits keeps the window size");
}

#[test]
fn open_by_path_or_descriptor_reads_the_same_bytes() {
    let (dir, file) = file();
    for builder in [sliding(), whole()] {
        for by in WAYS {
            let maps = manager(builder.clone());
            let mapped = open(&maps, &file, by);
            assert_eq!(mapped.len(), SIZE);
            assert_eq!(mapped.path(), matches!(by, By::Path).then_some(file.path.as_path()));
            let mut cursor = mapped.cursor();
            assert_same(&cursor.window_at(10).unwrap()[..10], &file[10..20], format!("{by:?}"));
            assert_same(cursor.slice(10..20).unwrap(), &file[10..20], format!("{by:?}"));
            assert!(cursor.window_at(SIZE).unwrap().is_empty(), "the window at the end of the file is empty");
            drop((mapped, cursor));
            assert_eq!(maps.collect().regions, 1);
            assert_nothing_left(&maps, &dir);
        }
    }
}

/// Opens a file by path and by descriptor. Both share the regions of the file; in Python's smmap each has its own.
#[test]
fn path_and_descriptor_of_a_file_share_its_regions() {
    let (_dir, file) = file();
    let maps = manager(sliding());
    let (by_path, by_descriptor) = (open(&maps, &file, By::Path), open(&maps, &file, By::Descriptor));
    let (mut a, mut b) = (by_path.cursor(), by_descriptor.cursor());
    assert_eq!(a.window_at(5000).unwrap().as_ptr(), b.window_at(5000).unwrap().as_ptr());
    let stats = maps.stats();
    assert_eq!((stats.files, stats.regions, stats.maps), (1, 1, 1));
}

/// Reads at 5,000 random offsets. The bytes are right, the limits hold at every step, and `collect` unmaps everything.
#[test]
fn random_accesses_stay_within_the_limits() {
    let (dir, file) = file();
    for builder in [sliding(), whole()] {
        for by in WAYS {
            let maps = manager(builder.clone());
            let (limits, window) = (maps.limits(), maps.window_bytes());
            let mut cursor = open(&maps, &file, by).cursor();
            assert_eq!(maps.stats().regions, 0, "a new cursor maps nothing");
            let size = window.unwrap_or(SIZE) / 2;

            let mut rng = Rng::new(1);
            for access in 0..5000 {
                let start = rng.below(SIZE);
                // Half of the accesses read up to the end of the window, as in Python; half read exactly `size` bytes.
                let end = if access % 2 == 0 {
                    let found = cursor.window_at(start).unwrap();
                    assert!(!found.is_empty() && found.len() as u64 <= window.unwrap_or(SIZE));
                    let end = start + (found.len() as u64).min(size);
                    assert_same(&found[..(end - start) as usize], &file[start as usize..end as usize], "a window");
                    end
                } else {
                    let end = (start + size).min(SIZE);
                    assert_same(cursor.slice(start..end).unwrap(), &file[start as usize..end as usize], "a slice");
                    end
                };
                assert!(end > start && end <= SIZE);
                // Reading the kernel's list takes long.
                if access % 50 == 0 {
                    assert_within(limits, &maps.stats(), &dir);
                }
            }
            let stats = maps.stats();
            assert!(stats.peak_mapped_bytes <= limits.max_mapped_bytes, "the peak is within the limit: {stats:?}");
            assert!(stats.peak_regions <= limits.max_regions, "the peak is within the limit: {stats:?}");
            assert_eq!(stats.overcommits, 0);
            assert!(window.is_none() || stats.evictions > 100, "windows were evicted: {stats:?}");
            assert!(window.is_some() || stats.maps == 1, "the whole file is mapped once: {stats:?}");

            cursor.release();
            let stats = maps.stats();
            assert_eq!(stats.pinned_regions, 0);
            assert!(stats.regions > 0, "released regions stay mapped");
            let collected = maps.collect();
            assert!(collected.regions > 0 && collected.regions <= stats.regions, "{collected:?} of {stats:?}");
            assert!(collected.bytes > 0 && collected.bytes <= stats.mapped_bytes, "{collected:?} of {stats:?}");
            assert_nothing_left(&maps, &dir);
            // The cursor stays usable.
            assert_same(&cursor.window_at(77).unwrap()[..100], &file[77..177], "after all was collected");
        }
    }
}

/// Reads a file above the budget with whole-file windows. Mapping it may be refused, whereas the limit of Python's
/// smmap is soft; copying reads always succeed.
#[test]
fn whole_file_above_the_budget_is_readable() {
    let (dir, file) = file();
    for by in WAYS {
        let maps = manager(whole().max_mapped_bytes(SIZE / 3));
        let mapped = open(&maps, &file, by);
        let (mut cursor, mut rng) = (mapped.cursor(), Rng::new(2));
        for _ in 0..200 {
            let start = rng.below(SIZE - 1000);
            let mut bytes = [0; 1000];
            mapped.read_exact_at(&mut bytes, start).unwrap();
            assert_same(&bytes, &file[start as usize..][..1000], "copying read");
            match cursor.window_at(start) {
                Ok(found) => assert_same(found, &file[start as usize..], "window"),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::OverBudget), "{error}"),
            }
        }
        let stats = maps.stats();
        assert!(
            stats.mapped_bytes <= SIZE / 3 || stats.overcommits > 0,
            "a budget that is exceeded counts an overcommit: {stats:?}"
        );
        cursor.release();
        maps.collect();
        assert_nothing_left(&maps, &dir);
    }
}

/// Pins more windows than the budget allows. By default each is mapped, and the pinned ones stay mapped.
#[test]
fn over_allocation_by_default_is_allowed() {
    let (dir, file) = file();
    let maps = manager(sliding().max_mapped_bytes(SIZE / 20).max_regions(4));
    let mapped = open(&maps, &file, By::Path);
    let window = maps.window_bytes().unwrap();
    let mut cursors: Vec<Cursor> = (0..20).map(|_| mapped.cursor()).collect();
    for (index, cursor) in cursors.iter_mut().enumerate() {
        let start = index as u64 * 3 * window;
        assert_same(
            cursor.window_at(start).unwrap(),
            &file[start as usize..][..window as usize],
            "a window above the budget",
        );
    }
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.pinned_regions), (20, 20));
    assert_eq!(stats.mapped_bytes, 20 * window);
    assert!(stats.overcommits >= 15, "the overcommits are counted: {stats:?}");
    for (index, cursor) in cursors.iter_mut().enumerate() {
        let start = index as u64 * 3 * window + 5;
        assert_same(cursor.slice(start..start + 100).unwrap(), &file[start as usize..][..100], "a pinned window");
    }
    drop(cursors);
    assert!(
        settles(|| maps.stats().mapped_bytes <= SIZE / 20 && maps.stats().regions <= 4),
        "the cache returns to its limits after the cursors are dropped"
    );
    maps.collect();
    assert_nothing_left(&maps, &dir);
}

/// Reads 40 files with at most five open descriptors.
#[test]
fn open_files_stay_within_their_limit() {
    let dir = Dir::new();
    let files: Vec<TestFile> = (0..40).map(|n| dir.file(&format!("file {n}"), 10_000 + n, n)).collect();
    let maps = manager(sliding().max_open_files(5));
    let opened: Vec<MappedFile> = files.iter().map(|file| open(&maps, file, By::Path)).collect();
    let (mut rng, mut bytes) = (Rng::new(3), [0; 100]);
    for _ in 0..1000 {
        let n = rng.below(40) as usize;
        let start = rng.below(files[n].len() - 100) as usize;
        opened[n].read_exact_at(&mut bytes, start as u64).unwrap();
        assert_same(&bytes, &files[n][start..start + 100], "copying read");
        assert_same(opened[n].cursor().slice(start as u64..start as u64 + 100).unwrap(), &bytes, "sliced");
    }
    let within = || {
        let stats = maps.stats();
        stats.open_files <= 5 && dir.descriptors().is_none_or(|open| open <= 5)
    };
    assert!(settles(within), "{:?}, {:?} descriptors", maps.stats(), dir.descriptors());
    assert_eq!(maps.stats().files, 40, "every file has an entry");
    drop(opened);
    maps.collect();
    assert!(settles(|| maps.stats().files == 0), "a file without handles and regions has no entry: {:?}", maps.stats());
    assert!(settles(|| dir.descriptors().is_none_or(|open| open == 0)));
}

/// Closes files by path. Held windows stay readable; Python's smmap, which offers this on Windows only, unmaps them
/// under their readers.
#[test]
fn close_by_path_unmaps_unused_windows() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let (near, far) = (dir.file("near", SIZE / 8, 1), dir.file("sub/far", SIZE / 8, 2));
    let maps = manager(sliding());
    let (a, b) = (open(&maps, &near, By::Path), open(&maps, &far, By::Path));
    let (mut cursor, window) = (b.cursor(), maps.window_bytes().unwrap());
    a.prefetch(..3 * window).unwrap();
    b.prefetch(..3 * window).unwrap();
    cursor.window_at(0).unwrap();

    let closed = maps.close(dir.path().join("su"));
    assert_eq!((closed.unmapped, closed.still_held), (0, 0), "a prefix of a name matches no path");
    let closed = maps.close(dir.path().join("sub"));
    assert_eq!((closed.unmapped, closed.still_held), (2, 1));
    assert_same(cursor.slice(..window).unwrap(), &far[..window as usize], "a held window after close");
    assert_eq!(maps.stats().regions, 4, "the regions of the other file stay mapped");
    assert_eq!(maps.close(&near.path).unmapped, 3);
    cursor.release();
    maps.collect();
    assert_nothing_left(&maps, &dir);
    assert_same(&b.lease(5..99).unwrap(), &far[5..99], "the handle reads again after close");
}

// ---------------------------------------------------------------------------------------------------------------------
// Neighbouring windows
// ---------------------------------------------------------------------------------------------------------------------

/// Maps every window. Windows touch and never overlap, so each byte is mapped once.
#[test]
fn neighbouring_windows_do_not_overlap() {
    let (dir, file) = file();
    let maps = manager(sliding().max_mapped_bytes(2 * SIZE).max_regions(1000));
    let window = maps.window_bytes().unwrap();
    let mapped = open(&maps, &file, By::Path);
    let (mut cursor, mut rng) = (mapped.cursor(), Rng::new(4));
    // Starts at random offsets in random order, because regions of Python's smmap grow towards their neighbours.
    for _ in 0..2000 {
        let start = rng.below(SIZE);
        let end = (start / window * window + window).min(SIZE);
        assert_same(
            cursor.window_at(start).unwrap(),
            &file[start as usize..end as usize],
            "from a random offset to the next border",
        );
    }
    mapped.prefetch(..).unwrap();
    let stats = maps.stats();
    assert_eq!(stats.regions as u64, SIZE.div_ceil(window));
    assert_eq!(stats.maps, stats.regions as u64, "each window was mapped once");
    assert!((SIZE..SIZE + GRANULE).contains(&stats.mapped_bytes), "each byte is mapped once: {stats:?}");
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == stats.mapped_bytes), "{stats:?}, {:?}", dir.mapped());
}

/// Reads at an offset inside a window. The window is mapped from its start, and serves earlier offsets too.
#[test]
fn window_extends_to_the_left_of_the_requested_offset() {
    let (_dir, file) = file();
    let maps = manager(sliding());
    let window = maps.window_bytes().unwrap();
    let mut cursor = open(&maps, &file, By::Path).cursor();
    let (size, base) = (window / 2, 5000);
    assert_same(&cursor.window_at(base).unwrap()[..size as usize], &file[base as usize..][..size as usize], "at 5000");
    assert_same(cursor.window_at(0).unwrap(), &file[..window as usize], "the whole first window");
    assert_eq!(maps.stats().maps, 1, "both reads use one mapping");

    // The last window ends at the end of the file.
    let base = SIZE - 1000;
    assert_same(cursor.window_at(base).unwrap(), &file[base as usize..], "the end");
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.pinned_regions), (2, 1), "the first window stays mapped but is not pinned");
    assert_same(cursor.slice(base - 5..).unwrap(), &file[base as usize - 5..], "to the left of the offset");
    assert_eq!(maps.stats().maps, 2);
}

// ---------------------------------------------------------------------------------------------------------------------
// Cursors and pin counts
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn cursor_without_a_region_pins_nothing() {
    let (dir, file) = file();
    let maps = manager(sliding());
    let mapped = open(&maps, &file, By::Path);
    let mut cursor = mapped.cursor();
    assert_eq!((cursor.file().len(), cursor.file().path()), (SIZE, Some(file.path.as_path())));
    cursor.release();
    cursor.release();
    let copy = cursor.clone();
    drop(cursor);
    assert_eq!((copy.file().len(), copy.position()), (SIZE, 0));
    assert_nothing_left(&maps, &dir);
}

/// Holds a region by cursors, a clone and a lease in turn. `collect` unmaps it only after the last client.
#[test]
fn regions_with_clients_are_not_collected() {
    let (dir, file) = file();
    let maps = manager(sliding());
    let mapped = open(&maps, &file, By::Path);
    let (mut a, mut b, mut c) = (mapped.cursor(), mapped.cursor(), mapped.cursor());
    a.window_at(0).unwrap();
    b.window_at(99).unwrap();
    let lease = mapped.lease(..100).unwrap();
    let pinned = || (maps.stats().regions, maps.stats().pinned_regions);
    assert_eq!(pinned(), (1, 1), "all three clients pin one region");
    assert_eq!(maps.collect(), Collected::default());
    a.release();
    assert_eq!((maps.collect().regions, pinned()), (0, (1, 1)));
    drop(b);
    assert_eq!((maps.collect().regions, pinned()), (0, (1, 1)));

    // A clone of a cursor reads the same bytes and does not depend on the original.
    c.window_at(0).unwrap();
    drop(lease);
    let mut copy = c.clone();
    assert_same(&copy.window_at(0).unwrap()[..50], &file[..50], "window of the clone");
    drop(c);
    assert_eq!((maps.collect().regions, pinned()), (0, (1, 1)), "the clone pins the region");
    assert_same(copy.slice(3..50).unwrap(), &file[3..50], "slice of the clone");

    // When the cursor changes its window, the first one is no longer pinned.
    copy.window_at(SIZE / 2).unwrap();
    assert_eq!(pinned(), (2, 1));
    assert_eq!((maps.collect().regions, pinned()), (1, (1, 1)));
    copy.release();
    assert_eq!(pinned(), (1, 0), "a released region stays mapped");
    assert_eq!(maps.collect().regions, 1);
    assert_nothing_left(&maps, &dir);
}

/// Reads from eight threads through one manager. All pin counts return to zero; in Python's smmap they could become
/// negative.
#[test]
fn pin_counts_after_eight_threads_are_zero() {
    let (dir, file) = file();
    let maps = manager(sliding());
    let mapped = open(&maps, &file, By::Descriptor);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (mapped, file) = (&mapped, &file);
            scope.spawn(move || {
                let (mut cursor, mut rng) = (mapped.cursor(), Rng::new(seed));
                for _ in 0..500 {
                    let start = rng.below(SIZE - 5000);
                    let found = cursor.slice(start..start + 5000).unwrap();
                    assert_same(found, &file[start as usize..][..5000], "a slice");
                }
            });
        }
    });
    let stats = maps.stats();
    assert_eq!((stats.pinned_regions, stats.pinned_bytes), (0, 0));
    assert!(settles(|| maps.stats().mapped_bytes <= SIZE / 3));
    maps.collect();
    assert_nothing_left(&maps, &dir);
}

/// Pins every window that fits under `Overcommit::Fail`. Another one is refused until a pin is dropped.
#[test]
fn fail_with_all_windows_pinned_refuses_another() {
    let (dir, file) = file();
    let maps = manager(sliding().overcommit(Overcommit::Fail));
    let mapped = open(&maps, &file, By::Path);
    let window = maps.window_bytes().unwrap();
    let fit = (HANDLES as u64).min(SIZE / 3 / window);
    let leases: Vec<_> = mapped.windows().take(fit as usize).map(Result::unwrap).collect();
    let mut cursor = mapped.cursor();
    let error = cursor.window_at(30 * window).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OverBudget), "{error}");
    assert_eq!(error.path(), Some(file.path.as_path()));
    assert_within(maps.limits(), &maps.stats(), &dir);
    drop(leases);
    assert!(settles(|| cursor.window_at(30 * window).is_ok()), "the window can be mapped after the leases are dropped");
    assert_within(maps.limits(), &maps.stats(), &dir);
}

// ---------------------------------------------------------------------------------------------------------------------
// Buffers
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn buffer_is_indexed_from_both_ends() {
    let (_dir, file) = file();
    let maps = manager(MapManager::builder().admission(Admission::Always));
    let mut buffer = open(&maps, &file, By::Path).buffer();
    let offset = 100;
    assert_eq!(buffer.len(), SIZE);
    assert_eq!(buffer.get(0).unwrap(), Some(file[0]));
    assert_eq!(buffer.get(offset).unwrap(), Some(file[100]));
    assert_same(buffer.slice(offset..2 * offset).unwrap(), &file[100..200], "a slice");
    assert_eq!(buffer.get_back(0).unwrap(), buffer.get(SIZE - 1).unwrap());
    assert_eq!(buffer.get_back(9).unwrap(), Some(file[SIZE as usize - 10]));
    assert_same(buffer.slice(SIZE - 10..).unwrap(), &file[SIZE as usize - 10..], "the last ten");
    assert_eq!((buffer.get(SIZE).unwrap(), buffer.get_back(SIZE).unwrap()), (None, None));
    assert!(matches!(buffer.slice(SIZE + 1..).unwrap_err().kind(), ErrorKind::OutOfBounds));

    // Releases the buffer twice and reads again.
    buffer.release();
    buffer.release();
    assert_eq!(maps.stats().pinned_regions, 0);
    assert_eq!(buffer.get(offset).unwrap(), Some(file[100]));
    drop(buffer);
    assert_eq!(maps.stats().pinned_regions, 0);
    assert!(maps.stats().regions > 0, "the region stays mapped");
}

/// Reads 100 random bytes and 100 random ranges with default, tight and whole-file settings.
#[test]
fn buffer_under_random_access_gives_the_right_bytes() {
    let (dir, file) = file();
    for by in WAYS {
        for (name, builder) in [("optimal", MapManager::builder()), ("worst case", sliding()), ("static", whole())] {
            let maps = manager(builder);
            let budget = maps.limits().max_mapped_bytes;
            let mapped = open(&maps, &file, by);
            let (mut buffer, mut rng) = (mapped.buffer(), Rng::new(6));
            for _ in 0..100 {
                let at = rng.below(SIZE);
                assert_eq!(buffer.get(at).unwrap(), Some(file[at as usize]), "{name}, {by:?}: byte {at}");
            }
            assert!(maps.stats().mapped_bytes <= budget, "{name}, {by:?}");
            for _ in 0..100 {
                let start = rng.below(SIZE + 1);
                let end = start + rng.below(SIZE - start + 1);
                let expected = &file[start as usize..end as usize];
                match buffer.slice(start..end) {
                    Ok(found) => assert_same(found, expected, format!("{name}, {by:?}: {start}..{end}")),
                    // The range is longer than the budget, so only a copying read can return it.
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::OverBudget), "{error}");
                        assert!(end - start + 2 * GRANULE > budget, "{name}, {by:?}: {} fit {budget}", end - start);
                        let mut bytes = vec![0; expected.len()];
                        mapped.read_exact_at(&mut bytes, start).unwrap();
                        assert_same(&bytes, expected, format!("{name}, {by:?}: {start}..{end}, copied"));
                    }
                }
            }
            buffer.release();
            maps.collect();
            assert_nothing_left(&maps, &dir);
        }
    }
}
