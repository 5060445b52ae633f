//! The epoch: what lets an evictor look at a slot that it does not own.
//!
//! Memory handed to [`retire`] is freed only when every [`Guard`] that existed at that
//! moment is gone. A hit never pins. The epoch holds *slots* back, never a mapping: those are unmapped at once by
//! whoever owns them.

pub(crate) use crossbeam_epoch::{Guard, pin};

/// Frees `value` once nobody who is pinned now can still see it.
pub(crate) fn retire<T: Send + 'static>(value: Box<T>) {
    let guard = pin();
    // `defer` wants a closure that may run on another thread: dropping a box of `Send` is one.
    guard.defer(move || drop(value));
}

/// Gives what this thread retired to the others, and frees what is old enough. For the collector.
pub(crate) fn flush() {
    pin().flush();
}

/// What is [retired](retire) when it is dropped: for what others may still be looking at.
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
        match &self.0 {
            Some(value) => value,
            None => unreachable!("taken in drop only"),
        }
    }
}

impl<T: Send + 'static> Drop for EpochBox<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            retire(value);
        }
    }
}
