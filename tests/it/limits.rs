//! Limits and window sizes that a cache accepts or refuses, and limits of bytes and regions that a running cache keeps.

use std::fs;
use std::time::Duration;

use smmap::{Admission, ErrorKind, Limits, MapManager, MapManagerBuilder, Overcommit, Window};

use crate::fixture::seeded::{
    LARGE, MIB, SMALL, SOON, assert_bytes, assert_reads, file_in, large, poll, poll_kernel_agrees, small, visit,
};
use crate::fixture::three_windows::{LEN, WINDOW, content, content_file, limited, mib_windows, with_file};
use crate::support::{Dir, manager, try_manager};

/// Panics unless `build` refuses these settings with an error of its own kind.
#[track_caller]
fn assert_build_refuses(what: &str, builder: MapManagerBuilder) {
    let error = try_manager(builder).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{what}: {error:?}");
    assert_eq!((error.path(), error.range()), (None, None), "{what}: {error:?}");
    assert!(!error.to_string().is_empty(), "{what}");
}

#[test]
fn build_with_a_zero_limit_is_refused() {
    assert_build_refuses("no bytes", limited().max_mapped_bytes(0));
    assert_build_refuses("no regions", limited().max_regions(0));
    assert_build_refuses("no open files", limited().max_open_files(0));
    let zero = Limits { max_mapped_bytes: 0, max_regions: 0, max_open_files: 0 };
    assert_build_refuses("no limit above zero", MapManager::builder().limits(zero));
    assert_build_refuses("no bytes, whole files", limited().window(Window::WholeFile).max_mapped_bytes(0));
}

/// Sets limits of zero on a running cache. Each call is an error, and the limits and regions do not change.
#[test]
fn set_limits_with_a_zero_is_refused_and_changes_nothing() {
    let (_dir, maps, file) = with_file();
    let before = maps.limits();
    assert_eq!((before.max_mapped_bytes, before.max_regions, before.max_open_files), (64 * MIB, 100, 100));
    let mut cursor = file.cursor();
    for offset in [0, WINDOW, 2 * WINDOW] {
        cursor.window_at(offset).unwrap();
    }
    let zero = [
        Limits { max_mapped_bytes: 0, ..before },
        Limits { max_regions: 0, ..before },
        Limits { max_open_files: 0, ..before },
        // One valid limit does not make the others valid.
        Limits { max_mapped_bytes: WINDOW, max_regions: 0, max_open_files: 1 },
    ];
    for limits in zero {
        let error = maps.set_limits(limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        assert_eq!((error.path(), error.range()), (None, None));
        assert!(error.to_string().contains("max_"), "the error does not name the limit: {error}");
        assert_eq!(maps.limits(), before);
    }
    assert_eq!(maps.stats().regions, 3);
    assert_eq!(cursor.window_at(2 * WINDOW + 1).unwrap().len() as u64, WINDOW - 1);
}

/// Builds caches with the largest limits, and with the longest wait.
#[test]
fn largest_limits_are_accepted() {
    let dir = Dir::new();
    let path = content_file(&dir, "file", LEN);
    let all = Limits { max_mapped_bytes: u64::MAX, max_regions: usize::MAX, max_open_files: usize::MAX };
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::MAX)] {
        let maps = manager(mib_windows().limits(all).overcommit(overcommit).admission(Admission::Always));
        let file = maps.open(&path).unwrap();
        let leases: Vec<_> = file.windows().map(Result::unwrap).collect();
        assert_eq!(leases.len() as u64, LEN.div_ceil(WINDOW));
        assert!(*file.lease(..).unwrap() == content(0..LEN)[..]);
        assert_eq!(maps.stats().overcommits, 0);
        maps.set_limits(all).unwrap();
        assert!(*file.cursor().window_at(5).unwrap() == content(5..WINDOW)[..]);
    }
}

/// Builds caches with extreme window sizes. Zero is refused, one byte is rounded up, and a size above the address space
/// is refused or shrinks to the budget.
#[test]
fn window_of_an_extreme_size_is_refused_or_rounded() {
    let dir = Dir::new();
    let path = content_file(&dir, "file", LEN);
    let assert_reads_file = |maps: &MapManager| {
        let window = maps.window_bytes().expect("a sliding window");
        assert!((4096..=64 * MIB).contains(&window), "{window}");
        let file = maps.open(&path).unwrap();
        let mut cursor = file.cursor();
        let found = cursor.window_at(WINDOW + 5).unwrap();
        assert!(!found.is_empty() && found.len() as u64 <= window);
        assert!(*found == content(WINDOW + 5..WINDOW + 5 + found.len() as u64)[..]);
        assert!(*file.lease(WINDOW - 9..WINDOW + 9).unwrap() == content(WINDOW - 9..WINDOW + 9)[..]);
        assert_eq!(file.windows().len() as u64, LEN.div_ceil(window));
    };
    assert_build_refuses("a window of zero bytes", limited().window(Window::Sliding { bytes: 0 }));
    for bytes in [u64::MAX, u64::MAX - 4095, 1 << 63] {
        let builder = limited().window(Window::Sliding { bytes });
        match try_manager(builder) {
            Ok(maps) => assert_reads_file(&maps),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bytes}: {error:?}"),
        }
    }
    for bytes in [1, 4095, 4097, WINDOW + 1] {
        let maps = manager(limited().window(Window::Sliding { bytes }));
        assert!(maps.window_bytes().unwrap() >= bytes);
        assert_reads_file(&maps);
    }
}

/// Builds caches with a budget below one window. The windows become smaller; a budget below a page is refused.
#[test]
fn budget_below_one_window_shrinks_the_window() {
    let dir = Dir::new();
    let path = content_file(&dir, "file", LEN);
    let small = 256 << 10;
    let maps = manager(limited().window(Window::Sliding { bytes: 16 * MIB }).max_mapped_bytes(small));
    let window = maps.window_bytes().unwrap();
    assert!(window > 0 && window <= small, "{window}");
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    let mut offset = 0;
    while offset < LEN {
        let found = cursor.window_at(offset).unwrap();
        assert!(!found.is_empty() && found.len() as u64 <= window);
        let end = offset + found.len() as u64;
        assert!(found == content(offset..end), "{offset}..{end}");
        assert!(maps.stats().mapped_bytes <= small);
        offset = end;
    }
    assert_eq!(offset, LEN);
    assert!(maps.stats().peak_mapped_bytes <= small);
    let mut all = vec![0; LEN as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == content(0..LEN));

    assert_build_refuses("one byte", limited().max_mapped_bytes(1));
    assert_build_refuses("less than a page", limited().max_mapped_bytes(4095));
    // A budget that is no multiple of a page is accepted.
    let maps = manager(limited().max_mapped_bytes(3 * (64 << 10) + 1));
    assert!(maps.window_bytes().unwrap() <= 3 * (64 << 10) + 1);
    assert_eq!(maps.open(&path).unwrap().cursor().window_at(0).unwrap()[..100], content(0..100));
}

/// Lowers the budget of a running cache below one window, where only copying reads succeed, and raises it again.
#[test]
fn budget_lowered_below_one_window_allows_only_copying_reads() {
    for overcommit in [Overcommit::Allow, Overcommit::Fail, Overcommit::Wait(Duration::from_millis(20))] {
        let dir = Dir::new();
        let path = file_in(&dir, "narrow", 32, 3 * LARGE);
        let maps = manager(large().overcommit(overcommit));
        let before = maps.limits();
        let file = maps.open(&path).unwrap();
        visit(&file, LARGE, 32, 0..3);
        maps.set_limits(Limits { max_mapped_bytes: LARGE / 2, ..before }).unwrap();
        poll(&maps, SOON, "everything is unmapped", || maps.stats().mapped_bytes == 0);

        let over = |error: smmap::Error| assert_eq!(error.kind(), ErrorKind::OverBudget, "{overcommit:?}: {error:?}");
        over(file.cursor().window_at(0).unwrap_err());
        over(file.lease(LARGE..2 * LARGE).unwrap_err());
        over(file.windows().next().unwrap().unwrap_err());
        assert_reads(&file, 32, LARGE - 5, 10_000);
        let mut part = [0; 100];
        assert_eq!(file.read_at(&mut part, 3 * LARGE - 40).unwrap(), 40);
        assert_eq!(maps.stats().mapped_bytes, 0);

        maps.set_limits(before).unwrap();
        visit(&file, LARGE, 32, 0..3);
        assert_eq!(maps.stats().mapped_bytes, 3 * LARGE);
    }
}

/// Lowers the limits while windows are leased. As leases are dropped, the collector unmaps regions until the limits
/// hold, without another read.
#[test]
fn lowered_limits_are_reached_as_leases_are_dropped() {
    let dir = Dir::new();
    let path = file_in(&dir, "lowered", 31, 8 * LARGE);
    let maps = manager(large());
    let file = maps.open(&path).unwrap();
    visit(&file, LARGE, 31, 0..8);
    let mut leases: Vec<_> = (0..6).map(|index| file.lease(index * LARGE..(index + 1) * LARGE).unwrap()).collect();

    let lowered = Limits { max_mapped_bytes: 3 * LARGE, ..maps.limits() };
    maps.set_limits(lowered).unwrap();
    assert_eq!(maps.limits(), lowered);
    poll(&maps, SOON, "the two unused windows are unmapped", || maps.stats().mapped_bytes == 6 * LARGE);
    leases.iter().zip(0..).for_each(|(lease, index)| assert_bytes(lease, 31, index * LARGE));

    leases.truncate(4);
    poll(&maps, SOON, "the windows of dropped leases are unmapped", || maps.stats().mapped_bytes == 4 * LARGE);
    leases.truncate(1);
    poll(&maps, SOON, "mapped bytes within max_mapped_bytes", || maps.stats().mapped_bytes <= 3 * LARGE);

    // Lowers the number of regions instead of the bytes.
    drop(leases);
    maps.set_limits(Limits { max_mapped_bytes: 64 * MIB, max_regions: 2, ..lowered }).unwrap();
    poll(&maps, SOON, "regions within max_regions", || maps.stats().regions <= 2);
    visit(&file, LARGE, 31, 0..8);
    assert!(maps.stats().regions <= 2);

    // Raises the limits again, so that every window fits.
    maps.set_limits(Limits { max_mapped_bytes: 64 * MIB, max_regions: 100, ..lowered }).unwrap();
    visit(&file, LARGE, 31, 0..8);
    assert_eq!(maps.stats().regions, 8);
    poll_kernel_agrees(&maps, &dir);
}

/// Reads 200 small files, one window each, like loose objects and small packs of git. Mapped regions stay within a
/// `max_regions` of 7.
#[test]
fn max_regions_with_many_small_files_is_kept() {
    let dir = Dir::new();
    let maps = manager(small().max_regions(7));
    let mut handles = Vec::new();
    for index in 0..200u8 {
        let file = maps.open(file_in(&dir, &format!("loose-{index}"), index, 1000)).unwrap();
        visit(&file, SMALL, index, 0..1);
        handles.push(file);
        let stats = maps.stats();
        assert!(stats.regions <= 7, "after {index} files: {stats:?}");
    }
    // Reads every file again through its handle.
    for (index, file) in (0..200u8).zip(&handles) {
        assert_bytes(&file.lease(..).unwrap(), index, 0);
    }
    let stats = maps.stats();
    assert!(stats.peak_regions <= 7, "{stats:?}");
    assert!(stats.peak_regions > 1, "no window stays mapped: {stats:?}");
    assert!(stats.evictions >= 193, "{stats:?}");
    assert_eq!(stats.overcommits, 0, "{stats:?}");
}

/// Reads 47,336 windows. At most `max_regions` of them are mapped at a time.
///
/// The number is from a report of "47,336 live maps, ENOMEM with 22 GiB free". The test binary `tests/limits.rs` goes
/// up to the limit of the OS.
#[cfg(unix)]
#[test]
fn max_regions_with_47336_windows_bounds_the_mappings() {
    const WINDOWS: u64 = 47_336;
    const MAPPED: usize = 32;

    let dir = Dir::new();
    let path = dir.path().join("sparse");
    fs::File::create(&path).unwrap().set_len(WINDOWS * SMALL).unwrap();
    let maps = manager(small().max_mapped_bytes(64 << 30).max_regions(MAPPED));
    let file = maps.open(&path).unwrap();

    let mut cursor = file.cursor();
    for index in 0..WINDOWS {
        assert_eq!(cursor.window_at(index * SMALL).unwrap().len() as u64, SMALL);
        if index % 4_000 == 0 {
            let live = dir.mapped().unwrap_or_default();
            assert!(live.areas <= MAPPED, "{live:?} at window {index}");
        }
    }
    let stats = maps.stats();
    assert!(stats.maps >= WINDOWS, "{stats:?}");
    assert!(stats.peak_regions <= MAPPED, "{stats:?}");
    let live = dir.mapped().unwrap_or_default();
    assert!(live.areas <= MAPPED && live.bytes <= MAPPED as u64 * SMALL, "{live:?}");
}
