//! The front door: [`MapManager`], its builder, and [`MappedFile`].

use std::fmt;
use std::fs::File;
use std::ops::{Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{Cache, CachedFile, Change, Closed, Collected, Collector, Effort};
use crate::config::{Admission, Config, Limits, Overcommit, Revalidate, Window};
use crate::error::{Error, ErrorKind, Result};
use crate::os::Advice;
use crate::policy::Touch;
use crate::region::{Doubt, RegionRef, View};
use crate::stats::Stats;
use crate::window::{self, Geometry};

/// A cache of mapped file regions, shared by everyone who has a clone of it.
///
/// It opens files ([`MappedFile`]), through which windows of them are read; each window is mapped once, whoever reads it,
/// and unmapped when nobody uses it and the budget ([`Limits`]) wants it. Cloning is one atomic increment.
///
/// A background thread, the collector (`smmap-collector`), unmaps ahead of need. Each second it asks the system whether up to
/// 1024 of the files still have their names, and unmaps what is unused of deleted and replaced ones.
///
/// When the last of the manager's handles goes (managers, files, cursors, buffers, iterators), the collector is stopped and
/// joined, and everything is unmapped and closed but what leases hold; those go when they are dropped. That drop returns when
/// all this is done.
///
/// In a child of `fork` what it holds may be read (leases, and cursors and buffers inside the window they have), and all may
/// be dropped: without harm to the parent, and without waiting, whatever other threads were at. (Drops free memory, which the
/// system's allocator has to allow there; glibc's does.) What other threads held at that moment stays mapped in the child until
/// it ends. There is no collector in the child; and any other call may wait for ever, for a lock that another thread of the
/// parent, the collector too, held at that moment. So for more than that, build a manager of the child's own.
///
/// ```
/// use smmap::MapManager;
///
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let file = maps.open("Cargo.toml")?;
/// file.prefetch(..)?;
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         scope.spawn(|| assert!(file.cursor().slice(..9).is_ok_and(|bytes| bytes == b"[package]")));
///     }
/// });
/// assert_eq!(maps.stats().maps, 1);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
pub struct MapManager {
    shared: Arc<Shared>,
}

/// What all handles hold, and leases do not. The collector holds the cache itself, weakly; so handles are counted apart
/// from whoever is just looking after it.
struct Shared {
    collector: Option<Collector>,
    cache: Arc<Cache>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // First the thread, so that nobody else is at work in here.
        drop(self.collector.take());
        self.cache.shut_down();
    }
}

impl MapManager {
    /// A builder with the defaults: see [`MapManagerBuilder`].
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().max_mapped_bytes(1 << 30).build()? };
    /// assert_eq!(maps.limits().max_mapped_bytes, 1 << 30);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn builder() -> MapManagerBuilder {
        MapManagerBuilder::default()
    }

    /// Opens a file by its path.
    ///
    /// The same file through another name, a link or a descriptor is the same entry of the cache. Opening a file that is
    /// known takes notice of a new length, as [`refresh`](MappedFile::refresh) does. Nothing is mapped yet. O(1): an `open`,
    /// two `stat`s and a look-up; it takes a lock of the table of files for the look-up only.
    ///
    /// # Errors
    ///
    /// [`NotAFile`](ErrorKind::NotAFile) for what is no regular file (a pipe is not waited for), and for files that are
    /// generated while they are read (`/proc`). [`OverBudget`](ErrorKind::OverBudget) if all of
    /// [`max_open_files`](Limits::max_open_files) are in use and may not be exceeded. [`Io`](ErrorKind::Io) for whatever
    /// the system reports. An empty file is no error.
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let (one, other) = (maps.open("Cargo.toml")?, maps.open("./src/../Cargo.toml")?);
    /// assert_eq!((maps.stats().files, one.len()), (1, other.len()));
    /// assert_eq!(maps.open("src").unwrap_err().kind(), ErrorKind::NotAFile);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn open(&self, path: impl AsRef<Path>) -> Result<MappedFile> {
        let path = path.as_ref();
        let file = self.shared.cache.open(path).map_err(|error| error.at(Some(path)))?;
        Ok(MappedFile::new(&self.shared, file, Some(path.to_path_buf())))
    }

    /// Opens a file from a descriptor, which the cache keeps, or closes if it has one of that file already. The file may have
    /// no name any more.
    ///
    /// Since it has no path to be reopened by, the descriptor stays open as long as a handle may need it, also beyond
    /// [`max_open_files`](Limits::max_open_files). The descriptor's own position is of no importance.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Io`](ErrorKind::Io) if it was not opened for reading (on Windows the first read tells).
    ///
    /// ```
    /// # use smmap::MapManager;
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("gone");
    /// std::fs::write(&path, "still here").unwrap();
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open_file(std::fs::File::open(&path).unwrap())?;
    /// # #[cfg(unix)]
    /// std::fs::remove_file(&path).unwrap();
    /// assert_eq!(&file.lease(..)?[..], b"still here");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn open_file(&self, file: File) -> Result<MappedFile> {
        let file = self.shared.cache.open_file(file)?;
        Ok(MappedFile::new(&self.shared, file, None))
    }

    /// Unmaps everything that nobody uses, now. Descriptors stay. O(regions); waits for no reader, and no
    /// reader waits but for a window that is being unmapped at the moment.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// file.prefetch(..)?;
    /// let lease = file.lease(..)?;
    /// assert_eq!(maps.collect().regions, 0);
    /// drop(lease);
    /// assert_eq!(maps.collect().regions, 1);
    /// assert_eq!(maps.stats().mapped_bytes, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn collect(&self) -> Collected {
        self.shared.cache.collect()
    }

    /// Unmaps what belongs to the file that `path` leads to, by any of its names, or to all files below that directory:
    /// what is unused at once, what is held when its last client lets go.
    ///
    /// Handles stay usable and map again when they are asked. A directory is matched by whole components of its path. A
    /// path that leads to nothing that is known closes nothing; a file that was only ever opened from a descriptor has no
    /// path by which a directory could be known to hold it. Where the system does not let an open file be deleted
    /// (Windows), the descriptor is closed too; once nothing is still held, the file can be deleted. Of each file the four
    /// newest names are remembered. O(windows of the files); for a directory O(files), with a few calls of the system each.
    ///
    /// ```
    /// # use smmap::{Closed, MapManager};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("src/lib.rs")?;
    /// file.prefetch(..)?;
    /// let held = file.lease(..)?;
    /// assert_eq!(maps.close("src"), Closed { unmapped: 0, still_held: 1 });
    /// drop(held);
    /// assert_eq!(maps.stats().regions, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn close(&self, path: impl AsRef<Path>) -> Closed {
        self.shared.cache.close(path.as_ref())
    }

    /// The limits in force. O(1), no lock.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().max_regions(100).build()? };
    /// assert_eq!(maps.limits().max_regions, 100);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn limits(&self) -> Limits {
        self.shared.cache.limits()
    }

    /// Changes the limits of the running cache.
    ///
    /// Lowered ones are reached at once as far as regions are unused, and else as clients let go. Below one window, whole
    /// windows fail with [`OverBudget`](ErrorKind::OverBudget); ranges that fit are mapped by themselves, or read.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if one of them is 0; then nothing changes.
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let mut limits = maps.limits();
    /// limits.max_regions = 0;
    /// assert_eq!(maps.set_limits(limits).unwrap_err().kind(), ErrorKind::InvalidConfig);
    /// limits.max_regions = 10;
    /// maps.set_limits(limits)?;
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn set_limits(&self, limits: Limits) -> Result<()> {
        self.shared.cache.set_limits(limits)
    }

    /// What the cache has done and holds. O(regions), for what is pinned; hits do not wait for it.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// maps.open("Cargo.toml")?.lease(..10)?;
    /// assert_eq!((maps.stats().misses, maps.stats().copies, maps.stats().maps), (1, 1, 0));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.shared.cache.stats()
    }

    /// Bytes of one window, as rounded; `None` for [`Window::WholeFile`].
    ///
    /// ```
    /// # use smmap::{MapManager, Window};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().window(Window::WholeFile).build()? };
    /// assert_eq!(maps.window_bytes(), None);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn window_bytes(&self) -> Option<u64> {
        self.shared.cache.config().geometry.window_bytes()
    }
}

impl fmt::Debug for MapManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapManager")
            .field("window_bytes", &self.window_bytes())
            .field("limits", &self.limits())
            .field("stats", &self.stats())
            .finish()
    }
}

/// How a [`MapManager`] is going to be. What is not said is as the defaults are: windows of 16 MiB (4 MiB on 32 bit), the
/// limits of [`Limits::default`], [`Overcommit::Allow`], [`Admission::Adaptive`], [`Revalidate::AtOpen`].
///
/// ```
/// use smmap::{Admission, MapManager, Overcommit, Window};
///
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe {
///     MapManager::builder()
///         .window(Window::Sliding { bytes: 1 << 20 })
///         .max_mapped_bytes(64 << 20)
///         .max_regions(1_000)
///         .max_open_files(100)
///         .overcommit(Overcommit::Fail)
///         .admission(Admission::Always)
///         .build()?
/// };
/// assert_eq!(maps.window_bytes(), Some(1 << 20));
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct MapManagerBuilder {
    window: Window,
    limits: Option<Limits>,
    max_mapped_bytes: Option<u64>,
    max_regions: Option<usize>,
    max_open_files: Option<usize>,
    overcommit: Overcommit,
    admission: Admission,
    revalidate: Revalidate,
}

impl MapManagerBuilder {
    /// How much of a file one mapping covers.
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// All limits at once, in the place of the defaults; those that are set one by one come on top.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Bytes that may be mapped at once, counted in whole pages. A window that is larger shrinks to it.
    pub fn max_mapped_bytes(mut self, bytes: u64) -> Self {
        self.max_mapped_bytes = Some(bytes);
        self
    }

    /// Regions that may exist at once. The system has a limit of its own (Linux: `vm.max_map_count`).
    pub fn max_regions(mut self, regions: usize) -> Self {
        self.max_regions = Some(regions);
        self
    }

    /// Descriptors that may be open at once.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = Some(files);
        self
    }

    /// What happens when everything in the budget is in use.
    pub fn overcommit(mut self, overcommit: Overcommit) -> Self {
        self.overcommit = overcommit;
        self
    }

    /// Whether a cold small read is worth a mapping.
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Whether files that are open are looked at again.
    pub fn revalidate(mut self, revalidate: Revalidate) -> Self {
        self.revalidate = revalidate;
        self
    }

    /// Builds the manager, and starts its collector thread.
    ///
    /// # Safety
    ///
    /// A mapped file is memory that others can write to. For as long as bytes of a file are borrowed (from a [`Cursor`],
    /// a [`Lease`], a [`Buffer`]), nobody, in this process or another, may change these bytes.
    ///
    /// And no file may become shorter while anything of it is held or read. A cursor or a buffer holds its window also
    /// between calls, until it moves on, is released or is dropped; windows stay mapped when nobody holds them. So after a
    /// file was made shorter, call [`MappedFile::refresh`] before anything else is read from it.
    ///
    /// Appending is fine; so is renaming, replacing by rename, and deleting. Where the promise is broken, a read can give
    /// different bytes each time, which Rust takes for impossible, and a read past the end of a file that has shrunk kills the
    /// process (SIGBUS).
    ///
    /// [`Cursor`]: crate::Cursor
    /// [`Lease`]: crate::Lease
    /// [`Buffer`]: crate::Buffer
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a limit or a window of 0, or a budget below the smallest window
    /// there is; [`Io`](ErrorKind::Io) if the thread cannot be started.
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let refused = unsafe { MapManager::builder().max_open_files(0).build() };
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidConfig);
    /// ```
    #[allow(unsafe_code, reason = "the one promise that everything else relies on is made here")]
    pub unsafe fn build(self) -> Result<MapManager> {
        let mut limits = self.limits.unwrap_or_default();
        limits.max_mapped_bytes = self.max_mapped_bytes.unwrap_or(limits.max_mapped_bytes);
        limits.max_regions = self.max_regions.unwrap_or(limits.max_regions);
        limits.max_open_files = self.max_open_files.unwrap_or(limits.max_open_files);
        limits.validate()?;
        let config = Config {
            geometry: self.window.geometry(limits.max_mapped_bytes)?,
            overcommit: self.overcommit,
            admission: self.admission,
            revalidate: self.revalidate,
        };
        let cache = Cache::new(config, limits);
        let collector =
            Collector::start(&cache).map_err(|error| Error::io("cannot start the collector thread", error))?;
        Ok(MapManager { shared: Arc::new(Shared { collector: Some(collector), cache }) })
    }
}

/// A file that is open in a [`MapManager`].
///
/// A handle: cloning it is one atomic increment, and all clones, and all other opens of the same file, share its windows
/// and its length. The file stays readable when its path goes, unless its descriptor had been given up before, for
/// [`max_open_files`](Limits::max_open_files) or the system's own limit. What it is read through:
///
/// | | gives | cost of a hit | for |
/// |---|---|---|---|
/// | [`cursor`](Self::cursor) | `&[u8]`, until its next call | none inside its window | one thread that reads near where it was |
/// | [`lease`](Self::lease) | [`Lease`](crate::Lease), owned | two shared writes | bytes that move between threads, or stay |
/// | [`read_at`](Self::read_at) | a copy | two shared writes and a copy | small records |
/// | [`windows`](Self::windows) | a lease of each window | | whole files |
/// | [`buffer`](Self::buffer) | bytes, slices, searches | | text |
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let file = maps.open("Cargo.toml")?;
/// let lease = file.lease(1..8)?;
/// drop((file, maps));
/// assert_eq!(&lease[..], b"package");
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
pub struct MappedFile {
    handle: Arc<Handle>,
}

/// One open. Fields drop in this order: the file before what may be the last handle of all.
struct Handle {
    path: Option<PathBuf>,
    /// The same, whatever the current directory is by now.
    absolute: Option<PathBuf>,
    file: Arc<CachedFile>,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.cache.release(&self.file);
    }
}

impl MappedFile {
    fn new(shared: &Arc<Shared>, file: Arc<CachedFile>, path: Option<PathBuf>) -> Self {
        let absolute = path.as_deref().and_then(|path| std::path::absolute(path).ok());
        Self { handle: Arc::new(Handle { path, absolute, file, shared: Arc::clone(shared) }) }
    }

    /// Bytes of the file, as last noticed: when it was opened, by anyone, or [refreshed](Self::refresh). O(1).
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert_eq!(maps.open("Cargo.toml")?.len(), std::fs::metadata("Cargo.toml").unwrap().len());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[inline]
    pub fn len(&self) -> u64 {
        self.handle.file.entry.len()
    }

    /// Whether it has no bytes.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert!(!maps.open("Cargo.toml")?.is_empty());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path that this handle was opened by, as it was given; `None` if it was opened from a descriptor.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert_eq!(maps.open("Cargo.toml")?.path(), Some("Cargo.toml".as_ref()));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn path(&self) -> Option<&Path> {
        self.handle.path.as_deref()
    }

    /// Looks at the file again: has it grown, shrunk, been modified, replaced or deleted? Two `stat`s.
    ///
    /// A new length is there for everyone at once. Regions that a change of length made out of date are unmapped when
    /// they are not used any more, and mapped anew for whoever asks next. What a cursor reads is used; when it has gone on to
    /// another window, that is noticed by who asks for that region next, or about a second later.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) if the file cannot be looked at, or its descriptor was given up for `max_open_files` and its path
    /// leads nowhere; [`Replaced`](ErrorKind::Replaced) if that leads to another file by now;
    /// [`OverBudget`](ErrorKind::OverBudget) for want of descriptors.
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

    /// Copies bytes from `offset` on into `buf`; how many: all that fit, fewer only at the end of the file, 0 at or past
    /// it. `&self`, so many threads may at once.
    ///
    /// Takes them from the windows that are mapped, and maps those that are [worth it](Admission); the rest is read. It
    /// never waits for room and never fails for the budget.
    ///
    /// # Errors
    ///
    /// [`Truncated`](ErrorKind::Truncated) if the file has become shorter than [`len`](Self::len);
    /// [`Replaced`](ErrorKind::Replaced) as in [`refresh`](Self::refresh); [`Io`](ErrorKind::Io). The content of `buf` is
    /// then unspecified.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// let mut buf = [0; 9];
    /// assert_eq!((file.read_at(&mut buf, 0)?, &buf), (9, b"[package]"));
    /// assert_eq!(file.read_at(&mut buf, file.len() - 2)?, 2);
    /// assert_eq!(file.read_at(&mut buf, u64::MAX)?, 0);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset.saturating_add(buf.len() as u64).min(self.len());
        let Some(len) = end.checked_sub(offset) else { return Ok(0) };
        let len = len as usize;
        self.copy(offset..end, &mut buf[..len])?;
        Ok(len)
    }

    /// Fills `buf` with the bytes from `offset` on; otherwise as [`read_at`](Self::read_at).
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) if the file ends before `buf` is full; the others of `read_at`.
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// let mut buf = [0; 7];
    /// file.read_exact_at(&mut buf, 1)?;
    /// assert_eq!(&buf, b"package");
    /// assert_eq!(file.read_exact_at(&mut buf, file.len() - 2).unwrap_err().kind(), ErrorKind::OutOfBounds);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        // A buffer that would end beyond what can be counted ends past every file.
        let end = offset.saturating_add(buf.len() as u64);
        let range = self.resolve(&(offset..end))?;
        if range.end - range.start < buf.len() as u64 {
            return Err(self.out_of_bounds(range));
        }
        self.copy(range, buf)
    }

    /// Whether all bytes of `range` can be had: touches each page of it without danger, as no touch of a mapping is. It waits
    /// for the disk, maps nothing, and needs no [`fault_guard`](crate::fault_guard). Windows that are mapped have their pages
    /// there afterwards, as far as memory allows (Linux 5.14; elsewhere they are read as the rest is). O(bytes).
    ///
    /// Nothing keeps the file from being cut short in the next moment.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds); [`Truncated`](ErrorKind::Truncated) if the file ends before `range` does;
    /// [`Io`](ErrorKind::Io) if the medium fails; [`Replaced`](ErrorKind::Replaced) as in [`refresh`](Self::refresh).
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// file.verify(..)?;
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn verify(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let range = self.resolve(&range)?;
        self.cache().verify(self.cached(), range.clone()).map_err(|error| self.explain(error, range))
    }

    /// Maps the windows of `range` and asks the system to read them ahead, without waiting for that (on Windows, the mapping
    /// is all). No more windows than the budget holds, from the first on. It may wait for room and evict, as what maps does.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](ErrorKind::OutOfBounds); [`OverBudget`](ErrorKind::OverBudget) if there is no room and
    /// [`Overcommit`] says so; [`OutOfMaps`](ErrorKind::OutOfMaps); those of [`read_at`](Self::read_at).
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// file.prefetch(..)?;
    /// file.lease(..)?;
    /// assert_eq!((maps.stats().maps, maps.stats().hits), (1, 1));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn prefetch(&self, range: impl RangeBounds<u64>) -> Result<()> {
        let range = self.resolve(&range)?;
        let budget = self.cache().limits();
        let in_bytes = self.geometry().window_bytes().map_or(1, |bytes| (budget.max_mapped_bytes / bytes).max(1));
        let windows = in_bytes.min(budget.max_regions as u64);
        for (window, piece) in self.geometry().pieces(range).take(usize::try_from(windows).unwrap_or(usize::MAX)) {
            self.window(window, piece.end)?.advise(Advice::WillNeed);
        }
        Ok(())
    }
}

/// What the readers on the floor above build on.
impl MappedFile {
    /// Copies from a region, which `at` is the offset in, of what is at `offset` in the file.
    pub(crate) fn copy_from(&self, region: &impl View, at: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        self.cache().copy_from(self.cached(), region, at, offset, buf).map_err(|error| self.explain(error, offset..end))
    }

    /// Whether `len` bytes from `at` on, of a region that was read as the file from `offset` on, were all there. Asks the
    /// system only if they may not have been.
    #[inline]
    pub(crate) fn confirm(&self, region: &impl View, at: usize, len: usize, offset: u64) -> Result<()> {
        match region.doubt(at, len) {
            Doubt::None => Ok(()),
            doubt => self.check(offset, &region.bytes()[at..at + len], doubt),
        }
    }

    #[cold]
    fn check(&self, offset: u64, bytes: &[u8], doubt: Doubt) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        self.cache().check(self.cached(), offset, bytes, doubt).map_err(|error| self.explain(error, range))
    }

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

    /// `range` as two offsets, if it lies inside the file.
    #[inline]
    pub(crate) fn resolve(&self, range: &impl RangeBounds<u64>) -> Result<Range<u64>> {
        window::resolve(range, self.len()).map_err(|range| self.out_of_bounds(range))
    }

    #[cold]
    fn out_of_bounds(&self, range: Range<u64>) -> Error {
        let message = if range.start > range.end {
            "the range is reversed: it ends before it starts".to_owned()
        } else {
            format!("the range reaches past the end of the file, which has {} bytes", self.len())
        };
        self.explain(Error::new(ErrorKind::OutOfBounds, message), range)
    }

    /// Says where it happened.
    #[cold]
    pub(crate) fn explain(&self, error: Error, range: Range<u64>) -> Error {
        let name = self.handle.file.entry.names().into_iter().next();
        error.at(self.path().or(name.as_deref())).within(range)
    }

    /// The region of a window, mapped if it was not, up to `end` (an offset in the file) at least.
    pub(crate) fn window(&self, window: u64, end: u64) -> Result<RegionRef> {
        let start = self.geometry().start(window);
        match self.cache().hit(self.cached(), window, end - start, Touch::Single) {
            Ok(client) => Ok(RegionRef::new(client)),
            Err(_) => self.demanded_window(window, end),
        }
    }

    /// The same for one that was no hit a moment ago.
    pub(crate) fn demanded_window(&self, window: u64, end: u64) -> Result<RegionRef> {
        match self.missed_window(window, end, self.cache().demand())? {
            Some(region) => Ok(region),
            None => unreachable!("a mapping was wanted, and no error given"),
        }
    }

    /// The same, or `None` if it is to be read.
    pub(crate) fn window_if_worth(&self, window: u64, end: u64, touch: Touch) -> Result<Option<RegionRef>> {
        let start = self.geometry().start(window);
        match self.cache().hit(self.cached(), window, end - start, touch) {
            Ok(client) => Ok(Some(RegionRef::new(client))),
            Err(slot) => match self.cache().worth(self.cached(), slot, window, touch) {
                Some(effort) => self.missed_window(window, end, effort),
                None => Ok(None),
            },
        }
    }

    /// A window that was no hit a moment ago.
    pub(crate) fn missed_window(&self, window: u64, end: u64, effort: Effort) -> Result<Option<RegionRef>> {
        let start = self.geometry().start(window);
        self.cache().miss(self.cached(), window, end - start, effort).map_err(|error| self.explain(error, start..end))
    }

    /// Reads from the file, not from a mapping.
    #[inline]
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        self.cache().read(self.cached(), offset, buf).map_err(|error| self.explain(error, offset..end))
    }

    /// Fills `buf` with `range`, from what is mapped or worth it, and from the file.
    pub(crate) fn copy(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        self.cache().copy(self.cached(), range.clone(), buf).map_err(|error| self.explain(error, range))
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path()).field("len", &self.len()).finish_non_exhaustive()
    }
}
