//! The small words.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::atomics::{FencedU64, ThreadIds, UserCount};

/// What two threads write, each its own, and the last of them reads.
struct Written([UnsafeCell<bool>; 2]);

// SAFETY: loom's cells check every access themselves.
unsafe impl Send for Written {}
// SAFETY: as above.
unsafe impl Sync for Written {}

impl Written {
    fn new() -> Self {
        Self([UnsafeCell::new(false), UnsafeCell::new(false)])
    }

    fn write(&self, at: usize) {
        // SAFETY: this is what the models are there to find out.
        self.0[at].with_mut(|cell| unsafe { *cell = true });
    }

    fn assert_written(&self, at: usize) {
        // SAFETY: as above.
        assert!(self.0[at].with(|cell| unsafe { *cell }), "not written yet");
    }
}

/// Exactly one of two holders is the last, and sees what the other did.
pub fn last_leave_sees_all_writes() {
    explore(|| {
        let (holders, written) = (Arc::new(UserCount::default()), Arc::new(Written::new()));
        holders.enter();
        holders.enter();
        let leave = |holders: &UserCount, written: &Written, at: usize| {
            written.write(at);
            let is_last = holders.leave();
            if is_last {
                (0..2).for_each(|at| written.assert_written(at));
            }
            is_last
        };
        let other = thread::spawn({
            let (holders, written) = (Arc::clone(&holders), Arc::clone(&written));
            move || leave(&holders, &written, 1)
        });
        let (one, other) = (leave(&holders, &written, 0), other.join().expect("a thread that ends"));
        assert!(one != other, "expected one last user");
    });
}

/// Who counts no holders sees what the last one did.
pub fn zero_count_sees_all_writes() {
    explore(|| {
        let (holders, written) = (Arc::new(UserCount::default()), Arc::new(Written::new()));
        holders.enter();
        let other = thread::spawn({
            let (holders, written) = (Arc::clone(&holders), Arc::clone(&written));
            move || {
                written.write(0);
                assert!(holders.leave());
            }
        });
        if holders.count() == 0 {
            written.assert_written(0);
        }
        other.join().expect("a thread that ends");
    });
}

/// Who makes a place and then asks for the number, against who sets it and then looks for places: one of the two sees what
/// the other did.
pub fn store_then_fence_against_load_after_fence() {
    explore(|| {
        let (number, place) = (Arc::new(FencedU64::new(1)), Arc::new(AtomicU64::new(0)));
        let other = thread::spawn({
            let (number, place) = (Arc::clone(&number), Arc::clone(&place));
            move || {
                number.store_then_fence(2);
                place.load(Relaxed) == 1
            }
        });
        place.store(1, Relaxed);
        let seen = number.load_after_fence();
        let was_found = other.join().expect("a thread that ends");
        assert!(seen == 2 || was_found, "old value read and new place not found");
    });
}

/// Who sees a number sees what came before it.
pub fn fenced_u64_publishes_earlier_writes() {
    explore(|| {
        let (number, written) = (Arc::new(FencedU64::new(0)), Arc::new(Written::new()));
        let other = thread::spawn({
            let (number, written) = (Arc::clone(&number), Arc::clone(&written));
            move || {
                written.write(0);
                number.store_then_fence(1);
            }
        });
        if number.load() == 1 {
            written.assert_written(0);
        }
        other.join().expect("a thread that ends");
    });
}

/// Two take a number, add to what is counted under it as if it were a variable, and leave: nothing that was counted is lost.
pub fn thread_id_has_one_owner() {
    explore(|| {
        let (numbers, counts) = (Arc::new(ThreadIds::default()), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let count = |numbers: &ThreadIds, counts: &[AtomicU64; 2]| {
            let number = numbers.take().expect("there are more than two");
            let counted = &counts[number as usize];
            counted.store(counted.load(Relaxed) + 1, Relaxed);
            numbers.leave(number);
        };
        let other = thread::spawn({
            let (numbers, counts) = (Arc::clone(&numbers), Arc::clone(&counts));
            move || count(&numbers, &counts)
        });
        count(&numbers, &counts);
        other.join().expect("a thread that ends");
        assert_eq!(counts.iter().map(|count| count.load(Relaxed)).sum::<u64>(), 2, "count lost");
    });
}
