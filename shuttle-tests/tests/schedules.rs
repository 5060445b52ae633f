//! Random schedules of all operations of the cache together.
//!
//! `SMMAP_SCHEDULES=1000` sets the number of schedules of each test. A failure prints its schedule, which shuttle can
//! replay.
#![cfg(unix)]
#![allow(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use smmap_shuttle_tests::mapping::World;
use smmap_shuttle_tests::{Admission, Limits, MapManager, MappedFile, Overcommit, Window};

const PAGE: usize = 4096;
const THREADS: usize = 3;
const STEPS: usize = 12;

struct Files {
    paths: [PathBuf; 2],
    _dir: tempfile::TempDir,
}

fn files() -> Files {
    let dir = tempfile::tempdir().expect("cannot create a directory");
    let paths = [("long", 9 * PAGE + 100), ("short", 700)].map(|(name, len)| {
        let path = dir.path().join(name);
        std::fs::write(&path, (0..len).map(byte).collect::<Vec<u8>>()).expect("cannot write a file");
        path
    });
    Files { paths, _dir: dir }
}

/// Returns the byte of each test file at offset `at`. It never equals the byte that overwrites an unmapped copy.
fn byte(at: usize) -> u8 {
    (at % 191) as u8
}

fn check(start: usize, bytes: &[u8]) {
    for at in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        if let Some(&found) = bytes.get(at) {
            assert_eq!(found, byte(start + at), "wrong byte at offset {start} + {at}");
        }
    }
}

fn random(end: usize) -> usize {
    thread_rng().gen_range(0..end.max(1))
}

/// Runs one thread: it reads in every way, keeps one lease, and collects, closes files and moves limits.
fn run_thread(maps: &MapManager, files: &[MappedFile; 2], paths: &[PathBuf; 2], budget: usize, moves_limits: bool) {
    let mut cursor = files[0].cursor();
    let mut kept = None;
    for _ in 0..STEPS {
        let which = random(5) / 4;
        let file = &files[which];
        let len = file.len() as usize;
        let start = random(len);
        let end = (start + 1 + random(2 * PAGE)).min(len);
        match random(12) {
            0 | 1 => {
                let start = random(files[0].len() as usize);
                drop(cursor.window_at(start as u64).map(|bytes| check(start, bytes)));
            }
            2 => drop(cursor.slice(0..100).map(|bytes| check(0, bytes))),
            3 => {
                let mut buf = [0; 50];
                let at = cursor.position() as usize;
                let read = cursor.read(&mut buf).expect("a copying read");
                check(at, &buf[..read]);
            }
            4..7 => {
                if let Ok(lease) = file.lease(start as u64..end as u64) {
                    check(start, &lease);
                    kept = Some((start, lease));
                }
            }
            7 => {
                let mut buf = vec![0; end - start];
                file.read_exact_at(&mut buf, start as u64).expect("a copying read");
                check(start, &buf);
            }
            8 => drop(maps.open(&paths[which]).and_then(|again| again.lease(..10)).map(|lease| check(0, &lease))),
            9 => drop(maps.collect()),
            10 => drop(maps.close(&paths[which])),
            _ if moves_limits => {
                let max_mapped_bytes = (budget - random(3) * PAGE) as u64;
                maps.set_limits(Limits { max_mapped_bytes, ..maps.limits() }).expect("cannot set the limits");
            }
            _ => cursor.release(),
        }
        if let Some((start, lease)) = &kept {
            check(*start, lease);
        }
    }
}

struct Plan {
    overcommit: Overcommit,
    admission: Admission,
    budget: usize,
    refuse_maps: usize,
    refuse_unmaps: usize,
    moves_limits: bool,
}

fn explore(plan: Plan) {
    let files = files();
    let paths = files.paths.clone();
    run(move || run_schedule(&plan, &paths));
}

fn run(schedule: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SMMAP_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let mut config = shuttle::Config::new();
    config.stack_size = 0x10_0000;
    config.max_steps = shuttle::MaxSteps::FailAfter(2_000_000);
    let runner = shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(schedules), config);
    runner.run(schedule);
}

fn run_schedule(plan: &Plan, paths: &[PathBuf; 2]) {
    let may_exceed = plan.overcommit == Overcommit::Allow;
    let limit = if may_exceed { usize::MAX } else { plan.budget };
    World::begin(limit, if may_exceed { usize::MAX } else { 6 }, plan.refuse_maps, plan.refuse_unmaps);
    let builder = MapManager::builder()
        .window(Window::Sliding { bytes: PAGE as u64 })
        .max_mapped_bytes(plan.budget as u64)
        .max_regions(6)
        .max_open_files(1)
        .overcommit(plan.overcommit)
        .admission(plan.admission);
    // SAFETY: the test never changes the files.
    let maps = unsafe { builder.build() }.expect("cannot build a manager");
    let open = |path: &PathBuf| maps.open(path as &Path);
    // Under `Overcommit::Fail`, the second file may find no room for its descriptor.
    let (Ok(long), Ok(short)) = (open(&paths[0]), open(&paths[1])) else { return };
    let files = [long, short];
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (maps, files, paths) = (maps.clone(), files.clone(), paths.clone());
            let (budget, moves_limits) = (plan.budget, plan.moves_limits);
            thread::spawn(move || run_thread(&maps, &files, &paths, budget, moves_limits))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a reading thread does not panic");
    }
    drop(files);
    // Each pass retries the unmaps that the simulated OS refused.
    for _ in 0..100 {
        maps.collect();
    }
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.pinned_regions, stats.mapped_bytes), (0, 0, 0), "{stats:?}");
    assert_eq!(stats.maps, stats.unmaps, "{stats:?}");
    assert_eq!(World::mapped(), (0, 0), "mapped bytes or regions are missing in the counts of the cache");
    drop(maps);
}

fn plan(overcommit: Overcommit, budget: usize) -> Plan {
    let admission = Admission::Adaptive;
    Plan { overcommit, admission, budget, refuse_maps: 0, refuse_unmaps: 0, moves_limits: false }
}

#[test]
fn overcommit_fail_keeps_budget() {
    explore(plan(Overcommit::Fail, 4 * PAGE));
}

#[test]
fn overcommit_allow_unmaps_everything_at_the_end() {
    explore(Plan { admission: Admission::Always, ..plan(Overcommit::Allow, 2 * PAGE) });
}

#[test]
fn changing_limits_unmaps_everything_at_the_end() {
    explore(Plan { moves_limits: true, ..plan(Overcommit::Allow, 5 * PAGE) });
}

#[test]
fn refused_maps_and_unmaps_keep_budget() {
    explore(Plan { refuse_maps: 5, refuse_unmaps: 7, ..plan(Overcommit::Fail, 4 * PAGE) });
}

/// Each thread holds a window while it opens a file, and there is one window and one descriptor. A thread that kept its
/// descriptor while it waits for the window would wait forever.
#[test]
fn threads_that_wait_for_descriptor_and_window_do_not_wait_for_each_other() {
    let files = files();
    let paths = files.paths.clone();
    run(move || {
        World::begin(PAGE, 1, 0, 0);
        let builder = MapManager::builder()
            .window(Window::Sliding { bytes: PAGE as u64 })
            .max_regions(1)
            .max_open_files(1)
            .overcommit(Overcommit::Wait(Duration::MAX));
        // SAFETY: the test never changes the files.
        let maps = unsafe { builder.build() }.expect("cannot build a manager");
        let threads: Vec<_> = (0..2)
            .map(|first| {
                let (maps, paths) = (maps.clone(), paths.clone());
                thread::spawn(move || {
                    let mut held = None;
                    for step in 0..3 {
                        let file = maps.open(&paths[(first + step) % 2]).expect("the wait ends");
                        drop(held.take());
                        let mut cursor = file.cursor();
                        check(0, cursor.window_at(0).expect("the wait ends"));
                        held = Some(cursor);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a reading thread does not panic");
        }
    });
}
