//! Hits, misses, mappings and copies that `Stats` counts for ordinary reads.

use smmap::Window;

use crate::fixture::opened::{Opened, WINDOW};
use crate::support::{Rng, assert_same, bytes};

#[test]
fn hits_misses_and_maps_are_counted() {
    let opened = Opened::long();
    let mut cursor = opened.handle.cursor();
    assert_eq!(opened.maps.stats().maps, 0, "opening maps nothing");
    cursor.window_at(0).unwrap();
    let stats = opened.maps.stats();
    assert_eq!((stats.hits, stats.misses, stats.maps, stats.copies), (0, 1, 1, 0));
    assert_eq!((stats.mapped_bytes, stats.regions, stats.pinned_regions, stats.pinned_bytes), (WINDOW, 1, 1, WINDOW));
    assert_eq!((stats.files, stats.open_files), (1, 1));

    let mut other = opened.handle.cursor();
    other.window_at(9).unwrap();
    let stats = opened.maps.stats();
    assert_eq!((stats.hits, stats.misses, stats.maps), (1, 1, 1), "another cursor uses the mapped window");
    assert_eq!((stats.regions, stats.pinned_regions), (1, 1));
    assert!((stats.hit_ratio() - 0.5).abs() < 1e-9);

    for window in 1..20 {
        cursor.window_at(window * WINDOW).unwrap();
    }
    let stats = opened.maps.stats();
    assert_eq!((stats.misses, stats.maps), (20, 20));
    assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
    assert!(stats.evictions >= 12, "the budget holds eight windows: {stats:?}");
    assert_eq!(stats.overcommits, 0);
    assert_eq!(stats.regions as u64, stats.maps - stats.unmaps);
}

#[test]
fn prefetched_windows_are_mapped_once() {
    let opened = Opened::long();
    // The range covers half of the first window and the last.
    opened.handle.prefetch(WINDOW * 3 / 2..3 * WINDOW + WINDOW / 2).unwrap();
    let stats = opened.maps.stats();
    assert_eq!(
        (stats.maps, stats.regions, stats.pinned_regions),
        (3, 3, 0),
        "three windows are mapped and none is pinned"
    );
    let mut cursor = opened.handle.cursor();
    for window in 1..4 {
        let found = cursor.window_at(window * WINDOW).unwrap();
        assert_same(found, opened.at(window * WINDOW, (window + 1) * WINDOW), format!("window {window}"));
    }
    assert_eq!(opened.maps.stats().maps, 3);
    opened.handle.prefetch(5..5).unwrap();
    opened.handle.prefetch(5..WINDOW / 2).unwrap();
    assert_eq!(opened.maps.stats().maps, 3, "an empty range maps nothing, nor does a small part of a window");
    cursor.release();
    assert_eq!(opened.maps.collect().regions, 3);
}

/// Reads mapped windows by slices and leases. No read maps, misses or copies.
#[test]
fn slices_and_leases_of_mapped_windows_map_nothing() {
    let opened = Opened::with(bytes(2, 4 * WINDOW), Window::Sliding { bytes: WINDOW }, 8 * WINDOW);
    opened.handle.prefetch(..).unwrap();
    let before = opened.maps.stats();
    assert_eq!(before.maps, 4);
    let (mut cursor, mut rng) = (opened.handle.cursor(), Rng::new(8));
    for _ in 0..1000 {
        let start = rng.below(4) * WINDOW + rng.below(WINDOW - 100);
        assert_same(cursor.slice(start..start + 100).unwrap(), opened.at(start, start + 100), "a slice");
        let lease = opened.handle.lease(start..start + 50).unwrap();
        assert!(lease.is_mapped());
        assert_same(&lease, opened.at(start, start + 50), "a lease");
    }
    let after = opened.maps.stats();
    assert_eq!((after.maps, after.misses, after.copies), (before.maps, before.misses, before.copies));
    assert!(after.hits >= before.hits + 1000, "at least each lease is a hit: {after:?}");
}
