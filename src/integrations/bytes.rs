//! Feature `bytes`: the conversion of a [`Lease`] to [`Bytes`].

use bytes::Bytes;

use crate::Lease;

/// Converts without copying: the `Bytes` own the lease, and their clones and slices share it.
///
/// # Examples
///
/// ```
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let lease = maps.open("Cargo.toml")?.lease(..9)?;
/// let address = lease.as_ptr();
/// let bytes = bytes::Bytes::from(lease);
/// assert_eq!((&bytes[1..8], bytes.as_ptr()), (&b"package"[..], address));
/// # Ok::<(), smmap::Error>(())
/// ```
impl From<Lease> for Bytes {
    fn from(lease: Lease) -> Self {
        Bytes::from_owner(lease)
    }
}
