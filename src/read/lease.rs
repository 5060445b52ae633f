//! [`Lease`]: bytes of a file that are owned.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range, RangeBounds};
use std::panic::{RefUnwindSafe, UnwindSafe};

use super::need;
use crate::cache::Acquired;
use crate::cache::region::{Region, RegionRef};
use crate::error::Result;
use crate::file::MappedFile;
use crate::geometry;
use crate::policy::Access;
use crate::protocol::slot::Slot;

/// Owned bytes of a file.
///
/// The bytes stay valid, at the same address, until the lease is dropped, even if the manager and all handles of the
/// file are dropped, or the file is renamed or deleted. A lease is `'static`. It can be sent, shared, cloned and
/// [sliced](Self::slice) without a copy of the bytes.
///
/// A lease keeps its whole region mapped, and so takes room in the budget; copy a few bytes out if you keep them for
/// long. A lease of a small range may hold a copy instead (see [`is_mapped`](Self::is_mapped)), which is outside the
/// budget. Taking, cloning, slicing and dropping a lease of a mapped window each cost one atomic write to a word that
/// all clients of the window share.
///
/// # Examples
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: no process changes or truncates the files of this example.
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

    /// Returns a lease of the bytes at `range`, which counts from the first byte of this lease. Nothing is copied. Both
    /// leases keep the region mapped; an empty slice keeps none.
    ///
    /// # Panics
    ///
    /// Panics if `range` is reversed or reaches past the end of the lease.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
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

    /// Returns the offset of the first byte in the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// assert_eq!(maps.open("Cargo.toml")?.lease(3..9)?.slice(2..).offset(), 5);
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns `true` if the lease holds a mapping, or `false` if it holds a copy or no bytes. [`MappedFile::lease`]
    /// says when it copies.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// assert!(!file.lease(0..9)?.is_mapped(), "a small range of an unmapped window is copied");
    /// file.prefetch(..)?;
    /// assert!(file.lease(0..9)?.is_mapped() && !file.lease(9..9)?.is_mapped());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn is_mapped(&self) -> bool {
        self.bytes.region().is_some()
    }

    /// Checks that the file had all bytes of the lease. Call it after reading them, if other processes may truncate the
    /// file. O(1), with one system call; ranges that could not be loaded are read from the file.
    ///
    /// The check compares the end of the lease with the current length of the file, except with
    /// [`Revalidate::Never`](crate::Revalidate::Never). If `fault_guard` is installed, it also compares the ranges that
    /// readers could not load, and that read as zeros, with the file. Without the guard, reading truncated bytes ends
    /// the process. A lease that holds a copy always passes.
    ///
    /// The file cannot be checked after the manager is gone, or if the descriptor was closed and the path leads
    /// elsewhere. The call then fails only if bytes may be missing: readers could not load a range, or, with the guard,
    /// the bytes end in zeros up to the end of a page.
    ///
    /// # Errors
    ///
    /// - [`Truncated`](crate::ErrorKind::Truncated) if the file ends, or ended, before the lease does, or if bytes may
    ///   be missing and the manager is gone.
    /// - [`Io`](crate::ErrorKind::Io) if the medium failed, or if bytes may be missing and the file cannot be opened.
    /// - [`Replaced`](crate::ErrorKind::Replaced) if bytes may be missing and the path leads to another file.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let lease = maps.open("Cargo.toml")?.lease(..)?;
    /// let sum: u64 = lease.iter().map(|&byte| u64::from(byte)).sum();
    /// lease.check()?; // `sum` is the sum of bytes of the file.
    /// # Ok::<(), smmap::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        match self.bytes.region() {
            Some(region) => region.validate(self.offset, self),
            None => Ok(()),
        }
    }

    pub(super) fn region(&self) -> Option<&Region> {
        self.bytes.region()
    }
}

impl MappedFile {
    /// Returns the bytes of `range` as a [`Lease`].
    ///
    /// A range of at most 256 KiB is copied in three cases: it crosses windows; its window is not mapped and
    /// [`Admission`](crate::Admission) does not find that a mapping pays off; or its window cannot be mapped at once. A
    /// larger range is always mapped. If it crosses windows, each call maps it again as a detached region.
    ///
    /// A hit is a lookup in the file's table of windows and one shared write. It takes no lock, allocates nothing and
    /// makes no system call.
    ///
    /// # Errors
    ///
    /// - [`OutOfBounds`](crate::ErrorKind::OutOfBounds) if `range` is reversed or reaches past the end of the file.
    /// - [`Unmappable`](crate::ErrorKind::Unmappable) if the OS does not map the file, and the range is longer than a
    ///   window and too long for a copy outside the budget (256 KiB).
    /// - Those of [`Cursor::window_at`](crate::Cursor::window_at). `OverBudget` and `OutOfMaps` are possible only for
    ///   more than 256 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open("Cargo.toml")?;
    /// assert_eq!(&file.lease(1..=7)?[..], b"package");
    /// assert_eq!(file.lease(..)?.len() as u64, file.len());
    /// assert!(file.lease(file.len()..)?.is_empty());
    /// # Ok::<(), smmap::Error>(())
    /// ```
    // Inlined always: a lease that is returned through memory and dropped soon costs half as much again.
    #[inline(always)]
    pub fn lease(&self, range: impl RangeBounds<u64>) -> Result<Lease> {
        let range = self.resolve(&range)?;
        if range.is_empty() {
            return Ok(Lease::empty(range.start));
        }
        let (window, start) = self.geometry().locate(range.start);
        let (at, len) = (range.start - start, range.end - range.start);
        let slot = match self.cache().lookup(self.cached(), window, at, len, Access::Counted) {
            Ok(bytes) => return Ok(Lease::new(bytes, range.start)),
            Err(slot) => slot,
        };
        let offset = range.start;
        // The slow path does not return a `Lease`, so that the one of the fast path stays in registers.
        Ok(Lease::new(self.lease_acquired(range, slot)?, offset))
    }

    #[cold]
    fn lease_acquired(&self, range: Range<u64>, slot: Option<&Slot<Region>>) -> Result<RegionRef> {
        let need = need(&range, Access::Counted);
        match self.acquire(slot, &range, need)? {
            Acquired::Region { region, start, .. } => {
                region.expect(start, need.pattern());
                Ok(region.narrow((range.start - start) as usize..(range.end - start) as usize))
            }
            Acquired::ReadFile => {
                let mut bytes = Vec::new();
                self.copy_into(range, &mut bytes)?;
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

/// Returns an empty lease at offset 0.
impl Default for Lease {
    fn default() -> Self {
        Self::empty(0)
    }
}

// The bytes never change, and a panic cannot leave a count that the drop does not undo.
impl UnwindSafe for Lease {}
impl RefUnwindSafe for Lease {}

/// Compares the bytes only, not the file or the offset. The other comparisons and the hash do the same.
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
    fn lease_has_the_promised_traits_and_size() {
        fn promised<T: Send + Sync + Clone + RefUnwindSafe + AsRef<[u8]> + 'static>() {}
        promised::<Lease>();
        assert!(size_of::<Lease>() <= 48, "{}", size_of::<Lease>());
    }

    #[test]
    fn slice_of_a_copy_has_the_right_offset() {
        let lease = Lease::new(RegionRef::copied(b"hello world".to_vec()), 100);
        let world = lease.slice(6..);
        let orl = world.slice(1..=3);
        assert_eq!((&orl[..], orl.offset()), (&b"orl"[..], 107));
        assert_eq!(lease.slice(11..), Lease::default());
    }

    #[test]
    #[should_panic(expected = "cannot slice 3..12 of a lease of 11 bytes")]
    fn slice_past_the_end_panics() {
        let _ = Lease::new(RegionRef::copied(b"hello world".to_vec()), 0).slice(3..12);
    }
}
