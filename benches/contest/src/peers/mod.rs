//! Who takes part: everything that serves reads of one file, behind one face.
//!
//! A [`Reader`] is what threads share; a [`Session`] is one thread's way to it, and does a batch of reads per call, in a
//! loop that is compiled for each participant by itself. What is read is looked at where it lies: nobody copies but those
//! who have to.
//!
//! The caches are all of `Arc<Mapped>` by window, where a [`Mapped`] is a memmap2 map that is counted, and nothing else.
//! Each is written as somebody would who knows its library and needs a cache of maps: a hit as cheap as it gets there,
//! a miss maps the window, and no window is mapped twice for two threads that miss it at once, if the library has a way.

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

/// Bytes to be read; they lie in one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What threads share.
pub(crate) trait Reader: Sync {
    fn session(&self) -> Box<dyn Session + '_>;

    /// A session each of whose reads maps its window if it is not mapped.
    fn mapping_session(&self) -> Box<dyn Session + '_> {
        self.session()
    }

    /// What it mapped so far; a reader that maps no windows has none.
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

/// Of windows, so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mappings {
    pub(crate) made: usize,
    /// Mapped at once.
    pub(crate) most: usize,
}

/// One thread's way to a reader.
pub(crate) trait Session {
    /// The sum of the words at all `offsets`: as little work as there can be, so that what is seen is the way to it. No read
    /// waits for another, as far as the processor can tell.
    fn peek(&mut self, offsets: &[u64]) -> u64;

    /// The same where each read waits for the one before, as in an index: what that gave is part of the next offset. The
    /// `links` are the offsets with that taken off, by exclusive or (the first one as it is).
    fn follow(&mut self, links: &[u64]) -> u64;

    /// As `peek`, with the time of each read.
    fn peek_timed(&mut self, offsets: &[u64], times: &mut Histogram) -> u64;

    /// The sum of all words of all `reads`.
    fn sum(&mut self, reads: &[Read]) -> u64;
}

/// One read, which the loops of a session are made from.
pub(crate) trait Access {
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R;
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
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// Where the windows of a file lie: at multiples of a power of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    bits: u32,
    len: u64,
}

impl Grid {
    /// Windows of `bytes` bytes over `len` bytes, which is a multiple of that.
    pub(crate) fn new(bytes: u64, len: u64) -> Grid {
        assert!(bytes.is_power_of_two(), "a window of {bytes} bytes is not found by a shift");
        assert!(len % bytes == 0, "{len} bytes are no whole windows of {bytes}");
        Grid { bits: bytes.trailing_zeros(), len }
    }

    pub(crate) fn window_bytes(self) -> u64 {
        1 << self.bits
    }

    /// How many windows there are.
    pub(crate) fn count(self) -> u64 {
        self.len >> self.bits
    }

    /// The window of `offset`, and where in there it is.
    #[inline]
    pub(crate) fn locate(self, offset: u64) -> (u64, usize) {
        (offset >> self.bits, (offset & ((1 << self.bits) - 1)) as usize)
    }
}

/// Makes the maps of a cache, and counts them.
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

    /// A new map of a window.
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

/// A window, mapped.
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
    /// An empty one, of `capacity` windows at most.
    fn new(capacity: usize) -> Self;

    /// Shows `window` to `look`; mapped now, if it was not.
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R;
}

/// A cache, and what it needs to map.
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
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.mapper.grid.locate(offset);
        self.cache.with(&self.mapper, window, |bytes| look(&bytes[at..at + len]))
    }
}

/// A cache that smmap is measured against.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Data, Grid, usize) -> Box<dyn Reader>,
    /// What it evicts is unmapped at once, so that never more is mapped than it may have. Others let go when they come to
    /// it, and are told of.
    pub(crate) is_prompt: bool,
}

fn cached<C: WindowCache + Send>(data: &Data, grid: Grid, capacity: usize) -> Box<dyn Reader> {
    Box::new(Cached { cache: C::new(capacity), mapper: Mapper::new(data, grid) })
}

/// All of them.
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
