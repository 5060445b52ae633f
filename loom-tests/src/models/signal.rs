//! The collector's sleep. Time never passes in a model, so a lost wake is a deadlock, which loom reports.

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::signal::{Signal, Woken};

/// Two wakers: what they did before they woke is seen by a look that follows, and the stop ends the sleeper.
pub fn no_wake_is_lost() {
    explore(|| {
        let (signal, done) = (Arc::new(Signal::default()), Arc::new(AtomicUsize::new(0)));
        let sleeper = {
            let (signal, done) = (Arc::clone(&signal), Arc::clone(&done));
            thread::spawn(move || {
                while done.load(Relaxed) < 2 {
                    assert_eq!(signal.sleep(None), Woken::Called);
                }
            })
        };
        let waker = {
            let (signal, done) = (Arc::clone(&signal), Arc::clone(&done));
            thread::spawn(move || {
                done.fetch_add(1, Relaxed);
                signal.wake();
            })
        };
        done.fetch_add(1, Relaxed);
        signal.wake();
        waker.join().unwrap();
        sleeper.join().unwrap();
    });
}

/// A stop ends the sleep, also together with a wake, and is never consumed.
pub fn a_stop_always_ends_it() {
    explore(|| {
        let signal = Arc::new(Signal::default());
        let sleeper = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || while signal.sleep(None) != Woken::Stop {})
        };
        let waker = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || signal.wake())
        };
        signal.stop();
        waker.join().unwrap();
        sleeper.join().unwrap();
        assert_eq!(signal.sleep(None), Woken::Stop);
    });
}
