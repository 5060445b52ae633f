//! `Mutex<LruCache<_, Arc<Mmap>>>`: a reader holds the lock for the look-up, not for the read.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::{Mapped, Mapper, WindowCache};

pub(crate) struct Cache(Mutex<LruCache<u64, Arc<Mapped>>>);

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(capacity).expect("the capacity is at least 1"))))
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        let hit = self.0.lock().expect("no thread panics while it holds the lock").get(&window).map(Arc::clone);
        if let Some(mapped) = hit {
            return visit(&mapped);
        }
        visit(&self.miss(mapper, window))
    }
}

impl Cache {
    #[cold]
    fn miss(&self, mapper: &Mapper, window: u64) -> Arc<Mapped> {
        let mut cache = self.0.lock().expect("no thread panics while it holds the lock");
        if let Some(mapped) = cache.get(&window) {
            return Arc::clone(mapped);
        }
        let mapped = mapper.map(window);
        let evicted = cache.push(window, Arc::clone(&mapped));
        // Unmap after the lock is released.
        drop(cache);
        drop(evicted);
        mapped
    }
}
