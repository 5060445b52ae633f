//! Cursors: slices, windows, and `Read`, `BufRead` and `Seek`.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write as _};
use std::ops::Bound;
use std::thread;

use smmap::{Admission, Change, Cursor, ErrorKind, MapManager, Overcommit, Window};

use crate::fixture::opened::{Opened, WINDOW, corners};
use crate::fixture::seeded::TICK;
use crate::fixture::three_windows::{LEN, content, with_file};
use crate::support::{Dir, Rng, assert_same, bytes, letters, manager};

/// Slices ranges at every window border. Each slice is exact, as if the whole file were mapped, as the README promises.
#[test]
fn slice_anywhere_gives_exactly_its_range() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
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
    assert_same(cursor.slice(behind).unwrap(), opened.at(WINDOW, WINDOW + 4), "excluded bounds");
}

#[test]
fn slice_of_the_whole_file_gives_every_byte() {
    let opened = Opened::with(bytes(4, 5 * WINDOW + 7), Window::Sliding { bytes: WINDOW }, 20 * WINDOW);
    let mut cursor = opened.handle.cursor();
    assert_same(cursor.slice(..).unwrap(), &opened.file, "..");
    cursor.release();
    cursor.release();
    assert_same(cursor.slice(1..).unwrap(), &opened.file[1..], "after a release");
}

#[test]
fn window_at_returns_bytes_to_the_end_of_its_window() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
    for at in corners(len).chain([5, 12_345, 3 * WINDOW + 4097]) {
        let end = (at / WINDOW * WINDOW + WINDOW).min(len);
        assert_same(cursor.window_at(at).unwrap(), opened.at(at, end), format!("window_at({at})"));
    }
    for at in [len, len + 1, len + WINDOW, u64::MAX] {
        assert!(cursor.window_at(at).unwrap().is_empty(), "past the end: {at}");
    }
}

/// Calls `slice`, `window_at` and `release`. None moves the position, which only `Read`, `BufRead` and `Seek` use.
#[test]
fn slice_and_window_at_keep_the_position() {
    let opened = Opened::long();
    let mut cursor = opened.handle.cursor();
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
fn clone_of_a_cursor_moves_independently() {
    let opened = Opened::long();
    let mut cursor = opened.handle.cursor();
    cursor.set_position(100);
    cursor.window_at(WINDOW).unwrap();
    let mut clone = cursor.clone();
    assert_eq!(clone.position(), 100, "the clone starts at the position of the original");
    clone.set_position(7);
    let mut bytes = [0; 20];
    clone.read_exact(&mut bytes).unwrap();
    assert_same(&bytes, opened.at(7, 27), "read through the clone");
    assert_eq!((cursor.position(), clone.position()), (100, 27));
    cursor.read_exact(&mut bytes).unwrap();
    assert_same(&bytes, opened.at(100, 120), "read through the original");

    assert_same(clone.window_at(WINDOW + 5).unwrap(), opened.at(WINDOW + 5, 2 * WINDOW), "window of the clone");
    cursor.release();
    drop(cursor);
    assert_same(
        clone.window_at(WINDOW + 5).unwrap(),
        opened.at(WINDOW + 5, 2 * WINDOW),
        "window of the clone after the original was dropped",
    );
    assert_eq!(clone.file().len(), opened.file.len());
}

/// Runs random seeks and reads on a cursor and on `std::io::Cursor`.
#[test]
fn read_and_seek_match_the_standard_cursor() {
    let opened = Opened::long();
    let len = opened.file.len();
    let (mut found, mut expected) = (opened.handle.cursor(), io::Cursor::new(&opened.file.bytes));
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
        if let SeekFrom::Current(offset) = seek {
            let (mut relative, from) = (opened.handle.cursor(), found.position());
            relative.set_position(from);
            let moved = relative.seek_relative(offset).is_ok();
            assert_eq!((moved, relative.position()), (expected.seek(seek).is_ok(), expected.position()), "{seek:?}");
            expected.set_position(from);
        }
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
        // One `read` may return fewer bytes than requested, but at least one, and moves the position by their number.
        let count = found.read(&mut bytes).unwrap();
        assert_eq!(count == 0, size == 0 || expected.position() >= len, "step {step}: {count} of {size}");
        let mut same = vec![0; count];
        expected.read_exact(&mut same).unwrap();
        assert_same(&bytes[..count], &same, format!("step {step}"));
        assert_eq!(found.position(), expected.position());
    }
}

#[test]
fn read_of_the_whole_file_gives_every_byte() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut all = Vec::new();
    assert_eq!(opened.handle.cursor().read_to_end(&mut all).unwrap() as u64, len);
    assert_same(&all, &opened.file, "read_to_end");

    let mut all = Vec::new();
    assert_eq!(io::copy(&mut opened.handle.cursor(), &mut all).unwrap(), len);
    assert_same(&all, &opened.file, "io::copy");

    let mut cursor = opened.handle.cursor();
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
    assert_same(&taken, opened.at(WINDOW - 5, WINDOW + 5), "take, over a window border");
    cursor.set_position(WINDOW - 5);
    let (front, back) = pieces.split_at_mut(3);
    cursor.read_exact(front).unwrap();
    cursor.read_exact(back).unwrap();
    assert_same(&pieces, opened.at(WINDOW - 5, WINDOW + 5), "read_exact in two pieces, over a window border");
}

#[test]
fn read_to_end_appends_and_moves_the_position() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
    cursor.set_position(3);
    let mut all = opened.at(0, 3).to_vec();
    assert_eq!(cursor.read_to_end(&mut all).unwrap() as u64, len - 3);
    assert_same(&all, &opened.file, "read_to_end");
    assert_eq!((cursor.position(), cursor.read_to_end(&mut all).unwrap()), (len, 0));
    assert_eq!(all.len() as u64, len);
}

/// A file of half a window, which a cursor holds when the file changes.
#[test]
fn reads_in_the_held_window_follow_the_noticed_length() {
    let half = WINDOW / 2;
    let opened = Opened::new(bytes(6, half));
    let mut on_disk = OpenOptions::new().append(true).open(&opened.file.path).unwrap();
    let mut cursor = opened.handle.cursor();
    let mut part = [0; 10];
    assert_eq!(cursor.window_at(0).unwrap().len() as u64, half);

    on_disk.write_all(b"appended").unwrap();
    assert_eq!(opened.handle.refresh().unwrap(), Change::Grown);
    cursor.set_position(half - 2);
    cursor.read_exact(&mut part).unwrap();
    assert_same(&part, &[opened.at(half - 2, half), b"appended"].concat(), "read_exact");
    cursor.set_position(half - 2);
    let mut rest = Vec::new();
    cursor.read_until(b'\n', &mut rest).unwrap();
    assert_same(&rest, &part, "read_until");

    if cfg!(windows) {
        return; // It truncates no file that is mapped.
    }
    cursor.window_at(0).unwrap();
    on_disk.set_len(100).unwrap();
    assert_eq!(opened.handle.refresh().unwrap(), Change::Truncated);
    cursor.set_position(95);
    assert_eq!(cursor.read(&mut part).unwrap(), 5);
    assert_same(&part[..5], opened.at(95, 100), "read");
    cursor.set_position(half - 10);
    assert_eq!(cursor.read_exact(&mut part).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn fill_buf_without_consume_returns_the_same_bytes() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
    let (mut at, mut rng) = (0, Rng::new(3));
    while at < len {
        let filled = cursor.fill_buf().unwrap().len() as u64;
        assert!(filled > 0 && at / WINDOW == (at + filled - 1) / WINDOW, "{filled} bytes from {at}");
        assert_same(cursor.fill_buf().unwrap(), opened.at(at, at + filled), format!("from {at}, second call"));
        let step = if rng.below(2) == 0 { filled } else { rng.below(filled + 1) };
        cursor.consume(step as usize);
        at += step;
        assert_eq!(cursor.position(), at);
    }
    assert!(cursor.fill_buf().unwrap().is_empty());
}

/// Fills the buffer at random places, which are worth no mapping, and then in sequence, which is.
#[test]
fn fill_buf_maps_for_a_sequential_reader_only() {
    let opened = Opened::with(bytes(8, 40 * WINDOW), Window::Sliding { bytes: WINDOW }, 80 * WINDOW);
    let mut cursor = opened.handle.cursor();
    for at in (0..40).map(|window| (window * 17 % 40) * WINDOW + 100 * window) {
        cursor.set_position(at);
        let filled = cursor.fill_buf().unwrap();
        assert_same(filled, opened.at(at, at + filled.len() as u64), format!("filled at {at}"));
        // `Read` and `fill_buf` take their bytes from the same buffer.
        cursor.consume(10);
        let mut part = [0; 20];
        cursor.read_exact(&mut part).unwrap();
        assert_same(&part, opened.at(at + 10, at + 30), format!("read at {at}"));
        let filled = cursor.fill_buf().unwrap();
        assert_same(filled, opened.at(at + 30, at + 30 + filled.len() as u64), format!("filled after {at}"));
    }
    assert_eq!((opened.maps.stats().maps, opened.maps.stats().copies), (0, 40));

    let (mut reader, mut read) = (opened.handle.cursor(), Vec::new());
    while let filled @ [_, ..] = reader.fill_buf().unwrap() {
        read.extend_from_slice(filled);
        let count = filled.len();
        reader.consume(count);
    }
    assert_same(&read, &opened.file, "in sequence");
    let copies = opened.maps.stats().copies - 40;
    assert!(opened.maps.stats().maps >= 37 && copies < 10, "{:?}", opened.maps.stats());
}

/// The buffer of `fill_buf` serves only bytes that the file still has, as far as the cache knows.
#[test]
fn buffer_of_fill_buf_is_read_again_after_a_noticed_change() {
    let opened = Opened::new(b"old old old".to_vec());
    let mut cursor = opened.handle.cursor();
    let now = |cursor: &mut Cursor| {
        cursor.set_position(4);
        let (filled, mut read) = (cursor.fill_buf().unwrap().to_vec(), Vec::new());
        cursor.read_to_end(&mut read).unwrap();
        assert_same(&filled, &read, "both read from the buffer");
        String::from_utf8(read).unwrap()
    };
    assert_eq!(now(&mut cursor), "old old");
    thread::sleep(TICK);
    fs::write(&opened.file.path, "new new new").unwrap();
    assert_eq!(opened.maps.stats().maps, 0, "the file is copied");
    assert_eq!(opened.handle.refresh().unwrap(), Change::Modified);
    assert_eq!(now(&mut cursor), "new new");
    fs::write(&opened.file.path, "new s").unwrap();
    assert_eq!(opened.handle.refresh().unwrap(), Change::Truncated);
    assert_eq!(now(&mut cursor), "s");
    fs::write(&opened.file.path, "new size").unwrap();
    assert_eq!(opened.handle.refresh().unwrap(), Change::Grown);
    assert_eq!(now(&mut cursor), "size");
    fs::write(&opened.file.path, "old size").unwrap();
    cursor.release();
    assert_eq!(now(&mut cursor), "size");
}

/// With a budget of one window, which a lease holds, and `Overcommit::Fail`.
#[test]
fn fill_buf_never_fails_for_the_budget() {
    let dir = Dir::new();
    let file = dir.file("read", 5 * WINDOW, 3);
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(WINDOW);
    for admission in [Admission::Adaptive, Admission::Always] {
        let maps = manager(builder.clone().overcommit(Overcommit::Fail).admission(admission));
        let handle = maps.open(&file.path).unwrap();
        let lease = handle.windows().next().unwrap().unwrap();
        let mut cursor = handle.cursor();
        assert_eq!(cursor.window_at(WINDOW).unwrap_err().kind(), ErrorKind::OverBudget);
        let mut read = Vec::new();
        cursor.read_until(0, &mut read).unwrap();
        while cursor.read_until(0, &mut read).unwrap() > 0 {}
        assert_same(&read, &file, "pieces between zeros");
        assert_same(&lease, &file[..WINDOW as usize], "the lease");
        assert_eq!(maps.stats().maps, 1);
    }
}

#[test]
fn read_until_and_lines_cross_window_borders() {
    let text = letters(9, 5 * WINDOW + 99, b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\r\n");
    let opened = Opened::new(text);
    let (mut found, mut expected) = (opened.handle.cursor(), io::Cursor::new(&opened.file.bytes));
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
    assert!(found == expected, "the lines differ from those of the standard library");
}

#[test]
fn seek_before_the_start_fails_and_keeps_the_position() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
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

    assert_eq!(cursor.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX, "a seek past the end succeeds");
    assert_eq!(cursor.read(&mut [0; 8]).unwrap(), 0);
    assert!(cursor.fill_buf().unwrap().is_empty());
    assert_eq!(
        cursor.seek(SeekFrom::Current(1)).unwrap_err().kind(),
        io::ErrorKind::InvalidInput,
        "a seek that overflows fails"
    );
    assert_eq!(cursor.position(), u64::MAX);
    cursor.rewind().unwrap();
    let filled = cursor.fill_buf().unwrap();
    assert_same(filled, opened.at(0, filled.len() as u64), "the start of the first window");
    assert!(!filled.is_empty());
}

#[test]
fn seek_that_overflows_fails_and_keeps_the_position() {
    let (_dir, _maps, file) = with_file();
    let mut cursor = file.cursor();
    let mut buf = [9; 16];

    // Reads past the end return no bytes, as for a file.
    for position in [LEN, LEN + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(cursor.seek(SeekFrom::Start(position)).unwrap(), position);
        assert_eq!(cursor.position(), position);
        assert_eq!(cursor.read(&mut buf).unwrap(), 0);
        assert!(cursor.fill_buf().unwrap().is_empty());
        assert_eq!(cursor.read_exact(&mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(cursor.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert_eq!(cursor.position(), position, "an empty read moved the position");
        cursor.set_position(0);
        cursor.set_position(position);
        assert_eq!(cursor.stream_position().unwrap(), position);
    }

    // A seek before the start or past the largest number is an error and keeps the position.
    let refused = |cursor: &mut smmap::Cursor, to: SeekFrom| {
        let before = cursor.position();
        assert_eq!(cursor.seek(to).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{before} {to:?}");
        assert_eq!(cursor.position(), before, "{to:?}");
    };
    refused(&mut cursor, SeekFrom::Current(1));
    refused(&mut cursor, SeekFrom::Current(i64::MAX));
    cursor.set_position(7);
    refused(&mut cursor, SeekFrom::Current(-8));
    refused(&mut cursor, SeekFrom::Current(i64::MIN));
    refused(&mut cursor, SeekFrom::End(-(LEN as i64) - 1));
    refused(&mut cursor, SeekFrom::End(i64::MIN));
    assert_eq!(cursor.seek(SeekFrom::End(i64::MAX)).unwrap(), LEN + i64::MAX as u64);
    assert_eq!(cursor.seek(SeekFrom::Current(i64::MIN)).unwrap(), LEN - 1);
    assert_eq!(cursor.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], content(LEN - 1..LEN)[0]);
    assert_eq!(cursor.seek(SeekFrom::End(-(LEN as i64))).unwrap(), 0);
    cursor.read_exact(&mut buf).unwrap();
    assert_eq!(&buf[..], content(0..16));
}

/// Asks for ranges past the end after a change of window, in each way that can fail there. A cursor that then holds no
/// window pins none.
#[test]
fn failed_read_after_a_change_of_window_pins_nothing_that_the_cursor_does_not_hold() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut cursor = opened.handle.cursor();
    // The slots of these windows are in the cursor's cache. The last window is a part of one.
    let enter_all = |cursor: &mut Cursor| (0..=20).for_each(|index| drop(cursor.window_at(index * WINDOW)));
    for held in [0, 5, 19, 20] {
        for (start, end) in [
            (len - 1, len + 1),
            (20 * WINDOW, u64::MAX),
            (19 * WINDOW + 1, len + 1),
            (3 * WINDOW, len + 1),
            (len, len + 1),
            (7 * WINDOW, 6 * WINDOW),
        ] {
            for way in ["slice", "window_at", "read", "check"] {
                enter_all(&mut cursor);
                cursor.window_at(held * WINDOW).unwrap();
                match way {
                    "slice" => drop(cursor.slice(start..end).unwrap_err()),
                    "window_at" => assert!(cursor.window_at(end.max(len)).unwrap().is_empty()),
                    "read" => {
                        cursor.set_position(end.max(len));
                        assert_eq!(cursor.read(&mut [0; 9]).unwrap(), 0);
                    }
                    _ => drop(cursor.check(start..end)),
                }
                let holds = usize::from(!format!("{cursor:?}").contains("holds: None"));
                let pinned = opened.maps.stats().pinned_regions;
                assert_eq!(pinned, holds, "{way} of {start}..{end} in window {held}: {cursor:?}");
            }
        }
    }
}

/// Moves a cursor through many windows, with evictions, on a stack as small as some runtimes make them.
#[test]
fn cursor_on_a_small_stack_moves_through_windows() {
    // Code that is not optimized needs more.
    const STACK: usize = if cfg!(debug_assertions) { 32 << 10 } else { 24 << 10 };
    let opened = Opened::long();
    let work = || {
        let mut cursor = opened.handle.cursor();
        let mut sum = 0;
        for index in (0..20).chain([3, 4, 19]) {
            sum += usize::from(cursor.window_at(index * WINDOW).unwrap()[0]);
            sum += cursor.slice(index * WINDOW + 5..(index + 1) * WINDOW + 5).unwrap().len();
        }
        sum
    };
    let small = thread::Builder::new().stack_size(STACK);
    thread::scope(|scope| small.spawn_scoped(scope, work).unwrap().join().unwrap());
}
