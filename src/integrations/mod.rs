//! Guests: traits of other crates for our types, each in its own file, behind a feature of its crate's name. They use the
//! public API and what the readers offer each other, nothing below.

#[cfg(feature = "bytes")]
mod bytes;
#[cfg(feature = "rayon")]
pub(crate) mod rayon;
#[cfg(feature = "stable_deref_trait")]
mod stable_deref_trait;
