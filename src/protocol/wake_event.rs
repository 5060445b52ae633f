//! [`WakeEvent`]: how the collector is woken, sleeps, and is told to stop.
//!
//! One word says what is wanted: nothing, a look, or the end. A waker raises it and takes the lock only if the sleeper has
//! said that it sleeps, so waking an awake collector is one atomic step. A wake that comes while the collector is busy is
//! found when it next wants to sleep; it is never lost:
//!
//! - the sleeper writes SLEEPING by exchange from IDLE, *holding the lock*, and waits on the condition;
//! - a waker that finds IDLE raises it to WOKEN: the sleeper's exchange then fails, and it does not sleep;
//! - a waker that finds SLEEPING raises it to WOKEN, then takes the lock and notifies: since the sleeper holds the lock
//!   from its exchange until it waits, the notice cannot fall between the two.
//!
//! STOP is the highest, so that it is final: a wake that cannot be consumed.

use std::time::Duration;

use crate::sync::{AtomicU32, Condvar, Mutex, Ordering};

const IDLE: u32 = 0;
const SLEEPING: u32 = 1;
const WOKEN: u32 = 2;
const STOP: u32 = 3;

#[derive(Debug)]
pub(crate) struct WakeEvent {
    word: AtomicU32,
    lock: Mutex<()>,
    condition: Condvar,
}

impl Default for WakeEvent {
    fn default() -> Self {
        Self { word: AtomicU32::new(IDLE), lock: Mutex::new(()), condition: Condvar::new() }
    }
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody asked for a look.
    Called,
    /// The time was over.
    Idle,
    /// Never sleep again.
    Stop,
}

impl WakeEvent {
    /// Asks the collector for a look. One atomic step, and a notice only if it sleeps.
    pub(crate) fn wake(&self) {
        // The maximum leaves STOP as it is. A read and write even if it says WOKEN already, and Release: pairs with the
        // Acquire that consumes it in `sleep`, so that the look that follows sees what the waker wants to be seen.
        if self.word.fetch_max(WOKEN, Ordering::AcqRel) == SLEEPING {
            self.notify();
        }
    }

    /// Tells the collector to end.
    pub(crate) fn stop(&self) {
        // AcqRel: Release as in `wake`.
        if self.word.swap(STOP, Ordering::AcqRel) == SLEEPING {
            self.notify();
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire: pairs with the Release in `stop`.
        self.word.load(Ordering::Acquire) == STOP
    }

    fn notify(&self) {
        // The lock's content is `()`: a poisoned one is as good.
        drop(self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.condition.notify_all();
    }

    /// Sleeps until woken, or for `at_most`; at once if it was called since the last sleep.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) -> Woken {
        let mut guard = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Acquire on failure: pairs with the Release in `wake` and `stop`. Relaxed on success: nothing was said.
        if self.word.compare_exchange(IDLE, SLEEPING, Ordering::Relaxed, Ordering::Acquire).is_ok() {
            guard = match at_most {
                // Once, not in a loop: to wake without a reason is as good as to be over in time.
                Some(time) => match self.condition.wait_timeout(guard, time) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => {
                    // Relaxed: the exchange below is what synchronizes.
                    while self.word.load(Ordering::Relaxed) == SLEEPING {
                        guard = self.condition.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
                    }
                    guard
                }
            };
        }
        drop(guard);
        // Whatever it was is consumed now; a stop is not. Acquire: pairs with the Release in `wake`.
        match self.word.compare_exchange(WOKEN, IDLE, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => Woken::Called,
            Err(STOP) => Woken::Stop,
            // The time is over; unless a call came at this very moment.
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
    fn a_wake_before_the_sleep_is_not_lost() {
        let signal = WakeEvent::default();
        signal.wake();
        signal.wake();
        assert_eq!(signal.sleep(None), Woken::Called);
        assert_eq!(signal.sleep(Some(Duration::from_millis(1))), Woken::Idle);
    }

    #[test]
    fn a_stop_ends_a_sleep_and_every_later_one() {
        let signal = Arc::new(WakeEvent::default());
        let sleeper = std::thread::spawn({
            let signal = Arc::clone(&signal);
            move || signal.sleep(None)
        });
        signal.stop();
        assert_eq!(sleeper.join().expect("no panic"), Woken::Stop);
        signal.wake();
        assert_eq!(signal.sleep(None), Woken::Stop);
        assert!(signal.is_stopped());
    }

    #[test]
    fn ten_thousand_wakes_each_end_a_sleep() {
        let (signal, answered) = (WakeEvent::default(), WakeEvent::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    assert_eq!(signal.sleep(None), Woken::Called);
                    answered.wake();
                }
            });
            for _ in 0..10_000 {
                signal.wake();
                assert_eq!(answered.sleep(None), Woken::Called);
            }
        });
    }
}
