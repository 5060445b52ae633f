//! [`ServerCalls`]: system calls that may wait for a file server, on a thread that lives only for them.
//!
//! If a file server hangs, each system call on its files waits without an end: a look at a name, or the close of a
//! descriptor. The collector, and readers of other files, make such calls for the cache. They have them made by this
//! thread, and wait for the answer at most [`ANSWER_MAX`]. Calls for the reader's own file are not made here.
//!
//! A cache has at most one such thread. The thread holds what its calls need: descriptors that it closes, and one file
//! while it looks at the file's names. It holds no lock, no client of a region and, during a call, not the cache. The
//! drop of the manager does not wait for a thread that hangs: the thread ends when the server answers.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::collector::Worker;
use crate::os::Process;
use crate::protocol::wake_event::WakeEvent;
use crate::sync::{Mutex, MutexGuard};

/// The longest wait for an answer. A thread that has made one call for longer is *stuck*, and is not waited for.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// The longest wait for the thread when the manager is dropped.
const END_MAX: Duration = Duration::from_millis(300);

type Call = Box<dyn FnOnce() + Send>;

pub(super) struct ServerCalls {
    state: Mutex<State>,
    /// `false` if each caller has to make its calls itself.
    may_start: bool,
    /// In a child of `fork`, the thread is missing, and another one may hold the lock.
    process: Process,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Call>,
    /// The thread that runs, or has just ended.
    thread: Option<Worker>,
    /// The time at which the running thread began its call, or `None` if no thread runs.
    since: Option<Instant>,
}

impl State {
    fn is_stuck(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > ANSWER_MAX)
    }

    fn is_this_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(Worker::is_this_thread)
    }
}

impl ServerCalls {
    pub(super) fn new(may_start: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), may_start, process: Process::this() })
    }

    /// Makes a call that only answers a question. Returns `None` if no answer comes in time. If the thread is stuck,
    /// the call is not made.
    pub(super) fn ask<T: Send + 'static>(self: &Arc<Self>, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.is_stuck() { None } else { self.complete(call) }
    }

    /// Makes a call that has to be made. Returns `None` if it is not complete in time.
    pub(super) fn complete<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let answer = Arc::new((Mutex::new(None), WakeEvent::default()));
        let is_stuck = self.is_stuck();
        let call = {
            let answer = Arc::clone(&answer);
            move || {
                *unpoisoned(&answer.0) = Some(call());
                answer.1.wake();
            }
        };
        self.push(Box::new(call), VecDeque::push_front);
        if !is_stuck {
            answer.1.sleep(Some(ANSWER_MAX));
        }
        unpoisoned(&answer.0).take()
    }

    /// Makes a call without waiting for it, after all others. If no thread can be started, the caller makes the call
    /// itself.
    pub(super) fn start(self: &Arc<Self>, call: impl FnOnce() + Send + 'static) {
        self.push(Box::new(call), VecDeque::push_back);
    }

    fn push(self: &Arc<Self>, call: Call, push: impl FnOnce(&mut VecDeque<Call>, Call)) {
        if !self.may_start || !self.process.is_this() {
            return call();
        }
        let mut state = unpoisoned(&self.state);
        if state.is_this_thread() {
            drop(state);
            return call();
        }
        push(&mut state.queue, call);
        if state.since.is_some() {
            return;
        }
        if let Some(ended) = state.thread.take() {
            // It has released the lock for the last time.
            ended.join_within(Duration::MAX);
        }
        let calls = Arc::clone(self);
        match Worker::start("smmap-server", move || calls.run()) {
            Ok(thread) => {
                state.thread = Some(thread);
                state.since = Some(Instant::now());
            }
            Err(_) => {
                let calls = std::mem::take(&mut state.queue);
                drop(state);
                calls.into_iter().for_each(|call| call());
            }
        }
    }

    /// Makes the calls of the queue, until there is none.
    fn run(&self) {
        loop {
            let mut state = unpoisoned(&self.state);
            let next = state.queue.pop_front();
            state.since = next.is_some().then(Instant::now);
            drop(state);
            let Some(call) = next else { return };
            call();
        }
    }

    /// Returns `true` if the thread makes a call now.
    pub(super) fn is_busy(&self) -> bool {
        unpoisoned(&self.state).since.is_some()
    }

    /// Returns `true` if the thread is stuck: calls that only answer a question are not made.
    pub(super) fn is_stuck(&self) -> bool {
        self.process.is_this() && unpoisoned(&self.state).is_stuck()
    }

    /// Waits for the thread, but not for one that is stuck.
    pub(super) fn end(&self) {
        if !self.process.is_this() {
            return;
        }
        let thread = unpoisoned(&self.state).thread.take();
        if let Some(thread) = thread {
            thread.join_within(if self.is_stuck() { Duration::ZERO } else { END_MAX });
        }
    }
}

impl Drop for ServerCalls {
    fn drop(&mut self) {
        // In a child of `fork`, the thread does not exist, and another one may have its number.
        if !self.process.is_this() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(state.thread.take());
        }
    }
}

/// The data under these locks is consistent after each step.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn stuck_thread_is_asked_nothing_and_makes_the_calls_that_wait_later() {
        let calls = ServerCalls::new(true);
        assert_eq!(calls.complete(|| 1), Some(1));
        let (answer, server) = mpsc::channel::<()>();
        assert_eq!(calls.complete(move || server.recv()), None);
        while !calls.is_stuck() {
            thread::yield_now();
        }
        let (done, is_done) = mpsc::channel();
        let begin = Instant::now();
        assert_eq!(calls.ask(|| 2), None);
        assert_eq!(calls.complete(move || done.send(3)), None);
        calls.end();
        assert!(begin.elapsed() < END_MAX, "{:?}", begin.elapsed());
        drop(answer);
        assert_eq!(is_done.recv(), Ok(3));
        while calls.is_busy() {
            thread::yield_now();
        }
        assert_eq!(calls.ask(|| 4), Some(4));
        calls.end();
    }

    /// The collector's pass over many files is one call for each, and other calls come first.
    #[test]
    fn call_that_is_waited_for_comes_before_those_of_a_pass() {
        let calls = ServerCalls::new(true);
        (0..50).for_each(|_| calls.start(|| thread::sleep(ANSWER_MAX / 10)));
        assert_eq!((calls.ask(|| 1), calls.complete(|| 2)), (Some(1), Some(2)));
    }

    #[test]
    fn call_of_the_thread_itself_and_of_a_cache_without_threads_is_made_at_once() {
        let (calls, none) = (ServerCalls::new(true), ServerCalls::new(false));
        let id = || thread::current().id();
        assert_eq!(none.complete(id), Some(id()));
        let own = {
            let calls = Arc::clone(&calls);
            move || (id(), calls.complete(id))
        };
        let (outer, inner) = calls.complete(own).expect("the thread answers");
        assert_eq!(Some(outer), inner);
        assert_ne!(outer, id());
        calls.end();
    }
}
