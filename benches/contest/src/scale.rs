//! Scale: the cost of a hit, an open and an eviction with many files and windows.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use smmap::{MapManager, MappedFile, Window};

use crate::Run;
use crate::report::{Chapter, Finding, Times};
use crate::support::{Outcome, Race, Rng, Target, build, directory, time, timed};

/// The length of a window, and of most files, in bytes.
const PAGE: u64 = 4096;
/// The number of windows that are hit; equal in all variants.
const HOT: usize = 64;
/// The limit on regions of each manager. All managers together stay below the OS's limit on mappings.
const REGIONS: usize = 12_000;
/// The target of hits: nearly as quick among many as among few.
const FLAT: Target = Target::AtMost(1.10);
/// The target of operations with system calls: amortized O(1), with room for the OS's own tables, which grow as well.
const CONSTANT: Target = Target::AtMost(2.0);

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let wanted = ["scale/files", "scale/windows"].map(|row| run.wants(row));
    if !wanted.contains(&true) {
        return None;
    }
    let mut chapter = Chapter::new("Scale: many files, many windows");
    chapter.note(format!(
        "Windows of {PAGE} bytes, at most {REGIONS} of them mapped. Hits cycle through {HOT} windows, each in another \
         file if there are enough files. The other files or windows are known to the manager, and mapped as far as the \
         limit allows."
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

/// A manager that knows many files or windows.
struct Population {
    manager: MapManager,
    files: Vec<MappedFile>,
    /// The windows that are hit: the index of a file, and an offset.
    hot: Vec<(usize, u64)>,
    /// The bytes that the manager and its files took from the allocator, if known.
    heap: Option<usize>,
}

impl Population {
    fn new() -> Population {
        let builder = MapManager::builder().window(Window::Sliding { bytes: PAGE }).max_regions(REGIONS);
        Population { manager: build(builder), files: Vec::new(), hot: Vec::new(), heap: None }
    }

    /// Returns a manager that has opened the first `count` files and has mapped each of them once.
    fn of_files(paths: &[PathBuf], count: usize) -> Population {
        let before = heap_bytes();
        let mut population = Population::new();
        for path in &paths[..count] {
            let file = population.manager.open(path).expect("the file opens");
            let bytes = file.cursor().window_at(0).expect("a page").len();
            assert_eq!(bytes as u64, PAGE, "a window of another size");
            population.files.push(file);
        }
        population.heap = before.zip(heap_bytes()).map(|(before, after)| after.saturating_sub(before));
        let spread = count.min(HOT);
        // The first file is long enough to hold all hot windows by itself.
        let hot = (0..HOT).map(|at| (at % spread * (count / spread), (at / spread) as u64 * PAGE));
        population.set_hot(hot.collect());
        population
    }

    /// Returns a manager that has mapped each of the first `count` windows of a file once.
    fn of_windows(path: &PathBuf, count: usize) -> Population {
        let before = heap_bytes();
        let mut population = Population::new();
        let file = population.manager.open(path).expect("the file opens");
        let mut cursor = file.cursor();
        for window in 0..count as u64 {
            assert!(!cursor.window_at(window * PAGE).expect("a page").is_empty());
        }
        drop(cursor);
        population.heap = before.zip(heap_bytes()).map(|(before, after)| after.saturating_sub(before));
        population.files.push(file);
        population.set_hot((0..HOT).map(|at| (0, (at * (count / HOT)) as u64 * PAGE)).collect());
        population
    }

    fn set_hot(&mut self, mut hot: Vec<(usize, u64)>) {
        Rng::new(4).shuffle(&mut hot);
        for &(file, offset) in &hot {
            black_box(self.files[file].cursor().window_at(offset).expect("a page")[0]);
        }
        self.hot = hot;
    }

    /// Takes and drops a lease of each hot window, `passes` times. Panics if one of them is a miss.
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
        assert_eq!(self.manager.stats().misses, before, "a hot window was not mapped");
        lap
    }

    /// Maps `count` windows one after the other from `next` on (modulo `end`). Each evicts another window.
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
    let populations: Vec<Population> = counts.iter().map(|&count| Population::of_files(&paths, count)).collect();
    memory(&populations, counts, "file, with its handle and its window", chapter);
    let names: Vec<&'static str> =
        counts.iter().map(|count| -> &'static str { format!("{count} files").leak() }).collect();

    let hits = race("hit among files", &names, &populations, HOT * 2000, |population, _| population.leases(2000));
    let hits = run.race(hits, 6);
    flat("hit: lease", &names, &hits, FLAT, chapter);

    // In shuffled order, so that the CPU's and the OS's caches are as cold with few files as with many.
    let mut rng = Rng::new(5);
    let opens = race("open of a file that is open", &names, &populations, 1000, move |population, _| {
        let drawn: Vec<_> = (0..1000).map(|_| &paths[rng.below(population.files.len() as u64) as usize]).collect();
        let before = population.manager.stats().files;
        let lap = timed(|| {
            drawn.iter().for_each(|path| _ = black_box(population.manager.open(path).expect("the file opens")))
        });
        assert_eq!(population.manager.stats().files, before, "a file was registered twice");
        lap
    });
    let opens = run.race(opens, 5);
    flat("open of a file that is open", &names, &opens, CONSTANT, chapter);

    let races = [("hit".to_owned(), &hits), ("open".to_owned(), &opens)];
    chapter.times(Times::of_races(
        "Time of taking and dropping a lease, and of an open (× the first)",
        &races,
        names[0],
    ));
}

fn windows(run: &Run, counts: &[usize], chapter: &mut Chapter) {
    let most = counts[counts.len() - 1] as u64;
    let path = directory().join("smmap-contest-windows");
    // A sparse file is enough: the bench measures the way to a window, not its content.
    let made = fs::create_dir_all(directory()).and_then(|()| File::create(&path)?.set_len(most * PAGE));
    made.unwrap_or_else(|error| panic!("cannot create a file of {most} windows: {error}"));
    let populations: Vec<Population> = counts.iter().map(|&count| Population::of_windows(&path, count)).collect();
    memory(&populations, counts, "window that was touched", chapter);
    let names: Vec<&'static str> =
        counts.iter().map(|count| -> &'static str { format!("{count} windows").leak() }).collect();

    let first = names[0];
    let hits = race("hit among windows", &names, &populations, HOT * 2000, |population, _| population.leases(2000));
    let hits = run.race(hits, 6);
    flat("hit: lease", &names, &hits, FLAT, chapter);
    drop(populations);

    // Managers with a small and a large limit on regions, both full.
    let budgets = [100, run.size(REGIONS as u64, 1000) as usize];
    let names: [&'static str; 2] = budgets.map(|budget| -> &'static str { format!("{budget} regions").leak() });
    let full: Vec<Population> = budgets.iter().map(|&budget| full(&path, budget)).collect();
    // The windows after those that fill the managers.
    let mut next = budgets[1] as u64;
    let evictions =
        race("map that makes another go", &names, &full, 5000, |population, _| population.evict(&mut next, most, 5000));
    let evictions = run.race(evictions, 5);
    flat("map that makes another go", &names, &evictions, CONSTANT, chapter);

    let mut collected = Times::new("Time of a collect, per region", names.map(str::to_owned));
    let laps = full.iter().zip(budgets).map(|(population, budget)| {
        let mut each: Vec<f64> = Vec::new();
        for _ in 0..5 {
            let mut regions = 0;
            let lap = timed(|| regions = population.manager.collect().regions);
            assert!(regions > 0, "there was no region to collect");
            each.push(lap.as_nanos() as f64 / regions as f64);
            population.fill(budget);
        }
        crate::support::median(each)
    });
    let laps: Vec<f64> = laps.collect();
    collected.row("collect", laps.iter().map(|&nanos| time(nanos)).collect());
    let measure = format!("{} / {}, by region", names[1], names[0]);
    chapter.finding(Finding::new("collect", measure, laps[1] / laps[0], CONSTANT));

    chapter.times(Times::of_races(
        "Time of taking and dropping a lease (× the first)",
        &[("hit".to_owned(), &hits)],
        first,
    ));
    chapter.times(Times::of_races(
        "Time of a map that evicts another window (× the first)",
        &[("map".to_owned(), &evictions)],
        names[0],
    ));
    chapter.times(collected);
}

fn full(path: &PathBuf, budget: usize) -> Population {
    let builder = MapManager::builder().window(Window::Sliding { bytes: PAGE }).max_regions(budget);
    let mut population = Population { manager: build(builder), ..Population::new() };
    population.files.push(population.manager.open(path).expect("the file opens"));
    population.fill(budget);
    population
}

impl Population {
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
    populations: &'a [Population],
    operations: usize,
    lap: impl FnMut(&Population, usize) -> Duration + 'a,
) -> Race<'a> {
    let lap = std::rc::Rc::new(std::cell::RefCell::new(lap));
    names.iter().zip(populations).fold(Race::over_no_data(title), |race, (name, population)| {
        let lap = lap.clone();
        race.variant(name, operations as u64, move |round| (lap.borrow_mut())(population, round))
    })
}

/// Adds a finding for each variant: the ratio of its time to the first variant's.
fn flat(row: &str, names: &[&str], outcome: &Outcome, target: Target, chapter: &mut Chapter) {
    for name in &names[1..] {
        let ratio = outcome.ratio(name, names[0]).by_round;
        chapter.finding(Finding::new(row, format!("{name} / {}", names[0]), ratio, target));
    }
}

fn memory(populations: &[Population], counts: &[usize], what: &str, chapter: &mut Chapter) {
    let (Some(population), Some(&count)) = (populations.last(), counts.last()) else { return };
    chapter.note(match population.heap {
        Some(bytes) => format!("The cache's own memory with {count} of them: {} bytes per {what}.", bytes / count),
        None => format!("SKIPPED: memory per {what}: the allocator does not report its use."),
    });
}

/// Creates files of one page each (the first is longer). Keeps those of an earlier run.
fn write_files(count: usize) -> Vec<PathBuf> {
    let directory = directory().join("smmap-contest-files");
    let path = |index: usize| directory.join(format!("{}", index / 1000)).join(format!("{index}"));
    let len = |index: usize| if index == 0 { HOT as u64 * PAGE } else { PAGE };
    let write = |index: usize| {
        let path = path(index);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == len(index)) {
            return Ok(path);
        }
        fs::create_dir_all(path.parent().expect("every path has a parent"))?;
        fs::write(&path, vec![index as u8 | 1; len(index) as usize])?;
        Ok(path)
    };
    eprintln!("checking {count} files");
    let paths: std::io::Result<Vec<PathBuf>> = (0..count).map(write).collect();
    paths.unwrap_or_else(|error| panic!("cannot write {count} files: {error}"))
}

/// Returns the number of bytes that are allocated now, or `None` if the allocator does not report it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_bytes() -> Option<usize> {
    #[allow(unsafe_code, reason = "std does not expose the allocator's counters")]
    // SAFETY: the call takes no argument and only reads counters.
    let info = unsafe { libc::mallinfo2() };
    // Large allocations, which have mappings of their own, are counted apart.
    Some(info.uordblks + info.hblkhd)
}

/// Returns `None`: this allocator does not report its use.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap_bytes() -> Option<usize> {
    None
}
