//! The workloads of the rows under a budget.
//!
//! A workload yields one lap of reads after the other; all readers do the same reads. Each read lies in one window,
//! because a cache of windows cannot serve any other.

use crate::peers::{Grid, Read};
use crate::support::{KIB, MIB, Rng, Zipf};

/// The reads of a lap, in streams. Each stream has a session of its own.
pub(crate) type Lap = Vec<Vec<Read>>;

/// Records of one length, in windows that follow Zipf's law in shuffled order.
pub(crate) struct Skewed {
    rng: Rng,
    grid: Grid,
    len: u64,
    /// The windows by rank.
    windows: Vec<u64>,
    /// The law of the ranks. `None` means uniform.
    zipf: Option<Zipf>,
}

impl Skewed {
    pub(crate) fn new(grid: Grid, len: u64, exponent: Option<f64>) -> Skewed {
        let mut rng = Rng::new(1);
        let mut windows: Vec<u64> = (0..grid.count()).collect();
        rng.shuffle(&mut windows);
        let zipf = exponent.map(|exponent| Zipf::new(windows.len(), exponent));
        Skewed { rng, grid, len, windows, zipf }
    }

    /// Shuffles the ranks, so that other windows become hot.
    pub(crate) fn reshuffle(&mut self) {
        self.rng.shuffle(&mut self.windows);
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Read {
        let rank = match &self.zipf {
            Some(zipf) => zipf.sample(&mut self.rng),
            None => self.rng.below(self.windows.len() as u64) as usize,
        };
        // Offsets are aligned to the record's length, or to a page if the record is longer.
        let step = self.len.min(4 * KIB);
        let within = self.rng.below((self.grid.window_bytes() - self.len) / step + 1) * step;
        Read { offset: self.windows[rank] * self.grid.window_bytes() + within, len: self.len as u32 }
    }
}

/// A cyclic scan that reads the first 64 bytes of each page.
pub(crate) struct PageHeads {
    page: u64,
    pages: u64,
}

impl PageHeads {
    pub(crate) fn new(grid: Grid) -> PageHeads {
        PageHeads { page: 0, pages: grid.count() * grid.window_bytes() / (4 * KIB) }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let heads = (0..count as u64).map(|at| Read { offset: (self.page + at) % self.pages * (4 * KIB), len: 64 });
        let heads = heads.collect();
        self.page += count as u64;
        heads
    }
}

/// A B-tree of 4 KiB pages. A look-up reads the root, one or two inner pages and a leaf, each of them whole.
///
/// A page has 100 children. Inner pages are scattered over the file. Leaves are drawn by Zipf's law (0.8) in shuffled
/// order. Every tenth look-up continues through the next 2 to 16 leaves in the order of keys. Most of these follow each
/// other in the file, as after a bulk load; the others lie elsewhere, as after splits.
pub(crate) struct BTree {
    rng: Rng,
    /// The page of each leaf, in the order of keys.
    leaves: Vec<u64>,
    /// The pages of each inner level, the lowest level first.
    inner: Vec<Vec<u64>>,
    /// The leaf of each rank.
    ranks: Vec<u32>,
    zipf: Zipf,
}

const PAGE: u64 = 4 * KIB;
const CHILDREN: usize = 100;

impl BTree {
    pub(crate) fn new(grid: Grid) -> BTree {
        let mut rng = Rng::new(11);
        let pages = grid.count() * grid.window_bytes() / PAGE;
        let mut free: Vec<u64> = (0..pages).collect();
        // Each moved page swaps with a random one. Runs of consecutive pages remain, with gaps.
        for page in 0..free.len() {
            if rng.below(4) == 0 {
                free.swap(page, rng.below(pages) as usize);
            }
        }
        let mut inner = Vec::new();
        let mut level = pages as usize * (CHILDREN - 2) / CHILDREN;
        let count = level;
        while level > 1 {
            level = level.div_ceil(CHILDREN);
            let page = |_| free.swap_remove(rng.below(free.len() as u64) as usize);
            inner.push((0..level).map(page).collect());
        }
        let leaves = free[..count].to_vec();
        let mut ranks: Vec<u32> = (0..leaves.len() as u32).collect();
        rng.shuffle(&mut ranks);
        let zipf = Zipf::new(leaves.len(), 0.8);
        BTree { rng, leaves, inner, ranks, zipf }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 32);
        let read = |page: u64| Read { offset: page * PAGE, len: PAGE as u32 };
        while reads.len() < count {
            let leaf = self.ranks[self.zipf.sample(&mut self.rng)] as usize;
            for (height, level) in self.inner.iter().enumerate().rev() {
                reads.push(read(level[leaf / CHILDREN.pow(height as u32 + 1)]));
            }
            let further = if self.rng.below(10) == 0 { 2 + self.rng.below(15) as usize } else { 0 };
            let end = (leaf + 1 + further).min(self.leaves.len());
            reads.extend(self.leaves[leaf..end].iter().map(|&page| read(page)));
        }
        reads.truncate(count);
        reads
    }
}

/// A git pack: walks over commits from new to old, each with its trees and some blobs, which are chains of deltas.
///
/// The pack has first its commits, then trees, then blobs, each kind from new to old. Reading an object reads a chain:
/// the object, then the base of its delta, mostly some KiB and at times some MiB further back in the file, and so on,
/// up to 50 deltas. The last object is whole, and larger. Half of the walks begin at the head (`git log`), half at any
/// commit (`git blame`, a bisection). One draw in eight reads objects all over the pack, as a fetch does.
pub(crate) struct GitPack {
    rng: Rng,
    grid: Grid,
    len: u64,
}

impl GitPack {
    pub(crate) fn new(grid: Grid) -> GitPack {
        GitPack { rng: Rng::new(12), grid, len: grid.count() * grid.window_bytes() }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 256);
        while reads.len() < count {
            if self.rng.below(8) == 0 {
                for _ in 0..32 {
                    let at = self.len / 10 + self.rng.below(self.len * 9 / 10);
                    self.chain(&mut reads, at);
                }
            } else {
                let begin = if self.rng.below(2) == 0 { 0.0 } else { self.rng.unit() * 0.9 };
                self.walk(&mut reads, begin);
            }
        }
        reads.truncate(count);
        reads
    }

    /// Reads 64 commits from `age` on (0 is the newest, 1 the oldest).
    fn walk(&mut self, reads: &mut Vec<Read>, age: f64) {
        let (commits, trees) = (self.len / 20, self.len / 5);
        let blobs = self.len - commits - trees;
        for step in 0..64 {
            let age = age + f64::from(step) * 2e-5;
            let within = |start: u64, len: u64| start + (age * len as f64) as u64;
            let commit = within(0, commits);
            let size = 200 + self.rng.below(600);
            self.push(reads, commit, size);
            for _ in 0..2 {
                let near = self.rng.below(256 * KIB);
                self.chain(reads, within(commits, trees) + near);
            }
            for _ in 0..self.rng.below(4) {
                let near = self.rng.below(4 * MIB);
                self.chain(reads, within(commits + trees, blobs) + near);
            }
        }
    }

    fn chain(&mut self, reads: &mut Vec<Read>, mut at: u64) {
        // Each delta is the last one with a probability of 1/7.
        let mut depth = 0;
        while depth < 50 && self.rng.below(7) != 0 {
            let size = 60 + self.rng.below(1000);
            self.push(reads, at, size);
            let far = if self.rng.below(8) == 0 { 8 * MIB } else { 64 * KIB };
            at += 500 + self.rng.below(far);
            depth += 1;
        }
        let size = KIB + self.rng.below(30 * KIB);
        self.push(reads, at, size);
    }

    fn push(&mut self, reads: &mut Vec<Read>, at: u64, size: u64) {
        reads.push(within_window(self.grid, at.min(self.len - 64 * KIB), size));
    }
}

/// A column store: row groups of 64 MiB with 16 columns each, in pages of 64 KiB.
///
/// For each row group, a query reads the page index (the last 4 KiB of the group), then a quarter of the pages, in a
/// row, of one to three columns. Columns follow Zipf's law (1.0). Half of the queries read the newest eighth of the
/// groups, half read all groups.
pub(crate) struct ColumnStore {
    rng: Rng,
    groups: u64,
    zipf: Zipf,
}

const GROUP: u64 = 64 * MIB;
const COLUMNS: u64 = 16;
const COLUMN_PAGE: u64 = 64 * KIB;

impl ColumnStore {
    pub(crate) fn new(grid: Grid) -> ColumnStore {
        let groups = grid.count() * grid.window_bytes() / GROUP;
        ColumnStore { rng: Rng::new(13), groups, zipf: Zipf::new(COLUMNS as usize, 1.0) }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 4096);
        let pages = GROUP / COLUMNS / COLUMN_PAGE;
        while reads.len() < count {
            let newest = (self.groups / 8).max(1);
            let first = if self.rng.below(2) == 0 { self.groups - newest } else { 0 };
            let columns: Vec<u64> = (0..=self.rng.below(3)).map(|_| self.zipf.sample(&mut self.rng) as u64).collect();
            for group in first..self.groups {
                reads.push(Read { offset: (group + 1) * GROUP - PAGE, len: PAGE as u32 });
                let run = self.rng.below(pages * 3 / 4);
                for column in &columns {
                    let start = group * GROUP + column * (GROUP / COLUMNS);
                    let page = |page: u64| Read { offset: start + page * COLUMN_PAGE, len: COLUMN_PAGE as u32 };
                    reads.extend((run..run + pages / 4).map(page));
                }
            }
        }
        reads.truncate(count);
        reads
    }
}

/// Look-ups of a genome's seeds: 64 bytes anywhere in a hash index (three quarters of the file), each followed by one
/// to three reads of 256 bytes from the sequence (the rest of the file).
///
/// Look-ups are uniform, but every eighth is a seed from a repeat: one of 1000 entries by Zipf's law (1.0). A read from
/// the sequence lies within 1 MiB of the last one, where a sample's reads pile up, or anywhere.
pub(crate) struct Genome {
    rng: Rng,
    grid: Grid,
    len: u64,
    zipf: Zipf,
    /// The offset of the last read in the sequence.
    position: u64,
}

impl Genome {
    pub(crate) fn new(grid: Grid) -> Genome {
        let len = grid.count() * grid.window_bytes();
        Genome { rng: Rng::new(14), grid, len, zipf: Zipf::new(1000, 1.0), position: 0 }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 4);
        let index = self.len / 4 * 3;
        let sequence = self.len - index;
        while reads.len() < count {
            let entry = match self.rng.below(8) {
                // The entry of each rank is anywhere in the index, but always the same.
                0 => Rng::new(self.zipf.sample(&mut self.rng) as u64).below(index / 64),
                _ => self.rng.below(index / 64),
            };
            reads.push(Read { offset: entry * 64, len: 64 });
            for _ in 0..=self.rng.below(3) {
                self.position = match self.rng.below(2) {
                    0 => (self.position + self.rng.below(MIB)) % (sequence - 256),
                    _ => self.rng.below(sequence - 256),
                };
                reads.push(within_window(self.grid, index + self.position, 256));
            }
        }
        reads.truncate(count);
        reads
    }
}

/// Look-ups in a log-structured store of four levels, each ten times as long as the one above.
///
/// A level is a row of tables of 2 MiB, each with an index of 64 KiB at its end. A look-up descends: in each level it
/// reads 4 KiB of one table's index. It ends in that level with a probability of a third, at the latest in the last
/// one, with a read of a block of 4 KiB. Keys follow Zipf's law (0.9) in shuffled order. Every 50th operation is a scan
/// of 64 blocks. Every 2000th is a compaction, which reads two tables from start to end in pieces of 64 KiB.
pub(crate) struct Levels {
    rng: Rng,
    zipf: Zipf,
    /// The key of each rank, from 0 to 1.
    keys: Vec<f64>,
    /// The first table of each level and, at the end, the number of tables.
    levels: Vec<u64>,
}

const TABLE: u64 = 2 * MIB;
const TABLE_INDEX: u64 = 64 * KIB;

impl Levels {
    pub(crate) fn new(grid: Grid) -> Levels {
        let mut rng = Rng::new(15);
        let tables = grid.count() * grid.window_bytes() / TABLE;
        let levels = [0, 1, 11, 111, 1111].map(|part| (tables * part / 1111).max(part.min(4))).to_vec();
        let keys = (0..100_000).map(|_| rng.unit()).collect();
        Levels { rng, zipf: Zipf::new(100_000, 0.9), keys, levels }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 128);
        while reads.len() < count {
            match self.rng.below(2000) {
                0 => {
                    let table = self.rng.below(self.levels[4] - 1);
                    let pieces = (0..2 * TABLE / (64 * KIB)).map(|piece| table * TABLE + piece * 64 * KIB);
                    reads.extend(pieces.map(|offset| Read { offset, len: 64 * KIB as u32 }));
                }
                1..40 => {
                    let start = self.rng.below(self.levels[4] * TABLE / PAGE - 64);
                    reads.extend((start..start + 64).map(|page| Read { offset: page * PAGE, len: PAGE as u32 }));
                }
                _ => self.look_up(&mut reads),
            }
        }
        reads.truncate(count);
        reads
    }

    fn look_up(&mut self, reads: &mut Vec<Read>) {
        let key = self.keys[self.zipf.sample(&mut self.rng)];
        for level in 0..4 {
            let (first, end) = (self.levels[level], self.levels[level + 1]);
            let place = key * (end - first) as f64;
            let table = (first + place as u64) * TABLE;
            let page = |start: u64, len: u64| start + (place.fract() * (len / PAGE) as f64) as u64 * PAGE;
            reads.push(Read { offset: page(table + TABLE - TABLE_INDEX, TABLE_INDEX), len: PAGE as u32 });
            if level == 3 || self.rng.below(3) == 0 {
                reads.push(Read { offset: page(table, TABLE - TABLE_INDEX), len: PAGE as u32 });
                return;
            }
        }
    }
}

/// Tiles of a map: squares of 16 KiB in the order of a Z-curve, for the most detailed zoom level only.
///
/// A user looks at 4 × 3 tiles, of which each read needs 1 to 16 KiB. The next view is one to three tiles away, eight
/// times of ten; otherwise it is in a city, of 200 that follow Zipf's law (1.0), or, once in a hundred, anywhere.
pub(crate) struct Tiles {
    rng: Rng,
    zipf: Zipf,
    grid: Grid,
    /// The number of tiles along each side.
    side: u64,
    /// The corner of the current view.
    view: (u64, u64),
}

impl Tiles {
    pub(crate) fn new(grid: Grid) -> Tiles {
        let tiles = grid.count() * grid.window_bytes() / (16 * KIB);
        let side = 1 << (tiles.ilog2() / 2);
        Tiles { rng: Rng::new(16), zipf: Zipf::new(200, 1.0), grid, side, view: (0, 0) }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Read> {
        let mut reads = Vec::with_capacity(count + 12);
        while reads.len() < count {
            let most = self.side - 4;
            let (x, y) = self.view;
            self.view = match self.rng.below(100) {
                0..80 => ((x + self.rng.below(7)).saturating_sub(3), (y + self.rng.below(7)).saturating_sub(3)),
                80..99 => {
                    // A city of each rank is anywhere, but always at the same place.
                    let mut city = Rng::new(self.zipf.sample(&mut self.rng) as u64);
                    (city.below(most) + self.rng.below(8), city.below(most) + self.rng.below(8))
                }
                _ => (self.rng.below(most), self.rng.below(most)),
            };
            self.view = (self.view.0.min(most), self.view.1.min(most));
            for (dx, dy) in (0..12).map(|tile| (tile % 4, tile / 4)) {
                let offset = interleaved(self.view.0 + dx, self.view.1 + dy) * (16 * KIB);
                let size = KIB + self.rng.below(15 * KIB);
                reads.push(within_window(self.grid, offset, size));
            }
        }
        reads.truncate(count);
        reads
    }
}

/// Returns the place of a tile on the Z-curve: the bits of `x` and `y` by turns.
fn interleaved(x: u64, y: u64) -> u64 {
    (0..32).fold(0, |place, bit| place | (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1))
}

/// Returns a read of `size` bytes, rounded up to whole words, at `at`; moved back if it would cross the window's end.
fn within_window(grid: Grid, at: u64, size: u64) -> Read {
    let size = size.next_multiple_of(8);
    let end = (grid.locate(at).0 + 1) * grid.window_bytes();
    Read { offset: at.min(end - size), len: size as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::GIB;

    #[test]
    fn reads_of_all_workloads_lie_in_the_file_and_in_one_window() {
        let grid = Grid::new(4 * MIB, GIB / 4);
        let mut tree = BTree::new(grid);
        let (mut pack, mut store, mut genome) = (GitPack::new(grid), ColumnStore::new(grid), Genome::new(grid));
        let (mut levels, mut tiles) = (Levels::new(grid), Tiles::new(grid));
        let mut skewed = Skewed::new(grid, 64 * KIB, Some(0.99));
        let laps = [tree.take(20_000), pack.take(20_000), store.take(5000), genome.take(20_000), skewed.take(20_000)];
        let more = [PageHeads::new(grid).take(100_000), levels.take(20_000), tiles.take(20_000)];
        for Read { offset, len } in laps.into_iter().chain(more).flatten() {
            let end = offset + u64::from(len);
            assert!(len > 0 && len % 8 == 0 && end <= GIB / 4, "{offset}, {len}");
            assert_eq!(grid.locate(offset).0, grid.locate(end - 1).0, "{offset}, {len}");
        }
    }

    #[test]
    fn b_tree_look_ups_start_at_the_root() {
        let mut tree = BTree::new(Grid::new(4 * MIB, GIB));
        let root = tree.inner.last().unwrap()[0] * PAGE;
        let reads = tree.take(10_000);
        assert_eq!(reads[0].offset, root);
        assert!(reads.iter().filter(|read| read.offset == root).count() > 1000);
    }
}
