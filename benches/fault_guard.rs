//! What the fault guard costs: a hole that is met, with few regions and with many; and a file that is cut short over and over.
//!
//! A hole: one page of a region is touched after its file was cut to nothing, each time in another region; so each touch is a
//! SIGBUS, a look-up, a mapping of zeros, and the fault that touches those. Beside it, in the same round, the first touch of a
//! page that is there: what any fault costs here. How many regions there are should make no difference.
//!
//! `cargo bench --bench fault_guard --features fault-guard -- ratios` prints the table; without `ratios` there is one round.

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use smmap::{Admission, Lease, MapManager, Window, fault_guard};
use support::{build, measuring, rounds};

mod support;

const WINDOW: u64 = 16 << 10;
/// Holes in a round, of regions that are drawn for it.
const HOLES: usize = 100;
const REGIONS: [u64; 3] = [100, 1_000, 10_000];

fn main() {
    fault_guard::install().expect("a handler");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let rounds = if measuring() { rounds() } else { 1 };
    println!("fault guard, medians of {rounds} rounds of {HOLES}: ns each");
    println!("{:>10} {:>14} {:>14} {:>8}", "regions", "a hole", "a page", "ratio");
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
    println!("with {} regions / with {}: {:.2}", REGIONS[2], REGIONS[0], medians[2] / medians[0]);
}

/// The touches of holes, and of pages that are there.
fn round(path: &Path, regions: u64) -> (Duration, Duration) {
    fs::write(path, vec![1; (2 * regions * WINDOW) as usize]).expect("it can be written");
    let maps = build(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_regions(2 * regions as usize + 100)
            .max_mapped_bytes(4 * regions * WINDOW)
            .admission(Admission::Always),
    );
    let file = maps.open(path).expect("it is there");
    // Every other window, so that the system keeps them apart.
    let held: Vec<Lease> =
        (0..regions).map(|n| file.lease(2 * n * WINDOW..(2 * n + 1) * WINDOW).expect("a region")).collect();
    assert_eq!(maps.stats().regions as u64, regions);
    let step = held.len() / HOLES;
    let page = 8 << 10;
    let pages = timed(|| held.iter().step_by(step).take(HOLES).map(|lease| u64::from(lease[page])).sum());
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0)).expect("it can be cut");
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
