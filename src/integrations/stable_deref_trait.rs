//! Feature `stable_deref_trait`: what a [`Lease`] derefs to does not move when it does.
#![allow(unsafe_code, reason = "that is what the trait is: a promise")]

use stable_deref_trait::{CloneStableDeref, StableDeref};

use crate::Lease;

// SAFETY: the bytes are in a mapping or in a shared heap buffer, never in the lease itself; both stay where they are for as
// long as it lives, and nothing that it does replaces them.
unsafe impl StableDeref for Lease {}
// SAFETY: a clone shares the mapping, or the heap buffer.
unsafe impl CloneStableDeref for Lease {}
