//! Feature `stable_deref_trait`: moving a [`Lease`] does not move the bytes that it dereferences to.
#![allow(unsafe_code, reason = "the traits are unsafe to implement")]

use stable_deref_trait::{CloneStableDeref, StableDeref};

use crate::Lease;

// SAFETY: the bytes are in a mapping or in a shared heap buffer, never in the lease itself. Both keep their address as
// long as the lease lives, and no method of the lease replaces them.
unsafe impl StableDeref for Lease {}
// SAFETY: a clone shares the mapping or the heap buffer, so it dereferences to the same address.
unsafe impl CloneStableDeref for Lease {}
