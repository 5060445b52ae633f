//! Traces that nobody tuned on: what the policy makes of reads that have structure.

use crate::peers::Grid;
use crate::pressure::{ANY, Mode, Row, measure, work};
use crate::report::{Chapter, Times};
use crate::support::Data;
use crate::workloads::{BTree, ColumnStore, Genome, GitPack, Lap};
use crate::{Run, WINDOW};

/// Makes a workload, with laps that are so many times shorter; it takes a while, so only if its row is wanted.
type Make = fn(Grid, usize) -> Box<dyn FnMut() -> Lap>;

pub(crate) fn run(run: &Run, data: &Data) -> Option<Chapter> {
    let rows: [(&'static str, Make); 4] = [
        ("traces/B-tree, 4 KiB pages", |grid, few| {
            let mut tree = BTree::new(grid);
            Box::new(move || vec![tree.take(20_000 / few)])
        }),
        ("traces/git pack, chains of deltas", |grid, few| {
            let mut pack = GitPack::new(grid);
            Box::new(move || vec![pack.take(10_000 / few)])
        }),
        ("traces/column store, row groups", |grid, few| {
            let mut store = ColumnStore::new(grid);
            Box::new(move || vec![store.take(3000 / few)])
        }),
        ("traces/genome, look-ups of seeds", |grid, few| {
            let mut genome = Genome::new(grid);
            Box::new(move || vec![genome.take(20_000 / few)])
        }),
    ];
    let grid = Grid::new(WINDOW, data.len());
    let mut chapter = Chapter::new("Traces nobody tuned on");
    chapter.note(
        "Made by generators that model what they are named after (`workloads.rs` says how); a quarter of the data may be \
         mapped, one thread. Otherwise as under pressure.",
    );
    let (mut outcomes, mut work) = (Vec::new(), work());
    for (name, make) in rows {
        if run.wants(name) {
            let row = Row { name, percent: 25, mode: Mode::Steady, targets: ANY, trial: ["", "", ""] };
            let workload = make(grid, run.size(1, 20) as usize);
            let outcome = measure(run, data, grid, &row, workload, 9, &mut chapter, &mut work);
            outcomes.push((row.title(), outcome));
        }
    }
    if outcomes.is_empty() {
        return None;
    }
    let races: Vec<_> = outcomes.iter().map(|(title, outcome)| ((*title).to_owned(), outcome)).collect();
    chapter.times(Times::of_races("Time of a read (× smmap)", &races, "smmap"));
    chapter.times(work);
    Some(chapter)
}
