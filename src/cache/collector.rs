//! [`Collector`]: the thread in the background. The only place that spawns a thread.
//!
//! Where readers had to evict lately, it keeps some room free below the limits, so that they seldom have to; it unmaps in
//! small batches; it tries again what the system refused; and every second it looks after files that nobody can reach any
//! more, whose unused regions go. It holds the cache weakly: when the last handle goes, it is told to stop, and joined.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Cache, CachedFile};
use crate::config::Revalidate;
use crate::fault_guard;
use crate::os::{self, Process};
use crate::protocol::wake_event::{WakeEvent, Woken};
use crate::sync::epoch;
use crate::sync::thread::{self, JoinHandle};

/// Between two looks at what became of the files.
const LOOK: Duration = Duration::from_secs(1);

/// Between two looks whether there are files.
const IDLE: Duration = Duration::from_secs(10);

/// Files looked at in one go; the next go continues.
const LOOKS_MAX: usize = 1024;

/// The running thread, and how to end it.
#[derive(Debug)]
pub(crate) struct Collector {
    signal: Arc<WakeEvent>,
    thread: Option<JoinHandle<()>>,
    /// A child of `fork` has no such thread and must not wait for it.
    process: Process,
}

impl Collector {
    pub(crate) fn start(cache: &Arc<Cache>) -> io::Result<Self> {
        let signal = Arc::clone(&cache.signal);
        let thread = thread::Builder::new().name("smmap-collector".to_owned()).spawn({
            let (cache, signal) = (Arc::downgrade(cache), Arc::clone(&signal));
            move || run(&cache, &signal)
        })?;
        Ok(Self { signal, thread: Some(thread), process: Process::this() })
    }
}

impl Drop for Collector {
    /// Stops the thread and waits for its end.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.process.is_this() {
            // There is no such thread here; to let go of its handle would be to detach whoever has its number by now.
            std::mem::forget(thread);
            return;
        }
        self.signal.stop();
        // On the thread itself (the epoch runs what other crates deferred, and that may own the last handle) there is nobody
        // to wait for.
        if thread.thread().id() != thread::current().id() {
            // If it panicked, the message is out already, and the readers have done its work since.
            let _ = thread.join();
        }
    }
}

fn run(cache: &Weak<Cache>, signal: &WakeEvent) {
    let mut round = Round { next: 0, last: Instant::now() };
    let mut at_most = Some(IDLE);
    while signal.sleep(at_most) != Woken::Stop {
        let Some(cache) = cache.upgrade() else { return };
        cache.trim();
        if round.last.elapsed() >= LOOK {
            round.look(&cache, LOOKS_MAX);
            epoch::flush();
        }
        // Without files there is nothing to look after; the first one wakes, unless two are the first at once.
        at_most = Some(if cache.registry.len() > 0 { LOOK } else { IDLE });
    }
}

/// The tour of the files.
struct Round {
    next: usize,
    last: Instant,
}

impl Round {
    /// Looks after `at_most` files, from where the last look ended.
    fn look(&mut self, cache: &Cache, at_most: usize) {
        self.last = Instant::now();
        let files = cache.registry.files();
        for file in files.iter().cycle().skip(self.next).take(files.len().min(at_most)) {
            if cache.signal.is_stopped() {
                return;
            }
            cache.look_after(file);
        }
        self.next = (self.next + at_most) % files.len().max(1);
    }
}

impl Cache {
    /// Unmaps what is unused of a file that no known path leads to any more, and what a hole was found in; closes a descriptor
    /// that nobody needs.
    fn look_after(&self, file: &CachedFile) {
        if file.entry.handles.count() == 0 {
            self.close_unneeded(file);
        }
        if fault_guard::any_faulted() {
            // As long as one is there, all readers have to look more closely.
            file.entry.slots().windows.for_each_from(0, |_, slot| self.drain_if_faulted(slot));
        }
        if self.config.revalidate == Revalidate::AtOpen && is_gone(file) {
            let _transit = self.regions.budget.enter_transit();
            let mut token = Vec::new();
            file.entry.slots().windows.for_each_from(0, |_, slot| token.extend(slot.retire()));
            self.regions.reclaim_all(token);
        }
    }
}

/// Whether the file was deleted or replaced: no name that is known leads there; or it never had one, and has none now.
fn is_gone(file: &CachedFile) -> bool {
    if !file.entry.names().is_empty() {
        return !file.entry.is_reachable();
    }
    let descriptor = file.entry.slots().descriptor.take();
    descriptor.is_ok_and(|descriptor| os::stat(descriptor.get()).is_ok_and(|stat| stat.links == 0))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::config::{Admission, Config, Limits, Overcommit};
    use crate::geometry::Geometry;
    use std::fs;

    #[test]
    fn the_next_look_goes_on_where_the_last_one_ended() {
        let config = Config {
            geometry: Geometry::whole_file(),
            overcommit: Overcommit::Fail,
            admission: Admission::Always,
            revalidate: Revalidate::AtOpen,
        };
        let limits = Limits { max_mapped_bytes: 1 << 20, max_regions: 100, max_open_files: 100 };
        let cache = Cache::new(config, limits);
        let directory = tempfile::tempdir().unwrap();
        let open_handles: Vec<_> = (0..12)
            .map(|number| {
                let path = directory.path().join(number.to_string());
                fs::write(&path, "bytes").unwrap();
                let file = cache.open(&path).unwrap();
                assert!(cache.miss(&file, 0, 5, cache.demand()).is_ok_and(|region| region.is_some()));
                file
            })
            .collect();
        let mut round = Round { next: 0, last: Instant::now() };
        round.look(&cache, 8);
        assert_eq!(cache.stats().regions, 12, "the paths lead to them");
        directory.close().unwrap();

        round.look(&cache, 8);
        assert_eq!(cache.stats().regions, 4);
        round.look(&cache, 8);
        assert_eq!(cache.stats().regions, 0);
        assert_eq!(cache.stats().open_files, open_handles.len());
        cache.shut_down();
    }
}
