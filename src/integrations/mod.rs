//! Implementations of traits of other crates, each in its own file, behind a feature with the name of the crate.
//!
//! They use only the public API and `whole_window` of the readers.

#[cfg(feature = "bytes")]
mod bytes;
#[cfg(feature = "rayon")]
pub(crate) mod rayon;
#[cfg(feature = "stable_deref_trait")]
mod stable_deref_trait;
