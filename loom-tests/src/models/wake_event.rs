//! The collector's sleep.
//!
//! A sleep without a timeout ends only by a wake or a stop, so a lost wake is a deadlock, which loom reports. A sleep
//! with a timeout times out at once.

use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::wake_event::{WakeEvent, Woken};

const TIMEOUT: Option<Duration> = Some(Duration::ZERO);

/// Two threads write and then wake: the sleeper wakes until it has seen both writes, so no wake is lost.
pub fn wake_is_never_lost() {
    explore(|| {
        let (event, done) = (Arc::new(WakeEvent::default()), Arc::new(AtomicUsize::new(0)));
        let sleeper = thread::spawn({
            let (event, done) = (Arc::clone(&event), Arc::clone(&done));
            move || {
                while done.load(Relaxed) < 2 {
                    assert_eq!(event.sleep(None), Woken::Called);
                }
            }
        });
        let call = |event: &WakeEvent, done: &AtomicUsize| {
            done.fetch_add(1, Relaxed);
            event.wake();
        };
        let waker = thread::spawn({
            let (event, done) = (Arc::clone(&event), Arc::clone(&done));
            move || call(&event, &done)
        });
        call(&event, &done);
        waker.join().expect("a model's thread does not panic");
        sleeper.join().expect("a model's thread does not panic");
    });
}

/// A write before the wake or the stop, in a loom cell.
struct EarlierWrite(UnsafeCell<bool>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for EarlierWrite {}
// SAFETY: as for `Send`.
unsafe impl Sync for EarlierWrite {}

impl EarlierWrite {
    fn write(&self) {
        // SAFETY: loom's cell checks that the access is exclusive; the models exist to verify it.
        self.0.with_mut(|is_written| unsafe { *is_written = true });
    }

    fn assert_written(&self) {
        // SAFETY: loom's cell checks that no write is concurrent.
        assert!(self.0.with(|is_written| unsafe { *is_written }), "woken before the write");
    }
}

/// Asserts that a sleep that ends with `woken` sees the writes before `call`, and that each call is answered.
fn answers_and_publishes(call: fn(&WakeEvent), woken: Woken, timeout: Option<Duration>) {
    explore(move || {
        let (event, earlier) = (Arc::new(WakeEvent::default()), Arc::new(EarlierWrite(UnsafeCell::new(false))));
        let caller = thread::spawn({
            let (event, earlier) = (Arc::clone(&event), Arc::clone(&earlier));
            move || {
                earlier.write();
                call(&event);
            }
        });
        let first = event.sleep(timeout);
        if first == woken {
            earlier.assert_written();
        }
        caller.join().expect("a model's thread does not panic");
        // One of the two sleeps answers a wake. A stop ends every later sleep too.
        let second = event.sleep(TIMEOUT);
        let answers = [first, second].iter().filter(|&&answer| answer == woken).count();
        let expected = if woken == Woken::Stop && first == woken { 2 } else { 1 };
        assert_eq!(answers, expected, "{first:?}, then {second:?}");
    });
}

/// A wake ends the sleep, is consumed, and publishes the writes before it.
pub fn wake_publishes_earlier_writes() {
    answers_and_publishes(WakeEvent::wake, Woken::Called, None);
}

/// A wake at the moment of the timeout is answered by this sleep or by the next one: it is neither lost nor answered
/// twice.
pub fn wake_at_timeout_is_answered_once() {
    answers_and_publishes(WakeEvent::wake, Woken::Called, TIMEOUT);
}

/// A stop ends the sleep, publishes the writes before it, and is never consumed.
pub fn stop_publishes_earlier_writes() {
    answers_and_publishes(WakeEvent::stop, Woken::Stop, None);
}

/// A stop at the moment of the timeout ends this sleep or the next one.
pub fn stop_at_timeout_is_answered() {
    answers_and_publishes(WakeEvent::stop, Woken::Stop, TIMEOUT);
}

/// A thread that finds `is_stopped` true sees the writes before the stop.
pub fn is_stopped_sees_earlier_writes() {
    explore(|| {
        let (event, earlier) = (Arc::new(WakeEvent::default()), Arc::new(EarlierWrite(UnsafeCell::new(false))));
        let stopper = thread::spawn({
            let (event, earlier) = (Arc::clone(&event), Arc::clone(&earlier));
            move || {
                earlier.write();
                event.stop();
            }
        });
        if event.is_stopped() {
            earlier.assert_written();
        }
        stopper.join().expect("a model's thread does not panic");
        assert!(event.is_stopped(), "the stop is lost");
    });
}

/// A stop ends the sleep, also if another thread wakes the sleeper at the same time.
pub fn stop_ends_sleep_despite_wake() {
    explore(|| {
        let event = Arc::new(WakeEvent::default());
        let sleeper = thread::spawn({
            let event = Arc::clone(&event);
            move || while event.sleep(None) != Woken::Stop {}
        });
        let waker = thread::spawn({
            let event = Arc::clone(&event);
            move || event.wake()
        });
        event.stop();
        waker.join().expect("a model's thread does not panic");
        sleeper.join().expect("a model's thread does not panic");
        assert_eq!(event.sleep(None), Woken::Stop, "stop was consumed");
    });
}
