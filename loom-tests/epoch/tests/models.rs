//! Runs the models of files, with the real epoch.

use std::sync::atomic::Ordering::Relaxed;

use smmap_loom_tests_epoch::{epoch, models};

#[test]
fn an_evictor_against_the_end_of_a_file() {
    models::file::an_evictor_against_the_end_of_a_file();
    assert!(epoch::FREED.load(Relaxed) > 0, "the epoch never freed anything");
}
