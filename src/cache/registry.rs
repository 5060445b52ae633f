//! [`Registry`]: which files are known. The only user of dashmap.
//!
//! dashmap is a table of locks, so no guard of it is held across a map, an unmap, or a call into another module: files
//! come out of here as counted references, or not at all.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::CachedFile;
use super::file::FileKey;

/// It holds files weakly. A file lives while a handle, a mapping or a descriptor of it does, and takes itself off the
/// registry when it goes.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: DashMap<FileKey, Weak<CachedFile>>,
}

impl Registry {
    pub(crate) fn get(&self, key: &FileKey) -> Option<Arc<CachedFile>> {
        self.files.get(key)?.upgrade()
    }

    /// The file of this key; `make` is called, at most once, if there is none.
    pub(crate) fn get_or_insert(&self, key: FileKey, make: impl FnOnce() -> CachedFile) -> Arc<CachedFile> {
        // Made outside of the lock. If somebody else is faster, this one goes; its drop finds that it is not the one that is
        // registered.
        let mut made = None;
        if let Some(known) = self.get(&key) {
            return known;
        }
        let fresh = Arc::new(make());
        let file = match self.files.entry(key) {
            Entry::Occupied(mut known) => match known.get().upgrade() {
                Some(file) => {
                    made = Some(fresh);
                    file
                }
                None => {
                    known.insert(Arc::downgrade(&fresh));
                    fresh
                }
            },
            Entry::Vacant(place) => {
                place.insert(Arc::downgrade(&fresh));
                fresh
            }
        };
        drop(made);
        file
    }

    /// Takes `file` off, unless another has its key already. For its drop.
    pub(crate) fn remove(&self, key: &FileKey, file: *const CachedFile) {
        self.files.remove_if(key, |_, known| std::ptr::eq(known.as_ptr(), file));
    }

    /// All files, as of about now. O(n).
    pub(crate) fn files(&self) -> Vec<Arc<CachedFile>> {
        self.files.iter().filter_map(|entry| entry.value().upgrade()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
}
