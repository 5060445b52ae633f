//! Admission decides whether a read maps its window or copies.

use smmap::{Admission, MapManager, Window};

use crate::fixture::opened::WINDOW;
use crate::support::{Dir, Rng, assert_same, manager, settles};

/// Reads at random under both kinds of admission. The bytes are the same, the budget holds, and nothing stays mapped.
#[test]
fn adaptive_and_always_give_the_same_bytes() {
    let dir = Dir::new();
    let file = dir.file("read", 20 * WINDOW, 77);
    for admission in [Admission::Adaptive, Admission::Always] {
        let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW });
        let maps = manager(builder.max_mapped_bytes(2 * WINDOW).admission(admission));
        let mapped = maps.open(&file.path).unwrap();
        let (mut cursor, mut rng) = (mapped.cursor(), Rng::new(1));
        for _ in 0..2000 {
            let start = rng.below(file.len() - 64);
            assert_same(cursor.slice(start..start + 64).unwrap(), &file[start as usize..][..64], format!("at {start}"));
        }
        let stats = maps.stats();
        assert!(stats.peak_mapped_bytes <= 2 * WINDOW, "{admission:?}: {stats:?}");
        assert_eq!(stats.overcommits, 0, "{admission:?}");
        if matches!(admission, Admission::Always) {
            // Only slices over a window border are copied.
            assert!(stats.maps > 1000 && stats.copies < 20, "{stats:?}");
        } else {
            assert!(
                stats.copies > 1000 && stats.maps < 1000,
                "uniform reads with a budget of a tenth should copy: {stats:?}"
            );
        }
        drop((maps, mapped, cursor));
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
    }
}

/// Fills the budget with optional mappings. After a required mapping had to evict, a sixteenth of the budget stays
/// free.
#[test]
fn optional_mappings_after_an_eviction_leave_headroom() {
    let dir = Dir::new();
    let long = dir.file("long", 40 * WINDOW, 1);
    let windows = MapManager::builder().window(Window::Sliding { bytes: WINDOW });
    for maps in [manager(windows.clone().max_regions(16)), manager(windows.max_mapped_bytes(16 * WINDOW))] {
        let file = maps.open(&long.path).unwrap();
        // Returns the index of the first of eight leases that is mapped. The eighth access maps a window if there is
        // room.
        let mapped_by = |window: u64| {
            let mut leases = (0..8).map(|_| file.lease(window * WINDOW..window * WINDOW + 10).unwrap());
            leases.position(|lease| lease.is_mapped())
        };
        for window in 0..38 {
            assert_eq!(mapped_by(window), (window < 16).then_some(7), "window {window}");
        }
        assert_eq!((maps.stats().maps, maps.stats().copies, maps.stats().evictions), (16, 38 * 8 - 16, 0));

        assert_eq!(file.cursor().window_at(38 * WINDOW).unwrap().len() as u64, WINDOW);
        assert!(settles(|| maps.stats().regions == 15), "{:?}", maps.stats());
        assert_eq!((maps.stats().maps, maps.stats().overcommits), (17, 0));
        assert_eq!(mapped_by(39), None, "an optional mapping used the headroom");
        assert!(settles(|| maps.stats().regions == 15), "{:?}", maps.stats());
    }
}

/// Opens a file anew for each read. What its reads told about it outlives its handles, so its window is mapped soon.
#[test]
fn file_that_is_opened_for_each_read_is_mapped_after_some_reads() {
    let dir = Dir::new();
    let (one, other) = (dir.file("one", 5 * WINDOW, 1), dir.file("other", 5 * WINDOW, 2));
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(64 * WINDOW));
    for (window, first) in [0, 3 * WINDOW].into_iter().enumerate() {
        for read in 0..1_000 {
            let lease = maps.open(&one.path).unwrap().lease(first..first + 4096).unwrap();
            assert_same(&lease, &one[first as usize..][..4096], format!("read {read} at {first}"));
            drop(lease);
        }
        let stats = maps.stats();
        assert_eq!((stats.maps, stats.regions, stats.files), (window as u64 + 1, window + 1, 1), "{stats:?}");
        assert!(stats.copies <= 8 * (window as u64 + 1), "{stats:?}");
    }
    // Another file does not profit.
    let lease = maps.open(&other.path).unwrap().lease(..4096).unwrap();
    assert!(!lease.is_mapped());
    assert_same(&lease, &other[..4096], "the other file");
}

/// Evicts a file's windows and opens it again. Its windows are as frequent as before.
#[test]
fn file_that_was_unmapped_keeps_its_access_frequencies() {
    let dir = Dir::new();
    let file = dir.file("one", 5 * WINDOW, 1);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(64 * WINDOW));
    let is_mapped = |at: u64| maps.open(&file.path).unwrap().lease(at..at + 64).unwrap().is_mapped();
    for window in [0, 3] {
        assert_eq!((0..20).position(|_| is_mapped(window * WINDOW)), Some(7));
    }
    assert_eq!(maps.collect().regions, 2);
    assert_eq!(maps.stats().files, 0, "the entry of the file is gone");
    assert!(is_mapped(0) && is_mapped(3 * WINDOW) && !is_mapped(WINDOW));
}
