//! The fault guard: files that are truncated while they are mapped and read.
//!
//! Most tests run in a process of their own, since signal handlers belong to the whole process and some tests end it.
#![cfg(all(unix, feature = "fault-guard"))]
#![allow(unsafe_code, reason = "raises signals and maps files without the library")]

#[path = "it/support.rs"]
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, Read as _};
use std::os::fd::AsRawFd as _;
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

/// The time after which a child counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// Installs the fault guard and returns a manager that maps every window read.
fn guarded() -> MapManager {
    fault_guard::install().expect("the handler can be installed");
    manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always))
}

fn truncate(path: &Path, len: u64) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file exists")
        .set_len(len)
        .expect("the file can be truncated");
}

#[track_caller]
fn assert_truncated<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("the file was truncated");
    assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::OutOfBounds), "{error}");
    assert!(error.path().is_some(), "{error}");
}

/// Runs the test of this name in a child process and returns the child's output. Returns `None` in the child itself.
fn in_child(test: &str) -> Option<Output> {
    const NAME: &str = "SMMAP_TEST_CHILD";
    if env::var_os(NAME).is_some_and(|child| child == test) {
        return None;
    }
    let mut child = Command::new(env::current_exe().expect("the path of this binary is known"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NAME, test)
        .stdout(process::Stdio::piped())
        .stderr(process::Stdio::piped())
        .spawn()
        .expect("this binary can be started");
    let start = Instant::now();
    while child.try_wait().expect("this process started the child").is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().expect("this process started the child");
            let output = child.wait_with_output().expect("this process started the child");
            panic!("{test} ran for more than {PATIENCE:?}:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().expect("this process started the child"))
}

#[track_caller]
fn assert_ended_by_sigbus(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{:?}\n{stderr}", output.status);
}

/// Each way to read reports the truncation of a file to half of its length while all windows are mapped and leased.
#[test]
fn every_read_after_truncation_reports_it() {
    if !alone("every_read_after_truncation_reports_it") {
        return;
    }
    const LEN: u64 = 8 * WINDOW;
    const CUT: u64 = 4 * WINDOW + 10_000;
    let dir = Dir::new();
    let data = dir.file("cut", LEN, 1);
    let maps = guarded();
    let gone = CUT + 8 * KIB..CUT + 9 * KIB;

    let each = |read: &dyn Fn(&MappedFile)| {
        fs::write(&data.path, &*data.bytes).expect("the file can be written");
        let file = maps.open(&data.path).expect("the file exists");
        let held: Vec<Lease> = file.windows().collect::<Result<_, _>>().expect("all windows can be mapped");
        assert!(held.iter().all(|lease| lease.check().is_ok()));
        read(&file);
        drop(held);
        maps.collect();
        assert_eq!(maps.stats().mapped_bytes, 0);
    };
    let mut buf = [1; KIB as usize];
    each(&|file| {
        truncate(&data.path, CUT);
        let mut buf = buf;
        assert_truncated(file.read_at(&mut buf, gone.start));
        assert_truncated(file.read_at(&mut buf, gone.start));
        assert_eq!(file.refresh().expect("the file exists"), Change::Truncated);
        assert_eq!(file.read_at(&mut buf, gone.start).expect("a read beyond the end"), 0);
        assert_eq!(file.read_at(&mut buf, CUT - 500).expect("a read up to the end"), 500);
        assert_eq!(buf[..500], data[CUT as usize - 500..CUT as usize]);
    });
    each(&|file| {
        truncate(&data.path, CUT);
        assert_truncated(file.read_exact_at(&mut buf.clone(), gone.start));
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.set_position(gone.start);
        truncate(&data.path, CUT);
        let error = cursor.read(&mut buf.clone()).expect_err("the file was truncated");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    });
    each(&|file| {
        let mut cursor = file.cursor();
        let slice = cursor.slice(gone.clone()).expect("the window is mapped");
        let address = slice.as_ptr();
        truncate(&data.path, CUT);
        // SAFETY: the cursor keeps the window mapped. The read does not use the slice, because its bytes have changed.
        assert_eq!(unsafe { address.read_volatile() }, 0, "bytes beyond the end read as zeros");
        assert_truncated(cursor.check(gone.clone()));
        assert_truncated(cursor.slice(gone.clone()).map(<[u8]>::to_vec));
        let rest = cursor.slice(CUT - 100..CUT).expect("the range is within the file").to_vec();
        cursor.check(CUT - 100..CUT).expect("the range is within the file");
        assert_eq!(rest, data[CUT as usize - 100..CUT as usize]);
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.window_at(gone.start).expect("the window is mapped");
        truncate(&data.path, CUT);
        let _ = cursor
            .window_at(gone.start)
            .expect("the cursor holds the window")
            .iter()
            .map(|&byte| u64::from(byte))
            .sum::<u64>();
        assert_truncated(cursor.window_at(gone.start).map(<[u8]>::len));
        file.refresh().expect("the file exists");
        assert_eq!(cursor.window_at(gone.start).expect("the offset is now beyond the end").len(), 0);
    });
    each(&|file| {
        let lease = file.lease(gone.clone()).expect("the window is mapped");
        let (whole, before) =
            (file.lease(3 * WINDOW..LEN).expect("a lease"), file.lease(CUT - 5..CUT).expect("a lease"));
        truncate(&data.path, CUT);
        assert!(lease.iter().all(|&byte| byte == 0));
        assert_truncated(lease.check());
        assert_truncated(lease.clone().slice(1..2).check());
        assert_truncated(whole.check());
        before.check().expect("the range is within the file");
        assert_eq!(before[..], data[CUT as usize - 5..CUT as usize]);
    });
    each(&|file| {
        truncate(&data.path, CUT);
        assert_truncated(file.verify(..));
        file.verify(..CUT).expect("the range is within the file");
    });
    each(&|file| {
        let mut buffer = file.buffer();
        assert_eq!(buffer.get(gone.start).expect("the byte exists"), Some(data[gone.start as usize]));
        truncate(&data.path, CUT);
        assert_truncated(buffer.get(gone.start + 1));
        file.refresh().expect("the file exists");
        assert_eq!(buffer.get(gone.start + 1).expect("a read beyond the end"), None);
    });
    each(&|file| {
        let needle = &data[gone.start as usize..gone.start as usize + 20];
        truncate(&data.path, CUT);
        assert_truncated(file.buffer().find(needle));
        file.refresh().expect("the file exists");
        assert_eq!(file.buffer().find(needle).expect("the rest of the file can be searched"), None);
    });
    each(&|file| {
        let needle = &data[..20];
        truncate(&data.path, CUT);
        assert_truncated(file.buffer().rfind(needle));
        file.refresh().expect("the file exists");
        assert_eq!(file.buffer().rfind(needle).expect("the rest of the file can be searched"), Some(0));
    });
    each(&|file| {
        truncate(&data.path, CUT);
        assert_truncated(file.buffer().equals(&data));
    });
    each(&|file| {
        let mut lines = 0;
        truncate(&data.path, CUT);
        let found = file.buffer().lines().find_map(|line| match line {
            Ok(line) => {
                lines += line.len() + 1;
                None
            }
            Err(error) => Some(error),
        });
        assert_truncated(Err::<(), _>(found.expect("an error")));
        assert!(lines as u64 <= CUT + 1);
    });
    each(&|file| {
        let mut pieces = file.buffer().split(0);
        truncate(&data.path, CUT);
        assert_truncated(pieces.find_map(Result::err).map_or(Ok(()), Err));
    });
    each(&|file| {
        let mut cursor = file.cursor();
        cursor.set_position(4 * WINDOW);
        truncate(&data.path, CUT);
        let rest = cursor.fill_buf().expect("the window is mapped").to_vec();
        assert!(rest.iter().rev().take(KIB as usize).all(|&byte| byte == 0));
        assert_truncated(cursor.check(..));
        cursor.consume(rest.len());
        assert_eq!(cursor.fill_buf().expect_err("the consumed bytes were zeros").kind(), io::ErrorKind::UnexpectedEof);
    });
    each(&|file| {
        let mut cursor = file.cursor();
        truncate(&data.path, CUT);
        let mut all = Vec::new();
        let error = cursor.read_until(b'\n', &mut all).and_then(|_| {
            while cursor.read_until(b'\n', &mut all)? > 0 {}
            Ok(())
        });
        assert_eq!(error.expect_err("the file was truncated").kind(), io::ErrorKind::UnexpectedEof);
    });
    // Reads of other windows are not affected.
    each(&|file| {
        let mut cursor = file.cursor();
        let mut buffer = file.buffer();
        cursor.slice(CUT - 10..CUT).expect("the window is mapped");
        buffer.slice(CUT - 10..CUT).expect("the window is mapped");
        let lease = file.lease(gone.clone()).expect("the window is mapped");
        truncate(&data.path, CUT);
        assert_eq!(lease[0], 0);
        assert_eq!(cursor.slice(10..20).expect("another window"), &data[10..20]);
        assert_eq!(buffer.get(20).expect("another window"), Some(data[20]));
        let maps_before = maps.stats().maps;
        for at in 0..100 {
            assert_eq!(cursor.slice(at..at + 5).expect("the cursor's window"), &data[at as usize..at as usize + 5]);
        }
        assert_eq!(maps.stats().maps, maps_before, "the cursor kept its window");
    });
    buf.fill(0);
}

/// A read beyond the end within the last page raises no signal. The guard compares the range with the file's length
/// instead.
#[test]
fn truncation_within_a_page_is_reported() {
    const CUT: u64 = 10_000;
    let dir = Dir::new();
    let data = dir.file("inside", 3 * 4096, 2);
    let maps = guarded();
    let file = maps.open(&data.path).unwrap();
    let lease = file.lease(..).unwrap();
    let mut cursor = file.cursor();
    assert_eq!(cursor.slice(..).unwrap(), &data[..]);
    truncate(&data.path, CUT);
    assert!(lease[CUT as usize..].iter().all(|&byte| byte == 0));
    assert_truncated(cursor.check(CUT..CUT + 1));
    cursor.check(..CUT).unwrap();
    lease.slice(..CUT as usize).check().unwrap();

    let other = manager(MapManager::builder().window(Window::Sliding { bytes: WINDOW }).admission(Admission::Always));
    let again = |len: u64| {
        fs::write(&data.path, &*data.bytes).unwrap();
        let file = other.open(&data.path).unwrap();
        assert_eq!(file.read_at(&mut [0; 8], 0).unwrap(), 8);
        truncate(&data.path, len);
        file
    };
    assert_truncated(again(CUT).read_at(&mut [0; 10], CUT));
    assert_truncated(again(CUT).read_at(&mut [0; 100], CUT - 99));
    assert_truncated(again(CUT).read_at(&mut [0; 8192], CUT - 8000));
    assert_truncated(again(CUT).buffer().get(CUT));
    assert_truncated(lease.check());
    let mut line = String::new();
    let mut reader = again(CUT).cursor();
    reader.set_position(CUT - 1);
    assert!(reader.read_line(&mut line).is_err() || line.bytes().all(|byte| byte != 0));
    // `Revalidate::Never` also turns this comparison off.
    let never = manager(MapManager::builder().window(Window::WholeFile).revalidate(Revalidate::Never));
    fs::write(&data.path, &*data.bytes).unwrap();
    let file = never.open(&data.path).unwrap();
    let lease = file.lease(..).unwrap();
    truncate(&data.path, CUT);
    lease.check().unwrap();
}

/// Zero bytes of the file itself are not reported as a truncation.
#[test]
fn file_of_zeros_is_read_without_an_error() {
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

/// Eight threads read a file in four ways while it shrinks and grows. Each read returns the file's bytes or reports a
/// truncation.
#[test]
fn eight_readers_of_a_truncated_file_get_its_bytes_or_errors() {
    if !alone("eight_readers_of_a_truncated_file_get_its_bytes_or_errors") {
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
                            lease.check().map(|()| assert!(is_same, "`check` did not report the truncation"))?;
                            Ok(lease.len())
                        }),
                        2 => (|| {
                            let is_same = cursor.slice(range.clone())? == expected;
                            cursor.check(range).map(|()| assert!(is_same, "`check` did not report the truncation"))?;
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
            // The file ends at a page boundary: if it ended within a page and grew again before the reader's check, no
            // check could notice. It grows by the same bytes, so that its content never changes.
            let len = rng.below(LEN) / page * page;
            truncate(&data.path, len);
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
    // No mapping is left, and the faulted windows are remapped.
    maps.collect();
    assert_eq!(maps.stats().mapped_bytes, 0);
    assert_eq!(dir.mapped().map_or(0, |mapped| mapped.bytes), 0);
    let file = maps.open(&data.path).unwrap();
    let mut all = vec![0; LEN as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all[..] == data[..]);
}

/// Each of thousands of faulted regions is reported to its readers and can be unmapped.
#[test]
fn thousands_of_faulted_regions_are_all_reported_and_unmapped() {
    if !alone("thousands_of_faulted_regions_are_all_reported_and_unmapped") {
        return;
    }
    const REGIONS: u64 = 6_000;
    let dir = Dir::new();
    let page = 4 * KIB;
    let data = dir.file("many", REGIONS * page, 5);
    fault_guard::install().unwrap();
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: page }).admission(Admission::Always));
    let file = maps.open(&data.path).unwrap();
    // Every other window, so that the kernel cannot merge neighbouring mappings.
    let held: Vec<Lease> = (0..REGIONS).step_by(2).map(|n| file.lease(n * page..(n + 1) * page).unwrap()).collect();
    assert_eq!(maps.stats().regions as u64, REGIONS / 2);
    assert!(held.iter().all(Lease::is_mapped));
    truncate(&data.path, 0);
    for lease in &held {
        assert_eq!(lease[17], 0);
        assert_truncated(lease.check());
    }
    assert_truncated(file.read_at(&mut [0; 100], 0));
    drop(held);
    // The collector unmaps faulted regions without a request, because each of them makes all readers check more.
    assert!(settles(|| maps.stats().regions == 0), "{:?}", maps.stats());
    assert_eq!((maps.stats().mapped_bytes, dir.mapped().map_or(0, |mapped| mapped.bytes)), (0, 0));
}

/// `install` may be called repeatedly, by many threads, and after managers are built.
#[test]
fn install_repeated_keeps_the_guard_working() {
    if !alone("install_repeated_keeps_the_guard_working") {
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
    truncate(&data.path, 0);
    assert_eq!(lease[0], 0, "a window mapped before `install` is guarded too");
    assert_truncated(lease.check());
    drop(maps);
    assert_truncated(lease.check());
}

// ---------------------------------------------------------------------------------------------------------------------
// Signals that do not concern the guard
// ---------------------------------------------------------------------------------------------------------------------

/// Maps a file without the library, truncates it, passes the address of a lost page to `tell`, and reads that page.
fn fault_in_a_foreign_mapping(dir: &Dir, tell: impl FnOnce(usize)) {
    let data = dir.file("foreign", 64 * KIB, 7);
    // SAFETY: the file is truncated below, which breaks the promise of `map`. The fault is the purpose of this
    // function.
    let map = unsafe { memmap2::Mmap::map(&data.descriptor()) }.unwrap();
    truncate(&data.path, 0);
    let gone = map.as_ptr().wrapping_add(4 * KIB as usize);
    tell(gone as usize);
    // SAFETY: the address is inside the mapping.
    unsafe { gone.read_volatile() };
}

/// A fault in a mapping that is not the library's ends the process, as without the guard.
#[test]
fn fault_in_a_foreign_mapping_ends_the_process() {
    let Some(output) = in_child("fault_in_a_foreign_mapping_ends_the_process") else {
        let dir = Dir::new();
        let data = dir.file("guarded", 64 * KIB, 8);
        let lease = guarded().open(&data.path).unwrap().lease(..).unwrap();
        truncate(&data.path, 0);
        assert_eq!(lease[100], 0);
        eprintln!("guarded fault survived");
        fault_in_a_foreign_mapping(&dir, |_| ());
        return;
    };
    assert_ended_by_sigbus(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("guarded fault survived"));
}

/// A child of `fork` unmaps a guarded window and maps another file at its addresses. A fault there ends the child, as
/// without the guard. Inherited windows stay guarded.
#[test]
fn fault_in_a_forked_child_where_a_window_was_unmapped_ends_the_child() {
    if !alone("fault_in_a_forked_child_where_a_window_was_unmapped_ends_the_child") {
        return;
    }
    let dir = Dir::new();
    let (data, foreign) = (dir.file("guarded", 2 * WINDOW, 8), dir.file("foreign", WINDOW, 9));
    let maps = guarded();
    let file = maps.open(&data.path).unwrap();
    let kept = file.lease(0..WINDOW).unwrap();
    let mut dropped = Some((file.lease(WINDOW..2 * WINDOW).unwrap(), file, maps));
    let place = dropped.as_ref().unwrap().0.as_ptr();
    // SAFETY: the child uses the allocator, which the C library keeps usable, and ends by `_exit` or the signal.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        drop(dropped.take());
        let descriptor = foreign.descriptor();
        let (address, protection, flags) = (place as *mut libc::c_void, libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: without `MAP_FIXED` the address is a hint, so no mapping is replaced.
        let map = unsafe { libc::mmap(address, WINDOW as usize, protection, flags, descriptor.as_raw_fd(), 0) };
        truncate(&data.path, 0);
        truncate(&foreign.path, 0);
        let is_guarded = kept[5] == 0 && kept.check().is_err();
        let code = if map == address && is_guarded { 2 } else { 3 };
        // SAFETY: the address is that of the new mapping. The fault is the purpose of the test.
        let byte = unsafe { place.read_volatile() };
        // SAFETY: `_exit` ends the child.
        unsafe { libc::_exit(code + i32::from(byte != 0)) };
    }
    let mut status = 0;
    // SAFETY: `child` is a child of this process, and `status` is valid for writes.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status), "exit status {}", libc::WEXITSTATUS(status));
    assert_eq!(libc::WTERMSIG(status), libc::SIGBUS);
    // The parent's windows are guarded as before.
    let (lease, file, _maps) = dropped.unwrap();
    assert_eq!((lease[5], kept[5]), (0, 0));
    assert_truncated(lease.check());
    assert_truncated(file.refresh().map(|change| assert_ne!(change, Change::Unchanged)).and(kept.check()));
}

/// Sends SIGBUS to this process three times, with or without the guard installed.
fn raise_sigbus(guard: bool) {
    if guard {
        fault_guard::install().unwrap();
    }
    for times in 1..4 {
        // SAFETY: `raise` only sends a signal to this thread.
        unsafe { libc::raise(libc::SIGBUS) };
        eprintln!("survived {times}");
    }
}

/// A SIGBUS sent by `raise` ends the process after as many signals as without the guard. Rust's own handler is below
/// the guard.
#[test]
fn sigbus_sent_by_raise_has_the_same_effect_as_without_the_guard() {
    let outputs =
        [("sigbus_sent_by_raise_has_the_same_effect_as_without_the_guard", false), ("child_raise_with_guard", true)]
            .map(|(test, guard)| {
                in_child(test).unwrap_or_else(|| {
                    raise_sigbus(guard);
                    process::exit(0)
                })
            });
    assert_ended_by_sigbus(&outputs[0]);
    let survived = |output: &Output| String::from_utf8_lossy(&output.stderr).matches("survived").count();
    assert_ended_by_sigbus(&outputs[1]);
    assert_eq!(survived(&outputs[0]), survived(&outputs[1]));
}

/// The child of `sigbus_sent_by_raise_has_the_same_effect_as_without_the_guard`.
#[test]
fn child_raise_with_guard() {
    if env::var_os("SMMAP_TEST_CHILD").is_some_and(|test| test == "child_raise_with_guard") {
        raise_sigbus(true);
    }
}

/// A program that ignores SIGBUS still ignores a signal that a process sends. A fault of a foreign mapping ends the
/// process, because the OS would repeat it.
#[test]
fn ignored_sigbus_is_ignored_only_if_it_was_sent() {
    let Some(output) = in_child("ignored_sigbus_is_ignored_only_if_it_was_sent") else {
        // SAFETY: no other thread changes the action.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
        raise_sigbus(true);
        // SAFETY: ends a process that repeats the fault without end.
        unsafe { libc::alarm(10) };
        fault_in_a_foreign_mapping(&Dir::new(), |_| ());
        return;
    };
    assert_ended_by_sigbus(&output);
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("survived").count(), 3);
}

/// An interrupted program may be between a system call and its look at `errno`.
#[test]
fn guarded_fault_keeps_errno() {
    let dir = Dir::new();
    let data = dir.file("errno", 16 * page_size(), 12);
    let lease = guarded().open(&data.path).unwrap().lease(..).unwrap();
    truncate(&data.path, 0);
    // From the second fault on, the handler asks the OS for other missing pages, and is refused.
    for page in [0, 5, 10] {
        // SAFETY: no descriptor has this number, so the call fails with EBADF.
        unsafe { libc::close(-1) };
        assert_eq!(lease[page * page_size() as usize], 0);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF), "page {page}");
    }
    assert_truncated(lease.check());
}

/// The number of faults that each of two other handlers has handled.
static FOREIGN_FAULTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// The handler that the second handler replaced, and calls for faults other than its own.
static BEFORE_SECOND: AtomicUsize = AtomicUsize::new(0);
/// The page whose faults the second handler handles itself.
static SECONDS_PAGE: AtomicUsize = AtomicUsize::new(0);

fn fill_for(which: usize, address: usize) {
    FOREIGN_FAULTS[which].fetch_add(1, Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    // SAFETY: the page belongs to this test's own mapping, and the faulting thread waits for this handler.
    unsafe { libc::mmap(address as *mut libc::c_void, 4 * KIB as usize, libc::PROT_READ, flags, -1, 0) };
}

/// Returns the size of a page in bytes.
fn page_size() -> u64 {
    // SAFETY: `sysconf` only queries.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

fn page_of(info: *mut libc::siginfo_t) -> usize {
    // SAFETY: the OS passes a valid pointer to the handler.
    let info = unsafe { &*info };
    // SAFETY: the signal was raised by a fault, so `si_addr` is set.
    unsafe { info.si_addr() as usize & !(4 * KIB as usize - 1) }
}

extern "C" fn first_handler(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    fill_for(0, page_of(info));
}

extern "C" fn second_handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let page = page_of(info);
    match (SECONDS_PAGE.load(Ordering::Relaxed), BEFORE_SECOND.load(Ordering::Relaxed)) {
        (own, before) if own != page && before != 0 => {
            // SAFETY: `sigaction` returned this handler, which was installed with SA_SIGINFO.
            let before = unsafe { std::mem::transmute::<usize, Handler>(before) };
            before(signal, info, context);
        }
        _ => fill_for(1, page),
    }
}

fn install_handler(handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)) -> usize {
    // SAFETY: all zeros are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: all zeros are a valid `sigaction`.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the handler has the signature that SA_SIGINFO asks for.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &action, &mut before) }, 0);
    before.sa_sigaction
}

/// An earlier handler receives only the faults of foreign mappings. A later handler that calls its predecessor works
/// together with the guard. A later handler that does not call it disables the guard until the guard is installed
/// again.
#[test]
fn sigbus_handlers_receive_faults_of_foreign_mappings() {
    if !alone("sigbus_handlers_receive_faults_of_foreign_mappings") {
        return;
    }
    let dir = Dir::new();
    let handled = || FOREIGN_FAULTS.each_ref().map(|count| count.load(Ordering::Relaxed));
    install_handler(first_handler);
    let maps = guarded();
    let is_guarded = |name: &str| {
        let data = dir.file(name, 64 * KIB, 9);
        let lease = maps.open(&data.path).unwrap().lease(..).unwrap();
        truncate(&data.path, 0);
        assert_eq!(lease[100], 0);
        lease.check().is_err()
    };
    assert!(is_guarded("one"));
    assert_eq!(handled(), [0, 0]);
    for times in 1..4 {
        fault_in_a_foreign_mapping(&dir, |_| ());
        assert_eq!(handled(), [times, 0]);
        assert!(is_guarded("again"));
    }
    BEFORE_SECOND.store(install_handler(second_handler), Ordering::Relaxed);
    assert!(is_guarded("shared"));
    fault_in_a_foreign_mapping(&dir, |_| ());
    fault_in_a_foreign_mapping(&dir, |page| SECONDS_PAGE.store(page, Ordering::Relaxed));
    assert_eq!(handled(), [4, 1]);
    // The guard is installed above the second handler, which still receives its own page's faults.
    fault_guard::install().unwrap();
    assert!(is_guarded("on top"));
    fault_in_a_foreign_mapping(&dir, |_| ());
    fault_in_a_foreign_mapping(&dir, |page| SECONDS_PAGE.store(page, Ordering::Relaxed));
    assert_eq!(handled(), [5, 2]);

    install_handler(first_handler);
    is_guarded("lost");
    assert_eq!(handled(), [6, 2], "the later handler has replaced the guard");
    fault_guard::install().unwrap();
    assert!(is_guarded("back"));
    fault_in_a_foreign_mapping(&dir, |_| ());
    assert_eq!(handled(), [7, 2]);
}

// ---------------------------------------------------------------------------------------------------------------------
// The limit of mappings
// ---------------------------------------------------------------------------------------------------------------------

/// Uses up the mappings that the OS allows, so that fewer are left than one guarded fault takes. Returns the number of
/// pages made unmergeable, or `None` if the limit is unknown or too high.
#[cfg(target_os = "linux")]
fn use_up_mappings() -> Option<usize> {
    let limit: usize = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
    if limit > 1 << 18 {
        return None;
    }
    let page = 4 * KIB as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
    // SAFETY: the call creates a new mapping at an address of the kernel's choice.
    let made = unsafe { libc::mmap(ptr::null_mut(), 3 * limit * page, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(made, libc::MAP_FAILED);
    // Each page with another protection splits an area, which adds two mappings.
    let mut done = 0;
    for odd in (1..3 * limit).step_by(2) {
        // SAFETY: the page belongs to the mapping created above.
        if unsafe { libc::mprotect((made as usize + odd * page) as *mut libc::c_void, page, libc::PROT_READ) } != 0 {
            break;
        }
        done += 1;
    }
    // A page at the edge adds only one mapping, if one is left.
    // SAFETY: the page belongs to the mapping created above.
    unsafe { libc::mprotect(made, page, libc::PROT_READ | libc::PROT_WRITE) };
    Some(done)
}

/// If the OS has no mapping left, the guard uses its reserve. After that the process ends with a message that names the
/// limit.
#[cfg(target_os = "linux")]
#[test]
fn fault_at_the_map_count_limit_uses_the_reserve_then_ends_the_process() {
    const NAME: &str = "fault_at_the_map_count_limit_uses_the_reserve_then_ends_the_process";
    let Some(output) = in_child(NAME) else {
        let dir = Dir::new();
        let data = dir.file("limit", 400 * WINDOW, 10);
        let maps = guarded();
        let file = maps.open(&data.path).unwrap();
        let held: Vec<Lease> = (0..400).map(|n| file.lease(n * WINDOW..(n + 1) * WINDOW).unwrap()).collect();
        truncate(&data.path, 0);
        if use_up_mappings().is_none() {
            eprintln!("SKIPPED: vm.max_map_count is unknown or too high to be reached");
            process::exit(0);
        }
        for (times, lease) in held.iter().enumerate() {
            // A fault in the middle of a window adds two mappings.
            assert_eq!(lease[WINDOW as usize / 2], 0);
            assert!(lease.check().is_err());
            eprintln!("survived fault {}", times + 1);
        }
        process::exit(0);
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("SKIPPED") {
        eprint!("{stderr}");
        return;
    }
    assert_ended_by_sigbus(&output);
    let survived = stderr.matches("survived fault").count();
    assert!((4..400).contains(&survived), "{survived} faults survived:\n{stderr}");
    assert!(stderr.contains("vm.max_map_count") && stderr.contains("fault guard"), "{stderr}");
}

// ---------------------------------------------------------------------------------------------------------------------
// A failing device
// ---------------------------------------------------------------------------------------------------------------------

/// A mounted image. Dropping it unmounts the image.
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
            // A file is still open, for example in a process that another test forked just now.
            eprintln!("{error}");
            let _ = run(&["umount", "--lazy", &self.0]);
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

/// Creates a file on a loop device whose image is truncated afterwards. The file keeps its length, but part of it can
/// no longer be read. The image is remounted before the truncation, so that no page of the file is cached.
///
/// # Errors
///
/// Returns the reason if the image cannot be created or mounted.
#[cfg(target_os = "linux")]
fn file_on_a_failing_device(dir: &Dir, data: &[u8]) -> Result<(PathBuf, Mounted), String> {
    const MIB: u64 = 1 << 20;
    let path = |name: &str| dir.path().join(name).to_str().expect("the path is valid UTF-8").to_owned();
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
    truncate(Path::new(&image), 12 * MIB);
    Ok((file, mounted))
}

/// A page that the device cannot read is reported as `Io`, not as a truncation. Readable pages next to it keep their
/// bytes.
#[cfg(target_os = "linux")]
#[test]
fn read_of_a_failing_device_is_an_io_error() {
    if !alone("read_of_a_failing_device_is_an_io_error") {
        return;
    }
    let dir = Dir::new();
    let data = bytes(11, 16 << 20);
    let (path, mounted) = match file_on_a_failing_device(&dir, &data) {
        Ok(made) => made,
        Err(error) => {
            eprintln!("SKIPPED read_of_a_failing_device_is_an_io_error: {error}");
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
    let bad = (0..len).step_by(WINDOW as usize).find(|&at| !is_good(at)).expect("some page cannot be read");
    let good = (0..len).step_by(WINDOW as usize).find(|&at| is_good(at)).expect("some page can be read");

    fault_guard::install().unwrap();
    let maps = manager(MapManager::builder().window(Window::WholeFile));
    let file = maps.open(&path).unwrap();
    let lease = file.lease(..).unwrap();
    let (there, gone) = ((good as usize)..(good + page) as usize, (bad as usize)..(bad + page) as usize);
    assert!(lease[there.clone()] == data[there.clone()]);
    assert!(lease[gone.clone()].iter().all(|&byte| byte == 0));
    let is_io = |result: Result<(), Error>| {
        let error = result.expect_err("the page cannot be read");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(std::error::Error::source(&error).map(|source| source.to_string()), {
            Some(io::Error::from_raw_os_error(libc::EIO).to_string())
        });
    };
    is_io(lease.slice(gone).check());
    // 300 faults do not change the bytes of any readable page.
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
        lease.slice(part).check().expect("the page can be read");
    }
    is_io(lease.check());
    lease.slice(there.clone()).check().unwrap();
    // Reads of readable pages by other readers are not affected.
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
