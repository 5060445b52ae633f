//! `quick_cache` of `Arc<Mmap>`, with its defaults.

use std::convert::Infallible;
use std::sync::Arc;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = quick_cache::sync::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        quick_cache::sync::Cache::new(capacity)
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.get(&window) {
            return visit(&mapped);
        }
        let Ok(mapped) = self.get_or_insert_with(&window, || Ok::<_, Infallible>(mapper.map(window)));
        visit(&mapped)
    }
}
