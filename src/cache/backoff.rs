//! [`Backoff`]: a bounded wait for another thread, without a signal from it.
//!
//! A reader never signals another reader; a waiting thread looks again instead. Only slow paths wait: for the loader of
//! a window, for an evicting thread to finish an unmap, and for room in the budget.

use std::time::{Duration, Instant};

use crate::sync::thread;

/// The longest sleep between two looks.
const SLEEP_MAX: Duration = Duration::from_millis(2);

/// The end of a wait, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// Returns the deadline that is `time` from now.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }
}

/// Spins first, then yields the processor, then sleeps for longer and longer.
#[derive(Debug)]
pub(crate) struct Backoff {
    spin: crossbeam_utils::Backoff,
    next_sleep: Duration,
    slept: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { spin: crossbeam_utils::Backoff::new(), next_sleep: Duration::from_micros(20), slept: Duration::ZERO }
    }

    /// Waits a little, longer with each call.
    pub(crate) fn pause(&mut self) {
        if !self.spin.is_completed() {
            self.spin.snooze();
            return;
        }
        thread::sleep(self.next_sleep);
        self.slept += self.next_sleep;
        self.next_sleep = (self.next_sleep * 2).min(SLEEP_MAX);
    }

    /// [Pauses](Self::pause) and returns `true`, or returns `false` at once if `deadline` has passed.
    pub(crate) fn pause_until(&mut self, Deadline(deadline): Deadline) -> bool {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.next_sleep = self.next_sleep.min(left);
        }
        self.pause();
        true
    }

    /// [Pauses](Self::pause) and returns `true`, or returns `false` at once if the sleeps so far add up to `limit`.
    ///
    /// The sum counts the requested sleeps, so the true time is never shorter than `limit`.
    pub(crate) fn pause_within(&mut self, limit: Duration) -> bool {
        if self.slept >= limit {
            return false;
        }
        self.next_sleep = self.next_sleep.min(limit - self.slept);
        self.pause();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn pause_within_waits_at_least_the_limit() {
        let (start, limit) = (Instant::now(), Duration::from_millis(15));
        let mut backoff = Backoff::new();
        while backoff.pause_within(limit) {}
        assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
        assert!(!Backoff::new().pause_within(Duration::ZERO));
    }

    #[test]
    fn pause_until_ends_at_the_deadline() {
        let (start, limit) = (Instant::now(), Duration::from_millis(15));
        let deadline = Deadline::after(limit);
        let mut backoff = Backoff::new();
        while backoff.pause_until(deadline) {}
        assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
        assert!(!Backoff::new().pause_until(Deadline::after(Duration::ZERO)));
        assert!(Backoff::new().pause_until(Deadline::after(Duration::MAX)));
    }
}
