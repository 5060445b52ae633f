//! [`Registry`]: the files of a cache by identity. The only user of dashmap.
//!
//! dashmap is a table of locks. So no guard of it is held across a map, an unmap, or a call into another module: the
//! registry returns counted references only.
#![allow(clippy::disallowed_types, reason = "the one user of dashmap")]

use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::CachedFile;
use super::file::{FileKey, Inode};

/// Weak references to files. A file lives while it has a handle or a region, and removes itself from the registry when
/// it is dropped.
#[derive(Debug, Default)]
pub(super) struct Registry {
    files: DashMap<FileKey, Weak<CachedFile>>,
    /// The file registered last for each inode. An inode number may be used again, and a file that replaced another one
    /// may be missing here: the caller checks what it finds.
    inodes: DashMap<Inode, Weak<CachedFile>>,
}

impl Registry {
    pub(super) fn get(&self, key: &FileKey) -> Option<Arc<CachedFile>> {
        self.files.get(key)?.upgrade()
    }

    /// Returns the file registered last for this inode.
    pub(super) fn get_by_inode(&self, inode: Inode) -> Option<Arc<CachedFile>> {
        self.inodes.get(&inode)?.upgrade()
    }

    /// Returns the file with this key, if `is_same` says that it is the caller's. Otherwise registers the one that
    /// `make` returns. A known file that `is_same` rejects stays usable, but is not found any more.
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
                self.inodes.insert(key.inode(), Arc::downgrade(&fresh));
                return fresh;
            }
        }
    }

    /// Removes `file`, unless another file has its key already. For the drop of `file`.
    pub(super) fn remove(&self, key: &FileKey, file: *const CachedFile) {
        self.files.remove_if(key, |_, known| std::ptr::eq(known.as_ptr(), file));
        self.inodes.remove_if(&key.inode(), |_, known| std::ptr::eq(known.as_ptr(), file));
    }

    /// Returns all files, as of about now. O(files).
    pub(super) fn files(&self) -> Vec<Arc<CachedFile>> {
        self.files.iter().filter_map(|entry| entry.value().upgrade()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::cache::descriptors::tests::Setting;

    #[test]
    fn dead_entry_is_replaced() {
        let setting = Setting::new(10);
        let file = setting.open(0);
        let make = || CachedFile::new(file.key, file.system, &file.noticed_stat(), &setting.cache);
        let registry = Registry::default();
        // The entry of a file that is being dropped, or was dropped in a child of `fork`.
        registry.files.insert(file.key, Weak::new());
        let fresh = registry.get_or_insert(file.key, |_| unreachable!("the entry is dead"), make);
        assert!(registry.get(&file.key).is_some_and(|known| Arc::ptr_eq(&known, &fresh)));
    }

    #[test]
    fn dropped_file_leaves_the_entry_of_its_successor() {
        let setting = Setting::new(10);
        let (file, registry) = (setting.open(0), &setting.cache.registry);
        let key = file.key;
        let make = || CachedFile::new(key, file.system, &file.noticed_stat(), &setting.cache);
        let successor = registry.get_or_insert(key, |_| false, make);
        setting.cache.release_handle(&file);
        drop(file);
        assert!(registry.get(&key).is_some_and(|known| Arc::ptr_eq(&known, &successor)));
        assert_eq!(registry.len(), 1);
        drop(successor);
        assert_eq!(registry.len(), 0);
    }
}
