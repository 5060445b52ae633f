//! The models. Each says what it proves; `tests/` runs them.

pub mod budget;
pub mod signal;
pub mod slot;

/// Explores `model` with at most three preemptions in one execution: in trials that found every bug that more found, and
/// ends.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}
