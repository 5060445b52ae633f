//! [`Collector`]: the background thread of a cache. [`Worker`]: the only place that starts a thread.
//!
//! After a required mapping had to evict, the collector keeps a part of each limit free, so that readers rarely evict.
//! It unmaps in small batches and tries the deferred list again. Each second it examines files, and unmaps unused
//! regions of those that were deleted or replaced. A thread of its own looks at files whose server may hang
//! (`server_calls`). The collector blocks all signals. The collector holds the cache weakly: when the last handle is
//! dropped, the thread is stopped and joined.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::open::leads_nowhere;
use super::{Cache, CachedFile};
use crate::config::Revalidate;
use crate::fault_guard;
use crate::os::{self, FileSystem, Process};
use crate::protocol::wake_event::{WakeEvent, Woken};
use crate::sync::epoch;
use crate::sync::thread::{self, JoinHandle};

/// The time between two passes over the files.
const PASS_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two wake-ups while the cache has no files.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// The longest wait for the thread when the manager is dropped. `server_calls` waits for its own, and the sum is less
/// than a second.
const END_MAX: Duration = Duration::from_millis(600);

/// Files examined in one pass. The next pass continues with the next file.
const FILES_PER_PASS: usize = 1024;

/// The running thread, and the event that stops it.
#[derive(Debug)]
pub(crate) struct Collector {
    wake_event: Arc<WakeEvent>,
    thread: Option<Worker>,
    /// A child of `fork` has no such thread, and must not wait for it.
    process: Process,
}

impl Collector {
    pub(crate) fn start(cache: &Arc<Cache>) -> io::Result<Self> {
        let wake_event = Arc::clone(&cache.wake_event);
        let work = {
            let (cache, wake_event) = (Arc::downgrade(cache), Arc::clone(&wake_event));
            move || run(&cache, &wake_event)
        };
        let thread = Worker::start("smmap-collector", work)?;
        Ok(Self { wake_event, thread: Some(thread), process: Process::this() })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.process.is_this() {
            // Dropping the handle would detach a thread that does not exist here, or another one with the same number.
            std::mem::forget(thread);
            return;
        }
        self.wake_event.stop();
        // The collector thread itself may drop the last handle: the epoch runs what other crates deferred there. It
        // cannot join itself.
        if !thread.is_this_thread() {
            thread.join_within(END_MAX);
        }
    }
}

/// A thread that this cache has started. Dropping the value lets the thread run on alone.
#[derive(Debug)]
pub(super) struct Worker {
    thread: JoinHandle<()>,
    /// Dead after the thread has done its work, or has panicked.
    is_at_work: Weak<()>,
}

impl Worker {
    /// Starts a thread that blocks all signals.
    pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let at_work = Arc::new(());
        let is_at_work = Arc::downgrade(&at_work);
        let work = move || {
            let _at_work = at_work;
            work();
        };
        let builder = thread::Builder::new().name(name.to_owned());
        Ok(Self { thread: os::with_signals_blocked(|| builder.spawn(work))?, is_at_work })
    }

    pub(super) fn is_this_thread(&self) -> bool {
        self.thread.thread().id() == thread::current().id()
    }

    /// Waits at most `limit` for the thread to end. The thread may be waiting for a file server that hangs.
    pub(super) fn join_within(self, limit: Duration) {
        let mut backoff = Backoff::new();
        while self.is_at_work.strong_count() > 0 && backoff.pause_within(limit) {}
        if self.is_at_work.strong_count() == 0 {
            // If the thread panicked, its message is printed already, and readers have done its work since.
            let _ = self.thread.join();
        }
    }
}

fn run(cache: &Weak<Cache>, wake_event: &WakeEvent) {
    let mut pass = Pass { next: 0, last: Instant::now() };
    let mut at_most = Some(IDLE_INTERVAL);
    while wake_event.sleep(at_most) != Woken::Stop {
        let Some(cache) = cache.upgrade() else { return };
        cache.trim_budgets();
        if pass.last.elapsed() >= PASS_INTERVAL {
            pass.examine(&cache, FILES_PER_PASS);
            epoch::flush();
        }
        // The first file wakes the collector, unless two threads open the first file at once.
        at_most = Some(if cache.registry.len() > 0 { PASS_INTERVAL } else { IDLE_INTERVAL });
    }
}

/// The position of the collector in the list of files.
struct Pass {
    next: usize,
    last: Instant,
}

impl Pass {
    /// Examines `at_most` files, from the end of the pass before.
    fn examine(&mut self, cache: &Cache, at_most: usize) {
        self.last = Instant::now();
        let files = cache.registry.files();
        let mut served = Vec::new();
        for file in files.iter().cycle().skip(self.next).take(files.len().min(at_most)) {
            if cache.wake_event.is_stopped() {
                return;
            }
            if cache.config.revalidate == Revalidate::AtOpen && file.system == FileSystem::Served {
                served.push(Arc::downgrade(file));
            }
            cache.examine(file);
        }
        // One pass after the other.
        if !served.is_empty() && !cache.server_calls.is_busy() {
            for file in served {
                let wake_event = Arc::clone(&cache.wake_event);
                cache.server_calls.start(move || examine_served(&file, &wake_event));
            }
        }
        self.next = (self.next + at_most) % files.len().max(1);
    }
}

impl Cache {
    /// Unmaps unused regions of a file that was deleted or replaced, and those in which a fault was found.
    fn examine(&self, file: &CachedFile) {
        if fault_guard::any_faulted() {
            // While any region has a fault, each reader has to check its own.
            file.windows().for_each_from(0, |_, slot| self.drain_if_faulted(slot));
        }
        if self.config.revalidate == Revalidate::AtOpen && file.system != FileSystem::Served && is_gone(file) {
            self.unmap_unused(file);
        }
    }

    fn unmap_unused(&self, file: &CachedFile) {
        let _transit = self.regions.budget.enter_transit();
        let mut tokens = Vec::new();
        file.windows().for_each_from(0, |_, slot| tokens.extend(slot.retire()));
        self.regions.reclaim_all(tokens);
    }
}

/// Unmaps unused regions of a file if it was deleted or replaced. Its server may hang, so the thread holds neither the
/// cache nor another file while it looks.
fn examine_served(file: &Weak<CachedFile>, wake_event: &WakeEvent) {
    let Some(file) = file.upgrade().filter(|_| !wake_event.is_stopped()) else { return };
    if is_gone(&file) {
        if let Some(cache) = file.cache.upgrade() {
            cache.unmap_unused(&file);
        }
    }
}

/// Returns `true` if the file was deleted or replaced: no known name leads to it, or it never had a name and has no
/// link. A name that the OS refuses to examine may lead to the file.
fn is_gone(file: &CachedFile) -> bool {
    let names = file.names();
    if !names.is_empty() {
        return !names.iter().any(|name| file.is_at(name).unwrap_or_else(|error| !leads_nowhere(&error)));
    }
    let descriptor = file.descriptor.peek();
    descriptor.as_ref().is_some_and(|open| os::stat(&open.file).is_ok_and(|stat| stat.links == 0))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::cache::descriptors::tests::Setting;

    #[test]
    fn pass_continues_after_the_last_examined_file() {
        let setting = Setting::new(100);
        let open_handles: Vec<_> = (0..12).map(|number| setting.open(number)).collect();
        let Setting { cache, directory } = setting;
        open_handles.iter().for_each(|file| drop(cache.map_window(file, 0, 5)));
        let mut pass = Pass { next: 0, last: Instant::now() };
        pass.examine(&cache, 8);
        assert_eq!(cache.stats().regions, 12, "the paths still lead to the files");
        directory.close().unwrap();

        pass.examine(&cache, 8);
        assert_eq!(cache.stats().regions, 4);
        pass.examine(&cache, 8);
        assert_eq!(cache.stats().regions, 0);
        assert_eq!(cache.stats().open_files, open_handles.len());
        cache.shut_down();
    }

    /// The epoch may run a deferred drop of the last handle on the collector's own thread.
    #[test]
    fn collector_dropped_on_its_own_thread_does_not_join_itself() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, is_done) = std::sync::mpsc::channel();
        let thread = Worker::start("test", move || {
            let thread = receive.recv().unwrap();
            let begin = Instant::now();
            drop(Collector { wake_event: Arc::default(), thread: Some(thread), process: Process::this() });
            done.send(begin.elapsed()).unwrap();
        });
        send.send(thread.unwrap()).unwrap();
        let waited = is_done.recv_timeout(Duration::from_secs(10)).expect("the thread does not panic");
        assert!(waited < END_MAX, "the thread waited for itself");
    }
}
