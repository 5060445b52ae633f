//! The files, what is known of them, and what may not be.

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
use crate::{CUT, LONGEST, NAMED, Plan, WINDOW};

pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) dir: PathBuf,
    pub(crate) maps: MapManager,
    pub(crate) named: Vec<Named>,
    pub(crate) cut: Vec<RwLock<Cut>>,
    #[cfg(feature = "fault-guard")]
    pub(crate) torn: Vec<Named>,
    /// Leases that any thread may take.
    pub(crate) post: Mutex<Vec<Kept>>,
    pub(crate) generations: AtomicU64,
    pub(crate) tally: Tally,
    pub(crate) stop: AtomicBool,
    pub(crate) failed: Mutex<Option<Failed>>,
}

/// A path, and the file that it leads to, which is never made shorter.
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    /// Held while the file is changed, so what it says is true whenever it can be had.
    pub(crate) now: Mutex<Now>,
}

/// The file at a path: the newest that was there, whether it is, and bytes that it has at least.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) generation: u64,
    pub(crate) is_there: bool,
    pub(crate) len: u64,
}

/// A file that is made shorter, and its one handle.
pub(crate) struct Cut {
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
            cut: Vec::new(),
            #[cfg(feature = "fault-guard")]
            torn: Vec::new(),
            post: Mutex::default(),
            generations: AtomicU64::new((plan.seed << 32) + 1),
            tally: Tally::default(),
            stop: AtomicBool::new(false),
            failed: Mutex::default(),
            dir,
        };
        let mut random = Random(plan.seed);
        for number in 0..NAMED {
            // Some of them lie in a directory of their own, which can be closed as one.
            let directory = world.dir.join(if number % 4 == 0 { "some" } else { "" });
            fs::create_dir_all(&directory)?;
            let path = directory.join(format!("named {number}"));
            let now = world.make(&path, random.within(8..LONGEST / 2))?;
            world.named.push(Named { path, now: Mutex::new(now) });
        }
        for number in 0..CUT {
            let path = world.dir.join(format!("cut {number}"));
            let Now { generation, len, .. } = world.make(&path, random.within(8..LONGEST))?;
            let file = world.maps.open(&path)?;
            world.cut.push(RwLock::new(Cut { path, file, content: Content::of(generation), len }));
        }
        #[cfg(feature = "fault-guard")]
        for number in 0..crate::torn::TORN {
            let now = Mutex::new(Now { generation: 0, is_there: false, len: 0 });
            let named = Named { path: world.dir.join(format!("torn {number}")), now };
            world.make_torn(&named, random.below(LONGEST))?;
            world.torn.push(named);
        }
        Ok(world)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generations.fetch_add(1, Relaxed)
    }

    /// Puts a new file of `len` bytes where `path` leads, all at once.
    pub(crate) fn make(&self, path: &Path, len: u64) -> io::Result<Now> {
        let generation = self.generation();
        let new = self.dir.join(format!("new {generation}"));
        fs::write(&new, bytes_of(generation, 0..len))?;
        fs::rename(&new, path)?;
        Ok(Now { generation, is_there: true, len })
    }

    pub(crate) fn fail(&self, failed: Failed) {
        // At once: what follows may be a signal.
        println!("soak: FAILED {failed}");
        unpoisoned(&self.failed).get_or_insert(failed);
        self.stop.store(true, Relaxed);
    }

    /// Each byte, against what has to be at `offset`.
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
            return Err(Failed(format!("{what}: {found:?} in place of {range:?}")));
        }
        self.check(what, content, range.start, lease)
    }
}

pub(crate) fn manager(builder: MapManagerBuilder) -> smmap::Result<MapManager> {
    // SAFETY: the files lie in a temporary directory of this run, and nobody else changes them. Named ones are appended
    // to, and replaced and deleted as a whole. One that is cut is written under its lock, which all that is read or held of
    // it is read and held under, and refreshed before the lock goes.
    unsafe { builder.build() }
}

/// What these locks protect is right at every moment, also where somebody panicked (and then the run has failed anyway).
pub(crate) fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What must not be.
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

/// What a step ended with: an error of the library, to be judged, or something that must not be.
pub(crate) enum Trouble {
    Refused(Error),
    Failed(Failed),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Refused(error)
    }
}

/// Also an error that came by way of a trait of `std::io`.
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
