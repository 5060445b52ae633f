//! What is fixed when a manager is built ([`Config`]), and what may change while it runs ([`Limits`]).

use std::sync::PoisonError;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Geometry;
use crate::os;
use crate::sync::{Mutex, MutexGuard};

/// How much of a file one mapping covers. Fixed when the manager is built.
///
/// ```
/// # use smmap::{MapManager, Window};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 100_000 }).build()? };
/// assert!(maps.window_bytes().is_some_and(|bytes| bytes >= 100_000 && bytes % 4096 == 0));
/// # Ok::<(), smmap::Error>(())
/// ```
///
/// How large: several times the largest record. The budget should hold one window for each thread that reads, all that cursors
/// and leases hold, and a sixteenth more. It limits what is mapped, which is address space; the pages behind it belong to the
/// system's page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Aligned windows of so many bytes, rounded up to the system's mapping granularity (the page; 64 KiB on Windows).
    /// Python smmap's `SlidingWindowMapManager`.
    Sliding {
        /// Bytes of one window. More than zero.
        bytes: u64,
    },
    /// Each file is one window. Python smmap's `StaticWindowMapManager`. For files that fit the budget; of larger ones only
    /// ranges are mapped. [`Admission`] does not apply: any small read maps the whole file if it can.
    WholeFile,
}

impl Default for Window {
    /// 16 MiB on 64 bit, 4 MiB on 32 bit.
    ///
    /// By measurement: a scan of 1 GiB, all mapped anew, took this much of the processor's time of one through a map of the
    /// whole file: 2.27 in windows of 1 MiB, which no large page fits into; 1.13 in 2 MiB, 1.08 in 4, 1.06 in 8, 1.03 in 16,
    /// 0.99 in 32; and under a budget of 64 MiB 2.52, 1.24, 1.12, 1.06, 1.03, 0.99 (medians by round of 21; 2026-11-21, Linux
    /// 6.18, ext4, large folios, 2 cores of a virtual machine).
    fn default() -> Self {
        Window::Sliding { bytes: if cfg!(target_pointer_width = "64") { 16 << 20 } else { 4 << 20 } }
    }
}

/// What happens when a window has to be mapped and everything in the budget is in use.
///
/// It applies to calls that always map ([`Cursor::window_at`](crate::Cursor::window_at),
/// [`MappedFile::windows`](crate::MappedFile::windows), large ranges, …). What may copy never waits and never fails for the
/// budget: it reads. It applies to descriptors as well, in calls that need one and cannot do without. Whatever is chosen, a
/// mapping larger than the *whole* budget is refused with [`OverBudget`](ErrorKind::OverBudget).
///
/// ```
/// # use smmap::{ErrorKind, MapManager, Overcommit, Window};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe {
///     MapManager::builder().window(Window::Sliding { bytes: 4096 }).max_regions(1).overcommit(Overcommit::Fail).build()?
/// };
/// let (this, other) = (maps.open("Cargo.toml")?, maps.open("README.md")?);
/// this.prefetch(..)?;
/// let held = this.lease(0..10)?;
/// assert_eq!(other.cursor().window_at(0).unwrap_err().kind(), ErrorKind::OverBudget);
/// drop(held);
/// assert!(other.cursor().window_at(0).is_ok());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overcommit {
    /// Map all the same. The budget is exceeded by what is pinned and in flight, and [`Stats`](crate::Stats) shows it. What
    /// other threads are just unmapping is waited for first, for 20 ms at most.
    #[default]
    Allow,
    /// Fail with [`OverBudget`](ErrorKind::OverBudget).
    Fail,
    /// Look again, every 2 ms at least, for so long, then fail as [`Fail`](Self::Fail) does. A thread that waits for what
    /// it holds itself waits in vain: let go of leases first.
    Wait(Duration),
}

/// Whether a cold small read is worth a mapping.
///
/// ```
/// # use smmap::{Admission, MapManager};
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().admission(Admission::Always).build()? };
/// maps.open("Cargo.toml")?.read_at(&mut [0; 4], 0)?;
/// assert_eq!(maps.stats().maps, 1);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Small ranges (of 256 KiB at most) are read (`pread`) until it pays off to map their window, since a mapping costs as
    /// much as a dozen small reads or more.
    ///
    /// With room in the budget, that is when the window was touched 8 times lately. (After a call that must map has found no
    /// room, a sixteenth of each limit is kept for those for a while, of budgets of 16 windows or more.) Without room, it has to
    /// be touched 32 times more than the one that would have to go for it; or a cursor reads on and on in it, or stays for long.
    /// Of what a cursor reads of a window without leaving it, each fourth read counts at most.
    #[default]
    Adaptive,
    /// A touch maps its window if that can be had at once, also in the place of a hotter one that nobody uses; else small
    /// ranges are read all the same.
    Always,
}

/// Whether a file that is open is looked at again: whether it has become longer, shorter, or another.
///
/// [`MappedFile::refresh`](crate::MappedFile::refresh) looks at it in any case. For bytes that change under a reader, neither
/// helps: see [`MapManagerBuilder::build`](crate::MapManagerBuilder::build).
///
/// ```
/// # use smmap::{MapManager, Revalidate};
/// # use std::io::Write;
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// # let mut log = std::fs::File::create(&path).unwrap();
/// # log.write_all(b"one").unwrap();
/// // SAFETY: the files of this example are only appended to.
/// let maps = unsafe { MapManager::builder().revalidate(Revalidate::Never).build()? };
/// let file = maps.open(&path)?;
/// log.write_all(b" two").unwrap();
/// assert_eq!(maps.open(&path)?.len(), 3);
/// file.refresh()?;
/// assert_eq!(file.len(), 7);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revalidate {
    /// Each open of a file that is known takes notice of a new length; a window is not mapped without a look whether the file
    /// still reaches so far; and the collector looks each second whether files still have their names, to unmap what is
    /// unused of those that do not. It costs a `stat` for each open and each map: less than a tenth of either.
    #[default]
    AtOpen,
    /// Files keep their length and their names, as immutable segments do. After it was opened, nobody asks the system about a
    /// file again, but to make sure that a path by which it is reopened leads to the same one. If a file becomes shorter all
    /// the same, mapped reads past its end fault, where `AtOpen` would often have given an error instead.
    Never,
}

/// The budget: what may be mapped and open at once. May be changed while the cache runs, by
/// [`set_limits`](crate::MapManager::set_limits).
///
/// ```
/// # use smmap::MapManager;
/// // SAFETY: nobody changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().build()? };
/// let mut limits = maps.limits();
/// limits.max_mapped_bytes = 64 << 20;
/// maps.set_limits(limits)?;
/// assert_eq!(maps.limits(), limits);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Limits {
    /// Bytes that may be mapped at once, counted in whole pages.
    pub max_mapped_bytes: u64,
    /// Regions (mapped windows, and mappings of their own for large ranges) that may exist at once.
    pub max_regions: usize,
    /// Descriptors that may be open at once. A descriptor that could not be reopened by its path is never given up while
    /// a handle may need it. A read that may copy reopens its file beyond this limit rather than fail, whatever
    /// [`Overcommit`] says.
    pub max_open_files: usize,
}

impl Default for Limits {
    /// What suits this machine: 8 GiB (1 GiB on 32 bit), but no more than half the memory that this process may use; half
    /// of the system's limit on mappings; half of the soft limit on descriptors.
    fn default() -> Self {
        let bytes: u64 = if cfg!(target_pointer_width = "64") { 8 << 30 } else { 1 << 30 };
        Self {
            max_mapped_bytes: os::memory_limit().map_or(bytes, |memory| bytes.min(memory / 2)),
            max_regions: os::map_limit().map_or(32_768, |maps| (maps / 2).max(1)),
            max_open_files: os::descriptor_limit().map_or(512, |descriptors| (descriptors / 2).max(1)),
        }
    }
}

impl Limits {
    pub(crate) fn validate(&self) -> Result<()> {
        let zero = [
            (self.max_mapped_bytes == 0, "max_mapped_bytes"),
            (self.max_regions == 0, "max_regions"),
            (self.max_open_files == 0, "max_open_files"),
        ];
        match zero.iter().find(|(is_zero, _)| *is_zero) {
            Some((_, name)) => {
                Err(Error::new(ErrorKind::InvalidConfig, format!("{name} is 0: it has to be at least 1")))
            }
            None => Ok(()),
        }
    }
}

/// What a manager was built with, and keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) geometry: Geometry,
    pub(crate) overcommit: Overcommit,
    pub(crate) admission: Admission,
    pub(crate) revalidate: Revalidate,
}

impl Window {
    /// Where the windows of a file lie. One larger than the budget shrinks to it; a budget below the smallest possible
    /// window is an error.
    pub(crate) fn geometry(self, max_mapped_bytes: u64) -> Result<Geometry> {
        let bytes = match self {
            Window::WholeFile => return Ok(Geometry::whole_file()),
            Window::Sliding { bytes } => bytes,
        };
        if bytes == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "a window of 0 bytes: it has to be at least 1"));
        }
        let granule = os::mapping_granularity() as u64;
        let budget = max_mapped_bytes / granule * granule;
        if budget == 0 {
            let message = format!(
                "max_mapped_bytes is {max_mapped_bytes}: it has to hold at least one window of {granule} bytes"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let largest = budget.min(isize::MAX as u64 / granule * granule);
        Ok(Geometry::sliding(bytes.div_ceil(granule).saturating_mul(granule).min(largest)))
    }
}

/// The limits in force, as [`MapManager::limits`](crate::MapManager::limits) reports them.
///
/// No budget decision reads them here: reservations compare with `Budget::limit`, so a lock costs no reader anything.
#[derive(Debug)]
pub(crate) struct LiveLimits(Mutex<Limits>);

impl LiveLimits {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Mutex::new(limits))
    }

    pub(crate) fn get(&self) -> Limits {
        *self.lock()
    }

    /// Replaces the limits, then runs `apply` under the same lock.
    ///
    /// `apply` sets the limits of the budgets. The lock orders concurrent changes, so that `get` and the budgets agree
    /// once the last change has returned.
    pub(crate) fn set(&self, limits: Limits, apply: impl FnOnce()) {
        let mut current = self.lock();
        *current = limits;
        apply();
    }

    /// Locks the limits, also after a panic of another thread: `Limits` is `Copy` and always whole.
    fn lock(&self) -> MutexGuard<'_, Limits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bytes: u64, budget: u64) -> Result<Option<u64>> {
        Ok(Window::Sliding { bytes }.geometry(budget)?.window_bytes())
    }

    #[test]
    fn windows_round_up_and_shrink_to_the_budget() {
        let granule = os::mapping_granularity() as u64;
        assert_eq!(window(1, 1 << 30).unwrap(), Some(granule));
        assert_eq!(window(granule + 1, 1 << 30).unwrap(), Some(2 * granule));
        assert_eq!(window(u64::MAX, 10 * granule + 1).unwrap(), Some(10 * granule));
        assert_eq!(window(1, granule).unwrap(), Some(granule));
    }

    #[test]
    fn zeros_are_refused_by_name() {
        assert_eq!(window(0, 1 << 30).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(window(1, 1).unwrap_err().kind(), ErrorKind::InvalidConfig);
        let none = Limits { max_mapped_bytes: 1 << 30, max_regions: 1, max_open_files: 0 };
        let error = none.validate().unwrap_err();
        assert!(error.to_string().contains("max_open_files"), "{error}");
    }

    #[test]
    fn defaults_are_sensible_here() {
        let limits = Limits::default();
        limits.validate().unwrap();
        assert!(limits.max_mapped_bytes >= 1 << 20 && limits.max_mapped_bytes <= 8 << 30, "{limits:?}");
    }
}
