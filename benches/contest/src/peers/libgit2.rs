//! A cache like libgit2's `mwindow`: one lock for the process, and a list of windows, each with a count of users and
//! the time of its last use.
//!
//! A look-up searches the list from its newest end. A reader that stays in its window still takes the lock to find out.
//! To make room, a reader searches the list for the unused window with the oldest last use.

use std::sync::{Arc, Mutex};

use super::{Access, Grid, Mapped, Mapper, Mappings, Reader, Session};
use crate::support::Data;

struct Shared {
    mapper: Mapper,
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The windows, the newest last. Look-ups search backwards.
    windows: Vec<Window>,
    uses: u64,
}

struct Window {
    index: u64,
    mapped: Arc<Mapped>,
    users: u32,
    last_used: u64,
}

pub(crate) fn open(data: &Data, grid: Grid, capacity: usize) -> Box<dyn Reader> {
    Box::new(Shared { mapper: Mapper::new(data, grid), capacity, state: Mutex::default() })
}

impl Reader for Shared {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Cursor { shared: self, held: None })
    }

    fn windows(&self) -> Option<Mappings> {
        Some(self.mapper.mappings())
    }
}

/// A session: the window that it reads, and counts as a user of.
struct Cursor<'a> {
    shared: &'a Shared,
    held: Option<(u64, Arc<Mapped>)>,
}

impl Access for Cursor<'_> {
    #[inline]
    fn read<R>(&mut self, offset: u64, len: usize, visit: impl FnOnce(&[u8]) -> R) -> R {
        let (index, at) = self.shared.mapper.grid.locate(offset);
        self.move_to(index);
        let (_, mapped) = self.held.as_ref().expect("`move_to` set the window");
        visit(&mapped[at..at + len])
    }
}

impl Cursor<'_> {
    fn move_to(&mut self, index: u64) {
        let mut evicted = None;
        let mut state = self.shared.state.lock().expect("no thread panics while it holds the lock");
        if self.held.as_ref().is_some_and(|(held, _)| *held == index) {
            return;
        }
        state.release(self.held.take());
        state.uses += 1;
        let now = state.uses;
        let found = state.windows.iter_mut().rev().find(|window| window.index == index);
        self.held = Some(match found {
            Some(window) => {
                window.users += 1;
                window.last_used = now;
                (index, Arc::clone(&window.mapped))
            }
            None => {
                if state.windows.len() == self.shared.capacity {
                    evicted = state.evict();
                }
                let mapped = self.shared.mapper.map(index);
                state.windows.push(Window { index, mapped: Arc::clone(&mapped), users: 1, last_used: now });
                (index, mapped)
            }
        });
        drop(state);
        drop(evicted);
    }
}

impl State {
    fn release(&mut self, held: Option<(u64, Arc<Mapped>)>) {
        let Some((index, _)) = held else { return };
        let window = self.windows.iter_mut().rev().find(|window| window.index == index);
        window.expect("a window in use is not evicted").users -= 1;
    }

    fn evict(&mut self) -> Option<Window> {
        let unused = self.windows.iter().enumerate().filter(|(_, window)| window.users == 0);
        let oldest = unused.min_by_key(|(_, window)| window.last_used).map(|(at, _)| at);
        oldest.map(|at| self.windows.remove(at))
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        let held = self.held.take();
        self.shared.state.lock().expect("no thread panics while it holds the lock").release(held);
    }
}
