//! The broken twins of `twins.rs`, which `build.rs` wrote: the model of each fails, for the reason that it should.
//!
//! A model that fails leaves threads behind in the middle of what they did, whose destructors may fail again. So each
//! runs in a process of its own, which ends with the first failure and says what it was.

use std::process::{Command, exit};
use std::{env, panic, thread};

#[allow(warnings, clippy::all, reason = "copies of the protocol with one fault each, and the models use a part of it")]
mod written {
    include!(concat!(env!("OUT_DIR"), "/twins/mod.rs"));
}

/// Set for the process in which a model is to fail.
const CHILD: &str = "SMMAP_TWIN";
/// What that process exits with once it has.
const FAILED: i32 = 42;

#[path = "../twins.rs"]
mod table;

/// No twin is left out, of what runs or of what is written about it; and each fails in a model that is run without a fault.
#[test]
fn all_twins_are_here() {
    assert_eq!(written::WRITTEN, table::TWINS.len());
    assert!(table::TWINS.len() > 90);
    let (readme, models) = (include_str!("../README.md"), include_str!("models.rs"));
    for twin in table::TWINS {
        assert!(readme.contains(&format!("| `{}` |", twin.name)), "{} is not in README.md", twin.name);
        let (_, model) = twin.model.split_once("::").expect("a model's path");
        assert!(models.contains(&format!("        {model}")), "{model} is not in tests/models.rs");
        assert!(twin.from != twin.to && !twin.file.is_empty() && !twin.says.is_empty(), "{} is no twin", twin.name);
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
    let name = thread.name().expect("a test's thread has its name");
    let child = Command::new(env::current_exe().expect("this very file"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&child.stdout);
    assert_ne!(child.status.code(), Some(0), "no model caught it");
    assert_eq!(child.status.code(), Some(FAILED), "it did not fail, but ended: {said}");
    let (_, failure) = said.split_once("failed: ").expect("what it failed for");
    println!("{failure}");
    assert!(failure.contains(says), "it failed for another reason");
}
