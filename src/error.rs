//! [`Error`]: the error type of the crate, with the kind of failure, the file, the byte range and a hint.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{error, fmt, io};

/// A [`Result`](std::result::Result) with the [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a call failed: [`kind`](Error::kind) for programs, `Display` for people.
///
/// The message names the file and the byte range if they are known, and the remedy if there is one. The error that the
/// OS reported is at the end of the message, and is the [`source`](error::Error::source). An `Error` is one word in
/// size. It converts to [`io::Error`].
///
/// # Examples
///
/// ```
/// # use smmap::ErrorKind;
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let error = maps.open("/no/such/file").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Io);
/// assert!(error.to_string().contains("/no/such/file"));
/// let error: std::io::Error = error.into();
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// # Ok::<(), smmap::Error>(())
/// ```
pub struct Error(Box<Details>);

struct Details {
    kind: ErrorKind,
    message: Cow<'static, str>,
    path: Option<PathBuf>,
    range: Option<Range<u64>>,
    source: Option<io::Error>,
}

/// The kind of failure of an [`Error`], for programs to match on.
///
/// # Examples
///
/// ```
/// # use smmap::ErrorKind;
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let file = maps.open("Cargo.toml")?;
/// let past = file.lease(file.len()..file.len() + 1).unwrap_err();
/// assert_eq!(past.kind(), ErrorKind::OutOfBounds);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The requested range is reversed, or reaches past the end of the file. Nothing was read.
    OutOfBounds,
    /// The file is shorter than the length that its handles know, or was at the time of a read. Call
    /// [`refresh`](crate::MappedFile::refresh), and read no borrowed or leased bytes beyond the new end.
    Truncated,
    /// The file's descriptor was closed to stay within `max_open_files`, and cannot be reopened: its path now leads to
    /// another file, or no path of it is known. Open the file again, or raise `max_open_files`.
    Replaced,
    /// The budget has no room: clients use all regions or all descriptors in it, or the mapping is larger than the
    /// whole budget. Drop leases, release cursors, raise the limit, or allow [overcommit](crate::Overcommit).
    OverBudget,
    /// The OS refused a mapping even after all unused regions were unmapped. Raise the limit that the message names, or
    /// lower `max_regions` or `max_mapped_bytes`.
    OutOfMaps,
    /// The OS does not map this file, and the range is too long for a copy: longer than one window. The
    /// [`source`](error::Error::source) is the error of the OS, if there is one. Ask for shorter ranges, or read the
    /// file with [`read_at`](crate::MappedFile::read_at).
    Unmappable,
    /// The path leads to something other than a regular file with a length or, on Linux, a block device: a directory, a
    /// pipe, a socket, a character device, or a file that is generated while it is read, as in `/proc`.
    NotAFile,
    /// A limit or the window size is 0, or the budget is smaller than the smallest window.
    InvalidConfig,
    /// Any other failure that the OS reported, which is the [`source`](error::Error::source). If descriptors are short,
    /// raise the limit of the process (`ulimit -n`), or lower `max_open_files`.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Details { kind, message: message.into(), path: None, range: None, source: None }))
    }

    pub(crate) fn io(message: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::new(ErrorKind::Io, message).because(source)
    }

    pub(crate) fn because(mut self, source: io::Error) -> Self {
        self.0.source = Some(source);
        self
    }

    pub(crate) fn at(mut self, path: Option<&Path>) -> Self {
        self.0.path = path.map(Path::to_path_buf);
        self
    }

    pub(crate) fn within(mut self, range: Range<u64>) -> Self {
        self.0.range = Some(range);
        self
    }

    /// Returns the kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the path of the file that the call failed on: the one that it was opened by, or another known path.
    /// Returns `None` if the file has no known path, or if the failure concerns no file.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the byte range of the file that the call failed on, if the failure concerns one: the requested range,
    /// which may be reversed, or a range from the start of the window.
    pub fn range(&self) -> Option<Range<u64>> {
        self.0.range.clone()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { message, path, range, source, .. } = &*self.0;
        if let Some(path) = path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(range) = range {
            write!(f, "bytes {}..{}: ", range.start, range.end)?;
        }
        f.write_str(message)?;
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { kind, message, path, range, source } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("message", message)
            .field("path", path)
            .field("range", range)
            .field("source", source)
            .finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// Converts to the closest [`io::ErrorKind`]. The [`Error`] itself, with path and range, is available by
/// [`io::Error::get_ref`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Io => error.0.source.as_ref().map_or(io::ErrorKind::Other, io::Error::kind),
            ErrorKind::OutOfBounds | ErrorKind::InvalidConfig | ErrorKind::NotAFile => io::ErrorKind::InvalidInput,
            ErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
            ErrorKind::OverBudget | ErrorKind::OutOfMaps => io::ErrorKind::OutOfMemory,
            ErrorKind::Replaced => io::ErrorKind::NotFound,
            ErrorKind::Unmappable => io::ErrorKind::Unsupported,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_word_and_can_be_sent_to_other_threads() {
        fn requires_send_and_sync<T: Send + Sync + error::Error + 'static>() {}
        requires_send_and_sync::<Error>();
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn error_of_the_os_shows_path_and_range_and_keeps_its_source() {
        let error = Error::io("cannot map", io::Error::from(io::ErrorKind::PermissionDenied))
            .at(Some(Path::new("a/b")))
            .within(3..9);
        assert_eq!(error.to_string(), "a/b: bytes 3..9: cannot map: permission denied");
        assert!(error::Error::source(&error).is_some());
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Error>()));
    }
}
