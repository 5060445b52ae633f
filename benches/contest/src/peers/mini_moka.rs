//! `mini-moka` of `Arc<Mmap>`. A miss runs the pending tasks at once, as in [`moka`](super::moka).

use std::sync::Arc;

use mini_moka::sync::ConcurrentCacheExt as _;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = mini_moka::sync::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        mini_moka::sync::Cache::new(capacity as u64)
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.get(&window) {
            return visit(&mapped);
        }
        let mapped = mapper.map(window);
        self.insert(window, Arc::clone(&mapped));
        self.sync();
        visit(&mapped)
    }
}
