//! Iteration over the windows of a file, from both ends and in parallel.

use smmap::{Lease, Window};
use std::io::BufRead as _;

use crate::fixture::opened::{Opened, WINDOW};
use crate::support::{Rng, assert_same, bytes};

#[test]
fn windows_in_order_are_the_whole_file() {
    for len in [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 20 * WINDOW, 20 * WINDOW + 1] {
        let opened = Opened::new(bytes(len, len));
        let windows = opened.handle.windows();
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
        for window in opened.handle.windows().rev() {
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
fn windows_from_both_ends_meet_once() {
    let opened = Opened::long();
    let mut windows = opened.handle.windows();
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
    assert_eq!(front, back, "no window is repeated or left out");
    for _ in 0..3 {
        assert!(windows.next().is_none() && windows.next_back().is_none(), "no window is left");
    }
}

#[test]
fn nth_and_step_by_skip_windows() {
    let opened = Opened::long();
    let mut windows = opened.handle.windows();
    assert_eq!(windows.nth(3).unwrap().unwrap().offset(), 3 * WINDOW);
    assert_eq!(windows.nth_back(2).unwrap().unwrap().offset(), 18 * WINDOW);
    assert_eq!(windows.len(), 14);
    assert!(windows.nth(14).is_none());
    assert_eq!(windows.len(), 0);
    let steps: Vec<u64> = opened.handle.windows().step_by(7).map(|window| window.unwrap().offset()).collect();
    assert_eq!(steps, [0, 7 * WINDOW, 14 * WINDOW]);
}

#[test]
fn whole_file_window_serves_every_read_from_one_mapping() {
    let opened = Opened::with(bytes(31, 5 * WINDOW + 77), Window::WholeFile, 20 * WINDOW);
    let len = opened.file.len();
    assert_eq!(opened.maps.window_bytes(), None);
    let mut cursor = opened.handle.cursor();
    for at in [0, 1, WINDOW, 3 * WINDOW + 5, len - 1] {
        assert_same(cursor.window_at(at).unwrap(), opened.at(at, len), format!("from {at}"));
    }
    assert!(cursor.window_at(len).unwrap().is_empty());
    assert_same(cursor.fill_buf().unwrap(), &opened.file, "fill_buf");

    let windows: Vec<Lease> = opened.handle.windows().map(Result::unwrap).collect();
    assert_eq!(windows.len(), 1);
    assert_same(&windows[0], &opened.file, "the window");
    assert_same(&opened.handle.lease(WINDOW - 1..4 * WINDOW).unwrap(), opened.at(WINDOW - 1, 4 * WINDOW), "a lease");
    assert_eq!(opened.maps.stats().maps, 1, "every read uses one mapping");
}

#[cfg(feature = "rayon")]
#[test]
fn par_windows_in_order_are_the_whole_file() {
    use rayon::prelude::*;

    let opened = Opened::long();
    let windows = opened.handle.par_windows();
    assert_eq!(windows.len() as u64, opened.file.len().div_ceil(WINDOW));
    let found: Vec<Vec<u8>> = windows.map(|window| window.unwrap().to_vec()).collect();
    assert_same(&found.concat(), &opened.file, "in order");
    let offsets: Vec<u64> = opened.handle.par_windows().rev().map(|window| window.unwrap().offset()).collect();
    assert!(offsets.iter().eq((0..=20).rev().map(|window| window * WINDOW).collect::<Vec<_>>().iter()));
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let total: u64 = opened.handle.par_windows().map(|window| sum(&window.unwrap())).sum();
    assert_eq!(total, sum(&opened.file));
    assert_eq!(opened.maps.stats().pinned_regions, 0);
}
