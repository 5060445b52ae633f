//! Opening, refreshing and closing files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::backoff::Backoff;
use super::descriptors::OpenFile;
use super::file::FileKey;
use super::pool;
use super::reclaim::token_of;
use super::room::{Room, WhenFull};
use super::{Cache, CachedFile, Change, Closed};
use crate::config::{OpenOptions, Revalidate};
use crate::error::{Error, ErrorKind, Result};
use crate::os::{self, FileSystem, Kind, Stat};
use crate::protocol::budget::Reservation;
use crate::stats::Event;

/// Files that `close` drains before it leaves transit, and regions that it unmaps with one scan of the hazard records.
const CLOSE_BATCH: usize = 64;

impl Cache {
    /// [Opens](Self::open) a path with options of its own.
    pub(crate) fn open_with(self: &Arc<Self>, path: &Path, options: &OpenOptions) -> Result<Arc<CachedFile>> {
        let file = self.open(path)?;
        if options.keep_descriptor {
            self.descriptors.keep(&file);
            // Another file may have taken the descriptor's place before.
            drop(self.descriptor(&file, None).inspect_err(|_| self.release_handle(&file))?);
        }
        if let Some(advice) = options.advice {
            file.set_advice(advice);
        }
        Ok(file)
    }

    /// Opens a path. The path may lead to a file that is known by another name.
    pub(crate) fn open(self: &Arc<Self>, path: &Path) -> Result<Arc<CachedFile>> {
        // Also tells whether overlayfs copies the file up meanwhile (`OpenFile::maps_another_file`).
        let before = os::stat_path(path).ok();
        // Closing a second descriptor would release the record locks (POSIX) that this process has on the file.
        if let Some(file) = before.as_ref().and_then(|stat| self.open_known(path, stat)) {
            return Ok(file);
        }
        let reservation = self.reserve_descriptor(Some(self.when_full()))?;
        // A socket cannot be opened at all. Its kind says more than the error number of the OS.
        let by_kind = |error| os::stat_path(path).ok().and_then(|stat| not_a_file(&stat)).unwrap_or(error);
        let descriptor = self.open_descriptor(path).map_err(by_kind)?;
        self.adopt(reservation, descriptor, Some(path), before)
    }

    /// Opens a known file by its open descriptor, without another one. Returns `None` as well if its changes cannot be
    /// noticed: the path is then opened again.
    fn open_known(&self, path: &Path, stat: &Stat) -> Option<Arc<CachedFile>> {
        if let Some(file) = self.open_unchanged(path, stat) {
            return Some(file);
        }
        let key = FileKey::at(path, stat);
        let file = self.registry.get(&key)?;
        let descriptor = self.descriptors.enter_if_open(&file)?;
        if !key.is_unique() && !file.is_at(path).unwrap_or(false) {
            self.release_handle(&file);
            return None;
        }
        file.add_name(path);
        self.notice_at_open(file, descriptor).ok()
    }

    /// [Opens a known file](Self::open_known) that has not changed, without another system call.
    fn open_unchanged(&self, path: &Path, stat: &Stat) -> Option<Arc<CachedFile>> {
        let file = self.registry.get_by_inode((stat.device, stat.inode))?;
        let _open = self.descriptors.enter_if_open(&file)?;
        // After the handle was counted in, so that the descriptor stays the file's.
        if !file.is_unchanged(stat) {
            self.release_handle(&file);
            return None;
        }
        file.add_name(path);
        Some(file)
    }

    /// Takes over a descriptor. A descriptor without a path stays open while the file has a handle.
    pub(crate) fn open_file(self: &Arc<Self>, descriptor: fs::File) -> Result<Arc<CachedFile>> {
        let descriptor = for_reading(descriptor)?;
        let reservation = self.reserve_descriptor(Some(self.when_full()))?;
        self.adopt(reservation, descriptor, None, None)
    }

    /// Finds the file of a descriptor in the registry, or registers it, and counts a handle in.
    fn adopt(
        self: &Arc<Self>,
        reservation: Reservation,
        descriptor: fs::File,
        name: Option<&Path>,
        before: Option<Stat>,
    ) -> Result<Arc<CachedFile>> {
        let stat = os::stat(&descriptor).map_err(cannot_stat)?;
        let system = FileSystem::of(&descriptor, &stat);
        let stat = system.with_content_len(stat, &descriptor).map_err(cannot_stat)?;
        check_kind(&descriptor, &stat)?;
        let key = FileKey::of(&descriptor, &stat);
        // If the comparison fails, two entries for one file are the lesser evil.
        let is_same = |known: &CachedFile| key.is_unique() || known.is_open_in(&descriptor).unwrap_or(false);
        let file = self.registry.get_or_insert(key, is_same, || CachedFile::new(key, system, &stat, self));
        if let Some(name) = name {
            file.add_name(name);
        }
        let descriptor = OpenFile::new(descriptor, reservation, &file, before);
        let descriptor = self.descriptors.install(&file, descriptor, true);
        let file = self.notice_at_open(file, descriptor)?;
        if self.registry.len() == 1 {
            // The collector sleeps for long while the cache has no files.
            self.wake_event.wake();
        }
        Ok(file)
    }

    /// Counts a handle out. With the last one the descriptor closes; mapped windows stay.
    pub(crate) fn release_handle(&self, file: &CachedFile) {
        if file.handles.leave() {
            file.set_advice(self.config.advice);
            self.descriptors.close_if(file, || file.handles.count() == 0);
        }
    }

    /// Returns a file that is opened, after noticing its changes. On an error, counts the new handle out.
    fn notice_at_open(&self, file: Arc<CachedFile>, descriptor: Arc<OpenFile>) -> Result<Arc<CachedFile>> {
        if self.config.revalidate == Revalidate::AtOpen {
            if let Err(error) = self.notice(&file, &descriptor) {
                drop(descriptor);
                self.release_handle(&file);
                return Err(error);
            }
        }
        Ok(file)
    }

    /// Notices the change of a file since the last look, drains the windows that are out of date, and replaces a
    /// descriptor that maps another file.
    fn notice(&self, file: &Arc<CachedFile>, descriptor: &Arc<OpenFile>) -> Result<(Change, Stat)> {
        let noticed = self.record_stat(file, &descriptor.file).map_err(cannot_stat)?;
        if descriptor.maps_another_file(&noticed.1) {
            self.replace_descriptor(file, descriptor)?;
        }
        Ok(noticed)
    }

    fn record_stat(&self, file: &CachedFile, descriptor: &fs::File) -> io::Result<(Change, Stat)> {
        let _transit = self.regions.budget.enter_transit();
        let mut tokens = Vec::new();
        let noticed = file.record_stat(descriptor, |from| {
            file.drain_from(self.config.geometry.index(from), |drained| tokens.extend(token_of(drained)));
        });
        self.regions.reclaim_all(tokens);
        noticed
    }

    /// Replaces a descriptor that [maps another file](OpenFile::maps_another_file) than it reads, and drains all
    /// windows of the file. Returns the new descriptor.
    #[cold]
    pub(super) fn replace_descriptor(&self, file: &Arc<CachedFile>, old: &Arc<OpenFile>) -> Result<Arc<OpenFile>> {
        let before = os::stat(&old.file).map_err(cannot_stat)?;
        let again = os::reopen(&old.file).map_err(|error| {
            Error::io(
                "the file was copied up by overlayfs, and its descriptor cannot be opened again: open the path again",
                error,
            )
        })?;
        // `None`: it exceeds max_open_files if necessary, as a copying read does.
        let reservation = self.reserve_descriptor(None)?;
        let new = self.descriptors.replace(file, old, OpenFile::new(again, reservation, file, Some(before)));
        let _transit = self.regions.budget.enter_transit();
        let mut tokens = Vec::new();
        file.drain_from(0, |drained| tokens.extend(token_of(drained)));
        self.regions.reclaim_all(tokens);
        Ok(new)
    }

    /// Returns the change of the file since the last look, and of the file that `path` leads to.
    pub(crate) fn refresh(&self, file: &Arc<CachedFile>, path: Option<&Path>) -> Result<Change> {
        let noticed = self.descriptor(file, Some(self.when_full())).and_then(|open| self.notice(file, &open));
        let leads_here = path.map(|path| file.is_at(path));
        match (noticed, leads_here) {
            (Ok((Change::Truncated, _)), _) => Ok(Change::Truncated),
            // Also if the descriptor was closed, and cannot be opened again for this reason.
            (_, Some(Ok(false))) => Ok(Change::Replaced),
            (_, Some(Err(error))) if leads_nowhere(&error) => Ok(Change::Deleted),
            // A path that cannot be examined may still lead to the file. On Windows, a deleted one that is open is
            // such.
            (Ok((_, stat)), None | Some(Err(_))) if stat.links == 0 => Ok(Change::Deleted),
            (noticed, _) => noticed.map(|(change, _)| change),
        }
    }

    /// Drains every window of the file that `path` leads to, or of all files below that directory.
    pub(crate) fn close(&self, path: &Path) -> Closed {
        let mut closed = Closed::default();
        let files = self.files_at(path);
        if files.is_empty() {
            return closed;
        }
        // Unmaps what cursors have left since an earlier close, which has counted these regions.
        self.regions.retry_deferred();
        for files in files.chunks(CLOSE_BATCH) {
            closed.unmapped += self.regions.drain_windows(files.iter().map(|file| file.windows()), CLOSE_BATCH);
        }
        // The collector may own other regions of the files. It cannot restore a draining one.
        self.regions.wait_for_trims();
        let protected = self.regions.hazards.scan_unordered();
        for file in &files {
            closed.still_held += pool::count_held(file.windows(), &protected) + file.detached.count();
            // Windows does not delete a file that is open. Elsewhere handles go on reading by the descriptor, wherever
            // the path leads.
            #[cfg(windows)]
            if file.is_reachable() {
                self.descriptors.close_if(file, || true);
            }
        }
        closed
    }

    /// Returns the file that `path` leads to, or all files with a name below that directory.
    fn files_at(&self, path: &Path) -> Vec<Arc<CachedFile>> {
        let file_at = |path: &Path| os::stat_path(path).ok().filter(|stat| stat.kind == Kind::File);
        if let Some(stat) = file_at(path) {
            let file = self.registry.get(&FileKey::at(path, &stat));
            // The time of birth of a file on overlayfs changes when it is copied up. Another file of this name was
            // replaced.
            let by_name = || {
                let path = std::path::absolute(path).ok()?;
                let is_at = |file: &Arc<CachedFile>| file.names().contains(&path) && file.is_at(&path).unwrap_or(false);
                self.registry.files().into_iter().find(is_at)
            };
            return file.or_else(by_name).into_iter().collect();
        }
        // The path is a directory, or cannot be examined. Then only the known names tell which files are meant.
        let mut real_paths = RealPaths::default();
        let path = std::path::absolute(path).ok().map(|path| real_paths.of_any(&path));
        // An empty path leads to nothing, and so does a file's name with a slash at its end.
        let Some(path) = path.filter(|path| file_at(path).is_none()) else { return Vec::new() };
        let is_served = |file: &Arc<CachedFile>| file.system == FileSystem::Served;
        let (served, mut below): (Vec<_>, Vec<_>) = self.registry.files().into_iter().partition(is_served);
        below.retain(|file| real_paths.any_below(&path, &file.names()));
        below.extend(self.served_files_below(served, path));
        below
    }

    /// Returns those files that have a name below `directory`. If their server hangs, no link in the names is followed.
    fn served_files_below(&self, mut files: Vec<Arc<CachedFile>>, directory: PathBuf) -> Vec<Arc<CachedFile>> {
        let names: Vec<_> = files.iter().map(|file| file.names()).collect();
        let by_name: Vec<_> = names.iter().map(|names| names.iter().any(|name| name.starts_with(&directory))).collect();
        let compare = move || {
            let mut real_paths = RealPaths::default();
            names.iter().map(|names| real_paths.any_below(&directory, names)).collect()
        };
        let is_below = if files.is_empty() { None } else { self.server_calls.ask(compare) };
        let mut is_below = is_below.unwrap_or(by_name).into_iter();
        files.retain(|_| is_below.next().unwrap_or(false));
        files
    }

    /// Returns the file's descriptor, and reopens it if it was closed.
    ///
    /// `when_full` says what happens if `max_open_files` has no room; `None` exceeds it.
    #[cold]
    pub(super) fn descriptor(&self, file: &Arc<CachedFile>, when_full: Option<WhenFull>) -> Result<Arc<OpenFile>> {
        let mut backoff = Backoff::new();
        loop {
            if let Some(open) = file.descriptor.get() {
                return Ok(open);
            }
            // This may wait. So it comes before the thread claims the reopening, for which other threads wait.
            let reservation = self.reserve_descriptor(when_full)?;
            if let Some(_reopening) = file.descriptor.try_reopen() {
                if let Some(open) = file.descriptor.get() {
                    return Ok(open);
                }
                // The file has its old time of birth, so it was not copied up since it was noticed.
                let descriptor = OpenFile::new(self.reopen(file)?, reservation, file, Some(file.noticed_stat()));
                return Ok(self.descriptors.install(file, descriptor, false));
            }
            drop(reservation);
            backoff.pause();
        }
    }

    /// Opens the file by the first of its names that still leads to it. The file's descriptor stays as it is.
    pub(super) fn reopen(&self, file: &CachedFile) -> Result<fs::File> {
        let message = "the descriptor was closed to stay within max_open_files and the file has no known path: raise \
                       max_open_files";
        let mut failed = Error::new(ErrorKind::Replaced, message);
        for name in file.names() {
            failed = match self.open_descriptor(&name) {
                Ok(descriptor) => {
                    if file.is_open_in(&descriptor).map_err(cannot_stat)? {
                        return Ok(descriptor);
                    }
                    let message = "the path now leads to another file, and the descriptor of the old one was closed to \
                                   stay within max_open_files: open the path again, or raise max_open_files";
                    Error::new(ErrorKind::Replaced, message)
                }
                Err(error) => error,
            };
        }
        Err(failed)
    }

    /// Opens a path. If the OS has no descriptor left, closes one that is unneeded and tries again, until there is
    /// none. Then unmaps each unused region and tries a last time.
    ///
    /// It closes one at a time: another part of the process may take a descriptor that is closed.
    pub(super) fn open_descriptor(&self, path: &Path) -> Result<fs::File> {
        let mut is_last_try = false;
        loop {
            let error = match os::open(path) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            };
            if !os::is_out_of_descriptors(&error) {
                return Err(Error::io("cannot open", error));
            }
            if is_last_try {
                let message = format!("cannot open, with nothing unused left: {}", os::descriptor_limit_hint());
                return Err(Error::io(message, error));
            }
            if self.descriptors.close_one().is_none() {
                self.collect();
                is_last_try = true;
            }
        }
    }

    fn reserve_descriptor(&self, when_full: Option<WhenFull>) -> Result<Reservation> {
        let Some(Room { reservation, over }) = self.descriptors.reserve(when_full) else {
            let limit = self.descriptors.budget.limit().items;
            let waited = self.config.overcommit.after_wait();
            let message = format!(
                "all {limit} descriptors of max_open_files are in use or could not be reopened{waited}: raise it"
            );
            return Err(Error::new(ErrorKind::OverBudget, message));
        };
        if over {
            self.stats.count(Event::Overcommit);
        }
        Ok(reservation)
    }
}

/// Returns the descriptor, or another one of its file if it cannot serve reads of any length at any offset.
fn for_reading(descriptor: fs::File) -> Result<fs::File> {
    let cannot_examine = |error| Error::io("cannot examine the descriptor", error);
    if os::needs_reopening(&descriptor).map_err(cannot_examine)? {
        let message = "the descriptor was opened with O_PATH or O_DIRECT, and its file cannot be opened again for reading: \
                       pass a descriptor without these flags";
        return os::reopen(&descriptor).map_err(|error| Error::io(message, error));
    }
    if !os::is_readable(&descriptor).map_err(cannot_examine)? {
        let message = "the descriptor was not opened for reading: open the file with read access";
        return Err(Error::io(message, io::ErrorKind::PermissionDenied.into()));
    }
    Ok(descriptor)
}

/// Returns `true` if nothing is at a path. Other errors say that the OS could not look.
pub(super) fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn cannot_stat(error: io::Error) -> Error {
    Error::io("cannot read the file's status", error)
}

/// Refuses a descriptor of anything but a regular file, and a file whose bytes are generated by each read.
fn check_kind(file: &fs::File, stat: &Stat) -> Result<()> {
    if let Some(error) = not_a_file(stat) {
        return Err(error);
    }
    if stat.len == 0 {
        let read = os::read_at(file, &mut [0], 0).map_err(|error| Error::io("cannot read", error))?;
        let has_grown = os::stat(file).is_ok_and(|stat| stat.len > 0);
        if read > 0 && !has_grown {
            let message = "has bytes but no length (each read generates it, as in /proc): read it instead";
            return Err(Error::new(ErrorKind::NotAFile, message));
        }
    }
    Ok(())
}

fn not_a_file(stat: &Stat) -> Option<Error> {
    match stat.kind {
        Kind::File => None,
        Kind::Other(what) => Some(Error::new(ErrorKind::NotAFile, format!("is {what}, not a file that can be mapped"))),
    }
}

/// Paths without links and dots. Remembers directories, because many files have the same one.
#[derive(Default)]
struct RealPaths {
    of_directories: HashMap<PathBuf, Option<PathBuf>>,
}

impl RealPaths {
    /// Returns the real path of an absolute path. The file itself may be gone, but not its directory.
    fn of(&mut self, path: &Path) -> PathBuf {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if is_link { self.of_any(path) } else { self.of_entry(path) }
    }

    /// Returns `true` if one of `names` leads below `directory`, which is a real path.
    fn any_below(&mut self, directory: &Path, names: &[PathBuf]) -> bool {
        names.iter().any(|name| self.of(name).starts_with(directory))
    }

    /// As [`of`](Self::of), if the last component may be a link.
    fn of_any(&mut self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| self.of_entry(path))
    }

    fn of_entry(&mut self, path: &Path) -> PathBuf {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_path_buf() };
        if !self.of_directories.contains_key(parent) {
            self.of_directories.insert(parent.to_path_buf(), fs::canonicalize(parent).ok());
        }
        match &self.of_directories[parent] {
            Some(real) => real.join(name),
            None => path.to_path_buf(),
        }
    }
}
