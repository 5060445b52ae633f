//! smmap itself, through cursors and through leases.

use smmap::{Cursor, MapManager, MappedFile, Stats, Window};

use super::{Access, Grid, Mappings, Reader, Session};
use crate::support::{Data, build};

/// smmap, read through one cursor for each session.
pub(crate) struct Smmap {
    pub(crate) manager: MapManager,
    pub(crate) file: MappedFile,
    grid: Grid,
}

impl Smmap {
    /// Returns a manager whose budget is `capacity` windows, and a file opened in it.
    pub(crate) fn new(data: &Data, grid: Grid, capacity: usize) -> Smmap {
        let bytes = grid.window_bytes();
        let builder = MapManager::builder().window(Window::Sliding { bytes }).max_mapped_bytes(capacity as u64 * bytes);
        let manager = build(builder);
        assert_eq!(manager.window_bytes(), Some(bytes), "smmap's windows differ from those of its peers");
        let file = manager.open(data.path()).expect("the data opens");
        Smmap { manager, file, grid }
    }

    /// Panics if smmap exceeded its budget. Returns the statistics.
    pub(crate) fn assert_within_budget(&self) -> Stats {
        let (stats, budget) = (self.manager.stats(), self.manager.limits().max_mapped_bytes);
        let peak = stats.peak_mapped_bytes;
        assert!(peak <= budget, "{peak} bytes were mapped under a budget of {budget}: {stats:?}");
        stats
    }
}

impl Reader for Smmap {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self.file.cursor())
    }

    fn mapping_session(&self) -> Box<dyn Session + '_> {
        Box::new(Mapping { cursor: self.file.cursor(), grid: self.grid })
    }

    fn windows(&self) -> Option<Mappings> {
        let stats = self.manager.stats();
        Some(Mappings {
            made: stats.maps as usize,
            most: stats.peak_mapped_bytes.div_ceil(self.grid.window_bytes()) as usize,
        })
    }
}

impl Access for Cursor {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        visit(self.slice(offset..offset + len as u64).expect("bytes of the data"))
    }
}

/// Reads through `window_at`, which always maps.
struct Mapping {
    cursor: Cursor,
    grid: Grid,
}

impl Access for Mapping {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let (_, at) = self.grid.locate(offset);
        let window = self.cursor.window_at(offset - at as u64).expect("a window of the data");
        visit(&window[at..at + len])
    }
}

/// smmap, read through a lease that is taken and dropped for each read.
pub(crate) struct Leases<'a>(pub(crate) &'a Smmap);

impl Reader for Leases<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(&self.0.file)
    }
}

impl Access for &MappedFile {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        visit(&self.lease(offset..offset + len as u64).expect("bytes of the data"))
    }
}
