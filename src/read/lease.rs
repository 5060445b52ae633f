//! [`Lease`]: bytes of a file that are owned.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range, RangeBounds};
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::cache::region::{Region, RegionRef, View};
use crate::error::Result;
use crate::file::MappedFile;
use crate::geometry;
use crate::policy::Access;
use crate::protocol::slot::Slot;

/// Bytes of a file, owned: they stay valid, at the same address, for as long as the lease lives, whatever becomes of the
/// manager, the limits, the file's handles and its name. It may be sent, shared, cloned, and cut into smaller ones, without
/// copying; it is `'static`.
///
/// A lease keeps its whole region mapped (or holds a small copy: see [`is_mapped`](Self::is_mapped)). That is a pin on the
/// budget: a few bytes that are to be kept for long are better copied out. (A lease that is a copy is memory outside of the
/// budget.)
///
/// Taking one of a mapped window and dropping it are one shared write each. Cloning and slicing are one.
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let lease = maps.open("Cargo.toml")?.lease(..9)?;
/// drop(maps);
/// let name = lease.slice(1..8);
/// let thread = std::thread::spawn(move || name.len());
/// assert_eq!((&lease[..], thread.join().unwrap()), (&b"[package]"[..], 7));
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone)]
pub struct Lease {
    bytes: RegionRef,
    offset: u64,
}

impl Lease {
    #[inline]
    pub(super) fn new(bytes: RegionRef, offset: u64) -> Self {
        Self { bytes, offset }
    }

    pub(super) fn empty(offset: u64) -> Self {
        Self::new(RegionRef::empty(), offset)
    }

    /// A lease of some of its bytes, counted from its first. Nothing is copied; both keep the region (an empty slice keeps
    /// none).
    ///
    /// # Panics
    ///
    /// If `range` is reversed or reaches past the end, as a slice does.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let lease = maps.open("Cargo.toml")?.lease(1..9)?;
    /// let package = lease.slice(..7);
    /// assert_eq!((&package[..], package.as_ptr()), (&b"package"[..], lease.as_ptr()));
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[track_caller]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Lease {
        let Range { start, end } = geometry::resolve_usize(&range, self.len());
        let offset = self.offset + start as u64;
        if start == end {
            return Self::empty(offset);
        }
        Self::new(self.bytes.clone().narrow(start..end), offset)
    }

    /// Where in the file its first byte is.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// assert_eq!(maps.open("Cargo.toml")?.lease(3..9)?.slice(2..).offset(), 5);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it holds a mapping: `false` for a copy (of a small range that was cold, or crossed windows), and for no
    /// bytes at all.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// assert!(!file.lease(0..9)?.is_mapped(), "a cold small read");
    /// file.prefetch(..)?;
    /// assert!(file.lease(0..9)?.is_mapped() && !file.lease(9..9)?.is_mapped());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn is_mapped(&self) -> bool {
        self.bytes.is_client()
    }

    /// Whether its bytes were all there: ask after reading them, where a file may be cut short at any time. O(1), with one call
    /// of the system, unless holes were found; these are read. A copy is always there.
    ///
    /// It asks how long the file is. With [`fault_guard`](crate::fault_guard) in place it also knows what readers met a hole in,
    /// and got zeros for; without it, to read what was cut off ends the process. When the file cannot be looked at any more (the
    /// manager is gone, or the descriptor was closed and the path leads elsewhere), that is an error only if bytes may be
    /// missing: a hole was found, or they end in zeros, up to the end of a page.
    ///
    /// # Errors
    ///
    /// [`Truncated`](crate::ErrorKind::Truncated) if the file ends, or ended, before the lease does;
    /// [`Io`](crate::ErrorKind::Io) if the medium failed; and [`Replaced`](crate::ErrorKind::Replaced) if the file cannot be
    /// looked at, and bytes may be missing.
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let lease = maps.open("Cargo.toml")?.lease(..9)?;
    /// let is_package = &lease[..] == b"[package]";
    /// lease.check()?;
    /// assert!(is_package);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        self.bytes.check(0, self.len(), self.offset)
    }

    pub(super) fn region(&self) -> &RegionRef {
        &self.bytes
    }
}

impl MappedFile {
    /// UnmapToken bytes: exactly this range.
    ///
    /// At most 256 KiB may be copied instead of mapped: if they cross windows; if the window is cold
    /// ([`Admission`](crate::Admission)); or if it is just being mapped or unmapped. More is always mapped: in its window, or,
    /// if it crosses windows, by a mapping of its own, made anew for each call. A hit is a look-up in an array and one shared
    /// write; no lock, no allocation, no call of the system.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds) if `range` is reversed or reaches past the end;
    /// [`OverBudget`](crate::ErrorKind::OverBudget) and [`OutOfMaps`](crate::ErrorKind::OutOfMaps) for what has to be
    /// mapped; [`Truncated`](crate::ErrorKind::Truncated), [`Replaced`](crate::ErrorKind::Replaced) and
    /// [`Io`](crate::ErrorKind::Io) as for [`read_at`](Self::read_at).
    ///
    /// ```
    /// # use smmap::MapManager;
    /// // SAFETY: nobody changes or truncates the files of this example.
    /// let maps = unsafe { MapManager::builder().build()? };
    /// let file = maps.open("Cargo.toml")?;
    /// assert_eq!(&file.lease(1..=7)?[..], b"package");
    /// assert_eq!(file.lease(..)?.len() as u64, file.len());
    /// assert!(file.lease(file.len()..)?.is_empty());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    // Always: a lease that is handed on through memory, to be dropped soon, costs half as much again.
    #[inline(always)]
    pub fn lease(&self, range: impl RangeBounds<u64>) -> Result<Lease> {
        let range = self.resolve(&range)?;
        if range.is_empty() {
            return Ok(Lease::empty(range.start));
        }
        let (window, start) = self.geometry().locate(range.start);
        let slot = match self.cache().hit(self.cached(), window, range.end - start, Access::Counted) {
            Ok(client) => match RegionRef::part(client, range.start - start, range.end - range.start) {
                Some(bytes) => return Ok(Lease::new(bytes, range.start)),
                None => unreachable!("a hit reaches to the end of the range"),
            },
            Err(slot) => slot,
        };
        let offset = range.start;
        // Something else than a lease, so that what the fast way makes need not pass through memory with it.
        Ok(Lease::new(self.lease_missed(range, slot)?, offset))
    }

    #[cold]
    fn lease_missed(&self, range: Range<u64>, slot: &Slot<Region>) -> Result<RegionRef> {
        match self.region_for(&range, slot, Access::Counted)? {
            Some(held) => Ok(held.narrow(&range)),
            None => {
                let mut bytes = Vec::new();
                self.copied(range.clone(), &mut bytes)?;
                Ok(RegionRef::copied(bytes))
            }
        }
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// No bytes, at offset 0.
impl Default for Lease {
    fn default() -> Self {
        Self::empty(0)
    }
}

// What a lease shows never changes, and a panic leaves no count behind that its drop would not take back.
impl UnwindSafe for Lease {}
impl RefUnwindSafe for Lease {}

/// By their bytes, wherever they come from; so are the others.
impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Lease {}

impl PartialEq<[u8]> for Lease {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialEq<&[u8]> for Lease {
    fn eq(&self, other: &&[u8]) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Lease {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == other[..]
    }
}

impl Hash for Lease {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, .. } = self;
        let end = offset + self.len() as u64;
        f.debug_struct("Lease").field("range", &(*offset..end)).field("is_mapped", &self.is_mapped()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_what_it_promises_to_be() {
        fn promised<T: Send + Sync + Clone + RefUnwindSafe + AsRef<[u8]> + 'static>() {}
        promised::<Lease>();
        assert!(size_of::<Lease>() <= 48, "{}", size_of::<Lease>());
    }

    #[test]
    fn slices_of_copies_count_from_their_own_start() {
        let lease = Lease::new(RegionRef::copied(b"hello world".to_vec()), 100);
        let world = lease.slice(6..);
        let orl = world.slice(1..=3);
        assert_eq!((&orl[..], orl.offset()), (&b"orl"[..], 107));
        assert_eq!(lease.slice(11..), Lease::default());
    }

    #[test]
    #[should_panic(expected = "3..12 of a lease of 11 bytes")]
    fn a_slice_past_the_end_panics() {
        let _ = Lease::new(RegionRef::copied(b"hello world".to_vec()), 0).slice(3..12);
    }
}
