//! [`Wait`]: how a thread waits for others without being told. First it spins, then it yields, then it naps.
//!
//! No reader ever signals another; whoever waits looks again. Only the slow ways come here: waiting for the loader of
//! one's own window, for an evictor to finish, for room in the budget.

use std::time::Duration;

use crossbeam_utils::Backoff;

use crate::sync::thread;

/// The longest nap between two looks.
const NAP_MAX: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Wait {
    backoff: Backoff,
    nap: Duration,
    slept: Duration,
}

impl Wait {
    pub(crate) fn new() -> Self {
        Self { backoff: Backoff::new(), nap: Duration::from_micros(20), slept: Duration::ZERO }
    }

    /// Waits a little, each time a little longer.
    pub(crate) fn once(&mut self) {
        if !self.backoff.is_completed() {
            self.backoff.snooze();
            return;
        }
        thread::sleep(self.nap);
        self.slept += self.nap;
        self.nap = (self.nap * 2).min(NAP_MAX);
    }

    /// As [`once`](Self::once), unless it has napped for `limit` in all already. Counts what it meant to nap, so the true
    /// time is a little longer, never shorter.
    pub(crate) fn once_within(&mut self, limit: Duration) -> bool {
        if self.slept >= limit {
            return false;
        }
        self.nap = self.nap.min(limit - self.slept);
        self.once();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_waits_at_least_as_long_as_it_was_told() {
        let (start, limit) = (Instant::now(), Duration::from_millis(15));
        let mut wait = Wait::new();
        while wait.once_within(limit) {}
        assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
        assert!(!Wait::new().once_within(Duration::ZERO));
    }
}
