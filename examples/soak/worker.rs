//! The worker threads: each does one random step after the other.

use std::error::Error as _;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use smmap::{Buffer, Change, Cursor, Error, ErrorKind, MapManager, MappedFile, Overcommit, Window};

use crate::changes;
use crate::content::{Content, Random, bytes_of, mix};
use crate::world::{Failed, Kept, Named, Now, Trouble, World, manager, unpoisoned};
use crate::{EXCHANGED, LEASES, LONG, LONGEST, NAMED, OWN_BUDGET, READERS, SMALL, WINDOW};

/// A step: its name, its relative frequency, whether the budget may refuse it, and its function.
pub(crate) type Step = (&'static str, u64, bool, fn(&mut Worker<'_>) -> Result<(), Trouble>);

pub(crate) const STEPS: &[Step] = &[
    ("open", 30, true, |worker| worker.open()),
    ("open_file", 5, true, |worker| worker.open_file()),
    ("drop a reader", 15, false, |worker| worker.drop_reader()),
    ("slice", 120, false, |worker| worker.slice()),
    ("slice, long", 4, true, |worker| worker.slice_long()),
    ("window_at", 40, true, |worker| worker.window_at()),
    ("Read", 40, false, |worker| worker.read()),
    ("BufRead", 20, true, |worker| worker.fill_buf()),
    ("clone a cursor", 5, false, |worker| worker.clone_cursor()),
    ("release", 10, false, |worker| worker.release()),
    ("lease", 80, false, |worker| worker.lease()),
    ("lease, long", 4, true, |worker| worker.lease_long()),
    ("slice a lease", 10, false, |worker| worker.slice_lease()),
    ("check a lease", 30, false, |worker| worker.check_lease()),
    ("drop a lease", 40, false, |worker| worker.drop_lease()),
    ("pass a lease on", 20, false, |worker| worker.pass_on()),
    ("read_at", 80, false, |worker| worker.read_at()),
    ("read_exact_at", 40, false, |worker| worker.read_exact_at()),
    ("windows", 6, true, |worker| worker.windows()),
    ("prefetch", 4, true, |worker| worker.prefetch()),
    ("buffer: get", 30, false, |worker| worker.get()),
    ("buffer: find", 2, true, |worker| worker.find()),
    ("buffer: split", 4, true, |worker| worker.split()),
    ("past the end", 10, false, |worker| worker.past_the_end()),
    ("refresh", 20, true, |worker| worker.refresh()),
    ("collect", 1, false, |worker| worker.collect()),
    ("close", 3, false, |worker| worker.close()),
    ("set_limits", 2, false, |worker| worker.set_limits()),
    ("stats", 2, false, |worker| worker.stats()),
    ("own manager", 1, true, |worker| worker.own_manager()),
    ("append", 10, false, |worker| worker.append()),
    ("replace", 4, false, |worker| worker.replace()),
    ("delete", 1, false, |worker| worker.delete()),
    ("touch", 4, false, |worker| worker.touch()),
    ("read a locked file", 60, true, |worker| worker.read_locked()),
    ("truncate a locked file", 4, false, |worker| worker.truncate_locked()),
    #[cfg(all(unix, feature = "fault-guard"))]
    ("read a racing file", 60, true, |worker| worker.read_racing()),
    #[cfg(all(unix, feature = "fault-guard"))]
    ("truncate a racing file", 6, false, |worker| worker.truncate_racing()),
    ("append to a locked file", 6, false, |worker| worker.append_to_locked()),
];

pub(crate) struct Worker<'a> {
    pub(crate) world: &'a World<'a>,
    pub(crate) random: Random,
    readers: Vec<Reader>,
    leases: Vec<Kept>,
    /// One cursor for each locked file. A cursor holds no window while the file's lock is not held.
    pub(crate) locked_cursors: Vec<Cursor>,
    pub(crate) buffer: Vec<u8>,
    step: Step,
    /// A lease of a racing file.
    #[cfg(all(unix, feature = "fault-guard"))]
    pub(crate) racing_lease: Option<Kept>,
}

/// An open file, and the objects that read it.
struct Reader {
    /// The index of the named file.
    named: usize,
    /// `true` if the file was opened by its path.
    by_path: bool,
    content: Content,
    file: MappedFile,
    cursor: Cursor,
    buffer: Buffer,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World<'a>, number: u64) -> Self {
        let locked_cursors = world.locked.iter().map(|locked| changes::read(locked).file.cursor()).collect();
        Self {
            world,
            random: Random(mix(world.plan.seed ^ mix(number))),
            readers: Vec::new(),
            leases: Vec::new(),
            locked_cursors,
            buffer: vec![0; SMALL as usize],
            step: STEPS[0],
            #[cfg(all(unix, feature = "fault-guard"))]
            racing_lease: None,
        }
    }

    pub(crate) fn work(mut self) -> Result<(), Failed> {
        let all: u64 = STEPS.iter().map(|(_, weight, ..)| weight).sum();
        while !self.world.stop.load(Relaxed) {
            let mut choice = self.random.below(all);
            let chosen = STEPS.iter().position(|(_, weight, ..)| match choice.checked_sub(*weight) {
                Some(left) => {
                    choice = left;
                    false
                }
                None => true,
            });
            let index = chosen.unwrap_or(0);
            self.step = STEPS[index];
            if let Err(trouble) = (self.step.3)(&mut self) {
                self.judge(trouble)?;
            }
            self.world.tally.steps[index].fetch_add(1, Relaxed);
        }
        // Leases that were kept until the end must still have the right bytes.
        self.leases.iter().try_for_each(|kept| check_kept(self.world, kept))
    }

    /// Counts the error if the step may meet it. Otherwise returns a failure.
    fn judge(&mut self, trouble: Trouble) -> Result<(), Failed> {
        let (name, _, may_be_refused, _) = self.step;
        match trouble {
            Trouble::Refused(error) if error.kind() == ErrorKind::OverBudget && may_be_refused => {
                self.world.tally.over_budget.fetch_add(1, Relaxed);
                Ok(())
            }
            Trouble::Refused(error) => Err(Failed(format!("{name}: {error} ({:?})", error.kind()))),
            Trouble::Failed(Failed(what)) => Err(Failed(format!("{name}: {what}"))),
        }
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Opening
    // -----------------------------------------------------------------------------------------------------------------

    fn open(&mut self) -> Result<(), Trouble> {
        self.open_any(true)
    }

    fn open_file(&mut self) -> Result<(), Trouble> {
        self.open_any(false)
    }

    fn open_any(&mut self, by_path: bool) -> Result<(), Trouble> {
        let index = self.random.index(NAMED);
        let named = &self.world.named[index];
        let before = *unpoisoned(&named.now);
        let opened = if by_path {
            self.world.maps.open(&named.path)
        } else {
            match File::open(&named.path) {
                Ok(file) => self.world.maps.open_file(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return self.deleted(named, before),
                Err(error) => return Err(Failed::from(error).into()),
            }
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_not_found(&error) => return self.deleted(named, before),
            Err(error) => return Err(error.into()),
        };
        let content = match self.identify(named, before, &file) {
            Err(Trouble::Refused(error)) => return self.outdated(named, before, error),
            result => result?,
        };
        let (cursor, buffer) = (file.cursor(), file.buffer());
        if self.readers.len() == READERS {
            self.drop_reader()?;
        }
        // A file opened without a name keeps its descriptor, so each thread keeps at most one of them.
        if !by_path {
            self.readers.retain(|reader| reader.by_path);
        }
        self.readers.push(Reader { named: index, by_path, content, file, cursor, buffer });
        Ok(())
    }

    /// Returns the content of a file that was just opened, by its first word. Fails unless the file was at the path
    /// between `before` and now, and is at least as long as it was.
    pub(crate) fn identify(&self, named: &Named, before: Now, file: &MappedFile) -> Result<Content, Trouble> {
        let (mut first, len) = ([0; 8], file.len());
        file.read_exact_at(&mut first, 0)?;
        let after = *unpoisoned(&named.now);
        let generation = u64::from_le_bytes(first);
        let is_known = if before.generation == after.generation {
            generation == before.generation
        } else {
            (before.generation..=after.generation).contains(&generation)
        };
        if !is_known || (generation == before.generation && len < before.len) {
            let what = format!("generation {generation:x} of {len} bytes was opened");
            let known = format!("from {:x} ({} bytes) to {:x}", before.generation, before.len, after.generation);
            return Err(Failed(format!("{what}, and there were those {known}")).into());
        }
        Ok(Content::of(generation))
    }

    /// Counts that there was no file at the path. Fails if the file was there all the time.
    fn deleted(&self, named: &Named, before: Now) -> Result<(), Trouble> {
        let after = *unpoisoned(&named.now);
        if before.is_there && after.is_there && before.generation == after.generation {
            return Err(Failed(format!("{} exists, but was not found", named.path.display())).into());
        }
        self.world.tally.not_found.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Counts an error of a file whose descriptor was closed. Fails if its path still leads to the file, so that smmap
    /// could have opened it again.
    fn outdated(&self, named: &Named, of: Now, error: Error) -> Result<(), Trouble> {
        if error.kind() != ErrorKind::Replaced && !is_not_found(&error) {
            return Err(error.into());
        }
        let now = *unpoisoned(&named.now);
        if now.is_there && now.generation == of.generation {
            return Err(error.into());
        }
        self.world.tally.replaced.fetch_add(1, Relaxed);
        Ok(())
    }

    fn drop_reader(&mut self) -> Result<(), Trouble> {
        if !self.readers.is_empty() {
            let index = self.random.index(self.readers.len());
            self.readers.swap_remove(index);
        }
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Reading
    // -----------------------------------------------------------------------------------------------------------------

    /// Calls `work` with one of the readers. Drops the reader if its file is gone for good.
    fn with_reader(
        &mut self,
        work: impl FnOnce(&World<'_>, &mut Random, &mut Reader, &mut Vec<u8>) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        if self.readers.is_empty() {
            return self.open();
        }
        let index = self.random.index(self.readers.len());
        let reader = &mut self.readers[index];
        match work(self.world, &mut self.random, reader, &mut self.buffer) {
            Err(Trouble::Refused(error)) if error.kind() != ErrorKind::OverBudget => {
                let reader = self.readers.swap_remove(index);
                let of = Now { generation: reader.content.parts[0].1, is_there: true, len: 0 };
                self.outdated(&self.world.named[reader.named], of, error)
            }
            result => result,
        }
    }

    fn slice(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let range = random.range(reader.file.len(), SMALL);
            let bytes = reader.cursor.slice(range.clone())?;
            exactly(bytes.len() as u64, range.end - range.start)?;
            Ok(world.check("a slice", &reader.content, range.start, bytes)?)
        })
    }

    fn slice_long(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let Some(range) = long_range(random, reader.file.len()) else { return Ok(()) };
            let bytes = reader.cursor.slice(range.clone())?;
            exactly(bytes.len() as u64, range.end - range.start)?;
            Ok(world.check("a long slice", &reader.content, range.start, bytes)?)
        })
    }

    fn window_at(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let (offset, len) = (random.range(reader.file.len(), 1).start, reader.file.len());
            let bytes = reader.cursor.window_at(offset)?;
            let end = (offset / WINDOW + 1) * WINDOW;
            // The file may have grown since, noticed through another thread's handle.
            if (bytes.len() as u64) < end.min(len) - offset || bytes.len() as u64 > end - offset {
                return Err(Failed(format!("{} bytes from {offset} of {len}", bytes.len())).into());
            }
            Ok(world.check("a window", &reader.content, offset, bytes)?)
        })
    }

    fn read(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, buffer| {
            let range = random.range(reader.file.len(), SMALL);
            let back = SeekFrom::Current((range.start as i64).wrapping_sub(reader.cursor.position() as i64));
            let to = if random.one_in(2) { back } else { SeekFrom::Start(range.start) };
            exactly(reader.cursor.seek(to)?, range.start)?;
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            reader.cursor.read_exact(buffer)?;
            exactly(reader.cursor.position(), range.end)?;
            Ok(world.check("Read", &reader.content, range.start, buffer)?)
        })
    }

    fn fill_buf(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let at = reader.cursor.position();
            let bytes = reader.cursor.fill_buf()?;
            world.check("BufRead", &reader.content, at, bytes)?;
            let consumed = random.index(bytes.len() + 1);
            reader.cursor.consume(consumed);
            Ok(exactly(reader.cursor.position(), at + consumed as u64)?)
        })
    }

    fn clone_cursor(&mut self) -> Result<(), Trouble> {
        self.with_reader(|_, _, reader, _| {
            reader.cursor = reader.cursor.clone();
            reader.buffer = reader.buffer.clone();
            Ok(())
        })
    }

    fn release(&mut self) -> Result<(), Trouble> {
        self.with_reader(|_, _, reader, _| {
            reader.cursor.release();
            reader.buffer.release();
            Ok(())
        })
    }

    fn lease(&mut self) -> Result<(), Trouble> {
        self.take_lease(|random, len| Some(random.range(len, SMALL)))
    }

    fn lease_long(&mut self) -> Result<(), Trouble> {
        self.take_lease(long_range)
    }

    fn take_lease(&mut self, range: impl FnOnce(&mut Random, u64) -> Option<Range<u64>>) -> Result<(), Trouble> {
        let mut kept = None;
        self.with_reader(|world, random, reader, _| {
            let Some(range) = range(random, reader.file.len()) else { return Ok(()) };
            let lease = reader.file.lease(range.clone())?;
            world.check_lease("a lease", &reader.content, range, &lease)?;
            if random.one_in(2) {
                kept = Some(Kept { content: reader.content.clone(), lease });
            }
            Ok(())
        })?;
        self.keep(kept);
        Ok(())
    }

    fn keep(&mut self, kept: Option<Kept>) {
        self.leases.extend(kept);
        while self.leases.len() > LEASES {
            let index = self.random.index(LEASES);
            self.leases.swap_remove(index);
        }
    }

    fn slice_lease(&mut self) -> Result<(), Trouble> {
        let Some(Kept { content, lease }) = self.leases.last() else { return Ok(()) };
        let start = self.random.index(lease.len() + 1);
        let end = start + self.random.index(lease.len() - start + 1);
        let part = lease.slice(start..end);
        let range = lease.offset() + start as u64..lease.offset() + end as u64;
        self.world.check_lease("a part of a lease", content, range, &part)?;
        let part = Kept { content: content.clone(), lease: part };
        self.keep(Some(part));
        Ok(())
    }

    fn check_lease(&mut self) -> Result<(), Trouble> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let index = self.random.index(self.leases.len());
        Ok(check_kept(self.world, &self.leases[index])?)
    }

    fn drop_lease(&mut self) -> Result<(), Trouble> {
        if !self.leases.is_empty() {
            let index = self.random.index(self.leases.len());
            let kept = self.leases.swap_remove(index);
            check_kept(self.world, &kept)?;
        }
        Ok(())
    }

    /// Puts a lease into the exchange between threads, and takes another thread's lease out.
    fn pass_on(&mut self) -> Result<(), Trouble> {
        let mine = self.leases.pop();
        let theirs = {
            let mut exchange = unpoisoned(&self.world.exchange);
            let any = self.random.index(exchange.len());
            let theirs = (exchange.len() > EXCHANGED / 2).then(|| exchange.swap_remove(any));
            exchange.extend(mine);
            theirs
        };
        if let Some(kept) = &theirs {
            check_kept(self.world, kept)?;
        }
        self.keep(theirs);
        Ok(())
    }

    fn read_at(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, buffer| {
            let len = reader.file.len();
            let range = random.range(len, SMALL);
            // Sometimes longer than the rest of the file.
            let wanted = (range.end - range.start + random.below(100)).min(SMALL) as usize;
            let read = reader.file.read_at(&mut buffer[..wanted], range.start)?;
            if (read as u64) < (range.end - range.start).min(wanted as u64) {
                return Err(Failed(format!("{read} of {wanted} bytes at {} of {len}", range.start)).into());
            }
            Ok(world.check("read_at", &reader.content, range.start, &buffer[..read])?)
        })
    }

    fn read_exact_at(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, buffer| {
            let range = random.range(reader.file.len(), SMALL);
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            reader.file.read_exact_at(buffer, range.start)?;
            Ok(world.check("read_exact_at", &reader.content, range.start, buffer)?)
        })
    }

    fn windows(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let mut windows = reader.file.windows();
            let skipped = random.index(windows.len());
            let mut windows = windows.by_ref().skip(skipped).take(8);
            windows.try_for_each(|window| {
                let lease = window?;
                exactly(lease.offset() % WINDOW, 0)?;
                Ok(world.check("windows", &reader.content, lease.offset(), &lease)?)
            })
        })
    }

    fn prefetch(&mut self) -> Result<(), Trouble> {
        self.with_reader(|_, random, reader, _| {
            let range = random.range(reader.file.len(), 16 * WINDOW);
            Ok(reader.file.prefetch(range)?)
        })
    }

    fn get(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let len = reader.file.len();
            let index = random.range(len, 1).start;
            let found = reader.buffer.get(index)?;
            if found.is_none() && index < len {
                return Err(Failed(format!("no byte {index} of {len}")).into());
            }
            Ok(world.check("get", &reader.content, index, found.as_slice())?)
        })
    }

    /// Searches bytes that were taken from the file. The first match must not lie after their offset.
    fn find(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let len = reader.file.len();
            let start = random.below(len.saturating_sub(16).min(8 * WINDOW));
            let needle = bytes_of(reader.content.parts[0].1, start..(start + 16).min(len));
            match reader.buffer.find(&needle)? {
                Some(at) if at <= start => Ok(world.check("find", &reader.content, at, &needle)?),
                found => Err(Failed(format!("the bytes at {start} were found at {found:?}")).into()),
            }
        })
    }

    fn split(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, _| {
            let (pieces, mut next) = (20, 0);
            for piece in reader.buffer.split(random.next() as u8).take(pieces) {
                let piece = piece?;
                world.check_lease("split", &reader.content, next..next + piece.len() as u64, &piece)?;
                next += piece.len() as u64 + 1;
            }
            Ok(())
        })
    }

    fn past_the_end(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, random, reader, buffer| {
            let start = LONGEST * 4 + random.next() / 2;
            exactly(reader.file.read_at(buffer, start)? as u64, 0)?;
            exactly(reader.cursor.window_at(start)?.len() as u64, 0)?;
            let refused = [
                reader.file.lease(start..).err(),
                reader.cursor.slice(..start).err(),
                reader.file.read_exact_at(buffer, start).err(),
                reader.file.prefetch(start..=start).err(),
            ];
            if refused.iter().any(|error| error.as_ref().is_none_or(|error| error.kind() != ErrorKind::OutOfBounds)) {
                return Err(Failed(format!("a read at {start}, past the end: {refused:?}")).into());
            }
            world.tally.out_of_bounds.fetch_add(refused.len() as u64, Relaxed);
            Ok(())
        })
    }

    fn refresh(&mut self) -> Result<(), Trouble> {
        self.with_reader(|world, _, reader, _| {
            let named = &world.named[reader.named];
            let generation = reader.content.parts[0].1;
            let before = *unpoisoned(&named.now);
            let change = reader.file.refresh()?;
            let after = *unpoisoned(&named.now);
            let is = |now: Now| now.is_there && now.generation == generation;
            let is_right = match change {
                Change::Unchanged | Change::Grown | Change::Modified => is(before) || !reader.by_path,
                Change::Replaced | Change::Deleted => !is(after),
                _ => false,
            };
            // The length of a file whose descriptor was closed and whose path leads elsewhere cannot be known.
            let knows_len = !matches!(change, Change::Replaced | Change::Deleted);
            let is_short = before.generation == generation && reader.file.len() < before.len;
            if !is_right || (knows_len && is_short) {
                let len = reader.file.len();
                let what = format!("{change:?}, {len} bytes of generation {generation:x}");
                return Err(Failed(format!("{what}, where {:x} had {}", before.generation, before.len)).into());
            }
            Ok(())
        })
    }

    // -----------------------------------------------------------------------------------------------------------------
    // The manager
    // -----------------------------------------------------------------------------------------------------------------

    fn collect(&mut self) -> Result<(), Trouble> {
        self.world.maps.collect();
        Ok(())
    }

    fn close(&mut self) -> Result<(), Trouble> {
        let path = match self.random.below(10) {
            0 => self.world.dir.clone(),
            1 | 2 => self.world.dir.join("some"),
            3 => self.world.dir.join("of no file"),
            4 => self.world.dir.join("locked 0"),
            _ => self.world.named[self.random.index(NAMED)].path.clone(),
        };
        self.world.maps.close(path);
        Ok(())
    }

    /// Changes the limits; they never exceed the plan's.
    fn set_limits(&mut self) -> Result<(), Trouble> {
        let most = self.world.plan.limits();
        let mut limits = most;
        if !self.random.one_in(3) {
            limits.max_mapped_bytes = self.random.within(most.max_mapped_bytes / 4..most.max_mapped_bytes);
            limits.max_regions = self.random.within(64..most.max_regions as u64) as usize;
            limits.max_open_files =
                self.random.within(self.world.plan.threads + 4..most.max_open_files as u64) as usize;
        }
        Ok(self.world.maps.set_limits(limits)?)
    }

    fn stats(&mut self) -> Result<(), Trouble> {
        let (stats, limits) = (self.world.maps.stats(), self.world.plan.limits());
        if stats.peak_mapped_bytes > limits.max_mapped_bytes || stats.peak_regions > limits.max_regions {
            return Err(Failed(format!("beyond {limits:?}: {stats:?}")).into());
        }
        Ok(())
    }

    /// Reads through another manager of the same files, and drops it before its leases.
    fn own_manager(&mut self) -> Result<(), Trouble> {
        let named = &self.world.named[self.random.index(NAMED)];
        let before = *unpoisoned(&named.now);
        let builder = MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(OWN_BUDGET);
        let maps = manager(builder.overcommit(Overcommit::Fail))?;
        let file = match maps.open(&named.path) {
            Ok(file) => file,
            Err(error) if is_not_found(&error) => return self.deleted(named, before),
            Err(error) => return Err(error.into()),
        };
        let content = self.identify(named, before, &file)?;
        let range = self.random.range(file.len(), SMALL);
        let lease = file.lease(range.clone())?;
        let window = file.windows().next_back().transpose()?;
        drop((maps, file));
        self.world.check_lease("a lease of a dropped manager", &content, range, &lease)?;
        if let Some(lease) = window {
            self.world.check("a window of a dropped manager", &content, lease.offset(), &lease)?;
        }
        Ok(())
    }
}

fn long_range(random: &mut Random, len: u64) -> Option<Range<u64>> {
    let long = random.within(LONG);
    let start = random.below(len.checked_sub(long)? + 1);
    Some(start..start + long)
}

pub(crate) fn check_kept(world: &World<'_>, kept: &Kept) -> Result<(), Failed> {
    world.check("a lease that was kept", &kept.content, kept.lease.offset(), &kept.lease)
}

pub(crate) fn exactly(found: u64, expected: u64) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(Failed(format!("{found} instead of {expected}"))) }
}

fn is_not_found(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}
