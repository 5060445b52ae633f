//! [`Cursor`]: a place in a file that moves, for one thread.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::{Range, RangeBounds};
use std::ptr::NonNull;
use std::{fmt, mem};

use super::need;
use crate::cache::prefault::Pattern;
use crate::cache::region::Region;
use crate::cache::window_guard::{Switch, WindowGuard};
use crate::cache::{Acquired, Need};
use crate::error::{Error, ErrorKind, Result};
use crate::fault_guard;
use crate::file::MappedFile;
use crate::geometry;
use crate::policy::{Access, AccessRun};

/// The most bytes that `read_to_end` fills with zeros before it reads them: they are still in the cache then.
const READ_TO_END_PART: usize = 128 << 10;

/// A reader of a file that holds one window at a time, for use by one thread.
///
/// A cursor reads a file as if all of it were mapped. Each thread needs its own: call [`MappedFile::cursor`] again, or
/// clone one.
///
/// [`window_at`](Self::window_at) and [`slice`](Self::slice) read at a given offset. [`Read`], [`BufRead`] and [`Seek`]
/// use and move a *position*, which reads at an offset leave alone.
///
/// # Performance
///
/// Inside its window, a read costs about as much as a slice, and writes nothing that another thread reads. To enter
/// another mapped window, the cursor stores to its own hazard record, and stores the access frequency of the window
/// until that is saturated.
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
    /// The protected window. It precedes `file`, so that it is dropped first: `file` owns the slots.
    held: WindowGuard,
    /// The bytes of the last `slice` or `fill_buf` that was copied.
    copied: Vec<u8>,
    /// The place of `copied` in the file, if `fill_buf` has copied it.
    copied_at: Option<CopiedAt>,
    position: u64,
    /// The position when `fill_buf` was called last.
    filled: u64,
    /// The pattern of the cursor's accesses, for the admission policy.
    run: AccessRun,
    file: MappedFile,
}

/// The place and the age of a copy.
#[derive(Clone, Copy, Debug)]
struct CopiedAt {
    start: u64,
    /// The number of changes of the file that were noticed before the copy.
    changes: u32,
}

/// The sizes of the smallest and the largest copy that `fill_buf` makes. A copy twice as large follows if the reader
/// consumes all of one, so that a sequential reader makes few system calls until its window is mapped.
const FILL: (usize, usize) = (4 << 10, 64 << 10);

impl MappedFile {
    /// Returns a cursor at the start of the file. It holds no window yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let cursor = maps.open("Cargo.toml")?.cursor();
    /// assert_eq!((cursor.position(), maps.stats().regions), (0, 0));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn cursor(&self) -> Cursor {
        let (held, run) = (self.cache().window_guard(self.cached()), AccessRun::default());
        Cursor { held, copied: Vec::new(), copied_at: None, position: 0, filled: 0, run, file: self.clone() }
    }
}

impl Cursor {
    /// Returns the bytes from `offset` to the end of its window or of the file, or no bytes if `offset` is at or past
    /// the end of the file.
    ///
    /// The call maps the window. If the OS [does not map](crate::ErrorKind::Unmappable) the file, or would allocate
    /// memory for its holes (tmpfs), the call reads the window into memory instead, inside the budget. The cursor holds
    /// the window until it moves to another, is [released](Self::release) or is dropped.
    ///
    /// # Performance
    ///
    /// A call that returns bytes of a mapped window makes no system call.
    ///
    /// A call that maps the window also has it read from the disk, if the cursor reads sequentially and the window is
    /// not in memory: on Linux ahead of the reader, in parts of a few MiB, or before the call returns if the window is
    /// short. (Other Unix systems are only advised.) A cursor reads sequentially if several of its reads started where
    /// the one before ended, give or take 4 KiB. A cursor that enters the next window counts as having read to the end
    /// of the one before if any reader accessed that end through its mapping.
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
        if !self.held.is_window_of(offset) || self.is_outgrown() || self.held.is_faulted() {
            self.move_to(offset)?;
        }
        Ok(self.held.get_from(offset))
    }

    /// Returns `true` if the file has grown and its held window, the old tail, could now reach further.
    #[inline]
    fn is_outgrown(&self) -> bool {
        let len = self.held.bytes().len() as u64;
        self.held.end() < self.file.len() && self.file.geometry().window_bytes() != Some(len)
    }

    /// Holds the window of `offset`, or nothing if the file ends before it.
    #[cold]
    fn move_to(&mut self, offset: u64) -> Result<()> {
        loop {
            let len = self.file.len();
            let (window, start) = self.file.geometry().locate(offset);
            // Up to the end of the file as it is known now: an older region of its tail may be draining.
            let end = self.file.geometry().span(window, len).end;
            if self.switch_window(offset, end.saturating_sub(offset), 0).is_some() {
                // The caller gets all bytes of a scattered window. Most likely, it reads them.
                if offset == start && self.held.is_scattered() {
                    self.held.region().into_iter().for_each(Region::end_scattered);
                }
                return Ok(());
            }
            if offset >= len {
                self.release_window();
                return Ok(());
            }
            // It is not known how much of the window will be read.
            self.next_access(window, start, offset, offset);
            match self.hold_range(&(offset..end), start, Access::Counted, Need::Window) {
                // Another thread noticed that the file is shorter. `offset` may still be inside.
                Err(error) if error.kind() == ErrorKind::Truncated && self.file.len() < len => {}
                acquired => return acquired.map(drop),
            }
        }
    }

    /// Checks that the file had all bytes of `range` when the last call returned them. Call it after using the bytes
    /// and before the next call, if other processes may truncate the file.
    ///
    /// The check covers the part of `range` inside the window that the cursor holds, and passes for the rest.
    /// [`Lease::check`](crate::Lease::check) says what it can detect, what it costs, and which errors it returns.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// let sum: u32 = cursor.slice(..9)?.iter().map(|&byte| u32::from(byte)).sum();
    /// cursor.check(..9)?; // `sum` is the sum of bytes of the file.
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn check(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let (start, end) = geometry::ends(&range);
        let (start, end) = (start.max(self.held.start()), end.min(self.held.end()));
        match self.held.region() {
            Some(region) if start < end => region.validate(start, self.held.get(start, end)),
            _ => Ok(()),
        }
    }

    /// Returns an error if bytes of `range` in the held window are suspect and not the file's. Other bytes were copied,
    /// and checked then.
    #[inline]
    pub(super) fn validate(&self, range: Range<u64>) -> Result<()> {
        match self.held.get(range.start, range.end) {
            bytes @ [_, ..] => self.file.validate(self.held.region(), range.start, bytes),
            [] => Ok(()),
        }
    }

    /// Switches to the window of `start` if `len` bytes are mapped there: the hit. Returns the address of the first
    /// one. `len` is not 0. Of these bytes, `read` are known to be read.
    #[inline(always)]
    fn switch_window(&mut self, start: u64, len: u64, read: u64) -> Option<NonNull<u8>> {
        let Switch { slot, address, is_recorded, is_same } = self.held.switch(start, len)?;
        if !is_same {
            self.file.cache().record_access(slot);
        }
        if is_recorded {
            self.held.record_scattered_read(start..start + read);
        }
        Some(address)
    }

    /// Classifies a read from `start` to `end`, for which `window`, which starts at `first`, may be mapped.
    fn next_access(&mut self, window: u64, first: u64, start: u64, end: u64) -> Access {
        let Self { run, file, .. } = self;
        run.next(window, first, start, end, || file.cached().was_end_of_window_read(window.wrapping_sub(1)))
    }

    /// Holds the region that serves `range`, which is not empty and lies inside the file. Its first window starts at
    /// `first`. Returns `false` if the caller has to read the file. On an error the cursor holds nothing.
    fn hold_range(&mut self, range: &Range<u64>, first: u64, access: Access, need: Need) -> Result<bool> {
        // This comes before the lookup, so that the cursor never pins two windows.
        self.release_window();
        let (cache, file) = (self.file.cache(), self.file.cached());
        let window = self.file.geometry().index(range.start);
        if let Err(slot) = cache.lookup_protected(&mut self.held, file, window, first, range.end, access) {
            match self.file.acquire(slot, range, need)? {
                Acquired::Region { region, start, window } => self.held.hold(region, start, window),
                Acquired::ReadFile => return Ok(false),
            }
            let pattern = if self.run.is_sequential() {
                Pattern::Sequential
            } else if need == Need::Window && self.run.is_scattered() {
                Pattern::Scattered
            } else {
                need.pattern()
            };
            if let Some(region) = self.held.region() {
                region.expect(self.held.start(), pattern);
            }
            if pattern == Pattern::Sequential {
                file.end_large_pages(window.wrapping_sub(1));
            }
        }
        if need != Need::Window && self.held.is_scattered() {
            self.held.record_scattered_read(range.clone());
        }
        self.run.set_mapped();
        Ok(true)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> &WindowGuard {
        &self.held
    }

    fn release_window(&mut self) {
        if self.held.release() {
            self.file.cache().retry_deferred_for_cursor();
        }
    }

    /// Returns exactly the bytes of `range`, in one piece, even if they cross windows.
    ///
    /// A range of at most 256 KiB is copied into a buffer of the cursor in the cases listed at [`MappedFile::lease`]. A
    /// larger range is always mapped. If it crosses windows, it is mapped as a detached region, which is unmapped when
    /// the cursor leaves it.
    ///
    /// O(1) inside the window that the cursor holds. A copy is O(bytes). A cursor that moves forward reads ahead as
    /// described at [`window_at`](Self::window_at).
    ///
    /// # Errors
    ///
    /// Those of [`MappedFile::lease`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::ErrorKind;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// let mut cursor = file.cursor();
    /// assert_eq!(cursor.slice(..=8)?, b"[package]");
    /// assert_eq!(cursor.slice(file.len()..)?, b"");
    /// assert_eq!(cursor.slice(file.len() - 1..=file.len()).unwrap_err().kind(), ErrorKind::OutOfBounds);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn slice(&mut self, range: impl RangeBounds<u64>) -> Result<&[u8]> {
        // The file's length is left to the slow path: bytes that the guard holds are inside the file.
        let (start, end) = geometry::ends(&range);
        if !self.held.is_faulted() && self.held.contains(start, end) {
            return Ok(self.held.get(start, end));
        }
        // The error comes separately, so that the bytes are returned in registers.
        let mut failed = None;
        match self.slice_elsewhere(range, &mut failed) {
            Some(bytes) => {
                // Spares the test that a drop makes.
                mem::forget(failed);
                Ok(bytes)
            }
            None => {
                Err(failed.unwrap_or_else(|| unreachable!("`slice_elsewhere` returned neither bytes nor an error")))
            }
        }
    }

    /// Returns bytes outside the held region, or `None` and the error in `failed`.
    #[inline(never)]
    fn slice_elsewhere(&mut self, range: impl RangeBounds<u64>, failed: &mut Option<Error>) -> Option<&[u8]> {
        let (start, end) = geometry::ends(&range);
        let len = end.wrapping_sub(start);
        if let Some(address) = self.switch_window(start, len, len) {
            return Some(self.held.bytes().get_at_address(address, len));
        }
        self.slice_acquired(range, failed)
    }

    /// As [`slice_elsewhere`](Self::slice_elsewhere), for a range whose window is not mapped, or not up to its end.
    #[cold]
    #[inline(never)]
    fn slice_acquired(&mut self, range: impl RangeBounds<u64>, failed: &mut Option<Error>) -> Option<&[u8]> {
        let range = match self.file.resolve(&range) {
            Ok(range) if !range.is_empty() => range,
            resolved => {
                // A switch that found its window too short leaves it protected.
                if self.held.region().is_none() {
                    self.release_window();
                }
                *failed = resolved.err();
                return if failed.is_none() { Some(&[]) } else { None };
            }
        };
        self.hold_or_copy_range(range).map_err(|error| *failed = Some(error)).ok()
    }

    fn hold_or_copy_range(&mut self, range: Range<u64>) -> Result<&[u8]> {
        let (window, first) = self.file.geometry().locate(range.start);
        let access = self.next_access(window, first, range.start, range.end);
        if self.hold_range(&range, first, access, need(&range, access))? {
            return Ok(self.held.get(range.start, range.end));
        }
        self.copied_at = None;
        self.file.copy_into(range, &mut self.copied)?;
        Ok(&self.copied)
    }

    /// Releases the window that the cursor holds, so that it may be unmapped, and frees the copy buffer. The cursor
    /// stays usable.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// cursor.window_at(0)?;
    /// assert_eq!(maps.stats().pinned_regions, 1);
    /// cursor.release();
    /// assert_eq!(maps.stats().pinned_regions, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn release(&mut self) {
        self.release_window();
        (self.copied, self.copied_at) = (Vec::new(), None);
    }

    /// Returns the position: the offset of the next byte that [`Read`] and [`BufRead`] return. It may be past the end
    /// of the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// std::io::Read::read_exact(&mut cursor, &mut [0; 9]).unwrap();
    /// assert_eq!(cursor.position(), 9);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sets the position. Any offset is allowed, even past the end of the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let mut cursor = maps.open("Cargo.toml")?.cursor();
    /// cursor.set_position(1 << 40);
    /// assert_eq!(std::io::Read::read(&mut cursor, &mut [0; 9]).unwrap(), 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
    }

    /// Returns the file that the cursor reads.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let cursor = maps.open("Cargo.toml")?.cursor();
    /// assert!(cursor.file().path().is_some_and(|path| path.ends_with("Cargo.toml")));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
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

impl Cursor {
    /// Fills `buf`, moves the position and returns `true` if the held region and the file contain all of its bytes: the
    /// hit of [`Read`].
    #[inline]
    fn copy_held(&mut self, buf: &mut [u8]) -> Result<bool> {
        // A sum that overflows is past the end of each region.
        let end = self.position.wrapping_add(buf.len() as u64);
        if self.held.is_faulted() || end > self.file.len() {
            return Ok(false);
        }
        let Some(source) = self.held.copy_to(self.position, buf) else { return Ok(false) };
        self.file.replace_suspect(self.held.region(), source, self.position, buf)?;
        self.position = end;
        Ok(true)
    }

    #[inline(never)]
    fn read_elsewhere(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.file.len();
        if self.position >= len || buf.is_empty() {
            return Ok(0);
        }
        let (window, start) = self.file.geometry().locate(self.position);
        let span = self.file.geometry().span(window, len);
        let end = self.position.saturating_add(buf.len() as u64).min(span.end);
        let buf = &mut buf[..(end - self.position) as usize];
        let copied = self.copied_rest(len);
        if !copied.is_empty() {
            let count = copied.len().min(buf.len());
            buf[..count].copy_from_slice(&self.copied[copied][..count]);
            self.position += count as u64;
            return Ok(count);
        }
        let is_held = !self.held.is_faulted() && self.held.contains(self.position, end);
        let len = end - self.position;
        if !is_held && self.switch_window(self.position, len, len).is_none() {
            let access = self.next_access(window, start, self.position, end);
            self.hold_range(&(self.position..end), start, access, Need::Optional(access))?;
        }
        match self.held.copy_to(self.position, buf) {
            Some(source) => self.file.replace_suspect(self.held.region(), source, self.position, buf)?,
            None => self.file.read(self.position, buf)?,
        }
        self.position = end;
        Ok(buf.len())
    }

    #[inline(never)]
    fn read_exact_elsewhere(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_elsewhere(buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buf = &mut buf[read..],
            }
        }
        Ok(())
    }

    /// Returns the bytes of [`BufRead::fill_buf`] if they are not held, or if the fault guard is installed.
    #[inline(never)]
    fn fill_elsewhere(&mut self) -> Result<&[u8]> {
        let consumed = mem::replace(&mut self.filled, self.position)..self.position;
        if consumed.start < consumed.end {
            self.validate(consumed)?;
        }
        if !self.held.is_faulted() && self.held.holds(self.position) {
            return Ok(self.held.rest(self.position));
        }
        let copied = loop {
            let len = self.file.len();
            if self.position >= len {
                self.release_window();
                return Ok(&[]);
            }
            let copied = self.copied_rest(len);
            if !copied.is_empty() {
                break copied;
            }
            match self.hold_or_copy(len) {
                // Another thread noticed that the file is shorter. The position may still be inside.
                Err(error) if error.kind() == ErrorKind::Truncated && self.file.len() < len => {}
                Err(error) => return Err(error),
                Ok(true) => return Ok(self.held.rest(self.position)),
                Ok(false) => break 0..self.copied.len(),
            }
        };
        Ok(&self.copied[copied])
    }

    /// Holds the region at the position, which is inside the file of `len` bytes, and returns `true`. If the window is
    /// not worth mapping, copies a part of it and returns `false`.
    fn hold_or_copy(&mut self, len: u64) -> Result<bool> {
        if self.switch_window(self.position, 1, 1).is_some() {
            return Ok(true);
        }
        let (window, start) = self.file.geometry().locate(self.position);
        let is_continued =
            self.copied_at.is_some_and(|copied| copied.start + self.copied.len() as u64 == self.position);
        let fill = if is_continued { (2 * self.copied.len()).clamp(FILL.0, FILL.1) } else { FILL.0 };
        let end = self.position.saturating_add(fill as u64).min(self.file.geometry().span(window, len).end);
        let access = self.next_access(window, start, self.position, end);
        if self.hold_range(&(self.position..end), start, access, Need::Optional(access))? {
            return Ok(true);
        }
        // Before the read, so that a change that is noticed meanwhile makes the copy out of date.
        let changes = self.file.cached().changes();
        self.copied_at = None;
        self.file.copy_into(self.position..end, &mut self.copied)?;
        self.copied_at = Some(CopiedAt { start: self.position, changes });
        Ok(false)
    }

    /// Returns the part of `copied` from the position on, as far as `fill_buf` has copied it and the file of `len`
    /// bytes reaches. Returns an empty range if a change of the file was noticed since.
    fn copied_rest(&self, len: u64) -> Range<usize> {
        match self.copied_at {
            Some(CopiedAt { start, changes }) if changes == self.file.cached().changes() => {
                let end = (start + self.copied.len() as u64).min(len);
                // Lossless, both: inside the copy.
                if (start..end).contains(&self.position) {
                    (self.position - start) as usize..(end - start) as usize
                } else {
                    0..0
                }
            }
            _ => 0..0,
        }
    }
}

/// Copies bytes from mapped windows, and from windows that [`Admission`](crate::Admission) maps; reads the others from
/// the file. Never fails for lack of room in the budget. One `read` copies at most up to the end of a window.
impl Read for Cursor {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.copy_held(buf)? {
            return Ok(buf.len());
        }
        Ok(self.read_elsewhere(buf)?)
    }

    #[inline]
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if self.copy_held(buf)? {
            return Ok(());
        }
        self.read_exact_elsewhere(buf)
    }

    /// Reads up to the end of the file. Allocates all at once, so it fails at once if the rest does not fit in memory.
    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let before = buf.len();
        loop {
            let left = usize::try_from(self.file.len().saturating_sub(self.position)).unwrap_or(usize::MAX);
            let (at, part) = (buf.len(), left.min(READ_TO_END_PART));
            if part == 0 {
                return Ok(at - before);
            }
            buf.try_reserve(left)?;
            buf.resize(at + part, 0);
            let read = self.read(&mut buf[at..]);
            buf.truncate(at + read.as_ref().copied().unwrap_or(0));
            read?;
        }
    }
}

/// Returns the rest of the window as the buffer, without a copy, if the window is mapped or if
/// [`Admission`](crate::Admission) maps it, as it does for a sequential reader. Of another window, reads 4 to 64 KiB
/// into a buffer of the cursor; [`window_at`](Cursor::window_at) always maps. Never fails for lack of room in the
/// budget.
///
/// [`Read`] takes bytes from that buffer too. Its bytes are those that the file had when they were read. The cursor
/// reads them again after [`refresh`](MappedFile::refresh) noticed a change, and after a
/// [`release`](Cursor::release).
///
/// `fill_buf` also [checks](Cursor::check) the bytes consumed since its last call, and fails if the file did not have
/// them. To check the last bytes of the file, call it again at the end.
impl BufRead for Cursor {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Bytes that the cursor holds are inside the file: its length is left to the slow path. So is the check of the
        // consumed bytes.
        if !fault_guard::is_installed() && self.held.holds(self.position) {
            return Ok(self.held.rest(self.position));
        }
        Ok(self.fill_elsewhere()?)
    }

    #[inline]
    fn consume(&mut self, amount: usize) {
        self.position = self.position.saturating_add(amount as u64);
    }
}

/// Sets the position. A position past the end of the file is allowed; one before the start is an error.
impl Seek for Cursor {
    #[inline]
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.file.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(no_such_position)?;
        Ok(self.position)
    }

    #[inline]
    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position)
    }

    #[inline]
    fn seek_relative(&mut self, offset: i64) -> io::Result<()> {
        self.position = self.position.checked_add_signed(offset).ok_or_else(no_such_position)?;
        Ok(())
    }
}

#[cold]
fn no_such_position() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the start of the file, or beyond all offsets")
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.release_window();
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.region().map(|_| self.held.start()..self.held.end());
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

    /// The new length is published before the old region of the tail is drained.
    #[test]
    fn window_at_reaches_the_noticed_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "old").unwrap();
        #[allow(unsafe_code, reason = "the promise is kept: the file is appended to")]
        // SAFETY: the file is only appended to.
        let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 1 << 16 }).build() }.unwrap();
        let file = maps.open(&path).unwrap();
        assert_eq!(file.cursor().window_at(0).unwrap(), b"old");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and new").unwrap();
        let descriptor = fs::File::open(&path).unwrap();
        let meanwhile = |_| {
            assert_eq!(file.len(), 11);
            thread::scope(|scope| {
                let reader = scope.spawn(|| file.cursor().window_at(1).unwrap().to_vec());
                assert_eq!(reader.join().unwrap(), b"ld and new");
            });
        };
        file.cached().record_stat(&descriptor, meanwhile).unwrap();
    }
}
