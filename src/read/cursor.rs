//! [`Cursor`]: a place in a file that moves, for one thread.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::{Range, RangeBounds};
use std::ptr::NonNull;
use std::{fmt, mem};

use crate::cache::region::{Hop, Reading, RegionRef, View};
use crate::error::{Error, ErrorKind, Result};
use crate::file::MappedFile;
use crate::geometry;
use crate::policy::{Access, AccessRun};

/// Who enters the next window within so many bytes of its start is taken to read on and on.
const GOING_ON: u64 = 4096;

/// No window goes on from here.
const NOWHERE: u64 = u64::MAX - 1;

/// A reader of a file that holds one window at a time, for use by one thread.
///
/// A cursor reads a file as if all of it were mapped. It releases its window before it moves to another one. Each
/// thread needs its own cursor: call [`MappedFile::cursor`] again, or clone one. A clone starts at the same position
/// and moves independently.
///
/// [`window_at`](Self::window_at) and [`slice`](Self::slice) read at a given offset. [`Read`], [`BufRead`] and [`Seek`]
/// use and move a *position*, which reads at an offset leave alone. `BufRead` returns the bytes of the window without a
/// copy.
///
/// # Performance
///
/// Inside its window, a read costs about as much as a slice, and writes nothing that another thread reads. To enter
/// another mapped window, the cursor stores to its own hazard record, and also stores the access frequency of the window
/// until that is saturated. It does not count itself as a client. The second window allocates 12 KiB, once, if the
/// window size is a power of two.
///
/// # Examples
///
/// ```
/// use smmap::MapManager;
/// use std::io::BufRead;
///
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let mut cursor = maps.open("Cargo.toml")?.cursor();
/// assert_eq!(cursor.slice(1..8)?, b"package");
/// let mut line = String::new();
/// cursor.read_line(&mut line).unwrap();
/// assert_eq!((line.as_str(), cursor.position()), ("[package]\n", 10));
/// # Ok::<(), smmap::Error>(())
/// ```
pub struct Cursor {
    /// Before `file`, and so dropped first: what it announces is a slot of that file.
    held: Held,
    /// For what is copied.
    scratch: Vec<u8>,
    position: u64,
    /// Where the position was when the buffer was filled last.
    filled: u64,
    /// What the policy is to know of who reads.
    run: AccessRun,
    file: MappedFile,
}

/// What a cursor holds, and where in the file its first byte is.
struct Held {
    reading: Reading,
    start: u64,
    /// The window that it is, or was last, to notice a reader who goes on; [`NOWHERE`] for a mapping of its own.
    window: u64,
}

impl Held {
    /// Whether the bytes from `start` to `end` are all here, and are any.
    #[inline]
    fn has(&self, start: u64, end: u64) -> bool {
        // Without branches for what cannot be: a start before the first byte wraps to more than any region has, and so does
        // the length of a reversed range, since no file reaches 2⁶³ bytes.
        self.reading.has(start.wrapping_sub(self.start), end.wrapping_sub(start))
    }

    /// They, or none.
    #[inline]
    fn get(&self, start: u64, end: u64) -> &[u8] {
        self.reading.get(start.wrapping_sub(self.start), end.wrapping_sub(start))
    }

    /// Whether `offset` is here, and this is a window.
    #[inline]
    fn has_from(&self, offset: u64) -> bool {
        self.window != NOWHERE && offset.wrapping_sub(self.start) < self.reading.len() as u64
    }

    /// The bytes from `offset` to the end of the window, or none.
    #[inline]
    fn get_from(&self, offset: u64) -> &[u8] {
        let (at, len) = (offset.wrapping_sub(self.start), self.reading.len() as u64);
        if self.has_from(offset) { self.reading.get(at, len - at) } else { &[] }
    }
}

impl MappedFile {
    /// Returns a cursor at the start of the file. It holds no window yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let cursor = maps.open("Cargo.toml")?.cursor();
    /// assert_eq!((cursor.position(), maps.stats().regions), (0, 0));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn cursor(&self) -> Cursor {
        let held = Held { reading: self.cache().reading(), start: 0, window: NOWHERE };
        let (scratch, run) = (Vec::new(), AccessRun::default());
        Cursor { held, scratch, position: 0, filled: 0, run, file: self.clone() }
    }
}

impl Cursor {
    /// Returns the bytes from `offset` to the end of its window or of the file, or no bytes if `offset` is at or past
    /// the end of the file.
    ///
    /// The call always maps the window, and never copies. The cursor holds the window until it moves to another, is
    /// [released](Self::release) or is dropped.
    ///
    /// # Performance
    ///
    /// If the cursor enters the next window within its first 4 KiB, it asks the OS whether that window is in memory. If
    /// it is not, on Linux the call reads all of it before it returns. On other Unix systems, the call only advises the
    /// OS to do so.
    ///
    /// # Errors
    ///
    /// After an error, the cursor holds no window.
    ///
    /// - [`OverBudget`](crate::ErrorKind::OverBudget) if there is no room and [`Overcommit`](crate::Overcommit) does
    ///   not allow more.
    /// - [`OutOfMaps`](crate::ErrorKind::OutOfMaps) if the OS refuses the mapping.
    /// - [`Truncated`](crate::ErrorKind::Truncated) if the file is now shorter than [`len`](MappedFile::len).
    /// - [`Replaced`](crate::ErrorKind::Replaced) as in [`MappedFile::refresh`].
    /// - [`Io`](crate::ErrorKind::Io) for any other error of the OS.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{MapManager, Window};
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 4096 }).build()? };
    /// let file = maps.open("src/lib.rs")?;
    /// let (mut cursor, mut at) = (file.cursor(), 0);
    /// while let bytes @ [_, ..] = cursor.window_at(at)? {
    ///     at += bytes.len() as u64;
    /// }
    /// assert_eq!(at, file.len());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn window_at(&mut self, offset: u64) -> Result<&[u8]> {
        if !self.held.has_from(offset) || self.is_outgrown() || self.held.reading.is_faulted() {
            self.move_to(offset)?;
        }
        Ok(self.held.get_from(offset))
    }

    /// Whether the window it holds ends before the file and before a window would: the file has grown since.
    #[inline]
    fn is_outgrown(&self) -> bool {
        let len = self.held.reading.len() as u64;
        self.held.start + len < self.file.len() && self.file.geometry().window_bytes() != Some(len)
    }

    /// Holds the window of `offset`; nothing, if the file ends before it.
    #[cold]
    fn move_to(&mut self, offset: u64) -> Result<()> {
        loop {
            let len = self.file.len();
            let (window, start) = self.file.geometry().locate(offset);
            // As far as the file is known to reach by now: there may be an older mapping of its tail, about to go.
            let end = self.file.geometry().span(window, len).end;
            if self.hop(offset, end).is_some() {
                return Ok(());
            }
            // One window at a time: the old one is not pinned while the new one is looked for.
            self.let_go();
            if offset >= len {
                return Ok(());
            }
            let (reading, touch) = (&mut self.held.reading, Access::Counted);
            if self.file.cache().protect(reading, self.file.cached(), window, end - start, touch).is_ok() {
                self.is_at(start, Some(window), offset);
                return Ok(());
            }
            match self.file.demanded_window(window, end) {
                // Noticed to be shorter meanwhile; `offset` may be inside still.
                Err(error) if error.kind() == ErrorKind::Truncated && self.file.len() < len => {}
                region => {
                    self.hold(region?, start, Some(window), offset);
                    return Ok(());
                }
            }
        }
    }

    /// Checks that the file had all bytes of `range` when the last call returned them. Call it after using the bytes
    /// and before the next call, if other processes may truncate the file.
    ///
    /// The check covers the part of `range` inside the window that the cursor holds, and passes for the rest.
    /// [`Lease::check`](crate::Lease::check) says what it can detect and what it costs.
    ///
    /// # Errors
    ///
    /// Those of [`Lease::check`](crate::Lease::check), such as [`Truncated`](crate::ErrorKind::Truncated) if the file
    /// ends, or ended, before `range` does, and [`Io`](crate::ErrorKind::Io) if the medium failed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// let is_package = cursor.slice(..9)? == b"[package]";
    /// cursor.check(..9)?;
    /// assert!(is_package);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn check(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let (start, end) = geometry::ends(&range);
        let Held { start: first, reading, .. } = &self.held;
        let (start, end) = (start.max(*first), end.min(first + reading.len() as u64));
        if start >= end { Ok(()) } else { reading.check((start - first) as usize, (end - start) as usize, start) }
    }

    /// Whether the bytes of `range`, as the last call gave them, were all there.
    #[inline]
    pub(super) fn confirm(&self, range: Range<u64>) -> Result<()> {
        match self.held.get(range.start, range.end) {
            bytes @ [_, ..] => {
                let at = (range.start - self.held.start) as usize;
                self.file.confirm(&self.held.reading, at, bytes.len(), range.start)
            }
            // Copied, and so checked.
            [] => Ok(()),
        }
    }

    /// Goes to the window of `start`, if it has been there before, and that is mapped up to `end`: the hit. What it held before
    /// it lets go of. Where the byte at `start` is: told by itself, so that it stays in a register.
    #[inline(always)]
    fn hop(&mut self, start: u64, end: u64) -> Option<NonNull<u8>> {
        let (hop, is_full) = self.file.cache().announce_near(&mut self.held.reading, start, end)?;
        let Hop { window, start: first, address, .. } = hop;
        let goes_on = self.goes_on(window, start - first);
        (self.held.start, self.held.window) = (first, window);
        if goes_on || !is_full {
            self.hopped(goes_on);
        }
        Some(address)
    }

    /// What is left to do after some.
    #[inline(never)]
    fn hopped(&self, goes_on: bool) {
        self.file.cache().touch(&self.held.reading, self.held.start);
        if goes_on {
            self.read_in();
        }
    }

    /// Whether it goes on to the next window, and not to anywhere in there: who reads at random hardly ever does.
    #[inline(always)]
    fn goes_on(&self, window: u64, at: u64) -> bool {
        // In this order: who reads at random is often in the next window, and seldom at its start.
        at < GOING_ON && self.held.window.wrapping_add(1) == window
    }

    /// Holds what serves a read at `offset`.
    fn hold(&mut self, region: RegionRef, start: u64, window: Option<u64>, offset: u64) {
        self.held.reading.hold(region, window);
        self.is_at(start, window, offset);
    }

    /// Takes note of where it is, to read at `offset`.
    fn is_at(&mut self, start: u64, window: Option<u64>, offset: u64) {
        let goes_on = window.is_some_and(|window| self.goes_on(window, offset - start));
        (self.held.start, self.held.window) = (start, window.unwrap_or(NOWHERE));
        if goes_on {
            self.read_in();
        }
    }

    fn read_in(&self) {
        self.file.cache().read_in(self.file.cached(), &self.held.reading, self.held.start);
    }

    /// Holds nothing any more.
    fn let_go(&mut self) {
        if self.held.reading.release() {
            self.file.cache().retry_deferred();
        }
    }

    /// Returns exactly the bytes of `range`, in one piece, even if they cross windows.
    ///
    /// A range of at most 256 KiB is copied into a buffer of the cursor in three cases: it crosses windows; its window
    /// is not mapped and [`Admission`](crate::Admission) does not find that a mapping pays off; or another thread is
    /// mapping or unmapping the window. A larger range is always mapped. If it crosses windows, it is mapped as a
    /// detached region, which is unmapped when the cursor leaves it.
    ///
    /// # Performance
    ///
    /// O(1) inside the window that the cursor holds. A copy is O(bytes). A cursor that moves forward reads ahead as
    /// described at [`window_at`](Self::window_at).
    ///
    /// # Errors
    ///
    /// - [`OutOfBounds`](crate::ErrorKind::OutOfBounds) if `range` is reversed or reaches past the end of the file.
    /// - Those of [`window_at`](Self::window_at). `OverBudget` and `OutOfMaps` are possible only for more than 256 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// let mut cursor = file.cursor();
    /// assert_eq!(cursor.slice(..=8)?, b"[package]");
    /// assert_eq!(cursor.slice(file.len()..)?, b"");
    /// assert_eq!(cursor.slice(file.len() - 1..=file.len()).unwrap_err().kind(), ErrorKind::OutOfBounds);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn slice(&mut self, range: impl RangeBounds<u64>) -> Result<&[u8]> {
        // Without the length of the file, which is for the slow way to look at.
        let (start, end) = geometry::ends(&range);
        if !self.held.reading.is_faulted() && self.held.has(start, end) {
            return Ok(self.held.get(start, end));
        }
        // In two, so that the bytes come in registers.
        let mut failed = None;
        match (self.slice_elsewhere(range, &mut failed), failed) {
            (Some(bytes), _) => Ok(bytes),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("neither bytes nor an error"),
        }
    }

    /// One call, for all that is not here: so the fast way keeps what it looks at in registers. `None` if it `failed`.
    #[inline(never)]
    fn slice_elsewhere(&mut self, range: impl RangeBounds<u64>, failed: &mut Option<Error>) -> Option<&[u8]> {
        let (start, end) = geometry::ends(&range);
        if let Some(address) = self.hop(start, end) {
            return Some(self.held.reading.at(address, end - start));
        }
        self.slice_far(range).map_err(|error| *failed = Some(error)).ok()
    }

    #[cold]
    fn slice_far(&mut self, range: impl RangeBounds<u64>) -> Result<&[u8]> {
        let range = self.file.resolve(&range)?;
        if range.is_empty() {
            return Ok(&[]);
        }
        // One window at a time: the old one is not pinned while the new one is looked for.
        self.let_go();
        let (window, start) = self.file.geometry().locate(range.start);
        let touch = self.run.next(window, start, range.start, range.end);
        let reading = &mut self.held.reading;
        match self.file.cache().protect(reading, self.file.cached(), window, range.end - start, touch) {
            Ok(()) => self.is_at(start, Some(window), range.start),
            Err(slot) => match self.file.region_for(&range, slot, touch)? {
                Some(found) => self.hold(found.region, found.start, found.window, range.start),
                None => {
                    self.file.copied(range, &mut self.scratch)?;
                    return Ok(&self.scratch);
                }
            },
        }
        Ok(self.held.get(range.start, range.end))
    }

    /// Releases the window that the cursor holds, so that it may be unmapped, and frees the copy buffer. The cursor
    /// stays usable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// cursor.window_at(0)?;
    /// assert_eq!(maps.stats().pinned_regions, 1);
    /// cursor.release();
    /// assert_eq!(maps.stats().pinned_regions, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn release(&mut self) {
        self.let_go();
        self.scratch = Vec::new();
    }

    /// Returns the position: the offset of the next byte that [`Read`] and [`BufRead`] return. It may be past the end
    /// of the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// # use std::io::Read;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// cursor.read_exact(&mut [0; 9]).unwrap();
    /// assert_eq!(cursor.position(), 9);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sets the position. Any offset is allowed, even past the end of the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// # use std::io::Read;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// cursor.set_position(1 << 40);
    /// assert_eq!(cursor.read(&mut [0; 9]).unwrap(), 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
    }

    /// Returns the file that the cursor reads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let cursor = maps.open("Cargo.toml")?.cursor();
    /// assert!(cursor.file().path().is_some_and(|path| path.ends_with("Cargo.toml")));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn file(&self) -> &MappedFile {
        &self.file
    }
}

/// Returns a cursor at the same position that holds no window.
impl Clone for Cursor {
    fn clone(&self) -> Self {
        let mut clone = self.file.cursor();
        clone.position = self.position;
        clone
    }
}

/// Copies bytes from mapped windows, and from windows that [`Admission`](crate::Admission) maps; reads the others from
/// the file. Never fails for lack of room in the budget. One call copies at most up to the end of a window.
impl Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.len();
        if self.position >= len || buf.is_empty() {
            return Ok(0);
        }
        let (window, start) = self.file.geometry().locate(self.position);
        let span = self.file.geometry().span(window, len);
        let end = self.position.saturating_add(buf.len() as u64).min(span.end);
        let buf = &mut buf[..(end - self.position) as usize];
        let is_here = !self.held.reading.is_faulted() && self.held.has(self.position, end);
        if !is_here && self.hop(self.position, end).is_none() {
            self.let_go();
            let touch = self.run.next(window, start, self.position, end);
            if let Some(region) = self.file.window_if_worth(window, end, touch)? {
                self.hold(region, start, Some(window), self.position);
            }
        }
        if self.held.reading.region().is_some() {
            let at = (self.position - self.held.start) as usize;
            self.file.copy_from(&self.held.reading, at, self.position, buf)?;
        } else {
            self.file.read(self.position, buf)?;
        }
        self.position = end;
        Ok(buf.len())
    }
}

/// Returns the rest of the window as the buffer, without a copy. Always maps the window, as
/// [`window_at`](Cursor::window_at) does.
///
/// `fill_buf` also [checks](Cursor::check) the bytes consumed since its last call, and fails if the file did not have
/// them. To check the last bytes of the file, call it once more at the end.
impl BufRead for Cursor {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let consumed = mem::replace(&mut self.filled, self.position)..self.position;
        if consumed.start < consumed.end {
            self.confirm(consumed)?;
        }
        Ok(self.window_at(self.position)?)
    }

    fn consume(&mut self, amount: usize) {
        self.position = self.position.saturating_add(amount as u64);
    }
}

/// Sets the position. A position past the end of the file is allowed; one before the start is an error.
impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.file.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the start of the file, or beyond all offsets")
        })?;
        Ok(self.position)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.start..self.held.start + self.held.reading.len() as u64;
        f.debug_struct("Cursor")
            .field("file", &self.file)
            .field("position", &self.position)
            .field("holds", &held)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::{MapManager, Window};
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::thread;

    /// The length is told before the old mapping of the tail goes.
    #[test]
    fn a_window_reaches_as_far_as_the_length_that_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "old").unwrap();
        #[allow(unsafe_code, reason = "the promise is kept: the file is appended to")]
        // SAFETY: the file is only appended to.
        let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 1 << 16 }).build() }.unwrap();
        let file = maps.open(&path).unwrap();
        assert_eq!(file.cursor().window_at(0).unwrap(), b"old");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and new").unwrap();
        let look = || crate::os::stat_path(&path);
        let meanwhile = |_| {
            assert_eq!(file.len(), 11);
            thread::scope(|scope| {
                let reader = scope.spawn(|| file.cursor().window_at(1).unwrap().to_vec());
                assert_eq!(reader.join().unwrap(), b"ld and new");
            });
        };
        file.cached().entry.notice(look, meanwhile).unwrap();
    }
}
