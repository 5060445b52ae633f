//! Traces: reads with structure. The policy was tuned while the last two did not exist.

use crate::peers::Grid;
use crate::pressure::{ANY, Mode, Row, Tables, measure};
use crate::report::{Chapter, Times};
use crate::support::Data;
use crate::workloads::{BTree, ColumnStore, Genome, GitPack, Lap, Levels, Tiles};
use crate::{Run, WINDOW};

/// Creates a workload whose laps are shorter by a divisor. Called only for selected rows, because it takes a while.
type Make = fn(Grid, usize) -> Box<dyn FnMut() -> Lap>;

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    let rows: [(&'static str, Make); 6] = [
        ("traces/B-tree, 4 KiB pages", |grid, divisor| {
            let mut tree = BTree::new(grid);
            Box::new(move || vec![tree.take(20_000 / divisor)])
        }),
        ("traces/git pack, chains of deltas", |grid, divisor| {
            let mut pack = GitPack::new(grid);
            Box::new(move || vec![pack.take(10_000 / divisor)])
        }),
        ("traces/column store, row groups", |grid, divisor| {
            let mut store = ColumnStore::new(grid);
            Box::new(move || vec![store.take(3000 / divisor)])
        }),
        ("traces/genome, look-ups of seeds", |grid, divisor| {
            let mut genome = Genome::new(grid);
            Box::new(move || vec![genome.take(20_000 / divisor)])
        }),
        ("traces/log-structured store, held back", |grid, divisor| {
            let mut levels = Levels::new(grid);
            Box::new(move || vec![levels.take(20_000 / divisor)])
        }),
        ("traces/tiles of a map, held back", |grid, divisor| {
            let mut tiles = Tiles::new(grid);
            Box::new(move || vec![tiles.take(20_000 / divisor)])
        }),
    ];
    let grid = Grid::new(WINDOW, data.len());
    let mut chapter = Chapter::new("Traces of reads with structure");
    chapter.note(
        "Generators imitate the programs that the rows are named after (`workloads.rs` describes them). The policy was \
         not tuned on those that were held back. The budget is a quarter of the data, and there is one thread. Otherwise as in the chapter on pressure.",
    );
    let (mut outcomes, mut tables) = (Vec::new(), Tables::new());
    for (name, make) in rows {
        if run.wants(name) {
            let row = Row { name, percent: 25, mode: Mode::Steady, targets: ANY, trial: ["", "", ""], tried: "" };
            let workload = make(grid, run.size(1, 20) as usize);
            let outcome = measure(run, data, grid, &row, workload, 9, &mut chapter, &mut tables);
            outcomes.push((row.title(), outcome));
        }
    }
    if outcomes.is_empty() {
        return None;
    }
    let races: Vec<_> = outcomes.iter().map(|(title, outcome)| ((*title).to_owned(), outcome)).collect();
    chapter.times(Times::of_races("Time of a read (× smmap)", &races, "smmap"));
    chapter.times(Times::of_work("Processor time, user and kernel, relative to smmap's", &races, "smmap"));
    tables.add_to(&mut chapter);
    Some(chapter)
}
