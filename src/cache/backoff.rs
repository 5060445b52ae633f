//! [`Backoff`]: a bounded wait for another thread, without a signal from it.
//!
//! A reader never signals another reader; a waiting thread looks again instead. Only slow paths wait: for the loader of
//! a window, for an evicting thread to finish an unmap, and for room in the budget.

use std::time::Duration;

use crate::sync::thread;

/// The longest sleep between two looks.
const SLEEP_MAX: Duration = Duration::from_millis(2);

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
}
