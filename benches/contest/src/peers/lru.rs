//! `Mutex<LruCache<_, Arc<Mmap>>>`: the lock is held to look up, not to read.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::{Mapped, Mapper, WindowCache};

pub(crate) struct Cache(Mutex<LruCache<u64, Arc<Mapped>>>);

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(capacity).expect("room for a window"))))
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R {
        let hit = self.0.lock().expect("nobody panics").get(&window).map(Arc::clone);
        if let Some(mapped) = hit {
            return look(&mapped);
        }
        look(&self.miss(mapper, window))
    }
}

impl Cache {
    #[cold]
    fn miss(&self, mapper: &Mapper, window: u64) -> Arc<Mapped> {
        let mut cache = self.0.lock().expect("nobody panics");
        if let Some(mapped) = cache.get(&window) {
            return Arc::clone(mapped);
        }
        let mapped = mapper.map(window);
        let evicted = cache.push(window, Arc::clone(&mapped));
        // Unmapped when nobody waits for it any more.
        drop(cache);
        drop(evicted);
        mapped
    }
}
