//! The shape of the cache of maps in tantivy's `MmapDirectory`: a map of weak references and counts of hits and misses,
//! under one lock that is taken for writing by each look-up, a hit too.
//!
//! It has no budget of its own: what its readers hold is mapped. So that there is one, the readers here are a queue that
//! holds the newest maps, as many as the others may have.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, RwLock, Weak};

use super::{Mapped, Mapper, WindowCache};

pub(crate) struct Cache {
    capacity: usize,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    windows: HashMap<u64, Weak<Mapped>>,
    hits: u64,
    misses: u64,
    /// What the readers hold.
    held: VecDeque<Arc<Mapped>>,
}

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, state: RwLock::default() }
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, look: impl FnOnce(&[u8]) -> R) -> R {
        let mut guard = self.state.write().expect("nobody panics");
        let state = &mut *guard;
        if let Some(mapped) = state.windows.get(&window).and_then(Weak::upgrade) {
            state.hits += 1;
            drop(guard);
            return look(&mapped);
        }
        state.misses += 1;
        let evicted = if state.held.len() == self.capacity { state.held.pop_front() } else { None };
        let mapped = mapper.map(window);
        state.windows.insert(window, Arc::downgrade(&mapped));
        state.held.push_back(Arc::clone(&mapped));
        drop(guard);
        drop(evicted);
        look(&mapped)
    }
}
