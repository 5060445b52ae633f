//! Data that is not in memory, and hits at the starts of windows.
//!
//! Before each lap, the file is dropped from the page cache. A row compares the bytes that the process reads from the
//! disk, as `/proc/self/io` counts them, and the time. The bytes do not depend on what else the machine does.

use std::fs;
use std::io::{BufRead, BufReader};

use smmap::MappedFile;

use crate::Run;
use crate::report::{Chapter, Finding, Times};
use crate::support::{Data, GIB, KIB, MIB, Outcome, Race, Rng, Target, build, read_exact_at, timed};

/// Reads of one lap of the random rows.
const READS: u64 = 4_000;

/// Reads the file once from its start, or at the offsets, which leave room for `len` bytes. Returns a sum of bytes.
type Task = fn(&Reads<'_>) -> u64;

/// The reads of one lap.
struct Reads<'a> {
    data: &'a Data,
    offsets: Vec<u64>,
    len: u64,
}

impl Reads<'_> {
    /// Opens the data in a new manager with the default settings.
    fn smmap(&self) -> MappedFile {
        build(smmap::MapManager::builder()).open(self.data.path()).expect("the data opens")
    }

    /// Reads the file, without a mapping.
    fn by_pread(&self) -> u64 {
        let (file, mut buffer) = (self.data.open(), vec![0; self.len as usize]);
        self.sum(|offset| {
            read_exact_at(&file, &mut buffer, offset).expect("bytes of the data");
            touch(&buffer)
        })
    }

    fn sum(&self, mut read: impl FnMut(u64) -> u64) -> u64 {
        self.offsets.iter().fold(0, |sum: u64, &offset| sum.wrapping_add(read(offset)))
    }
}

/// Returns a sum that needs all pages of the bytes.
fn touch(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(64).fold(0, |sum, &byte| sum + u64::from(byte))
}

pub(crate) fn run(run: &Run) -> Option<Chapter> {
    let wanted = ["cold/random", "cold/sequential", "cold/window starts"].map(|row| run.wants(row));
    if !wanted.contains(&true) {
        return None;
    }
    let mut chapter = Chapter::new("Cold data and window starts");
    let data = Data::of_len(run.size(GIB, 64 * MIB));
    if wanted[..2].contains(&true) {
        if !data.chill() {
            chapter.note("SKIPPED: cold data: the OS cannot be told to drop pages from the page cache.");
        } else if bytes_read().is_none() {
            chapter.note("SKIPPED: cold data: the OS does not count the bytes that a process reads from the disk.");
        } else {
            chapter.note(format!(
                "Cold rows: {} MiB, dropped from the page cache before each lap; the contest checks that no page is \
                 left. smmap has its defaults and a new manager for each lap. Bytes are those read from the disk \
                 (`/proc/self/io`).",
                data.len() >> 20
            ));
            if wanted[0] {
                random(run, &data, &mut chapter);
            }
            if wanted[1] {
                sequential(run, &data, &mut chapter);
            }
        }
    }
    if wanted[2] {
        window_starts(run, &data, &mut chapter);
    }
    Some(chapter)
}

/// Returns the bytes that this process has read from the disk, or `None` if the OS does not count them.
fn bytes_read() -> Option<u64> {
    let counts = fs::read_to_string("/proc/self/io").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse().ok()
}

/// Races the tasks over cold data. Adds the bytes that each reads, as a multiple of the first one's, to the chapter.
fn race(run: &Run, title: &'static str, reads: &Reads<'_>, tasks: &[(&'static str, Task)], seconds: u64) -> Raced {
    let expected = tasks[0].1(reads);
    let bytes = tasks.iter().map(|&(name, task)| {
        assert!(reads.data.chill(), "the OS no longer drops pages from the page cache");
        let before = bytes_read().expect("the bytes were counted before");
        assert_eq!(task(reads), expected, "{name} read other bytes");
        (name, bytes_read().expect("the bytes were counted before") - before)
    });
    let bytes = bytes.collect();
    let race = tasks.iter().fold(Race::over_no_data(title), |race, &(name, task)| {
        race.variant(name, 1, move |_| {
            assert!(reads.data.chill(), "the OS no longer drops pages from the page cache");
            timed(|| assert_eq!(task(reads), expected, "{name} read other bytes"))
        })
    });
    Raced { bytes, outcome: run.race(race, seconds) }
}

struct Raced {
    bytes: Vec<(&'static str, u64)>,
    outcome: Outcome,
}

impl Raced {
    fn bytes(&self, name: &str) -> f64 {
        let (_, bytes) = self.bytes.iter().find(|(known, _)| *known == name).expect("a task of the race");
        *bytes as f64
    }

    /// Adds the ratios of bytes and of times, and a table of both.
    fn report(&self, chapter: &mut Chapter, row: &str, ratios: &[(&str, &str)], bytes: Target, time: Target) {
        for &(name, base) in ratios {
            let ratio = self.bytes(name) / self.bytes(base);
            chapter.finding(Finding::new(row, format!("{name} / {base}, bytes"), ratio, bytes));
            let ratio = self.outcome.ratio(name, base).by_round;
            chapter.finding(Finding::new(row, format!("{name} / {base}, time"), ratio, time));
        }
        let mut table = Times::new(format!("{row}: bytes from the disk, and time"), ["KiB", "time"].map(String::from));
        for &(name, bytes) in &self.bytes {
            let cells = [(bytes >> 10).to_string(), crate::support::time(self.outcome.nanos(name))];
            table.row(name, cells.into());
        }
        chapter.times(table);
    }
}

fn random(run: &Run, data: &Data, chapter: &mut Chapter) {
    const TASKS: [(&str, Task); 4] = [
        ("pread", |reads| reads.by_pread()),
        ("read_at", |reads| {
            let (file, mut buffer) = (reads.smmap(), vec![0; reads.len as usize]);
            reads.sum(|offset| {
                file.read_exact_at(&mut buffer, offset).expect("bytes of the data");
                touch(&buffer)
            })
        }),
        ("slice", |reads| {
            let mut cursor = reads.smmap().cursor();
            reads.sum(|offset| touch(cursor.slice(offset..offset + reads.len).expect("bytes of the data")))
        }),
        ("lease", |reads| {
            let file = reads.smmap();
            reads.sum(|offset| touch(&file.lease(offset..offset + reads.len).expect("bytes of the data")))
        }),
    ];
    for (row, title, len) in
        [("cold random 4 KiB", "cold random 4 KiB", 4 * KIB), ("cold random 64 B", "cold random 64 B", 64)]
    {
        let mut rng = Rng::new(len);
        let offsets = (0..run.size(READS, 400)).map(|_| rng.below(data.len() / len) * len).collect();
        let raced = race(run, title, &Reads { data, offsets, len }, &TASKS, 20);
        let ratios = ["read_at", "slice", "lease"].map(|name| (name, "pread"));
        raced.report(chapter, row, &ratios, Target::AtMost(1.2), Target::AtMost(1.1));
    }
    // As readers of an index of large files do.
    let offsets = (0..data.len()).step_by((data.len() / 64) as usize).collect();
    let raced = race(run, "cold headers", &Reads { data, offsets, len: 64 }, &TASKS, 5);
    let ratios = ["read_at", "slice", "lease"].map(|name| (name, "pread"));
    raced.report(chapter, "64 cold headers at a fixed stride", &ratios, Target::AtMost(1.2), Target::None);
}

fn sequential(run: &Run, data: &Data, chapter: &mut Chapter) {
    /// Touches the lines, of which random data has one in 256 bytes.
    fn lines(mut reader: impl BufRead) -> u64 {
        let (mut line, mut sum) = (Vec::new(), 0_u64);
        while reader.read_until(b'\n', &mut line).expect("bytes of the data") > 0 {
            sum = sum.wrapping_add(line.len() as u64 ^ u64::from(line[0]));
            line.clear();
        }
        sum
    }
    let reads = Reads { data, offsets: (0..data.len()).step_by(MIB as usize).collect(), len: MIB };
    let scans: [(&str, Task); 5] = [
        ("read of 1 MiB", |reads| reads.by_pread()),
        ("windows", |reads| {
            let file = reads.smmap();
            file.windows().fold(0, |sum, lease| sum + touch(&lease.expect("a window of the data")))
        }),
        ("cursor, fill_buf", |reads| {
            let (mut cursor, mut sum) = (reads.smmap().cursor(), 0);
            loop {
                // A part of 64 bytes, which `touch` needs, is never torn: both sizes are multiples of it.
                let bytes = cursor.fill_buf().expect("bytes of the data");
                if bytes.is_empty() {
                    return sum;
                }
                sum += touch(bytes);
                let len = bytes.len();
                cursor.consume(len);
            }
        }),
        ("cursor, slices of 64 KiB", |reads| {
            let mut cursor = reads.smmap().cursor();
            let pieces = (0..reads.data.len()).step_by(64 * KIB as usize);
            pieces.fold(0, |sum, at| sum + touch(cursor.slice(at..at + 64 * KIB).expect("bytes of the data")))
        }),
        ("read_at of 64 KiB", |reads| {
            let (file, mut buffer) = (reads.smmap(), vec![0; 64 * KIB as usize]);
            (0..reads.data.len()).step_by(buffer.len()).fold(0, |sum, at| {
                file.read_exact_at(&mut buffer, at).expect("bytes of the data");
                sum + touch(&buffer)
            })
        }),
    ];
    let raced = race(run, "cold sequential", &reads, &scans, 40);
    let ratios = scans[1..].iter().map(|&(name, _)| (name, "read of 1 MiB")).collect::<Vec<_>>();
    raced.report(chapter, "cold sequential", &ratios, Target::AtMost(1.05), Target::AtMost(1.0));

    let by_lines: [(&str, Task); 2] = [
        ("lines by BufReader of 1 MiB", |reads| lines(BufReader::with_capacity(MIB as usize, reads.data.open()))),
        ("lines by a cursor", |reads| lines(reads.smmap().cursor())),
    ];
    let raced = race(run, "cold lines", &reads, &by_lines, 20);
    let ratios = [(by_lines[1].0, by_lines[0].0)];
    raced.report(chapter, "cold lines", &ratios, Target::AtMost(1.05), Target::AtMost(1.0));
}

/// Compares hits near the starts of windows, and two windows by turns, with hits in the middles.
fn window_starts(run: &Run, data: &Data, chapter: &mut Chapter) {
    const WINDOWS: u64 = 64;
    const HITS: u64 = 1 << 18;
    let window = data.len() / WINDOWS;
    let maps = build(smmap::MapManager::builder().window(smmap::Window::Sliding { bytes: window }));
    let file = maps.open(data.path()).expect("the data opens");
    file.prefetch(..).expect("the budget holds the data");
    let mut rng = Rng::new(1);
    let draws: Vec<(u64, u64)> = (0..HITS).map(|_| (rng.below(WINDOWS), rng.below(4032 / 8) * 8)).collect();
    let lap = |at: u64, by_turns: bool| {
        let (file, draws) = (&file, &draws);
        move |_| {
            let mut cursor = file.cursor();
            timed(|| {
                let mut sum = 0_u64;
                for (hit, &(random, offset)) in draws.iter().enumerate() {
                    let start = if by_turns { hit as u64 % 2 } else { random } * window + at + offset;
                    let bytes = cursor.slice(start..start + 8).expect("bytes of the data");
                    sum = sum.wrapping_add(u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
                }
                std::hint::black_box(sum);
            })
        }
    };
    let race = Race::new("hits at the starts of windows", data)
        .variant("random, middles", HITS, lap(window / 2, false))
        .variant("random, starts", HITS, lap(0, false))
        .variant("by turns, middles", HITS, lap(window / 2, true))
        .variant("by turns, starts", HITS, lap(0, true));
    let outcome = run.race(race, 5);
    for how in ["random", "by turns"] {
        let (starts, middles) = (format!("{how}, starts"), format!("{how}, middles"));
        let ratio = outcome.ratio(&starts, &middles).by_round;
        chapter.finding(Finding::new(
            "hits at the starts of windows",
            format!("{starts} / {middles}"),
            ratio,
            Target::AtMost(1.1),
        ));
    }
    let title = [("mapped hits of 8 B".to_owned(), &outcome)];
    chapter.times(Times::of_races("Time of a hit (× random, middles)", &title, "random, middles"));
    assert_eq!(maps.stats().evictions, 0, "the budget did not hold the data");
}
