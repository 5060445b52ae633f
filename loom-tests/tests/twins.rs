//! Checks that the model of each twin in `twins.rs` fails, and for the expected reason.
//!
//! `build.rs` generates the twins. A failing model leaves threads in the middle of an operation, and their destructors
//! may fail again. Each model therefore runs in its own process, which reports the first failure and exits.

use std::collections::BTreeSet;
use std::process::{Command, exit};
use std::{env, panic, thread};

#[allow(warnings, clippy::all, reason = "copies of the protocol with one fault each, of which a model uses a part")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/twins/mod.rs"));
}

/// The environment variable that is set in the process in which the model must fail.
const CHILD: &str = "SMMAP_TWIN";
/// The exit status of that process after the failure.
const FAILED: i32 = 42;

#[path = "../twins.rs"]
mod table;

/// The models that `tests/models.rs` runs, as `module::function`.
fn models_that_run() -> BTreeSet<String> {
    let (mut module, mut models) = ("", BTreeSet::new());
    for line in include_str!("models.rs").lines() {
        let name = line.trim_start();
        match line.len() - name.len() {
            4 if name.ends_with(':') => module = name.trim_end_matches(':'),
            8 => models.extend(name.strip_suffix([',', ';']).map(|model| format!("{module}::{model}"))),
            _ => (),
        }
    }
    models
}

/// The models that `src/models/` defines: its public functions.
fn models_that_are_defined() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/models");
    let mut models = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("cannot list src/models") {
        let path = entry.expect("cannot read a directory entry").path();
        let module = path.file_stem().expect("a file's name").to_string_lossy();
        let source = std::fs::read_to_string(&path).expect("cannot read a model's file");
        let functions = source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once('('));
        models.extend(functions.map(|(function, _)| format!("{module}::{function}")));
    }
    models
}

/// A missing line in `tests/models.rs` must not disable a model.
#[test]
fn all_defined_models_run() {
    let models = models_that_run();
    assert!(models.len() >= 80, "only {} models run", models.len());
    assert_eq!(models, models_that_are_defined(), "tests/models.rs differs from src/models/");
}

/// A twin must be generated, must contain a fault, and must fail a model that passes without the fault.
#[test]
fn all_twins_are_generated_for_models_that_run() {
    assert_eq!(generated::GENERATED, table::TWINS.len());
    assert!(table::TWINS.len() >= 141, "only {} twins are left", table::TWINS.len());
    let models = models_that_run();
    for twin in table::TWINS {
        assert!(models.contains(twin.model), "twin {}: {} is not in tests/models.rs", twin.name, twin.model);
        let is_complete = twin.from != twin.to && !twin.file.is_empty() && !twin.says.is_empty();
        assert!(is_complete, "twin {}: `from` equals `to`, or a field is empty", twin.name);
    }
}

fn must_fail(model: fn(), says: &str) {
    if env::var_os(CHILD).is_some() {
        panic::set_hook(Box::new(|failure| {
            println!("failed: {failure}");
            exit(FAILED);
        }));
        return model();
    }
    let thread = thread::current();
    let name = thread.name().expect("a test's thread has the test's name");
    let child = Command::new(env::current_exe().expect("cannot find this executable"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("cannot start the child process");
    let output = String::from_utf8_lossy(&child.stdout);
    assert_ne!(child.status.code(), Some(0), "the model passed in spite of the fault");
    assert_eq!(child.status.code(), Some(FAILED), "the child process ended without a failure of the model: {output}");
    let (_, failure) = output.split_once("failed: ").expect("the child process prints the failure");
    println!("{failure}");
    assert!(failure.contains(says), "the model failed for another reason");
}
