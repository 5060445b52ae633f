//! The options that a manager is built with ([`Config`]), and the limits that may change later ([`Limits`]).

use std::sync::PoisonError;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Geometry;
use crate::os;
use crate::sync::{Mutex, MutexGuard};

/// The part of a file that one mapping covers.
///
/// The window is fixed when the manager is built. By default, it is the largest power of two of which the budget holds
/// four for each core that the process may use, but at least 64 KiB and at most 16 MiB. A sequential scan in windows of
/// 16 MiB takes a few per cent more processor time than one through a mapping of the whole file. Windows of 2 MiB take
/// an eighth more, and windows of 1 MiB more than twice as much.
///
/// Choose a window several times as large as the largest record, and a
/// [budget](Limits::max_mapped_bytes) that holds one window for each reading thread, all regions held by cursors and
/// leases, and a sixteenth more. Mapped bytes take address space. The memory behind them is the OS's page cache, which
/// the budget does not limit.
///
/// # Examples
///
/// ```
/// # use smmap::{MapManager, Window};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().window(Window::Sliding { bytes: 100_000 }).build()? };
/// assert!(maps.window_bytes().is_some_and(|bytes| bytes >= 100_000 && bytes % 4096 == 0));
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Aligned windows of one size, as in Python smmap's `SlidingWindowMapManager`.
    Sliding {
        /// Bytes of one window. Must not be 0. The manager rounds them up to a multiple of the mapping granularity (a
        /// page, or 64 KiB on Windows), and reduces them to `max_mapped_bytes` if they are more.
        bytes: u64,
    },
    /// One window for each file, as in Python smmap's `StaticWindowMapManager`.
    ///
    /// Of a file larger than the budget only the requested ranges are mapped. [`Admission`] does not apply: a small
    /// read maps the whole file if the budget can make room for it without waiting.
    WholeFile,
}

impl Default for Window {
    /// Returns the sliding windows of a manager with the [default budget](Limits::default).
    fn default() -> Self {
        Window::for_budget(Limits::default().max_mapped_bytes)
    }
}

/// The outcome of a call that must map while everything in the budget is in use.
///
/// It applies to calls that cannot copy instead, such as [`Cursor::window_at`](crate::Cursor::window_at),
/// [`MappedFile::windows`](crate::MappedFile::windows) and ranges of more than 256 KiB. A call that may copy neither
/// waits for the budget nor fails for it: it reads the file. The same rule applies to `max_open_files` when a call
/// needs a descriptor.
///
/// If threads are unmapping other regions at that moment, the call first waits for them, for about 20 ms at most.
///
/// A range larger than the *whole* budget is mapped under [`Allow`](Self::Allow), and fails at once with
/// [`OverBudget`](ErrorKind::OverBudget) otherwise. A window larger than the whole budget always fails: with
/// [`Window::WholeFile`] the file is larger, or [`set_limits`](crate::MapManager::set_limits) has lowered the budget
/// below one window. While the budget is below one sliding window, larger ranges fail as well.
///
/// # Examples
///
/// ```
/// # use smmap::{ErrorKind, MapManager, Overcommit, Window};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe {
///     let builder = MapManager::builder().window(Window::Sliding { bytes: 4096 }).max_regions(1);
///     builder.overcommit(Overcommit::Fail).build()?
/// };
/// let (first, second) = (maps.open("Cargo.toml")?, maps.open("README.md")?);
/// first.prefetch(..)?;
/// let lease = first.lease(0..10)?;
/// assert_eq!(second.cursor().window_at(0).unwrap_err().kind(), ErrorKind::OverBudget);
/// drop(lease);
/// assert!(second.cursor().window_at(0).is_ok());
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overcommit {
    /// Map beyond the budget, by as much as clients hold and other threads are mapping.
    /// [`Stats::overcommits`](crate::Stats::overcommits) counts these mappings.
    #[default]
    Allow,
    /// Fail with [`OverBudget`](ErrorKind::OverBudget).
    Fail,
    /// Retry for this long, sleeping 2 ms at most between two attempts. Then fail with
    /// [`OverBudget`](ErrorKind::OverBudget). A call waits this long once, whatever it needs: descriptor, window, or
    /// room for a large range.
    ///
    /// A thread that itself holds all of the budget waits in vain: drop leases and release cursors before such a call.
    Wait(Duration),
}

impl Overcommit {
    /// Returns the part of an error message that names the wait, or no text.
    pub(crate) fn after_wait(self) -> String {
        if let Self::Wait(time) = self { format!(", after a wait of {time:?}") } else { String::new() }
    }
}

/// The rule for mapping a window on a small read, of 256 KiB at most, that misses.
///
/// # Examples
///
/// ```
/// # use smmap::{Admission, MapManager};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().admission(Admission::Always).build()? };
/// maps.open("Cargo.toml")?.read_at(&mut [0; 4], 0)?;
/// assert_eq!(maps.stats().maps, 1);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Read small ranges from the file (`pread`) until a mapping of their window pays off. A mapping costs as much as a
    /// dozen small reads or more.
    ///
    /// If the budget has room, a window is mapped after about 8 recent accesses. The more accesses earlier mappings
    /// have served, the sooner a window of a file that fits the budget is mapped, at last on its first access. If the
    /// budget has no room, the window replaces an unused one that has less than half as many recent accesses. The
    /// window of a cursor that reads sequentially, or that usually reads many records of a window in a row, may replace
    /// a more frequently accessed one. Repeated reads of one window by one cursor count once in four.
    ///
    /// The counts outlive the handles of a file, in a table of fixed size. So a program that opens a file for each
    /// request reads from mappings as well.
    ///
    /// After a call that must map has found no room, a sixteenth of each limit stays free for such calls for a while. A
    /// limit of fewer than 16 windows or regions keeps none free.
    #[default]
    Adaptive,
    /// Map the window on its first access if the budget can make room for it without waiting. Any unused window may be
    /// evicted for it, also a more frequently accessed one. If no room can be made, the range is read from the file.
    Always,
}

/// The way in which the OS reads cold data, which is not in memory, for accesses to mapped windows.
///
/// It is set [for a manager](crate::MapManagerBuilder::advice) or [for a file](OpenOptions::advice). It does not affect
/// data in memory, nor what is [copied from the file](Admission): that is read as `pread` reads it.
///
/// By default, an OS reads far around each page of a mapping that a program accesses (on Linux as far as the disk's
/// `read_ahead_kb`, 128 KiB or more). `madvise` changes this for a mapping as a whole. `Random` and `Sequential` mean
/// what they mean in `memmap2::Advice`, with the differences named below. On Windows, no advice has an effect.
///
/// # Examples
///
/// ```
/// # use smmap::{Advice, MapManager, OpenOptions};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().advice(Advice::Random).build()? };
/// let index = maps.open("Cargo.lock")?;
/// let log = maps.open_with("src/lib.rs", &OpenOptions::new().advice(Advice::Sequential))?;
/// assert_eq!(index.lease(..4)?.len() + log.lease(..4)?.len(), 8);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advice {
    /// Decide for each window when it is mapped, by the reads that map it.
    ///
    /// - A window that small reads in no order have mapped is advised as `Random`. If a later reader makes several
    ///   contiguous reads in it, the cache reads ahead for that reader, and then the rest of the window.
    /// - A window that a sequential reader maps ([`MappedFile::windows`](crate::MappedFile::windows), or a cursor after
    ///   several contiguous reads) is read ahead, as with `Sequential`.
    /// - Other windows are read as the OS does by default.
    #[default]
    Adaptive,
    /// Read only the pages that are accessed, as `memmap2::Advice::Random` (`MADV_RANDOM`) does. The cache reads
    /// nothing ahead, except for [`prefetch`](crate::MappedFile::prefetch).
    ///
    /// For lookups in data much larger than memory. (Compare LMDB's `MDB_NORDAHEAD`, RocksDB's `advise_random_on_open`
    /// and Lucene's `ReadAdvice.RANDOM`.) A scan waits for the disk at each page.
    Random,
    /// Read all of a window from the disk after it was mapped, unless its end is in memory.
    ///
    /// On Linux, the OS reads windows of 4 MiB or more ahead of the reader, in parts of a few MiB, and the call that
    /// maps a shorter window waits for all of it. Other Unix systems read in the background. Unlike with
    /// `memmap2::Advice::Sequential` (`MADV_SEQUENTIAL`), the OS does not free pages sooner after they were accessed:
    /// readers share them.
    Sequential,
}

impl Advice {
    pub(crate) fn to_word(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_word(word: u32) -> Self {
        [Self::Adaptive, Self::Random, Self::Sequential].get(word as usize).copied().unwrap_or_default()
    }
}

/// The checks for changes of a file that is open: a new length, a deletion, or a replacement by rename.
///
/// [`MappedFile::refresh`](crate::MappedFile::refresh) and [`MappedFile::verify`](crate::MappedFile::verify) check the
/// file in any case. No check protects a reader whose bytes change while they are borrowed: see
/// [`MapManagerBuilder::build`](crate::MapManagerBuilder::build).
///
/// # Examples
///
/// ```
/// # use smmap::{MapManager, Revalidate};
/// # use std::io::Write;
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// # let mut log = std::fs::File::create(&path).unwrap();
/// # log.write_all(b"one").unwrap();
/// // SAFETY: the file of this example is only appended to.
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
    /// Check the length at each open and before each mapping, and check the names once a second.
    ///
    /// A window is mapped only if the file still reaches to its end. The collector unmaps the unused regions of files
    /// whose known paths no longer lead to them. Each open and each mapping costs one `stat` more, less than a tenth of
    /// either.
    #[default]
    AtOpen,
    /// Assume that files keep their length and their names, as immutable segments do.
    ///
    /// After a file was opened, the cache checks it again only if a caller asks for that (`refresh`, `verify`), and
    /// when it reopens a closed descriptor by a path: the path must still lead to the same file. If a file becomes
    /// shorter all the same, mapped reads past its end fault, where `AtOpen` would often have returned an error.
    Never,
}

/// The budget of a manager: the most that may be mapped and open at one time. No limit may be 0.
/// [`set_limits`](crate::MapManager::set_limits) changes it while the manager is in use.
///
/// # Examples
///
/// ```
/// # use smmap::Limits;
/// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
/// let limits = Limits { max_mapped_bytes: 64 << 20, ..maps.limits() };
/// maps.set_limits(limits)?;
/// assert_eq!(maps.limits(), limits);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Limits {
    /// The most bytes mapped at one time, counted in whole pages. A budget for sliding windows must hold one of them at
    /// least.
    pub max_mapped_bytes: u64,
    /// The most regions mapped at one time: windows, and the detached regions of large ranges.
    pub max_regions: usize,
    /// The most descriptors open at one time.
    ///
    /// A descriptor that this process could not reopen by a path stays open while a handle of its file exists. A read
    /// that may copy reopens its file beyond this limit rather than fail, whatever [`Overcommit`] is set to.
    pub max_open_files: usize,
}

impl Default for Limits {
    /// Returns limits that suit this process and machine.
    ///
    /// - `max_mapped_bytes`: 8 GiB (1 GiB on 32-bit systems), but at most half of the memory that this process may use.
    /// - `max_regions`: half of the OS's limit on mappings, or 32,768 where the OS has none.
    /// - `max_open_files`: half of the soft limit on descriptors, or 512 where the OS has none.
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
    /// Returns an error that names the first limit that is 0, if there is one.
    pub(crate) fn validate(&self) -> Result<()> {
        let name = match self {
            Self { max_mapped_bytes: 0, .. } => "max_mapped_bytes",
            Self { max_regions: 0, .. } => "max_regions",
            Self { max_open_files: 0, .. } => "max_open_files",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidConfig, format!("{name} is 0: set it to at least 1")))
    }
}

/// The options of a manager that do not change after it is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) geometry: Geometry,
    pub(crate) overcommit: Overcommit,
    pub(crate) admission: Admission,
    pub(crate) revalidate: Revalidate,
    pub(crate) advice: Advice,
    /// `false` if the manager has no collector thread, so that readers do its work.
    pub(crate) has_collector: bool,
}

/// The smallest and the largest default window, in bytes.
const DEFAULT_WINDOW: (u64, u64) = (64 << 10, 16 << 20);

/// The number of default windows that the budget holds for each core. Often more threads than cores hold a window, and
/// unused windows should stay mapped beside theirs.
const WINDOWS_PER_CORE: u64 = 4;

impl Window {
    /// Returns sliding windows that suit a budget and the number of cores that this process may use.
    pub(crate) fn for_budget(max_mapped_bytes: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Window::Sliding { bytes: default_window(max_mapped_bytes, cores as u64) }
    }

    /// Returns the division of files into windows. Their size is rounded up to the mapping granularity and then reduced
    /// to the budget.
    pub(crate) fn geometry(self, max_mapped_bytes: u64) -> Result<Geometry> {
        let bytes = match self {
            Window::WholeFile => return Ok(Geometry::whole_file()),
            Window::Sliding { bytes } => bytes,
        };
        if bytes == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "the window has 0 bytes: set it to at least 1"));
        }
        let granule = os::mapping_granularity() as u64;
        let budget = max_mapped_bytes / granule * granule;
        if budget == 0 {
            let message =
                format!("max_mapped_bytes is {max_mapped_bytes}: set it to at least one window of {granule} bytes");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let largest = budget.min(isize::MAX as u64 / granule * granule);
        Ok(Geometry::sliding(bytes.div_ceil(granule).saturating_mul(granule).min(largest)))
    }
}

/// Returns the largest power of two of which the budget holds [`WINDOWS_PER_CORE`] for each core, within the bounds of
/// [`DEFAULT_WINDOW`].
fn default_window(max_mapped_bytes: u64, cores: u64) -> u64 {
    let share = max_mapped_bytes / WINDOWS_PER_CORE.saturating_mul(cores).max(1);
    let power = share.checked_ilog2().map_or(1, |exponent| 1 << exponent);
    power.clamp(DEFAULT_WINDOW.0, DEFAULT_WINDOW.1)
}

/// The limits in force, as [`MapManager::limits`](crate::MapManager::limits) reports them.
///
/// Reservations compare with `Budget::limit` instead, so the lock delays no reader.
#[derive(Debug)]
pub(crate) struct LiveLimits(Mutex<Limits>);

impl LiveLimits {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Mutex::new(limits))
    }

    pub(crate) fn get(&self) -> Limits {
        *self.lock()
    }

    /// Replaces the limits, and calls `apply`, which sets those of the budgets. The lock orders concurrent changes, so
    /// the last change determines both.
    pub(crate) fn set(&self, limits: Limits, apply: impl FnOnce()) {
        let mut current = self.lock();
        *current = limits;
        apply();
    }

    fn lock(&self) -> MutexGuard<'_, Limits> {
        // Limits are replaced in one assignment, so those behind a poisoned lock are consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Options of one file, for [`MapManager::open_with`](crate::MapManager::open_with).
///
/// # Examples
///
/// ```
/// # use smmap::{MapManager, OpenOptions};
/// // SAFETY: no process changes or truncates the files of this example.
/// let maps = unsafe { MapManager::builder().max_open_files(1).build()? };
/// let database = maps.open_with("Cargo.toml", &OpenOptions::new().keep_descriptor(true))?;
/// let other = maps.open("src/lib.rs")?;
/// assert_eq!(maps.stats().open_files, 2);
/// # Ok::<(), smmap::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    pub(crate) keep_descriptor: bool,
    pub(crate) advice: Option<Advice>,
}

impl OpenOptions {
    /// Returns the options that [`MapManager::open`](crate::MapManager::open) uses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the descriptor open while any handle of the file lives, even beyond
    /// [`max_open_files`](Limits::max_open_files). By default the cache may close and reopen it.
    ///
    /// For files on which this process has POSIX record locks (`fcntl`), as databases do. When a process closes any
    /// descriptor of a file, the OS releases all its record locks on the file, without a notice. So the locks are
    /// released at the latest when the last handle is dropped. Open file description locks (`F_OFD_SETLK`) and `flock`
    /// do not have this property.
    #[must_use]
    pub fn keep_descriptor(mut self, keep: bool) -> Self {
        self.keep_descriptor = keep;
        self
    }

    /// Sets how the OS reads cold data of the file for accesses to mapped windows. By default, as set for the
    /// [manager](crate::MapManagerBuilder::advice). Windows that are mapped already keep their advice.
    ///
    /// # Examples
    ///
    /// ```
    /// # use smmap::{Advice, OpenOptions};
    /// # let maps = unsafe { smmap::MapManager::builder().build()? }; // SAFETY: no process changes the files.
    /// let file = maps.open_with("Cargo.toml", &OpenOptions::new().advice(Advice::Random))?;
    /// assert_eq!(&file.lease(..9)?[..], b"[package]");
    /// # Ok::<(), smmap::Error>(())
    /// ```
    #[must_use]
    pub fn advice(mut self, advice: Advice) -> Self {
        self.advice = Some(advice);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bytes: u64, budget: u64) -> Result<Option<u64>> {
        Ok(Window::Sliding { bytes }.geometry(budget)?.window_bytes())
    }

    #[test]
    fn sliding_window_rounds_up_to_the_granularity_and_shrinks_to_the_budget() {
        let granule = os::mapping_granularity() as u64;
        assert_eq!(window(1, 1 << 30).unwrap(), Some(granule));
        assert_eq!(window(granule + 1, 1 << 30).unwrap(), Some(2 * granule));
        assert_eq!(window(u64::MAX, 10 * granule + 1).unwrap(), Some(10 * granule));
        assert_eq!(window(1, granule).unwrap(), Some(granule));
    }

    #[test]
    fn default_window_is_a_power_of_two_near_the_budget_of_four_windows_per_core() {
        for (budget, cores, bytes) in [
            (8 << 30, 2, 16 << 20),
            (8 << 30, 128, 16 << 20),
            (8 << 30, 192, 8 << 20),
            (128 << 20, 1, 16 << 20),
            (128 << 20, 2, 16 << 20),
            (128 << 20, 3, 8 << 20),
            (128 << 20, 64, 512 << 10),
            (127 << 20, 64, 256 << 10),
            (1 << 20, 64, 64 << 10),
            (1, 1, 64 << 10),
            (u64::MAX, 1, 16 << 20),
            (u64::MAX, u64::MAX, 64 << 10),
            (1 << 30, 0, 16 << 20),
        ] {
            assert_eq!(default_window(budget, cores), bytes, "{budget} bytes, {cores} cores");
        }
    }

    #[test]
    fn window_or_limit_of_zero_is_refused_by_name() {
        assert_eq!(window(0, 1 << 30).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(window(1, 1).unwrap_err().kind(), ErrorKind::InvalidConfig);
        let none = Limits { max_mapped_bytes: 1 << 30, max_regions: 1, max_open_files: 0 };
        let error = none.validate().unwrap_err();
        assert!(error.to_string().contains("max_open_files"), "{error}");
    }

    #[test]
    fn default_limits_are_valid_and_at_most_8_gib() {
        let limits = Limits::default();
        limits.validate().unwrap();
        assert!(limits.max_mapped_bytes >= 1 << 20 && limits.max_mapped_bytes <= 8 << 30, "{limits:?}");
    }

    #[test]
    fn advice_survives_its_word() {
        for advice in [Advice::Adaptive, Advice::Random, Advice::Sequential] {
            assert_eq!(Advice::from_word(advice.to_word()), advice);
        }
        assert_eq!(Advice::from_word(u32::MAX), Advice::Adaptive);
    }

    #[test]
    fn live_limits_after_a_panic_in_apply_return_the_new_limits() {
        let (old, new) = (Limits::default(), Limits { max_regions: 7, ..Limits::default() });
        let live = LiveLimits::new(old);
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live.set(new, || panic!("apply"))));
        assert!(applied.is_err());
        assert_eq!(live.get(), new);
    }
}
