//! [`MapManager`] and its builder.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{Cache, Closed, Collected, Collector};
use crate::config::{Admission, Advice, Config, Limits, OpenOptions, Overcommit, Revalidate, Window};
use crate::error::{Error, Result};
use crate::file::{MappedFile, Shared};
use crate::stats::Stats;

/// A cache of mapped file regions.
///
/// A manager opens files. Threads read their windows through the handles, each a [`MappedFile`]. Each window is mapped
/// once for all readers. An unused window stays mapped until the budget ([`Limits`]) needs its room. Clones of a
/// manager share the cache; cloning is one atomic increment.
///
/// # The collector
///
/// Each manager has a background thread named `smmap-collector`, which blocks all signals. If calls that must map had
/// to evict recently, the collector keeps part of the budget free. It unmaps unused regions beyond the limits, and
/// retries unmaps that the OS refused. Unless [`Revalidate::Never`] is set, it asks the OS once a second whether up to
/// 1024 files still have their names, and unmaps the unused regions of deleted and replaced files.
///
/// For files on a network file system or FUSE (on Linux), a second thread named `smmap-server` looks at names and
/// closes descriptors, because the file server may hang. It lives for the moment of these calls.
///
/// [`MapManagerBuilder::collector`] builds a manager without these threads.
///
/// # Dropping
///
/// Managers, files, cursors, buffers and iterators keep the cache alive; leases do not. Dropping the last of them joins
/// the collector, closes all files, and unmaps all regions except those that leases hold. A region held by leases is
/// unmapped when its last lease is dropped. If a file server hangs, the drop returns within a second, and the thread
/// that waits for the server remains until it answers. If the OS refuses to unmap a region, other managers of the
/// process retry.
///
/// # After `fork`
///
/// A child process may read the leases it inherits, and its cursors and buffers inside the window they hold. It may
/// drop everything, if its allocator can free memory in the child, as glibc's can. Neither harms the parent nor waits.
/// Regions that other threads held stay mapped in the child until it exits.
///
/// Any other call may block forever in the child: another thread of the parent may have held a lock at the time of the
/// `fork`. For any other use, build a new manager in the child.
///
/// # Examples
///
/// ```
/// use smmap::MapManager;
///
/// // SAFETY: no process changes or truncates the files of this example.
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
    /// Returns a builder with the default settings, which [`MapManagerBuilder`] lists.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().max_mapped_bytes(1 << 30).build()? };
    /// assert_eq!(maps.limits().max_mapped_bytes, 1 << 30);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn builder() -> MapManagerBuilder {
        MapManagerBuilder::default()
    }

    /// Opens a file by its path. Maps nothing. An empty file is not an error.
    ///
    /// All opens of one file share one cache entry, whether by another name, a link or a descriptor. Opening a known
    /// file updates its length, as [`refresh`](MappedFile::refresh) does; with [`Revalidate::Never`], it does not. A
    /// known file whose descriptor is open gets no second one. O(1): `open`, a few system calls that examine the file,
    /// and a lookup under a short lock on part of the table of files.
    ///
    /// # Errors
    ///
    /// - [`NotAFile`](crate::ErrorKind::NotAFile) if `path` leads to anything but a regular file with a length or, on
    ///   Linux, a block device. The call does not wait for the writer of a pipe.
    /// - [`OverBudget`](crate::ErrorKind::OverBudget) if all [`max_open_files`](Limits::max_open_files) descriptors are
    ///   in use and [`Overcommit`] does not allow more.
    /// - [`Io`](crate::ErrorKind::Io) for any other error of the OS.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::ErrorKind;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let (one, other) = (maps.open("Cargo.toml")?, maps.open("./src/../Cargo.toml")?);
    /// assert_eq!((maps.stats().files, one.len()), (1, other.len()));
    /// assert_eq!(maps.open("src").unwrap_err().kind(), ErrorKind::NotAFile);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn open(&self, path: impl AsRef<Path>) -> Result<MappedFile> {
        self.open_with(path, &OpenOptions::default())
    }

    /// [Opens](Self::open) a file by its path, with options of its own.
    ///
    /// The options apply to the file, not only to this handle, until its last handle is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    ///
    /// # Examples
    ///
    /// See [`OpenOptions`].
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<MappedFile> {
        let path = path.as_ref();
        let file = self.shared.cache.open_with(path, options).map_err(|error| error.at(Some(path)))?;
        Ok(MappedFile::new(&self.shared, file, Some(path.to_path_buf())))
    }

    /// Opens the file of a descriptor. The file may be deleted. The position of the descriptor has no effect.
    ///
    /// The cache takes the descriptor over, and closes it at once if it already has one of this file. Otherwise the
    /// descriptor stays open as long as a handle may need it, even beyond [`max_open_files`](Limits::max_open_files),
    /// unless the file was also opened by a path: without one, the cache cannot reopen the file.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`Io`](crate::ErrorKind::Io) if the descriptor was not opened for reading.
    ///
    /// # Examples
    ///
    /// ```
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("gone");
    /// std::fs::write(&path, "still here").unwrap();
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
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

    /// Unmaps all unused regions. Returns their number and size.
    ///
    /// Descriptors stay open. The call does not wait for readers, and about 20 ms at most for the collector to unmap
    /// the regions that it is evicting. A reader waits for the call only if it must map a window that the call is
    /// unmapping.
    ///
    /// # Performance
    ///
    /// O(regions + cursors), and one system call for each region that is unmapped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
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

    /// Unmaps the regions of the file at `path`, or of all files below the directory `path`.
    ///
    /// Unused regions are unmapped at once, and regions in use after their last clients release them. Returns the
    /// number of either kind; both are 0 if `path` leads to no known file. The handles of the file stay usable, and
    /// later reads map its windows again.
    ///
    /// A file is found by any of its names. For a directory, or a path that leads nowhere now, the cache compares whole
    /// components of the four newest names that it knows of each file. A file opened only from a descriptor has no
    /// known name, so no directory matches it. An empty path, and a file's name with a slash at its end, match no file.
    ///
    /// On Windows, call this before another program changes the file. As long as a window of it is mapped, even an
    /// unused one, Windows refuses to truncate the file (error 1224) or to replace it by a rename (error 5). So the
    /// call also closes the descriptor there.
    ///
    /// O(windows ever mapped of the files, and cursors). A directory also takes O(known files), with one system call
    /// for each name. Hits do not wait for this call.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::Closed;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
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

    /// Returns the current limits. O(1); takes a short lock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().max_regions(100).build()? };
    /// assert_eq!(maps.limits().max_regions, 100);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn limits(&self) -> Limits {
        self.shared.cache.limits()
    }

    /// Changes the limits while the cache runs. Unmaps unused regions until the new limits are met. If regions in use
    /// exceed a new limit, they are unmapped as their clients release them.
    ///
    /// If [`max_mapped_bytes`](Limits::max_mapped_bytes) is less than one window, calls that map a whole window fail
    /// with [`OverBudget`](crate::ErrorKind::OverBudget). Smaller ranges that fit are mapped as detached regions, or
    /// read. Larger ones fail, whatever [`Overcommit`] allows.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if a limit is 0. The limits then stay as they are.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::ErrorKind;
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
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

    /// Returns the counters of the cache, and the amounts it holds now. O(regions + cursors), to count the regions in
    /// use. Hits do not wait for this call.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// maps.open("Cargo.toml")?.lease(..10)?;
    /// assert_eq!((maps.stats().misses, maps.stats().copies, maps.stats().maps), (1, 1, 0));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.shared.cache.stats()
    }

    /// Returns the bytes of one window, as rounded by [`build`](MapManagerBuilder::build), or `None` for
    /// [`Window::WholeFile`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{MapManager, Window};
    /// // SAFETY: no process changes or truncates the files of this example.
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

/// The settings of a [`MapManager`] to build.
///
/// | setting | default |
/// |---|---|
/// | [`window`](Self::window) | [windows](Window) of 64 KiB to 16 MiB: about `max_mapped_bytes` / (4 × cores) |
/// | [`limits`](Self::limits) | [`Limits::default`] |
/// | [`overcommit`](Self::overcommit) | [`Overcommit::Allow`] |
/// | [`admission`](Self::admission) | [`Admission::Adaptive`] |
/// | [`revalidate`](Self::revalidate) | [`Revalidate::AtOpen`] |
/// | [`advice`](Self::advice) | [`Advice::Adaptive`] |
/// | [`collector`](Self::collector) | `true` |
///
/// # Examples
///
/// ```
/// use smmap::{Admission, MapManager, Overcommit, Window};
///
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe {
///     MapManager::builder()
///         .window(Window::Sliding { bytes: 1 << 20 })
///         .max_mapped_bytes(64 << 20)
///         .overcommit(Overcommit::Fail)
///         .admission(Admission::Always)
///         .build()?
/// };
/// assert_eq!(maps.window_bytes(), Some(1 << 20));
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MapManagerBuilder {
    window: Option<Window>,
    limits: Option<Limits>,
    max_mapped_bytes: Option<u64>,
    max_regions: Option<usize>,
    max_open_files: Option<usize>,
    overcommit: Overcommit,
    admission: Admission,
    revalidate: Revalidate,
    advice: Advice,
    without_collector: bool,
}

impl MapManagerBuilder {
    /// Sets the part of a file that one mapping covers. It has at most [`max_mapped_bytes`](Self::max_mapped_bytes). By
    /// default the [window](Window) follows the budget and the number of cores.
    pub fn window(self, window: Window) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Sets all limits at once. A limit that is also set by its own method has the value set there.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Sets the bytes that may be mapped at once, counted in whole pages.
    pub fn max_mapped_bytes(self, bytes: u64) -> Self {
        Self { max_mapped_bytes: Some(bytes), ..self }
    }

    /// Sets the number of regions that may be mapped at once. The OS limits it too (`vm.max_map_count` on Linux).
    pub fn max_regions(self, regions: usize) -> Self {
        Self { max_regions: Some(regions), ..self }
    }

    /// Sets the number of file descriptors that may be open at once.
    pub fn max_open_files(self, files: usize) -> Self {
        Self { max_open_files: Some(files), ..self }
    }

    /// Sets the outcome of a call that must map while everything in the budget is in use.
    pub fn overcommit(self, overcommit: Overcommit) -> Self {
        Self { overcommit, ..self }
    }

    /// Sets when a small read of an unmapped window maps that window.
    pub fn admission(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// Sets whether the cache checks open files for changes.
    pub fn revalidate(self, revalidate: Revalidate) -> Self {
        Self { revalidate, ..self }
    }

    /// Sets how the OS reads cold data for accesses to mapped windows. [`OpenOptions::advice`] sets it for one file.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{Advice, MapManager};
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().advice(Advice::Sequential).build()? };
    /// assert_eq!(&maps.open("Cargo.toml")?.lease(..9)?[..], b"[package]");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn advice(self, advice: Advice) -> Self {
        Self { advice, ..self }
    }

    /// Sets whether the manager has a background thread, the [collector](MapManager#the-collector). Without it, the
    /// manager starts no thread, and readers do the work:
    ///
    /// - A call that must map evicts on its own thread, one system call for each region, also when regions exceed a
    ///   limit. No room is prepared in advance, so such calls take longer.
    /// - A draining region that a cursor has left by moving to another window stays mapped until the next call that
    ///   maps, closes or collects.
    /// - The unused regions of deleted and replaced files stay mapped, and keep the file's blocks on the disk, until
    ///   they are evicted, or until [`close`](MapManager::close) or [`collect`](MapManager::collect).
    /// - Under the fault guard, a faulted region that is not read again makes all readers check more until it is
    ///   evicted or collected.
    /// - If a file server hangs, a call on another file may wait for it, to close a descriptor.
    ///
    /// Call [`collect`](MapManager::collect) regularly: it unmaps draining regions, those of deleted files, and faulted
    /// ones.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().collector(false).build()? };
    /// assert_eq!(&maps.open("Cargo.toml")?.lease(..9)?[..], b"[package]");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn collector(self, yes: bool) -> Self {
        Self { without_collector: !yes, ..self }
    }

    /// Builds the manager and starts its collector thread, unless [`collector`](Self::collector) says otherwise.
    ///
    /// # Safety
    ///
    /// The caller promises, for all files read through this manager:
    ///
    /// - No process, this one included, changes bytes of a file while they are borrowed from a [`Cursor`], a [`Lease`]
    ///   or a [`Buffer`].
    /// - No process truncates a file while a region of it is held or a call reads it. A cursor and a buffer hold their
    ///   window between calls as well, until they move to another, are released or are dropped.
    /// - After a file was truncated, [`MappedFile::refresh`] is called before the next read from it. This is necessary
    ///   because windows stay mapped when no client holds them.
    ///
    /// Appending to a file is allowed, and so is renaming it, replacing it by a rename, and deleting it.
    ///
    /// If the first promise is broken, two reads of one `&[u8]` can return different bytes, which is undefined
    /// behavior. If the others are broken, a read past the new end of the file ends the process (SIGBUS), unless
    /// `fault_guard` is installed.
    ///
    /// [`Cursor`]: crate::Cursor
    /// [`Lease`]: crate::Lease
    /// [`Buffer`]: crate::Buffer
    ///
    /// # Errors
    ///
    /// - [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if a limit or the window is 0, or if `max_mapped_bytes` is
    ///   less than the smallest possible window (a page; 64 KiB on Windows).
    /// - [`Io`](crate::ErrorKind::Io) if the OS refuses the collector thread.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{ErrorKind, MapManager};
    /// // SAFETY: no process changes or truncates the files of this example.
    /// let refused = unsafe { MapManager::builder().max_open_files(0).build() };
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidConfig);
    /// ```
    #[allow(unsafe_code, reason = "the caller makes the promise that all readers rely on")]
    pub unsafe fn build(self) -> Result<MapManager> {
        let mut limits = self.limits.unwrap_or_default();
        limits.max_mapped_bytes = self.max_mapped_bytes.unwrap_or(limits.max_mapped_bytes);
        limits.max_regions = self.max_regions.unwrap_or(limits.max_regions);
        limits.max_open_files = self.max_open_files.unwrap_or(limits.max_open_files);
        limits.validate()?;
        let window = self.window.unwrap_or_else(|| Window::for_budget(limits.max_mapped_bytes));
        let config = Config {
            geometry: window.geometry(limits.max_mapped_bytes)?,
            overcommit: self.overcommit,
            admission: self.admission,
            revalidate: self.revalidate,
            advice: self.advice,
            has_collector: !self.without_collector,
        };
        let cache = Cache::new(config, limits);
        let refused = |error| {
            let message = "the OS refused the collector thread: raise the limit on threads (ulimit -u), or build the \
                           manager with collector(false)";
            Error::io(message, error)
        };
        let collector = config.has_collector.then(|| Collector::start(&cache)).transpose().map_err(refused)?;
        Ok(MapManager { shared: Shared::new(cache, collector) })
    }
}
