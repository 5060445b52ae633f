//! The files and the expectations about them.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::{array, fmt};

use smmap::{Error, Lease, MapManager, MapManagerBuilder, MappedFile, Window};

use crate::content::{Content, Random, bytes_of};
use crate::worker::STEPS;
use crate::{LOCKED, LONGEST, NAMED, Plan, WINDOW};

pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) dir: PathBuf,
    pub(crate) maps: MapManager,
    pub(crate) named: Vec<Named>,
    pub(crate) locked: Vec<RwLock<Locked>>,
    #[cfg(all(unix, feature = "fault-guard"))]
    pub(crate) racing: Vec<Named>,
    /// The exchange: leases that any thread may take.
    pub(crate) exchange: Mutex<Vec<Kept>>,
    pub(crate) generations: AtomicU64,
    pub(crate) tally: Tally,
    pub(crate) stop: AtomicBool,
    pub(crate) failed: Mutex<Option<Failed>>,
}

/// A path, and the state of the file at it. A named file is never truncated.
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    /// The state of the file. The lock is held while the file is changed, so the state is true whenever the lock is
    /// free.
    pub(crate) now: Mutex<Now>,
}

/// The state of the file at a path: the newest generation, whether it still exists, and its least length.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) generation: u64,
    pub(crate) is_there: bool,
    pub(crate) len: u64,
}

/// A file that is truncated under a lock, and its only handle.
pub(crate) struct Locked {
    pub(crate) path: PathBuf,
    pub(crate) file: MappedFile,
    pub(crate) content: Content,
    pub(crate) len: u64,
}

pub(crate) struct Kept {
    pub(crate) content: Content,
    pub(crate) lease: Lease,
}

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, dir: PathBuf) -> Result<Self, Failed> {
        let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).limits(plan.limits());
        let mut world = Self {
            plan,
            maps: manager(builder.overcommit(plan.overcommit()))?,
            named: Vec::new(),
            locked: Vec::new(),
            #[cfg(all(unix, feature = "fault-guard"))]
            racing: Vec::new(),
            exchange: Mutex::default(),
            generations: AtomicU64::new((plan.seed << 32) + 1),
            tally: Tally::default(),
            stop: AtomicBool::new(false),
            failed: Mutex::default(),
            dir,
        };
        let mut random = Random(plan.seed);
        for number in 0..NAMED {
            // Some files lie in a directory of their own, so that one `close` covers all of them.
            let directory = world.dir.join(if number % 4 == 0 { "some" } else { "" });
            fs::create_dir_all(&directory)?;
            let path = directory.join(format!("named {number}"));
            let now = world.make(&path, random.within(8..LONGEST / 2))?;
            world.named.push(Named { path, now: Mutex::new(now) });
        }
        for number in 0..LOCKED {
            let path = world.dir.join(format!("locked {number}"));
            let Now { generation, len, .. } = world.make(&path, random.within(8..LONGEST))?;
            let file = world.maps.open(&path)?;
            world.locked.push(RwLock::new(Locked { path, file, content: Content::of(generation), len }));
        }
        #[cfg(all(unix, feature = "fault-guard"))]
        for number in 0..crate::racing::RACING {
            let now = Mutex::new(Now { generation: 0, is_there: false, len: 0 });
            let named = Named { path: world.dir.join(format!("racing {number}")), now };
            world.make_racing(&named, random.below(LONGEST))?;
            world.racing.push(named);
        }
        Ok(world)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generations.fetch_add(1, Relaxed)
    }

    /// Replaces the file at `path` by a new one of `len` bytes, in one step.
    pub(crate) fn make(&self, path: &Path, len: u64) -> io::Result<Now> {
        let generation = self.generation();
        let new = self.dir.join(format!("new {generation}"));
        fs::write(&new, bytes_of(generation, 0..len))?;
        fs::rename(&new, path)?;
        Ok(Now { generation, is_there: true, len })
    }

    pub(crate) fn fail(&self, failed: Failed) {
        // Print at once: the process may be killed by a signal next.
        println!("soak: FAILED {failed}");
        unpoisoned(&self.failed).get_or_insert(failed);
        self.stop.store(true, Relaxed);
    }

    /// Compares each byte with the content at `offset`.
    pub(crate) fn check(&self, what: &str, content: &Content, offset: u64, bytes: &[u8]) -> Result<(), Failed> {
        self.tally.bytes.fetch_add(bytes.len() as u64, Relaxed);
        match content.first_wrong(offset, bytes) {
            None => Ok(()),
            Some(wrong) => {
                let found = &bytes[wrong.saturating_sub(offset) as usize..];
                let found = &found[..found.len().min(16)];
                let end = offset + bytes.len() as u64;
                let parts = &content.parts;
                Err(Failed(format!("{what}: wrong bytes at {wrong} of {offset}..{end}: {found:x?}; of {parts:x?}")))
            }
        }
    }

    pub(crate) fn check_lease(
        &self,
        what: &str,
        content: &Content,
        range: Range<u64>,
        lease: &Lease,
    ) -> Result<(), Failed> {
        let found = lease.offset()..lease.offset() + lease.len() as u64;
        if found != range {
            return Err(Failed(format!("{what}: range {found:?}, expected {range:?}")));
        }
        self.check(what, content, range.start, lease)
    }
}

pub(crate) fn manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the files lie in a temporary directory of this run, and no other process changes them. Named files are
    // only appended to, replaced and deleted. A locked file is truncated under the write lock, and refreshed before the
    // lock is released; every read, and everything that holds a mapping of the file, ends before its read lock is
    // released. Racing files break the promise on purpose: the fault guard turns a read past the end into zeros, and a
    // worker uses no bytes before `check` has confirmed them.
    unsafe { builder.build() }
}

/// Locks the mutex, also after a panic. The protected values are consistent at every moment, and a panic fails the run
/// anyway.
pub(crate) fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A violated expectation.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// The error of a step: an error of the library, which may be expected, or a violated expectation.
pub(crate) enum Trouble {
    Refused(Error),
    Failed(Failed),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Refused(error)
    }
}

/// Recovers an error of the library that came through a trait of `std::io`.
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        error.downcast().map_or_else(|error| Trouble::Failed(error.into()), Trouble::Refused)
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Trouble::Failed(failed)
    }
}

pub(crate) struct Tally {
    pub(crate) steps: [AtomicU64; STEPS.len()],
    pub(crate) bytes: AtomicU64,
    pub(crate) over_budget: AtomicU64,
    pub(crate) replaced: AtomicU64,
    pub(crate) not_found: AtomicU64,
    pub(crate) out_of_bounds: AtomicU64,
    pub(crate) truncated: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        let steps = array::from_fn(|_| AtomicU64::new(0));
        let none = || AtomicU64::new(0);
        let (over_budget, replaced, not_found, out_of_bounds) = (none(), none(), none(), none());
        Self { steps, bytes: none(), over_budget, replaced, not_found, out_of_bounds, truncated: none() }
    }
}

impl Tally {
    pub(crate) fn steps(&self) -> u64 {
        self.steps.iter().map(|count| count.load(Relaxed)).sum()
    }

    pub(crate) fn errors(&self) -> [(&'static str, u64); 5] {
        [
            ("OverBudget", self.over_budget.load(Relaxed)),
            ("Replaced, or its path gone", self.replaced.load(Relaxed)),
            ("NotFound, when opened", self.not_found.load(Relaxed)),
            ("OutOfBounds, asked for", self.out_of_bounds.load(Relaxed)),
            ("Truncated, with fault-guard", self.truncated.load(Relaxed)),
        ]
    }
}
