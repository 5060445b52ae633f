//! Files that are cut short while they are mapped and read, each test in a process of its own: a signal belongs to a whole
//! process, and some of these end theirs.
#![cfg(all(unix, feature = "fault-guard"))]
#![allow(unsafe_code, reason = "signals, and mappings that are not the library's")]

#[path = "it/support.rs"]
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, process, ptr, thread};

use smmap::{
    Admission, Change, Error, ErrorKind, Lease, MapManager, MappedFile, Overcommit, Revalidate, Window, fault_guard,
};

use crate::support::{Dir, Rng, alone, bytes, manager, settles};

const KIB: u64 = 1 << 10;
const WINDOW: u64 = 64 * KIB;

/// A child that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

fn guarded() -> MapManager {
    fault_guard::install().expect("a handler");
    manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always))
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).expect("the file is there").set_len(len).expect("it can be cut");
}

#[track_caller]
fn assert_cut<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("it was cut short");
    assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::OutOfBounds), "{error}");
    assert!(error.path().is_some(), "{error}");
}

/// What a test that ends its process does in there; `None` in the one that waits for it.
fn apart(test: &str) -> Option<Output> {
    const NAME: &str = "SMMAP_TEST_APART";
    if env::var_os(NAME).is_some_and(|apart| apart == test) {
        return None;
    }
    let mut child = Command::new(env::current_exe().expect("this binary"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, test)
        .stdout(process::Stdio::piped())
        .stderr(process::Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let start = Instant::now();
    while child.try_wait().expect("a child of ours").is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().expect("a child of ours");
            let output = child.wait_with_output().expect("a child of ours");
            panic!("{test} hung:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().expect("a child of ours"))
}

#[track_caller]
fn assert_died(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{:?}\n{said}", output.status);
}

/// Each way to read, of a file that was cut to half of its length while all of it was mapped and held.
#[test]
fn every_way_to_read_says_that_the_file_was_cut() {
    if !alone("every_way_to_read_says_that_the_file_was_cut") {
        return;
    }
    const LEN: u64 = 8 * WINDOW;
    const CUT: u64 = 4 * WINDOW + 10_000;
    let dir = Dir::new();
    let data = dir.file("cut", LEN, 1);
    let maps = guarded();
    let gone = CUT + 8 * KIB..CUT + 9 * KIB;

    let each = |read: &dyn Fn(&MappedFile)| {
        fs::write(&data.path, &*data.bytes).expect("it can be written");
        let file = maps.open(&data.path).expect("it is there");
        let held: Vec<Lease> = file.windows().collect::<Result<_, _>>().expect("it is all there");
        assert!(held.iter().all(|lease| lease.check().is_ok()));
        read(&file);
        drop(held);
        maps.collect();
        assert_eq!(maps.stats().mapped_bytes, 0);
    };
    let mut buf = [1; KIB as usize];
    each(&|file| {
        cut(&data.path, CUT);
        let mut buf = buf;
        assert_cut(file.read_at(&mut buf, gone.start));
        assert_cut(file.read_at(&mut buf, gone.start));
        assert_eq!(file.refresh().expect("it is there"), Change::Truncated);
        assert_eq!(file.read_at(&mut buf, gone.start).expect("past the end"), 0);
        assert_eq!(file.read_at(&mut buf, CUT - 500).expect("up to the end"), 500);
        assert_eq!(buf[..500], data[CUT as usize - 500..CUT as usize]);
    });
    each(&|file| {
        cut(&data.path, CUT);
        assert_cut(file.read_exact_at(&mut buf.clone(), gone.start));
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.set_position(gone.start);
        cut(&data.path, CUT);
        let error = cursor.read(&mut buf.clone()).expect_err("it was cut short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    });
    each(&|file| {
        let mut cursor = file.cursor();
        let slice = cursor.slice(gone.clone()).expect("it is mapped");
        let address = slice.as_ptr();
        cut(&data.path, CUT);
        // SAFETY: the cursor holds it. (Not by way of the slice: these bytes have changed.)
        assert_eq!(unsafe { address.read_volatile() }, 0, "zeros in the place of what is gone");
        assert_cut(cursor.check(gone.clone()));
        assert_cut(cursor.slice(gone.clone()).map(<[u8]>::to_vec));
        let rest = cursor.slice(CUT - 100..CUT).expect("it is there").to_vec();
        cursor.check(CUT - 100..CUT).expect("it is there");
        assert_eq!(rest, data[CUT as usize - 100..CUT as usize]);
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.window_at(gone.start).expect("it is mapped");
        cut(&data.path, CUT);
        let _ = cursor.window_at(gone.start).expect("it holds that").iter().map(|&byte| u64::from(byte)).sum::<u64>();
        assert_cut(cursor.window_at(gone.start).map(<[u8]>::len));
        file.refresh().expect("it is there");
        assert_eq!(cursor.window_at(gone.start).expect("past the end by now").len(), 0);
    });
    each(&|file| {
        let lease = file.lease(gone.clone()).expect("it is mapped");
        let (whole, before) = (file.lease(3 * WINDOW..LEN).expect("mapped"), file.lease(CUT - 5..CUT).expect("mapped"));
        cut(&data.path, CUT);
        assert!(lease.iter().all(|&byte| byte == 0));
        assert_cut(lease.check());
        assert_cut(lease.clone().slice(1..2).check());
        assert_cut(whole.check());
        before.check().expect("it is there");
        assert_eq!(before[..], data[CUT as usize - 5..CUT as usize]);
    });
    each(&|file| {
        cut(&data.path, CUT);
        assert_cut(file.verify(..));
        file.verify(..CUT).expect("it is there");
    });
    each(&|file| {
        let mut buffer = file.buffer();
        assert_eq!(buffer.get(gone.start).expect("it is there"), Some(data[gone.start as usize]));
        cut(&data.path, CUT);
        assert_cut(buffer.get(gone.start + 1));
        file.refresh().expect("it is there");
        assert_eq!(buffer.get(gone.start + 1).expect("past the end"), None);
    });
    each(&|file| {
        let needle = &data[gone.start as usize..gone.start as usize + 20];
        cut(&data.path, CUT);
        assert_cut(file.buffer().find(needle));
        file.refresh().expect("it is there");
        assert_eq!(file.buffer().find(needle).expect("what is left of it"), None);
    });
    each(&|file| {
        let needle = &data[..20];
        cut(&data.path, CUT);
        assert_cut(file.buffer().rfind(needle));
        file.refresh().expect("it is there");
        assert_eq!(file.buffer().rfind(needle).expect("what is left of it"), Some(0));
    });
    each(&|file| {
        cut(&data.path, CUT);
        assert_cut(file.buffer().equals(&data));
    });
    each(&|file| {
        let mut lines = 0;
        cut(&data.path, CUT);
        let told = file.buffer().lines().find_map(|line| match line {
            Ok(line) => {
                lines += line.len() + 1;
                None
            }
            Err(error) => Some(error),
        });
        assert_cut(Err::<(), _>(told.expect("an error")));
        assert!(lines as u64 <= CUT + 1);
    });
    each(&|file| {
        let mut pieces = file.buffer().split(0);
        cut(&data.path, CUT);
        assert_cut(pieces.find_map(Result::err).map_or(Ok(()), Err));
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.set_position(4 * WINDOW);
        cut(&data.path, CUT);
        let rest = cursor.fill_buf().expect("it is mapped").to_vec();
        assert!(rest.iter().rev().take(KIB as usize).all(|&byte| byte == 0));
        assert_cut(cursor.check(..));
        cursor.consume(rest.len());
        assert_eq!(cursor.fill_buf().expect_err("zeros were consumed").kind(), io::ErrorKind::UnexpectedEof);
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cut(&data.path, CUT);
        let mut all = Vec::new();
        let error = cursor.read_until(b'\n', &mut all).and_then(|_| {
            while cursor.read_until(b'\n', &mut all)? > 0 {}
            Ok(())
        });
        assert_eq!(error.expect_err("it was cut short").kind(), io::ErrorKind::UnexpectedEof);
    });
    // Who reads elsewhere is not disturbed.
    each(&|file| {
        let mut cursor = file.cursor();
        let mut buffer = file.buffer();
        cursor.slice(CUT - 10..CUT).expect("it is mapped");
        buffer.slice(CUT - 10..CUT).expect("it is mapped");
        let lease = file.lease(gone.clone()).expect("it is mapped");
        cut(&data.path, CUT);
        assert_eq!(lease[0], 0);
        assert_eq!(cursor.slice(10..20).expect("another window"), &data[10..20]);
        assert_eq!(buffer.get(20).expect("another window"), Some(data[20]));
        let maps_before = maps.stats().maps;
        for at in 0..100 {
            assert_eq!(cursor.slice(at..at + 5).expect("its window"), &data[at as usize..at as usize + 5]);
        }
        assert_eq!(maps.stats().maps, maps_before, "one window, held on to");
    });
    buf.fill(0);
}

/// Where a file ends inside a page, no signal comes: the length says it.
#[test]
fn what_is_gone_inside_the_last_page_is_no_zero() {
    const CUT: u64 = 10_000;
    let dir = Dir::new();
    let data = dir.file("inside", 3 * 4096, 2);
    let maps = guarded();
    let file = maps.open(&data.path).unwrap();
    let lease = file.lease(..).unwrap();
    let mut cursor = file.cursor();
    assert_eq!(cursor.slice(..).unwrap(), &data[..]);
    cut(&data.path, CUT);
    assert!(lease[CUT as usize..].iter().all(|&byte| byte == 0));
    assert_cut(cursor.check(CUT..CUT + 1));
    cursor.check(..CUT).unwrap();
    lease.slice(..CUT as usize).check().unwrap();

    let other = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always));
    let again = |len: u64| {
        fs::write(&data.path, &*data.bytes).unwrap();
        let file = other.open(&data.path).unwrap();
        assert_eq!(file.read_at(&mut [0; 8], 0).unwrap(), 8);
        cut(&data.path, len);
        file
    };
    assert_cut(again(CUT).read_at(&mut [0; 10], CUT));
    assert_cut(again(CUT).read_at(&mut [0; 100], CUT - 99));
    assert_cut(again(CUT).read_at(&mut [0; 8192], CUT - 8000));
    assert_cut(again(CUT).buffer().get(CUT));
    assert_cut(lease.check());
    let mut line = String::new();
    let mut reader = again(CUT).cursor();
    reader.set_position(CUT - 1);
    assert!(reader.read_line(&mut line).is_err() || line.bytes().all(|byte| byte != 0));
    // Who says that files never change is not asked to pay for it.
    let never = manager(MapManager::builder().window(Window::WholeFile).revalidate(Revalidate::Never));
    fs::write(&data.path, &*data.bytes).unwrap();
    let file = never.open(&data.path).unwrap();
    let lease = file.lease(..).unwrap();
    cut(&data.path, CUT);
    lease.check().unwrap();
}

/// Zeros that are in the file are data.
#[test]
fn a_file_of_zeros_is_no_hole() {
    let dir = Dir::new();
    let data = dir.write("zeros", vec![0; 3 * WINDOW as usize + 17]);
    let maps = guarded();
    let file = maps.open(&data.path).unwrap();
    let mut all = vec![1; data.len() as usize];
    assert_eq!(file.read_at(&mut all, 0).unwrap(), all.len());
    assert!(all.iter().all(|&byte| byte == 0));
    assert_eq!(file.buffer().rfind(&[0; 5]).unwrap(), Some(data.len() - 5));
    assert_eq!(file.buffer().split(0).filter(|piece| piece.is_ok()).count() as u64, data.len() + 1);
    for lease in file.windows() {
        lease.unwrap().check().unwrap();
    }
    file.verify(..).unwrap();
}

/// Eight readers by every way, and files that shrink and grow under them: each byte that is given is one that the file had,
/// or an error says that it is gone.
#[test]
fn files_are_cut_under_eight_readers() {
    if !alone("files_are_cut_under_eight_readers") {
        return;
    }
    const LEN: u64 = 24 * WINDOW + 777;
    let rounds = 60 * support::scale();
    let page = page_size();
    let dir = Dir::new();
    let data = dir.file("cut", LEN, 3);
    fault_guard::install().unwrap();
    let maps = manager(
        MapManager::builder()
            .window(Window::Sliding { bytes: WINDOW })
            .max_mapped_bytes(10 * WINDOW)
            .overcommit(Overcommit::Wait(Duration::from_secs(10))),
    );
    let (is_over, read, errors) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let (maps, data, is_over, read, errors) = (&maps, &data, &is_over, &read, &errors);
        for reader in 0..8 {
            scope.spawn(move || {
                let mut rng = Rng::new(100 + reader);
                let mut buf = vec![0; 20_000];
                let file = maps.open(&data.path).unwrap();
                let mut cursor = file.cursor();
                while !is_over.load(Ordering::Relaxed) {
                    let start = rng.below(LEN);
                    let len = rng.below(20_000).min(LEN - start) + 1;
                    let range = start..(start + len).min(LEN);
                    let expected = &data[range.start as usize..range.end as usize];
                    let result = match reader % 4 {
                        0 => file.read_at(&mut buf[..expected.len()], range.start).inspect(|&read| {
                            assert_eq!(buf[..read], expected[..read]);
                        }),
                        1 => file.lease(range).and_then(|lease| {
                            let is_same = lease[..] == *expected;
                            lease.check().map(|()| assert!(is_same, "and nobody said so"))?;
                            Ok(lease.len())
                        }),
                        2 => (|| {
                            let is_same = cursor.slice(range.clone())? == expected;
                            cursor.check(range).map(|()| assert!(is_same, "and nobody said so"))?;
                            Ok(expected.len())
                        })(),
                        _ => {
                            let mut buffer = file.buffer();
                            buffer.get(range.start).map(|byte| {
                                assert!(byte.is_none_or(|byte| byte == expected[0]));
                                1
                            })
                        }
                    };
                    match result {
                        Ok(bytes) => {
                            read.fetch_add(bytes as u64, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::OutOfBounds), "{error}");
                            errors.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let mut rng = Rng::new(4);
        for _ in 0..rounds {
            // At the end of a page: of one that was cut inside, and written again before the reader asks, nobody can tell.
            // Grown by writing the same bytes again, so that what is there is always what it was.
            let len = rng.below(LEN) / page * page;
            cut(&data.path, len);
            thread::sleep(Duration::from_millis(rng.below(20)));
            let file = OpenOptions::new().write(true).open(&data.path).unwrap();
            use std::os::unix::fs::FileExt as _;
            let mut at = len;
            while at < LEN {
                let end = (at + 8 * KIB).min(LEN);
                file.write_all_at(&data[at as usize..end as usize], at).unwrap();
                at = end;
            }
            maps.open(&data.path).unwrap();
            thread::sleep(Duration::from_millis(rng.below(20)));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let (read, errors) = (read.into_inner(), errors.into_inner());
    println!("{rounds} cuts, {read} bytes checked, {errors} errors");
    assert!(read > 10 << 20 && errors > 100, "{read} bytes, {errors} errors");
    // Nothing is left behind, and what was torn is mapped anew.
    maps.collect();
    assert_eq!(maps.stats().mapped_bytes, 0);
    assert_eq!(dir.mapped().map_or(0, |mapped| mapped.bytes), 0);
    let file = maps.open(&data.path).unwrap();
    let mut all = vec![0; LEN as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all[..] == data[..]);
}

/// Thousands of regions, each torn: each reader is told, and all of it can be unmapped.
#[test]
fn thousands_of_regions_are_torn() {
    if !alone("thousands_of_regions_are_torn") {
        return;
    }
    const REGIONS: u64 = 6_000;
    let dir = Dir::new();
    let page = 4 * KIB;
    let data = dir.file("many", REGIONS * page, 5);
    fault_guard::install().unwrap();
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: page }).admission(Admission::Always));
    let file = maps.open(&data.path).unwrap();
    // Every other one, so that the system cannot make one mapping of neighbours.
    let held: Vec<Lease> = (0..REGIONS).step_by(2).map(|n| file.lease(n * page..(n + 1) * page).unwrap()).collect();
    assert_eq!(maps.stats().regions as u64, REGIONS / 2);
    assert!(held.iter().all(Lease::is_mapped));
    cut(&data.path, 0);
    for lease in &held {
        assert_eq!(lease[17], 0);
        assert_cut(lease.check());
    }
    assert_cut(file.read_at(&mut [0; 100], 0));
    drop(held);
    // By itself, without anybody's asking: what is torn makes all readers look more closely.
    assert!(settles(|| maps.stats().regions == 0), "{:?}", maps.stats());
    assert_eq!((maps.stats().mapped_bytes, dir.mapped().map_or(0, |mapped| mapped.bytes)), (0, 0));
}

/// Installed once or often, by many threads, before and after managers are built.
#[test]
fn installing_again_does_no_harm() {
    if !alone("installing_again_does_no_harm") {
        return;
    }
    let dir = Dir::new();
    let data = dir.file("before", 10 * WINDOW, 6);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always));
    let lease = maps.open(&data.path).unwrap().lease(0..WINDOW).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| fault_guard::install().unwrap());
        }
    });
    cut(&data.path, 0);
    assert_eq!(lease[0], 0, "what was mapped before is guarded too");
    assert_cut(lease.check());
    drop(maps);
    assert_cut(lease.check());
}

// ---------------------------------------------------------------------------------------------------------------------
// Signals that are not ours
// ---------------------------------------------------------------------------------------------------------------------

/// Maps a file by other means, cuts it, and touches what is gone, after it told where that is.
fn touch_a_hole_of_others(dir: &Dir, tell: impl FnOnce(usize)) {
    let data = dir.file("of-others", 64 * KIB, 7);
    // SAFETY: it is not: that is what this is about.
    let map = unsafe { memmap2::Mmap::map(&data.descriptor()) }.unwrap();
    cut(&data.path, 0);
    let gone = map.as_ptr().wrapping_add(4 * KIB as usize);
    tell(gone as usize);
    // SAFETY: inside the map, as far as addresses go.
    unsafe { gone.read_volatile() };
}

/// As without the guard: the process ends.
#[test]
fn a_fault_of_others_ends_the_process() {
    let Some(output) = apart("a_fault_of_others_ends_the_process") else {
        let dir = Dir::new();
        let data = dir.file("ours", 64 * KIB, 8);
        let lease = guarded().open(&data.path).unwrap().lease(..).unwrap();
        cut(&data.path, 0);
        assert_eq!(lease[100], 0);
        eprintln!("ours is rescued");
        touch_a_hole_of_others(&dir, |_| ());
        return;
    };
    assert_died(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ours is rescued"));
}

/// Sends itself SIGBUS some times; `true`, as an argument, with the guard.
fn raise_with(guard: bool) {
    if guard {
        fault_guard::install().unwrap();
    }
    for times in 1..4 {
        // SAFETY: it sends a signal.
        unsafe { libc::raise(libc::SIGBUS) };
        eprintln!("survived {times}");
    }
}

/// Who sends SIGBUS gets what he always got, also where Rust's own handler is in between.
#[test]
fn a_signal_that_is_sent_does_what_it_did() {
    let fates =
        [("a_signal_that_is_sent_does_what_it_did", false), ("raise_under_the_guard", true)].map(|(test, guard)| {
            apart(test).unwrap_or_else(|| {
                raise_with(guard);
                process::exit(0)
            })
        });
    assert_died(&fates[0]);
    let survived = |output: &Output| String::from_utf8_lossy(&output.stderr).matches("survived").count();
    assert_died(&fates[1]);
    assert_eq!(survived(&fates[0]), survived(&fates[1]));
}

/// For the test above.
#[test]
fn raise_under_the_guard() {
    if env::var_os("SMMAP_TEST_APART").is_some_and(|test| test == "raise_under_the_guard") {
        raise_with(true);
    }
}

/// Faults that each of two other handlers filled.
static OTHERS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// What the second of them was put over, and calls for what it does not know.
static BEFORE_SECOND: AtomicUsize = AtomicUsize::new(0);
/// What the second one knows.
static SECONDS_OWN: AtomicUsize = AtomicUsize::new(0);

fn fill_for(which: usize, address: usize) {
    OTHERS[which].fetch_add(1, Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    // SAFETY: a page of this test's own map, which is touched at this moment.
    unsafe { libc::mmap(address as *mut libc::c_void, 4 * KIB as usize, libc::PROT_READ, flags, -1, 0) };
}

/// A page of the system, in bytes.
fn page_size() -> u64 {
    // SAFETY: it only asks.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

fn page_of(info: *mut libc::siginfo_t) -> usize {
    // SAFETY: the system hands it over.
    let info = unsafe { &*info };
    // SAFETY: of a fault, the address is known.
    unsafe { info.si_addr() as usize & !(4 * KIB as usize - 1) }
}

extern "C" fn first(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    fill_for(0, page_of(info));
}

extern "C" fn second(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let page = page_of(info);
    match (SECONDS_OWN.load(Ordering::Relaxed), BEFORE_SECOND.load(Ordering::Relaxed)) {
        (own, before) if own != page && before != 0 => {
            // SAFETY: the handler that was there, which takes all three.
            let before = unsafe { std::mem::transmute::<usize, Handler>(before) };
            before(signal, info, context);
        }
        _ => fill_for(1, page),
    }
}

fn put_on_top(handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)) -> usize {
    // SAFETY: zeros are a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: zeros are a value.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a handler of the right kind.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &action, &mut before) }, 0);
    before.sa_sigaction
}

/// A handler that was there before gets what is not ours, and nothing that is. One that comes later and calls the one before
/// it shares with ours; one that does not takes ours away, until the guard is installed again.
#[test]
fn handlers_are_chained() {
    if !alone("handlers_are_chained") {
        return;
    }
    let dir = Dir::new();
    let filled = || OTHERS.each_ref().map(|count| count.load(Ordering::Relaxed));
    put_on_top(first);
    let maps = guarded();
    let torn = |name: &str| {
        let data = dir.file(name, 64 * KIB, 9);
        let lease = maps.open(&data.path).unwrap().lease(..).unwrap();
        cut(&data.path, 0);
        assert_eq!(lease[100], 0);
        lease.check().is_err()
    };
    assert!(torn("one"));
    assert_eq!(filled(), [0, 0]);
    for times in 1..4 {
        touch_a_hole_of_others(&dir, |_| ());
        assert_eq!(filled(), [times, 0]);
        assert!(torn("again"));
    }
    BEFORE_SECOND.store(put_on_top(second), Ordering::Relaxed);
    assert!(torn("shared"));
    touch_a_hole_of_others(&dir, |_| ());
    touch_a_hole_of_others(&dir, |page| SECONDS_OWN.store(page, Ordering::Relaxed));
    assert_eq!(filled(), [4, 1]);
    // Over it again: it keeps what is its own.
    fault_guard::install().unwrap();
    assert!(torn("on top"));
    touch_a_hole_of_others(&dir, |_| ());
    touch_a_hole_of_others(&dir, |page| SECONDS_OWN.store(page, Ordering::Relaxed));
    assert_eq!(filled(), [5, 2]);

    put_on_top(first);
    torn("lost");
    assert_eq!(filled(), [6, 2], "the guard was taken off");
    fault_guard::install().unwrap();
    assert!(torn("back"));
    touch_a_hole_of_others(&dir, |_| ());
    assert_eq!(filled(), [7, 2]);
}

// ---------------------------------------------------------------------------------------------------------------------
// At the limit of mappings
// ---------------------------------------------------------------------------------------------------------------------

/// Uses up the mappings that the system grants, `None` where that is no number; what it leaves is less than one hole takes.
#[cfg(target_os = "linux")]
fn use_up_mappings() -> Option<usize> {
    let limit: usize = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
    if limit > 1 << 18 {
        return None;
    }
    let page = 4 * KIB as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
    // SAFETY: a new mapping.
    let made = unsafe { libc::mmap(ptr::null_mut(), 3 * limit * page, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(made, libc::MAP_FAILED);
    // Each page of another kind in the middle makes two more of it.
    let mut done = 0;
    for odd in (1..3 * limit).step_by(2) {
        // SAFETY: a page of the mapping just made.
        if unsafe { libc::mprotect((made as usize + odd * page) as *mut libc::c_void, page, libc::PROT_READ) } != 0 {
            break;
        }
        done += 1;
    }
    // One more at the edge, if one is left.
    // SAFETY: a page of the mapping just made.
    unsafe { libc::mprotect(made, page, libc::PROT_READ | libc::PROT_WRITE) };
    Some(done)
}

/// The reserve serves where the system has no mapping left; where that is used up as well, the message says what to do.
#[cfg(target_os = "linux")]
#[test]
fn at_the_limit_of_mappings_there_is_a_reserve() {
    const NAME: &str = "at_the_limit_of_mappings_there_is_a_reserve";
    let Some(output) = apart(NAME) else {
        let dir = Dir::new();
        let data = dir.file("limit", 400 * WINDOW, 10);
        let maps = guarded();
        let file = maps.open(&data.path).unwrap();
        let held: Vec<Lease> = (0..400).map(|n| file.lease(n * WINDOW..(n + 1) * WINDOW).unwrap()).collect();
        cut(&data.path, 0);
        if use_up_mappings().is_none() {
            eprintln!("SKIPPED: no limit of mappings that could be reached here");
            process::exit(0);
        }
        for (times, lease) in held.iter().enumerate() {
            // In the middle, which takes two mappings more.
            assert_eq!(lease[WINDOW as usize / 2], 0);
            assert!(lease.check().is_err());
            eprintln!("filled {}", times + 1);
        }
        process::exit(0);
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("SKIPPED") {
        eprint!("{said}");
        return;
    }
    assert_died(&output);
    let filled = said.matches("filled").count();
    assert!((4..400).contains(&filled), "{filled} holes filled:\n{said}");
    assert!(said.contains("vm.max_map_count") && said.contains("fault guard"), "{said}");
}

// ---------------------------------------------------------------------------------------------------------------------
// A medium that fails
// ---------------------------------------------------------------------------------------------------------------------

/// Mounted until it is dropped.
#[cfg(target_os = "linux")]
struct Mounted(String);

#[cfg(target_os = "linux")]
impl Mounted {
    fn new(image: &str, point: &str) -> Result<Mounted, String> {
        run(&["mount", "-o", "loop", image, point])?;
        Ok(Mounted(point.to_owned()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(&["umount", &self.0]) {
            eprintln!("{error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn run(command: &[&str]) -> Result<(), String> {
    let output = Command::new(command[0]).args(&command[1..]).output();
    match output.map_err(|error| format!("{command:?}: {error}"))? {
        output if output.status.success() => Ok(()),
        output => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A file on a device that ends in the middle of it, although the file is as long as ever: a loop device, whose image is cut
/// short once nothing of the file is in memory any more.
#[cfg(target_os = "linux")]
fn file_on_a_bad_medium(dir: &Dir, data: &[u8]) -> Result<(PathBuf, Mounted), String> {
    const MIB: u64 = 1 << 20;
    let path = |name: &str| dir.path().join(name).to_str().expect("a plain name").to_owned();
    let (image, point) = (path("image"), path("mount"));
    File::create(&image).and_then(|file| file.set_len(24 * MIB)).map_err(|error| error.to_string())?;
    run(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-b", "4096", &image])?;
    fs::create_dir(&point).map_err(|error| error.to_string())?;
    let file = Path::new(&point).join("data");
    {
        let _mounted = Mounted::new(&image, &point)?;
        fs::write(&file, data).map_err(|error| error.to_string())?;
    }
    let mounted = Mounted::new(&image, &point)?;
    cut(Path::new(&image), 12 * MIB);
    Ok((file, mounted))
}

/// What cannot be read is an error of the medium, not a truncation; what can be is there, side by side with it.
#[cfg(target_os = "linux")]
#[test]
fn a_medium_that_fails_is_an_error() {
    if !alone("a_medium_that_fails_is_an_error") {
        return;
    }
    let dir = Dir::new();
    let data = bytes(11, 16 << 20);
    let (path, mounted) = match file_on_a_bad_medium(&dir, &data) {
        Ok(made) => made,
        Err(error) => {
            eprintln!("SKIPPED a_medium_that_fails_is_an_error: {error}");
            return;
        }
    };
    let page = 4 * KIB;
    let descriptor = File::open(&path).unwrap();
    let is_good = |page_at: u64| {
        use std::os::unix::fs::FileExt as _;
        descriptor.read_exact_at(&mut [0; 4096], page_at).is_ok()
    };
    let len = data.len() as u64;
    let bad = (0..len).step_by(WINDOW as usize).find(|&at| !is_good(at)).expect("a page that is gone");
    let good = (0..len).step_by(WINDOW as usize).find(|&at| is_good(at)).expect("a page that is there");

    fault_guard::install().unwrap();
    let maps = manager(MapManager::builder().window(Window::WholeFile));
    let file = maps.open(&path).unwrap();
    let lease = file.lease(..).unwrap();
    let (there, gone) = ((good as usize)..(good + page) as usize, (bad as usize)..(bad + page) as usize);
    assert!(lease[there.clone()] == data[there.clone()]);
    assert!(lease[gone.clone()].iter().all(|&byte| byte == 0));
    let is_io = |result: Result<(), Error>| {
        let error = result.expect_err("it cannot be read");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(std::error::Error::source(&error).map(|source| source.to_string()), {
            Some(io::Error::from_raw_os_error(libc::EIO).to_string())
        });
    };
    is_io(lease.slice(gone).check());
    // More and more of them, and nothing that can be read is lost.
    let (mut good_pages, mut bad_pages) = (Vec::new(), 0);
    for at in (0..len / page).rev().map(|number| number * page) {
        match is_good(at) {
            true => good_pages.push(at),
            false if bad_pages < 300 => {
                bad_pages += 1;
                assert_eq!(lease[at as usize + 5], 0);
            }
            false => {}
        }
    }
    assert!(bad_pages == 300 && good_pages.len() > 300, "{bad_pages} bad, {} good", good_pages.len());
    for at in good_pages {
        let part = at as usize..(at + page) as usize;
        assert!(lease[part.clone()] == data[part.clone()], "at {at}");
        lease.slice(part).check().expect("it is there");
    }
    is_io(lease.check());
    lease.slice(there.clone()).check().unwrap();
    // Who reads beside it is not disturbed.
    let (mut cursor, mut buffer) = (file.cursor(), file.buffer());
    for _ in 0..3 {
        assert_eq!(cursor.slice(good..good + 5).unwrap(), &data[good as usize..good as usize + 5]);
        assert_eq!(buffer.get(good + 7).unwrap(), Some(data[good as usize + 7]));
        is_io(buffer.get(bad).map(drop));
    }
    assert!(lease[there] == data[good as usize..(good + page) as usize]);
    is_io(file.read_at(&mut [0; 64], bad).map(drop));
    is_io(file.verify(bad..bad + 1));
    file.verify(good..good + page).unwrap();
    let mut buf = [0; 64];
    file.read_exact_at(&mut buf, good).unwrap();
    assert_eq!(buf[..], data[good as usize..good as usize + 64]);
    is_io(file.buffer().get(bad).map(drop));
    drop((lease, file, maps, descriptor, mounted));
}
