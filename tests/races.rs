//! A stress test of all operations for the thread sanitizer; `.ci/run` has the command. Plain `cargo test` runs it as
//! well.
//!
//! The sanitizer does not see synchronization inside the standard library, which is precompiled without it. Therefore:
//!
//! - the test has no harness, since the harness has threads of its own;
//! - the main thread creates the epoch's global collector before any other thread starts;
//! - the main thread does not join the threads but counts those that end, and leaks the values that they use.

#![allow(unsafe_code, reason = "`build` is unsafe: no file of this test changes")]

use std::fs;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use smmap::{Limits, MapManager, MappedFile, Overcommit, Window};

const THREADS: u64 = 4;
const WINDOW: u64 = 64 << 10;
const LENGTHS: [u64; 3] = [40 * WINDOW + 17, 5 * WINDOW, 1000];

fn main() {
    let steps = std::env::var("SMMAP_STRESS").ok().and_then(|times| times.parse().ok()).unwrap_or(1) * 2_000;
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let paths: Vec<PathBuf> = (0..).zip(LENGTHS).map(|(file, len)| write(dir.path(), file, len)).collect();

    for overcommit in [Overcommit::Allow, Overcommit::Fail] {
        let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).overcommit(overcommit);
        // SAFETY: no code changes the files while the manager exists.
        let maps =
            unsafe { builder.max_mapped_bytes(6 * WINDOW).max_open_files(2).build() }.expect("the settings are valid");
        let files: Vec<MappedFile> =
            paths.iter().map(|path| maps.open(path).expect("the file can be opened")).collect();
        read(&maps, &files, &paths, 0, 50); // Initializes the globals on this thread.
        let shared: &'static _ = Box::leak(Box::new((maps, files, paths.clone())));
        let (maps, files, paths) = shared;
        let running: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(THREADS)));
        for thread in 1..=THREADS {
            std::mem::forget(thread::spawn(move || {
                let _panic = ExitOnPanic;
                read(maps, files, paths, thread, steps);
                running.fetch_sub(1, Ordering::Release);
            }));
        }
        while running.load(Ordering::Acquire) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        maps.collect();
        let stats = maps.stats();
        assert_eq!((stats.regions, stats.mapped_bytes, stats.maps), (0, 0, stats.unmaps), "{stats:?}");
        println!("{overcommit:?}: {stats:?}");
    }
}

/// Ends the process if its thread panics, because no thread is joined.
struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::exit(1);
        }
    }
}

fn write(dir: &Path, file: u64, len: u64) -> PathBuf {
    let path = dir.join(file.to_string());
    fs::write(&path, (0..len).map(|at| byte(file, at)).collect::<Vec<u8>>()).expect("the file can be written");
    path
}

fn byte(file: u64, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9).rotate_right(13) ^ file) as u8
}

fn check(file: usize, start: u64, bytes: &[u8]) {
    for at in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        if let Some(&found) = bytes.get(at) {
            assert_eq!(found, byte(file as u64, start + at as u64), "at {start} + {at} of file {file}");
        }
    }
}

/// Runs `steps` random operations of all kinds and checks the bytes that they return. Operations that may lack room may
/// fail.
fn read(maps: &MapManager, files: &[MappedFile], paths: &[PathBuf], seed: u64, steps: u64) {
    let mut random = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let mut below = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % end
    };
    let mut cursors: Vec<_> = files.iter().map(MappedFile::cursor).collect();
    let mut kept = Vec::new();
    for step in 0..steps {
        let which = below(files.len() as u64) as usize;
        let (file, cursor) = (&files[which], &mut cursors[which]);
        let start = below(file.len());
        let end = (start + 1 + below(3 * WINDOW / 2)).min(file.len());
        match below(16) {
            0..4 => drop(cursor.slice(start..end).map(|bytes| check(which, start, bytes))),
            4 | 5 => drop(cursor.window_at(start).map(|bytes| check(which, start, bytes))),
            6 => {
                cursor.set_position(start);
                let mut buf = [0; 100];
                let read = cursor.read(&mut buf).expect("a copying read");
                check(which, start, &buf[..read]);
                drop(cursor.fill_buf().map(|bytes| check(which, start + read as u64, bytes)));
            }
            7..10 => {
                if let Ok(lease) = file.lease(start..end) {
                    let half = lease.slice(lease.len() / 2..);
                    kept.push((which, half.clone()));
                    drop(lease);
                    check(which, half.offset(), &half);
                }
            }
            10 | 11 => {
                let mut buf = vec![0; (end - start) as usize];
                file.read_exact_at(&mut buf, start).expect("a copying read");
                check(which, start, &buf);
            }
            12 => drop(maps.open(&paths[which]).and_then(|again| again.refresh())),
            13 => drop(maps.collect()),
            14 => drop(maps.close(&paths[which])),
            _ => {
                let budget = (4 + step % 4) * WINDOW;
                maps.set_limits(Limits { max_mapped_bytes: budget, ..maps.limits() }).expect("the limits are valid");
                cursor.release();
            }
        }
        if kept.len() > 2 {
            kept.swap_remove(0);
        }
        kept.iter().for_each(|(which, lease)| check(*which, lease.offset(), lease));
    }
}
