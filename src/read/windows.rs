//! [`Windows`]: an iterator over the windows of a file.

use std::iter::FusedIterator;
use std::ops::Range;

use super::Lease;
use crate::error::Result;
use crate::file::MappedFile;

/// An iterator over the windows of a file, in order, each as a [`Lease`], made by [`MappedFile::windows`].
///
/// `next` maps the window that it returns. If the window is not in memory, `next` also has it read from the disk: on
/// Linux ahead of the reader, in parts of a few MiB, or before `next` returns if the window is short. The cache may
/// unmap a window after its lease is dropped, so a file of any size can be read within any budget that holds one
/// window.
///
/// The number of windows is fixed when the iterator is made. If the file has become shorter, the windows past its new
/// end are empty leases.
///
/// # Examples
///
/// ```
/// # use smmap::{MapManager, Window};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 4096 }).build()? };
/// let file = maps.open("src/lib.rs")?;
/// let mut lines = 0;
/// for window in file.windows() {
///     lines += window?.iter().filter(|&&byte| byte == b'\n').count();
/// }
/// assert_eq!(lines, std::fs::read_to_string("src/lib.rs").unwrap().lines().count());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Windows {
    file: MappedFile,
    left: Range<usize>,
}

impl MappedFile {
    /// Returns an iterator over the windows of the file, in order. Each lease that is kept keeps its window mapped.
    ///
    /// # Errors
    ///
    /// Each item fails as [`Cursor::window_at`](crate::Cursor::window_at) does. The iterator then continues with the
    /// next window.
    ///
    /// # Panics
    ///
    /// Panics if the file has more than `usize::MAX` windows. This is possible only on 32-bit systems, with very small
    /// windows and files of many terabytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.windows().len(), 1);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn windows(&self) -> Windows {
        let count =
            usize::try_from(self.geometry().count(self.len())).expect("the file has more than usize::MAX windows");
        Windows { file: self.clone(), left: 0..count }
    }

    /// Maps one window and reads it ahead, for a caller that reads all of it. Returns an empty lease if the file has
    /// become shorter than the start of the window.
    pub(crate) fn whole_window(&self, index: u64) -> Result<Lease> {
        let span = self.geometry().span(index, self.len());
        if span.is_empty() {
            // Another thread noticed that the file is shorter now.
            return Ok(Lease::empty(span.start));
        }
        let region = self.window(index, span.end, self.cache().when_full())?;
        if let Some(region) = region.region() {
            region.read_rest(span.start, span.start);
        }
        self.cached().end_large_pages(index.wrapping_sub(1));
        let len = (span.end - span.start) as usize;
        Ok(Lease::new(region.narrow(0..len), span.start))
    }
}

impl Iterator for Windows {
    type Item = Result<Lease>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left.next().map(|index| self.file.whole_window(index as u64))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.left.nth(n).map(|index| self.file.whole_window(index as u64))
    }
}

impl DoubleEndedIterator for Windows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left.next_back().map(|index| self.file.whole_window(index as u64))
    }
}

impl ExactSizeIterator for Windows {}
impl FusedIterator for Windows {}
