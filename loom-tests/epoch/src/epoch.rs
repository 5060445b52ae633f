//! Crossbeam's epoch, with the interface of the modelled epoch in `loom-tests/src/epoch.rs`.

use std::any::Any;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_epoch::Collector;
pub(crate) use crossbeam_epoch::Guard;

/// The number of times that the epoch freed memory during an execution, not at the end of the epoch.
pub static FREED: AtomicUsize = AtomicUsize::new(0);
/// The fault of the twin: if set, memory is freed as soon as it is retired.
pub static FREES_AT_ONCE: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
pub(crate) struct Epoch {
    collector: Collector,
    freed: FreedMemory,
    has_ended: Arc<AtomicBool>,
}

/// Freed memory, still allocated until the end of the execution, so that a late access reads its `FreedFlag`.
type FreedMemory = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

impl Epoch {
    pub(crate) fn pin(self: &Arc<Self>, _thread: usize) -> Guard {
        self.collector.register().pin()
    }

    pub(crate) fn retire<T: Send + 'static>(&self, unlinked: Box<T>) {
        if FREES_AT_ONCE.load(Ordering::Relaxed) {
            return self.free(unlinked);
        }
        let (freed, has_ended) = (Arc::clone(&self.freed), Arc::clone(&self.has_ended));
        self.collector.register().pin().defer(move || {
            FREED.fetch_add(usize::from(!has_ended.load(Ordering::Relaxed)), Ordering::Relaxed);
            free(&freed, unlinked);
        });
        // A flush advances the epoch by one at most, and retired memory is freed after two advances.
        for _ in 0..3 {
            self.collector.register().pin().flush();
        }
    }

    pub(crate) fn free<T: Send + 'static>(&self, memory: Box<T>) {
        free(&self.freed, memory);
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Drops the value, which sets the `FreedFlag` of its atomics. The memory stays allocated to the end of the execution.
fn free<T: Send + 'static>(freed: &FreedMemory, memory: Box<T>) {
    let memory = Box::into_raw(memory);
    // SAFETY: the pointer comes from a box. The value is not dropped again: below, the memory is a box of bytes.
    unsafe { memory.drop_in_place() };
    // SAFETY: the pointer comes from a box of the same layout.
    let bytes: Box<MaybeUninit<T>> = unsafe { Box::from_raw(memory.cast()) };
    freed.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
}
