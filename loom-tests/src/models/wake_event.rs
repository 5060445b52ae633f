//! The collector's sleep. Unless a time is given, time never passes in a model, so a lost wake is a deadlock, which loom
//! reports; where one is given, it is over at once.

use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::wake_event::{WakeEvent, Woken};

const TIME: Option<Duration> = Some(Duration::ZERO);

/// Two wakers: what they did before they woke is seen by a look that follows, and the sleeper ends.
pub fn wake_is_never_lost() {
    explore(|| {
        let (signal, done) = (Arc::new(WakeEvent::default()), Arc::new(AtomicUsize::new(0)));
        let sleeper = thread::spawn({
            let (signal, done) = (Arc::clone(&signal), Arc::clone(&done));
            move || {
                while done.load(Relaxed) < 2 {
                    assert_eq!(signal.sleep(None), Woken::Called);
                }
            }
        });
        let call = |signal: &WakeEvent, done: &AtomicUsize| {
            done.fetch_add(1, Relaxed);
            signal.wake();
        };
        let waker = thread::spawn({
            let (signal, done) = (Arc::clone(&signal), Arc::clone(&done));
            move || call(&signal, &done)
        });
        call(&signal, &done);
        waker.join().expect("a thread that ends");
        sleeper.join().expect("a thread that ends");
    });
}

/// What a waker or a stopper did before, in a loom cell.
struct Said(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for Said {}
// SAFETY: as above.
unsafe impl Sync for Said {}

impl Said {
    fn say(&self) {
        // SAFETY: this is what the models are there to find out.
        self.0.with_mut(|said| unsafe { *said = true });
    }

    fn assert_heard(&self) {
        // SAFETY: as above.
        assert!(self.0.with(|said| unsafe { *said }), "called before it was said");
    }
}

/// Who is called sees what the caller did before.
fn brings(call: fn(&WakeEvent), woken: Woken, at_most: Option<Duration>) {
    explore(move || {
        let (signal, said) = (Arc::new(WakeEvent::default()), Arc::new(Said(UnsafeCell::new(false))));
        let caller = thread::spawn({
            let (signal, said) = (Arc::clone(&signal), Arc::clone(&said));
            move || {
                said.say();
                call(&signal);
            }
        });
        let first = signal.sleep(at_most);
        if first == woken {
            said.assert_heard();
        }
        caller.join().expect("a thread that ends");
        // A call is answered once, now or then; a stop always.
        let second = signal.sleep(TIME);
        let answers = [first, second].iter().filter(|&&answer| answer == woken).count();
        let expected = if woken == Woken::Stop && first == woken { 2 } else { 1 };
        assert_eq!(answers, expected, "{first:?}, then {second:?}");
    });
}

/// A wake ends the sleep, is consumed, and brings what came before it.
pub fn wake_publishes_earlier_writes() {
    brings(WakeEvent::wake, Woken::Called, None);
}

/// A wake at the moment when the time is over is answered then, or by the next sleep: not lost, and not twice.
pub fn wake_at_timeout_is_answered_once() {
    brings(WakeEvent::wake, Woken::Called, TIME);
}

/// A stop ends the sleep, brings what came before it, and is never consumed.
pub fn stop_publishes_earlier_writes() {
    brings(WakeEvent::stop, Woken::Stop, None);
}

/// A stop at the moment when the time is over.
pub fn stop_at_timeout_is_answered() {
    brings(WakeEvent::stop, Woken::Stop, TIME);
}

/// Who asks whether it is stopped, in the middle of its work, sees what the stopper did.
pub fn is_stopped_sees_earlier_writes() {
    explore(|| {
        let (signal, said) = (Arc::new(WakeEvent::default()), Arc::new(Said(UnsafeCell::new(false))));
        let stopper = thread::spawn({
            let (signal, said) = (Arc::clone(&signal), Arc::clone(&said));
            move || {
                said.say();
                signal.stop();
            }
        });
        if signal.is_stopped() {
            said.assert_heard();
        }
        stopper.join().expect("a thread that ends");
        assert!(signal.is_stopped());
    });
}

/// A stop ends the sleep, also together with a wake.
pub fn stop_ends_sleep_despite_wake() {
    explore(|| {
        let signal = Arc::new(WakeEvent::default());
        let sleeper = thread::spawn({
            let signal = Arc::clone(&signal);
            move || while signal.sleep(None) != Woken::Stop {}
        });
        let waker = thread::spawn({
            let signal = Arc::clone(&signal);
            move || signal.wake()
        });
        signal.stop();
        waker.join().expect("a thread that ends");
        sleeper.join().expect("a thread that ends");
        assert_eq!(signal.sleep(None), Woken::Stop, "stop was consumed");
    });
}
