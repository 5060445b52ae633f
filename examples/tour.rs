//! A tour of smmap over real files: `cargo run --release --example tour [-- FILE|DIR ...]`.
//!
//! The tour reads many files, together far larger than its budget of mapped bytes. It reads them in three ways, and
//! compares the bytes with plain reads (`std::fs`):
//!
//! 1. *Load against map*: the resident memory for a whole file, and for one of its windows.
//! 2. *Parallel analytics*: rayon over every window of every file. The unit of work is a [`Lease`](smmap::Lease).
//! 3. *A database's reads*: small random leases from many threads, with some pages much hotter than others.
//!
//! Without arguments, the tour reads the files of the Rust toolchain, which every machine with Rust has.

#![allow(unsafe_code, reason = "`build` is unsafe: the caller promises not to change the files")]

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{array, env, error::Error, hint::black_box, thread};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressStyle};
use memchr::memchr_iter;
use rayon::prelude::*;
use smmap::{MapManager, MappedFile, Stats, Window};

const HELP: &str = "\
A tour of smmap on real files: many reads under a small budget of mapped bytes, compared with plain reads.

Usage: cargo run --release --example tour [-- [OPTIONS] [FILE|DIR ...]]

  FILE|DIR ...     files to read, and directories whose files to read [default: the Rust toolchain]
  --budget SIZE    most bytes to keep mapped, e.g. 1048576, 512KiB, 64M, 1GiB (units are powers of 1024)
                   [default: an eighth of the data, at most 64 MiB]
  --threads N      reading threads [default: the number of hardware threads]
  --help           this text

  The files must not change during the tour. Exit code: 0 success; 1 bytes differed from plain reads, the budget was
  exceeded, or a read failed; 2 wrong arguments.";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The smallest window: the granularity of mappings on Windows, and a multiple of every page size in use.
const SMALLEST_WINDOW: u64 = 64 * KIB;
/// The number of descriptors that smmap, and the plain reads, may keep open.
const OPEN_FILES: usize = 100;
/// The most bytes of a file to load into a `Vec`, and the most data to read beforehand to warm the page cache.
const LOAD_LIMIT: u64 = 1 << 30;
const WARM_LIMIT: u64 = 4 << 30;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let (code, error) = match Plan::from_arguments() {
        Ok(Some(plan)) => match tour(&plan) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (1, error),
        },
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => (2, format!("{error} (see --help)").into()),
    };
    eprintln!("tour: {error}");
    ExitCode::from(code)
}

fn tour(plan: &Plan) -> Result<()> {
    plan.introduce();
    let mut findings = Findings::default();
    load_against_map(plan, &mut findings)?;
    parallel_analytics(plan, &mut findings)?;
    database_reads(plan, &mut findings)?;
    findings.conclude(plan)
}

// ---- 1. Load against map ----

/// Makes the largest file readable in three ways, and reports the growth of this process's memory for each.
fn load_against_map(plan: &Plan, findings: &mut Findings) -> Result<()> {
    const READS: u64 = 10_000;
    const READ: u64 = 4 * KIB;
    let largest @ &Source { ref path, len, .. } = &plan.files[0];
    println!("\n1. Load against map: the growth of resident memory for the largest file");

    let (loaded, load) = growth(|| {
        let mut bytes = Vec::with_capacity(len.min(LOAD_LIMIT) as usize);
        File::open(path)?.take(LOAD_LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    })?;
    let loaded_bytes = loaded.len() as u64;
    drop(loaded);

    // A cursor maps the window around an offset, and returns the bytes from there to the end of the window.
    let ((maps, mut cursor, byte), map) = growth(|| {
        let maps = plan.manager(plan.scan_window)?;
        let mut cursor = maps.open(path)?.cursor();
        let byte = cursor.window_at(len / 2)?[0];
        Ok((maps, cursor, byte))
    })?;
    let window_bytes = maps.stats().mapped_bytes;
    let mut buffer = [0; READ as usize];
    findings.check(largest, len / 2, &[byte], &mut buffer)?;

    // The same cursor reads any range, as if the whole file were mapped. It maps and unmaps windows within the budget.
    let mut random = Random(1);
    let ((), read) = growth(|| {
        for _ in 0..READS {
            let start = random.below(len.saturating_sub(READ) + 1);
            let bytes = cursor.slice(start..len.min(start + READ))?;
            findings.check(largest, start, bytes, &mut buffer)?;
        }
        Ok(())
    })?;

    let stats = maps.stats();
    let row = |what: &str, mapped, [own, file]: &[String; 2]| [what.into(), size(mapped), own.clone(), file.clone()];
    print_table(&[
        ["", "mapped by smmap", "RssAnon, MiB", "RssFile, MiB"].map(String::from),
        row(&format!("load {} into a Vec", size(loaded_bytes)), 0, &load),
        row("map a window, touch one byte", window_bytes, &map),
        row(&format!("then {READS} random reads of 4 KiB"), stats.mapped_bytes, &read),
    ]);
    println!(
        "  RssAnon is memory of this process alone. RssFile counts pages of the OS's page cache that were touched"
    );
    println!("  through a mapping: other processes share them, and the OS reclaims them when memory is short.");
    findings.row("memory of its own for the largest file, MiB", &map[0], &load[0], None);
    findings.caching(&stats);
    Ok(())
}

/// Runs a step. Returns its result, and the growth of resident memory (anonymous, file) in MiB while the result exists.
fn growth<T>(step: impl FnOnce() -> Result<T>) -> Result<(T, [String; 2])> {
    let before = resident_kib();
    let result = step()?;
    let grown = match (before, resident_kib()) {
        (Some(before), Some(after)) => [0, 1].map(|of| format!("{:+.3}", (after[of] - before[of]) as f64 / 1024.0)),
        _ => ["n/a", "n/a"].map(String::from),
    };
    Ok((result, grown))
}

/// Returns the resident memory of this process in KiB, anonymous and of files. Linux only.
fn resident_kib() -> Option<[i64; 2]> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field =
        |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    Some([field("RssAnon:")?, field("RssFile:")?])
}

// ---- 2. Parallel analytics ----

/// Computes over all bytes twice, with plain reads and through smmap, and compares results and times.
fn parallel_analytics(plan: &Plan, findings: &mut Findings) -> Result<()> {
    println!("\n2. Parallel analytics: bytes, lines, byte histogram and checksum of all files");
    let maps = plan.manager(plan.scan_window)?;
    let files = plan.open_all(&maps)?;

    // The unit of work is a window, not a file, so that all threads share the large files too.
    let window = maps.window_bytes().unwrap_or(u64::MAX);
    let spans = spans(&plan.files, window);
    let with_plain_reads = |span: &Span, buffer: &mut Vec<u8>| {
        let path = &plan.files[span.file].path;
        analyse_plain(span, path, buffer).map_err(in_file(path))
    };
    if plan.total <= WARM_LIMIT {
        // So that neither of the timed runs waits for the disk.
        analyse("warming the page cache", plan, &spans, with_plain_reads)?;
    }
    let (plain, plain_time) = analyse("plain reads", plan, &spans, with_plain_reads)?;
    let (mapped, time) = analyse("smmap", plan, &spans, |span, _| analyse_mapped(span, window, &files[span.file]))?;

    let rates = [time, plain_time].map(|time| plan.total as f64 / time.as_secs_f64());
    let [with, without] = rates.map(|rate| format!("{}/s", size(rate as u64)));
    let bytes = mapped.histogram.iter().sum();
    println!("  {bytes} bytes, {} lines: smmap {with}, plain reads {without}", mapped.lines);
    findings.bytes.fetch_add(bytes, Relaxed);
    if mapped != plain {
        let of = |totals: &Totals| format!("{} lines, checksum {:016x}", totals.lines, totals.checksum);
        findings.add_difference(format!("the analytics: {} with smmap, {} without", of(&mapped), of(&plain)));
    }
    findings.row("analytics, throughput", &with, &without, Some(rates));
    findings.caching(&maps.stats());
    Ok(())
}

/// A part of a file: a window for the analytics, a record for the database.
struct Span {
    file: usize,
    start: u64,
    len: u64,
}

fn spans(files: &[Source], window: u64) -> Vec<Span> {
    let of_file = |(file, source): (usize, &Source)| {
        let len = source.len;
        let starts = (0..len.div_ceil(window)).map(move |index| index * window);
        starts.map(move |start| Span { file, start, len: window.min(len - start) })
    };
    files.iter().enumerate().flat_map(of_file).collect()
}

/// Runs `work` for all spans on rayon's threads. Returns the sum of the results, and the time.
fn analyse(
    name: &str,
    plan: &Plan,
    spans: &[Span],
    work: impl Fn(&Span, &mut Vec<u8>) -> io::Result<Totals> + Sync,
) -> io::Result<(Totals, Duration)> {
    let bar = progress(name, plan.total);
    let began = Instant::now();
    let one = |buffer: &mut Vec<u8>, span: &Span| work(span, buffer).inspect(|_| bar.inc(span.len));
    let all = spans.par_iter().map_init(Vec::new, one).try_reduce(Totals::new, |a, b| Ok(a.plus(&b)))?;
    let time = began.elapsed();
    bar.finish_and_clear();
    Ok((all, time))
}

/// Analyses a window through smmap: a lease keeps it mapped and is a slice of bytes.
fn analyse_mapped(span: &Span, window: u64, file: &MappedFile) -> io::Result<Totals> {
    let mut totals = Totals::new();
    let Some(lease) = file.windows().nth((span.start / window) as usize).transpose()? else { return Ok(totals) };
    for (offset, piece) in (span.start..).step_by(Totals::PIECE).zip(lease.chunks(Totals::PIECE)) {
        totals.add(span.file, offset, piece);
    }
    Ok(totals)
}

/// Analyses a window through plain reads: opens the file, seeks, and reads into a buffer piece by piece.
fn analyse_plain(span: &Span, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Totals> {
    buffer.resize(Totals::PIECE, 0);
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(span.start))?;
    let mut totals = Totals::new();
    for done in (0..span.len).step_by(Totals::PIECE) {
        let piece = &mut buffer[..(span.len - done).min(Totals::PIECE as u64) as usize];
        file.read_exact(piece)?;
        totals.add(span.file, span.start + done, piece);
    }
    Ok(totals)
}

/// The results of the analytics. They do not depend on the order in which pieces are added.
#[derive(PartialEq)]
struct Totals {
    lines: u64,
    checksum: u64,
    histogram: [u64; 256],
}

impl Totals {
    /// The length of a piece. It fits the processor's cache during three passes, and divides every window.
    const PIECE: usize = SMALLEST_WINDOW as usize;

    fn new() -> Self {
        Self { lines: 0, checksum: 0, histogram: [0; 256] }
    }

    fn add(&mut self, file: usize, offset: u64, piece: &[u8]) {
        self.lines += memchr_iter(b'\n', piece).count() as u64;
        self.checksum = self.checksum.wrapping_add(checksum(file as u64, offset, piece));
        // Four histograms by turns: with one, increments of equal bytes in a row would wait for each other.
        let mut counts = [[0; 256]; 4];
        let quads = piece.chunks_exact(4);
        quads.remainder().iter().for_each(|&byte| counts[0][usize::from(byte)] += 1);
        for quad in quads {
            (0..4).for_each(|nth| counts[nth][usize::from(quad[nth])] += 1);
        }
        counts.iter().for_each(|counts| add_counts(&mut self.histogram, counts));
    }

    fn plus(mut self, other: &Self) -> Self {
        self.lines += other.lines;
        self.checksum = self.checksum.wrapping_add(other.checksum);
        add_counts(&mut self.histogram, &other.histogram);
        self
    }
}

fn add_counts(counts: &mut [u64], more: &[u64]) {
    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
}

/// Returns the FNV-1a hash by words of eight bytes. It covers the piece's position, so that swapped pieces are
/// detected.
fn checksum(file: u64, offset: u64, piece: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3);
    let hash = words(piece).fold(mix(mix(0xcbf2_9ce4_8422_2325, file), offset), mix);
    piece.chunks_exact(8).remainder().iter().fold(hash, |hash, &byte| mix(hash, byte.into()))
}

/// Returns the whole words of eight bytes in `bytes`.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("a word has eight bytes")))
}

// ---- 3. A database's reads ----

/// Reads small records at random for some seconds, with plain positioned reads and then through smmap.
fn database_reads(plan: &Plan, findings: &mut Findings) -> Result<()> {
    println!("\n3. A database's reads: 64 to 4096 bytes at random, some pages hot (Zipf 0.99, in extents of 256 KiB)");
    // Small windows: a larger share of the mapped bytes is hot. (A scan needs large windows, which cost less per byte.)
    let maps = plan.manager(plan.read_window)?;
    let files = plan.open_all(&maps)?;

    // Both variants read the same records and check a sample, so that both are disturbed alike.
    let (plain_rate, plain_times) = drive("plain reads", plan, &Findings::default(), &|span, buffer, consume| {
        plan.files[span.file].read_exact_at(buffer, span.start)?;
        consume(buffer);
        Ok(())
    })?;
    // One lease for each read: of the mapping, if the window is mapped or admitted, or else of a copy.
    let (rate, times) = drive("smmap", plan, findings, &|span, _, consume| {
        consume(&files[span.file].lease(span.start..span.start + span.len)?);
        Ok(())
    })?;

    let rates = [rate, plain_rate];
    let [with, without] = rates.map(|rate| HumanCount(rate as u64).to_string());
    println!("  {} threads: smmap {with} reads/s, plain reads {without} reads/s", plan.threads);
    findings.row("database, reads/s", &with, &without, Some(rates));
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let micros = [&times, &plain_times].map(|times| times.quantile(share) / 1000.0);
        let [with, without] = micros.map(|micros| format!("{micros:.2} µs"));
        findings.row(&format!("database, latency {name}"), &with, &without, Some(micros));
    }
    findings.caching(&maps.stats());
    Ok(())
}

/// The number of reads per second spent reading, and the times of single reads.
type Timing = (f64, Histogram);

/// A way to read. Its arguments: the span, a buffer of the span's length for readers that need one, and the consumer of
/// the bytes.
type ReadSpan<'a> = dyn Fn(&Span, &mut [u8], &mut dyn FnMut(&[u8])) -> io::Result<()> + Sync + 'a;

/// Reads from every thread for some seconds.
fn drive(name: &str, plan: &Plan, findings: &Findings, read: &ReadSpan) -> io::Result<Timing> {
    const TICK: Duration = Duration::from_millis(100);
    const TICKS: u32 = 30;
    let deadline = Instant::now() + TICK * TICKS;
    thread::scope(|scope| {
        let start = |seed| scope.spawn(move || read_until(deadline, seed, plan, findings, read));
        let threads = (0..plan.threads as u64).map(start).collect::<Vec<_>>();
        let bar = progress(name, TICKS.into());
        for _ in 0..TICKS {
            thread::sleep(TICK);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let mut all = (0.0, Histogram::new());
        for thread in threads {
            let (rate, times) = thread.join().expect("a reading thread does not panic")?;
            all.0 += rate;
            add_counts(&mut all.1.0, &times.0);
        }
        Ok(all)
    })
}

/// Reads in one thread. Times only the reads: neither drawing the records nor checking the first of each batch.
fn read_until(end: Instant, seed: u64, plan: &Plan, findings: &Findings, read: &ReadSpan) -> io::Result<Timing> {
    const BATCH: usize = 64;
    let mut buffer = [0; LARGEST_READ as usize];
    let mut sample = Vec::with_capacity(buffer.len());
    let (mut random, mut times) = (Random(seed), Histogram::new());
    let (mut reads, mut busy, mut sum) = (0, Duration::ZERO, 0_u64);
    while Instant::now() < end {
        let batch: [Span; BATCH] = array::from_fn(|_| record(&plan.files, &mut random));
        sample.clear();
        let mut before = Instant::now();
        for span in &batch {
            read(span, &mut buffer[..span.len as usize], &mut |bytes| {
                sum = words(bytes).fold(sum, u64::wrapping_add); // reads every byte
                if sample.is_empty() {
                    sample.extend_from_slice(bytes);
                }
            })?;
            let now = Instant::now();
            times.record(now - before);
            busy += now - before;
            before = now;
        }
        reads += BATCH;
        findings.check(&plan.files[batch[0].file], batch[0].start, &sample, &mut buffer)?;
    }
    black_box(sum);
    Ok((reads as f64 / busy.as_secs_f64(), times))
}

const PAGE: u64 = 4 * KIB;
const SMALLEST_READ: u64 = 64;
const LARGEST_READ: u64 = 4 * KIB;

/// Draws a record to read. It starts on a page that [`hot_page`] chose, and may reach into the next page.
fn record(files: &[Source], random: &mut Random) -> Span {
    let pages = files.last().map_or(0, |last| last.first_page + last.len.div_ceil(PAGE));
    let page = hot_page(pages, random);
    let file = files.partition_point(|source| source.first_page <= page) - 1;
    let offset = (page - files[file].first_page) * PAGE;
    let to_end = files[file].len - offset;
    let inside = random.below(to_end.min(PAGE));
    let len = SMALLEST_READ + random.below(LARGEST_READ - SMALLEST_READ + 1);
    Span { file, start: offset + inside, len: len.min(to_end - inside) }
}

/// Draws one of `pages` pages by Zipf's law (the integral approximates its sum). Pages of similar heat lie together in
/// extents, as databases place them, and the extents are scattered.
fn hot_page(pages: u64, random: &mut Random) -> u64 {
    const EXTENT: u64 = 64;
    const BEND: f64 = 1.0 - 0.99;
    let reach = (pages as f64 + 1.0).powf(BEND) - 1.0;
    let rank = (1.0 + random.unit() * reach).powf(1.0 / BEND) as u64 - 1;
    // The factor is a large prime: extents of neighbouring rank lie far apart, and each rank has its own extent.
    let extent = rank / EXTENT * 2_654_435_761 % pages.div_ceil(EXTENT);
    (extent * EXTENT + rank % EXTENT).min(pages - 1)
}

/// The SplitMix64 generator: small, quick, and random enough to draw reads.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mix = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mix ^ (mix >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.unit() * end as f64) as u64
    }
}

/// A histogram of nanoseconds in buckets that grow with the time, 32 for each doubling: quantiles are right within 3 %.
struct Histogram(Vec<u64>);

impl Histogram {
    fn new() -> Self {
        Self(vec![0; 64 * 32])
    }

    /// Counts a time. The bucket is 32 for each halving until six bits are left, plus these bits (whose leading one
    /// adds 32).
    fn record(&mut self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        let halvings = nanos.max(32).ilog2() - 5;
        self.0[halvings as usize * 32 + (nanos >> halvings) as usize] += 1;
    }

    /// Returns the time in nanoseconds below which `share` of the reads lie.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.iter().sum::<u64>() as f64 * share) as u64;
        let upto = self.0.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let bucket = upto.take_while(|&sum| sum <= rank).count();
        let halvings = (bucket / 32).saturating_sub(1);
        (((bucket - halvings * 32 + 1) as u64) << halvings) as f64
    }
}

// ---- The plan: the files to read, and the resources ----

/// A file to read.
struct Source {
    path: PathBuf,
    len: u64,
    /// The number of pages of all files before this one.
    first_page: u64,
    /// The open file, for plain reads. Only the largest files have one.
    open: Option<File>,
}

impl Source {
    /// Reads at an offset, without smmap.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = match &self.open {
            Some(file) => read_exact_at(file, buffer, offset),
            None => File::open(&self.path).and_then(|file| read_exact_at(&file, buffer, offset)),
        };
        read.map_err(in_file(&self.path))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads at an offset. All threads share the handle's position, so a lock serialises them.
#[cfg(not(unix))]
fn read_exact_at(mut file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

/// Adds the path of the file to an error of a plain read. Errors of smmap already contain it.
fn in_file(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The files and settings for all parts of the tour.
struct Plan {
    /// The files, the largest first.
    files: Vec<Source>,
    total: u64,
    budget: u64,
    scan_window: u64,
    read_window: u64,
    threads: usize,
    skipped: usize,
}

impl Plan {
    /// Parses the command line. Returns `None` if it asks for help.
    fn from_arguments() -> Result<Option<Self>> {
        use lexopt::prelude::*;
        let (mut paths, mut budget) = (Vec::new(), None);
        let mut threads = cores();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("budget") => budget = Some(arguments.value()?.parse_with(parse_size)?),
                Long("threads") => threads = arguments.value()?.parse_with(parse_threads)?,
                Long("help") | Short('h') => return Ok(None),
                Value(path) => paths.push(PathBuf::from(path)),
                _ => return Err(argument.unexpected().into()),
            }
        }
        if paths.is_empty() {
            paths.push(toolchain()?);
        }
        Self::new(paths, budget, threads).map(Some)
    }

    fn new(paths: Vec<PathBuf>, budget: Option<u64>, threads: usize) -> Result<Self> {
        // Four of the smallest windows for each thread: one that it reads, and three that stay mapped for later reads.
        let least = SMALLEST_WINDOW * 4 * threads as u64;
        if let Some(budget) = budget.filter(|&budget| budget < least) {
            let (budget, least) = (size(budget), size(least));
            return Err(format!("--budget {budget} is too small for {threads} threads: at least {least}").into());
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        let (files, skipped) = find_files(paths)?;
        if files.is_empty() {
            return Err("no file to read: every file is empty or unreadable".into());
        }
        let total = files.iter().map(|source| source.len).sum::<u64>();
        let budget = budget.unwrap_or((total / 8).min(64 * MIB).max(least));
        let window = |share: u64, largest: u64| (1_u64 << share.ilog2()).clamp(SMALLEST_WINDOW, largest);
        let scan_window = window(budget / (4 * threads as u64), 16 * MIB);
        let read_window = window(budget / 256, scan_window.min(MIB));
        Ok(Self { files, total, budget, scan_window, read_window, threads, skipped })
    }

    fn introduce(&self) {
        let Self { files, total, budget, scan_window, read_window, threads, skipped } = self;
        let cached = if *total <= WARM_LIMIT { "warmed before each measurement" } else { "not prepared" };
        println!("A tour of smmap on {} {}, {} cores", env::consts::OS, env::consts::ARCH, cores());
        println!("  files       {}, together {} ({skipped} skipped)", files.len(), size(*total));
        println!("  largest     {}, {}", files[0].path.display(), size(files[0].len));
        println!("  page cache  {cached}");
        println!("  budget      {} mapped, {threads} threads", size(*budget));
        println!("  windows     {} for scans, {} for small reads", size(*scan_window), size(*read_window));
    }

    /// Returns a new manager. Each part of the tour has its own, so that the statistics describe this part alone.
    fn manager(&self, window: u64) -> smmap::Result<MapManager> {
        let builder = MapManager::builder()
            .window(Window::Sliding { bytes: window })
            .max_mapped_bytes(self.budget)
            .max_open_files(OPEN_FILES);
        // SAFETY: the tour changes no file, and the help says that no other process may change the files during the
        // tour.
        unsafe { builder.build() }
    }

    /// Opens all files. This maps nothing yet. Any thread may open and read files.
    fn open_all(&self, maps: &MapManager) -> smmap::Result<Vec<MappedFile>> {
        self.files.par_iter().map(|source| maps.open(&source.path)).collect()
    }
}

fn parse_threads(text: &str) -> Result<usize, &'static str> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or("expected a number from 1 to 1024 for --threads")
}

fn parse_size(text: &str) -> Result<u64, &'static str> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let prefix = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = ["", "k", "m", "g", "t"].iter().position(|&known| known == prefix);
    let bytes = power.and_then(|power| digits.parse::<u64>().ok()?.checked_mul(1 << (10 * power)));
    bytes.ok_or("expected a size such as 1048576, 512KiB, 64M or 1GiB for --budget")
}

fn toolchain() -> Result<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    match sysroot.trim() {
        "" => Err("`rustc --print sysroot` returned no directory: name the files to read".into()),
        // The directory of libraries: every toolchain has it, and it contains the compiler itself.
        sysroot => Ok(Path::new(sysroot).join("lib")),
    }
}

/// Returns the non-empty regular files below `paths`, the largest first, and the number of files and directories that
/// could not be opened. Follows a symbolic link only if it is one of `paths`.
fn find_files(paths: Vec<PathBuf>) -> Result<(Vec<Source>, usize)> {
    let mut left = Vec::new();
    for path in paths {
        left.push((fs::metadata(&path).map_err(in_file(&path))?, path));
    }
    let (mut files, mut skipped) = (Vec::new(), 0);
    while let Some((about, path)) = left.pop() {
        let opened = if about.is_dir() {
            let inside = |entry: fs::DirEntry| Some((entry.metadata().ok()?, entry.path()));
            fs::read_dir(path).map(|entries| left.extend(entries.flatten().filter_map(inside)))
        } else if about.is_file() && about.len() > 0 {
            File::open(&path).map(|_| files.push(Source { path, len: about.len(), first_page: 0, open: None }))
        } else {
            continue;
        };
        skipped += usize::from(opened.is_err());
    }
    files.sort_unstable_by(|a, b| b.len.cmp(&a.len).then_with(|| a.path.cmp(&b.path)));
    let mut pages = 0;
    for source in &mut files {
        source.first_page = pages;
        pages += source.len.div_ceil(PAGE);
    }
    for source in files.iter_mut().take(OPEN_FILES) {
        source.open = Some(File::open(&source.path).map_err(in_file(&source.path))?);
    }
    Ok((files, skipped))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

// ---- Findings ----

/// The rows of the summary, the comparisons with plain reads and their differences, and the peak of mapped bytes.
#[derive(Default)]
struct Findings {
    rows: Vec<[String; 4]>,
    bytes: AtomicU64,
    reads: AtomicU64,
    differences: Mutex<Vec<String>>,
    peak_mapped: u64,
}

impl Findings {
    /// Compares bytes with a plain read into `buffer`. Any thread may call it.
    fn check(&self, source: &Source, offset: u64, got: &[u8], buffer: &mut [u8]) -> io::Result<()> {
        let expected = &mut buffer[..got.len()];
        source.read_exact_at(expected, offset)?;
        self.bytes.fetch_add(got.len() as u64, Relaxed);
        self.reads.fetch_add(1, Relaxed);
        if got != expected {
            self.add_difference(format!("{} bytes at {offset} of {}", got.len(), source.path.display()));
        }
        Ok(())
    }

    fn add_difference(&self, what: String) {
        self.differences.lock().expect("no thread panics while it holds the lock").push(what);
    }

    /// Prints the cache's statistics, and updates the peak of mapped bytes.
    fn caching(&mut self, stats: &Stats) {
        let Stats { hits, misses, maps, copies, evictions, peak_mapped_bytes, .. } = *stats;
        let ratio = 100.0 * stats.hit_ratio();
        println!("  hits {hits} ({ratio:.1} %), misses {misses}, maps {maps}, copies {copies}, evictions {evictions}");
        println!("  peak mapped {}", size(peak_mapped_bytes));
        self.peak_mapped = self.peak_mapped.max(peak_mapped_bytes);
    }

    fn row(&mut self, what: &str, smmap: &str, plain: &str, values: Option<[f64; 2]>) {
        let ratio = values.map_or(String::new(), |[smmap, plain]| format!("{:.2} x", smmap / plain));
        self.rows.push([what.into(), smmap.into(), plain.into(), ratio]);
    }

    /// Prints the summary. Returns an error if any byte differed, or if the budget was exceeded.
    fn conclude(mut self, plan: &Plan) -> Result<()> {
        let (peak, budget) = (size(self.peak_mapped), size(plan.budget));
        println!("\nSummary");
        self.rows.insert(0, ["", "smmap", "plain reads", "smmap / plain"].map(String::from));
        self.row(&format!("peak mapped, budget {budget}"), &peak, "", None);
        print_table(&self.rows);
        let differences = self.differences.into_inner()?;
        let [bytes, reads] = [self.bytes, self.reads].map(|count| HumanCount(count.into_inner()));
        println!("  verified: {bytes} bytes, {reads} reads, {} differences", differences.len());

        if let Some(first) = differences.first() {
            return Err(format!("smmap and plain reads differ (or a file has changed), first in {first}").into());
        }
        if self.peak_mapped > plan.budget {
            return Err(format!("peak of {peak} mapped, more than the budget of {budget}").into());
        }
        Ok(())
    }
}

fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Prints rows with aligned columns, the first to the left and the others to the right.
fn print_table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) {
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = array::from_fn(widest);
    for row in rows {
        let mut line = format!("  {:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        println!("{}", line.trim_end());
    }
}

/// Returns a progress bar on a terminal, and a hidden one elsewhere.
fn progress(name: &str, total: u64) -> ProgressBar {
    if !(io::stdout().is_terminal() && io::stderr().is_terminal()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {msg:24} {wide_bar} {percent:>3} % {elapsed:>4}");
    ProgressBar::new(total).with_style(style.expect("the template is valid")).with_message(name.to_owned())
}
