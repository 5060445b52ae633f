//! Copying reads: `read_at` and `read_exact_at`.

use std::fs::OpenOptions;

use smmap::{ErrorKind, MapManager, Window};

use crate::fixture::opened::{Opened, WINDOW, corners};
use crate::support::{Dir, assert_same, manager};

#[test]
fn read_at_returns_the_bytes_up_to_the_end() {
    let opened = Opened::long();
    let (mapped, len) = (&opened.handle, opened.file.len());
    for start in corners(len) {
        for size in [0, 1, 100, WINDOW, 2 * WINDOW + 3] {
            let mut bytes = vec![0xaa; size as usize];
            let expected = size.min(len - start);
            let mut count = mapped.read_at(&mut bytes, start).unwrap();
            assert_eq!(count == 0, expected == 0, "{size} at {start}");
            // Like `FileExt::read_at`, one call may return fewer bytes than it could.
            while (count as u64) < expected {
                let more = mapped.read_at(&mut bytes[count..], start + count as u64).unwrap();
                assert!(more > 0, "{size} at {start}: no byte after {count}");
                count += more;
            }
            assert_eq!(count as u64, expected, "all bytes up to the end");
            assert_same(&bytes[..count], opened.at(start, start + expected), format!("{size} at {start}"));
            assert!(bytes[count..].iter().all(|byte| *byte == 0xaa), "bytes behind the count were written");
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

#[test]
fn read_past_a_truncated_end_names_the_new_length() {
    let dir = Dir::new();
    let path = dir.file("cut", 4 * WINDOW, 1).path;
    // No window fits the budget, so every read copies and none reads mapped bytes past the end.
    let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW });
    let maps = manager(builder.max_mapped_bytes(WINDOW));
    let mut limits = maps.limits();
    limits.max_mapped_bytes = 1;
    maps.set_limits(limits).unwrap();
    let file = maps.open(&path).unwrap();
    file.read_exact_at(&mut [0; 100], 2 * WINDOW).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * WINDOW + 10).unwrap();
    let error = file.read_exact_at(&mut [0; 100], 2 * WINDOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.to_string().contains(&(2 * WINDOW + 10).to_string()), "{error}");
    assert_eq!((maps.stats().maps, maps.stats().copies), (0, 2));
}

#[test]
fn copy_of_a_mapped_range_counts_as_hits() {
    let dir = Dir::new();
    let long = dir.file("long", 4 * WINDOW, 1);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }));
    let file = maps.open(&long.path).unwrap();
    file.prefetch(..).unwrap();
    let (mut buf, before) = (vec![0; 3 * WINDOW as usize], maps.stats());
    file.read_exact_at(&mut buf, 10).unwrap();
    assert_eq!(buf[..], long.bytes[10..][..buf.len()]);
    let after = maps.stats();
    assert_eq!((after.hits - before.hits, after.misses - before.misses, after.copies), (4, 0, 0));
}
