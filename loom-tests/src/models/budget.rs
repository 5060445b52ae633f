//! Reservations by several threads.

use std::sync::Arc;

use loom::thread;

use super::explore;
use crate::protocol::budget::{Budget, Usage};

/// Threads that reserve, hand over and give back never exceed the limit, and lose nothing.
pub fn never_above_the_limit() {
    explore(|| {
        let budget = Arc::new(Budget::new(Usage { bytes: 3, items: 2 }));
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || {
                if let (Some(mut mine), Some(more)) = (budget.reserve(1), budget.reserve(1)) {
                    mine.absorb(more);
                    assert_eq!(mine.bytes(), 2);
                }
            })
        };
        drop(budget.reserve(2));
        other.join().unwrap();
        assert_eq!(budget.used(), Usage::default());
        assert!(budget.peak().bytes <= 3 && budget.peak().items <= 2, "{:?}", budget.peak());
    });
}

/// A limit that is lowered meanwhile is kept by whoever reserves after.
pub fn a_lowered_limit_holds() {
    explore(|| {
        let budget = Arc::new(Budget::new(Usage { bytes: 4, items: 4 }));
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || drop(budget.reserve(3)))
        };
        budget.set_limit(Usage { bytes: 2, items: 4 });
        assert!(budget.reserve(3).is_none());
        other.join().unwrap();
        assert!(budget.reserve(2).is_some());
        assert_eq!(budget.used(), Usage::default());
    });
}
