//! [`WakeEvent`]: wakes the collector, lets it sleep, and tells it to stop.
//!
//! One word has four values: IDLE, SLEEPING, WOKEN and STOP. The collector is the *sleeper*, and a thread that calls
//! [`wake`](WakeEvent::wake) is a *waker*. Waking a collector that is awake is one atomic step. A waker takes the lock
//! only if the word is SLEEPING. A wake is never lost, also if it comes while the collector is busy:
//!
//! - The sleeper takes the lock, changes IDLE to SLEEPING, and waits on the condition variable.
//! - A waker that finds IDLE changes it to WOKEN. The sleeper's exchange then fails, and the sleeper does not wait.
//! - A waker that finds SLEEPING changes it to WOKEN, takes the lock, and notifies. The sleeper holds the lock from its
//!   exchange until it waits, so the notification cannot come between the two.
//!
//! STOP is the largest value, and a wake only raises the word. So no wake replaces a stop, and no sleep consumes it.

use std::time::Duration;

use crate::sync::{AtomicU32, Condvar, Mutex, Ordering};

const IDLE: u32 = 0;
const SLEEPING: u32 = 1;
const WOKEN: u32 = 2;
const STOP: u32 = 3;

/// The collector's event: woken, asleep or stopped.
#[derive(Debug, Default)]
pub(crate) struct WakeEvent {
    /// IDLE at first.
    word: AtomicU32,
    lock: Mutex<()>,
    condition: Condvar,
}

/// The reason why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Another thread called [`WakeEvent::wake`].
    Called,
    /// The timeout ended, or the OS ended the wait early, as a condition variable may.
    Idle,
    /// Another thread called [`WakeEvent::stop`]. Every later sleep ends at once, too.
    Stop,
}

impl WakeEvent {
    /// Wakes the collector, or prevents its next sleep. Takes the lock only if the collector sleeps.
    pub(crate) fn wake(&self) {
        // The maximum keeps STOP. It also writes if the word is WOKEN already, to publish this thread's changes.
        // Release: pairs with the Acquire in `sleep`. The collector sees what the waker did before.
        if self.word.fetch_max(WOKEN, Ordering::AcqRel) == SLEEPING {
            self.notify();
        }
    }

    /// Tells the collector to stop. It cannot be undone.
    pub(crate) fn stop(&self) {
        // Release: pairs with the Acquire in `sleep` and in `is_stopped`, as in `wake`.
        if self.word.swap(STOP, Ordering::AcqRel) == SLEEPING {
            self.notify();
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire: pairs with the Release in `stop`.
        self.word.load(Ordering::Acquire) == STOP
    }

    fn notify(&self) {
        // A poisoned lock is fine: it protects no data.
        drop(self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.condition.notify_all();
    }

    /// Sleeps until a wake or a stop, or for `at_most`. Returns at once if a wake came since the last sleep.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) -> Woken {
        let mut guard = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Acquire on failure: pairs with the Release in `wake` and `stop`. Relaxed on success: no thread called them.
        if self.word.compare_exchange(IDLE, SLEEPING, Ordering::Relaxed, Ordering::Acquire).is_ok() {
            guard = match at_most {
                // Once, not in a loop: a spurious wake-up may count as the end of the timeout.
                Some(time) => match self.condition.wait_timeout(guard, time) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => {
                    // Relaxed: the exchange below synchronizes.
                    while self.word.load(Ordering::Relaxed) == SLEEPING {
                        guard = self.condition.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
                    }
                    guard
                }
            };
        }
        drop(guard);
        // Consumes a wake, but not a stop. Acquire, twice: pairs with the Release in `wake` and `stop`.
        match self.word.compare_exchange(WOKEN, IDLE, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => Woken::Called,
            Err(STOP) => Woken::Stop,
            // The timeout ended. If a wake comes before the exchange, the exchange fails, and the recursion consumes
            // the wake.
            Err(_) => match self.word.compare_exchange(SLEEPING, IDLE, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => Woken::Idle,
                Err(STOP) => Woken::Stop,
                Err(_) => self.sleep(Some(Duration::ZERO)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{WakeEvent, Woken};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn wake_before_the_sleep_ends_it_at_once() {
        let event = WakeEvent::default();
        event.wake();
        event.wake();
        assert_eq!(event.sleep(None), Woken::Called);
        assert_eq!(event.sleep(Some(Duration::from_millis(1))), Woken::Idle);
    }

    #[test]
    fn stop_ends_the_sleep_and_every_later_one() {
        let event = Arc::new(WakeEvent::default());
        let sleeper = std::thread::spawn({
            let event = Arc::clone(&event);
            move || event.sleep(None)
        });
        event.stop();
        assert_eq!(sleeper.join().expect("the sleeper does not panic"), Woken::Stop);
        event.wake();
        assert_eq!(event.sleep(None), Woken::Stop);
        assert!(event.is_stopped());
    }

    #[test]
    fn each_of_ten_thousand_wakes_ends_a_sleep() {
        let (event, answered) = (WakeEvent::default(), WakeEvent::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    assert_eq!(event.sleep(None), Woken::Called);
                    answered.wake();
                }
            });
            for _ in 0..10_000 {
                event.wake();
                assert_eq!(answered.sleep(None), Woken::Called);
            }
        });
    }
}
