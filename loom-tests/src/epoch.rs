//! A model of epoch-based reclamation: each pinned thread sets a flag, and a thread that retires memory checks all
//! flags.
//!
//! Retiring never blocks: memory that cannot be freed at once is not freed in this execution. The models therefore do
//! not check that memory is freed after all threads have unpinned. The crate in `epoch/` replaces this file by the real
//! epoch.

use std::any::Any;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// The number of threads that may pin in one model.
const THREADS: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Epoch {
    is_pinned: [AtomicUsize; THREADS],
    /// Freed memory, still allocated until the end of the execution, so that a late access reads its `FreedFlag`.
    freed: Mutex<Vec<Box<dyn Any + Send>>>,
}

#[derive(Debug)]
pub(crate) struct Guard {
    epoch: Arc<Epoch>,
    thread: usize,
}

impl Epoch {
    /// Pins thread number `thread`.
    pub(crate) fn pin(self: &Arc<Self>, thread: usize) -> Guard {
        // Relaxed: the fence below orders the store.
        self.is_pinned[thread].store(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `retire`. Either the retiring thread sees this flag, or this thread does not
        // find the unlinked memory.
        fence(Ordering::SeqCst);
        Guard { epoch: Arc::clone(self), thread }
    }

    /// Frees `unlinked` if no thread is pinned. Otherwise its memory is kept, not dropped, to the end of the execution.
    pub(crate) fn retire<T: Send + 'static>(&self, unlinked: Box<T>) {
        // SeqCst: pairs with the fence in `pin`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in the drop of a `Guard`, so the reads of that thread are over.
        if self.is_pinned.iter().all(|is_pinned| is_pinned.load(Ordering::Acquire) == 0) {
            self.free(unlinked);
        } else {
            self.keep_allocated(Box::into_raw(unlinked));
        }
    }

    /// Drops the value, which sets the `FreedFlag` of its atomics. The memory stays allocated to the end of the
    /// execution.
    pub(crate) fn free<T: Send + 'static>(&self, memory: Box<T>) {
        let memory = Box::into_raw(memory);
        // SAFETY: the pointer comes from a box. The value is not dropped again: `keep_allocated` takes it as bytes.
        unsafe { memory.drop_in_place() };
        self.keep_allocated(memory);
    }

    fn keep_allocated<T: Send + 'static>(&self, memory: *mut T) {
        // SAFETY: the pointer comes from a box of the same layout.
        let bytes: Box<MaybeUninit<T>> = unsafe { Box::from_raw(memory.cast()) };
        self.freed.lock().expect("no thread panicked with the lock").push(bytes);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.epoch.is_pinned[self.thread].store(0, Ordering::Release);
    }
}
