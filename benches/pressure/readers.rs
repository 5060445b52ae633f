//! The readers: smmap, plain `pread`, a cache of maps, and the oracle.

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;

use memmap2::Mmap;
use smmap::{Cursor, MapManager, MappedFile, Window};

use super::support::{Data, build, map, read_exact_at};
use super::trace::{Read, STREAMS, Trace, WINDOW};

/// Does all the reads, and returns a sum over their bytes.
pub(crate) type Task = fn(&Readers, &[Read]) -> u64;
type Cache = quick_cache::sync::Cache<usize, Arc<Mmap>>;

pub(crate) struct Readers {
    /// One manager for each way to read, so that neither profits from the frequencies that the other one recorded.
    pub(crate) sliced: MapManager,
    pub(crate) copied: MapManager,
    sliced_file: MappedFile,
    copied_file: MappedFile,
    plain: File,
    cache: Cache,
    /// The maps of the hottest windows, as many as the budget holds, by window index.
    oracle: Vec<Option<Mmap>>,
}

impl Readers {
    pub(crate) const ALL: [(&str, Task); 5] = [
        ("smmap", Self::slice),
        ("smmap read_at", Self::read_at),
        ("pread", Self::pread),
        ("quick_cache", Self::quick_cache),
        ("oracle", Self::oracle),
    ];

    /// Returns fresh readers, which know nothing of earlier races.
    pub(crate) fn new(data: &Data, budget: u64, trace: &Trace) -> Readers {
        let (sliced, copied) = (manager(budget), manager(budget));
        let sliced_file = sliced.open(data.path()).expect("the data opens");
        let copied_file = copied.open(data.path()).expect("the data opens");
        let plain = data.open();
        let windows = usize::try_from(data.len() / WINDOW).expect("the number of windows fits usize");
        let items = usize::try_from(budget / WINDOW).expect("the number of windows fits usize");
        let mut oracle: Vec<Option<Mmap>> = (0..windows).map(|_| None).collect();
        for &window in trace.hottest.iter().take(items) {
            oracle[window] = Some(map(&plain, window as u64 * WINDOW, WINDOW));
        }
        Readers { sliced, copied, sliced_file, copied_file, plain, cache: Cache::new(items), oracle }
    }

    /// Reads through `Cursor::slice`, with one cursor for each stream.
    fn slice(&self, reads: &[Read]) -> u64 {
        let mut cursors: [Cursor; STREAMS] = std::array::from_fn(|_| self.sliced_file.cursor());
        sum(reads, |read| {
            let end = read.offset + u64::from(read.len);
            read_lines(cursors[read.stream as usize].slice(read.offset..end).expect("bytes of the data"))
        })
    }

    fn read_at(&self, reads: &[Read]) -> u64 {
        let mut buffer = buffer(reads);
        sum(reads, |read| {
            let buffer = &mut buffer[..read.len as usize];
            let len = self.copied_file.read_at(buffer, read.offset).expect("bytes of the data");
            assert_eq!(len, buffer.len(), "`read_at` returned fewer bytes than a record within the data has");
            read_lines(buffer)
        })
    }

    fn pread(&self, reads: &[Read]) -> u64 {
        let mut buffer = buffer(reads);
        sum(reads, |read| read_lines(self.pread_into(&mut buffer, read)))
    }

    fn pread_into<'b>(&self, buffer: &'b mut [u8], read: Read) -> &'b [u8] {
        let buffer = &mut buffer[..read.len as usize];
        read_exact_at(&self.plain, buffer, read.offset).expect("bytes of the data");
        buffer
    }

    /// Maps a window on each miss.
    fn quick_cache(&self, reads: &[Read]) -> u64 {
        sum(reads, |read| {
            let window = read.window();
            let mapped = self.cache.get(&window).unwrap_or_else(|| {
                let mapped = Arc::new(map(&self.plain, window as u64 * WINDOW, WINDOW));
                self.cache.insert(window, Arc::clone(&mapped));
                mapped
            });
            read_lines(&mapped[read.within()])
        })
    }

    /// Reads the windows that were mapped beforehand, and uses `pread` for the rest.
    fn oracle(&self, reads: &[Read]) -> u64 {
        let mut buffer = buffer(reads);
        sum(reads, |read| match &self.oracle[read.window()] {
            Some(mapped) => read_lines(&mapped[read.within()]),
            None => read_lines(self.pread_into(&mut buffer, read)),
        })
    }
}

fn manager(budget: u64) -> MapManager {
    let manager = build(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(budget));
    assert_eq!(manager.window_bytes(), Some(WINDOW), "the manager's windows differ from those of the other readers");
    manager
}

fn buffer(reads: &[Read]) -> Vec<u8> {
    let longest = reads.iter().map(|read| read.len).max();
    vec![0; longest.unwrap_or(0) as usize]
}

/// Makes each read depend on the bytes of the one before it, as in look-ups. Without that dependency, the processor
/// would overlap several reads of mapped memory.
fn sum(reads: &[Read], mut read: impl FnMut(Read) -> u64) -> u64 {
    reads.iter().fold(0, |sum: u64, &one| {
        let zero = black_box(sum) >> 63;
        sum.wrapping_add(read(Read { offset: one.offset + zero, ..one }))
    })
}

/// Reads one byte of each cache line, as a consumer of the bytes would.
fn read_lines(bytes: &[u8]) -> u64 {
    black_box(bytes).iter().step_by(64).map(|&byte| u64::from(byte)).sum()
}
