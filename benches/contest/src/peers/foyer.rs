//! `foyer-memory`, as it comes, but for small ones: each shard rounds up, and eight of them would hold more than they may.
//! Its entries are counted by themselves.

use std::sync::Arc;

use foyer_memory::CacheBuilder;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = foyer_memory::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        CacheBuilder::new(capacity).with_shards((capacity / 8).clamp(1, 8)).build()
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(entry) = self.get(&window) {
            return look(entry.value());
        }
        look(self.insert(window, mapper.map(window)).value())
    }
}
