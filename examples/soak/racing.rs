//! Racing files: truncated while other threads read them, without a lock (feature `fault-guard`).
//!
//! A call that copies returns the right bytes, or an error that says that they are gone. After reading mapped bytes,
//! the reader calls `check`; only if that returns no error are they bytes of the file. A truncated file never grows
//! again: a reader could not tell bytes from before and after that apart. Instead, a new file replaces it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::sync::atomic::Ordering::Relaxed;

use smmap::ErrorKind;

use crate::worker::Worker;
use crate::world::{Failed, Kept, Named, Trouble, World, unpoisoned};
use crate::{LONGEST, SMALL};

pub(crate) const RACING: usize = 4;
/// The shortest length of a file: its first word identifies it.
const SHORTEST: u64 = 8;

impl World<'_> {
    /// Replaces the file at the path by a new one. Readers may only rely on its first word.
    pub(crate) fn make_racing(&self, named: &Named, len: u64) -> Result<(), Failed> {
        let mut now = unpoisoned(&named.now);
        *now = self.make(&named.path, len.max(SHORTEST))?;
        now.len = SHORTEST;
        Ok(())
    }
}

impl Worker<'_> {
    pub(crate) fn read_racing(&mut self) -> Result<(), Trouble> {
        let tally = &self.world.tally;
        match self.read_one_racing() {
            Err(Trouble::Refused(error)) => match error.kind() {
                ErrorKind::Truncated | ErrorKind::OutOfBounds => tally.truncated.fetch_add(1, Relaxed),
                ErrorKind::Replaced => tally.replaced.fetch_add(1, Relaxed),
                _ => return Err(error.into()),
            },
            result => return result,
        };
        Ok(())
    }

    fn read_one_racing(&mut self) -> Result<(), Trouble> {
        let named = &self.world.racing[self.random.index(RACING)];
        let before = *unpoisoned(&named.now);
        let file = self.world.maps.open(&named.path)?;
        let content = self.identify(named, before, &file)?;
        let Self { world, random, buffer, racing_lease, .. } = self;
        let mut cursor = file.cursor();
        for _ in 0..random.below(8) {
            let range = random.range(file.len(), SMALL);
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            match random.below(5) {
                0 => file.read_exact_at(buffer, range.start)?,
                1 => {
                    cursor.set_position(range.start);
                    match cursor.read_exact(buffer) {
                        // `Truncated`; or another thread has noticed the truncation, and the file ends here.
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            world.tally.truncated.fetch_add(1, Relaxed);
                            return Ok(());
                        }
                        read => read?,
                    }
                }
                2 => {
                    buffer.copy_from_slice(cursor.slice(range.clone())?);
                    cursor.check(range.clone())?;
                }
                3 => {
                    let lease = file.lease(range.clone())?;
                    buffer.copy_from_slice(&lease);
                    lease.check()?;
                    *racing_lease = Some(Kept { content: content.clone(), lease });
                }
                _ => {
                    file.verify(range)?;
                    continue;
                }
            }
            world.check("a racing file", &content, range.start, buffer)?;
        }
        self.check_racing_lease()
    }

    /// Checks the lease of an earlier step: it still has all its bytes, or its `check` returns an error.
    fn check_racing_lease(&mut self) -> Result<(), Trouble> {
        let Some(Kept { content, lease }) = &self.racing_lease else { return Ok(()) };
        let bytes = &mut self.buffer[..lease.len()];
        bytes.copy_from_slice(lease);
        if let Err(error) = lease.check() {
            self.racing_lease = None;
            return Err(error.into());
        }
        Ok(self.world.check("a lease of a racing file", content, lease.offset(), bytes)?)
    }

    /// Truncates a racing file while other threads read it, or replaces it by a new one.
    pub(crate) fn truncate_racing(&mut self) -> Result<(), Trouble> {
        let named = &self.world.racing[self.random.index(RACING)];
        if self.random.one_in(3) {
            return Ok(self.world.make_racing(named, self.random.below(LONGEST))?);
        }
        let _now = unpoisoned(&named.now);
        let len = self.random.within(SHORTEST..fs::metadata(&named.path)?.len() + 1);
        OpenOptions::new().write(true).open(&named.path)?.set_len(len)?;
        Ok(())
    }
}
