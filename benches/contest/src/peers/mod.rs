//! The readers: each serves reads of one file behind one interface.
//!
//! Threads share a [`Reader`]. A [`Session`] is one thread's access to it: one call does a batch of reads, in a loop
//! that is compiled for each reader by itself. The loop reads the bytes in place; only readers that cannot lend bytes
//! copy them.
//!
//! All caches hold `Arc<Mapped>` by window; a [`Mapped`] is a memmap2 map that is counted. Each cache is used as an
//! expert in its library would use it: a hit is as cheap as the library allows, and a miss maps the window. If the
//! library has a way, two threads that miss the same window at once map it only once.

pub(crate) mod dashmap;
pub(crate) mod foyer;
pub(crate) mod libgit2;
pub(crate) mod lru;
pub(crate) mod mini_moka;
pub(crate) mod moka;
pub(crate) mod plain;
pub(crate) mod python;
pub(crate) mod quick_cache;
pub(crate) mod rwlock_hashmap;
pub(crate) mod smmap;
pub(crate) mod tantivy;

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::Mmap;

use crate::latency::Histogram;
use crate::support::{Data, map, sum_words};

/// A range of bytes in one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// A way to read the file. Shared by threads.
pub(crate) trait Reader: Sync {
    fn session(&self) -> Box<dyn Session + '_>;

    /// Returns a session that maps the window of each read, if it is not mapped yet.
    fn mapping_session(&self) -> Box<dyn Session + '_> {
        self.session()
    }

    /// Returns the counts of the windows mapped so far, or `None` if the reader maps no windows.
    fn windows(&self) -> Option<Mappings> {
        None
    }
}

impl<R: Reader + ?Sized> Reader for &R {
    fn session(&self) -> Box<dyn Session + '_> {
        (**self).session()
    }

    fn mapping_session(&self) -> Box<dyn Session + '_> {
        (**self).mapping_session()
    }

    fn windows(&self) -> Option<Mappings> {
        (**self).windows()
    }
}

/// Counts of mapped windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mappings {
    /// The number of maps so far.
    pub(crate) made: usize,
    /// The largest number of windows that were mapped at once.
    pub(crate) most: usize,
}

/// One thread's access to a reader.
pub(crate) trait Session {
    /// Returns the sum of the words at all `offsets`. Summing is little work, so the time is that of the access. Reads
    /// are independent, so the processor may overlap them.
    fn peek(&mut self, offsets: &[u64]) -> u64;

    /// Returns the sum of words where each read depends on the one before, as in an index.
    ///
    /// The first link is the first offset. Each later offset is the link exclusive-or the word read before.
    fn follow(&mut self, links: &[u64]) -> u64;

    /// As [`peek`](Self::peek), and adds the time of each read to `times`.
    fn peek_timed(&mut self, offsets: &[u64], times: &mut Histogram) -> u64;

    /// Returns the sum of all words of all `reads`.
    fn sum(&mut self, reads: &[Read]) -> u64;

    /// As [`sum`](Self::sum), and adds the time of each read to `times`.
    fn sum_timed(&mut self, reads: &[Read], times: &mut Histogram) -> u64;
}

/// A single read. The loops of [`Session`] are built from it.
pub(crate) trait Access {
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R;
}

impl<A: Access> Session for A {
    fn peek(&mut self, offsets: &[u64]) -> u64 {
        offsets.iter().fold(0, |sum, &offset| self.read(offset, 8, word).wrapping_add(sum))
    }

    fn follow(&mut self, links: &[u64]) -> u64 {
        let mut last = 0;
        links.iter().fold(0, |sum, &link| {
            last = self.read(link ^ last, 8, word);
            last.wrapping_add(sum)
        })
    }

    fn peek_timed(&mut self, offsets: &[u64], times: &mut Histogram) -> u64 {
        offsets.iter().fold(0, |sum, &offset| {
            let start = times.start();
            let word = self.read(offset, 8, word);
            times.stop(start);
            word.wrapping_add(sum)
        })
    }

    fn sum(&mut self, reads: &[Read]) -> u64 {
        reads.iter().fold(0, |sum, read| self.read(read.offset, read.len as usize, sum_words).wrapping_add(sum))
    }

    fn sum_timed(&mut self, reads: &[Read], times: &mut Histogram) -> u64 {
        reads.iter().fold(0, |sum, read| {
            let start = times.start();
            let words = self.read(read.offset, read.len as usize, sum_words);
            times.stop(start);
            words.wrapping_add(sum)
        })
    }
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// The positions of a file's windows: multiples of a power of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    bits: u32,
    len: u64,
}

impl Grid {
    /// Returns the grid of windows of `bytes` bytes over `len` bytes. `len` is a multiple of `bytes`, a power of two.
    pub(crate) fn new(bytes: u64, len: u64) -> Grid {
        assert!(bytes.is_power_of_two(), "a window of {bytes} bytes cannot be found by a shift");
        assert!(len % bytes == 0, "{len} bytes are not a whole number of windows of {bytes} bytes");
        Grid { bits: bytes.trailing_zeros(), len }
    }

    pub(crate) fn window_bytes(self) -> u64 {
        1 << self.bits
    }

    /// Returns the number of windows.
    pub(crate) fn count(self) -> u64 {
        self.len >> self.bits
    }

    /// Returns the window of `offset`, and the offset within the window.
    #[inline]
    pub(crate) fn locate(self, offset: u64) -> (u64, usize) {
        (offset >> self.bits, (offset & ((1 << self.bits) - 1)) as usize)
    }
}

/// Maps windows for a cache, and counts the maps.
#[derive(Debug)]
pub(crate) struct Mapper {
    file: File,
    grid: Grid,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    made: AtomicUsize,
    live: AtomicUsize,
    most: AtomicUsize,
}

impl Mapper {
    fn new(data: &Data, grid: Grid) -> Mapper {
        Mapper { file: data.open(), grid, counts: Arc::default() }
    }

    /// Maps a window anew.
    pub(crate) fn map(&self, window: u64) -> Arc<Mapped> {
        let bytes = self.grid.window_bytes();
        let map = map(&self.file, window * bytes, bytes);
        self.counts.made.fetch_add(1, Ordering::Relaxed);
        let live = self.counts.live.fetch_add(1, Ordering::Relaxed) + 1;
        self.counts.most.fetch_max(live, Ordering::Relaxed);
        Arc::new(Mapped { map, counts: Arc::clone(&self.counts) })
    }

    fn mappings(&self) -> Mappings {
        Mappings { made: self.counts.made.load(Ordering::Relaxed), most: self.counts.most.load(Ordering::Relaxed) }
    }
}

/// A mapped window.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
    counts: Arc<Counts>,
}

impl Deref for Mapped {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.counts.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A cache of maps by window.
pub(crate) trait WindowCache: Sync + Sized + 'static {
    /// Returns an empty cache of at most `capacity` windows.
    fn new(capacity: usize) -> Self;

    /// Calls `visit` with the bytes of `window`, and maps the window first if the cache does not hold it.
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R;
}

/// A cache and its mapper.
struct Cached<C> {
    cache: C,
    mapper: Mapper,
}

impl<C: WindowCache> Reader for Cached<C> {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn windows(&self) -> Option<Mappings> {
        Some(self.mapper.mappings())
    }
}

impl<C: WindowCache> Access for &Cached<C> {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.mapper.grid.locate(offset);
        self.cache.with(&self.mapper, window, |bytes| visit(&bytes[at..at + len]))
    }
}

/// A cache that the contest compares with smmap.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Data, Grid, usize) -> Box<dyn Reader>,
    /// `true` if the cache unmaps a window as soon as it evicts it, and so never exceeds its capacity. The report says
    /// if another cache exceeded it.
    pub(crate) is_prompt: bool,
}

fn cached<C: WindowCache + Send>(data: &Data, grid: Grid, capacity: usize) -> Box<dyn Reader> {
    Box::new(Cached { cache: C::new(capacity), mapper: Mapper::new(data, grid) })
}

/// All caches, in the order of the report.
pub(crate) const PEERS: [Peer; 9] = [
    Peer { name: "RwLock<HashMap>", open: cached::<rwlock_hashmap::Cache>, is_prompt: true },
    Peer { name: "DashMap", open: cached::<dashmap::Cache>, is_prompt: true },
    Peer { name: "quick_cache", open: cached::<quick_cache::Cache>, is_prompt: true },
    Peer { name: "moka", open: cached::<moka::Cache>, is_prompt: false },
    Peer { name: "mini-moka", open: cached::<mini_moka::Cache>, is_prompt: false },
    Peer { name: "foyer-memory", open: cached::<foyer::Cache>, is_prompt: true },
    Peer { name: "Mutex<LruCache>", open: cached::<lru::Cache>, is_prompt: true },
    Peer { name: "as tantivy", open: cached::<tantivy::Cache>, is_prompt: true },
    Peer { name: "as libgit2", open: libgit2::open, is_prompt: true },
];
