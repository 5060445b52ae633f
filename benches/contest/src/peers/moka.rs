//! `moka` of `Arc<Mmap>`.
//!
//! After a miss it is told to do now what it would do later, or it would hold some hundred windows more than it may: the
//! budget is the same for everybody here.

use std::sync::Arc;

use super::{Mapped, Mapper, WindowCache};

pub(crate) type Cache = moka::sync::Cache<u64, Arc<Mapped>>;

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        moka::sync::Cache::new(capacity as u64)
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.get(&window) {
            return look(&mapped);
        }
        let mapped = self.get_with(window, || mapper.map(window));
        self.run_pending_tasks();
        look(&mapped)
    }
}
