//! Checks that the model fails, for the expected reason, if memory is freed when it is retired although a thread is
//! pinned.
//!
//! A failing model leaves threads in the middle of an operation, and their destructors may fail again. The model
//! therefore runs in its own process, which reports the first failure and exits.

use std::process::{Command, exit};
use std::sync::atomic::Ordering::Relaxed;
use std::{env, panic};

use smmap_loom_tests_epoch::{epoch, models};

/// The environment variable that is set in the process in which the model must fail.
const CHILD: &str = "SMMAP_TWIN";
/// The exit status of that process after the failure.
const FAILED: i32 = 42;

#[test]
fn model_fails_if_memory_is_freed_at_once() {
    if env::var_os(CHILD).is_some() {
        panic::set_hook(Box::new(|failure| {
            println!("failed: {failure}");
            exit(FAILED);
        }));
        epoch::FREES_AT_ONCE.store(true, Relaxed);
        return models::file::evictor_against_drop_of_file();
    }
    let child = Command::new(env::current_exe().expect("cannot find this executable"))
        .args(["--exact", "model_fails_if_memory_is_freed_at_once", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("cannot start the child process");
    let output = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(FAILED), "the model did not fail: {output}");
    let reason = "Causality violation: Concurrent read and write accesses";
    assert!(output.contains(reason), "the model failed for another reason: {output}");
}
