//! `foyer-memory` with its defaults, except for the number of shards: each shard rounds its capacity up, so a small
//! cache with eight shards would exceed the capacity.
//!
//! The library counts references to its entries itself.

use std::sync::Arc;

use foyer_memory::CacheBuilder;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = foyer_memory::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        CacheBuilder::new(capacity).with_shards((capacity / 8).clamp(1, 8)).build()
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(entry) = self.get(&window) {
            return visit(entry.value());
        }
        visit(self.insert(window, mapper.map(window)).value())
    }
}
