//! The table of mapped address ranges, which a signal handler reads.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Relaxed, Release};
use loom::thread;

use super::{explore, explore_to};
use crate::protocol::address_table::AddressTable;

// The ranges are of one class, and the first table has one group, so their entries are all in that group.
/// A range that stays in the table.
const OURS: std::ops::Range<usize> = 0x1000..0x2000;
/// A range that is removed.
const REMOVED: std::ops::Range<usize> = 0x3000..0x4000;
/// An address in no range. It lies between `REMOVED` and `OTHER`.
const FOREIGN: usize = 0x5000;
/// A second range. Some models insert it into the entry of `REMOVED`.
const OTHER: std::ops::Range<usize> = 0x6000..0x7000;
const PAGE: usize = 0x1000;

fn note_fault(table: &AddressTable, address: usize) -> Option<std::ops::Range<usize>> {
    table.note_fault(address, PAGE, |_| false)
}

fn is_faulted(table: &AddressTable, range: std::ops::Range<usize>) -> bool {
    table.faulted_part(range.clone(), range).is_some()
}

/// An address in no range is not found while one range is removed and another is inserted into the same entry. The
/// address lies between the two ranges. Two preemptions.
pub fn foreign_address_is_not_found() {
    explore_to(2, || {
        let table = Arc::new(AddressTable::default());
        table.insert(REMOVED);
        let writer = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.remove(REMOVED);
                table.insert(OTHER);
            }
        });
        assert!(note_fault(&table, FOREIGN).is_none(), "found a foreign address");
        writer.join().expect("a model's thread does not panic");
        assert!(!table.any_faulted(), "fault reported for another range");
    });
}

/// An address in a range is found while another range is replaced in the entry beside it. One preemption.
pub fn lookup_beside_concurrent_change() {
    explore_to(1, || {
        let table = Arc::new(AddressTable::default());
        table.insert(REMOVED);
        table.insert(OURS);
        let writer = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.remove(REMOVED);
                table.insert(OTHER);
            }
        });
        assert_eq!(note_fault(&table, OURS.start + 8), Some(OURS), "own address not found");
        writer.join().expect("a model's thread does not panic");
        assert!(is_faulted(&table, OURS), "fault not reported");
        assert!(!is_faulted(&table, OTHER), "fault reported for another range");
    });
}

/// In a child of `fork`, an address in a range is found while another range is removed without the lock, which is not
/// found afterwards. Two preemptions.
pub fn lookup_beside_removal_in_child() {
    explore_to(2, || {
        let table = Arc::new(AddressTable::default());
        table.insert(REMOVED);
        table.insert(OURS);
        assert!(note_fault(&table, REMOVED.start).is_some(), "own address not found");
        let writer = thread::spawn({
            let table = Arc::clone(&table);
            move || table.remove_in_child(REMOVED)
        });
        assert_eq!(note_fault(&table, OURS.start + 8), Some(OURS), "own address not found");
        assert!(is_faulted(&table, OURS), "fault not reported");
        writer.join().expect("a model's thread does not panic");
        assert!(note_fault(&table, REMOVED.start).is_none(), "found a foreign address");
        table.remove_in_child(OURS);
        assert!(!table.any_faulted(), "faulted range still counted");
    });
}

/// Two threads fault in one range: each finds the range faulted at once, also before the other is done. Two
/// preemptions.
pub fn two_faults_in_one_range_are_both_reported() {
    explore_to(2, || {
        let table = Arc::new(AddressTable::default());
        table.insert(OURS);
        let fault = |table: &AddressTable| {
            assert!(note_fault(table, OURS.start).is_some(), "own address not found");
            assert!(is_faulted(table, OURS), "fault not reported");
        };
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || fault(&table)
        });
        fault(&table);
        other.join().expect("a model's thread does not panic");
        table.remove(OURS);
        assert!(!table.any_faulted(), "faulted range still counted");
    });
}

/// Rule 2 of the table: a thread that reads a filled page finds the range faulted.
///
/// The OS fills the page, and orders that after the earlier steps of the faulting thread. The read is an ordinary one.
pub fn reader_of_filled_page_sees_the_fault() {
    explore(|| {
        let table = Arc::new(AddressTable::default());
        table.insert(OURS);
        let is_filled = Arc::new(AtomicBool::new(false));
        let other = thread::spawn({
            let (table, is_filled) = (Arc::clone(&table), Arc::clone(&is_filled));
            move || {
                assert!(note_fault(&table, OURS.start).is_some(), "own address not found");
                is_filled.store(true, Release);
            }
        });
        if is_filled.load(Relaxed) {
            assert!(is_faulted(&table, OURS), "fault not reported");
        }
        other.join().expect("a model's thread does not panic");
    });
}

/// A faulted range is removed together with its note while another range is faulted. The next range at this place
/// starts unfaulted, and can be faulted again. Two preemptions.
pub fn fault_note_is_removed_with_its_range() {
    explore_to(2, || {
        let table = Arc::new(AddressTable::default());
        table.insert(OURS);
        table.insert(OTHER);
        assert!(note_fault(&table, OTHER.start).is_some(), "own address not found");
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.remove(OTHER);
                table.insert(OTHER);
                assert!(!is_faulted(&table, OTHER), "fault reported for another range");
                assert!(note_fault(&table, OTHER.start).is_some(), "own address not found");
            }
        });
        assert!(note_fault(&table, OURS.start).is_some(), "own address not found");
        other.join().expect("a model's thread does not panic");
        for range in [OURS, OTHER] {
            assert!(is_faulted(&table, range.clone()), "fault not reported");
            table.remove(range);
        }
        assert!(!table.any_faulted(), "faulted range still counted");
    });
}
