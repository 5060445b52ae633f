//! [`Error`]: one type, which says what happened, to which file, in which range, and what to do.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{error, fmt, io};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed: [`kind`](Error::kind) for programs, `Display` for people.
///
/// The message names the file and the byte range where they are known, and says what to do where something can be done.
/// One word in size, so that `Result`s of it stay small.
///
/// ```
/// # use smmap::{ErrorKind, MapManager};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
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

/// What kind of failure an [`Error`] is.
///
/// ```
/// # use smmap::{ErrorKind, MapManager};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let file = maps.open("Cargo.toml")?;
/// let past = file.lease(file.len()..file.len() + 1).unwrap_err();
/// assert_eq!(past.kind(), ErrorKind::OutOfBounds);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The range is reversed, or reaches past the end of the file. Nothing was read.
    OutOfBounds,
    /// The file is shorter than it was when its length was last noticed. [`refresh`](crate::MappedFile::refresh) the
    /// handle.
    Truncated,
    /// The path now leads to another file, and the descriptor of the old one had been closed for `max_open_files`. Open
    /// the path again.
    Replaced,
    /// The budget has no room: everything in it is in use by clients, or the mapping is larger than the whole budget; or all
    /// of `max_open_files` are in use. Drop leases, release cursors, raise the limit, or allow overcommit.
    OverBudget,
    /// The system refused a mapping, also after everything unused was unmapped. Raise the limit that the message names, or
    /// lower `max_regions` or `max_mapped_bytes`.
    OutOfMaps,
    /// Not a regular file with a length of its own: a directory, a pipe, a socket, a device, or a file that is generated
    /// when it is read.
    NotAFile,
    /// A limit or a window of zero, or a budget too small for the smallest window.
    InvalidConfig,
    /// Anything else that the system reported; the [`source`](error::Error::source) is its error. Also for want of
    /// descriptors: raise the system's limit (`ulimit -n`), or lower `max_open_files`.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Details { kind, message: message.into(), path: None, range: None, source: None }))
    }

    /// An error of the system, during what `message` says.
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

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that it happened to: as it was opened, or by another name that is known; `None` if there is none, and for
    /// what is not about a file.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The bytes of the file that it was about: those asked for, or from the start of their window; `start > end` if that is
    /// what was wrong with them.
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

/// The kind that comes closest; the `Error` itself is inside ([`io::Error::get_ref`]), with path and range.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Io => error.0.source.as_ref().map_or(io::ErrorKind::Other, io::Error::kind),
            ErrorKind::OutOfBounds | ErrorKind::InvalidConfig | ErrorKind::NotAFile => io::ErrorKind::InvalidInput,
            ErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
            ErrorKind::OverBudget | ErrorKind::OutOfMaps => io::ErrorKind::OutOfMemory,
            ErrorKind::Replaced => io::ErrorKind::NotFound,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_word_and_crosses_threads() {
        fn crosses<T: Send + Sync + error::Error + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn it_names_the_file_and_the_range_and_keeps_its_source() {
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
