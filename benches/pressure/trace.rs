//! The reads: random draws, and traces that imitate databases.
//!
//! No read crosses a window boundary, so that every reader, also one that knows only windows, serves it from one
//! window.

use super::support::{KIB, MIB, Rng, Zipf};

pub(crate) const WINDOW: u64 = 4 * MIB;

/// One read, and the stream that it belongs to. A reader with cursors uses one cursor for each stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) stream: u32,
}

impl Read {
    /// Returns the read, moved back if it would cross the end of the window that it starts in.
    fn new(stream: u32, offset: u64, len: u64) -> Read {
        let end = (offset / WINDOW + 1) * WINDOW;
        Read { offset: offset.min(end - len), len: u32::try_from(len).expect("less than a window"), stream }
    }

    pub(crate) fn window(self) -> usize {
        usize::try_from(self.offset / WINDOW).expect("the number of windows fits usize")
    }

    pub(crate) fn within(self) -> std::ops::Range<usize> {
        let start = usize::try_from(self.offset % WINDOW).expect("less than a window");
        start..start + self.len as usize
    }
}

/// The largest number of streams in a trace.
pub(crate) const STREAMS: usize = 2;

/// The distribution of the reads. The last four variants choose the length of each read; the others use a fixed length.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// Windows by Zipf's law with this exponent, offsets within them uniformly.
    Zipf(f64),
    Uniform,
    /// Every second read belongs to a sequential scan; the others follow Zipf's law.
    HalfScan(f64),
    /// Windows by Zipf's law; each lap has other hot windows.
    Shifting(f64),
    /// Look-ups in a B-tree of 4 KiB pages, each from the root to a leaf. An inner page lies before its children. With
    /// an exponent, leaves follow Zipf's law in shuffled order, so no window is much hotter than another; without, they
    /// are uniform.
    BTree(Option<f64>),
    /// Objects of a git pack, the recent ones (at its start) more often. Each read is followed by the chain of its
    /// delta bases, which lie before it, mostly near.
    Pack,
    /// Row groups of a column store; later groups are drawn more often. Each draw reads one column in pages of 64 KiB
    /// and, for a quarter of the pages, one page of 8 KiB in each of four other columns.
    Columns,
    /// Look-ups in a genome: 24 reads within 100 KB of a uniform place; every tenth place is one of 16 hot ones.
    Genome,
}

/// The reads of one race.
pub(crate) struct Trace {
    reads: Vec<Read>,
    lap: usize,
    warm: usize,
    /// The windows that the trace reads, the most frequently read ones first.
    pub(crate) hottest: Vec<usize>,
}

impl Trace {
    /// Draws reads of a file of `len` bytes: `warm` laps of `lap` reads for round 0, and one lap for each of `rounds`.
    pub(crate) fn new(draw: Draw, record: u64, len: u64, lap: usize, warm: usize, rounds: usize) -> Trace {
        let mut rng = Rng::new(1);
        let mut reads = Vec::with_capacity((warm + rounds) * lap);
        let mut source = Source::new(draw, record, len, &mut rng);
        for _ in 0..warm + rounds {
            let end = reads.len() + lap;
            source.begin_lap(&mut rng);
            while reads.len() < end {
                source.draw(&mut rng, &mut reads);
            }
            reads.truncate(end);
        }
        let hottest = by_frequency(&reads);
        Trace { reads, lap, warm, hottest }
    }

    pub(crate) fn lap(&self, round: usize) -> &[Read] {
        if round == 0 { &self.reads[..self.warm * self.lap] } else { &self.reads[self.start(round)..][..self.lap] }
    }

    fn start(&self, round: usize) -> usize {
        (self.warm + round - 1) * self.lap
    }
}

fn by_frequency(reads: &[Read]) -> Vec<usize> {
    let mut counts = std::collections::BTreeMap::new();
    reads.iter().for_each(|read| *counts.entry(read.window()).or_insert(0_u32) += 1);
    let mut order: Vec<usize> = counts.keys().copied().collect();
    order.sort_by_key(|window| std::cmp::Reverse(counts[window]));
    order
}

/// The state of the draws.
struct Source {
    draw: Draw,
    record: u64,
    len: u64,
    /// Windows, or leaves, by rank.
    order: Vec<u64>,
    zipf: Zipf,
    /// The offset at which the scan continues.
    next: u64,
}

impl Source {
    fn new(draw: Draw, record: u64, len: u64, rng: &mut Rng) -> Source {
        let (items, exponent) = match draw {
            Draw::Zipf(exponent) | Draw::HalfScan(exponent) | Draw::Shifting(exponent) => (len / WINDOW, exponent),
            Draw::BTree(exponent) => {
                (len / btree::PAGE / (btree::FAN_OUT + 1) * btree::FAN_OUT, exponent.unwrap_or(0.0))
            }
            Draw::Uniform | Draw::Pack | Draw::Columns | Draw::Genome => (len / WINDOW, 0.0),
        };
        let mut order: Vec<u64> = (0..items).collect();
        rng.shuffle(&mut order);
        let zipf = Zipf::new(order.len(), exponent);
        Source { draw, record, len, order, zipf, next: 0 }
    }

    fn begin_lap(&mut self, rng: &mut Rng) {
        if let Draw::Shifting(_) = self.draw {
            rng.shuffle(&mut self.order);
        }
    }

    /// Draws one read, or the few that belong together.
    fn draw(&mut self, rng: &mut Rng, reads: &mut Vec<Read>) {
        match self.draw {
            Draw::Zipf(_) | Draw::Shifting(_) | Draw::Uniform => reads.push(self.record(rng)),
            Draw::HalfScan(_) => reads.extend([self.record(rng), self.scanned()]),
            Draw::BTree(_) => reads.extend(btree::path(self.order[self.zipf.sample(rng)])),
            Draw::Pack => self.chain(rng, reads),
            Draw::Columns => self.row_group(rng, reads),
            Draw::Genome => self.neighbours(rng, reads),
        }
    }

    fn record(&self, rng: &mut Rng) -> Read {
        let window = self.order[self.zipf.sample(rng)];
        Read::new(0, window * WINDOW + rng.below(WINDOW - self.record + 1), self.record)
    }

    fn scanned(&mut self) -> Read {
        let read = Read::new(1, self.next, self.record);
        self.next = (self.next + self.record) % self.len;
        read
    }

    fn chain(&self, rng: &mut Rng, reads: &mut Vec<Read>) {
        // Log-uniform: objects of the last year are read as often as objects of all the years before it.
        let mut offset = (64.0 * (self.len as f64 / 64.0 / 2.0).powf(rng.unit())) as u64;
        loop {
            reads.push(Read::new(0, offset, 64 << rng.below(7)));
            if rng.below(8) == 0 || reads.len() % 50 == 0 {
                return;
            }
            let far = rng.below(16) == 0;
            offset = offset.saturating_sub(rng.below(if far { self.len / 8 } else { 128 * KIB }));
        }
    }

    fn row_group(&self, rng: &mut Rng, reads: &mut Vec<Read>) {
        const GROUP: u64 = 64 * MIB;
        const COLUMN: u64 = GROUP / 16;
        let groups = self.len / GROUP;
        // The square of a uniform number: half of the draws fall into the last quarter of the groups.
        let group = groups - 1 - (groups as f64 * rng.unit().powi(2)) as u64;
        let start = group * GROUP;
        for page in 0..COLUMN / (64 * KIB) {
            reads.push(Read::new(0, start + page * 64 * KIB, 64 * KIB));
            if rng.below(4) > 0 {
                continue;
            }
            for column in [3, 5, 6, 11] {
                let at = page * 64 * KIB + rng.below(8) * 8 * KIB;
                reads.push(Read::new(1, start + column * COLUMN + at, 8 * KIB));
            }
        }
    }

    fn neighbours(&self, rng: &mut Rng, reads: &mut Vec<Read>) {
        const NEAR: u64 = 100_000;
        let hot = rng.below(10) == 0;
        let places = if hot { 16 } else { self.len / NEAR };
        let around = rng.below(places) * (self.len / places);
        for _ in 0..24 {
            let offset = (around + rng.below(NEAR)).min(self.len - KIB);
            reads.push(Read::new(0, offset, 128 + rng.below(4) * 64));
        }
    }
}

/// A tree that was written in order: the leaves of each inner page follow it.
mod btree {
    use super::{KIB, Read};

    pub(super) const PAGE: u64 = 4 * KIB;
    pub(super) const FAN_OUT: u64 = 128;

    /// Returns the reads of the root, of two inner pages, and of the leaf.
    pub(super) fn path(leaf: u64) -> [Read; 4] {
        let group = leaf / FAN_OUT;
        let parent = group * (FAN_OUT + 1);
        let grandparent = group / FAN_OUT * FAN_OUT * (FAN_OUT + 1);
        // Each upper page has the offset of the first page below it, as if it lay in front of that page.
        [0, grandparent, parent, parent + 1 + leaf % FAN_OUT].map(|page| Read::new(0, page * PAGE, PAGE))
    }
}
