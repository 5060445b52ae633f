//! The models. Each says what it proves; `tests/` runs them.

pub mod address_table;
pub mod atomics;
pub mod budget;
pub mod clock_ring;
pub mod file;
pub mod hazard;
pub mod slot;
pub mod wake_event;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Explores `model` with at most three preemptions in one execution: in trials that found every bug that more found, and
/// ends. Prints how many executions it took.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_to(3, model);
}

/// As [`explore`], with another bound.
fn explore_to(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let report = Report { executions: Arc::default(), start: Instant::now() };
    let executions = Arc::clone(&report.executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        executions.fetch_add(1, Ordering::Relaxed);
        model();
    });
    // A model with one execution has nothing that could happen in two orders: it would prove nothing.
    assert!(report.executions.load(Ordering::Relaxed) > 1, "nothing was explored");
}

/// Printed when the exploration is over, also where it failed.
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
