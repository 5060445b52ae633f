//! `moka` of `Arc<Mmap>`.
//!
//! After a miss, `run_pending_tasks` evicts at once. Otherwise the cache would hold some hundred windows more than its
//! capacity, and all caches here have the same budget.

use std::sync::Arc;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = moka::sync::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        moka::sync::Cache::new(capacity as u64)
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.get(&window) {
            return visit(&mapped);
        }
        let mapped = self.get_with(window, || mapper.map(window));
        self.run_pending_tasks();
        visit(&mapped)
    }
}
