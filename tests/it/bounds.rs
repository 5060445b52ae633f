//! Bounds of ranges and offsets: empty files, empty ranges, ranges outside the file, the largest offset.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufRead as _, Read as _, Seek as _, SeekFrom};
use std::ops::{Bound, Range};

use smmap::{Error, ErrorKind, MappedFile, Window};

use crate::fixture::opened::Opened;
use crate::fixture::seeded::SMALL;
use crate::fixture::three_windows::{LEN, WINDOW, content, content_file, limited, with_file};
use crate::support::{Dir, manager};

/// A range given by any two bounds.
type Bounds = (Bound<u64>, Bound<u64>);

/// Returns the result of each way to request `range`, with its name.
fn every_way(file: &MappedFile, range: Bounds) -> [(&'static str, Result<Vec<u8>, Error>); 3] {
    [
        ("lease", file.lease(range).map(|lease| lease.to_vec())),
        ("cursor.slice", file.cursor().slice(range).map(<[u8]>::to_vec)),
        ("buffer.slice", file.buffer().slice(range).map(<[u8]>::to_vec)),
    ]
}

#[test]
fn empty_file_is_empty_for_every_call() {
    let dir = Dir::new();
    let path = content_file(&dir, "empty", 0);
    let maps = manager(limited());
    for file in [maps.open(&path).unwrap(), maps.open_file(File::open(&path).unwrap()).unwrap()] {
        assert_eq!((file.len(), file.is_empty()), (0, true));
        assert!(file.lease(..).unwrap().is_empty());
        assert!(file.lease(0..0).unwrap().is_empty());
        assert_eq!(file.lease(0..1).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(file.lease(1..1).unwrap_err().kind(), ErrorKind::OutOfBounds);
        let mut buf = [7; 4];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 0);
        file.read_exact_at(&mut [], 0).unwrap();
        assert_eq!(file.read_exact_at(&mut buf, 0).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(buf, [7; 4]);
        file.prefetch(..).unwrap();
        file.refresh().unwrap();

        let mut cursor = file.cursor();
        assert!(cursor.window_at(0).unwrap().is_empty());
        assert!(cursor.slice(..).unwrap().is_empty());
        assert_eq!(cursor.read(&mut buf).unwrap(), 0);
        assert!(cursor.fill_buf().unwrap().is_empty());
        assert_eq!(cursor.seek(SeekFrom::End(0)).unwrap(), 0);
        let mut windows = file.windows();
        assert_eq!(windows.len(), 0);
        assert!(windows.next().is_none());
        assert!(windows.next_back().is_none());

        let mut buffer = file.buffer();
        assert_eq!((buffer.len(), buffer.is_empty()), (0, true));
        assert_eq!(buffer.get(0).unwrap(), None);
        assert_eq!(buffer.get_back(0).unwrap(), None);
        assert_eq!(buffer.find(b"x").unwrap(), None);
        assert_eq!(buffer.rfind(b"x").unwrap(), None);
        assert_eq!(buffer.find_iter(b"x").count(), 0);
        assert!(buffer.equals(b"").unwrap() && buffer.starts_with(b"").unwrap() && buffer.ends_with(b"").unwrap());
        assert!(!buffer.equals(b"x").unwrap() && !buffer.starts_with(b"x").unwrap());
        assert_eq!(buffer.compare(b"x").unwrap(), std::cmp::Ordering::Less);
        assert_eq!(buffer.lines().count(), 0);
        assert_eq!(buffer.split(b',').map(|piece| piece.unwrap().len()).collect::<Vec<_>>(), [0]);
    }
    let stats = maps.stats();
    assert_eq!((stats.maps, stats.mapped_bytes, stats.regions), (0, 0, 0), "{stats:?}");
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 0));
}

#[test]
fn empty_file_with_any_window_kind_maps_nothing() {
    for window in [Window::Sliding { bytes: SMALL }, Window::WholeFile] {
        let opened = Opened::with(Vec::new(), window, 8 * SMALL);
        let (mapped, mut cursor, mut buffer) = (&opened.handle, opened.handle.cursor(), opened.handle.buffer());
        assert_eq!((mapped.len(), mapped.is_empty(), buffer.len(), buffer.is_empty()), (0, true, 0, true));
        assert!(cursor.window_at(0).unwrap().is_empty());
        assert!(cursor.slice(..).unwrap().is_empty());
        assert!(cursor.fill_buf().unwrap().is_empty());
        assert_eq!(cursor.read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(mapped.read_at(&mut [0; 9], 0).unwrap(), 0);
        mapped.read_exact_at(&mut [], 0).unwrap();
        mapped.prefetch(..).unwrap();
        assert!(mapped.lease(..).unwrap().is_empty());
        assert_eq!(mapped.windows().len(), 0);
        assert!(mapped.windows().next().is_none());
        assert_eq!((buffer.get(0).unwrap(), buffer.get_back(0).unwrap()), (None, None));
        assert_eq!((buffer.find(b"x").unwrap(), buffer.rfind(b"x").unwrap()), (None, None));
        assert_eq!((buffer.find(b"").unwrap(), buffer.rfind(b"").unwrap()), (Some(0), Some(0)));
        assert!(buffer.equals(b"").unwrap() && !buffer.equals(b"x").unwrap());
        assert!(buffer.starts_with(b"").unwrap() && !buffer.ends_with(b"x").unwrap());
        assert_eq!(buffer.compare(b"x").unwrap(), Ordering::Less);
        assert_eq!(buffer.lines().count(), 0, "no line, as from BufRead::lines");
        assert_eq!(buffer.split(b',').count(), 1, "one empty piece, as from slice::split");
        assert_eq!(opened.maps.stats().maps, 0);
    }
}

/// Requests empty ranges. Each is accepted up to the end of the file and out of bounds behind it.
#[test]
fn empty_range_up_to_the_end_is_accepted() {
    let (_dir, maps, file) = with_file();
    for at in [0, 1, WINDOW - 1, WINDOW, LEN - 1, LEN] {
        for (way, found) in every_way(&file, (Bound::Included(at), Bound::Excluded(at))) {
            assert!(found.unwrap().is_empty(), "{way} at {at}");
        }
        assert_eq!(file.lease(at..at).unwrap().len(), 0);
        file.prefetch(at..at).unwrap();
        assert_eq!(file.read_at(&mut [], at).unwrap(), 0);
        file.read_exact_at(&mut [], at).unwrap();
    }
    for at in [LEN + 1, u64::MAX - 1, u64::MAX] {
        for (way, found) in every_way(&file, (Bound::Included(at), Bound::Excluded(at))) {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::OutOfBounds, "{way} at {at}");
        }
    }
    assert_eq!(maps.stats().pinned_regions, 0);
}

/// Requests ranges that are reversed, past the end or at the largest number. Each is an `OutOfBounds` error, never a
/// panic.
#[test]
fn range_outside_the_file_is_out_of_bounds() {
    use Bound::{Excluded, Included, Unbounded};
    let (dir, maps, file) = with_file();
    let bad: [Bounds; 17] = [
        (Included(5), Excluded(3)),
        (Included(2 * WINDOW), Excluded(WINDOW)),
        (Included(LEN), Excluded(0)),
        (Included(0), Excluded(LEN + 1)),
        (Included(LEN), Excluded(LEN + 1)),
        (Included(LEN), Included(LEN)),
        (Included(LEN + 1), Unbounded),
        (Included(LEN + WINDOW), Excluded(LEN + 2 * WINDOW)),
        (Unbounded, Included(LEN)),
        (Unbounded, Excluded(u64::MAX)),
        (Included(0), Included(u64::MAX)),
        (Included(u64::MAX), Unbounded),
        (Included(u64::MAX), Included(u64::MAX)),
        (Excluded(u64::MAX), Unbounded),
        (Excluded(u64::MAX), Included(u64::MAX)),
        (Excluded(LEN), Unbounded),
        (Included(u64::MAX), Excluded(0)),
    ];
    for range in bad {
        for (way, found) in every_way(&file, range) {
            let error = found.map(|found| found.len()).expect_err(way);
            assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{way} {range:?}: {error:?}");
            assert_eq!(error.path(), Some(&*dir.path().join("file")), "{way} {range:?}");
            assert!(error.range().is_some(), "{way} {range:?}: {error:?}");
            assert!(error.to_string().contains(dir.path().join("file").to_str().unwrap()), "{error}");
        }
        let error = file.prefetch(range).expect_err("prefetch");
        assert_eq!(error.kind(), ErrorKind::OutOfBounds, "prefetch {range:?}: {error:?}");
    }
    // No request mapped or holds a window.
    assert_eq!(maps.stats().pinned_regions, 0);
    assert_eq!(maps.stats().maps, 0);
}

/// Requests ranges with included, excluded and missing bounds. Each means the same as for a slice.
#[test]
fn bounds_of_every_kind_mean_the_same_as_for_slices() {
    use Bound::{Excluded, Included, Unbounded};
    let (_dir, _maps, file) = with_file();
    let all = content(0..LEN);
    let good: [(Bounds, Range<u64>); 9] = [
        ((Excluded(5), Included(7)), 6..8),
        ((Excluded(5), Excluded(6)), 6..6),
        ((Excluded(5), Excluded(9)), 6..9),
        ((Included(5), Included(5)), 5..6),
        ((Excluded(LEN - 1), Unbounded), LEN..LEN),
        ((Excluded(LEN - 2), Included(LEN - 1)), LEN - 1..LEN),
        ((Unbounded, Included(0)), 0..1),
        ((Unbounded, Excluded(0)), 0..0),
        ((Excluded(WINDOW - 10), Included(2 * WINDOW + 10)), WINDOW - 9..2 * WINDOW + 11),
    ];
    for (bounds, range) in good {
        let expected = &all[range.start as usize..range.end as usize];
        for (way, found) in every_way(&file, bounds) {
            assert!(found.unwrap() == expected, "{way} {bounds:?}");
        }
        assert_eq!(file.lease(bounds).unwrap().offset(), range.start, "{bounds:?}");
        file.prefetch(bounds).unwrap();
    }
    assert!(&*file.lease(..).unwrap() == all.as_slice());
}

#[test]
fn largest_offset_reads_as_past_the_end() {
    let (_dir, maps, file) = with_file();
    let mut cursor = file.cursor();
    let mut buffer = file.buffer();
    let mut buf = [9; 16];
    for offset in [LEN, LEN + 1, LEN + WINDOW, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 15, u64::MAX] {
        assert!(cursor.window_at(offset).unwrap().is_empty(), "{offset}");
        assert_eq!(file.read_at(&mut buf, offset).unwrap(), 0, "{offset}");
        let error = file.read_exact_at(&mut buf, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{offset}: {error:?}");
        assert_eq!(buf, [9; 16], "{offset}");
        assert_eq!(buffer.get(offset).unwrap(), None, "{offset}");
        assert_eq!(buffer.get_back(offset).unwrap(), None, "{offset}");
    }
    assert_eq!(buffer.get_back(LEN - 1).unwrap(), Some(content(0..1)[0]));
    assert_eq!(buffer.get_back(0).unwrap(), Some(content(LEN - 1..LEN)[0]));
    // `read_at` over the end returns the bytes up to the end; `read_exact_at` is an error.
    assert_eq!(file.read_at(&mut buf, LEN - 5).unwrap(), 5);
    assert_eq!(buf[..5], content(LEN - 5..LEN));
    assert_eq!(file.read_exact_at(&mut buf, LEN - 5).unwrap_err().kind(), ErrorKind::OutOfBounds);
    buffer.release();
    cursor.release();
    assert_eq!(maps.stats().pinned_regions, 0);
}
