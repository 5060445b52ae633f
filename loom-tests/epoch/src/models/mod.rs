//! The `file` models of `loom-tests`, on crossbeam's epoch and with a lower bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "../../../src/models/file.rs"]
pub mod file;
#[path = "../../../src/models/world.rs"]
mod world;

/// Explores `model` with at most one preemption in one execution. Prints the number of executions.
///
/// With two preemptions and two threads, an exploration with crossbeam's epoch takes more than a minute.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&executions);
    let start = std::time::Instant::now();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.max_branches = 10_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    assert!(executions > 1, "nothing was explored");
    let freed = crate::epoch::FREED.load(Ordering::Relaxed);
    println!("{executions} executions, {freed} freed by the epoch, {:.2} s", start.elapsed().as_secs_f64());
}
