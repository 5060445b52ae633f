//! [`Descriptors`]: the open descriptors of a cache, at most `max_open_files` of them. The only user of arc-swap.
//!
//! A reader takes its file's descriptor without a lock and without a write that other readers wait for. The lock of the
//! queue is for the rest: to install a descriptor, to close one, and to count a handle in. No system call happens under
//! that lock. In a child of `fork`, drops do not take it.
//!
//! To make room, a thread closes a descriptor by the CLOCK rule: the oldest one that no reader took since it was
//! examined last. A descriptor is *needed* if its file has a handle but no name that still leads to it. A needed
//! descriptor is never closed.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, TryLockError, Weak};

use arc_swap::{ArcSwapOption, Guard};

use super::CachedFile;
use super::room::{Room, WhenFull, find_room};
use super::server_calls::ServerCalls;
use crate::os::{self, FileSystem, Process, Stat};
use crate::protocol::budget::{Budget, Reservation, Usage};
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering};

/// An open descriptor. It closes before its reservation returns to the budget.
pub(crate) struct OpenFile {
    pub(super) file: Descriptor,
    /// `None` after the close has begun.
    reservation: Option<Reservation>,
    owner: Weak<CachedFile>,
    /// 1 after a reader took the descriptor, until `Descriptors::close_one` examines it.
    was_used: AtomicU32,
    /// The metadata before the opening, if the file is on overlayfs.
    before_copy_up: Option<Stat>,
    /// Makes the calls that may wait for the file's server, if it has one.
    server_calls: Option<Arc<ServerCalls>>,
}

/// A descriptor, until its close has begun.
pub(super) struct Descriptor(Option<File>);

impl Deref for Descriptor {
    type Target = File;

    #[inline]
    fn deref(&self) -> &File {
        self.0.as_ref().unwrap_or_else(|| unreachable!("only the close takes the file"))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

impl OpenFile {
    /// Takes over a descriptor. `before` are the metadata of the file before it was opened, if they are known.
    pub(super) fn new(
        file: File,
        reservation: Reservation,
        owner: &Arc<CachedFile>,
        before: Option<Stat>,
    ) -> Arc<Self> {
        let (file, before_copy_up) = match before {
            _ if owner.system != FileSystem::Overlay => (file, None),
            Some(before) => (file, Some(before)),
            None => reopened(file),
        };
        let cache = if owner.system == FileSystem::Served { owner.cache.upgrade() } else { None };
        let server_calls = cache.map(|cache| Arc::clone(&cache.server_calls));
        Arc::new(Self {
            file: Descriptor(Some(file)),
            reservation: Some(reservation),
            owner: Arc::downgrade(owner),
            was_used: AtomicU32::new(0),
            before_copy_up,
            server_calls,
        })
    }

    /// Closes the descriptor, and returns its reservation. Returns `None` if the file's server does not answer in time:
    /// the reservation returns to the budget after the close.
    fn close(&mut self) -> Option<Reservation> {
        let (file, reservation) = (self.file.0.take()?, self.reservation.take()?);
        let close = move || {
            drop(file);
            reservation
        };
        match &self.server_calls {
            Some(calls) => calls.complete(close),
            None => Some(close()),
        }
    }

    /// Returns `true` if this process can open the file of this descriptor, `owner`, by one of its names now. Returns
    /// `false` as well if the file's server does not answer in time.
    fn can_reopen(&self, owner: &Arc<CachedFile>) -> bool {
        match &self.server_calls {
            Some(calls) => {
                let owner = Arc::clone(owner);
                calls.ask(move || owner.can_reopen()).unwrap_or(false)
            }
            None => owner.can_reopen(),
        }
    }

    /// Returns `true` if the descriptor may map other bytes than it reads. `now` are the metadata that it reports.
    ///
    /// Overlayfs copies a file of a lower layer up when a program opens it for writing. A descriptor that was opened
    /// before then reports and reads the upper file, but still maps the lower one.
    pub(super) fn maps_another_file(&self, now: &Stat) -> bool {
        self.before_copy_up.as_ref().is_some_and(|before| match before.born {
            Some(_) => before.born != now.born,
            None => (before.len, before.modified) != (now.len, now.modified),
        })
    }

    #[inline]
    fn mark_used(&self) {
        // Relaxed: a hint for the choice of a victim. The load spares the cache line a write by each reader.
        if self.was_used.load(Ordering::Relaxed) == 0 {
            self.was_used.store(1, Ordering::Relaxed);
        }
    }
}

/// The descriptor of one file, or none while it is closed.
#[derive(Default)]
pub(super) struct DescriptorCell {
    open: ArcSwapOption<OpenFile>,
    /// Held by the one thread that reopens the file. Other threads try again instead of waiting for it.
    reopening: Mutex<()>,
    /// 1 if the descriptor stays open while the file has a handle.
    keeps: AtomicU32,
}

impl DescriptorCell {
    /// Borrows the descriptor, if it is open.
    #[inline]
    pub(super) fn borrow(&self) -> Guard<Option<Arc<OpenFile>>> {
        let open = self.open.load();
        if let Some(open) = &*open {
            open.mark_used();
        }
        open
    }

    /// Borrows the descriptor, if it is open, without a mark of use: for hints.
    pub(super) fn peek(&self) -> Guard<Option<Arc<OpenFile>>> {
        self.open.load()
    }

    /// Returns the descriptor, if it is open, for longer than a moment.
    pub(super) fn get(&self) -> Option<Arc<OpenFile>> {
        Guard::into_inner(self.borrow())
    }

    fn is_kept(&self) -> bool {
        self.keeps.load(Ordering::Relaxed) != 0
    }

    /// Returns a guard for the one thread that may reopen the file, or `None` while another thread does.
    pub(super) fn try_reopen(&self) -> Option<MutexGuard<'_, ()>> {
        match self.reopening.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The open descriptors of a cache, their budget, and the choice of the one to close.
pub(super) struct Descriptors {
    pub(super) budget: Arc<Budget>,
    /// Every open descriptor. The one that was installed or examined longest ago is the first. Entries of closed
    /// descriptors stay until [`close_one`](Self::close_one) or [`purge`] removes them.
    queue: Mutex<VecDeque<Weak<OpenFile>>>,
    process: Process,
}

impl Descriptors {
    pub(super) fn new(limit: Usage) -> Self {
        Self { budget: Arc::new(Budget::new(limit)), queue: Mutex::default(), process: Process::this() }
    }

    /// Reserves room for one descriptor, and closes others if it has to.
    ///
    /// `when_full` says what happens if every open descriptor is needed or in use; `None` exceeds the limit without
    /// waiting. Returns `None` if there is no room. The caller holds nothing while this waits: see [`find_room`].
    pub(super) fn reserve(&self, when_full: Option<WhenFull>) -> Option<Room> {
        let mut transit = self.budget.enter_transit();
        let search = || self.reserve_or_close();
        let room = find_room(&self.budget, &mut transit, 0, when_full, search);
        if when_full.is_none() { room.or_else(|| Some(Room::exceeding(&self.budget, 0))) } else { room }
    }

    fn reserve_or_close(&self) -> Option<Reservation> {
        loop {
            if let Some(reservation) = self.budget.reserve(0) {
                return Some(reservation);
            }
            let closed = self.close_one()?;
            // If the limit was lowered or exceeded before, the place of the closed descriptor is given up.
            if self.budget.is_within() {
                return Some(closed);
            }
        }
    }

    /// Makes `new` the file's own and returns it. If the file already has a descriptor, returns that, and closes `new`.
    ///
    /// Counts a handle in if `for_handle`. The lock makes the two one step for [`close_one`](Self::close_one). So that
    /// never closes the descriptor of a file for lack of handles after a handle was counted in.
    pub(super) fn install(&self, owner: &CachedFile, new: Arc<OpenFile>, for_handle: bool) -> Arc<OpenFile> {
        // Dropped before `new`: a descriptor that is not needed closes without the lock.
        let mut queue = self.lock_always();
        if for_handle {
            owner.handles.enter();
        }
        if let Some(open) = owner.descriptor.open.load_full() {
            return open;
        }
        owner.descriptor.open.store(Some(Arc::clone(&new)));
        queue.push_back(Arc::downgrade(&new));
        purge(&mut queue, self.budget.used().items);
        new
    }

    /// Makes `new` the file's own in place of `old`, and returns it. If another thread has replaced or closed `old`
    /// before, `new` is the caller's alone.
    pub(super) fn replace(&self, owner: &CachedFile, old: &Arc<OpenFile>, new: Arc<OpenFile>) -> Arc<OpenFile> {
        let mut queue = self.lock_always();
        if owner.descriptor.open.load().as_ref().is_some_and(|open| Arc::ptr_eq(open, old)) {
            owner.descriptor.open.store(Some(Arc::clone(&new)));
            queue.push_back(Arc::downgrade(&new));
            purge(&mut queue, self.budget.used().items);
        }
        new
    }

    /// Keeps the descriptor of a file open until its last handle is dropped. The lock orders this before or after a
    /// thread that closes the descriptor: `detach`.
    pub(super) fn keep(&self, file: &CachedFile) {
        let _queue = self.lock_always();
        file.descriptor.keeps.store(1, Ordering::Relaxed);
    }

    /// Counts a handle in if the descriptor is open, and returns the descriptor.
    pub(super) fn enter_if_open(&self, file: &CachedFile) -> Option<Arc<OpenFile>> {
        let _queue = self.lock_always();
        let open = file.descriptor.get()?;
        file.handles.enter();
        Some(open)
    }

    /// Closes the descriptor of a file if `may_close` returns `true` while no handle can be counted in.
    pub(super) fn close_if(&self, file: &CachedFile, may_close: impl FnOnce() -> bool) {
        // Until the descriptor is closed, its place is neither free nor in use.
        let _transit = self.budget.enter_transit();
        let queue = self.lock();
        let closed = if may_close() { file.descriptor.open.swap(None) } else { None };
        if closed.is_some() {
            file.descriptor.keeps.store(0, Ordering::Relaxed);
        }
        // The system call comes after the lock.
        drop(queue);
        drop(closed);
    }

    /// Closes descriptors until their number is within the limit, or the rest is needed or in use.
    pub(super) fn trim(&self) {
        while !self.budget.is_within() && self.close_one().is_some() {}
    }

    /// Closes one descriptor that is neither needed nor in use, and returns its reservation.
    pub(super) fn close_one(&self) -> Option<Reservation> {
        let _transit = self.budget.enter_transit();
        let entries = self.lock()?.len();
        // The first of two rounds spares descriptors that were used since they were examined last.
        for examined in 0..2 * entries {
            let entry = self.lock()?.pop_front()?;
            let Some(candidate) = entry.upgrade() else { continue };
            let Some(owner) = candidate.owner.upgrade() else { continue };
            // Relaxed: as in `mark_used`.
            let was_used = candidate.was_used.swap(0, Ordering::Relaxed) != 0;
            if (was_used && examined < entries) || !self.detach(&owner, &candidate) {
                self.lock()?.push_back(entry);
                continue;
            }
            // The cell gave its reference up, so this one is the last, unless a reader has another.
            match Arc::try_unwrap(candidate) {
                Ok(mut unused) => {
                    if let Some(reservation) = unused.close() {
                        return Some(reservation);
                    }
                }
                Err(in_use) => self.put_back(&owner, in_use),
            }
        }
        None
    }

    /// Returns a descriptor that a reader uses to its file, unless the file was reopened or has no handle any more.
    fn put_back(&self, owner: &CachedFile, in_use: Arc<OpenFile>) {
        let Some(mut queue) = self.lock() else { return };
        if owner.handles.count() > 0 && owner.descriptor.open.load().is_none() {
            queue.push_back(Arc::downgrade(&in_use));
            owner.descriptor.open.store(Some(in_use));
            return;
        }
        // The system call comes after the lock.
        drop(queue);
        drop(in_use);
    }

    /// Takes `candidate` out of its file. Returns `false` if the descriptor is needed, or is not the file's any more.
    fn detach(&self, owner: &Arc<CachedFile>, candidate: &Arc<OpenFile>) -> bool {
        let had_handles = owner.handles.count() > 0;
        // Asks the OS, so it comes before the lock.
        if had_handles && (owner.descriptor.is_kept() || !candidate.can_reopen(owner)) {
            return false;
        }
        let Some(_queue) = self.lock() else { return false };
        // A file without handles may have got one since. The check of its names was skipped then. Or `keep` was called.
        if owner.handles.count() > 0 && (!had_handles || owner.descriptor.is_kept()) {
            return false;
        }
        let is_current = owner.descriptor.open.load().as_ref().is_some_and(|open| Arc::ptr_eq(open, candidate));
        if is_current {
            owner.descriptor.open.store(None);
        }
        is_current
    }

    /// Returns the queue, or `None` in a child of `fork`: a thread that does not exist there may hold the lock.
    fn lock(&self) -> Option<MutexGuard<'_, VecDeque<Weak<OpenFile>>>> {
        self.process.is_this().then(|| self.lock_always())
    }

    /// Returns the queue. For calls that a child of `fork` must not make.
    fn lock_always(&self) -> MutexGuard<'_, VecDeque<Weak<OpenFile>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a file on overlayfs again, after looking at its metadata. If the file is copied up before or after that, its
/// metadata change. Returns the new descriptor, or the old one if the OS refuses.
fn reopened(file: File) -> (File, Option<Stat>) {
    let before = os::stat(&file).ok();
    match os::reopen(&file) {
        Ok(again) => (again, before),
        Err(_) => (file, before),
    }
}

/// Removes the entries of closed descriptors once they outnumber the open ones: amortized O(1).
fn purge(queue: &mut VecDeque<Weak<OpenFile>>, open: usize) {
    if queue.len() > 2 * open + 16 {
        queue.retain(|entry| entry.strong_count() > 0);
    }
}

#[cfg(test)]
#[cfg(unix)]
pub(super) mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::file::FileKey;
    use crate::config::Limits;
    use crate::geometry::Geometry;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A cache of files in a directory that no other test uses.
    pub(in crate::cache) struct Setting {
        pub(in crate::cache) cache: Arc<Cache>,
        pub(in crate::cache) directory: tempfile::TempDir,
    }

    impl Setting {
        pub(in crate::cache) fn new(max_open_files: usize) -> Self {
            let limits = Limits { max_mapped_bytes: 1 << 20, max_regions: 100, max_open_files };
            let cache = Cache::for_tests(Geometry::whole_file(), limits);
            Self { cache, directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self, number: usize) -> PathBuf {
            self.directory.path().join(number.to_string())
        }

        pub(in crate::cache) fn open(&self, number: usize) -> Arc<CachedFile> {
            fs::write(self.path(number), "bytes").unwrap();
            self.cache.open(&self.path(number)).unwrap()
        }

        fn open_files(&self) -> usize {
            self.cache.descriptors.budget.used().items
        }

        /// Returns `true` if a descriptor was closed.
        fn close_one(&self) -> bool {
            self.cache.descriptors.close_one().is_some()
        }
    }

    fn is_open(file: &CachedFile) -> bool {
        file.descriptor.open.load().is_some()
    }

    #[test]
    fn close_one_closes_the_descriptor_that_was_not_used_for_longest() {
        let setting = Setting::new(10);
        let files: Vec<_> = (0..4).map(|number| setting.open(number)).collect();
        let are_open = || files.iter().map(|file| is_open(file)).collect::<Vec<_>>();
        assert!(setting.close_one(), "all can be reopened");
        assert_eq!(are_open(), [false, true, true, true]);
        drop(files[1].descriptor.borrow());
        assert!(setting.close_one(), "two were not used");
        assert_eq!(are_open(), [false, true, false, true]);
        assert_eq!(setting.open_files(), 2);
    }

    #[test]
    fn close_one_keeps_the_descriptor_of_a_deleted_file_with_a_handle() {
        let setting = Setting::new(10);
        let (deleted, file) = (setting.open(0), setting.open(1));
        fs::remove_file(setting.path(0)).unwrap();
        assert!(setting.close_one(), "the file that has its path");
        assert!(!setting.close_one());
        assert!(is_open(&deleted) && !is_open(&file));
    }

    #[test]
    fn last_handle_closes_the_descriptor() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let again = setting.open(0);
        assert_eq!(setting.open_files(), 1);
        setting.cache.release_handle(&file);
        assert!(is_open(&again));
        setting.cache.release_handle(&again);
        assert_eq!((is_open(&file), setting.open_files()), (false, 0));
    }

    #[test]
    fn close_one_keeps_a_descriptor_in_use() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let reader = file.descriptor.get().expect("open");
        assert!(!setting.close_one(), "the reader has it");
        assert_eq!((is_open(&file), setting.open_files()), (true, 1));
        drop(reader);
        assert!(setting.close_one(), "no reader has it");
        assert_eq!((is_open(&file), setting.open_files()), (false, 0));
    }

    #[test]
    fn close_one_closes_a_used_descriptor_if_all_were_used() {
        let setting = Setting::new(10);
        let files: Vec<_> = (0..3).map(|number| setting.open(number)).collect();
        files.iter().for_each(|file| drop(file.descriptor.borrow()));
        assert!(setting.close_one());
    }

    #[test]
    fn descriptor_in_use_closes_after_the_last_handle_with_its_reader() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let reader = file.descriptor.get().expect("open");
        setting.cache.release_handle(&file);
        assert_eq!((is_open(&file), setting.open_files()), (false, 1));
        drop(reader);
        assert_eq!(setting.open_files(), 0);
    }

    #[test]
    fn queue_stays_short_when_files_come_and_go() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        for number in 1..200 {
            setting.cache.release_handle(&setting.open(number));
        }
        let entries = setting.cache.descriptors.lock_always().len();
        assert!(entries <= 2 * 2 + 17, "{entries} entries for one open descriptor");
        assert!(is_open(&file));
    }

    #[test]
    fn lowered_limit_closes_descriptors() {
        let setting = Setting::new(10);
        let _files: Vec<_> = (0..6).map(|number| setting.open(number)).collect();
        setting.cache.set_limits(Limits { max_open_files: 2, ..setting.cache.limits() }).unwrap();
        assert_eq!(setting.open_files(), 2);
    }

    /// Makes a descriptor of `file` whose changes cannot be noticed: it looks like one of an old copy on overlayfs, and
    /// it is a socket, which cannot be opened again.
    fn without_reopening(setting: &Setting, file: &Arc<CachedFile>) -> Arc<OpenFile> {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(socket));
        let before = Stat { born: Some(std::time::UNIX_EPOCH), ..os::stat(&socket).unwrap() };
        let reservation = setting.cache.descriptors.budget.reserve(0).unwrap();
        let mut open = Arc::into_inner(OpenFile::new(socket, reservation, file, None)).unwrap();
        open.before_copy_up = Some(before);
        Arc::new(open)
    }

    #[test]
    fn last_handle_beside_a_new_one_keeps_the_descriptor() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        std::thread::scope(|scope| {
            let queue = setting.cache.descriptors.lock_always();
            scope.spawn(|| setting.cache.release_handle(&file));
            while file.handles.count() > 0 {
                std::thread::yield_now();
            }
            // As in `enter_if_open`, which the lock orders before the close.
            file.handles.enter();
            drop(queue);
        });
        assert!(is_open(&file));
    }

    #[test]
    fn open_that_cannot_notice_changes_counts_no_handle() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        file.descriptor.open.store(Some(without_reopening(&setting, &file)));
        // An unchanged file is opened without its descriptor.
        fs::write(setting.path(0), "more bytes").unwrap();
        let error = setting.cache.open(&setting.path(0)).err().expect("a socket cannot be opened again");
        assert!(error.to_string().contains("cannot be opened again"), "{error}");
        assert_eq!(file.handles.count(), 1);
        assert!(setting.cache.open_file(File::open(setting.path(0)).unwrap()).is_err());
        assert_eq!(file.handles.count(), 1);
    }

    /// Files of /proc have neither a time of birth nor a generation.
    #[test]
    #[cfg(target_os = "linux")]
    fn open_of_another_file_with_the_same_key_counts_no_handle() {
        let (setting, path) = (Setting::new(10), Path::new("/proc/version"));
        let stat = os::stat_path(path).unwrap();
        let key = FileKey::at(path, &stat);
        assert!(!key.is_unique());
        let file = setting.cache.registry.get_or_insert(
            key,
            |_| unreachable!("the registry is empty"),
            || CachedFile::new(key, FileSystem::Local, &stat, &setting.cache),
        );
        let reservation = setting.cache.descriptors.budget.reserve(0).unwrap();
        let other = OpenFile::new(tempfile::tempfile().unwrap(), reservation, &file, None);
        setting.cache.descriptors.install(&file, other, true);
        assert!(setting.cache.open(path).is_err(), "/proc/version is no file that can be mapped");
        assert_eq!(file.handles.count(), 1);
    }

    #[test]
    fn thread_that_waits_for_another_to_reopen_holds_no_reservation() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        assert!(setting.close_one());
        let reopening = file.descriptor.try_reopen().expect("no other thread reopens the file");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| setting.cache.descriptor(&file, None).map(drop));
            let looks = (0..100).map(|_| {
                std::thread::sleep(std::time::Duration::from_micros(300));
                setting.open_files()
            });
            // The waiting thread reserves for a moment before each of its looks.
            let reserved: usize = looks.sum();
            assert!(reserved < 50, "{reserved} of 100");
            drop(reopening);
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(setting.open_files(), 1);
    }

    #[test]
    fn descriptor_in_use_is_not_put_back_after_the_last_handle() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let in_use = file.descriptor.get().expect("open");
        assert!(setting.cache.descriptors.detach(&file, &in_use));
        setting.cache.release_handle(&file);
        setting.cache.descriptors.put_back(&file, in_use);
        assert_eq!((is_open(&file), setting.open_files()), (false, 0));
    }

    #[test]
    fn older_descriptor_neither_takes_nor_gives_up_the_place_of_the_newer() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let descriptors = &setting.cache.descriptors;
        let older = file.descriptor.get().expect("open");
        assert!(descriptors.detach(&file, &older));
        let newer = setting.cache.descriptor(&file, None).unwrap();
        let is_newer = || file.descriptor.get().is_some_and(|open| Arc::ptr_eq(&open, &newer));
        assert!(is_newer() && !descriptors.detach(&file, &older) && is_newer());
        descriptors.replace(&file, &older, Arc::clone(&older));
        assert!(is_newer());
        descriptors.put_back(&file, older);
        assert!(is_newer());
    }

    #[test]
    fn descriptor_is_kept_if_a_handle_comes_while_it_is_examined() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let open = file.descriptor.get().expect("open");
        fs::remove_file(setting.path(0)).unwrap();
        assert!(file.handles.leave());
        std::thread::scope(|scope| {
            let queue = setting.cache.descriptors.lock_always();
            let examined = scope.spawn(|| setting.cache.descriptors.detach(&file, &open));
            std::thread::sleep(std::time::Duration::from_millis(5));
            file.handles.enter();
            drop(queue);
            assert!(!examined.join().unwrap(), "the file cannot be opened again");
        });
        assert!(is_open(&file));
    }

    #[test]
    fn reservation_over_a_lowered_limit_gives_up_closed_places() {
        let setting = Setting::new(5);
        let _files: Vec<_> = (0..5).map(|number| setting.open(number)).collect();
        setting.cache.descriptors.budget.set_limit(Usage { bytes: 0, items: 2 });
        let room = setting.cache.descriptors.reserve(Some(WhenFull::Fail)).expect("each file can be reopened");
        assert_eq!((room.over, setting.open_files()), (false, 2));
    }

    #[test]
    fn kept_descriptor_is_kept_for_its_handles_only() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        setting.cache.descriptors.keep(&file);
        assert!(!setting.close_one());
        setting.cache.release_handle(&file);
        let again = setting.open(0);
        assert!(Arc::ptr_eq(&file, &again) && setting.close_one());
    }
}
