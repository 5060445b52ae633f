//! Epoch-based reclamation: it lets an evicting thread visit a slot that the thread does not own.
//!
//! Memory passed to [`retire`] is freed only after every [`Guard`] that existed at that moment was dropped. A cache hit
//! pins no guard. The epoch delays only the freeing of *slots*. Their owners unmap mappings without waiting for it.

pub(crate) use crossbeam_epoch::{Guard, pin};

/// Frees `value` after all threads that are pinned now have unpinned.
pub(crate) fn retire<T: Send + 'static>(value: Box<T>) {
    let guard = pin();
    // `defer` needs a closure that may run on another thread. Dropping a box of a `Send` type is one.
    guard.defer(move || drop(value));
}

/// Moves what this thread retired to the global queue, and frees what is old enough. Called by the collector.
pub(crate) fn flush() {
    pin().flush();
}

/// A box whose value is [retired](retire) when the box is dropped, for memory that pinned threads may still read.
#[derive(Debug)]
pub(crate) struct EpochBox<T: Send + 'static>(Option<Box<T>>);

impl<T: Send + 'static> EpochBox<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl<T: Send + 'static> std::ops::Deref for EpochBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_ref().unwrap_or_else(|| unreachable!("only `drop` takes the value"))
    }
}

impl<T: Send + 'static> Drop for EpochBox<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            retire(value);
        }
    }
}
