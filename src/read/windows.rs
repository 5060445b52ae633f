//! [`Windows`]: a file, window by window.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use super::Lease;
use crate::error::Result;
use crate::file::MappedFile;

/// The windows of a file in order, each as a [`Lease`]; made by [`MappedFile::windows`].
///
/// Each window is mapped when it is asked for, and read in at once if it is not in memory, since who asks reads it all (on
/// Linux the call returns when it is there). Windows that are not kept may be unmapped again: a file of any size passes
/// through any budget. The number of windows is that of the moment when the iterator was made.
///
/// ```
/// # use smmap::{MapManager, Window};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 4096 }).build()? };
/// let file = maps.open("src/lib.rs")?;
/// let mut lines = 0;
/// for window in file.windows() {
///     lines += window?.iter().filter(|&&byte| byte == b'\n').count();
/// }
/// assert_eq!(lines, std::fs::read_to_string("src/lib.rs").unwrap().lines().count());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "iterators do nothing until they are asked"]
pub struct Windows {
    file: MappedFile,
    left: Range<usize>,
}

impl MappedFile {
    /// The windows of the file, in order.
    ///
    /// # Errors
    ///
    /// Each item fails as [`Cursor::window_at`](crate::Cursor::window_at) does; the iterator then goes on. Leases that are
    /// kept stay pinned.
    ///
    /// # Panics
    ///
    /// If there are more windows than `usize` can count: on 32 bit, with tiny windows, in files of many terabytes.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert_eq!(maps.open("Cargo.toml")?.windows().len(), 1);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn windows(&self) -> Windows {
        let count = usize::try_from(self.geometry().count(self.len())).expect("more windows than can be counted");
        Windows { file: self.clone(), left: 0..count }
    }

    /// All of one window, for somebody who reads it all.
    pub(crate) fn whole_window(&self, index: u64) -> Result<Lease> {
        let span = self.geometry().span(index, self.len());
        if span.is_empty() {
            // The file was noticed to have shrunk since.
            return Ok(Lease::empty(span.start));
        }
        let region = self.window(index, span.end)?;
        self.cache().read_in(self.cached(), &region, span.start);
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

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").field("file", &self.file).field("left", &self.left).finish()
    }
}
