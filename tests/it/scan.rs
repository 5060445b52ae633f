//! A scan that reads every window once does not evict windows that are read repeatedly.

use smmap::{MapManager, MappedFile, Window};

use crate::support::{Dir, assert_same, manager, say};

const WINDOW: u64 = 64 << 10;
/// Windows that the budget holds.
const BUDGET: u64 = 16;
/// Windows that are read repeatedly: the first ones of the file.
const HOT: u64 = 8;
/// Windows of the file. A scan reads all but the hot ones.
const ALL: u64 = 128;

/// Reads the windows of the file from [`HOT`] on, compares them with `bytes`, and calls `pause` after each.
type Scan = fn(&MappedFile, &[u8], &mut dyn FnMut());

fn by_windows(file: &MappedFile, bytes: &[u8], pause: &mut dyn FnMut()) {
    for (window, lease) in (HOT..).zip(file.windows().skip(HOT as usize)) {
        let at = (window * WINDOW) as usize;
        assert_same(
            &lease.expect("the window can be mapped"),
            &bytes[at..at + WINDOW as usize],
            format!("window {window}"),
        );
        pause();
    }
}

fn by_a_cursor(file: &MappedFile, bytes: &[u8], pause: &mut dyn FnMut()) {
    let mut cursor = file.cursor();
    for window in HOT..ALL {
        let at = window * WINDOW;
        let expected = &bytes[at as usize..(at + WINDOW) as usize];
        assert_same(cursor.window_at(at).expect("the window can be mapped"), expected, format!("window {window}"));
        pause();
    }
}

fn by_small_reads(file: &MappedFile, bytes: &[u8], pause: &mut dyn FnMut()) {
    let mut record = [0; 4096];
    for at in (HOT * WINDOW..ALL * WINDOW).step_by(record.len()) {
        file.read_exact_at(&mut record, at).expect("the record can be read");
        assert_same(&record, &bytes[at as usize..][..record.len()], format!("the record at {at}"));
        if (at + record.len() as u64) % WINDOW == 0 {
            pause();
        }
    }
}

#[test]
fn scan_of_cold_windows_keeps_hot_windows_mapped() {
    let dir = Dir::new();
    let data = dir.file("data", ALL * WINDOW, 1);
    let scans: [(&str, Scan); 3] =
        [("windows", by_windows), ("a cursor", by_a_cursor), ("small reads", by_small_reads)];
    for (name, scan) in scans {
        let window = Window::Sliding { bytes: WINDOW };
        let maps = manager(MapManager::builder().window(window).max_mapped_bytes(BUDGET * WINDOW));
        let file = maps.open(&data.path).expect("the file opens");
        let mut reads = 0;
        let mut read_hot = || {
            for window in 0..HOT {
                let mut record = [0; 8];
                file.read_exact_at(&mut record, window * WINDOW + 8).expect("the record can be read");
                reads += 1;
            }
        };
        (0..64).for_each(|_| read_hot());
        let copies = || maps.stats().copies;
        let mut missed = 0;
        for _ in 0..4 {
            scan(&file, &data, &mut || {
                let before = copies();
                read_hot();
                missed += copies() - before;
            });
        }
        let stats = maps.stats();
        assert!(stats.peak_mapped_bytes <= BUDGET * WINDOW, "{name}: {stats:?}");
        say(format_args!("during a scan by {name}: {missed} of {reads} reads of hot windows missed; {stats:?}"));
        assert!(missed * 50 <= reads, "{name}: {missed} of {reads}: {stats:?}");
    }
}
