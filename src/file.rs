//! [`MappedFile`]: a handle of an open file, through which threads read it.

use std::fmt;
use std::ops::{Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::cache::prefault::Pattern;
use crate::cache::region::{Region, RegionRef};
use crate::cache::{Acquired, Cache, CachedFile, Change, Collector, Need, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::fault_guard;
use crate::geometry::{self, Geometry};
use crate::policy::Access;
use crate::protocol::slot::Slot;

/// The cache and its collector. Each manager, file, cursor, buffer and iterator owns it, but no lease does. The
/// collector thread holds the cache weakly, so the cache shuts down with the last owner.
pub(crate) struct Shared {
    collector: Option<Collector>,
    pub(crate) cache: Arc<Cache>,
}

impl Shared {
    pub(crate) fn new(cache: Arc<Cache>, collector: Option<Collector>) -> Arc<Self> {
        Arc::new(Self { collector, cache })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The collector stops first, so that no other thread uses the cache while it shuts down.
        drop(self.collector.take());
        self.cache.shut_down();
    }
}

/// The largest part of a window, in bytes, that [`MappedFile::prefetch`] leaves to copies if it is less than half of
/// it.
const PREFETCH_COPIED: u64 = 256 << 10;

/// A file that is open in a [`MapManager`](crate::MapManager).
///
/// This is a handle: cloning it is one atomic increment. All clones, and all other opens of the same file, share its
/// windows and its length. [Ways to read](crate#ways-to-read) compares the calls that read it.
///
/// The file stays readable after its path was removed, unless its descriptor was closed before, to stay within
/// [`max_open_files`](crate::Limits::max_open_files) or the limit of the OS.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let file = maps.open("Cargo.toml")?;
/// assert_eq!(file.cursor().slice(1..8)?, b"package");
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
pub struct MappedFile {
    handle: Arc<Handle>,
}

/// One open of a file. `file` drops before `shared`, which may be the last owner of the cache.
struct Handle {
    path: Option<PathBuf>,
    /// `path`, made absolute when the file was opened: it stays valid if the current directory changes.
    absolute: Option<PathBuf>,
    file: Arc<CachedFile>,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.cache.release_handle(&self.file);
    }
}

impl MappedFile {
    pub(crate) fn new(shared: &Arc<Shared>, file: Arc<CachedFile>, path: Option<PathBuf>) -> Self {
        // `CachedFile::add_name` knows it as well, but keeps only a few names.
        let absolute = path.as_deref().and_then(|path| std::path::absolute(path).ok());
        Self { handle: Arc::new(Handle { path, absolute, file, shared: Arc::clone(shared) }) }
    }

    /// Returns the length of the file in bytes, as the cache knows it. O(1), no system call.
    ///
    /// Each open of the file and each [`refresh`](Self::refresh), through any handle, updates this length. With
    /// [`Revalidate::Never`](crate::Revalidate::Never), only the first open and `refresh` do.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.len(), std::fs::metadata("Cargo.toml").unwrap().len());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn len(&self) -> u64 {
        self.handle.file.len()
    }

    /// Returns `true` if the file has no bytes, as the cache knows its [length](Self::len).
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert!(!maps.open("Cargo.toml")?.is_empty());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the path given to [`open`](crate::MapManager::open), or `None` if this handle was opened from a
    /// descriptor.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.path(), Some("Cargo.toml".as_ref()));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn path(&self) -> Option<&Path> {
        self.handle.path.as_deref()
    }

    /// Asks the OS whether the file has grown, shrunk, or been modified, replaced or deleted. Takes two `stat` calls.
    ///
    /// A new length takes effect at once for all handles. Regions that it makes out of date are unmapped when their
    /// last client releases them, and later reads map those windows again. If a cursor leaves such a region by moving
    /// to another window, the next reader of the old window unmaps the region, or the collector within about a second.
    ///
    /// # Errors
    ///
    /// - [`Io`](ErrorKind::Io) if the `stat` fails, or if the file must be reopened and the OS refuses.
    /// - [`OverBudget`](ErrorKind::OverBudget) if the file must be reopened, and all descriptors are in use and
    ///   [`Overcommit`](crate::Overcommit) does not allow more.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{Change, MapManager};
    /// # use std::io::Write;
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("log");
    /// # let mut log = std::fs::File::create(&path).unwrap();
    /// # log.write_all(b"one").unwrap();
    /// // SAFETY: the files of this example are only appended to.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open(&path)?;
    /// let one = file.lease(..)?;
    /// log.write_all(b" two").unwrap();
    /// assert_eq!(file.refresh()?, Change::Grown);
    /// assert_eq!((&one[..], &file.lease(..)?[..]), (&b"one"[..], &b"one two"[..]));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn refresh(&self) -> Result<Change> {
        self.cache().refresh(self.cached(), self.handle.absolute.as_deref()).map_err(|error| error.at(self.path()))
    }

    /// Copies bytes from `offset` into `buf`, up to its length or the end of the file. Returns the number of bytes
    /// copied, which is 0 if `offset` is at or past the end.
    ///
    /// Bytes of mapped windows are copied from the mapping. Other windows are mapped if [`Admission`](crate::Admission)
    /// finds that this pays off, and read from the file otherwise. The call never waits for room in the budget, and
    /// never fails for lack of room.
    ///
    /// # Errors
    ///
    /// The content of `buf` is unspecified after an error.
    ///
    /// - [`Truncated`](ErrorKind::Truncated) if the file is now shorter than [`len`](Self::len).
    /// - [`Replaced`](ErrorKind::Replaced) as in [`refresh`](Self::refresh).
    /// - [`Io`](ErrorKind::Io) for any other error of the OS.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// let mut buf = [0; 9];
    /// assert_eq!((file.read_at(&mut buf, 0)?, &buf), (9, b"[package]"));
    /// assert_eq!(file.read_at(&mut buf, file.len() - 2)?, 2);
    /// assert_eq!(file.read_at(&mut buf, u64::MAX)?, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.len().saturating_sub(offset);
        let len = left.min(buf.len() as u64);
        self.copy(offset..offset + len, &mut buf[..len as usize])?;
        Ok(len as usize)
    }

    /// Fills `buf` with the bytes from `offset`. Otherwise works as [`read_at`](Self::read_at).
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) if the file ends before `buf` is full, and the errors of
    /// [`read_at`](Self::read_at).
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::ErrorKind;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// let mut buf = [0; 7];
    /// file.read_exact_at(&mut buf, 1)?;
    /// assert_eq!(&buf, b"package");
    /// assert_eq!(file.read_exact_at(&mut buf, file.len() - 2).unwrap_err().kind(), ErrorKind::OutOfBounds);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        // A saturated end lies past the end of every file.
        let range = self.resolve(&(offset..offset.saturating_add(buf.len() as u64)))?;
        self.copy(range, buf)
    }

    /// Checks that all bytes of `range` can be read, without the danger of a direct access to mapped bytes.
    ///
    /// The call reads each page of the range, and so may wait for the disk. It maps nothing and does not need
    /// `fault_guard`. Pages of mapped windows are loaded into memory, as far as memory allows (Linux 5.14 or later).
    /// Pages of other windows, and all pages on other systems, are read from the file. O(bytes). The result holds for
    /// the moment of the call only.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) if `range` is reversed or reaches past the end of the file, and the
    /// errors of [`read_at`](Self::read_at).
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// maps.open("Cargo.toml")?.verify(..)?;
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn verify(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let range = self.resolve(&range)?;
        self.cache().verify(self.cached(), range.clone()).map_err(|error| self.named(error.within(range)))
    }

    /// Asks the OS to read the pages of `range` into memory, without waiting for the disk. Maps windows where that
    /// pays.
    ///
    /// The OS reads those pages, and no others. A window is mapped if the range covers half of it, or more than 256
    /// KiB: less is as quickly copied. The pages of other windows are in memory afterwards, and small reads copy them
    /// from there.
    ///
    /// Of a range with more windows than the budget holds, the call treats the first that fit. Where it maps, it may
    /// wait for room and evict other regions, as all calls do that must map. On systems other than Linux, Android,
    /// FreeBSD, macOS and iOS, pages that are not mapped are not read; on Windows, the call only maps.
    ///
    /// # Performance
    ///
    /// O(pages). A system call for each 128 KiB, and a mapping for each window that is mapped.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) if `range` is reversed or reaches past the end of the file, and the
    /// errors of [`Cursor::window_at`](crate::Cursor::window_at).
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// file.prefetch(..9)?; // One page, to be copied.
    /// assert_eq!(maps.stats().maps, 0);
    /// file.prefetch(..)?;
    /// file.lease(..)?;
    /// assert_eq!((maps.stats().maps, maps.stats().hits), (1, 1));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn prefetch(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let range = self.resolve(&range)?;
        let budget = self.cache().limits();
        let in_bytes = self.geometry().window_bytes().map_or(1, |bytes| (budget.max_mapped_bytes / bytes).max(1));
        let windows = in_bytes.min(budget.max_regions as u64) as usize;
        let when_full = self.cache().when_full();
        for (window, piece) in self.geometry().pieces(range).take(windows) {
            let (len, span) = (piece.end - piece.start, self.geometry().span(window, self.len()));
            let pays = len > PREFETCH_COPIED || len >= (span.end - span.start) / 2;
            // Held until the OS was asked, so that the region is not evicted before.
            let mapped = if pays && !self.cached().is_unmappable() {
                Some(self.window(window, piece.end, when_full)?)
            } else {
                None
            };
            let asked = self.cache().will_need(self.cached(), piece.clone());
            let is_asked = asked.map_err(|error| self.named(error.within(piece.clone())))?;
            if let Some(region) = mapped.as_ref().and_then(|mapped| mapped.region()).filter(|_| !is_asked) {
                region.mapping().will_need((piece.start - span.start) as usize..(piece.end - span.start) as usize);
            }
        }
        Ok(())
    }
}

/// Calls of the cache for the readers in `read/`, with errors that name the file.
impl MappedFile {
    #[inline]
    pub(crate) fn cache(&self) -> &Cache {
        &self.handle.shared.cache
    }

    #[inline]
    pub(crate) fn cached(&self) -> &Arc<CachedFile> {
        &self.handle.file
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.cache().config().geometry
    }

    #[inline]
    pub(crate) fn resolve(&self, range: &impl RangeBounds<u64>) -> Result<Range<u64>> {
        geometry::resolve(range, self.len()).map_err(|range| self.out_of_bounds(range))
    }

    #[cold]
    fn out_of_bounds(&self, range: Range<u64>) -> Error {
        let message = if range.start > range.end {
            "the range is reversed: it ends before it starts".to_owned()
        } else {
            format!("the range reaches past the end of the file, which has {} bytes", self.len())
        };
        self.named(Error::new(ErrorKind::OutOfBounds, message).within(range))
    }

    /// Adds the path that this handle was opened by, or another known name of the file.
    #[cold]
    pub(crate) fn named(&self, error: Error) -> Error {
        let name = self.handle.file.names().into_iter().next();
        error.at(self.path().or(name.as_deref()))
    }

    #[inline]
    pub(crate) fn acquire(&self, slot: Option<&Slot<Region>>, range: &Range<u64>, need: Need) -> Result<Acquired> {
        self.cache().acquire(self.cached(), slot, range, need).map_err(|error| self.named(error))
    }

    /// Returns the region of a window, mapped at least up to `end`, an offset in the file.
    pub(crate) fn window(&self, window: u64, end: u64, when_full: WhenFull) -> Result<RegionRef> {
        let start = self.geometry().start(window);
        let slot = match self.cache().lookup(self.cached(), window, 0, end - start, Access::Counted) {
            Ok(part) => return Ok(part.whole()),
            Err(slot) => slot,
        };
        let acquired = self.cache().acquire_mapped(self.cached(), slot, &(start..end), Need::Window, when_full);
        match acquired.map_err(|error| self.named(error))? {
            Acquired::Region { region, start, .. } => {
                region.expect(start, Pattern::Unknown);
                Ok(region)
            }
            Acquired::ReadFile => unreachable!("a window is required, and `acquire_mapped` returned no error"),
        }
    }

    /// Reads `buf` from the file at `offset` if its bytes, which were copied from `source` in the mapping of `region`,
    /// are suspect. Bytes without a region were checked when they were read.
    #[inline]
    pub(crate) fn replace_suspect(
        &self,
        region: Option<&Region>,
        source: NonNull<u8>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        match region {
            // Without the guard, no bytes are suspect.
            Some(region) if fault_guard::is_installed() => self.replace_suspect_of(region, source, offset, buf),
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn replace_suspect_of(&self, region: &Region, source: NonNull<u8>, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        let replaced = self.cache().replace_suspect(self.cached(), region, source, offset, buf);
        replaced.map_err(|error| self.named(error.within(offset..end)))
    }

    /// Returns an error if `bytes`, a part of `region`, are suspect and not those of the file from `offset` on. A copy
    /// has no region: it was checked when it was made.
    #[inline]
    pub(crate) fn validate(&self, region: Option<&Region>, offset: u64, bytes: &[u8]) -> Result<()> {
        match region {
            Some(region) => {
                let validated = self.cache().validate_suspect(self.cached(), region, offset, bytes);
                validated.map_err(|error| self.named(error.within(offset..offset + bytes.len() as u64)))
            }
            None => Ok(()),
        }
    }

    /// Fills `buf` from the file.
    #[inline]
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        self.cache().read(self.cached(), offset, buf).map_err(|error| self.named(error.within(offset..end)))
    }

    /// Fills `buf` with `range`: from mapped windows, and from the file.
    pub(crate) fn copy(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        let copied = self.cache().copy(self.cached(), range.clone(), buf);
        copied.map_err(|error| self.named(error.within(range)))
    }

    /// Replaces the content of `bytes` by `range`, for which `acquire` returned [`Acquired::ReadFile`].
    pub(crate) fn copy_into(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        // Only bytes that were not there before are filled with zeros, because the read replaces all of them.
        let len = (range.end - range.start) as usize;
        if bytes.len() != len {
            bytes.resize(len, 0);
        }
        if self.geometry().is_in_one(&range) {
            // The range's only window was looked up already.
            self.read(range.start, bytes)
        } else {
            self.copy(range, bytes)
        }
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path()).field("len", &self.len()).finish_non_exhaustive()
    }
}
