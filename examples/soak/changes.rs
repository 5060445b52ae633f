//! The steps that change files, and those that read files which are truncated under a lock.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use smmap::{Change, ErrorKind, MappedFile};

use crate::content::bytes_of;
use crate::worker::{Worker, exactly};
use crate::world::{Failed, Locked, Named, Trouble, unpoisoned};
use crate::{LOCKED, LONGEST, NAMED, PATIENCE, SMALL};

impl<'a> Worker<'a> {
    pub(crate) fn any_named(&mut self) -> &'a Named {
        &self.world.named[self.random.index(NAMED)]
    }

    pub(crate) fn append(&mut self) -> Result<(), Trouble> {
        let (named, more) = (self.any_named(), self.random.range(SMALL, SMALL));
        let mut now = unpoisoned(&named.now);
        let len = now.len + (more.end - more.start);
        if now.is_there && len <= LONGEST {
            let mut file = OpenOptions::new().append(true).open(&named.path)?;
            file.write_all(&bytes_of(now.generation, now.len..len))?;
            now.len = len;
        }
        Ok(())
    }

    pub(crate) fn replace(&mut self) -> Result<(), Trouble> {
        let (named, len) = (self.any_named(), self.random.within(8..LONGEST / 2));
        let mut now = unpoisoned(&named.now);
        match self.world.make(&named.path, len) {
            Ok(new) => *now = new,
            Err(error) if is_in_use(&error) => {}
            Err(error) => return Err(Failed::from(error).into()),
        }
        Ok(())
    }

    /// Deletes a named file. A later `replace` creates it again.
    pub(crate) fn delete(&mut self) -> Result<(), Trouble> {
        let named = self.any_named();
        let mut now = unpoisoned(&named.now);
        if now.is_there {
            match fs::remove_file(&named.path) {
                Ok(()) => now.is_there = false,
                Err(error) if is_in_use(&error) => {}
                Err(error) => return Err(Failed::from(error).into()),
            }
        }
        Ok(())
    }

    pub(crate) fn touch(&mut self) -> Result<(), Trouble> {
        let named = self.any_named();
        let now = unpoisoned(&named.now);
        if now.is_there {
            OpenOptions::new().write(true).open(&named.path)?.set_modified(SystemTime::now())?;
        }
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Locked files
    // -----------------------------------------------------------------------------------------------------------------

    pub(crate) fn read_locked(&mut self) -> Result<(), Trouble> {
        let index = self.random.index(LOCKED);
        let locked = read(&self.world.locked[index]);
        let result = self.read_one_locked(&locked, index);
        // The cursor must hold no window when the lock is released.
        self.locked_cursors[index].release();
        result
    }

    pub(crate) fn read_one_locked(&mut self, locked: &Locked, index: usize) -> Result<(), Trouble> {
        let Self { world, random, locked_cursors, buffer, .. } = self;
        let (Locked { file, content, len, .. }, cursor) = (locked, &mut locked_cursors[index]);
        exactly(file.len(), *len)?;
        for _ in 0..random.below(8) {
            let range = random.range(*len, SMALL);
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            match random.below(6) {
                0 => world.check_lease("a lease", content, range.clone(), &file.lease(range)?)?,
                1 => world.check("a slice", content, range.start, cursor.slice(range.clone())?)?,
                2 => world.check("a window", content, range.start, cursor.window_at(range.start)?)?,
                3 => {
                    file.read_exact_at(buffer, range.start)?;
                    world.check("read_exact_at", content, range.start, buffer)?;
                }
                4 => {
                    cursor.set_position(range.start);
                    cursor.read_exact(buffer)?;
                    world.check("Read", content, range.start, buffer)?;
                }
                _ => {
                    if let Some(lease) = file.windows().next_back().transpose()? {
                        exactly(lease.offset() + lease.len() as u64, *len)?;
                        world.check("the last window", content, lease.offset(), &lease)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn truncate_locked(&mut self) -> Result<(), Trouble> {
        let index = self.random.index(LOCKED);
        let mut locked = write(&self.world.locked[index]);
        let len = if self.random.one_in(8) { 0 } else { self.random.range(locked.len, 1).start };
        match OpenOptions::new().write(true).open(&locked.path)?.set_len(len) {
            Err(error) if is_in_use(&error) => return Ok(()),
            set => set?,
        }
        let change = refreshed(&locked.file)?;
        let expected = if len < locked.len { Change::Truncated } else { Change::Unchanged };
        if (change != expected && change != Change::Modified) || locked.file.len() != len {
            let now = locked.file.len();
            return Err(Failed(format!("truncated from {} to {len}: {change:?}, {now} bytes", locked.len)).into());
        }
        locked.len = len;
        locked.content.parts.retain(|&(start, _)| start < len);
        Ok(())
    }

    /// Appends bytes that differ from those before the truncation.
    pub(crate) fn append_to_locked(&mut self) -> Result<(), Trouble> {
        let index = self.random.index(LOCKED);
        let mut locked = write(&self.world.locked[index]);
        let more = self.random.below(SMALL);
        let (start, end, generation) = (locked.len, locked.len + more, self.world.generation());
        if end > LONGEST || more == 0 {
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).open(&locked.path)?;
        file.write_all(&bytes_of(generation, start..end))?;
        let change = refreshed(&locked.file)?;
        if change != Change::Grown || locked.file.len() != end {
            return Err(Failed(format!("grown to {end}: {change:?}, {} bytes", locked.file.len())).into());
        }
        locked.len = end;
        locked.content.parts.push((start, generation));
        Ok(())
    }
}

/// Refreshes the file, and repeats that for a while if the manager has no descriptor left for it.
pub(crate) fn refreshed(file: &MappedFile) -> Result<Change, Trouble> {
    let began = Instant::now();
    loop {
        match file.refresh() {
            Err(error) if error.kind() == ErrorKind::OverBudget && began.elapsed() < PATIENCE / 4 => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return Ok(result?),
        }
    }
}

pub(crate) fn read(locked: &RwLock<Locked>) -> RwLockReadGuard<'_, Locked> {
    locked.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write(locked: &RwLock<Locked>) -> RwLockWriteGuard<'_, Locked> {
    locked.write().unwrap_or_else(PoisonError::into_inner)
}

/// Returns `true` if Windows refused to truncate a mapped file (ERROR_USER_MAPPED_FILE), or to replace an open one.
fn is_in_use(error: &io::Error) -> bool {
    cfg!(windows) && (error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(1224))
}
