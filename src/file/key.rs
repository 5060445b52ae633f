//! [`FileKey`]: which file it is, by whatever name.

use std::time::SystemTime;

use crate::os::Stat;

/// A file's identity: that of the *opened* file, never of a path. The same through every name, link and descriptor.
///
/// Device and inode number; and the time of birth where the file system knows it, because inode numbers are given out
/// again as soon as nobody holds the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl From<&Stat> for FileKey {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.device, inode: stat.inode, born: stat.born }
    }
}
