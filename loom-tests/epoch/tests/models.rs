//! Runs a model of files and evictors on crossbeam's epoch.

use std::sync::atomic::Ordering::Relaxed;

use smmap_loom_tests_epoch::{epoch, models};

#[test]
fn evictor_against_drop_of_file() {
    models::file::evictor_against_drop_of_file();
    assert!(epoch::FREED.load(Relaxed) > 0, "the epoch never freed anything");
}
