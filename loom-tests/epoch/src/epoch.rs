//! The real epoch, behind the modelled one's face.

use std::any::Any;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_epoch::Collector;
pub(crate) use crossbeam_epoch::Guard;

/// How often memory was freed by the epoch, while there was one: not only because it ended.
pub static FREED: AtomicUsize = AtomicUsize::new(0);
/// For the broken twin: memory is freed when it is retired.
pub static FREES_AT_ONCE: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
pub(crate) struct Epoch {
    collector: Collector,
    graves: Graves,
    has_ended: Arc<AtomicBool>,
}

/// Memory that was freed in this execution stays until its end, so that a late look at it reads its mark.
type Graves = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

impl Epoch {
    pub(crate) fn pin(self: &Arc<Self>, _thread: usize) -> Guard {
        self.collector.register().pin()
    }

    pub(crate) fn retire<T: Send + 'static>(&self, unlinked: Box<T>) {
        if FREES_AT_ONCE.load(Ordering::Relaxed) {
            return self.free(unlinked);
        }
        let (graves, has_ended) = (Arc::clone(&self.graves), Arc::clone(&self.has_ended));
        self.collector.register().pin().defer(move || {
            FREED.fetch_add(usize::from(!has_ended.load(Ordering::Relaxed)), Ordering::Relaxed);
            free(&graves, unlinked);
        });
        // Each goes on by one epoch at most, and what is retired goes after two.
        for _ in 0..3 {
            self.collector.register().pin().flush();
        }
    }

    pub(crate) fn free<T: Send + 'static>(&self, memory: Box<T>) {
        free(&self.graves, memory);
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Drops it, which marks its words; its memory stays to the end of the execution.
fn free<T: Send + 'static>(graves: &Graves, memory: Box<T>) {
    let memory = Box::into_raw(memory);
    // SAFETY: from a box; it is not dropped again, since from here on it is bytes.
    unsafe { memory.drop_in_place() };
    // SAFETY: from a box of the same layout.
    let grave: Box<MaybeUninit<T>> = unsafe { Box::from_raw(memory.cast()) };
    graves.lock().unwrap_or_else(PoisonError::into_inner).push(grave);
}
