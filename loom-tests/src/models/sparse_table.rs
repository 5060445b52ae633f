//! The growth of a table beside look-ups.

use std::cell::Cell;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::explore_to;
use crate::protocol::sparse_table::SparseTable;

/// The elements of one leaf.
const LEAF: u64 = 16;
/// The leaves for which the first directory has room.
const ROOM: u64 = 5;

std::thread_local! {
    // Loom runs all threads of a model on one OS thread.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// An element that its maker writes, so that loom finds a look-up that reads it too early.
struct Element(UnsafeCell<u32>);

// SAFETY: loom's cell checks every access itself.
unsafe impl Send for Element {}
// SAFETY: as above.
unsafe impl Sync for Element {}

impl Default for Element {
    fn default() -> Self {
        MADE.set(MADE.get() + 1);
        let cell = UnsafeCell::new(0);
        // SAFETY: no other thread has the cell yet.
        cell.with_mut(|element| unsafe { *element = 7 });
        Self(cell)
    }
}

impl Element {
    fn assert_complete(&self) {
        // SAFETY: loom's cell checks that no write is concurrent.
        assert_eq!(self.0.with(|element| unsafe { *element }), 7, "an incomplete element was found");
    }
}

/// Explores a table in which the first `leaves` leaves exist: one thread makes the element at `index`, while another
/// runs `look`. Two preemptions.
fn model(leaves: u64, index: u64, look: fn(&SparseTable<Element>)) {
    explore_to(2, move || {
        MADE.set(0);
        let table = Arc::new(SparseTable::<Element>::default());
        (1..=leaves).for_each(|leaf| table.at(leaf * LEAF).assert_complete());
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.at(index).assert_complete())
        };
        look(&table);
        other.join().expect("a model's thread does not panic");
        assert!(table.get(index).is_some(), "an element was lost");
        // The table contains one element, and each other is in a leaf.
        assert_eq!(MADE.get() as u64, 1 + LEAF * (leaves + 1), "a leaf was made twice, or none");
    });
}

/// A look-up finds a leaf that is added to a directory complete, or not at all.
pub fn added_leaf_against_look_up() {
    model(1, 2 * LEAF, |table| table.get(2 * LEAF).into_iter().for_each(Element::assert_complete));
}

/// A look-up finds a leaf that exists while the directory is replaced.
pub fn replaced_directory_against_look_up() {
    model(ROOM, (ROOM + 1) * LEAF, |table| {
        for leaf in [1, ROOM] {
            table.get(leaf * LEAF).expect("an element was lost").assert_complete();
        }
        table.get((ROOM + 1) * LEAF).into_iter().for_each(Element::assert_complete);
    });
}

/// Two threads that want elements of one leaf make it once.
pub fn two_threads_make_one_leaf() {
    model(1, 2 * LEAF, |table| table.at(2 * LEAF + 1).assert_complete());
}
