//! Fault injection: some system calls fail on purpose (map, unmap, open, stat, read, advise).
//!
//! An operation may then return the error of the failed call, but never a wrong byte. After the faults stop, every
//! operation succeeds again, and every mapping, descriptor and count returns to zero at the end.
//!
//! The library has no hooks for this: `system.rs` replaces the system calls. It works only on 64-bit Linux with glibc,
//! since the calls have other names elsewhere.

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
fn fault_injection_on_other_systems_is_skipped() {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: faults are injected on 64-bit Linux with glibc only");
}
