//! [`Buffer`]: a whole file, searched and sliced like a byte string.

use std::cmp::Ordering;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Range, RangeBounds};

use memchr::memmem::{Finder, FinderRev};

use super::{Cursor, Lease};
use crate::error::Result;
use crate::file::MappedFile;

/// The bytes of a whole file of any size, as if they were one slice.
///
/// A buffer returns single bytes from both ends, slices, search results, lines and comparisons. It holds one window at
/// a time, as a [`Cursor`] does; matches and lines that cross windows are found too. It corresponds to
/// `SlidingWindowMapBuffer` of Python's smmap; [`get_back`](Self::get_back) replaces Python's negative indexes.
///
/// Searches use memchr. They are O(bytes) if the needle is no longer than a window; a longer one costs in addition a
/// copy or mapping of twice its length for each window.
///
/// # Errors
///
/// All calls except [`slice`](Self::slice) check their own results: with `fault_guard`, they return an error instead of
/// a result that depends on bytes the file does not have. The iterators check where each piece ends, but not the bytes
/// of its lease: call [`Lease::check`] after reading them. An iterator ends after an error.
///
/// # Examples
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let mut text = maps.open("Cargo.toml")?.buffer();
/// assert_eq!((text.get(1)?, text.get_back(0)?), (Some(b'p'), Some(b'\n')));
/// let name = text.find(b"name = ")?.unwrap();
/// assert_eq!(text.slice(name..name + 14)?, b"name = \"smmap\"");
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Buffer {
    cursor: Cursor,
}

impl MappedFile {
    /// Returns the file as a [`Buffer`]. It holds no window yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(maps.open("Cargo.toml")?.buffer().starts_with(b"[package]")?);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn buffer(&self) -> Buffer {
        Buffer { cursor: self.cursor() }
    }
}

impl Buffer {
    /// Returns the length of the file in bytes, as [`MappedFile::len`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// assert_eq!(file.buffer().len(), file.len());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.file().len()
    }

    /// Returns `true` if the file has no bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(!maps.open("Cargo.toml")?.buffer().is_empty());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the file that the buffer reads.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.buffer().file().path(), Some("Cargo.toml".as_ref()));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn file(&self) -> &MappedFile {
        self.cursor.file()
    }

    /// Releases the window that the buffer holds, so that it may be unmapped. The buffer stays usable.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// buffer.get(0)?;
    /// buffer.release();
    /// assert_eq!(maps.stats().pinned_regions, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn release(&mut self) {
        self.cursor.release();
    }

    /// Returns the byte at `index`, or `None` if `index` is at or past the end. Fails as [`Cursor::slice`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// assert_eq!((buffer.get(0)?, buffer.get(u64::MAX)?), (Some(b'['), None));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn get(&mut self, index: u64) -> Result<Option<u8>> {
        if index >= self.len() {
            return Ok(None);
        }
        let byte = self.cursor.slice(index..index + 1)?.first().copied();
        self.cursor.validate(index..index + 1)?;
        Ok(byte)
    }

    /// Returns the byte at `index` counted from the end, where 0 is the last byte, or `None` if the file has too few
    /// bytes. Fails as [`Cursor::slice`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// assert_eq!((buffer.get_back(0)?, buffer.get_back(buffer.len())?), (Some(b'\n'), None));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn get_back(&mut self, index: u64) -> Result<Option<u8>> {
        match self.len().checked_sub(1).and_then(|last| last.checked_sub(index)) {
            Some(index) => self.get(index),
            None => Ok(None),
        }
    }

    /// Returns exactly the bytes of `range`, in one piece, and fails, as [`Cursor::slice`] does. To check the bytes,
    /// call [`check`](Self::check).
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.buffer().slice(1..8)?, b"package");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn slice(&mut self, range: impl RangeBounds<u64>) -> Result<&[u8]> {
        self.cursor.slice(range)
    }

    /// Checks that the file had the bytes that [`slice`](Self::slice) returned last. Works and fails as
    /// [`Cursor::check`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// let sum: u32 = buffer.slice(..9)?.iter().map(|&byte| u32::from(byte)).sum();
    /// buffer.check(..9)?; // `sum` is the sum of bytes of the file.
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn check(&self, range: impl RangeBounds<u64>) -> Result<()> {
        self.cursor.check(range)
    }

    /// Returns the offset of the first match of `needle`, or `None` if there is none. An empty needle matches at 0.
    /// Fails as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// assert_eq!((buffer.find(b"package")?, buffer.find(b"no such thing")?), (Some(1), None));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn find(&mut self, needle: &[u8]) -> Result<Option<u64>> {
        self.find_from(&Finder::new(needle), 0)
    }

    /// Returns the offset of the last match of `needle`, or `None` if there is none. An empty needle matches at the
    /// end. The windows are searched from the last to the first. Fails as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// assert_eq!(buffer.rfind(b"\n")?, Some(buffer.len() - 1));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn rfind(&mut self, needle: &[u8]) -> Result<Option<u64>> {
        let (len, needed) = (self.len(), needle.len() as u64);
        if needed == 0 || needed > len {
            return Ok((needed == 0).then_some(len));
        }
        let finder = FinderRev::new(needle);
        let geometry = *self.file().geometry();
        for window in (0..geometry.count(len)).rev() {
            let start = geometry.span(window, len).start;
            let bytes = self.cursor.window_at(start)?;
            let (found, end) = (finder.rfind(bytes), start + bytes.len() as u64);
            self.cursor.validate(start + found.unwrap_or(0) as u64..end)?;
            if let Some(found) = found {
                return Ok(Some(start + found as u64));
            }
            // A match can start in an earlier window and end in this one or a later one.
            let across = self.find_across(start, needed, 0..len, |bytes| finder.rfind(bytes))?;
            if across.is_some() {
                return Ok(across);
            }
        }
        Ok(None)
    }

    /// Returns an iterator over the offsets of all matches of `needle`, in order, without overlaps. An empty needle
    /// matches at each offset from 0 to the length. Items fail as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// let lines = buffer.find_iter(b"\n").collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(lines[0], 9);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn find_iter<'a>(&'a mut self, needle: &'a [u8]) -> FindIter<'a> {
        FindIter { buffer: self, finder: Finder::new(needle), next: Some(0) }
    }

    /// Returns the offset of the first match that starts at `from` or later.
    fn find_from(&mut self, finder: &Finder<'_>, from: u64) -> Result<Option<u64>> {
        let (len, needed) = (self.len(), finder.needle().len() as u64);
        let mut at = from;
        while len.checked_sub(at).is_some_and(|left| left >= needed) {
            let bytes = self.cursor.window_at(at)?;
            let (found, end) = (finder.find(bytes), at + bytes.len() as u64);
            self.cursor.validate(at..found.map_or(end, |found| at + found as u64 + needed))?;
            if let Some(found) = found {
                return Ok(Some(at + found as u64));
            }
            if end == at {
                return Ok(None);
            }
            // A match can start in this window and end in a later one.
            let across = self.find_across(end, needed, at..len, |bytes| finder.find(bytes))?;
            if across.is_some() {
                return Ok(across);
            }
            at = end;
        }
        Ok(None)
    }

    /// Searches the bytes of `part` that a match of `needed` bytes across `border` can have.
    fn find_across(
        &mut self,
        border: u64,
        needed: u64,
        part: Range<u64>,
        find: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Option<u64>> {
        let start = border.saturating_sub(needed - 1).max(part.start);
        let end = border.saturating_add(needed - 1).min(part.end);
        if end.saturating_sub(start) < needed {
            return Ok(None);
        }
        let found = find(self.cursor.slice(start..end)?);
        self.cursor.validate(start..end)?;
        Ok(found.map(|found| start + found as u64))
    }

    /// Returns `true` if the file starts with `bytes`. Fails as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(maps.open("Cargo.toml")?.buffer().starts_with(b"[pack")?);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn starts_with(&mut self, bytes: &[u8]) -> Result<bool> {
        Ok(bytes.len() as u64 <= self.len() && self.compare_from(0, bytes)?.is_eq())
    }

    /// Returns `true` if the file ends with `bytes`. Fails as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(maps.open("Cargo.toml")?.buffer().ends_with(b"\n")?);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn ends_with(&mut self, bytes: &[u8]) -> Result<bool> {
        match self.len().checked_sub(bytes.len() as u64) {
            Some(start) => Ok(self.compare_from(start, bytes)?.is_eq()),
            None => Ok(false),
        }
    }

    /// Returns `true` if the file consists of exactly `bytes`. O(1) if the lengths differ. Fails as
    /// [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(maps.open("Cargo.toml")?.buffer().equals(&std::fs::read("Cargo.toml").unwrap())?);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn equals(&mut self, bytes: &[u8]) -> Result<bool> {
        Ok(bytes.len() as u64 == self.len() && self.compare_from(0, bytes)?.is_eq())
    }

    /// Compares the file with `bytes` lexicographically, as slices compare. Fails as [`Cursor::window_at`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::cmp::Ordering;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut buffer = maps.open("Cargo.toml")?.buffer();
    /// assert_eq!((buffer.compare(b"[")?, buffer.compare(b"a")?), (Ordering::Greater, Ordering::Less));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn compare(&mut self, bytes: &[u8]) -> Result<Ordering> {
        let common = usize::try_from(self.len()).map_or(bytes.len(), |len| len.min(bytes.len()));
        let order = self.compare_from(0, &bytes[..common])?;
        Ok(order.then(self.len().cmp(&(bytes.len() as u64))))
    }

    /// Compares `bytes` with the same number of bytes of the file from `at`.
    fn compare_from(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<Ordering> {
        while !bytes.is_empty() {
            let here = self.cursor.window_at(at)?;
            let common = here.len().min(bytes.len());
            if common == 0 {
                // Another thread noticed that the file is shorter now.
                return Ok(Ordering::Less);
            }
            let order = here[..common].cmp(&bytes[..common]);
            self.cursor.validate(at..at + common as u64)?;
            if order.is_ne() {
                return Ok(order);
            }
            bytes = &bytes[common..];
            at += common as u64;
        }
        Ok(Ordering::Equal)
    }

    /// Returns an iterator over the lines of the file, without their `\n` or `\r\n`, as
    /// [`BufRead::lines`](std::io::BufRead::lines) splits them. Each line is a [`Lease`] in one piece, even if it
    /// crosses windows.
    ///
    /// A line usually keeps its whole window mapped, so keeping all lines of a large file keeps all of it mapped. The
    /// iterator reads whole windows ahead, even for the first line. Items fail as [`Cursor::window_at`]
    /// and [`MappedFile::lease`] do.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let first = maps.open("Cargo.toml")?.buffer().lines().next().unwrap()?;
    /// assert_eq!(first, b"[package]");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn lines(&self) -> Lines {
        Lines { pieces: self.split(b'\n') }
    }

    /// Returns an iterator over the pieces of the file between the bytes equal to `separator`, as `slice::split`
    /// returns them. An empty file has one empty piece.
    ///
    /// Items are leases, and fail, as those of [`lines`](Self::lines).
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let pieces = maps.open("Cargo.toml")?.buffer().split(b'\n').collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!((&pieces[0][..], &pieces.last().unwrap()[..]), (&b"[package]"[..], &b""[..]));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn split(&self, separator: u8) -> Split {
        Split { file: self.file().clone(), separator, next: Some(0), window: Lease::default() }
    }
}

/// An iterator over the matches of a needle, made by [`Buffer::find_iter`]. It ends after an error.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let mut buffer = maps.open("Cargo.toml")?.buffer();
/// assert_eq!(buffer.find_iter(b"[package]").count(), 1);
/// # Ok::<(), smmap::Error>(())
/// ```
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct FindIter<'a> {
    buffer: &'a mut Buffer,
    finder: Finder<'a>,
    next: Option<u64>,
}

impl Iterator for FindIter<'_> {
    type Item = Result<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.next.take()?;
        let found = self.buffer.find_from(&self.finder, from).transpose()?;
        if let Ok(at) = found {
            self.next = at.checked_add(self.finder.needle().len().max(1) as u64);
        }
        Some(found)
    }
}

impl FusedIterator for FindIter<'_> {}

impl fmt::Debug for FindIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindIter").field("buffer", &self.buffer).field("next", &self.next).finish_non_exhaustive()
    }
}

/// An iterator over the lines of a file, made by [`Buffer::lines`]. It ends after an error.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// assert!(maps.open("Cargo.toml")?.buffer().lines().all(|line| line.is_ok_and(|line| !line.ends_with(b"\n"))));
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Lines {
    pieces: Split,
}

impl Iterator for Lines {
    type Item = Result<Lease>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.pieces.next()?;
        let is_ended = self.pieces.next.is_some();
        match line {
            // A line break at the end of the file does not start another line.
            Ok(line) if line.is_empty() && !is_ended => None,
            Ok(line) if line.ends_with(b"\r") && is_ended => Some(Ok(line.slice(..line.len() - 1))),
            line => Some(line),
        }
    }
}

impl FusedIterator for Lines {}

/// An iterator over the pieces of a file between separators, made by [`Buffer::split`]. It ends after an error.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// assert_eq!(maps.open("Cargo.toml")?.buffer().split(b'[').next().unwrap()?, b"");
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Split {
    file: MappedFile,
    separator: u8,
    /// The offset of the next piece; `None` if the last one ended with the file or failed.
    next: Option<u64>,
    /// The window of the last piece, held as a lease: a piece inside it costs one shared write and no lookup.
    window: Lease,
}

impl Iterator for Split {
    type Item = Result<Lease>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.next.take()?;
        Some(self.piece_at(start))
    }
}

impl FusedIterator for Split {}

impl Split {
    /// Returns the piece that starts at `start`, however many windows it crosses. Sets `next` if a separator ends it.
    fn piece_at(&mut self, start: u64) -> Result<Lease> {
        let mut at = start;
        while at < self.file.len() {
            self.hold_window_of(at)?;
            let here = (at - self.window.offset()) as usize;
            let Some(rest @ [_, ..]) = self.window.get(here..) else { break };
            let found = memchr::memchr(self.separator, rest);
            let len = found.unwrap_or(rest.len());
            let end = at + len as u64;
            let searched = rest.len().min(len + 1);
            self.file.validate(self.window.region(), at, &rest[..searched])?;
            if found.is_some() {
                let piece = self.lease(start..end)?;
                self.next = Some(end + 1);
                return Ok(piece);
            }
            at = end;
        }
        self.lease(start..at)
    }

    fn hold_window_of(&mut self, at: u64) -> Result<()> {
        let end = self.window.offset() + self.window.len() as u64;
        if !(self.window.offset()..end).contains(&at) {
            // The iterator releases the old window first, so that it never holds two.
            self.window = Lease::default();
            self.window = self.file.whole_window(self.file.geometry().index(at))?;
        }
        Ok(())
    }

    /// Returns `range` as a part of the held window or, if it starts in an earlier window, as a lease of its own.
    fn lease(&self, range: Range<u64>) -> Result<Lease> {
        match range.start.checked_sub(self.window.offset()) {
            Some(start) if range.end <= self.window.offset() + self.window.len() as u64 => {
                Ok(self.window.slice(start as usize..(range.end - self.window.offset()) as usize))
            }
            _ => self.file.lease(range),
        }
    }
}
