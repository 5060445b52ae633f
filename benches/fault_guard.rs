//! Measures the cost of the fault guard: how long one faulted read takes, with few mapped regions and with many.
//!
//! A round maps a file, truncates it to length 0, and reads one page of 100 different regions. Each read raises SIGBUS;
//! the handler finds the region and maps a page of zeros there, and the repeated read faults on that page once more.
//! For comparison, the same round first reads one resident page of the same regions: the cost of any page fault.
//! The cost must not depend on the number of regions.
//!
//! `cargo bench --bench fault_guard --features fault-guard -- ratios` measures and prints the table. Cargo's test mode
//! (`cargo test --benches`) runs one round only.

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use smmap::{Admission, Lease, MapManager, Window, fault_guard};
use support::{build, measuring, rounds};

mod support;

const WINDOW: u64 = 16 << 10;
/// Faulted reads in a round, each of another region.
const HOLES: usize = 100;
const REGIONS: [u64; 3] = [100, 1_000, 10_000];

fn main() {
    fault_guard::install().expect("the SIGBUS handler is installed");
    let directory = tempfile::tempdir().expect("the temporary directory is created");
    let path = directory.path().join("data");
    let rounds = if measuring() { rounds() } else { 1 };
    println!("fault guard, medians of {rounds} rounds of {HOLES}: ns each");
    println!("{:>10} {:>14} {:>14} {:>8}", "regions", "faulted read", "page fault", "ratio");
    let mut medians = Vec::new();
    for regions in REGIONS {
        let (mut holes, mut pages) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (hole, page) = round(&path, regions);
            holes.push(hole.as_nanos() as u64 / HOLES as u64);
            pages.push(page.as_nanos() as u64 / HOLES as u64);
        }
        let (hole, page) = (median(holes), median(pages));
        println!("{regions:>10} {hole:>14} {page:>14} {:>8.2}", hole as f64 / page as f64);
        medians.push(hole as f64);
    }
    println!("faulted read with {} regions / with {}: {:.2}", REGIONS[2], REGIONS[0], medians[2] / medians[0]);
}

/// Returns the times of [`HOLES`] faulted reads and of as many first reads of a resident page.
fn round(path: &Path, regions: u64) -> (Duration, Duration) {
    fs::write(path, vec![1; (2 * regions * WINDOW) as usize]).expect("the file is written");
    let maps = build(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_regions(2 * regions as usize + 100)
            .max_mapped_bytes(4 * regions * WINDOW)
            .admission(Admission::Always),
    );
    let file = maps.open(path).expect("the file opens");
    // Every second window only, so that the OS does not merge neighbouring mappings into one.
    let held: Vec<Lease> =
        (0..regions).map(|n| file.lease(2 * n * WINDOW..(2 * n + 1) * WINDOW).expect("the window is mapped")).collect();
    assert_eq!(maps.stats().regions as u64, regions);
    let step = held.len() / HOLES;
    let page = 8 << 10;
    let pages = timed(|| held.iter().step_by(step).take(HOLES).map(|lease| u64::from(lease[page])).sum());
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0)).expect("the file is truncated");
    let holes = timed(|| held.iter().step_by(step).take(HOLES).map(|lease| u64::from(lease[page])).sum());
    assert!(held.iter().step_by(step).take(HOLES).all(|lease| lease.check().is_err()));
    (holes, pages)
}

fn timed(work: impl FnOnce() -> u64) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all[all.len() / 2]
}
