//! Buffers: indexing, searches, comparisons, and iteration over lines and pieces.

use std::cmp::Ordering;
use std::io::BufRead as _;

use smmap::{Buffer, Lease};

use crate::fixture::opened::{Opened, WINDOW, corners};
use crate::support::{assert_same, bytes, letters};

/// Returns every position of `needle` in `bytes`, overlapping ones too.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<u64> {
    (0..=bytes.len() - needle.len()).filter(|&at| bytes[at..].starts_with(needle)).map(|at| at as u64).collect()
}

/// Returns the positions that a search from the left finds if it continues behind each match.
fn without_overlaps(places: &[u64], needle: &[u8]) -> Vec<u64> {
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

/// Returns the positions that `find_iter` finds.
fn all(buffer: &mut Buffer, needle: &[u8]) -> Vec<u64> {
    buffer.find_iter(needle).map(Result::unwrap).collect()
}

#[test]
fn get_and_get_back_index_from_both_ends() {
    let opened = Opened::long();
    let len = opened.file.len();
    let mut buffer = opened.handle.buffer();
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

/// Searches for needles over a window border, some longer than a window.
#[test]
fn searches_find_matches_across_a_window_border() {
    for size in [1, 2, 7, 4096, WINDOW, WINDOW + 9, 2 * WINDOW + 9] {
        for before in [0, 1, size / 2, size - 1, size] {
            // The needle occurs once, because the rest of the text has none of its letters.
            let start = 3 * WINDOW - before;
            let mut text = letters(17, 7 * WINDOW + 100, b"abc");
            let needle = letters(18, size, b"xyz");
            text[start as usize..(start + size) as usize].copy_from_slice(&needle);
            let opened = Opened::new(text);
            let mut buffer = opened.handle.buffer();
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
fn searches_find_matches_at_both_ends() {
    let opened = Opened::new(letters(40, 2 * WINDOW + 9, b"ab"));
    let len = opened.file.len();
    let mut buffer = opened.handle.buffer();
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
    assert_eq!(
        (buffer.find(b"").unwrap(), buffer.rfind(b"").unwrap()),
        (Some(0), Some(len)),
        "an empty needle matches as in memmem"
    );
}

/// Searches a text of two letters, in which candidates overlap each other and the window borders.
#[test]
fn searches_match_a_naive_search() {
    let mut text = letters(50, 3 * WINDOW + 50, b"ab");
    text[2 * WINDOW as usize - 40..2 * WINDOW as usize + 41].fill(b'a');
    let opened = Opened::new(text);
    let mut buffer = opened.handle.buffer();
    let border = opened.at(WINDOW - 4, WINDOW + 4);
    let needles = [b"a".as_slice(), b"aa", b"aba", b"abab", b"aaaaaaaaaaaaaaaa", b"bbabbaab", border, b"ac"];
    for needle in needles {
        let places = places(&opened.file, needle);
        let what = String::from_utf8_lossy(needle);
        assert_eq!(buffer.find(needle).unwrap(), places.first().copied(), "find {what}");
        assert_eq!(buffer.rfind(needle).unwrap(), places.last().copied(), "rfind {what}");
        assert!(all(&mut buffer, needle) == without_overlaps(&places, needle), "find_iter {what}");
    }
}

/// Searches for "aaa" in a run of eight "a" over a window border, at several distances from the border.
#[test]
fn find_iter_matches_do_not_overlap() {
    for shift in 0..6 {
        let mut text = vec![b'-'; 2 * WINDOW as usize];
        let start = WINDOW as usize - shift;
        text[start..start + 8].fill(b'a');
        let opened = Opened::new(text);
        let mut buffer = opened.handle.buffer();
        assert_eq!(all(&mut buffer, b"aaa"), [start as u64, start as u64 + 3], "shift {shift}");
        assert_eq!(buffer.rfind(b"aaa").unwrap(), Some(start as u64 + 5), "shift {shift}");
    }
}

#[test]
fn search_dropped_midway_can_start_again() {
    let opened = Opened::new(letters(52, 3 * WINDOW, b"ab"));
    let mut buffer = opened.handle.buffer();
    let expected = without_overlaps(&places(&opened.file, b"ab"), b"ab");
    let some: Vec<u64> = buffer.find_iter(b"ab").take(10).map(Result::unwrap).collect();
    assert_eq!(some, expected[..10]);
    assert_eq!(buffer.find(b"ab").unwrap(), Some(expected[0]), "a new search starts at the first match");
}

#[test]
fn comparisons_match_those_of_a_slice() {
    for len in [1, WINDOW, 2 * WINDOW + 10] {
        let opened = Opened::new(bytes(60, len));
        let mut buffer = opened.handle.buffer();
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
            assert!(buffer.ends_with(&other[at as usize + 1..]).unwrap(), "after byte {at} of {len}");
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
            lines_of(&opened.handle.buffer()).iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let expected: Vec<String> = text.as_bytes().lines().map(Result::unwrap).collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

/// Reads lines whose ends lie before, on and behind a window border, and with the border between `\r` and `\n`.
#[test]
fn lines_across_window_borders_are_whole() {
    for end in ["\n", "\r\n"] {
        for shift in 0..6 {
            let mut text = vec![b'x'; WINDOW as usize - shift];
            text.extend_from_slice(end.as_bytes());
            text.extend(vec![b'y'; 2 * WINDOW as usize]);
            text.extend_from_slice(end.as_bytes());
            text.extend_from_slice(b"last");
            let opened = Opened::new(text);
            let lines = lines_of(&opened.handle.buffer());
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
fn lines_and_pieces_of_a_long_file_match_the_standard_library() {
    let text = letters(70, 5 * WINDOW + 13, b"abcdefghijklmnop,;\r\n");
    let opened = Opened::new(text);
    let buffer = opened.handle.buffer();

    let mut expected = opened.file.lines();
    for line in buffer.lines() {
        let line = line.unwrap();
        assert_same(&line, expected.next().unwrap().unwrap().as_bytes(), format!("the line at {}", line.offset()));
    }
    assert!(expected.next().is_none(), "a line is missing");

    for byte in [b',', b'\n', b'a', b'!'] {
        let mut expected = opened.file.split(|other| *other == byte);
        let mut next = 0;
        for piece in buffer.split(byte) {
            let piece = piece.unwrap();
            assert_eq!(piece.offset(), next);
            next += piece.len() as u64 + 1;
            assert_same(&piece, expected.next().unwrap(), format!("the piece at {}", piece.offset()));
        }
        assert!(expected.next().is_none(), "a piece is missing");
        assert_eq!(next, opened.file.len() + 1);
    }
}

#[test]
fn split_gives_the_pieces_of_slice_split() {
    for text in ["", ",", ",,", "a,b", ",a", "a,", "abc"] {
        let opened = Opened::new(text.into());
        let found: Vec<Vec<u8>> = opened.handle.buffer().split(b',').map(|piece| piece.unwrap().to_vec()).collect();
        let expected: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b',').collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

/// Reads through a buffer while its line iterator runs. Each has a cursor of its own.
#[test]
fn reads_during_lines_do_not_disturb_the_iterator() {
    let opened = Opened::new(letters(71, 3 * WINDOW, b"abcdefg\n"));
    let mut buffer = opened.handle.buffer();
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
