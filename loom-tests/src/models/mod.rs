//! The models. The doc comment of each states what it proves; `tests/models.rs` runs them.

pub mod address_table;
pub mod atomics;
pub mod budget;
pub mod clock_ring;
pub mod file;
pub mod hazard;
pub mod slot;
pub mod sparse_table;
pub mod wake_event;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Explores `model` with at most three preemptions in one execution.
///
/// With three, the exploration ends in reasonable time, and in trials a larger bound found no further bug. Prints the
/// number of executions.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_to(3, model);
}

/// Explores `model` with at most `preemptions` preemptions in one execution. Prints the number of executions.
fn explore_to(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let report = Report { executions: Arc::default(), start: Instant::now() };
    let executions = Arc::clone(&report.executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        executions.fetch_add(1, Ordering::Relaxed);
        model();
    });
    // In a model with one execution, no two steps can happen in two orders, so the model proves nothing.
    assert!(report.executions.load(Ordering::Relaxed) > 1, "nothing was explored");
}

/// The count of executions, printed on drop: after the exploration, or when it fails.
struct Report {
    executions: Arc<AtomicUsize>,
    start: Instant,
}

impl Drop for Report {
    fn drop(&mut self) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a model");
        let executions = self.executions.load(Ordering::Relaxed);
        println!("{name}: {executions} executions, {:.2} s", self.start.elapsed().as_secs_f64());
    }
}
