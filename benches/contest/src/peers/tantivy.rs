//! A cache like that in tantivy's `MmapDirectory`: weak references by key, and counts of hits and misses, under one
//! lock that every look-up takes for writing, also a hit.
//!
//! That cache has no budget: a window is mapped while any reader holds it. Here a queue holds the newest maps in place
//! of readers, as many as the capacity allows, so that it has the same budget as the other caches.

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
    /// The maps that are held in place of readers.
    held: VecDeque<Arc<Mapped>>,
}

impl WindowCache for Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, state: RwLock::default() }
    }

    #[inline]
    fn with<R>(&self, mapper: &Mapper, window: u64, visit: impl FnOnce(&[u8]) -> R) -> R {
        let mut guard = self.state.write().expect("no thread panics while it holds the lock");
        let state = &mut *guard;
        if let Some(mapped) = state.windows.get(&window).and_then(Weak::upgrade) {
            state.hits += 1;
            drop(guard);
            return visit(&mapped);
        }
        state.misses += 1;
        let evicted = if state.held.len() == self.capacity { state.held.pop_front() } else { None };
        let mapped = mapper.map(window);
        state.windows.insert(window, Arc::downgrade(&mapped));
        state.held.push_back(Arc::clone(&mapped));
        drop(guard);
        drop(evicted);
        visit(&mapped)
    }
}
