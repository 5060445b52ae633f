//! Readers without a cache: a map of the whole file, the lower limit of any time; `pread`; and an oracle.

use std::fs::File;

use memmap2::Mmap;

use super::{Access, Grid, Reader, Session};
use crate::support::{Data, map, read_exact_at};

/// The limit: a slice of a map of the whole file. Maps all of the data, so no budget applies to it.
pub(crate) struct Raw {
    whole: Mmap,
    /// The file that `Remap` maps, while another thread measures.
    file: File,
    grid: Grid,
}

impl Raw {
    pub(crate) fn new(data: &Data, grid: Grid) -> Raw {
        let file = data.open();
        Raw { whole: map(&file, 0, data.len()), file, grid }
    }
}

impl Reader for Raw {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(&self.whole[..])
    }

    fn mapping_session(&self) -> Box<dyn Session + '_> {
        Box::new(Remap { raw: self })
    }
}

impl Access for &[u8] {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let start = offset as usize;
        visit(&self[start..start + len])
    }
}

/// Maps the window of each read, and unmaps it after the read.
struct Remap<'a> {
    raw: &'a Raw,
}

impl Access for Remap<'_> {
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.raw.grid.locate(offset);
        let bytes = self.raw.grid.window_bytes();
        visit(&map(&self.raw.file, window * bytes, bytes)[at..at + len])
    }
}

/// `pread` into a buffer.
pub(crate) struct Pread(File);

impl Pread {
    pub(crate) fn new(data: &Data) -> Pread {
        Pread(data.open())
    }
}

impl Reader for Pread {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(PreadSession { file: &self.0, buffer: Vec::new() })
    }
}

struct PreadSession<'a> {
    file: &'a File,
    buffer: Vec<u8>,
}

impl Access for PreadSession<'_> {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let buffer = &mut self.buffer[..len];
        read_exact_at(self.file, buffer, offset).expect("bytes of the data");
        visit(buffer)
    }
}

/// Maps the most read windows beforehand, and uses `pread` for the rest.
pub(crate) struct Oracle {
    windows: Vec<Option<Mmap>>,
    file: File,
    grid: Grid,
}

impl Oracle {
    /// Maps the `capacity` windows that have the most `accesses`. `accesses` is indexed by window.
    pub(crate) fn new(data: &Data, grid: Grid, capacity: usize, accesses: &[u64]) -> Oracle {
        let file = data.open();
        let mut hottest: Vec<usize> = (0..accesses.len()).collect();
        hottest.sort_by_key(|&window| std::cmp::Reverse(accesses[window]));
        let mut windows: Vec<Option<Mmap>> = (0..grid.count()).map(|_| None).collect();
        for &window in hottest.iter().take(capacity) {
            windows[window] = Some(map(&file, window as u64 * grid.window_bytes(), grid.window_bytes()));
        }
        Oracle { windows, file, grid }
    }
}

impl Reader for Oracle {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(OracleSession { oracle: self, rest: PreadSession { file: &self.file, buffer: Vec::new() } })
    }
}

struct OracleSession<'a> {
    oracle: &'a Oracle,
    rest: PreadSession<'a>,
}

impl Access for OracleSession<'_> {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.oracle.grid.locate(offset);
        match &self.oracle.windows[window as usize] {
            Some(map) => visit(&map[at..at + len]),
            None => self.rest.read(offset, len, visit),
        }
    }
}
