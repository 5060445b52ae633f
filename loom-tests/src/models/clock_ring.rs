//! Entries of the clock ring: each is claimed once, and evictors see the inserted item.

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;

use super::explore;
use crate::protocol::clock_ring::{ClockRing, RingEntry};
use crate::sync::epoch::Epoch;
use crate::sync::{AtomicU32, Ordering};

fn insert(ring: &ClockRing<u32>, item: &'static u32) -> RingEntry {
    // SAFETY: a static is never freed or changed.
    unsafe { ring.insert(NonNull::from(item)) }
}

/// Returns the items of all entries of the ring, sorted. A lost item is missing, and an item in two entries occurs
/// twice.
fn items_in(ring: &ClockRing<u32>) -> Vec<u32> {
    let mut items = Vec::new();
    ring.for_each(&std::sync::Arc::new(Epoch::default()).pin(0), |item| items.push(*item));
    items.sort_unstable();
    items
}

static ITEMS: [u32; 4] = [0, 1, 2, 3];

/// A ring entry has one owner at a time. Two threads claim free entries, and one releases an entry in between: the top
/// of the free list is then the same again, but the entry below it is not (ABA).
pub fn ring_entry_has_one_owner() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let entries = [insert(&ring, &ITEMS[0]), insert(&ring, &ITEMS[0])];
        entries.into_iter().for_each(|entry| ring.remove(entry));
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let first = insert(&ring, &ITEMS[0]);
                let _second = insert(&ring, &ITEMS[1]);
                ring.remove(first);
            }
        });
        let _third = insert(&ring, &ITEMS[2]);
        let _fourth = insert(&ring, &ITEMS[3]);
        other.join().expect("a model's thread does not panic");
        assert_eq!(items_in(&ring), [1, 2, 3], "ring entry claimed twice");
    });
}

/// Two entries that two threads create concurrently are distinct.
pub fn new_entries_are_distinct() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let _second = insert(&ring, &ITEMS[0]);
            }
        });
        let _first = insert(&ring, &ITEMS[1]);
        other.join().expect("a model's thread does not panic");
        assert_eq!(items_in(&ring), [0, 1], "ring entry claimed twice");
    });
}

/// An item is removed from its entry before another thread reuses the entry for its own item.
pub fn remove_against_insert() {
    explore(|| {
        let ring = Arc::new(ClockRing::default());
        let first = insert(&ring, &ITEMS[0]);
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.remove(first)
        });
        let _second = insert(&ring, &ITEMS[1]);
        other.join().expect("a model's thread does not panic");
        assert_eq!(items_in(&ring), [1], "removed item still in the ring, or inserted item lost");
        assert!(ring.len() <= 2, "more entries than items");
    });
}

/// Rule 6. A thread that finds an item in the ring sees the contents of the item.
pub fn advance_sees_inserted_item() {
    explore(|| {
        let ring = Arc::new(ClockRing::<AtomicU32>::default());
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let item = Box::new(AtomicU32::new(7));
                // SAFETY: the item lives until both threads are joined.
                let entry = unsafe { ring.insert(NonNull::from(&*item)) };
                (item, entry)
            }
        });
        let guard = std::sync::Arc::new(Epoch::default()).pin(0);
        if let Some(item) = ring.advance(&guard) {
            assert_eq!(item.load(Ordering::Relaxed), 7);
        }
        let (item, entry) = other.join().expect("a model's thread does not panic");
        ring.remove(entry);
        drop(item);
    });
}
