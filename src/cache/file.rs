//! [`CachedFile`]: one file of a cache: its identity, length and names, the slots of its windows, and its descriptor.
//! `src/file.rs` has its handle, the public `MappedFile`.

use std::cmp::Ordering;
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::SystemTime;

use super::descriptors::DescriptorCell;
use super::region::Region;
use super::{Cache, Change};
use crate::config::Advice;
use crate::os::{self, FileSystem, Stat};
use crate::protocol::atomics::{FencedU64, UserCount};
use crate::protocol::slot::{Drain, Slot};
use crate::protocol::sparse_table::SparseTable;
use crate::sync::epoch::EpochBox;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering as MemoryOrdering};

/// Names kept for each file, the newest first. A closed descriptor is reopened by the first name that still leads to
/// the file.
const NAMES_MAX: usize = 4;

/// The identity of an *opened* file, never of a path: the same through each name, link and descriptor.
///
/// Device and inode number are not enough, because the OS reuses an inode number as soon as no process holds the file.
/// The time of birth and the generation tell such files apart, where the file system records them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    device: u64,
    inode: u128,
    born: Option<SystemTime>,
    generation: Option<u64>,
}

/// The device and the number of an inode.
pub(super) type Inode = (u64, u128);

impl FileKey {
    pub(super) fn inode(&self) -> Inode {
        (self.device, self.inode)
    }

    /// Returns the identity of an open file.
    pub(super) fn of(file: &File, stat: &Stat) -> Self {
        Self::new(stat, || os::generation(file))
    }

    /// Returns the identity of the file to which `path` leads.
    pub(super) fn at(path: &Path, stat: &Stat) -> Self {
        Self::new(stat, || os::generation_at(path))
    }

    fn new(stat: &Stat, generation: impl Fn() -> Option<u64>) -> Self {
        // That of a block device would be the generation of its node.
        let generation = if stat.is_block_device() { None } else { generation() };
        Self { device: stat.device, inode: stat.inode, born: stat.born, generation }
    }

    /// Returns `true` if no other file ever has this key. Otherwise two files may have one key, at different times or,
    /// on some file systems (FUSE), at one time.
    pub(super) fn is_unique(&self) -> bool {
        self.born.is_some() || self.generation.is_some() || self.inode == Stat::OF_BLOCK_DEVICE
    }
}

/// The last bytes of a file, for a comparison after it has grown.
#[derive(Debug)]
struct Tail {
    offset: u64,
    bytes: [u8; TAIL],
}

/// The bytes of a [`Tail`].
const TAIL: usize = 64;

impl Tail {
    /// Reads the tail of a file of `len` bytes. Returns `None` if it is not in the page cache, or the file is shorter.
    fn of(file: &File, len: u64) -> Option<Self> {
        let mut tail = Self { offset: len.checked_sub(TAIL as u64)?, bytes: [0; TAIL] };
        os::peek_at(file, &mut tail.bytes, tail.offset).then_some(tail)
    }

    /// Returns `true` if the file has other bytes at this place now, or cannot be read.
    fn differs(&self, file: &File) -> bool {
        let mut now = [0; TAIL];
        !matches!(os::read_fully_at(file, &mut now, self.offset), Ok(TAIL)) || now != self.bytes
    }
}

/// The result of the newest look at a file.
#[derive(Debug)]
struct Noticed {
    stat: Stat,
    tail: Option<Tail>,
}

/// The results of earlier attempts to map a file.
#[derive(Debug, Default)]
struct Mappability {
    /// The error number by which the OS has refused a mapping for good, or 0.
    refusal: AtomicU32,
    /// 1 after a private mapping was made.
    has_private: AtomicU32,
}

/// A file of a cache. Its handles keep it, and so does each of its regions (rule 5 of the protocol). The registry holds
/// it weakly.
pub(crate) struct CachedFile {
    pub(super) key: FileKey,
    /// A hash of `key`. Files that are open at different times have the same one if they have the same key.
    pub(super) key_hash: u32,
    pub(super) system: FileSystem,
    /// The [`Advice`] for new mappings, as a word.
    advice: AtomicU32,
    mappability: Mappability,
    len: FencedU64,
    /// The number of changes of the content that were noticed. Wraps.
    changes: AtomicU32,
    noticed: Mutex<Noticed>,
    names: Mutex<Vec<PathBuf>>,
    /// Handles of the file. With the last one the descriptor closes; mapped windows stay.
    pub(super) handles: UserCount,
    /// Detached regions of the file.
    pub(super) detached: UserCount,
    /// An evicting thread looks at slots without holding the file, so the table is freed through the epoch.
    windows: EpochBox<SparseTable<Slot<Region>>>,
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
    pub(super) fn new(key: FileKey, system: FileSystem, stat: &Stat, cache: &Arc<Cache>) -> Self {
        let file = Self {
            key,
            // Never keyed at random: the hash outlives this entry.
            key_hash: BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as u32,
            system,
            advice: AtomicU32::new(cache.config().advice.to_word()),
            mappability: Mappability::default(),
            len: FencedU64::new(stat.len),
            changes: AtomicU32::new(0),
            noticed: Mutex::new(Noticed { stat: stat.clone(), tail: None }),
            names: Mutex::default(),
            handles: UserCount::default(),
            detached: UserCount::default(),
            windows: EpochBox::new(SparseTable::default()),
            descriptor: DescriptorCell::default(),
            cache: Arc::downgrade(cache),
        };
        cache.regions.restore_frequencies(&file);
        file
    }

    /// Returns the advice for new mappings.
    pub(super) fn advice(&self) -> Advice {
        // Relaxed: a hint.
        Advice::from_word(self.advice.load(MemoryOrdering::Relaxed))
    }

    pub(super) fn set_advice(&self, advice: Advice) {
        self.advice.store(advice.to_word(), MemoryOrdering::Relaxed);
    }

    /// Returns the length of the file in bytes, as last noticed.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len.load()
    }

    /// Returns the number of changes of the content that were noticed, wrapping. A reader's copy is out of date if the
    /// number differs.
    pub(crate) fn changes(&self) -> u32 {
        // Relaxed: a reader that misses a change has read before it was noticed. `refresh` on the reader's own thread,
        // or one that happens before the read, is never missed.
        self.changes.load(MemoryOrdering::Relaxed)
    }

    /// Returns the length for a loader, which already owns a slot in LOADING. A thread that publishes a new length
    /// afterwards finds that slot and drains it.
    pub(super) fn len_to_map(&self) -> u64 {
        self.len.load_after_fence()
    }

    /// Returns the slots of the file's windows.
    #[inline]
    pub(super) fn windows(&self) -> &SparseTable<Slot<Region>> {
        &self.windows
    }

    /// Drains each window from index `first_window` on.
    pub(super) fn drain_from(&self, first_window: u64, mut each: impl FnMut(Drain<Region>)) {
        self.windows.for_each_from(first_window, |_, slot| each(slot.drain()));
    }

    /// Asks the OS for the metadata of `file`, a descriptor of this file, and records them. Returns them with the
    /// change of the content since the last call: `Unchanged`, `Grown`, `Truncated` or `Modified`.
    ///
    /// If regions are out of date, calls `drain` with the offset from which on they are: the smaller of both lengths,
    /// after publishing the new one, or 0 if a private mapping may show bytes from before the change. The lock covers
    /// the look, so that an older result never replaces a newer one.
    pub(crate) fn record_stat(&self, file: &File, drain: impl FnOnce(u64)) -> io::Result<(Change, Stat)> {
        let mut noticed = unpoisoned(&self.noticed);
        let stat = self.system.stat(file)?;
        let mut change = content_change(&noticed.stat, &stat);
        // A file that was truncated and has grown beyond its old length since looks like one that was appended to.
        if change == Change::Grown && noticed.tail.as_ref().is_some_and(|tail| tail.differs(file)) {
            change = Change::Modified;
        }
        if noticed.stat.len != stat.len {
            self.len.store_then_fence(stat.len);
        }
        if change != Change::Unchanged {
            self.changes.fetch_add(1, MemoryOrdering::Relaxed);
        }
        // Relaxed: a private mapping is made from a file that is read after the look at its length.
        if change != Change::Unchanged && self.mappability.has_private.load(MemoryOrdering::Relaxed) != 0 {
            drain(0);
        } else if noticed.stat.len != stat.len {
            drain(noticed.stat.len.min(stat.len));
        }
        if change != Change::Unchanged || noticed.tail.is_none() {
            noticed.tail = Tail::of(file, stat.len);
        }
        noticed.stat.clone_from(&stat);
        Ok((change, stat))
    }

    /// Returns the error by which the OS has refused to map the file, whatever the range, or `None`.
    pub(super) fn refusal(&self) -> Option<io::Error> {
        match self.mappability.refusal.load(MemoryOrdering::Relaxed) {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number as i32)),
        }
    }

    /// Returns `true` if the OS has refused to map the file, whatever the range. Readers then read it.
    pub(crate) fn is_unmappable(&self) -> bool {
        // Relaxed: a hint. A reader that misses it asks the OS once more.
        self.mappability.refusal.load(MemoryOrdering::Relaxed) != 0
    }

    /// Records that the OS refuses to map the file. Returns `true` the first time.
    pub(super) fn set_refusal(&self, error: &io::Error) -> bool {
        let number = error.raw_os_error().unwrap_or_default() as u32;
        self.mappability.refusal.swap(number, MemoryOrdering::Relaxed) == 0
    }

    /// Records that a private mapping of the file exists.
    pub(super) fn set_private(&self) {
        self.mappability.has_private.store(1, MemoryOrdering::Relaxed);
    }

    /// Returns the metadata that the newest look found.
    pub(super) fn noticed_stat(&self) -> Stat {
        unpoisoned(&self.noticed).stat.clone()
    }

    /// Returns `true` if `stat`, the metadata of the file at some path, are those of this file, and the newest look
    /// found the same. A descriptor of this file is open, so no other file has its inode number.
    ///
    /// Returns `false` on file systems on which that does not hold, or on which a descriptor may report other metadata
    /// than a path.
    pub(super) fn is_unchanged(&self, stat: &Stat) -> bool {
        let is_local = matches!(self.system, FileSystem::Local | FileSystem::Memory { .. });
        is_local && self.key.is_unique() && !stat.is_block_device() && unpoisoned(&self.noticed).stat == *stat
    }

    /// Adds a name that led to the file, made absolute, in front of the others.
    pub(super) fn add_name(&self, name: &Path) {
        if unpoisoned(&self.names).first().is_some_and(|first| first == name) {
            return;
        }
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

    /// Returns `true` if `path` leads to this file.
    ///
    /// # Errors
    ///
    /// Returns the error of the OS if it cannot examine the path or this file's descriptor.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.is_same(|| os::stat_path(path), || os::generation_at(path))
    }

    /// Returns `true` if `other` is a descriptor of this file. See [`is_at`](Self::is_at) for errors.
    pub(super) fn is_open_in(&self, other: &File) -> io::Result<bool> {
        self.is_same(|| os::stat(other), || os::generation(other))
    }

    /// Compares the file at which `look` looks with this one. If two files may have one key, their lengths and times
    /// have to be the same, too.
    fn is_same(&self, look: impl Fn() -> io::Result<Stat>, generation: impl Fn() -> Option<u64>) -> io::Result<bool> {
        for _ in 0..LOOKS {
            let found = look()?;
            let own = match &*self.descriptor.peek() {
                Some(open) => os::stat(&open.file)?,
                None => self.noticed_stat(),
            };
            // The time of birth of a file on overlayfs changes when it is copied up.
            let is_candidate = (self.key.device, self.key.inode, own.born) == (found.device, found.inode, found.born);
            let generation = if found.is_block_device() { None } else { generation() };
            // The OS may refuse to tell the generation (a filter that was installed later). Then length and times
            // decide.
            let is_known = generation == self.key.generation;
            if !is_candidate || (!is_known && generation.is_some()) {
                return Ok(false);
            }
            if (self.key.is_unique() && is_known)
                || (own.len, own.modified, own.changed) == (found.len, found.modified, found.changed)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns `true` if one of the file's names leads to it now.
    #[cfg(windows)]
    pub(super) fn is_reachable(&self) -> bool {
        self.names().iter().any(|name| self.is_at(name).unwrap_or(false))
    }

    /// Returns `true` if this process can open the file by one of its names now.
    pub(super) fn can_reopen(&self) -> bool {
        self.names().iter().any(|name| os::may_read(name) && self.is_at(name).unwrap_or(false))
    }
}

/// The number of comparisons of a file's metadata with those of another descriptor or path. The file may change between
/// the two looks of one comparison.
const LOOKS: usize = 3;

impl Drop for CachedFile {
    fn drop(&mut self) {
        // In a child of `fork` the registry may be locked for ever. The dead entry stays there, and the next open of
        // the file replaces it.
        if let Some(cache) = self.cache.upgrade().filter(|cache| cache.process.is_this()) {
            cache.keep_frequencies(self);
            cache.registry.remove(&self.key, self);
        }
    }
}

/// The data under these locks is consistent after each step, so a panic in another thread does not spoil it.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::cache::descriptors::tests::Setting;

    #[test]
    fn record_stat_drains_from_the_shorter_length() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let on_disk = File::options().write(true).open(&file.names()[0]).unwrap();
        for (len, change, shorter) in [(9, Change::Grown, 5), (3, Change::Truncated, 3)] {
            on_disk.set_len(len).unwrap();
            let mut drained_from = None;
            let noticed = file.record_stat(&on_disk, |from| drained_from = Some(from)).unwrap();
            assert_eq!((noticed.0, drained_from, file.len()), (change, Some(shorter), len));
        }
    }

    #[test]
    fn names_are_few_and_the_newest_comes_first() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let names = ["/a", "/b", "/c", "/d", "/e", "/c"];
        names.iter().for_each(|name| file.add_name(Path::new(name)));
        assert_eq!(file.names(), ["/c", "/e", "/d", "/b"].map(PathBuf::from));
    }
}
