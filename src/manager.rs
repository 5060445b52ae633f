//! [`MapManager`] and its builder.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{Cache, Closed, Collected, Collector};
use crate::config::{Admission, Config, Limits, Overcommit, Revalidate, Window};
use crate::error::{Error, Result};
use crate::file::{MappedFile, Shared};
use crate::stats::Stats;

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
    /// [`NotAFile`](crate::ErrorKind::NotAFile) for what is no regular file (a pipe is not waited for), and for files that are
    /// generated while they are read (`/proc`). [`OverBudget`](crate::ErrorKind::OverBudget) if all of
    /// [`max_open_files`](Limits::max_open_files) are in use and may not be exceeded. [`Io`](crate::ErrorKind::Io) for whatever
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
    /// As [`open`](Self::open); [`Io`](crate::ErrorKind::Io) if it was not opened for reading (on Windows the first read tells).
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
    /// windows fail with [`OverBudget`](crate::ErrorKind::OverBudget); ranges that fit are mapped by themselves, or read.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if one of them is 0; then nothing changes.
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
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a limit or a window of 0, or a budget below the smallest window
    /// there is; [`Io`](crate::ErrorKind::Io) if the thread cannot be started.
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
        Ok(MapManager { shared: Shared::new(cache, collector) })
    }
}
