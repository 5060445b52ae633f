//! Files that are made shorter under their readers, without a lock: what the feature `fault-guard` is for.
//!
//! Who copies gets the right bytes, or an error that says that they are gone. Who looks at mapped bytes asks `check`
//! afterwards, and takes them for bytes of the file only if that has nothing to say. A torn file never grows again, since
//! bytes that came and went could not be told from others; a new one takes its place.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::sync::atomic::Ordering::Relaxed;

use smmap::ErrorKind;

use crate::worker::Worker;
use crate::world::{Failed, Kept, Named, Trouble, World, unpoisoned};
use crate::{LONGEST, SMALL};

pub(crate) const TORN: usize = 4;
/// The first word tells which file it is.
const SHORTEST: u64 = 8;

impl World<'_> {
    /// Puts a new file where the path leads. Of its length nothing is known but that it has a first word.
    pub(crate) fn make_torn(&self, named: &Named, len: u64) -> Result<(), Failed> {
        let mut now = unpoisoned(&named.now);
        *now = self.make(&named.path, len.max(SHORTEST))?;
        now.len = SHORTEST;
        Ok(())
    }
}

impl Worker<'_> {
    pub(crate) fn read_torn(&mut self) -> Result<(), Trouble> {
        let tally = &self.world.tally;
        match self.read_one_torn() {
            Err(Trouble::Refused(error)) => match error.kind() {
                ErrorKind::Truncated | ErrorKind::OutOfBounds => tally.truncated.fetch_add(1, Relaxed),
                ErrorKind::Replaced => tally.replaced.fetch_add(1, Relaxed),
                _ => return Err(error.into()),
            },
            result => return result,
        };
        Ok(())
    }

    fn read_one_torn(&mut self) -> Result<(), Trouble> {
        let named = &self.world.torn[self.random.index(TORN)];
        let before = *unpoisoned(&named.now);
        let file = self.world.maps.open(&named.path)?;
        let content = self.identify(named, before, &file)?;
        let Self { world, random, buffer, torn_lease, .. } = self;
        let mut cursor = file.cursor();
        for _ in 0..random.below(8) {
            let range = random.range(file.len(), SMALL);
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            match random.below(5) {
                0 => file.read_exact_at(buffer, range.start)?,
                1 => {
                    cursor.set_position(range.start);
                    match cursor.read_exact(buffer) {
                        // `Truncated`; or another thread has taken notice, and the file ends here.
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
                    *torn_lease = Some(Kept { content: content.clone(), lease });
                }
                _ => {
                    file.verify(range)?;
                    continue;
                }
            }
            world.check("a torn file", &content, range.start, buffer)?;
        }
        self.check_torn_lease()
    }

    /// One that was taken earlier: it has all its bytes, or says that it has not.
    fn check_torn_lease(&mut self) -> Result<(), Trouble> {
        let Some(Kept { content, lease }) = &self.torn_lease else { return Ok(()) };
        let bytes = &mut self.buffer[..lease.len()];
        bytes.copy_from_slice(lease);
        if let Err(error) = lease.check() {
            self.torn_lease = None;
            return Err(error.into());
        }
        Ok(self.world.check("a lease of a torn file", content, lease.offset(), bytes)?)
    }

    /// Makes it shorter, whoever reads it; or puts a new one in its place.
    pub(crate) fn tear(&mut self) -> Result<(), Trouble> {
        let named = &self.world.torn[self.random.index(TORN)];
        if self.random.one_in(3) {
            return Ok(self.world.make_torn(named, self.random.below(LONGEST))?);
        }
        let _now = unpoisoned(&named.now);
        let len = self.random.within(SHORTEST..fs::metadata(&named.path)?.len() + 1);
        OpenOptions::new().write(true).open(&named.path)?.set_len(len)?;
        Ok(())
    }
}
