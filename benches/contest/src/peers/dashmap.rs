//! `DashMap<_, Arc<Mmap>>`: as [`rwlock_hashmap`](super::rwlock_hashmap), in shards.
//!
//! A hit reads under its shard's read lock. A miss at full capacity evicts a random window.

use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::{Mapped, Mapper, WindowCache};
use crate::support::Rng;

pub(crate) struct Cache {
    capacity: usize,
    windows: DashMap<u64, Arc<Mapped>>,
    /// A copy of the keys, for the random choice of a victim.
    keys: Mutex<(Vec<u64>, Rng)>,
}

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, windows: DashMap::new(), keys: Mutex::new((Vec::new(), Rng::new(1))) }
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.windows.get(&window) {
            return visit(&mapped);
        }
        visit(&self.miss(mapper, window))
    }
}

impl Cache {
    #[cold]
    fn miss(&self, mapper: &Mapper, window: u64) -> Arc<Mapped> {
        // Deadlock-free: no thread holds a lock of a shard and the lock of the keys at the same time.
        let mapped = match self.windows.entry(window) {
            Entry::Occupied(entry) => return Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(entry.insert(mapper.map(window)).value()),
        };
        let evicted = {
            let mut guard = self.keys.lock().expect("no thread panics while it holds the lock");
            let (keys, rng) = &mut *guard;
            let full = keys.len() == self.capacity;
            let evicted = full.then(|| keys.swap_remove(rng.below(self.capacity as u64) as usize));
            keys.push(window);
            evicted
        };
        if let Some(key) = evicted {
            self.windows.remove(&key);
        }
        mapped
    }
}
