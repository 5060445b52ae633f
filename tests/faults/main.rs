//! What the system gives fails on purpose, every now and then: mapping, unmapping, opening, looking, reading, advice. An
//! operation may then give the error that it met, but never a wrong byte, and nothing is lost: when the faults stop, all
//! works as before, and all goes back.
//!
//! The library has no hook for this: `system.rs` takes the place of the calls themselves. On 64-bit Linux only, since
//! elsewhere they have other names.

#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
#[path = "../it/support.rs"]
mod support;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod system;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod with_faults;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
#[path = "../it/model/world.rs"]
mod world;

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
#[test]
fn faults_are_injected() {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: faults are injected on 64-bit Linux with glibc only");
}
