//! Many files, many windows: does a hit, an open, an eviction cost more where there are more?

use std::fs::{self, File};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use smmap::{MapManager, MappedFile, Window};

use crate::Run;
use crate::report::{Chapter, Finding, Times};
use crate::support::{Outcome, Race, Rng, Target, build, directory, time, timed};

/// Bytes of a window, and of most files.
const PAGE: u64 = 4096;
/// Windows that are hit: always as many, wherever they are.
const HOT: usize = 64;
/// Regions that each manager may have: all of them together stay below the system's limit on maps.
const REGIONS: usize = 12_000;
/// Flat: a hit among many at most so much dearer than among few.
const FLAT: Target = Target::AtMost(1.10);
/// Amortized O(1), for what calls the system, whose own tables grow as well.
const CONSTANT: Target = Target::AtMost(2.0);

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let wanted = ["scale/files", "scale/windows"].map(|row| run.wants(row));
    if !wanted.contains(&true) {
        return None;
    }
    let mut chapter = Chapter::new("Scale: many files, many windows");
    chapter.note(format!(
        "Windows of {PAGE} bytes, at most {REGIONS} mapped at once. Hits are of {HOT} windows in turn, in as many files where \
         there are so many; the others are known, and mapped as far as there is room."
    ));
    if wanted[0] {
        let counts: Vec<usize> = match run.quick {
            true => vec![1, 1000],
            false => vec![1, 1000, 10_000, 100_000],
        };
        files(run, &counts, &mut chapter);
    }
    if wanted[1] {
        let counts: Vec<usize> = match run.quick {
            true => vec![64, 10_000],
            false => vec![64, 10_000, 1_000_000],
        };
        windows(run, &counts, &mut chapter);
    }
    Some(chapter)
}

/// A manager that knows so many files or windows.
struct Crowd {
    manager: MapManager,
    files: Vec<MappedFile>,
    /// What is hit: each in a file, at an offset.
    hot: Vec<(usize, u64)>,
    /// Bytes that it took from the allocator.
    heap: Option<usize>,
}

impl Crowd {
    fn new() -> Crowd {
        let builder = MapManager::builder().window(Window::Sliding { bytes: PAGE }).max_regions(REGIONS);
        Crowd { manager: build(builder), files: Vec::new(), hot: Vec::new(), heap: None }
    }

    /// One that knows the first `count` files, all of which were mapped at some time.
    fn of_files(paths: &[PathBuf], count: usize) -> Crowd {
        let before = heap_bytes();
        let mut crowd = Crowd::new();
        for path in &paths[..count] {
            let file = crowd.manager.open(path).expect("the file opens");
            let bytes = file.cursor().window_at(0).expect("a page").len();
            assert_eq!(bytes as u64, PAGE, "a window of another size");
            crowd.files.push(file);
        }
        crowd.heap = before.zip(heap_bytes()).map(|(before, after)| after.saturating_sub(before));
        let spread = count.min(HOT);
        // The first file has pages enough to be all of them.
        let hot = (0..HOT).map(|at| (at % spread * (count / spread), (at / spread) as u64 * PAGE));
        crowd.heat(hot.collect());
        crowd
    }

    /// One that knows the first `count` windows of a file.
    fn of_windows(path: &PathBuf, count: usize) -> Crowd {
        let before = heap_bytes();
        let mut crowd = Crowd::new();
        let file = crowd.manager.open(path).expect("the file opens");
        let mut cursor = file.cursor();
        for window in 0..count as u64 {
            assert!(!cursor.window_at(window * PAGE).expect("a page").is_empty());
        }
        drop(cursor);
        crowd.heap = before.zip(heap_bytes()).map(|(before, after)| after.saturating_sub(before));
        crowd.files.push(file);
        crowd.heat((0..HOT).map(|at| (0, (at * (count / HOT)) as u64 * PAGE)).collect());
        crowd
    }

    fn heat(&mut self, mut hot: Vec<(usize, u64)>) {
        Rng::new(4).shuffle(&mut hot);
        for &(file, offset) in &hot {
            black_box(self.files[file].cursor().window_at(offset).expect("a page")[0]);
        }
        self.hot = hot;
    }

    /// Takes and drops a lease of each hot window, so many times. All have to be hits.
    fn leases(&self, passes: usize) -> Duration {
        let before = self.manager.stats().misses;
        let lap = timed(|| {
            for _ in 0..passes {
                for &(file, offset) in &self.hot {
                    let lease = self.files[file].lease(offset..offset + 8).expect("bytes of the file");
                    black_box(lease[0]);
                }
            }
        });
        assert_eq!(self.manager.stats().misses, before, "what is hot was not mapped");
        lap
    }

    /// Maps the windows before `end`, one after the other from where it left off, each of which makes another go.
    fn evict(&self, next: &mut u64, end: u64, count: usize) -> Duration {
        let before = self.manager.stats().evictions;
        let mut cursor = self.files[0].cursor();
        let lap = timed(|| {
            for _ in 0..count {
                black_box(cursor.window_at(*next % end * PAGE).expect("a page")[0]);
                *next += 1;
            }
        });
        drop(cursor);
        let evicted = self.manager.stats().evictions - before;
        assert!(evicted as usize >= count / 2, "{evicted} evictions for {count} maps under a full budget");
        lap
    }
}

fn files(run: &Run, counts: &[usize], chapter: &mut Chapter) {
    let paths = write_files(counts[counts.len() - 1]);
    let crowds: Vec<Crowd> = counts.iter().map(|&count| Crowd::of_files(&paths, count)).collect();
    memory(&crowds, counts, "file, with its handle and its window", chapter);
    let names: Vec<&'static str> =
        counts.iter().map(|count| -> &'static str { format!("{count} files").leak() }).collect();

    let hits = race("hit among files", &names, &crowds, HOT * 2000, |crowd, _| crowd.leases(2000));
    let hits = run.race(hits, 6);
    flat("hit: lease", &names, &hits, FLAT, chapter);

    // In shuffled order: the system's own caches are to be as cold for few as they are for many.
    let mut rng = Rng::new(5);
    let opens = race("open of a file that is open", &names, &crowds, 1000, move |crowd, _| {
        let drawn: Vec<_> = (0..1000).map(|_| &paths[rng.below(crowd.files.len() as u64) as usize]).collect();
        let before = crowd.manager.stats().files;
        let lap =
            timed(|| drawn.iter().for_each(|path| _ = black_box(crowd.manager.open(path).expect("the file opens"))));
        assert_eq!(crowd.manager.stats().files, before, "a file was there twice");
        lap
    });
    let opens = run.race(opens, 5);
    flat("open of a file that is open", &names, &opens, CONSTANT, chapter);

    let races = [("hit".to_owned(), &hits), ("open".to_owned(), &opens)];
    chapter.times(Times::of_races("Time of a lease taken and dropped, and of an open (× the first)", &races, names[0]));
}

fn windows(run: &Run, counts: &[usize], chapter: &mut Chapter) {
    let most = counts[counts.len() - 1] as u64;
    let path = directory().join("smmap-contest-windows");
    // A hole as large as it has to be: what is measured is the way to the windows.
    let made = fs::create_dir_all(directory()).and_then(|()| File::create(&path)?.set_len(most * PAGE));
    made.unwrap_or_else(|error| panic!("can't make a file of {most} windows: {error}"));
    let crowds: Vec<Crowd> = counts.iter().map(|&count| Crowd::of_windows(&path, count)).collect();
    memory(&crowds, counts, "window that was touched", chapter);
    let names: Vec<&'static str> =
        counts.iter().map(|count| -> &'static str { format!("{count} windows").leak() }).collect();

    let first = names[0];
    let hits = race("hit among windows", &names, &crowds, HOT * 2000, |crowd, _| crowd.leases(2000));
    let hits = run.race(hits, 6);
    flat("hit: lease", &names, &hits, FLAT, chapter);
    drop(crowds);

    // Of managers that may have few regions, and many: all full.
    let budgets = [100, run.size(REGIONS as u64, 1000) as usize];
    let names: [&'static str; 2] = budgets.map(|budget| -> &'static str { format!("{budget} regions").leak() });
    let full: Vec<Crowd> = budgets.iter().map(|&budget| full(&path, budget)).collect();
    // After what fills them.
    let mut next = budgets[1] as u64;
    let evictions =
        race("map that makes another go", &names, &full, 5000, |crowd, _| crowd.evict(&mut next, most, 5000));
    let evictions = run.race(evictions, 5);
    flat("map that makes another go", &names, &evictions, CONSTANT, chapter);

    let mut collected = Times::new("Time of a collect, by region", names.map(str::to_owned));
    let laps = full.iter().zip(budgets).map(|(crowd, budget)| {
        let mut each: Vec<f64> = Vec::new();
        for _ in 0..5 {
            let mut regions = 0;
            let lap = timed(|| regions = crowd.manager.collect().regions);
            assert!(regions > 0, "nothing was there to collect");
            each.push(lap.as_nanos() as f64 / regions as f64);
            crowd.fill(budget);
        }
        crate::support::median(each)
    });
    let laps: Vec<f64> = laps.collect();
    collected.row("collect", laps.iter().map(|&nanos| time(nanos)).collect());
    let measure = format!("{} / {}, by region", names[1], names[0]);
    chapter.finding(Finding::new("collect", measure, laps[1] / laps[0], CONSTANT));

    chapter.times(Times::of_races(
        "Time of a lease taken and dropped (× the first)",
        &[("hit".to_owned(), &hits)],
        first,
    ));
    chapter.times(Times::of_races(
        "Time of a map that makes another go (× the first)",
        &[("map".to_owned(), &evictions)],
        names[0],
    ));
    chapter.times(collected);
}

fn full(path: &PathBuf, budget: usize) -> Crowd {
    let builder = MapManager::builder().window(Window::Sliding { bytes: PAGE }).max_regions(budget);
    let mut crowd = Crowd { manager: build(builder), ..Crowd::new() };
    crowd.files.push(crowd.manager.open(path).expect("the file opens"));
    crowd.fill(budget);
    crowd
}

impl Crowd {
    fn fill(&self, budget: usize) {
        let mut cursor = self.files[0].cursor();
        for window in 0..budget as u64 {
            black_box(cursor.window_at(window * PAGE).expect("a page")[0]);
        }
    }
}

fn race<'a>(
    title: &'static str,
    names: &[&'static str],
    crowds: &'a [Crowd],
    operations: usize,
    lap: impl FnMut(&Crowd, usize) -> Duration + 'a,
) -> Race<'a> {
    let lap = std::rc::Rc::new(std::cell::RefCell::new(lap));
    names.iter().zip(crowds).fold(Race::over_no_data(title), |race, (name, crowd)| {
        let lap = lap.clone();
        race.variant(name, operations as u64, move |round| (lap.borrow_mut())(crowd, round))
    })
}

/// Each against the first.
fn flat(row: &str, names: &[&str], outcome: &Outcome, target: Target, chapter: &mut Chapter) {
    for name in &names[1..] {
        let ratio = outcome.ratio(name, names[0]).by_round;
        chapter.finding(Finding::new(row, format!("{name} / {}", names[0]), ratio, target));
    }
}

fn memory(crowds: &[Crowd], counts: &[usize], what: &str, chapter: &mut Chapter) {
    let (Some(crowd), Some(&count)) = (crowds.last(), counts.last()) else { return };
    chapter.note(match crowd.heap {
        Some(bytes) => format!("Memory of the cache's own, of {count}: {} bytes for each {what}.", bytes / count),
        None => format!("SKIPPED: memory for each {what}, because the allocator does not tell."),
    });
}

/// Files of one page, but for the first; made once and kept.
fn write_files(count: usize) -> Vec<PathBuf> {
    let directory = directory().join("smmap-contest-files");
    let path = |index: usize| directory.join(format!("{}", index / 1000)).join(format!("{index}"));
    let len = |index: usize| if index == 0 { HOT as u64 * PAGE } else { PAGE };
    let write = |index: usize| {
        let path = path(index);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == len(index)) {
            return Ok(path);
        }
        fs::create_dir_all(path.parent().expect("it has one"))?;
        fs::write(&path, vec![index as u8 | 1; len(index) as usize])?;
        Ok(path)
    };
    eprintln!("looking at {count} files");
    let paths: std::io::Result<Vec<PathBuf>> = (0..count).map(write).collect();
    paths.unwrap_or_else(|error| panic!("can't write {count} files: {error}"))
}

/// What is allocated at the moment.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_bytes() -> Option<usize> {
    #[allow(unsafe_code, reason = "only the allocator knows")]
    // SAFETY: it counts, and takes no argument.
    let info = unsafe { libc::mallinfo2() };
    // Large ones are counted by themselves.
    Some(info.uordblks + info.hblkhd)
}

/// What is allocated at the moment.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap_bytes() -> Option<usize> {
    None
}
