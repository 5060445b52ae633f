//! [`Registry`]: the files of a cache by identity. The only user of dashmap.
//!
//! dashmap is a table of locks. So no guard of it is held across a map, an unmap, or a call into another module: the
//! registry returns counted references only.
#![allow(clippy::disallowed_types, reason = "the one user of dashmap")]

use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::CachedFile;
use super::file::FileKey;

/// Weak references to files. A file lives while it has a handle or a region, and removes itself from the registry when
/// it is dropped.
#[derive(Debug, Default)]
pub(super) struct Registry {
    files: DashMap<FileKey, Weak<CachedFile>>,
}

impl Registry {
    pub(super) fn get(&self, key: &FileKey) -> Option<Arc<CachedFile>> {
        self.files.get(key)?.upgrade()
    }

    /// Returns the file with this key. If there is none, registers the one that `make` returns.
    pub(super) fn get_or_insert(&self, key: FileKey, make: impl FnOnce() -> CachedFile) -> Arc<CachedFile> {
        if let Some(known) = self.get(&key) {
            return known;
        }
        // Made and dropped outside of the lock. If another thread registers the file first, dropping this one finds
        // that it is not the registered one.
        let fresh = Arc::new(make());
        let known = {
            let mut entry = self.files.entry(key).or_default();
            let known = entry.upgrade();
            if known.is_none() {
                *entry = Arc::downgrade(&fresh);
            }
            known
        };
        known.unwrap_or(fresh)
    }

    /// Removes `file`, unless another file has its key already. For the drop of `file`.
    pub(super) fn remove(&self, key: &FileKey, file: *const CachedFile) {
        self.files.remove_if(key, |_, known| std::ptr::eq(known.as_ptr(), file));
    }

    /// Returns all files, as of about now. O(files).
    pub(super) fn files(&self) -> Vec<Arc<CachedFile>> {
        self.files.iter().filter_map(|entry| entry.value().upgrade()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}
