//! Ordinary reading: cursors as `Read`, `BufRead` and `Seek`, buffers as strings, windows as an iterator.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Bound;

use smmap::{Admission, Buffer, Cursor, Error, Lease, MapManager, MappedFile, Window, Windows};

use crate::support::{Dir, Rng, TestFile, assert_same, bytes, letters, manager};

const WINDOW: u64 = 64 << 10;

/// A file of these bytes, read through windows of 64 KiB, of which eight fit the budget.
struct Opened {
    _dir: Dir,
    file: TestFile,
    maps: MapManager,
    mapped: MappedFile,
}

impl Opened {
    fn new(bytes: Vec<u8>) -> Opened {
        Opened::with(bytes, Window::Sliding { bytes: WINDOW }, 8 * WINDOW)
    }

    fn with(bytes: Vec<u8>, window: Window, budget: u64) -> Opened {
        let dir = Dir::new();
        let file = dir.write("read", bytes);
        let maps = manager(MapManager::builder().window(window).max_mapped_bytes(budget));
        let mapped = maps.open(&file.path).unwrap();
        Opened { _dir: dir, file, maps, mapped }
    }

    /// A file of about twenty windows.
    fn long() -> Opened {
        Opened::new(bytes(21, 20 * WINDOW + 321))
    }

    fn at(&self, start: u64, end: u64) -> &[u8] {
        &self.file[start as usize..end as usize]
    }
}

/// Offsets at and around every border of a window, and the end.
fn corners(len: u64) -> impl Iterator<Item = u64> {
    let borders = (0..=len / WINDOW).map(|window| window * WINDOW).chain([len]);
    borders.flat_map(|at| [at.saturating_sub(1), at, at + 1]).filter(move |at| *at <= len)
}

#[test]
fn the_public_types_promise_what_they_should() {
    fn shared<T: Clone + Send + Sync + Debug + 'static>() {}
    fn own<T: Clone + Send + Debug + 'static>() {}
    fn sent<T: Send + DoubleEndedIterator<Item = smmap::Result<Lease>> + ExactSizeIterator>() {}
    fn error<T: std::error::Error + Send + Sync + Into<io::Error> + 'static>() {}
    shared::<MapManager>();
    shared::<MappedFile>();
    own::<Cursor>();
    own::<Buffer>();
    sent::<Windows>();
    error::<Error>();

    let opened = Opened::long();
    assert_eq!(opened.mapped.len(), opened.file.len());
    assert!(!opened.mapped.is_empty());
    assert_eq!(opened.mapped.path(), Some(opened.file.path.as_path()));
    let readers = (opened.mapped.cursor(), opened.mapped.buffer(), opened.mapped.windows());
    let count = std::thread::spawn(move || {
        let (mut cursor, mut buffer, windows) = readers;
        let first = cursor.window_at(0).unwrap()[0];
        assert_eq!(buffer.get(0).unwrap(), Some(first));
        windows.map(Result::unwrap).count() as u64
    });
    assert_eq!(count.join().unwrap(), opened.file.len().div_ceil(WINDOW));
}

// ---------------------------------------------------------------------------------------------------------------------
// Cursors
// ---------------------------------------------------------------------------------------------------------------------

/// The same steps on a cursor and on `std::io::Cursor`.
#[test]
fn reads_and_seeks_like_the_standard_cursor() {
    let opened = Opened::long();
    let len = opened.file.len();
    let (mut found, mut expected) = (opened.mapped.cursor(), io::Cursor::new(&opened.file.bytes));
    let mut rng = Rng::new(5);
    for step in 0..2000 {
        let seek = match rng.below(6) {
            0 => SeekFrom::Start(rng.below(len + 10)),
            1 => SeekFrom::End(-(rng.below(len + 10) as i64)),
            2 => SeekFrom::Current(rng.below(2 * WINDOW) as i64 - WINDOW as i64),
            3 => SeekFrom::Start(rng.below(20) * WINDOW),
            4 => SeekFrom::End(rng.below(10) as i64),
            _ => SeekFrom::Current(0),
        };
        match (found.seek(seek), expected.seek(seek)) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "step {step}, {seek:?}"),
            (Err(found), Err(expected)) => {
                assert_eq!(found.kind(), expected.kind(), "step {step}, {seek:?}")
            }
            (found, expected) => panic!("step {step}, {seek:?}: {found:?}, not {expected:?}"),
        }
        assert_eq!(found.position(), expected.position(), "step {step}, {seek:?}");
        assert_eq!(found.stream_position().unwrap(), expected.position());

        let size = [0, 1, 100, 5000, 70_000][rng.below(5) as usize];
        let mut bytes = vec![0; size];
        // One `read` may give less than asked for, but something, and then it stands behind that.
        let count = found.read(&mut bytes).unwrap();
        assert_eq!(count == 0, size == 0 || expected.position() >= len, "step {step}: {count} of {size}");
        let mut same = vec![0; count];
        expected.read_exact(&mut same).unwrap();
        assert_same(&bytes[..count], &same, format!("step {step}"));
        assert_eq!(found.position(), expected.position());
    }
}

#[test]
fn seeking_before_the_start_fails_and_moves_nothing() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.mapped.cursor();
    assert_eq!(cursor.seek(SeekFrom::End(-10)).unwrap(), len - 10);
    for seek in [
        SeekFrom::End(-(len as i64) - 1),
        SeekFrom::Current(-(len as i64)),
        SeekFrom::End(i64::MIN),
        SeekFrom::Current(i64::MIN),
    ] {
        assert_eq!(cursor.seek(seek).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{seek:?}");
        assert_eq!(cursor.position(), len - 10);
    }
    let mut rest = Vec::new();
    assert_eq!(cursor.read_to_end(&mut rest).unwrap(), 10);
    assert_same(&rest, opened.at(len - 10, len), "the last ten");

    assert_eq!(cursor.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX, "past the end is no error");
    assert_eq!(cursor.read(&mut [0; 8]).unwrap(), 0);
    assert!(cursor.fill_buf().unwrap().is_empty());
    assert_eq!(cursor.seek(SeekFrom::Current(1)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "overflow");
    assert_eq!(cursor.position(), u64::MAX);
    cursor.rewind().unwrap();
    assert_same(cursor.fill_buf().unwrap(), opened.at(0, WINDOW), "the first window");
}

#[test]
fn the_whole_file_through_read() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut all = Vec::new();
    assert_eq!(opened.mapped.cursor().read_to_end(&mut all).unwrap() as u64, len);
    assert_same(&all, &opened.file, "read_to_end");

    let mut all = Vec::new();
    assert_eq!(io::copy(&mut opened.mapped.cursor(), &mut all).unwrap(), len);
    assert_same(&all, &opened.file, "io::copy");

    let mut cursor = opened.mapped.cursor();
    cursor.set_position(len - 100);
    let mut part = [0; 100];
    cursor.read_exact(&mut part).unwrap();
    assert_same(&part, opened.at(len - 100, len), "read_exact");
    assert_eq!(cursor.position(), len);
    cursor.set_position(len - 99);
    assert_eq!(cursor.read_exact(&mut part).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    let mut pieces = [0; 10];
    let mut taken = Vec::new();
    cursor.set_position(WINDOW - 5);
    cursor.by_ref().take(10).read_to_end(&mut taken).unwrap();
    assert_same(&taken, opened.at(WINDOW - 5, WINDOW + 5), "take, over a border");
    cursor.set_position(WINDOW - 5);
    let (front, back) = pieces.split_at_mut(3);
    cursor.read_exact(front).unwrap();
    cursor.read_exact(back).unwrap();
    assert_same(&pieces, opened.at(WINDOW - 5, WINDOW + 5), "in two pieces");
}

#[test]
fn fill_buf_stays_where_it_is_until_consumed() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.mapped.cursor();
    let (mut at, mut rng) = (0, Rng::new(3));
    while at < len {
        let border = (at / WINDOW * WINDOW + WINDOW).min(len);
        assert_same(cursor.fill_buf().unwrap(), opened.at(at, border), format!("from {at}"));
        assert_same(cursor.fill_buf().unwrap(), opened.at(at, border), format!("from {at}, again"));
        let step = if rng.below(2) == 0 { border - at } else { rng.below(border - at + 1) };
        cursor.consume(step as usize);
        at += step;
        assert_eq!(cursor.position(), at);
    }
    assert!(cursor.fill_buf().unwrap().is_empty());
}

#[test]
fn read_until_and_lines_go_over_borders() {
    let text = letters(9, 5 * WINDOW + 99, b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\r\n");
    let opened = Opened::new(text);
    let (mut found, mut expected) = (opened.mapped.cursor(), io::Cursor::new(&opened.file.bytes));
    loop {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let counts = (found.read_until(b'q', &mut a).unwrap(), expected.read_until(b'q', &mut b).unwrap());
        assert_eq!(counts.0, counts.1);
        assert_same(&a, &b, format!("up to {}", expected.position()));
        if counts.1 == 0 {
            break;
        }
    }
    found.rewind().unwrap();
    let (found, expected): (Vec<_>, Vec<_>) = (
        found.lines().map(Result::unwrap).collect(),
        io::Cursor::new(&opened.file.bytes).lines().map(Result::unwrap).collect(),
    );
    assert!(expected.len() > 1000);
    assert!(found == expected, "the same lines");
}

#[test]
fn a_clone_goes_its_own_way() {
    let opened = Opened::long();
    let mut cursor = opened.mapped.cursor();
    cursor.set_position(100);
    cursor.window_at(WINDOW).unwrap();
    let mut clone = cursor.clone();
    assert_eq!(clone.position(), 100, "it starts where the first one is");
    clone.set_position(7);
    let mut bytes = [0; 20];
    clone.read_exact(&mut bytes).unwrap();
    assert_same(&bytes, opened.at(7, 27), "the clone");
    assert_eq!((cursor.position(), clone.position()), (100, 27));
    cursor.read_exact(&mut bytes).unwrap();
    assert_same(&bytes, opened.at(100, 120), "the first one");

    assert_same(clone.window_at(WINDOW + 5).unwrap(), opened.at(WINDOW + 5, 2 * WINDOW), "the clone");
    cursor.release();
    drop(cursor);
    assert_same(clone.window_at(WINDOW + 5).unwrap(), opened.at(WINDOW + 5, 2 * WINDOW), "the clone, left alone");
    assert_eq!(clone.file().len(), opened.file.len());
}

/// The position belongs to `Read`, `BufRead` and `Seek`; the others say themselves where they look.
#[test]
fn slices_and_windows_leave_the_position() {
    let opened = Opened::long();
    let mut cursor = opened.mapped.cursor();
    cursor.set_position(12);
    assert_same(cursor.slice(5 * WINDOW..5 * WINDOW + 9).unwrap(), opened.at(5 * WINDOW, 5 * WINDOW + 9), "a slice");
    cursor.window_at(3 * WINDOW).unwrap();
    cursor.release();
    assert_eq!(cursor.position(), 12);
    let mut byte = [0];
    cursor.read_exact(&mut byte).unwrap();
    assert_eq!(byte[0], opened.file[12]);
}

#[test]
fn window_at_goes_to_the_end_of_its_window() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.mapped.cursor();
    for at in corners(len).chain([5, 12_345, 3 * WINDOW + 4097]) {
        let end = (at / WINDOW * WINDOW + WINDOW).min(len);
        assert_same(cursor.window_at(at).unwrap(), opened.at(at, end), format!("window_at({at})"));
    }
    for at in [len, len + 1, len + WINDOW, u64::MAX] {
        assert!(cursor.window_at(at).unwrap().is_empty(), "past the end: {at}");
    }
}

/// What the README promises first: read on, as if the whole file were mapped.
#[test]
fn slices_are_exact_wherever_they_lie() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.mapped.cursor();
    for start in corners(len) {
        for size in [0, 1, 2, 3, 4096, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 4 * WINDOW + 1, 6 * WINDOW] {
            let end = (start + size).min(len);
            assert_same(cursor.slice(start..end).unwrap(), opened.at(start, end), format!("{start}..{end}"));
        }
    }
    assert_same(cursor.slice(..9).unwrap(), opened.at(0, 9), "..b");
    assert_same(cursor.slice(..=WINDOW).unwrap(), opened.at(0, WINDOW + 1), "..=b");
    assert_same(cursor.slice(len - 9..).unwrap(), opened.at(len - 9, len), "a..");
    let behind = (Bound::Excluded(WINDOW - 1), Bound::Excluded(WINDOW + 4));
    assert_same(cursor.slice(behind).unwrap(), opened.at(WINDOW, WINDOW + 4), "behind a, before b");
}

#[test]
fn the_whole_file_as_one_slice() {
    let opened = Opened::with(bytes(4, 5 * WINDOW + 7), Window::Sliding { bytes: WINDOW }, 20 * WINDOW);
    let mut cursor = opened.mapped.cursor();
    assert_same(cursor.slice(..).unwrap(), &opened.file, "..");
    cursor.release();
    cursor.release();
    assert_same(cursor.slice(1..).unwrap(), &opened.file[1..], "after a release");
}

#[test]
fn read_at_gives_what_is_there() {
    let opened = Opened::long();
    let (mapped, len) = (&opened.mapped, opened.file.len());
    for start in corners(len) {
        for size in [0, 1, 100, WINDOW, 2 * WINDOW + 3] {
            let mut bytes = vec![0xaa; size as usize];
            let expected = size.min(len - start);
            let mut count = mapped.read_at(&mut bytes, start).unwrap();
            assert_eq!(count == 0, expected == 0, "{size} at {start}");
            // Like `FileExt::read_at`, one call may give less than it could.
            while (count as u64) < expected {
                let more = mapped.read_at(&mut bytes[count..], start + count as u64).unwrap();
                assert!(more > 0, "{size} at {start}: stuck at {count}");
                count += more;
            }
            assert_eq!(count as u64, expected, "no more than there is");
            assert_same(&bytes[..count], opened.at(start, start + expected), format!("{size} at {start}"));
            assert!(bytes[count..].iter().all(|byte| *byte == 0xaa), "nothing behind what was read");
            if start + size <= len {
                bytes.fill(0);
                mapped.read_exact_at(&mut bytes, start).unwrap();
                assert_same(&bytes, opened.at(start, start + size), format!("exactly {size} at {start}"));
            }
        }
    }
    for at in [len, len + 1, u64::MAX] {
        assert_eq!(mapped.read_at(&mut [0; 10], at).unwrap(), 0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is counted
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn hits_misses_and_maps_are_counted() {
    let opened = Opened::long();
    let mut cursor = opened.mapped.cursor();
    assert_eq!(opened.maps.stats().maps, 0, "opening maps nothing");
    cursor.window_at(0).unwrap();
    let stats = opened.maps.stats();
    assert_eq!((stats.hits, stats.misses, stats.maps, stats.copies), (0, 1, 1, 0));
    assert_eq!((stats.mapped_bytes, stats.regions, stats.pinned_regions, stats.pinned_bytes), (WINDOW, 1, 1, WINDOW));
    assert_eq!((stats.files, stats.open_files), (1, 1));

    let mut other = opened.mapped.cursor();
    other.window_at(9).unwrap();
    let stats = opened.maps.stats();
    assert_eq!((stats.hits, stats.misses, stats.maps), (1, 1, 1), "another cursor takes what is mapped");
    assert_eq!((stats.regions, stats.pinned_regions), (1, 1));
    assert!((stats.hit_ratio() - 0.5).abs() < 1e-9);

    for window in 1..20 {
        cursor.window_at(window * WINDOW).unwrap();
    }
    let stats = opened.maps.stats();
    assert_eq!((stats.misses, stats.maps), (20, 20));
    assert!(stats.peak_mapped_bytes <= 8 * WINDOW, "{stats:?}");
    assert!(stats.evictions >= 12, "eight of them fit: {stats:?}");
    assert_eq!(stats.overcommits, 0);
    assert_eq!(stats.regions as u64, stats.maps - stats.unmaps);
}

#[test]
fn what_was_prefetched_is_there() {
    let opened = Opened::long();
    opened.mapped.prefetch(WINDOW + 5..3 * WINDOW + 5).unwrap();
    let stats = opened.maps.stats();
    assert_eq!((stats.maps, stats.regions, stats.pinned_regions), (3, 3, 0), "three windows, and nobody holds them");
    let mut cursor = opened.mapped.cursor();
    for window in 1..4 {
        let found = cursor.window_at(window * WINDOW).unwrap();
        assert_same(found, opened.at(window * WINDOW, (window + 1) * WINDOW), format!("window {window}"));
    }
    assert_eq!(opened.maps.stats().maps, 3);
    opened.mapped.prefetch(5..5).unwrap();
    assert_eq!(opened.maps.stats().maps, 3, "nothing to fetch");
    cursor.release();
    assert_eq!(opened.maps.collect().regions, 3);
}

/// A window that is mapped serves slices and leases without another mapping, a copy or a second count.
#[test]
fn a_mapped_window_serves_all() {
    let opened = Opened::with(bytes(2, 4 * WINDOW), Window::Sliding { bytes: WINDOW }, 8 * WINDOW);
    opened.mapped.prefetch(..).unwrap();
    let before = opened.maps.stats();
    assert_eq!(before.maps, 4);
    let (mut cursor, mut rng) = (opened.mapped.cursor(), Rng::new(8));
    for _ in 0..1000 {
        let start = rng.below(4) * WINDOW + rng.below(WINDOW - 100);
        assert_same(cursor.slice(start..start + 100).unwrap(), opened.at(start, start + 100), "a slice");
        let lease = opened.mapped.lease(start..start + 50).unwrap();
        assert!(lease.is_mapped());
        assert_same(&lease, opened.at(start, start + 50), "a lease");
    }
    let after = opened.maps.stats();
    assert_eq!((after.maps, after.misses, after.copies), (before.maps, before.misses, before.copies));
    assert!(after.hits >= before.hits + 1000, "each lease at least: {after:?}");
}

#[test]
fn a_clone_of_the_manager_is_the_same_cache() {
    let opened = Opened::long();
    let twin = opened.maps.clone();
    let other = twin.open(&opened.file.path).unwrap();
    let mut cursors = (opened.mapped.cursor(), other.cursor());
    let (a, b) = (cursors.0.window_at(0).unwrap().as_ptr(), cursors.1.window_at(0).unwrap().as_ptr());
    assert_eq!(a, b, "one mapping");
    assert_eq!(twin.stats().maps, 1);
    drop((opened.maps, opened.mapped));
    assert_same(cursors.1.window_at(WINDOW).unwrap(), &opened.file[WINDOW as usize..2 * WINDOW as usize], "the twin");
    assert_same(
        cursors.0.window_at(5 * WINDOW).unwrap(),
        &opened.file[5 * WINDOW as usize..6 * WINDOW as usize],
        "both",
    );
    assert_eq!(twin.stats().files, 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Windows
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn windows_are_the_file_in_order() {
    for len in [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 20 * WINDOW, 20 * WINDOW + 1] {
        let opened = Opened::new(bytes(len, len));
        let windows = opened.mapped.windows();
        assert_eq!(windows.len() as u64, len.div_ceil(WINDOW), "{len} bytes");
        let mut all = Vec::new();
        for window in windows {
            let window = window.unwrap();
            assert_eq!(window.offset(), all.len() as u64);
            assert!(window.is_mapped() && !window.is_empty());
            all.extend_from_slice(&window);
        }
        assert_same(&all, &opened.file, format!("{len} bytes, forward"));

        let mut end = len;
        for window in opened.mapped.windows().rev() {
            let window = window.unwrap();
            assert_eq!(window.offset() + window.len() as u64, end);
            assert_same(&window, opened.at(window.offset(), end), format!("{len} bytes, backward"));
            end = window.offset();
        }
        assert_eq!(end, 0);
        assert!(opened.maps.stats().peak_mapped_bytes <= 8 * WINDOW, "{len} bytes");
    }
}

#[test]
fn windows_meet_in_the_middle() {
    let opened = Opened::long();
    let mut windows = opened.mapped.windows();
    let (mut front, mut back, mut rng) = (0, opened.file.len(), Rng::new(6));
    while windows.len() > 0 {
        let left = windows.len();
        assert_eq!(windows.size_hint(), (left, Some(left)));
        if rng.below(2) == 0 {
            let window = windows.next().unwrap().unwrap();
            assert_same(&window, opened.at(front, front + window.len() as u64), "from the front");
            front += window.len() as u64;
        } else {
            let window = windows.next_back().unwrap().unwrap();
            assert_same(&window, opened.at(back - window.len() as u64, back), "from the back");
            back -= window.len() as u64;
        }
        assert_eq!(windows.len(), left - 1);
    }
    assert_eq!(front, back, "none twice, none left out");
    for _ in 0..3 {
        assert!(windows.next().is_none() && windows.next_back().is_none(), "and no more of them");
    }
}

#[test]
fn windows_can_be_skipped() {
    let opened = Opened::long();
    let mut windows = opened.mapped.windows();
    assert_eq!(windows.nth(3).unwrap().unwrap().offset(), 3 * WINDOW);
    assert_eq!(windows.nth_back(2).unwrap().unwrap().offset(), 18 * WINDOW);
    assert_eq!(windows.len(), 14);
    assert!(windows.nth(14).is_none());
    assert_eq!(windows.len(), 0);
    let steps: Vec<u64> = opened.mapped.windows().step_by(7).map(|window| window.unwrap().offset()).collect();
    assert_eq!(steps, [0, 7 * WINDOW, 14 * WINDOW]);
}

#[test]
fn the_whole_file_as_one_window() {
    let opened = Opened::with(bytes(31, 5 * WINDOW + 77), Window::WholeFile, 20 * WINDOW);
    let len = opened.file.len();
    assert_eq!(opened.maps.window_bytes(), None);
    let mut cursor = opened.mapped.cursor();
    for at in [0, 1, WINDOW, 3 * WINDOW + 5, len - 1] {
        assert_same(cursor.window_at(at).unwrap(), opened.at(at, len), format!("from {at}"));
    }
    assert!(cursor.window_at(len).unwrap().is_empty());
    assert_same(cursor.fill_buf().unwrap(), &opened.file, "fill_buf");

    let windows: Vec<Lease> = opened.mapped.windows().map(Result::unwrap).collect();
    assert_eq!(windows.len(), 1);
    assert_same(&windows[0], &opened.file, "the window");
    assert_same(&opened.mapped.lease(WINDOW - 1..4 * WINDOW).unwrap(), opened.at(WINDOW - 1, 4 * WINDOW), "a lease");
    assert_eq!(opened.maps.stats().maps, 1, "all from one mapping");
}

#[test]
fn an_empty_file_is_read_to_its_end_at_once() {
    for window in [Window::Sliding { bytes: WINDOW }, Window::WholeFile] {
        let opened = Opened::with(Vec::new(), window, 8 * WINDOW);
        let (mapped, mut cursor, mut buffer) = (&opened.mapped, opened.mapped.cursor(), opened.mapped.buffer());
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
        assert_eq!(buffer.lines().count(), 0, "no line, like BufRead::lines");
        assert_eq!(buffer.split(b',').count(), 1, "one empty piece, like slice::split");
        assert_eq!(opened.maps.stats().maps, 0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Buffers
// ---------------------------------------------------------------------------------------------------------------------

/// Where `needle` stands in `bytes`, overlapping or not.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<u64> {
    (0..=bytes.len() - needle.len()).filter(|&at| bytes[at..].starts_with(needle)).map(|at| at as u64).collect()
}

/// Of these places, those that a search from the left finds which goes on behind each match.
fn apart(places: &[u64], needle: &[u8]) -> Vec<u64> {
    let mut free = 0;
    let mut kept = Vec::new();
    for &place in places {
        if place >= free {
            kept.push(place);
            free = place + needle.len() as u64;
        }
    }
    kept
}

fn all(buffer: &mut Buffer, needle: &[u8]) -> Vec<u64> {
    buffer.find_iter(needle).map(Result::unwrap).collect()
}

#[test]
fn indexes_from_both_ends() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut buffer = opened.mapped.buffer();
    assert_eq!((buffer.len(), buffer.is_empty(), buffer.file().len()), (len, false, len));
    for at in corners(len) {
        let expected = opened.file.get(at as usize).copied();
        assert_eq!(buffer.get(at).unwrap(), expected, "get({at})");
        if at < len {
            assert_eq!(buffer.get_back(len - 1 - at).unwrap(), expected, "get_back({})", len - 1 - at);
        }
        let end = (at + 2 * WINDOW).min(len);
        assert_same(buffer.slice(at..end).unwrap(), opened.at(at, end), format!("{at}..{end}"));
    }
    for at in [len, len + 1, u64::MAX] {
        assert_eq!((buffer.get(at).unwrap(), buffer.get_back(at).unwrap()), (None, None));
    }
    buffer.release();
    buffer.release();
    assert_eq!(buffer.get(3).unwrap(), Some(opened.file[3]), "after a release");
    let mut clone = buffer.clone();
    drop(buffer);
    assert_eq!(clone.get_back(0).unwrap(), opened.file.last().copied());
}

/// A needle over every border, also one that reaches over a whole window.
#[test]
fn finds_what_lies_over_a_border() {
    for size in [1, 2, 7, 4096, WINDOW, WINDOW + 9, 2 * WINDOW + 9] {
        for before in [0, 1, size / 2, size - 1, size] {
            // The needle is nowhere else: its letters are not in the rest.
            let start = 3 * WINDOW - before;
            let mut text = letters(17, 7 * WINDOW + 100, b"abc");
            let needle = letters(18, size, b"xyz");
            text[start as usize..(start + size) as usize].copy_from_slice(&needle);
            let opened = Opened::new(text);
            let mut buffer = opened.mapped.buffer();
            let what = format!("{size} bytes, {before} of them before the border");
            assert_eq!(buffer.find(&needle).unwrap(), Some(start), "find: {what}");
            assert_eq!(buffer.rfind(&needle).unwrap(), Some(start), "rfind: {what}");
            assert_eq!(all(&mut buffer, &needle), [start], "find_iter: {what}");
            let mut longer = needle.clone();
            longer.push(b'!');
            assert_eq!(buffer.find(&longer).unwrap(), None, "one byte more: {what}");
            assert_eq!(buffer.rfind(&longer).unwrap(), None, "one byte more: {what}");
        }
    }
}

#[test]
fn finds_at_both_ends_of_the_file() {
    let opened = Opened::new(letters(40, 2 * WINDOW + 9, b"ab"));
    let len = opened.file.len();
    let mut buffer = opened.mapped.buffer();
    for size in [1, 5, 50, WINDOW + 5, len] {
        let (head, tail) = (opened.at(0, size), opened.at(len - size, len));
        assert_eq!(buffer.find(head).unwrap(), Some(0), "{size} bytes");
        assert_eq!(buffer.rfind(tail).unwrap(), Some(len - size), "{size} bytes");
        assert!(buffer.starts_with(head).unwrap() && buffer.ends_with(tail).unwrap());
    }
    assert_eq!(buffer.find(&[opened.at(0, len), b"a"].concat()).unwrap(), None, "longer than the file");
    assert_eq!(buffer.rfind(&[opened.at(0, len), b"a"].concat()).unwrap(), None);
    assert_eq!(buffer.find_iter(&[opened.at(0, len), b"a"].concat()).count(), 0);
    assert_eq!((buffer.find(b"z").unwrap(), buffer.rfind(b"z").unwrap()), (None, None));
    assert_eq!((buffer.find(b"").unwrap(), buffer.rfind(b"").unwrap()), (Some(0), Some(len)), "like memmem");
}

/// Few letters, so that candidates overlap each other and the borders.
#[test]
fn finds_all_like_a_naive_search() {
    let mut text = letters(50, 3 * WINDOW + 50, b"ab");
    text[2 * WINDOW as usize - 40..2 * WINDOW as usize + 41].fill(b'a');
    let opened = Opened::new(text);
    let mut buffer = opened.mapped.buffer();
    let border = opened.at(WINDOW - 4, WINDOW + 4);
    let needles = [b"a".as_slice(), b"aa", b"aba", b"abab", b"aaaaaaaaaaaaaaaa", b"bbabbaab", border, b"ac"];
    for needle in needles {
        let places = places(&opened.file, needle);
        let what = String::from_utf8_lossy(needle);
        assert_eq!(buffer.find(needle).unwrap(), places.first().copied(), "find {what}");
        assert_eq!(buffer.rfind(needle).unwrap(), places.last().copied(), "rfind {what}");
        assert!(all(&mut buffer, needle) == apart(&places, needle), "find_iter {what}");
    }
}

/// The overlap decides: "aaa" in runs of a, over a border at each shift.
#[test]
fn matches_do_not_overlap() {
    for shift in 0..6 {
        let mut text = vec![b'-'; 2 * WINDOW as usize];
        let start = WINDOW as usize - shift;
        text[start..start + 8].fill(b'a');
        let opened = Opened::new(text);
        let mut buffer = opened.mapped.buffer();
        assert_eq!(all(&mut buffer, b"aaa"), [start as u64, start as u64 + 3], "shift {shift}");
        assert_eq!(buffer.rfind(b"aaa").unwrap(), Some(start as u64 + 5), "shift {shift}");
    }
}

#[test]
fn a_search_can_be_given_up() {
    let opened = Opened::new(letters(52, 3 * WINDOW, b"ab"));
    let mut buffer = opened.mapped.buffer();
    let expected = apart(&places(&opened.file, b"ab"), b"ab");
    let some: Vec<u64> = buffer.find_iter(b"ab").take(10).map(Result::unwrap).collect();
    assert_eq!(some, expected[..10]);
    assert_eq!(buffer.find(b"ab").unwrap(), Some(expected[0]), "and begun anew");
}

#[test]
fn compares_like_a_slice() {
    for len in [1, WINDOW, 2 * WINDOW + 10] {
        let opened = Opened::new(bytes(60, len));
        let mut buffer = opened.mapped.buffer();
        let same = opened.file.to_vec();
        assert!(buffer.equals(&same).unwrap());
        assert_eq!(buffer.compare(&same).unwrap(), Ordering::Equal);
        assert!(buffer.starts_with(&same).unwrap() && buffer.ends_with(&same).unwrap());
        assert!(buffer.starts_with(b"").unwrap() && buffer.ends_with(b"").unwrap());
        for at in [0, len / 2, len - 1] {
            let mut other = same.clone();
            other[at as usize] ^= 0x55;
            assert!(!buffer.equals(&other).unwrap(), "byte {at} of {len}");
            assert_eq!(buffer.compare(&other).unwrap(), same.cmp(&other), "byte {at} of {len}");
            assert!(!buffer.starts_with(&other).unwrap() && !buffer.ends_with(&other).unwrap());
            assert!(buffer.starts_with(&other[..at as usize]).unwrap(), "before byte {at} of {len}");
            assert!(buffer.ends_with(&other[at as usize + 1..]).unwrap(), "behind byte {at} of {len}");
        }
        for other in [&same[..same.len() - 1], &[same.as_slice(), b"x"].concat()] {
            assert!(!buffer.equals(other).unwrap());
            assert_eq!(buffer.compare(other).unwrap(), same.as_slice().cmp(other), "{} against {len}", other.len());
        }
        let longer = [b"x", same.as_slice()].concat();
        assert!(!buffer.ends_with(&longer).unwrap() && !buffer.starts_with(&longer).unwrap());
    }
}

fn lines_of(buffer: &Buffer) -> Vec<Lease> {
    buffer.lines().map(Result::unwrap).collect()
}

#[test]
fn lines_end_as_in_the_standard_library() {
    let texts = [
        "one\ntwo\nthree\n",
        "one\ntwo\nthree",
        "one\r\ntwo\r\n",
        "one\r\ntwo\r",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "a\n\nb",
        "\na",
        "a\r\r\nb",
        "a\rb\n",
        "x",
    ];
    for text in texts {
        let opened = Opened::new(text.into());
        let found: Vec<String> =
            lines_of(&opened.mapped.buffer()).iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let expected: Vec<String> = text.as_bytes().lines().map(Result::unwrap).collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

/// Line ends at every place around a border: before, on, between \r and \n, behind.
#[test]
fn lines_go_over_borders() {
    for end in ["\n", "\r\n"] {
        for shift in 0..6 {
            let mut text = vec![b'x'; WINDOW as usize - shift];
            text.extend_from_slice(end.as_bytes());
            text.extend(vec![b'y'; 2 * WINDOW as usize]);
            text.extend_from_slice(end.as_bytes());
            text.extend_from_slice(b"last");
            let opened = Opened::new(text);
            let lines = lines_of(&opened.mapped.buffer());
            let what = format!("{end:?}, {shift} before the border");
            assert_eq!(lines.len(), 3, "{what}");
            assert_same(&lines[0], &vec![b'x'; WINDOW as usize - shift], &what);
            assert_same(&lines[1], &vec![b'y'; 2 * WINDOW as usize], &what);
            assert_same(&lines[2], b"last", &what);
            assert_eq!(lines[1].offset(), WINDOW - shift as u64 + end.len() as u64);
        }
    }
}

#[test]
fn many_lines_and_pieces() {
    let text = letters(70, 5 * WINDOW + 13, b"abcdefghijklmnop,;\r\n");
    let opened = Opened::new(text);
    let buffer = opened.mapped.buffer();

    let mut expected = opened.file.lines();
    for line in buffer.lines() {
        let line = line.unwrap();
        assert_same(&line, expected.next().unwrap().unwrap().as_bytes(), format!("the line at {}", line.offset()));
    }
    assert!(expected.next().is_none(), "not one less");

    for byte in [b',', b'\n', b'a', b'!'] {
        let mut expected = opened.file.split(|other| *other == byte);
        let mut next = 0;
        for piece in buffer.split(byte) {
            let piece = piece.unwrap();
            assert_eq!(piece.offset(), next);
            next += piece.len() as u64 + 1;
            assert_same(&piece, expected.next().unwrap(), format!("the piece at {}", piece.offset()));
        }
        assert!(expected.next().is_none(), "not one less");
        assert_eq!(next, opened.file.len() + 1);
    }
}

#[test]
fn pieces_are_those_of_slice_split() {
    for text in ["", ",", ",,", "a,b", ",a", "a,", "abc"] {
        let opened = Opened::new(text.into());
        let found: Vec<Vec<u8>> = opened.mapped.buffer().split(b',').map(|piece| piece.unwrap().to_vec()).collect();
        let expected: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b',').collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

/// A buffer reads through its own cursor, and others through theirs.
#[test]
fn lines_and_the_buffer_do_not_disturb_each_other() {
    let opened = Opened::new(letters(71, 3 * WINDOW, b"abcdefg\n"));
    let mut buffer = opened.mapped.buffer();
    let (lines, mut count) = (buffer.lines(), 0);
    for line in lines {
        let line = line.unwrap();
        count += 1;
        if count % 100 == 0 {
            let start = line.offset();
            assert_eq!(buffer.get(start).unwrap(), opened.file.get(start as usize).copied());
            assert_eq!(buffer.get_back(0).unwrap(), opened.file.last().copied());
        }
    }
    assert_eq!(count, opened.file.lines().count());
}

/// Always mapping or not, the bytes are the same, and so is what they cost in the end.
#[test]
fn admission_changes_no_byte() {
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
            // Only what lies over a border is a copy.
            assert!(stats.maps > 1000 && stats.copies < 20, "{stats:?}");
        } else {
            assert!(stats.copies > 1000 && stats.maps < 1000, "uniform reads at a tenth are not worth maps: {stats:?}");
        }
        drop((maps, mapped, cursor));
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == 0));
    }
}

#[cfg(feature = "rayon")]
#[test]
fn windows_in_parallel() {
    use rayon::prelude::*;

    let opened = Opened::long();
    let windows = opened.mapped.par_windows();
    assert_eq!(windows.len() as u64, opened.file.len().div_ceil(WINDOW));
    let found: Vec<Vec<u8>> = windows.map(|window| window.unwrap().to_vec()).collect();
    assert_same(&found.concat(), &opened.file, "in order");
    let offsets: Vec<u64> = opened.mapped.par_windows().rev().map(|window| window.unwrap().offset()).collect();
    assert!(offsets.iter().eq((0..=20).rev().map(|window| window * WINDOW).collect::<Vec<_>>().iter()));
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let total: u64 = opened.mapped.par_windows().map(|window| sum(&window.unwrap())).sum();
    assert_eq!(total, sum(&opened.file));
    assert_eq!(opened.maps.stats().pinned_regions, 0);
}

#[cfg(feature = "serde")]
#[test]
fn limits_and_stats_go_through_serde() {
    let opened = Opened::long();
    opened.mapped.cursor().window_at(0).unwrap();
    let limits = opened.maps.limits();
    assert_eq!(serde_json::from_str::<smmap::Limits>(&serde_json::to_string(&limits).unwrap()).unwrap(), limits);
    let stats = opened.maps.stats();
    let told = serde_json::to_string(&stats).unwrap();
    assert!(told.contains("\"peak_mapped_bytes\""), "{told}");
    assert_eq!(serde_json::from_str::<smmap::Stats>(&told).unwrap(), stats);
}
