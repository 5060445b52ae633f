//! `DashMap<_, Arc<Mmap>>`: the same in shards.
//!
//! A hit reads under its shard's read lock. A full one lets go of any other window.

use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::{Mapped, Mapper, WindowCache};
use crate::support::Rng;

pub(crate) struct Cache {
    capacity: usize,
    windows: DashMap<u64, Arc<Mapped>>,
    /// The keys once more, to draw from.
    keys: Mutex<(Vec<u64>, Rng)>,
}

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, windows: DashMap::new(), keys: Mutex::new((Vec::new(), Rng::new(1))) }
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.windows.get(&window) {
            return look(&mapped);
        }
        look(&self.miss(mapper, window))
    }
}

impl Cache {
    #[cold]
    fn miss(&self, mapper: &Mapper, window: u64) -> Arc<Mapped> {
        // No lock of a shard is held while the keys are locked, nor the other way round.
        let mapped = match self.windows.entry(window) {
            Entry::Occupied(entry) => return Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(entry.insert(mapper.map(window)).value()),
        };
        let evicted = {
            let mut guard = self.keys.lock().expect("nobody panics");
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
