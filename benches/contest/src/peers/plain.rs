//! What needs no cache: a map of the whole file, which nothing can beat and no budget allows; `pread`; and an oracle.

use std::fs::File;

use memmap2::Mmap;

use super::{Access, Grid, Reader, Session};
use crate::support::{Data, map, read_exact_at};

/// The limit: a slice of a map of the whole file.
pub(crate) struct Raw {
    whole: Mmap,
    /// For what it does while others measure.
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
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let start = offset as usize;
        look(&self[start..start + len])
    }
}

/// Maps the window of each read, and unmaps it again.
struct Remap<'a> {
    raw: &'a Raw,
}

impl Access for Remap<'_> {
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.raw.grid.locate(offset);
        let bytes = self.raw.grid.window_bytes();
        look(&map(&self.raw.file, window * bytes, bytes)[at..at + len])
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
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let buffer = &mut self.buffer[..len];
        read_exact_at(self.file, buffer, offset).expect("bytes of the data");
        look(buffer)
    }
}

/// Has mapped beforehand what will be read most, and reads the rest.
pub(crate) struct Oracle {
    windows: Vec<Option<Mmap>>,
    file: File,
    grid: Grid,
}

impl Oracle {
    /// With the `capacity` windows that have most of `touches`, by window.
    pub(crate) fn new(data: &Data, grid: Grid, capacity: usize, touches: &[u64]) -> Oracle {
        let file = data.open();
        let mut hottest: Vec<usize> = (0..touches.len()).collect();
        hottest.sort_by_key(|&window| std::cmp::Reverse(touches[window]));
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
    fn read<R>(&mut self, offset: u64, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let (window, at) = self.oracle.grid.locate(offset);
        match &self.oracle.windows[window as usize] {
            Some(map) => look(&map[at..at + len]),
            None => self.rest.read(offset, len, look),
        }
    }
}
