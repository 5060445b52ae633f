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
