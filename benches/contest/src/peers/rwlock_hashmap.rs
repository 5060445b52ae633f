//! `RwLock<HashMap<_, Arc<Mmap>>>`, the obvious first attempt.
//!
//! A hit reads under the read lock. A miss at full capacity evicts a random window: the choice costs nothing, and is no
//! worse than clearing the map.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use super::{Mapped, Mapper, WindowCache};
use crate::support::Rng;

pub(crate) struct Cache {
    capacity: usize,
    state: RwLock<State>,
}

struct State {
    windows: HashMap<u64, Arc<Mapped>>,
    /// A copy of the keys, for the random choice of a victim.
    keys: Vec<u64>,
    rng: Rng,
}

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, state: RwLock::new(State { windows: HashMap::new(), keys: Vec::new(), rng: Rng::new(1) }) }
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(mapped) = self.state.read().expect("no thread panics while it holds the lock").windows.get(&window)
        {
            return visit(mapped);
        }
        visit(&self.miss(mapper, window))
    }
}

impl Cache {
    #[cold]
    fn miss(&self, mapper: &Mapper, window: u64) -> Arc<Mapped> {
        let mut guard = self.state.write().expect("no thread panics while it holds the lock");
        let state = &mut *guard;
        if let Some(mapped) = state.windows.get(&window) {
            return Arc::clone(mapped);
        }
        let mut evicted = None;
        if state.keys.len() == self.capacity {
            let key = state.keys.swap_remove(state.rng.below(self.capacity as u64) as usize);
            evicted = state.windows.remove(&key);
        }
        let mapped = mapper.map(window);
        state.windows.insert(window, Arc::clone(&mapped));
        state.keys.push(window);
        // Unmap after the lock is released.
        drop(guard);
        drop(evicted);
        mapped
    }
}
