//! The broken twin: memory is freed when it is retired, whoever is pinned. The model fails, for that reason.
//!
//! A model that fails leaves threads behind, whose destructors may fail again. So it runs in a process of its own, which
//! ends with the first failure.

use std::process::{Command, exit};
use std::sync::atomic::Ordering::Relaxed;
use std::{env, panic};

use smmap_loom_tests_epoch::{epoch, models};

const CHILD: &str = "SMMAP_TWIN";
const FAILED: i32 = 42;

#[test]
fn freed_at_once() {
    if env::var_os(CHILD).is_some() {
        panic::set_hook(Box::new(|failure| {
            println!("failed: {failure}");
            exit(FAILED);
        }));
        epoch::FREES_AT_ONCE.store(true, Relaxed);
        return models::file::evictor_against_drop_of_file();
    }
    let child = Command::new(env::current_exe().expect("this very file"))
        .args(["--exact", "freed_at_once", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(FAILED), "the model did not fail: {said}");
    assert!(said.contains("Causality violation: Concurrent read and write accesses"), "for another reason: {said}");
}
