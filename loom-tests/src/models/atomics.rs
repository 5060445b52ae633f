//! The single-word atomics: `FencedU64`, `UserCount` and `ThreadIds`.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use super::explore;
use crate::protocol::atomics::{FencedU64, ThreadIds, UserCount};

/// Two loom cells, one for the writes of each thread.
struct Written([UnsafeCell<bool>; 2]);

// SAFETY: loom's cells check every access themselves.
unsafe impl Send for Written {}
// SAFETY: as for `Send`.
unsafe impl Sync for Written {}

impl Written {
    fn new() -> Self {
        Self([UnsafeCell::new(false), UnsafeCell::new(false)])
    }

    fn write(&self, at: usize) {
        // SAFETY: loom's cell checks that the access is exclusive; the models exist to verify it.
        self.0[at].with_mut(|cell| unsafe { *cell = true });
    }

    fn assert_written(&self, at: usize) {
        // SAFETY: loom's cell checks that no write is concurrent.
        assert!(self.0[at].with(|cell| unsafe { *cell }), "not written yet");
    }
}

/// Exactly one of two users is the last, and sees the writes of the other.
pub fn last_leave_sees_all_writes() {
    explore(|| {
        let (users, written) = (Arc::new(UserCount::default()), Arc::new(Written::new()));
        users.enter();
        users.enter();
        let leave = |users: &UserCount, written: &Written, at: usize| {
            written.write(at);
            let is_last = users.leave();
            if is_last {
                (0..2).for_each(|at| written.assert_written(at));
            }
            is_last
        };
        let other = thread::spawn({
            let (users, written) = (Arc::clone(&users), Arc::clone(&written));
            move || leave(&users, &written, 1)
        });
        let (one, other) = (leave(&users, &written, 0), other.join().expect("a model's thread does not panic"));
        assert!(one != other, "expected one last user");
    });
}

/// A thread that counts no users sees the writes of the last user.
pub fn zero_count_sees_all_writes() {
    explore(|| {
        let (users, written) = (Arc::new(UserCount::default()), Arc::new(Written::new()));
        users.enter();
        let other = thread::spawn({
            let (users, written) = (Arc::clone(&users), Arc::clone(&written));
            move || {
                written.write(0);
                assert!(users.leave(), "the only user is the last");
            }
        });
        if users.count() == 0 {
            written.assert_written(0);
        }
        other.join().expect("a model's thread does not panic");
    });
}

/// One thread registers a place and then loads the value. The other stores a new value and then searches for places.
/// Either the first sees the new value, or the second finds the place.
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
        let was_found = other.join().expect("a model's thread does not panic");
        assert!(seen == 2 || was_found, "old value read and new place not found");
    });
}

/// A thread that loads a value sees the writes before its store.
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
        other.join().expect("a model's thread does not panic");
    });
}

/// Two threads take an id, add to the non-atomic counter of that id, and leave: no addition is lost.
pub fn thread_id_has_one_owner() {
    explore(|| {
        let (ids, counts) = (Arc::new(ThreadIds::default()), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let count = |ids: &ThreadIds, counts: &[AtomicU64; 2]| {
            let id = ids.take().expect("there are more ids than threads");
            let counted = &counts[id as usize];
            counted.store(counted.load(Relaxed) + 1, Relaxed);
            ids.leave(id);
        };
        let other = thread::spawn({
            let (ids, counts) = (Arc::clone(&ids), Arc::clone(&counts));
            move || count(&ids, &counts)
        });
        count(&ids, &counts);
        other.join().expect("a model's thread does not panic");
        assert_eq!(counts.iter().map(|count| count.load(Relaxed)).sum::<u64>(), 2, "count lost");
    });
}
