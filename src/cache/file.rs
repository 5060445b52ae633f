//! [`CachedFile`]: one file of a cache: its identity, length and names, the slots of its windows, and its descriptor.
//! `src/file.rs` has its handle, the public `MappedFile`.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::SystemTime;

use super::descriptors::DescriptorCell;
use super::region::Region;
use super::{Cache, Change};
use crate::os::{self, Stat};
use crate::protocol::atomics::{FencedU64, UserCount};
use crate::protocol::radix_table::RadixTable;
use crate::protocol::slot::{Drain, Slot};
use crate::sync::epoch::EpochBox;
use crate::sync::{Mutex, MutexGuard};

/// Names kept for each file, the newest first. A closed descriptor is reopened by the first name that still leads to
/// the file.
const NAMES_MAX: usize = 4;

/// The identity of an *opened* file, never of a path: the same through each name, link and descriptor.
///
/// The OS reuses an inode number as soon as no process holds the file. So the key has the time of birth too, where the
/// file system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl From<&Stat> for FileKey {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.device, inode: stat.inode, born: stat.born }
    }
}

/// A file of a cache. Its handles keep it, and so does each of its regions (rule 5 of the protocol). The registry holds
/// it weakly.
pub(crate) struct CachedFile {
    pub(super) key: FileKey,
    len: FencedU64,
    /// The result of the newest `stat`.
    noticed: Mutex<Stat>,
    names: Mutex<Vec<PathBuf>>,
    /// Handles of the file. With the last one the descriptor closes; mapped windows stay.
    pub(super) handles: UserCount,
    /// Detached regions of the file.
    pub(super) detached: UserCount,
    /// An evicting thread looks at slots without holding the file, so the table is freed through the epoch.
    windows: EpochBox<RadixTable<Slot<Region>>>,
    pub(super) descriptor: DescriptorCell,
    pub(super) cache: Weak<Cache>,
}

/// Returns the change of a file's content between two results of `stat`.
fn content_change(before: &Stat, now: &Stat) -> Change {
    // Any process can set the time of modification back. No process can set the time of change, but other events
    // than a write advance it as well. Those that `stat` can tell from a write are excluded here.
    let has_other_attributes = before.links != now.links || before.attributes != now.attributes;
    match now.len.cmp(&before.len) {
        Ordering::Greater => Change::Grown,
        Ordering::Less => Change::Truncated,
        Ordering::Equal if now.modified != before.modified => Change::Modified,
        Ordering::Equal if now.changed != before.changed && !has_other_attributes => Change::Modified,
        Ordering::Equal => Change::Unchanged,
    }
}

impl CachedFile {
    pub(super) fn new(key: FileKey, stat: &Stat, cache: &Arc<Cache>) -> Self {
        Self {
            key,
            len: FencedU64::new(stat.len),
            noticed: Mutex::new(stat.clone()),
            names: Mutex::default(),
            handles: UserCount::default(),
            detached: UserCount::default(),
            windows: EpochBox::new(RadixTable::default()),
            descriptor: DescriptorCell::default(),
            cache: Arc::downgrade(cache),
        }
    }

    /// Returns the length of the file in bytes, as last noticed.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len.load()
    }

    /// Returns the length for a loader, which already owns a slot in LOADING. A thread that publishes a new length
    /// afterwards finds that slot and drains it.
    pub(super) fn len_to_map(&self) -> u64 {
        self.len.load_after_fence()
    }

    /// Returns the slots of the file's windows.
    #[inline]
    pub(super) fn windows(&self) -> &RadixTable<Slot<Region>> {
        &self.windows
    }

    /// Drains each window from index `first_window` on.
    pub(super) fn drain_from(&self, first_window: u64, mut each: impl FnMut(Drain<Region>)) {
        self.windows.for_each_from(first_window, |_, slot| each(slot.drain()));
    }

    /// Records the result of `look`, and returns it with the change of the content since the last one: `Unchanged`,
    /// `Grown`, `Truncated` or `Modified`.
    ///
    /// If the length changed, publishes it and then calls `drain` with the smaller of both lengths: regions from there on
    /// are out of date. The lock covers `look`, so that an older result never replaces a newer one.
    pub(crate) fn record_stat(
        &self,
        look: impl FnOnce() -> io::Result<Stat>,
        drain: impl FnOnce(u64),
    ) -> io::Result<(Change, Stat)> {
        let mut noticed = unpoisoned(&self.noticed);
        let stat = look()?;
        let change = content_change(&noticed, &stat);
        if noticed.len != stat.len {
            self.len.store_then_fence(stat.len);
            drain(noticed.len.min(stat.len));
        }
        noticed.clone_from(&stat);
        Ok((change, stat))
    }

    /// Adds a name that led to the file, made absolute, in front of the others.
    pub(super) fn add_name(&self, name: &Path) {
        let name = std::path::absolute(name).unwrap_or_else(|_| name.to_path_buf());
        let mut names = unpoisoned(&self.names);
        names.retain(|known| *known != name);
        names.insert(0, name);
        names.truncate(NAMES_MAX);
    }

    /// Returns the names that are known to have led to the file, the newest first.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        unpoisoned(&self.names).clone()
    }

    /// Returns `true` if one of the file's names leads to it now. One `stat` for each name.
    pub(super) fn is_reachable(&self) -> bool {
        self.names().iter().any(|name| os::stat_path(name).is_ok_and(|stat| FileKey::from(&stat) == self.key))
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        // In a child of `fork` the registry may be locked for ever. The dead entry stays there, and the next open of
        // the file replaces it.
        if let Some(cache) = self.cache.upgrade().filter(|cache| cache.process.is_this()) {
            cache.registry.remove(&self.key, self);
        }
    }
}

/// The data under these locks is consistent after each step, so a panic in another thread does not spoil it.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
