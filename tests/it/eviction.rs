//! Evicted, collected and orphaned regions are unmapped, by the counts of the cache and by the kernel's list.

use std::fs;

use smmap::Collected;

use crate::fixture::seeded::{SMALL, SOON, STALE, assert_bytes, file_in, poll, poll_kernel_agrees, small, visit};
use crate::support::{Dir, manager};

/// Evicts unused windows. The kernel's list shows that each is unmapped.
///
/// In other caches an evicted entry stays mapped while a reader holds its `Arc`, so mapped bytes exceed the budget.
#[test]
fn evicted_window_without_clients_is_unmapped() {
    const BUDGET: u64 = 4 * SMALL;
    let dir = Dir::new();
    let path = file_in(&dir, "evicted", 5, 64 * SMALL);
    let maps = manager(small().max_mapped_bytes(BUDGET));
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    for index in 0..64 {
        assert_bytes(cursor.window_at(index * SMALL).unwrap(), 5, index * SMALL);
        let stats = maps.stats();
        assert!(stats.mapped_bytes <= BUDGET, "{stats:?}");
        let mapped = dir.mapped().unwrap_or_default().bytes;
        assert!(mapped <= BUDGET, "the kernel has {mapped} bytes mapped, {stats:?}");
    }
    let stats = maps.stats();
    assert!(stats.evictions >= 60, "{stats:?}");
    assert!(stats.peak_mapped_bytes <= BUDGET, "{stats:?}");
    assert!(stats.peak_mapped_bytes > SMALL, "no window stays mapped: {stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// Collects while a reader uses one of 16 windows. Only that window stays mapped.
///
/// In caches that count a group of regions as one, a single reader keeps the whole group mapped.
#[test]
fn collect_with_one_reader_keeps_only_its_region() {
    let dir = Dir::new();
    let path = file_in(&dir, "group", 7, 16 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    let fifteen = Collected { regions: 15, bytes: 15 * SMALL };

    // The reader is a lease of one byte.
    visit(&file, SMALL, 7, 0..16);
    let byte = file.lease(5 * SMALL..5 * SMALL + 1).unwrap();
    assert!(byte.is_mapped());
    assert_eq!(maps.stats().pinned_regions, 1);
    assert_eq!(maps.stats().pinned_bytes, SMALL);
    assert_eq!(maps.collect(), fifteen);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    poll_kernel_agrees(&maps, &dir);
    assert_bytes(&byte, 7, 5 * SMALL);
    drop(byte);

    // The reader is a cursor that stands in a window.
    visit(&file, SMALL, 7, 0..16);
    let mut cursor = file.cursor();
    let window = cursor.window_at(9 * SMALL).unwrap();
    assert_eq!(maps.stats().pinned_regions, 1);
    assert_eq!(maps.collect(), fifteen);
    assert_bytes(window, 7, 9 * SMALL);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    cursor.release();
    assert_eq!(maps.stats().pinned_regions, 0);
    maps.collect(); // The collector thread may have unmapped the region first.
    poll(&maps, SOON, "the last region is unmapped", || maps.stats().mapped_bytes == 0);
    assert_eq!(maps.collect(), Collected::default());
}

/// Closes a file with two leased windows. Each is counted until its lease is dropped and the window is unmapped.
#[test]
fn held_region_after_its_file_is_closed_is_still_counted() {
    let dir = Dir::new();
    let path = file_in(&dir, "held", 6, 8 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 6, 0..8);
    let first = file.lease(0..SMALL).unwrap();
    let third = file.lease(2 * SMALL..3 * SMALL).unwrap();
    maps.close(&path);
    drop(file);

    assert_eq!(maps.stats().mapped_bytes, 2 * SMALL);
    assert_eq!(maps.stats().regions, 2);
    poll_kernel_agrees(&maps, &dir);
    drop(first);
    assert_eq!(maps.stats().mapped_bytes, SMALL);
    assert_bytes(&third, 6, 2 * SMALL);
    drop(third);
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.regions), (0, 0), "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
}

/// Deletes and replaces files whose regions are unused. The collector unmaps those regions without any further call and
/// without pressure on the limits.
///
/// OpenSearch 18226: 246,000 of 252,000 mappings belonged to deleted files.
#[cfg(unix)]
#[test]
fn unused_regions_of_deleted_or_replaced_files_are_unmapped() {
    const FILES: u8 = 20;
    let dir = Dir::new();
    let maps = manager(small());

    let live = maps.open(file_in(&dir, "live", 200, 2 * SMALL)).unwrap();
    visit(&live, SMALL, 200, 0..2);
    let held = {
        let file = maps.open(file_in(&dir, "held", 201, SMALL)).unwrap();
        file.lease(..).unwrap()
    };
    let mut handles = Vec::new();
    for index in 0..FILES {
        let file = maps.open(file_in(&dir, &format!("segment-{index}"), index, 2 * SMALL)).unwrap();
        visit(&file, SMALL, index, 0..2);
        if index % 4 < 2 {
            handles.push((index, file)); // The other files have no handle, only regions.
        }
    }
    assert_eq!(maps.stats().regions, 3 + 2 * usize::from(FILES));

    fs::remove_file(dir.path().join("held")).unwrap();
    for index in 0..FILES {
        let path = dir.path().join(format!("segment-{index}"));
        if index % 2 == 0 {
            fs::remove_file(&path).unwrap();
        } else {
            let new = file_in(&dir, "new", 100 + index, 2 * SMALL);
            fs::rename(new, &path).unwrap();
        }
    }
    poll(&maps, STALE, "only the regions of the live and the leased file stay", || maps.stats().regions == 3);
    assert_eq!(maps.stats().mapped_bytes, 3 * SMALL);
    poll(&maps, STALE, "files without handles and regions are forgotten", || maps.stats().files <= 2 + handles.len());

    // The windows of the live file stay mapped. The lease and the handles still read the right bytes.
    let before = maps.stats().maps;
    visit(&live, SMALL, 200, 0..2);
    assert_eq!(maps.stats().maps, before, "a window of the live file was mapped again");
    assert_bytes(&held, 201, 0);
    for (index, file) in &handles {
        visit(file, SMALL, *index, 0..2);
    }
}
