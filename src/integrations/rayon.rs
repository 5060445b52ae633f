//! Feature `rayon`: the windows of a file as a parallel iterator.

use std::fmt;
use std::ops::Range;

use rayon::iter::plumbing::{Consumer, ProducerCallback, UnindexedConsumer};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::{Lease, MappedFile, Result};

/// The windows of a file, in parallel; made by [`MappedFile::par_windows`].
///
/// Each is mapped by the thread that reads it, when it reads it. Within the budget that takes one window for each thread. No
/// thread holds more than one window back from the others ([`with_min_len`](IndexedParallelIterator::with_min_len) says
/// otherwise): a window is work enough to be handed over by itself, and the last ones are shared by all.
///
/// ```
/// use rayon::prelude::*;
/// # use smmap::MapManager;
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let bytes: usize = maps.open("Cargo.toml")?.par_windows().map(|window| window.map_or(0, |bytes| bytes.len())).sum();
/// assert_eq!(bytes as u64, std::fs::metadata("Cargo.toml").unwrap().len());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "iterators do nothing until they are asked"]
pub struct ParWindows {
    file: MappedFile,
    windows: Range<usize>,
}

impl MappedFile {
    /// The windows of the file, as an indexed parallel iterator of [`Lease`]s.
    ///
    /// # Errors, panics
    ///
    /// As [`windows`](Self::windows).
    ///
    /// ```
    /// use rayon::prelude::*;
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert_eq!(maps.open("Cargo.toml")?.par_windows().len(), 1);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn par_windows(&self) -> ParWindows {
        ParWindows { file: self.clone(), windows: 0..self.windows().len() }
    }
}

impl ParWindows {
    fn leases(self) -> impl IndexedParallelIterator<Item = Result<Lease>> {
        let Self { file, windows } = self;
        // Left to itself, rayon goes on splitting only while somebody is idle: who began with a quarter of a file keeps all of
        // that, though others have nothing left to do.
        windows.into_par_iter().with_max_len(1).map(move |index| file.whole_window(index as u64))
    }
}

impl ParallelIterator for ParWindows {
    type Item = Result<Lease>;

    fn drive_unindexed<C: UnindexedConsumer<Self::Item>>(self, consumer: C) -> C::Result {
        self.leases().drive_unindexed(consumer)
    }

    fn opt_len(&self) -> Option<usize> {
        Some(self.windows.len())
    }
}

impl IndexedParallelIterator for ParWindows {
    fn len(&self) -> usize {
        self.windows.len()
    }

    fn drive<C: Consumer<Self::Item>>(self, consumer: C) -> C::Result {
        self.leases().drive(consumer)
    }

    fn with_producer<CB: ProducerCallback<Self::Item>>(self, callback: CB) -> CB::Output {
        self.leases().with_producer(callback)
    }
}

impl fmt::Debug for ParWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParWindows").field("file", &self.file).field("windows", &self.windows).finish()
    }
}
