//! [`FileEntry`]: one file: its identity, its length, the names that lead to it, and its slots.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use super::region::{Descriptor, Region};
use crate::os::{self, Stat};
use crate::protocol::atomics::{FencedU64, UserCount};
use crate::protocol::radix_table::RadixTable;
use crate::protocol::slot::Slot;
use crate::sync::epoch::EpochBox;
use crate::sync::{Mutex, MutexGuard};

/// Names kept for each file, the newest: a descriptor that was closed is reopened by the first that still leads to it.
const NAMES_MAX: usize = 4;

/// A file's identity: that of the *opened* file, never of a path. The same through every name, link and descriptor.
///
/// Device and inode number; and the time of birth where the file system knows it, because inode numbers are given out
/// again as soon as nobody holds the file.
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

#[derive(Debug)]
pub(crate) struct FileEntry {
    key: FileKey,
    len: FencedU64,
    /// What the file was like when it was last looked at.
    noticed: Mutex<Stat>,
    names: Mutex<Vec<PathBuf>>,
    /// Opens that are still held.
    pub(crate) handles: UserCount,
    /// Mappings that are in no slot.
    pub(crate) detached: UserCount,
    /// Evictors look at these without holding the file, so they are freed through the epoch.
    slots: EpochBox<Slots>,
}

/// What became of a file's content since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Same,
    Grown,
    Truncated,
    Modified,
}

impl Content {
    fn since(before: &Stat, now: &Stat) -> Self {
        // The time of modification can be set to any value, also back; the time of change cannot, but it moves on for other
        // reasons too. Those that can be told from a change of the bytes are.
        let has_other_attributes = before.links != now.links || before.attributes != now.attributes;
        match now.len.cmp(&before.len) {
            Ordering::Greater => Self::Grown,
            Ordering::Less => Self::Truncated,
            Ordering::Equal if now.modified != before.modified => Self::Modified,
            Ordering::Equal if now.changed != before.changed && !has_other_attributes => Self::Modified,
            Ordering::Equal => Self::Same,
        }
    }
}

/// Where a file's mappings and its descriptor stand.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) windows: RadixTable<Slot<Region>>,
    pub(crate) descriptor: Slot<Descriptor>,
}

impl FileEntry {
    pub(crate) fn new(key: FileKey, stat: &Stat) -> Self {
        Self {
            key,
            len: FencedU64::new(stat.len),
            noticed: Mutex::new(stat.clone()),
            names: Mutex::default(),
            handles: UserCount::default(),
            detached: UserCount::default(),
            slots: EpochBox::new(Slots::default()),
        }
    }

    pub(crate) fn key(&self) -> FileKey {
        self.key
    }

    /// Bytes of the file, as last noticed.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len.load()
    }

    /// The same, for somebody who is going to map a window whose slot is his: whoever changes the length afterwards finds
    /// that slot and drains it.
    pub(crate) fn len_to_map(&self) -> u64 {
        self.len.load_after_fence()
    }

    #[inline]
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Takes notice of what `look` sees. If the length changed, `drain` is called with the smaller of the two, once the new
    /// one is published: what is mapped from there on is out of date. One at a time, looking included, so that what was seen
    /// before never takes the place of what was seen later.
    pub(crate) fn notice(
        &self,
        look: impl FnOnce() -> io::Result<Stat>,
        drain: impl FnOnce(u64),
    ) -> io::Result<(Content, Stat)> {
        let mut noticed = unpoisoned(&self.noticed);
        let stat = look()?;
        let content = Content::since(&noticed, &stat);
        if noticed.len != stat.len {
            self.len.store_then_fence(stat.len);
            drain(noticed.len.min(stat.len));
        }
        noticed.clone_from(&stat);
        Ok((content, stat))
    }

    /// Learns a name that led here. Names are kept absolute, the newest first.
    pub(crate) fn remember(&self, name: &Path) {
        let name = std::path::absolute(name).unwrap_or_else(|_| name.to_path_buf());
        let mut names = unpoisoned(&self.names);
        names.retain(|known| *known != name);
        names.insert(0, name);
        names.truncate(NAMES_MAX);
    }

    /// The names that are known to have led here, the newest first.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        unpoisoned(&self.names).clone()
    }

    /// Whether one of its names leads here now. Asks the system.
    pub(crate) fn is_reachable(&self) -> bool {
        self.names().iter().any(|name| os::stat_path(name).is_ok_and(|stat| FileKey::from(&stat) == self.key))
    }
}

/// What these locks protect is whole after every step, so a panic elsewhere does not spoil it.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
