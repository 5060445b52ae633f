//! Leases: bytes that stay readable until the lease is dropped, independent of the cache, the file and the limits.

use std::ops::Bound;
use std::panic::{self, RefUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use smmap::{Admission, Lease, Limits, MapManager, MapManagerBuilder, MappedFile, Overcommit, Window};

use crate::fixture::three_windows::{content, with_file};
use crate::support::{Dir, TestFile, assert_same, manager, settles};

const WINDOW: u64 = 64 << 10;

const WINDOWS: u64 = 8;

/// Returns a file of eight windows and 1234 bytes, opened in a cache with room for all of it. `change` alters the
/// settings of the cache.
fn setup(change: impl FnOnce(MapManagerBuilder) -> MapManagerBuilder) -> (Dir, TestFile, MapManager, MappedFile) {
    let dir = Dir::new();
    let file = dir.file("leased", WINDOWS * WINDOW + 1234, 11);
    let builder = MapManager::builder()
        .window(Window::Sliding { bytes: WINDOW })
        .max_mapped_bytes(64 * WINDOW)
        .admission(Admission::Always);
    let maps = manager(change(builder));
    assert_eq!(maps.window_bytes(), Some(WINDOW), "the window is a multiple of every platform's mapping granularity");
    let mapped = maps.open(&file.path).unwrap();
    (dir, file, maps, mapped)
}

/// Checks the traits of a lease, and returns a lease from another thread.
#[test]
fn lease_is_an_owned_thread_safe_value() {
    fn owned<T: Clone + Send + Sync + RefUnwindSafe + std::fmt::Debug + Default + 'static>() {}
    fn bytes<T: std::ops::Deref<Target = [u8]> + AsRef<[u8]> + PartialEq<[u8]>>() {}
    owned::<Lease>();
    bytes::<Lease>();

    let (_dir, file, _maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(5..WINDOW).unwrap();
    let elsewhere = thread::spawn(move || {
        assert_same(&lease, &file[5..WINDOW as usize], "in another thread");
        lease
    });
    assert_eq!(elsewhere.join().unwrap().len(), WINDOW as usize - 5);
}

#[test]
fn lease_reads_as_a_slice() {
    let (_dir, file, _maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(100..300).unwrap();
    assert_eq!(lease.len(), 200);
    assert_eq!(lease[7], file[107]);
    assert_eq!(&lease[10..20], &file[110..120]);
    assert_eq!(lease.as_ref(), &file[100..300]);
    assert!(lease == file[100..300]);
    assert!(lease != file[101..301]);
    assert!(!format!("{lease:?}").is_empty());
}

#[test]
fn lease_of_every_kind_of_range_gives_its_bytes() {
    use std::ops::Bound::{Excluded, Included};

    let (_dir, file, _maps, mapped) = setup(|builder| builder);
    let len = file.len();
    assert_same(&mapped.lease(..).unwrap(), &file, "..");
    assert_same(&mapped.lease(len - 9..).unwrap(), &file[len as usize - 9..], "a..");
    assert_same(&mapped.lease(..9).unwrap(), &file[..9], "..b");
    assert_same(&mapped.lease(..=9).unwrap(), &file[..=9], "..=b");
    assert_same(&mapped.lease(4..=9).unwrap(), &file[4..=9], "a..=b");
    assert_same(&mapped.lease((Excluded(4), Included(9))).unwrap(), &file[5..=9], "excluded start, included end");
    for at in [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, len - 1, len] {
        assert!(mapped.lease(at..at).unwrap().is_empty(), "empty lease at {at}");
    }
}

#[test]
fn offset_of_a_lease_is_the_start_of_its_range() {
    let (_dir, file, _maps, mapped) = setup(|builder| builder);
    for start in [0, 1, 4095, 4096, WINDOW - 2, WINDOW, 3 * WINDOW + 77] {
        // The second length crosses a window border, and the third is too long for a copy.
        for len in [1, WINDOW, 5 * WINDOW - 78] {
            let lease = mapped.lease(start..start + len).unwrap();
            assert_eq!(lease.offset(), start);
            assert_same(&lease, &file[start as usize..(start + len) as usize], format!("{len} at {start}"));
            let part = lease.slice(len as usize / 3..);
            assert_eq!(part.offset(), start + len / 3);
        }
    }
}

#[test]
fn default_lease_is_empty() {
    let lease = Lease::default();
    assert_eq!((lease.len(), lease.offset(), lease.is_mapped()), (0, 0, false));
    assert!(lease.slice(..).is_empty());
    assert!(lease == *b"".as_slice());
}

#[test]
fn slice_of_a_slice_has_the_right_offset_and_bytes() {
    let (_dir, file, _maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(1000..2000).unwrap();
    let part = lease.slice(100..=599);
    assert_eq!((part.offset(), part.len()), (1100, 500));
    let part = part.slice(50..).slice(..300);
    assert_eq!(part.offset(), 1150);
    assert_same(&part, &file[1150..1450], "a slice of a slice of a slice");
    drop((lease, mapped));
    assert_same(&part, &file[1150..1450], "the only remaining slice");

    assert!(part.slice(300..).is_empty(), "an empty slice at the end is accepted");
    assert_eq!(part.slice(..).as_ptr(), part.as_ptr());
}

#[test]
fn slice_out_of_range_panics() {
    let (_dir, file, maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(10..20).unwrap();
    // A lease is RefUnwindSafe, so no AssertUnwindSafe is needed.
    assert!(panic::catch_unwind(|| lease.slice(..11)).is_err());
    assert!(panic::catch_unwind(|| lease.slice(11..)).is_err());
    assert!(panic::catch_unwind(|| lease.slice(..=10)).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "the test passes a reversed range")]
    let reversed = panic::catch_unwind(|| lease.slice(6..5));
    assert!(reversed.is_err());
    assert!(panic::catch_unwind(|| lease.slice(..=usize::MAX)).is_err());
    assert!(panic::catch_unwind(|| lease.slice(usize::MAX..)).is_err());

    assert_same(&lease, &file[10..20], "after the panics");
    assert_eq!(maps.stats().pinned_regions, 1, "only the lease pins the window");
    drop(lease);
    assert_eq!(maps.stats().pinned_regions, 0);
}

/// Slices a lease with odd bounds. `Lease::slice` panics for the bounds for which a slice of bytes panics.
#[test]
fn slice_of_a_lease_panics_where_a_slice_panics() {
    let (_dir, _maps, file) = with_file();
    let lease = file.lease(100..200).unwrap();
    let panics = |range: (Bound<usize>, Bound<usize>)| {
        let bytes = lease.to_vec();
        let ours = catch_unwind(|| drop(lease.slice(range))).is_err();
        let theirs = catch_unwind(|| bytes[range].len()).is_err();
        assert_eq!(ours, theirs, "{range:?}");
        ours
    };
    use Bound::{Excluded, Included, Unbounded};
    assert!(panics((Included(5), Excluded(3))));
    assert!(panics((Included(0), Excluded(101))));
    assert!(panics((Included(101), Unbounded)));
    assert!(panics((Included(0), Included(usize::MAX))));
    assert!(panics((Excluded(usize::MAX), Unbounded)));
    assert!(panics((Unbounded, Included(100))));
    assert!(!panics((Included(100), Unbounded)));
    assert!(!panics((Excluded(9), Included(99))));
    assert_eq!(lease.slice((Excluded(9), Included(99))).offset(), 110);
    // The lease is intact after the panics.
    assert_eq!(&*lease, content(100..200));
    assert!(Lease::default().slice(0..0).is_empty());
    assert!(catch_unwind(|| Lease::default().slice(0..1)).is_err());
}

/// Moves and clones leases, and evicts every other window. The addresses of the leased bytes do not change.
#[test]
fn address_of_a_lease_is_stable() {
    let (_dir, file, maps, mapped) = setup(|builder| builder.max_mapped_bytes(4 * WINDOW));
    let lease = mapped.lease(WINDOW + 10..2 * WINDOW).unwrap();
    // A lease over a window border is a copy, whose address must not change either.
    let copy = mapped.lease(WINDOW - 10..WINDOW + 10).unwrap();
    let (at, copy_at) = (lease.as_ptr(), copy.as_ptr());

    let boxed = Box::new((lease, copy));
    let (lease, copy) = *boxed;
    assert_eq!((lease.as_ptr(), copy.as_ptr()), (at, copy_at), "moved");
    let (twin, copy_twin) = (lease.clone(), copy.clone());
    assert_eq!((twin.as_ptr(), copy_twin.as_ptr()), (at, copy_at), "cloned");
    assert_eq!(lease.slice(5..).as_ptr(), at.wrapping_add(5), "sliced");
    drop((lease, copy));

    let mut cursor = mapped.cursor();
    for round in 0..10 {
        for window in 0..WINDOWS {
            let offset = (window * WINDOW) as usize;
            let expected = &file[offset..offset + WINDOW as usize];
            assert_same(cursor.window_at(window * WINDOW).unwrap(), expected, format!("window {window}"));
        }
        if round % 3 == 0 {
            maps.collect();
        }
        assert_eq!((twin.as_ptr(), copy_twin.as_ptr()), (at, copy_at));
        assert_same(&twin, &file[WINDOW as usize + 10..2 * WINDOW as usize], "during evictions");
        assert_same(&copy_twin, &file[WINDOW as usize - 10..WINDOW as usize + 10], "the copy, during evictions");
    }
    assert!(maps.stats().evictions > 0, "no window was evicted");
}

/// Clones and slices a lease. Each is one more client of the same region, and none maps anything.
#[test]
fn clones_and_slices_share_one_region() {
    let (dir, _file, maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(0..WINDOW).unwrap();
    let many: Vec<Lease> = (0..100).flat_map(|n| [lease.clone(), lease.slice(n..n + 1)]).collect();
    let stats = maps.stats();
    assert_eq!((stats.maps, stats.regions, stats.pinned_regions), (1, 1, 1));
    assert_eq!((stats.mapped_bytes, stats.pinned_bytes), (WINDOW, WINDOW));
    if let Some(mapped) = dir.mapped() {
        assert_eq!(mapped.bytes, WINDOW);
    }
    drop(lease);
    assert_eq!(maps.collect().regions, 0, "the clones hold the region");
    drop(many);
    let collected = maps.collect();
    assert_eq!((collected.regions, collected.bytes), (1, WINDOW));
    assert_eq!(maps.stats().pinned_bytes, 0);
}

/// Drops everything but three leases. They stay readable, and dropping the last client of a region unmaps it.
#[test]
fn lease_outlives_its_cache_and_unmaps_when_dropped() {
    for last_elsewhere in [false, true] {
        let (dir, file, maps, mapped) = setup(|builder| builder);
        let mut cursor = mapped.cursor();
        for window in 0..WINDOWS {
            cursor.window_at(window * WINDOW).unwrap();
        }
        let lease = cursor.file().lease(3 * WINDOW..3 * WINDOW + 9).unwrap();
        assert!(lease.is_mapped(), "there is room, and admission is Always");
        let copy = mapped.lease(WINDOW - 10..WINDOW + 10).unwrap();
        let long = mapped.lease(10..6 * WINDOW).unwrap();
        assert!(long.is_mapped(), "a range too long for a copy is mapped");
        drop((maps, mapped));
        drop(cursor);

        let intact = move |lease: &Lease| {
            assert_same(lease, &file[lease.offset() as usize..][..lease.len()], "after the cache was dropped")
        };
        [&lease, &copy, &long].into_iter().for_each(&intact);
        if let Some(mapped) = dir.mapped() {
            assert!(mapped.bytes >= long.len() as u64 + WINDOW, "the leased regions are mapped: {mapped:?}");
            assert!(mapped.bytes < 8 * WINDOW, "only the leased regions are mapped: {mapped:?}");
        }
        drop(long);
        [&lease, &copy].into_iter().for_each(&intact);
        if let Some(mapped) = dir.mapped() {
            assert_eq!(mapped.bytes, WINDOW, "only the window of the first lease is mapped");
        }
        let twin = lease.slice(4..);
        drop(lease);
        intact(&twin);
        if last_elsewhere {
            thread::spawn(move || drop(twin)).join().unwrap();
        } else {
            drop(twin);
        }
        intact(&copy);
        if let Some(mapped) = dir.mapped() {
            assert_eq!(mapped.bytes, 0, "the copy maps nothing");
        }
        assert!(settles(|| dir.descriptors().is_none_or(|open| open == 0)), "a descriptor is still open");
    }
}

#[test]
fn lease_survives_removal_of_its_file() {
    let (dir, file, maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(..WINDOW).unwrap();
    std::fs::remove_file(&file.path).unwrap();
    assert_same(&lease, &file[..WINDOW as usize], "after the file was removed");
    // Windows that were not mapped before the removal can still be mapped.
    assert_same(
        &mapped.lease(5 * WINDOW..6 * WINDOW).unwrap(),
        &file[5 * WINDOW as usize..6 * WINDOW as usize],
        "later",
    );
    drop((maps, mapped));
    assert_same(&lease, &file[..WINDOW as usize], "after the cache was dropped");
    drop(lease);
    if let Some(mapped) = dir.mapped() {
        assert_eq!(mapped.bytes, 0);
    }
}

#[test]
fn lease_survives_close_collect_and_lowered_limits() {
    let (dir, file, maps, mapped) = setup(|builder| builder);
    let mut cursor = mapped.cursor();
    for window in 0..WINDOWS {
        cursor.window_at(window * WINDOW).unwrap();
    }
    cursor.release();
    let lease = mapped.lease(2 * WINDOW..3 * WINDOW).unwrap();
    let at = lease.as_ptr();
    let intact = || {
        assert_same(&lease, &file[2 * WINDOW as usize..3 * WINDOW as usize], "the lease");
        assert_eq!(lease.as_ptr(), at);
    };

    let collected = maps.collect();
    intact();
    assert_eq!((collected.regions as u64, collected.bytes), (WINDOWS - 1, (WINDOWS - 1) * WINDOW));
    if let Some(mapped) = dir.mapped() {
        assert_eq!(mapped.bytes, WINDOW, "only the leased window is mapped");
    }

    let tight = Limits { max_mapped_bytes: 1, max_regions: 1, max_open_files: 1 };
    maps.set_limits(tight).unwrap();
    intact();
    assert_eq!(maps.stats().regions, 1);
    maps.set_limits(Limits { max_mapped_bytes: 64 * WINDOW, max_regions: 100, max_open_files: 10 }).unwrap();

    cursor.window_at(0).unwrap();
    cursor.release();
    let closed = maps.close(&file.path);
    intact();
    // The collector, which the tight limits have woken, may have unmapped the unused window before.
    assert!(closed.unmapped <= 1 && closed.still_held == 1, "{closed:?}");
    if let Some(mapped) = dir.mapped() {
        assert_eq!(mapped.bytes, WINDOW, "only the leased window is mapped");
    }

    // The file is still open. Its window can be mapped again, beside the old mapping.
    assert_same(cursor.window_at(2 * WINDOW).unwrap(), &lease, "mapped again");
    cursor.release();
    intact();
    maps.collect();
    drop(lease);
    maps.collect();
    if let Some(mapped) = dir.mapped() {
        assert_eq!(mapped.bytes, 0);
    }
    let stats = maps.stats();
    assert_eq!((stats.mapped_bytes, stats.regions, stats.pinned_regions), (0, 0, 0));
    assert_eq!(stats.maps, stats.unmaps);
}

/// Closes a file with a leased window. Dropping the last lease unmaps the window without a call of `collect`.
#[test]
fn window_closed_while_leased_is_unmapped_with_its_last_lease() {
    let (dir, file, maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(2 * WINDOW..3 * WINDOW).unwrap();
    let twin = lease.clone();
    assert_eq!(maps.close(dir.path()).still_held, 1);
    drop(lease);
    assert_same(&twin, &file[2 * WINDOW as usize..3 * WINDOW as usize], "a leased window after close");
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == WINDOW));
    drop(twin);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
    assert_eq!(maps.stats().mapped_bytes, 0);
}

/// Leases a range over several windows that is too long for a copy. The detached region counts towards the budget and
/// is unmapped after its last lease is dropped.
#[test]
fn detached_region_counts_towards_the_budget() {
    let (dir, file, maps, mapped) = setup(|builder| builder.overcommit(Overcommit::Fail));
    let (start, end) = (WINDOW / 2, 6 * WINDOW + 5);
    let lease = mapped.lease(start..end).unwrap();
    assert!(lease.is_mapped());
    assert_same(&lease, &file[start as usize..end as usize], "a range over seven windows");
    let counted = maps.stats().mapped_bytes;
    assert!(counted >= end - start);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes <= counted));
    drop(lease.clone());
    assert_eq!(maps.stats().mapped_bytes, counted);
    assert_eq!(maps.stats().pinned_bytes, counted);
    drop(lease);
    maps.collect();
    assert_eq!(maps.stats().mapped_bytes, 0);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

/// The budget has room for the range, but not for its window.
#[test]
fn lease_whose_window_does_not_fit_is_detached() {
    const WINDOW: u64 = 1 << 20;
    let dir = Dir::new();
    let data = dir.file("data", 2 * WINDOW, 3);
    let maps = manager(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_mapped_bytes(WINDOW + WINDOW / 2)
            .overcommit(Overcommit::Fail),
    );
    let file = maps.open(&data.path).unwrap();
    let _held = file.lease(0..WINDOW).unwrap();
    let lease = file.lease(WINDOW..WINDOW + WINDOW / 2).unwrap();
    assert!(lease.is_mapped());
    assert_same(&lease, &data[WINDOW as usize..][..lease.len()], "the detached region");
    assert_eq!(maps.stats().mapped_bytes, WINDOW + WINDOW / 2);
}

/// Leases a small range while every window is pinned. The lease is a copy, which clones and slices share.
#[test]
fn lease_without_room_to_map_is_a_copy() {
    let (dir, file, maps, mapped) = setup(|builder| {
        builder.max_mapped_bytes(2 * WINDOW).overcommit(Overcommit::Fail).admission(Admission::Adaptive)
    });
    let pins: Vec<Lease> = mapped.windows().take(2).map(Result::unwrap).collect();
    let before = maps.stats();
    let lease = mapped.lease(4 * WINDOW + 3..4 * WINDOW + 103).unwrap();
    assert!(!lease.is_mapped());
    assert!(pins.iter().all(Lease::is_mapped));
    assert_eq!((lease.offset(), lease.len()), (4 * WINDOW + 3, 100));
    let after = maps.stats();
    assert_eq!(after.maps, before.maps);
    assert_eq!(after.copies, before.copies + 1);
    let (at, twin) = (lease.as_ptr(), lease.slice(1..));
    assert_eq!(twin.as_ptr(), at.wrapping_add(1), "a slice shares the copy");
    drop((pins, lease, maps, mapped));
    assert_same(&twin, &file[4 * WINDOW as usize + 4..][..99], "after the cache was dropped");
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

/// Leases in one thread and drops in another. No window stays pinned.
#[test]
fn leases_dropped_in_another_thread_release_their_windows() {
    let (_dir, file, maps, mapped) = setup(|builder| builder);
    let (send, receive) = mpsc::sync_channel::<Lease>(8);
    let reader = thread::spawn(move || {
        receive.into_iter().fold(0, |count, lease| {
            assert_same(&lease, &file[lease.offset() as usize..][..lease.len()], "received");
            count + 1
        })
    });
    for n in 0..500 {
        let start = n * 1009 % (WINDOWS * WINDOW);
        send.send(mapped.lease(start..start + 500).unwrap()).unwrap();
    }
    drop(send);
    assert_eq!(reader.join().unwrap(), 500);
    assert_eq!(maps.stats().pinned_regions, 0);
    let regions = maps.stats().regions;
    assert_eq!(maps.collect().regions, regions);
    assert!(settles(|| maps.stats().regions == 0));
}

#[cfg(feature = "bytes")]
#[test]
fn bytes_from_a_lease_share_its_address() {
    let (dir, file, maps, mapped) = setup(|builder| builder);
    let lease = mapped.lease(10..WINDOW).unwrap();
    let at = lease.as_ptr();
    let bytes = bytes::Bytes::from(lease);
    assert_eq!(bytes.as_ptr(), at);
    let part = bytes.slice(5..25);
    drop((bytes, maps, mapped));
    assert_same(&part, &file[15..35], "as Bytes");
    drop(part);
    assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
}

#[cfg(feature = "stable_deref_trait")]
#[test]
fn lease_implements_clone_stable_deref() {
    fn stable<T: stable_deref_trait::CloneStableDeref>() {}
    stable::<Lease>();
}
