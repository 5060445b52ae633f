//! Slab: given out once each, and found by those who look.

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;

use super::explore;
use crate::protocol::clock_ring::{ClockRing, RingEntry};
use crate::sync::epoch::Epoch;
use crate::sync::{AtomicU32, Ordering};

fn seat(ring: &ClockRing<u32>, item: &'static u32) -> RingEntry {
    // SAFETY: statics stay.
    unsafe { ring.insert(NonNull::from(item)) }
}

/// Items that sit, each once, with nothing lost and nothing found twice.
fn seated(ring: &ClockRing<u32>) -> Vec<u32> {
    let mut items = Vec::new();
    ring.for_each(&std::sync::Arc::new(Epoch::default()).pin(0), |item| items.push(*item));
    items.sort_unstable();
    items
}

static ITEMS: [u32; 4] = [0, 1, 2, 3];

/// A seat is nobody else's: two threads take free seats and leave one meanwhile, so that the free seat on top is the same
/// again but what is below it is not.
pub fn ring_entry_has_one_owner() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let seats = [seat(&ring, &ITEMS[0]), seat(&ring, &ITEMS[0])];
        seats.into_iter().for_each(|seat| ring.remove(seat));
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let first = seat(&ring, &ITEMS[0]);
                let _second = seat(&ring, &ITEMS[1]);
                ring.remove(first);
            }
        });
        let _third = seat(&ring, &ITEMS[2]);
        let _fourth = seat(&ring, &ITEMS[3]);
        other.join().expect("a thread that ends");
        assert_eq!(seated(&ring), [1, 2, 3], "ring entry claimed twice");
    });
}

/// Two seats that are made at once are two.
pub fn new_entries_are_distinct() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let _theirs = seat(&ring, &ITEMS[0]);
            }
        });
        let _mine = seat(&ring, &ITEMS[1]);
        other.join().expect("a thread that ends");
        assert_eq!(seated(&ring), [0, 1], "ring entry claimed twice");
    });
}

/// Who leaves, and who sits down on the seat that was left: the one comes before the other.
pub fn remove_against_insert() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let first = seat(&ring, &ITEMS[0]);
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.remove(first)
        });
        let _second = seat(&ring, &ITEMS[1]);
        other.join().expect("a thread that ends");
        assert_eq!(seated(&ring), [1], "removed item still in the ring, or inserted item lost");
        assert!(ring.len() <= 2);
    });
}

/// Rule 6. Who finds an item on its seat sees what it is.
pub fn advance_sees_inserted_item() {
    explore(|| {
        let ring = Arc::new(ClockRing::<AtomicU32>::default());
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let item = Box::new(AtomicU32::new(7));
                // SAFETY: the item lives until both threads are joined.
                let seat = unsafe { ring.insert(NonNull::from(&*item)) };
                (item, seat)
            }
        });
        let guard = std::sync::Arc::new(Epoch::default()).pin(0);
        if let Some(item) = ring.advance(&guard) {
            assert_eq!(item.load(Ordering::Relaxed), 7);
        }
        let (item, seat) = other.join().expect("a thread that ends");
        ring.remove(seat);
        drop(item);
    });
}
