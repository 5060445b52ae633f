//! The addresses that are ours.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Relaxed, Release};
use loom::thread;

use super::{explore, explore_to};
use crate::protocol::address_table::AddressTable;

/// Of the same class, so that all that is told of them is told in the same group.
const OURS: std::ops::Range<usize> = 0x1000..0x2000;
const ONE: std::ops::Range<usize> = 0x3000..0x4000;
const NOBODYS: usize = 0x5000;
const OTHER: std::ops::Range<usize> = 0x6000..0x7000;
const PAGE: usize = 0x1000;

fn note_fault(ranges: &AddressTable, address: usize) -> Option<std::ops::Range<usize>> {
    ranges.note_fault(address, PAGE, |_| false)
}

fn is_faulted(ranges: &AddressTable, range: std::ops::Range<usize>) -> bool {
    ranges.faulted_part(range.clone(), range).is_some()
}

/// Whoever looks up an address that is nobody's finds nothing, while one range goes and another takes its entry, between
/// which that address lies.
pub fn foreign_address_is_not_found() {
    explore_to(2, || {
        let ranges = Arc::new(AddressTable::default());
        ranges.insert(ONE);
        let writer = thread::spawn({
            let ranges = Arc::clone(&ranges);
            move || {
                ranges.remove(ONE);
                ranges.insert(OTHER);
            }
        });
        assert!(note_fault(&ranges, NOBODYS).is_none(), "found a foreign address");
        writer.join().expect("a thread that ends");
        assert!(!ranges.any_faulted(), "told of another");
    });
}

/// Whoever looks up an address of a range finds it, while another goes and comes in the entry beside it.
pub fn lookup_beside_concurrent_change() {
    explore_to(1, || {
        let ranges = Arc::new(AddressTable::default());
        ranges.insert(ONE);
        ranges.insert(OURS);
        let writer = thread::spawn({
            let ranges = Arc::clone(&ranges);
            move || {
                ranges.remove(ONE);
                ranges.insert(OTHER);
            }
        });
        assert_eq!(note_fault(&ranges, OURS.start + 8), Some(OURS), "not found");
        writer.join().expect("a thread that ends");
        assert!(is_faulted(&ranges, OURS), "fault not reported");
        assert!(!is_faulted(&ranges, OTHER), "told of another");
    });
}

/// Two meet holes in the same range: each is told as soon as he asks, also before the other is done.
pub fn two_faults_in_one_range_are_both_reported() {
    explore_to(2, || {
        let ranges = Arc::new(AddressTable::default());
        ranges.insert(OURS);
        let meet = |ranges: &AddressTable| {
            assert!(note_fault(ranges, OURS.start).is_some(), "not found");
            assert!(is_faulted(ranges, OURS), "fault not reported");
        };
        let other = thread::spawn({
            let ranges = Arc::clone(&ranges);
            move || meet(&ranges)
        });
        meet(&ranges);
        other.join().expect("a thread that ends");
        ranges.remove(OURS);
        assert!(!ranges.any_faulted(), "faulted range still counted");
    });
}

/// Rule 2: who reads what was filled in the place of a hole is told. The filling is the system's, which orders it after what
/// the thread did before; the read is an ordinary one.
pub fn reader_of_filled_page_sees_the_fault() {
    explore(|| {
        let ranges = Arc::new(AddressTable::default());
        ranges.insert(OURS);
        let is_filled = Arc::new(AtomicBool::new(false));
        let other = thread::spawn({
            let (ranges, is_filled) = (Arc::clone(&ranges), Arc::clone(&is_filled));
            move || {
                assert!(note_fault(&ranges, OURS.start).is_some(), "not found");
                is_filled.store(true, Release);
            }
        });
        if is_filled.load(Relaxed) {
            assert!(is_faulted(&ranges, OURS), "fault not reported");
        }
        other.join().expect("a thread that ends");
    });
}

/// A torn range goes, with its note, while another one is torn; the next at its place is torn anew.
pub fn fault_note_is_removed_with_its_range() {
    explore_to(2, || {
        let ranges = Arc::new(AddressTable::default());
        ranges.insert(OURS);
        ranges.insert(OTHER);
        assert!(note_fault(&ranges, OTHER.start).is_some(), "not found");
        let other = thread::spawn({
            let ranges = Arc::clone(&ranges);
            move || {
                ranges.remove(OTHER);
                ranges.insert(OTHER);
                assert!(!is_faulted(&ranges, OTHER), "told of another");
                assert!(note_fault(&ranges, OTHER.start).is_some(), "not found");
            }
        });
        assert!(note_fault(&ranges, OURS.start).is_some(), "not found");
        other.join().expect("a thread that ends");
        for range in [OURS, OTHER] {
            assert!(is_faulted(&ranges, range.clone()), "fault not reported");
            ranges.remove(range);
        }
        assert!(!ranges.any_faulted(), "faulted range still counted");
    });
}
