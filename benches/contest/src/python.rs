//! Python's smmap, which this crate succeeds. Python's own `mmap` and `os.pread` take part too: they show the share of
//! the interpreter.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use crate::hits;
use crate::peers::python::{INSTALL_COMMAND, Python};
use crate::peers::smmap::Smmap;
use crate::peers::{Grid, Reader};
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, Outcome, Race, Target, directory, timed};
use crate::workloads::Skewed;
use crate::{Run, WINDOW};

const READS: usize = 10_000;
/// The number of different laps. The rounds use them by turns.
const LAPS: usize = 8;

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    if !run.wants("python") {
        return None;
    }
    let mut chapter = Chapter::new("Python's smmap");
    let grid = Grid::new(WINDOW, data.len());
    let capacity = (grid.count() / 4) as usize;
    let python = match Python::start(data, WINDOW, capacity as u64 * WINDOW) {
        Ok(python) => python,
        Err(reason) => {
            chapter.note(format!("SKIPPED: {reason}. To include it, run `{INSTALL_COMMAND}` and repeat."));
            return Some(chapter);
        }
    };
    chapter.note(format!(
        "Python's smmap {} runs in a process of its own, by turns with the others, and looks at one word of each read. \
         `mmap` and `os.pread` show the cost of the interpreter itself. The budget is a quarter of the data; windows \
         have {} MiB.",
        python.version,
        WINDOW >> 20
    ));
    let python = RefCell::new(python);
    let mut skewed = Skewed::new(grid, 64, Some(0.99));
    let under_pressure = (0..LAPS).map(|_| skewed.take(READS).iter().map(|read| read.offset).collect()).collect();
    let rows = [
        ("hit inside the window", vec![hits::offsets(1, READS)]),
        ("change of window, all mapped", vec![hits::offsets(16, READS)]),
        ("Zipf 0.99, budget of 25 %", under_pressure),
    ];
    let outcomes: Vec<_> =
        rows.map(|(title, laps)| (title, race(run, data, grid, capacity, title, laps, &python))).into();
    for (title, outcome) in &outcomes {
        let ratio = outcome.ratio("Python's smmap", "smmap").by_round;
        chapter.finding(Finding::new(*title, "× Python's smmap", ratio, Target::AtLeast(1.0)));
        let ratio = outcome.ratio("Python's smmap", "Python's mmap").by_round;
        chapter.finding(Finding::new(*title, "Python's smmap / its mmap of the whole file", ratio, Target::None));
    }
    let races: Vec<_> = outcomes.iter().map(|(title, outcome)| ((*title).to_owned(), outcome)).collect();
    chapter.times(Times::of_races("Time of a read (× smmap)", &races, "smmap"));
    Some(chapter)
}

fn race(
    run: &Run,
    data: &Data,
    grid: Grid,
    capacity: usize,
    title: &'static str,
    laps: Vec<Vec<u64>>,
    python: &RefCell<Python>,
) -> Outcome {
    let smmap = Smmap::new(data, grid, capacity);
    let mut session = smmap.session();
    let files: Vec<PathBuf> = laps.iter().enumerate().map(|(at, offsets)| write(at, offsets)).collect();
    let (laps, files) = (&laps, &files);
    let sums: Vec<u64> = {
        let mut mapping = smmap.mapping_session();
        laps.iter().map(|offsets| mapping.peek(offsets)).collect()
    };
    let sums = &sums;
    let mut race = Race::new(title, data).variant("smmap", READS as u64, move |round| {
        let mut sum = 0;
        let lap = timed(|| sum = session.peek(&laps[round % laps.len()]));
        assert_eq!(sum, sums[round % laps.len()], "smmap read other bytes");
        lap
    });
    for (name, reader) in [("Python's smmap", "smmap"), ("Python's mmap", "mmap"), ("Python's os.pread", "pread")] {
        race = race.variant(name, READS as u64, move |round| {
            let (lap, sum) = python.borrow_mut().lap(reader, &files[round % files.len()], 64);
            assert_eq!(sum, sums[round % files.len()], "{name} read other bytes");
            lap
        });
    }
    run.race(race, 6)
}

fn write(at: usize, offsets: &[u64]) -> PathBuf {
    let path = directory().join(format!("smmap-contest-offsets-{at}"));
    let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("cannot write offsets: {error}"));
    path
}
