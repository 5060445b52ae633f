//! Invalid and extreme arguments to every public function.
//!
//! Each call must return what a slice would return, or an error of the right kind. It must not panic (except
//! `Lease::slice`, which is only called with valid ranges, because it is documented to panic), not hang, and not leak.
//! The target does not use an endless [`Overcommit::Wait`], which waits without end as requested.

#![no_main]

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::{Bound, Range};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use smmap::{Admission, Buffer, Cursor, Error, ErrorKind, Lease, Limits, MapManager, MappedFile, Overcommit, Window};
use smmap_fuzz::{Steps, assert_same, bytes_of, directory, keep, manager, pick, run};
use tempfile::TempDir;

const PAGE: u64 = 4096;
/// The length of the good file: three pages and a bit.
const LEN: u64 = 3 * PAGE + 100;

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    calls: Steps<Call, 60>,
}

#[derive(Arbitrary, Debug)]
struct Setup {
    /// The window in bytes; `None` for whole files.
    window: Option<Number>,
    bytes: Option<Number>,
    regions: Option<Number>,
    open_files: Option<Number>,
    limits: Option<[Number; 3]>,
    wait: Option<Wait>,
    always: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Wait {
    Not,
    NoTime,
    Nanosecond,
    Microseconds(u8),
}

/// A number at or near a value of interest.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Any(u64),
    AroundPages(u8, i8),
    AroundLen(i8),
    /// At most 2 less than the largest number.
    Largest(u8),
    /// At most 2 less or more than the largest signed number.
    Signed(i8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum End {
    Included(Number),
    Excluded(Number),
    Unbounded,
}

type Ends = (End, End);

#[derive(Arbitrary, Debug)]
enum Place {
    Good,
    Link,
    Indirect,
    Empty,
    Proc,
    Nothing,
    Directory,
    DirectoryByDot,
    BelowAFile,
    DanglingLink,
    LinkToItself,
    Fifo,
    Socket,
    Zero,
    NoName,
    Nul,
    Long(u16),
    LongName,
    /// A name of arbitrary bytes, also of bytes that no name may contain.
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Descriptor {
    Good,
    ReadWrite,
    WriteOnly,
    Directory,
    Zero,
    Fifo,
    Proc,
    Deleted,
    Pipe,
}

type Pick = u8;

#[derive(Arbitrary, Debug)]
enum Call {
    Open(Place),
    OpenFile(Descriptor),
    Close(Place),
    SetLimits([Number; 3]),
    Collect,
    Observe,

    Lease(Pick, Ends),
    ReadAt(Pick, u16, Number),
    ReadExactAt(Pick, u16, Number),
    Prefetch(Pick, Ends),
    Refresh(Pick),
    Windows(Pick, Number, Number),
    ParallelWindows(Pick, Number),

    SliceLease(Pick, Ends),
    LeaseAsBytes(Pick),
    DropLease(Pick),

    NewCursor(Pick),
    WindowAt(Pick, Number),
    Slice(Pick, Ends),
    Release(Pick),
    SetPosition(Pick, Number),
    SeekStart(Pick, Number),
    SeekEnd(Pick, i64),
    SeekCurrent(Pick, i64),
    Read(Pick, u16),
    ReadToEnd(Pick),
    FillBuf(Pick),
    Consume(Pick, Number),
    ReadUntil(Pick, u8),

    NewBuffer(Pick),
    Get(Pick, Number),
    GetBack(Pick, Number),
    BufferSlice(Pick, Ends),
    Find(Pick, Needle),
    FindIter(Pick, Needle, u16),
    StartsWith(Pick, Needle),
    Lines(Pick, Number),
    Split(Pick, u8, Number),
}

/// A needle to search for: a part of the file, more than the file, or arbitrary bytes (also none).
#[derive(Arbitrary, Debug)]
enum Needle {
    Part(u16, u16),
    AllAndMore(u8),
    Bytes(Vec<u8>),
}

impl Number {
    fn get(self) -> u64 {
        match self {
            Number::Small(number) => number.into(),
            Number::Any(number) => number,
            Number::AroundPages(pages, by) => (u64::from(pages) * PAGE).saturating_add_signed(i64::from(by % 3)),
            Number::AroundLen(by) => LEN.saturating_add_signed(i64::from(by % 3)),
            Number::Largest(by) => u64::MAX - u64::from(by % 3),
            Number::Signed(by) => (i64::MAX as u64).saturating_add_signed(i64::from(by % 3)),
        }
    }

    fn as_usize(self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }
}

impl End {
    fn get(self) -> Bound<u64> {
        match self {
            End::Included(number) => Bound::Included(number.get()),
            End::Excluded(number) => Bound::Excluded(number.get()),
            End::Unbounded => Bound::Unbounded,
        }
    }
}

/// Returns the range that the bounds mean for `len` bytes, or `None` if it is not inside them.
fn resolve((start, end): Ends, len: u64) -> Option<Range<u64>> {
    let start = match start.get() {
        Bound::Included(start) => start,
        Bound::Excluded(before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match end.get() {
        Bound::Included(last) => last.checked_add(1)?,
        Bound::Excluded(end) => end,
        Bound::Unbounded => len,
    };
    (start <= end && end <= len).then_some(start..end)
}

impl Needle {
    fn get(&self) -> Vec<u8> {
        let all = content();
        match self {
            Needle::Part(from, to) => {
                let [from, to] = [from, to].map(|at| usize::from(*at) % all.len());
                all[from.min(to)..from.max(to)].to_vec()
            }
            Needle::AllAndMore(more) => [all, &bytes_of(9, 0..u64::from(*more))].concat(),
            Needle::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// Returns the content of the good file.
fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| bytes_of(1, 0..LEN))
}

/// Creates one file of each kind in the directory.
fn fill(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir.join("directory"))?;
    fs::write(dir.join("good"), content())?;
    fs::write(dir.join("empty"), "")?;
    for (to, link) in [("good", "link"), ("nowhere", "dangling"), ("loop", "loop")] {
        symlink(to, dir.join(link))?;
    }
    // The name stays when the listener is dropped.
    UnixListener::bind(dir.join("socket"))?;
    let fifo = CString::new(dir.join("fifo").into_os_string().into_encoded_bytes())?;
    // SAFETY: `fifo` is a zero-terminated string, which lives until the call returns.
    match unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

struct World {
    dir: TempDir,
    maps: MapManager,
    /// The files. The flag is `true` for the good file, and `false` for the empty one.
    files: Vec<(bool, MappedFile)>,
    cursors: Vec<(bool, Cursor)>,
    buffers: Vec<(bool, Buffer)>,
    leases: Vec<Lease>,
}

/// Panics unless the budget refused the call, and may do so. No other error is possible: the files do not change, and
/// the OS has enough of all resources.
fn assert_excused(what: &str, error: &Error, may_be_refused: bool) {
    assert!(may_be_refused && error.kind() == ErrorKind::OverBudget, "{what}: {error} ({:?})", error.kind());
    assert!(!error.to_string().is_empty() && !format!("{error:?}").is_empty());
}

fn expect_range(what: &str, is_good: bool, ends: Ends, may_be_refused: bool, result: smmap::Result<&[u8]>) {
    let content = if is_good { content() } else { &[] };
    match (resolve(ends, content.len() as u64), result) {
        (Some(range), Ok(found)) => assert_same(found, &content[range.start as usize..range.end as usize], what),
        (Some(_), Err(error)) => assert_excused(what, &error, may_be_refused),
        (None, Ok(found)) => panic!("{what}: {} bytes for {ends:?}", found.len()),
        (None, Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{what} of {ends:?}: {error}");
            assert!(error.range().is_some(), "{error}");
            let converted = io::Error::from(error);
            assert_eq!(converted.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

impl World {
    /// Builds the manager. Returns `None` if the settings are invalid, after it has checked the error.
    fn new(setup: &Setup) -> Option<Self> {
        let limits = setup.limits.map(|limits| {
            let [max_mapped_bytes, max_regions, max_open_files] = limits;
            Limits {
                max_mapped_bytes: max_mapped_bytes.get(),
                max_regions: max_regions.as_usize(),
                max_open_files: max_open_files.as_usize(),
            }
        });
        let window = setup.window.map_or(Window::WholeFile, |bytes| Window::Sliding { bytes: bytes.get() });
        let mut builder = MapManager::builder().window(window).admission(if setup.always {
            Admission::Always
        } else {
            Admission::Adaptive
        });
        if let Some(limits) = limits {
            builder = builder.limits(limits);
        }
        if let Some(bytes) = setup.bytes {
            builder = builder.max_mapped_bytes(bytes.get());
        }
        if let Some(regions) = setup.regions {
            builder = builder.max_regions(regions.as_usize());
        }
        if let Some(open_files) = setup.open_files {
            builder = builder.max_open_files(open_files.as_usize());
        }
        builder = match setup.wait {
            None => builder,
            Some(Wait::Not) => builder.overcommit(Overcommit::Fail),
            Some(Wait::NoTime) => builder.overcommit(Overcommit::Wait(Duration::ZERO)),
            Some(Wait::Nanosecond) => builder.overcommit(Overcommit::Wait(Duration::from_nanos(1))),
            Some(Wait::Microseconds(time)) => {
                builder.overcommit(Overcommit::Wait(Duration::from_micros(u64::from(time % 64))))
            }
        };
        assert!(!format!("{builder:?}").is_empty());

        let default = limits.unwrap_or_default();
        let bytes = setup.bytes.map_or(default.max_mapped_bytes, Number::get);
        let regions = setup.regions.map_or(default.max_regions, Number::as_usize);
        let open_files = setup.open_files.map_or(default.max_open_files, Number::as_usize);
        let is_sliding_too_little = window != Window::WholeFile && bytes < PAGE;
        let is_none = bytes == 0 || regions == 0 || open_files == 0 || window == Window::Sliding { bytes: 0 };
        let maps = match manager(builder) {
            Ok(maps) => maps,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
                assert!(is_none || is_sliding_too_little, "{setup:?}: {error}");
                return None;
            }
        };
        assert!(!is_none && !is_sliding_too_little, "{setup:?} was accepted");
        assert!(maps.window_bytes().is_none_or(|window| window >= PAGE && window % PAGE == 0 && window <= bytes));

        let dir = directory();
        fill(dir.path()).expect("the files are created");
        Some(Self { dir, maps, files: Vec::new(), cursors: Vec::new(), buffers: Vec::new(), leases: Vec::new() })
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the path, and the result of opening it: `true` for the good file, `false` for the empty one, or an
    /// error.
    fn path(&self, place: &Place) -> (PathBuf, Result<bool, ErrorKind>) {
        use ErrorKind::{Io, NotAFile};
        match place {
            Place::Good => (self.at("good"), Ok(true)),
            Place::Link => (self.at("link"), Ok(true)),
            Place::Indirect => (self.at("./directory/../good"), Ok(true)),
            Place::Empty => (self.at("empty"), Ok(false)),
            Place::Proc => ("/proc/self/status".into(), Err(NotAFile)),
            Place::Nothing => (self.at("nothing"), Err(Io)),
            Place::Directory => (self.at("directory"), Err(NotAFile)),
            Place::DirectoryByDot => (self.at("."), Err(NotAFile)),
            Place::BelowAFile => (self.at("good/below"), Err(Io)),
            Place::DanglingLink => (self.at("dangling"), Err(Io)),
            Place::LinkToItself => (self.at("loop"), Err(Io)),
            Place::Fifo => (self.at("fifo"), Err(NotAFile)),
            Place::Socket => (self.at("socket"), Err(NotAFile)),
            Place::Zero => ("/dev/zero".into(), Err(NotAFile)),
            Place::NoName => (PathBuf::new(), Err(Io)),
            Place::Nul => (self.at("go\0od"), Err(Io)),
            Place::Long(len) => (self.at("d/".repeat(2048 + usize::from(*len))), Err(Io)),
            Place::LongName => (self.at("n".repeat(256)), Err(Io)),
            Place::Bytes(bytes) => {
                // A name in this directory, which does not lead out of it.
                let name: Vec<u8> = bytes.iter().map(|&byte| if byte == b'/' { b'_' } else { byte }).collect();
                let path = self.at(OsStr::from_bytes(&name));
                match fs::metadata(&path) {
                    Ok(about) if about.is_file() => (path, Ok(about.len() > 0)),
                    Ok(_) if name == b".." => (self.at("directory"), Err(NotAFile)),
                    Ok(_) => (path, Err(NotAFile)),
                    Err(_) => (path, Err(Io)),
                }
            }
        }
    }

    fn descriptor(&self, descriptor: Descriptor) -> (File, Result<bool, ErrorKind>) {
        use ErrorKind::{Io, NotAFile};
        let good = self.at("good");
        let open = |path: &Path| File::open(path).expect("the file opens");
        match descriptor {
            Descriptor::Good => (open(&good), Ok(true)),
            Descriptor::ReadWrite => {
                (OpenOptions::new().read(true).write(true).open(good).expect("the file opens"), Ok(true))
            }
            Descriptor::WriteOnly => (OpenOptions::new().write(true).open(good).expect("the file opens"), Err(Io)),
            Descriptor::Directory => (open(self.dir.path()), Err(NotAFile)),
            Descriptor::Zero => (open(Path::new("/dev/zero")), Err(NotAFile)),
            // Open for reading and writing, which does not wait for the other end.
            Descriptor::Fifo => {
                let fifo = OpenOptions::new().read(true).write(true).open(self.at("fifo"));
                (fifo.expect("the FIFO opens"), Err(NotAFile))
            }
            Descriptor::Proc => (open(Path::new("/proc/self/status")), Err(NotAFile)),
            Descriptor::Deleted => {
                let path = self.at("deleted");
                fs::write(&path, content()).expect("the file is written");
                let file = open(&path);
                fs::remove_file(path).expect("the file is deleted");
                (file, Ok(true))
            }
            Descriptor::Pipe => {
                let (reader, _) = io::pipe().expect("the pipe is created");
                (std::os::fd::OwnedFd::from(reader).into(), Err(NotAFile))
            }
        }
    }

    fn opened(&mut self, what: &str, expected: Result<bool, ErrorKind>, opened: smmap::Result<MappedFile>) {
        match (expected, opened) {
            (Ok(is_good), Ok(file)) => {
                assert_eq!(file.len(), if is_good { LEN } else { 0 });
                assert_eq!(file.is_empty(), !is_good);
                keep(&mut self.files, (is_good, file));
            }
            (Err(kind), Err(error)) => assert!(
                error.kind() == kind || error.kind() == ErrorKind::OverBudget,
                "{what}: {error} ({:?}, expected {kind:?})",
                error.kind()
            ),
            (Ok(_), Err(error)) => assert_excused(what, &error, true),
            (Err(kind), Ok(file)) => panic!("{what}: {file:?}, expected {kind:?}"),
        }
    }

    fn run(&mut self, call: &Call) {
        match *call {
            Call::Open(ref place) => {
                let (path, expected) = self.path(place);
                let opened = self.maps.open(&path);
                if let Err(error) = &opened {
                    assert_eq!(error.path(), Some(&*path), "{error}");
                }
                self.opened("open", expected, opened);
            }
            Call::OpenFile(descriptor) => {
                let (file, expected) = self.descriptor(descriptor);
                let opened = self.maps.open_file(file);
                self.opened("open_file", expected, opened);
            }
            Call::Close(ref place) => drop(self.maps.close(self.path(place).0)),
            Call::SetLimits(limits) => {
                let before = self.maps.limits();
                let limits = Limits {
                    max_mapped_bytes: limits[0].get(),
                    max_regions: limits[1].as_usize(),
                    max_open_files: limits[2].as_usize(),
                };
                match self.maps.set_limits(limits) {
                    Ok(()) => assert_eq!(self.maps.limits(), limits),
                    Err(error) => {
                        assert_eq!((error.kind(), self.maps.limits()), (ErrorKind::InvalidConfig, before));
                        assert!(limits.max_mapped_bytes == 0 || limits.max_regions == 0 || limits.max_open_files == 0);
                    }
                }
            }
            Call::Collect => drop(self.maps.collect()),
            Call::Observe => {
                let stats = self.maps.stats();
                assert!((0.0..=1.0).contains(&stats.hit_ratio()) && stats.unmaps <= stats.maps, "{stats:?}");
                let text = format!("{:?}{:?}{:?}{:?}", self.maps, self.files, self.cursors, self.buffers);
                assert!(text.len() > 40, "{text}");
            }

            Call::Lease(which, ends) => {
                if let Some(index) = pick(&self.files, which) {
                    let (is_good, file) = &self.files[index];
                    match file.lease((ends.0.get(), ends.1.get())) {
                        Ok(lease) => {
                            expect_range("lease", *is_good, ends, false, Ok(&lease));
                            let range = resolve(ends, file.len());
                            assert_eq!(Some(lease.offset()), range.map(|range| range.start));
                            keep(&mut self.leases, lease);
                        }
                        Err(error) => expect_range("lease", *is_good, ends, false, Err(error)),
                    }
                }
            }
            Call::ReadAt(which, len, offset) => self.with_file(which, |content, file| {
                let (mut buf, offset) = (vec![7; usize::from(len)], offset.get());
                let expected =
                    usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
                let expected = &expected[..expected.len().min(buf.len())];
                let read = file.read_at(&mut buf, offset).expect("the budget does not refuse a copy");
                assert_same(&buf[..read], expected, "read_at");
                assert!(buf[read..].iter().all(|&byte| byte == 7), "read_at wrote beyond the returned length");
            }),
            Call::ReadExactAt(which, len, offset) => self.with_file(which, |content, file| {
                let (mut buf, offset) = (vec![7; usize::from(len)], offset.get());
                let end = offset.checked_add(len.into()).filter(|&end| end <= content.len() as u64);
                match (end, file.read_exact_at(&mut buf, offset)) {
                    (Some(end), Ok(())) => assert_same(&buf, &content[offset as usize..end as usize], "read_exact_at"),
                    (None, Err(error)) => assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{error}"),
                    (end, result) => panic!("read_exact_at {offset} to {end:?}: {result:?}"),
                }
            }),
            Call::Prefetch(which, ends) => self.with_file(which, |content, file| {
                let is_inside = resolve(ends, content.len() as u64).is_some();
                match file.prefetch((ends.0.get(), ends.1.get())) {
                    Ok(()) => assert!(is_inside, "prefetch {ends:?}"),
                    Err(error) if is_inside => assert_excused("prefetch", &error, true),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{error}"),
                }
                match file.verify((ends.0.get(), ends.1.get())) {
                    Ok(()) => assert!(is_inside, "verify {ends:?}"),
                    Err(error) => assert!(!is_inside && error.kind() == ErrorKind::OutOfBounds, "{error}"),
                }
            }),
            Call::Refresh(which) => self.with_file(which, |_, file| {
                if let Err(error) = file.refresh() {
                    assert_excused("refresh", &error, true);
                }
            }),
            Call::Windows(which, first, last) => self.with_file(which, |content, file| {
                let mut windows = file.windows();
                let count = windows.len();
                assert!(!format!("{windows:?}").is_empty() && windows.size_hint() == (count, Some(count)));
                for (next, skipped) in
                    [(windows.clone().nth(first.as_usize()), first), (windows.nth_back(last.as_usize()), last)]
                {
                    assert_eq!(next.is_some(), skipped.as_usize() < count, "one of {count}");
                    match next {
                        Some(Ok(lease)) => {
                            let start = lease.offset() as usize;
                            assert_same(&lease, &content[start..start + lease.len()], "a window");
                        }
                        Some(Err(error)) => assert_excused("windows", &error, true),
                        None => {}
                    }
                }
            }),
            Call::ParallelWindows(which, skipped) => self.with_file(which, |content, file| {
                let windows = file.par_windows();
                assert!(!format!("{windows:?}").is_empty());
                let (count, skipped) = (windows.len(), skipped.as_usize());
                let bytes: usize = windows.skip(skipped).map(|window| window.map_or(0, |bytes| bytes.len())).sum();
                assert!(bytes <= content.len() && (bytes == 0 || skipped < count));
            }),

            Call::SliceLease(which, ends) => {
                if let Some(index) = pick(&self.leases, which) {
                    let lease = &self.leases[index];
                    // `Lease::slice` panics on other ranges, as slices do.
                    if let Some(range) = resolve(ends, lease.len() as u64) {
                        let bound = |end: End| match end.get() {
                            Bound::Included(number) => Bound::Included(number as usize),
                            Bound::Excluded(number) => Bound::Excluded(number as usize),
                            Bound::Unbounded => Bound::Unbounded,
                        };
                        let part = lease.slice((bound(ends.0), bound(ends.1)));
                        assert_same(&part, &lease[range.start as usize..range.end as usize], "a part of a lease");
                        assert_eq!(part.offset(), lease.offset() + range.start);
                        assert!(part.is_empty() || part.is_mapped() == lease.is_mapped());
                        part.check().expect("no file is truncated");
                        keep(&mut self.leases, part);
                    }
                }
            }
            Call::LeaseAsBytes(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    let lease = &self.leases[index];
                    let bytes = bytes::Bytes::from(lease.clone());
                    assert_same(&bytes, lease.as_ref(), "as Bytes");
                    let hash = |value: &dyn Fn(&mut DefaultHasher)| {
                        let mut hasher = DefaultHasher::new();
                        value(&mut hasher);
                        hasher.finish()
                    };
                    assert_eq!(hash(&|hasher| lease.hash(hasher)), hash(&|hasher| bytes[..].hash(hasher)));
                    assert!(*lease == bytes[..] && *lease == lease.clone() && !format!("{lease:?}").is_empty());
                    assert_eq!(*lease == Lease::default(), lease.is_empty());
                }
            }
            Call::DropLease(which) => {
                if let Some(index) = pick(&self.leases, which) {
                    self.leases.swap_remove(index);
                }
            }

            Call::NewCursor(which) => {
                if let Some(index) = pick(&self.files, which) {
                    let (is_good, file) = &self.files[index];
                    keep(&mut self.cursors, (*is_good, file.cursor()));
                }
            }
            Call::WindowAt(which, offset) => self.with_cursor(which, |content, cursor| {
                let offset = offset.get();
                let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
                match cursor.window_at(offset) {
                    Ok(found) => assert!(rest.starts_with(found) && found.is_empty() == rest.is_empty()),
                    Err(error) => assert_excused("window_at", &error, true),
                }
            }),
            Call::Slice(which, ends) => self.with_cursor(which, |content, cursor| {
                let result = cursor.slice((ends.0.get(), ends.1.get()));
                expect_range("slice", !content.is_empty(), ends, false, result);
                cursor.check((ends.0.get(), ends.1.get())).expect("no file is truncated");
            }),
            Call::Release(which) => self.with_cursor(which, |_, cursor| {
                cursor.release();
                *cursor = cursor.clone();
                assert!(cursor.file().path().is_none_or(|path| !path.as_os_str().is_empty()));
            }),
            Call::SetPosition(which, position) => self.with_cursor(which, |_, cursor| {
                cursor.set_position(position.get());
                assert_eq!(cursor.stream_position().ok(), Some(position.get()));
            }),
            Call::SeekStart(which, offset) => self.with_cursor(which, |_, cursor| {
                assert_eq!(cursor.seek(SeekFrom::Start(offset.get())).ok(), Some(offset.get()));
            }),
            Call::SeekEnd(which, by) => self.with_cursor(which, |content, cursor| {
                expect_seek(cursor, SeekFrom::End(by), (content.len() as u64).checked_add_signed(by));
            }),
            Call::SeekCurrent(which, by) => self.with_cursor(which, |_, cursor| {
                expect_seek(cursor, SeekFrom::Current(by), cursor.position().checked_add_signed(by));
            }),
            Call::Read(which, len) => self.with_cursor(which, |content, cursor| {
                let (mut buf, at) = (vec![7; usize::from(len)], cursor.position());
                let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
                let read = cursor.read(&mut buf).expect("the budget does not refuse a copy");
                assert!(rest.starts_with(&buf[..read]) && (read == 0) == (rest.is_empty() || len == 0));
                assert_eq!(cursor.position(), at + read as u64);
            }),
            Call::ReadToEnd(which) => self.with_cursor(which, |content, cursor| {
                let (mut bytes, at) = (Vec::new(), cursor.position());
                let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
                let read = cursor.read_to_end(&mut bytes).expect("the budget does not refuse a copy");
                assert_eq!(read, rest.len());
                assert_same(&bytes, rest, "read_to_end");
            }),
            Call::FillBuf(which) => self.with_cursor(which, |content, cursor| {
                let at = cursor.position();
                let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
                if let Ok(found) = cursor.fill_buf() {
                    assert!(rest.starts_with(found) && found.is_empty() == rest.is_empty());
                }
            }),
            // May exceed the file's length: the position then saturates.
            Call::Consume(which, amount) => self.with_cursor(which, |_, cursor| {
                let expected = cursor.position().saturating_add(amount.as_usize() as u64);
                cursor.consume(amount.as_usize());
                assert_eq!(cursor.position(), expected);
            }),
            Call::ReadUntil(which, byte) => self.with_cursor(which, |content, cursor| {
                let (mut bytes, at) = (Vec::new(), cursor.position());
                let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
                let result = cursor.read_until(byte, &mut bytes);
                assert!(rest.starts_with(&bytes));
                let is_all = bytes.last() == Some(&byte) || bytes.len() == rest.len();
                assert!(result.is_err() || is_all, "read_until stopped before the separator and the end");
            }),

            Call::NewBuffer(which) => {
                if let Some(index) = pick(&self.files, which) {
                    let (is_good, file) = &self.files[index];
                    let buffer = file.buffer().clone();
                    assert_eq!((buffer.len(), buffer.is_empty()), (file.len(), !is_good));
                    assert_eq!(buffer.file().path(), file.path());
                    keep(&mut self.buffers, (*is_good, buffer));
                }
            }
            Call::Get(which, index) => self.with_buffer(which, |content, buffer| {
                let expected = content.get(index.as_usize()).copied();
                assert_eq!(buffer.get(index.get()).expect("the budget does not refuse a copy"), expected);
            }),
            Call::GetBack(which, index) => self.with_buffer(which, |content, buffer| {
                let expected = content.iter().nth_back(index.as_usize()).copied();
                assert_eq!(buffer.get_back(index.get()).expect("the budget does not refuse a copy"), expected);
            }),
            Call::BufferSlice(which, ends) => self.with_buffer(which, |content, buffer| {
                let result = buffer.slice((ends.0.get(), ends.1.get()));
                expect_range("slice of a buffer", !content.is_empty(), ends, false, result);
                buffer.check((ends.0.get(), ends.1.get())).expect("no file is truncated");
                buffer.release();
            }),
            Call::Find(which, ref needle) => self.with_buffer(which, |content, buffer| {
                let needle = needle.get();
                let (first, last) = (memchr::memmem::find(content, &needle), memchr::memmem::rfind(content, &needle));
                let [first, last] = [first, last].map(|at| at.map(|at| at as u64));
                expect("find", first, buffer.find(&needle));
                expect("rfind", last, buffer.rfind(&needle));
            }),
            Call::FindIter(which, ref needle, skipped) => self.with_buffer(which, |content, buffer| {
                let (needle, skipped) = (needle.get(), usize::from(skipped) % 300);
                let expected = memchr::memmem::find_iter(content, &needle).nth(skipped).map(|at| at as u64);
                let mut found = buffer.find_iter(&needle);
                assert!(!format!("{found:?}").is_empty());
                match found.nth(skipped).transpose() {
                    // The iterator ends after its first error.
                    Ok(None) | Err(_) => {}
                    found => expect("find_iter", expected, found),
                }
            }),
            Call::StartsWith(which, ref needle) => self.with_buffer(which, |content, buffer| {
                let needle = needle.get();
                expect("starts_with", content.starts_with(&needle), buffer.starts_with(&needle));
                expect("ends_with", content.ends_with(&needle), buffer.ends_with(&needle));
                expect("equals", content == needle, buffer.equals(&needle));
                expect("compare", content.cmp(&needle[..]), buffer.compare(&needle));
            }),
            Call::Lines(which, skipped) => self.with_buffer(which, |content, buffer| {
                let mut lines = buffer.lines();
                assert!(!format!("{lines:?}").is_empty());
                if let Some(Ok(line)) = lines.nth(skipped.as_usize()) {
                    let expected =
                        content.split(|&byte| byte == b'\n').nth(skipped.as_usize()).expect("the line exists");
                    assert_same(&line, expected.strip_suffix(b"\r").unwrap_or(expected), "a line");
                }
            }),
            Call::Split(which, separator, skipped) => self.with_buffer(which, |content, buffer| {
                let mut pieces = buffer.split(separator);
                assert!(!format!("{pieces:?}").is_empty());
                if let Some(Ok(piece)) = pieces.nth(skipped.as_usize()) {
                    let expected = content.split(|&byte| byte == separator).nth(skipped.as_usize());
                    assert_same(&piece, expected.expect("the piece exists"), "a piece");
                }
            }),
        }
    }

    fn with_file(&mut self, which: Pick, work: impl FnOnce(&[u8], &MappedFile)) {
        if let Some(index) = pick(&self.files, which) {
            let (is_good, file) = &self.files[index];
            work(if *is_good { content() } else { &[] }, file);
        }
    }

    fn with_cursor(&mut self, which: Pick, work: impl FnOnce(&[u8], &mut Cursor)) {
        if let Some(index) = pick(&self.cursors, which) {
            let (is_good, cursor) = &mut self.cursors[index];
            work(if *is_good { content() } else { &[] }, cursor);
        }
    }

    fn with_buffer(&mut self, which: Pick, work: impl FnOnce(&[u8], &mut Buffer)) {
        if let Some(index) = pick(&self.buffers, which) {
            let (is_good, buffer) = &mut self.buffers[index];
            work(if *is_good { content() } else { &[] }, buffer);
        }
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, result: smmap::Result<T>) {
    match result {
        Ok(found) => assert_eq!(found, expected, "{what}"),
        Err(error) => assert_excused(what, &error, true),
    }
}

fn expect_seek(cursor: &mut Cursor, to: SeekFrom, expected: Option<u64>) {
    let before = cursor.position();
    match (cursor.seek(to), expected) {
        (Ok(found), Some(expected)) => assert_eq!((found, cursor.position()), (expected, expected), "{to:?}"),
        (Err(error), None) => {
            assert_eq!((error.kind(), cursor.position()), (io::ErrorKind::InvalidInput, before), "{to:?}");
        }
        (found, expected) => panic!("{to:?} from {before}: {found:?}, expected {expected:?}"),
    }
}

fuzz_target!(|input: Input| {
    run(|| {
        let Some(mut world) = World::new(&input.setup) else { return };
        // Start with some objects.
        for call in [Call::Open(Place::Good), Call::NewCursor(0), Call::NewBuffer(0)].iter().chain(&input.calls.0) {
            world.run(call);
        }
        let World { maps, files, cursors, buffers, leases, dir: _dir } = world;
        drop((files, cursors, buffers, leases));
        maps.collect();
        let began = std::time::Instant::now();
        // The collector may still be unmapping regions that it owns.
        while maps.stats().mapped_bytes > 0 && began.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        assert_eq!(maps.stats().mapped_bytes, 0, "{:?}", maps.stats());
    });
});
