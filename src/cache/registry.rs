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

    /// Returns the file with this key, if `is_same` says that it is the caller's. Otherwise registers the one that `make`
    /// returns. The other one stays usable, but is not found any more.
    pub(super) fn get_or_insert(
        &self,
        key: FileKey,
        is_same: impl Fn(&CachedFile) -> bool,
        make: impl Fn() -> CachedFile,
    ) -> Arc<CachedFile> {
        loop {
            // Compared, made and dropped outside of the lock. If another thread registers a file first, dropping this
            // one finds that it is not the registered one.
            let known = self.get(&key);
            if let Some(known) = known.as_ref().filter(|known| is_same(known)) {
                return Arc::clone(known);
            }
            let fresh = Arc::new(make());
            let rival = {
                let mut entry = self.files.entry(key).or_default();
                let is_new = |file: &Arc<_>| known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, file));
                let rival = entry.upgrade().filter(is_new);
                if rival.is_none() {
                    *entry = Arc::downgrade(&fresh);
                }
                rival
            };
            if rival.is_none() {
                return fresh;
            }
        }
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
