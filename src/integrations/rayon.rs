//! Feature `rayon`: the windows of a file as a parallel iterator.

use std::ops::Range;

use rayon::iter::plumbing::{Consumer, ProducerCallback, UnindexedConsumer};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::{Lease, MappedFile, Result};

/// A parallel iterator over the windows of a file, created by [`MappedFile::par_windows`].
///
/// The thread that processes a window maps it. So the budget must hold one window for each thread. Each window is a
/// separate task, and a thread that has finished takes windows from the others.
/// [`with_min_len`](IndexedParallelIterator::with_min_len) sets the least number of windows of one task.
///
/// # Examples
///
/// ```
/// use rayon::prelude::*;
/// # use smmap::MapManager;
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let bytes: usize = maps.open("Cargo.toml")?.par_windows().map(|window| window.map_or(0, |bytes| bytes.len())).sum();
/// assert_eq!(bytes as u64, std::fs::metadata("Cargo.toml").unwrap().len());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct ParWindows {
    file: MappedFile,
    windows: Range<usize>,
}

impl MappedFile {
    /// Returns an indexed parallel iterator over the windows of the file, each as a [`Lease`]. The errors and panics
    /// are those of [`windows`](Self::windows).
    ///
    /// # Examples
    ///
    /// ```
    /// use rayon::prelude::*;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
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
        // Without a maximum length, rayon splits a task only while another thread is idle. A thread that began with a
        // quarter of the file would then keep all of it, although other threads become idle later.
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
