//! A file server that stops answering: nothing but the calls on its own files may wait for it.
//!
//! Linux only. The server is a child process that speaks the FUSE protocol over /dev/fuse, in a mount namespace of its
//! own. Each test runs in a process of its own, as root. Elsewhere it is SKIPPED.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "mounts a file system")]

#[path = "it/support.rs"]
mod support;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smmap::{Admission, Change, MapManager, MapManagerBuilder, MappedFile, Overcommit, Window};
use support::{Dir, alone, assert_same, collector_threads, descriptors_below, manager, mapped_below, settles};

const WINDOW: u64 = 64 << 10;
/// The bytes of each file of the server.
const LEN: u64 = 64 * WINDOW;
/// A part of a file that the OS does not read ahead with the first window.
const FAR: u64 = LEN - WINDOW;
/// The byte that fills the files of the server.
const BYTE: u8 = 7;
/// A call that takes longer counts as waiting for the server.
const PROMPT: Duration = Duration::from_secs(1);

/// A mounted FUSE file system. Every name in it is a file of [`LEN`] bytes.
struct Server {
    mount: PathBuf,
    process: libc::pid_t,
}

/// The seconds after which the server ends. The OS then releases all threads that wait for it, which no signal can.
const SERVER_LIFE: libc::c_uint = 60;

impl Server {
    /// Mounts the server, in a mount namespace of the calling thread and of the threads that it starts. Returns `None`,
    /// with a message, if this machine does not allow that.
    fn start(dir: &Dir) -> Option<Server> {
        let skip = |what: &str| eprintln!("SKIPPED: hanging file server: {what}: {}", std::io::Error::last_os_error());
        let mount = dir.path().join("server");
        fs::create_dir(&mount).unwrap();
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            skip("cannot open /dev/fuse");
            return None;
        };
        // SAFETY: takes a number, and affects this thread and those that it starts.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            skip("no mount namespace");
            return None;
        }
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let text = |bytes: &[u8]| CString::new(bytes).unwrap();
        let (root, path, options) = (text(b"/"), text(mount.as_os_str().as_encoded_bytes()), text(options.as_bytes()));
        let (none, private) = (c"none".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: each string ends with NUL and outlives the call.
        let is_private = unsafe { libc::mount(none, root.as_ptr(), none, private, std::ptr::null()) } == 0;
        let (kind, options) = (c"fuse".as_ptr(), options.as_ptr().cast());
        // SAFETY: as above.
        if !is_private || unsafe { libc::mount(none, path.as_ptr(), kind, libc::MS_NOSUID, options) } != 0 {
            skip("cannot mount");
            return None;
        }
        HANGS.store(false, Ordering::SeqCst);
        // SAFETY: the child uses the allocator, which the C library keeps usable, and ends by `_exit` or a signal.
        let process = unsafe { libc::fork() };
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        if process == 0 {
            // SAFETY: takes a number.
            unsafe { libc::alarm(SERVER_LIFE) };
            // SAFETY: takes numbers. The server ends with the thread that has started it.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
            let toggle: extern "C" fn(libc::c_int) = toggle;
            // SAFETY: the handler only stores to an atomic.
            unsafe { libc::signal(libc::SIGUSR1, toggle as libc::sighandler_t) };
            serve(device);
            // SAFETY: ends this process, which is the child.
            unsafe { libc::_exit(0) };
        }
        Some(Server { mount, process })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// Makes the server answer no request from now on. Called again, makes it answer.
    fn hang(&self) {
        // SAFETY: the process is a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.process, libc::SIGUSR1) }, 0);
        // The handler runs before the server's next request, or soon.
        thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: as in `hang`. The OS then fails all requests.
        unsafe { libc::kill(self.process, libc::SIGKILL) };
        // SAFETY: waits for this child, and writes no status.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), 0) };
    }
}

/// `true` in the server while it answers no request.
static HANGS: AtomicBool = AtomicBool::new(false);

extern "C" fn toggle(_signal: libc::c_int) {
    HANGS.fetch_xor(true, Ordering::SeqCst);
}

/// Answers requests until the file system is unmounted. While [`HANGS`] is set, requests wait.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        while HANGS.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        assert_eq!(word(0) as usize, len);
        let (unique, node) = (long(8), long(16));
        const LOOKUP: u32 = 1;
        const FORGET: u32 = 2;
        const GETATTR: u32 = 3;
        const READLINK: u32 = 5;
        const OPEN: u32 = 14;
        const READ: u32 = 15;
        const STATFS: u32 = 17;
        const RELEASE: u32 = 18;
        const FLUSH: u32 = 25;
        const INIT: u32 = 26;
        const INTERRUPT: u32 = 36;
        const BATCH_FORGET: u32 = 42;
        let answer: Result<Vec<u8>, i32> = match word(4) {
            INIT => Ok([words(&[7, 31, 1 << 16, 0, 12 | 9 << 16, 4096, 1, 0, 0]), vec![0; 28]].concat()),
            // The node of a name is the sum of its bytes.
            LOOKUP => {
                let is_link = request[40..len].starts_with(b"link");
                let node = request[40..len].iter().map(|&byte| u64::from(byte)).sum::<u64>();
                let node = if is_link { LINK } else { node };
                Ok([longs(&[node, 0, 0, 0]), words(&[0, 0]), attributes(node)].concat())
            }
            READLINK => Ok(TARGET.to_vec()),
            GETATTR => Ok([longs(&[0]), words(&[0, 0]), attributes(node)].concat()),
            OPEN => Ok(longs(&[0, 0])),
            READ => {
                let (offset, size) = (long(48), u64::from(word(56)));
                Ok(vec![BYTE; size.min(LEN.saturating_sub(offset)) as usize])
            }
            STATFS => Ok(vec![0; 80]),
            RELEASE | FLUSH => Ok(Vec::new()),
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = answer.map_or_else(|error| (-error, Vec::new()), |body| (0, body));
        let header = [words(&[16 + body.len() as u32, error as u32]), longs(&[unique])].concat();
        // The kernel refuses the answer to a request that was interrupted.
        let _ = device.write(&[header, body].concat());
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// The node of names that begin with `link`, and what it leads to: a local file.
const LINK: u64 = 1 << 32;
const TARGET: &[u8] = b"../local";

/// The attributes of a node: the root is a directory, [`LINK`] a symbolic link, and every other node a file.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, len) = match node {
        1 => (0o040_755, 0),
        LINK => (0o120_777, TARGET.len() as u64),
        _ => (0o100_644, LEN),
    };
    [longs(&[node, len, len / 512, 1, 1, 1]), words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])].concat()
}

fn windows(in_budget: u64) -> MapManagerBuilder {
    MapManager::builder()
        .window(Window::Sliding { bytes: WINDOW })
        .admission(Admission::Always)
        .max_mapped_bytes(in_budget * WINDOW)
}

#[track_caller]
fn prompt<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < PROMPT, "{what} took {:?}", start.elapsed());
    result
}

/// Opens and maps a file of the server.
fn hold(maps: &MapManager, path: &Path) -> MappedFile {
    let file = maps.open(path).unwrap();
    let mut cursor = file.cursor();
    assert!(cursor.window_at(0).unwrap().iter().all(|&byte| byte == BYTE));
    file
}

/// The collector's passes and the readers of other files go on while the server hangs, although each open of a file has
/// to close another descriptor. Then the manager is dropped.
#[test]
fn hanging_file_server_blocks_no_other_file() {
    if !alone("hanging_file_server_blocks_no_other_file") {
        return;
    }
    let dir = Dir::new();
    let Some(server) = Server::start(&dir) else { return };
    let maps = manager(windows(64).max_open_files(4).overcommit(Overcommit::Fail));
    let hanging: Vec<_> = ["a", "b", "c"].map(|name| hold(&maps, &server.path(name))).into();
    let files: Vec<_> = (0..8).map(|number| dir.file(&format!("{number}"), 3 * WINDOW, number)).collect();
    server.hang();
    // Several passes of the collector.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        for data in &files {
            let file = prompt("an open", || maps.open(&data.path).unwrap());
            let lease = prompt("a lease", || file.lease(..).unwrap());
            assert_same(&lease, data, "another file");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let file = maps.open(&files[0].path).unwrap();
    drop(file.lease(..).unwrap());
    let mapped = || mapped_below(&files[0].path).map_or(0, |mapped| mapped.bytes);
    assert!(mapped() > 0, "nothing is mapped");
    fs::remove_file(&files[0].path).unwrap();
    assert!(settles(|| mapped() == 0), "the regions of a deleted file stay mapped");
    prompt("collect", || maps.collect());
    prompt("the drop of the handles", || drop(hanging));
    prompt("the drop of a local file", || drop(file));
    prompt("the drop of the manager", || drop(maps));
    assert!(collector_threads().is_some_and(|count| count <= 1), "{:?}", collector_threads());
    assert_eq!(mapped_below(dir.path()).map(|mapped| mapped.bytes), Some(0), "a mapping is left");
    let local = files.iter().map(|data| descriptors_below(&data.path).unwrap()).sum::<usize>();
    assert_eq!(local, 0, "a descriptor of another file is left");
    server.hang();
    assert!(settles(|| collector_threads() == Some(0)), "a thread is left");
    assert!(settles(|| descriptors_below(&server.mount) == Some(0)), "a descriptor is left");
}

/// Threads wait for the server in each kind of call. Meanwhile others map windows in a budget of two, and close.
#[test]
fn calls_on_a_hanging_file_block_no_call_on_another() {
    if !alone("calls_on_a_hanging_file_block_no_call_on_another") {
        return;
    }
    let dir = Dir::new();
    let Some(server) = Server::start(&dir) else { return };
    let maps = manager(windows(2).overcommit(Overcommit::Fail));
    let hanging = hold(&maps, &server.path("a"));
    let data = dir.file("local", 8 * WINDOW, 1);
    server.hang();
    let (path, file) = (server.path("b"), &hanging);
    let calls: [&(dyn Fn() + Sync); 5] = [
        &|| drop(maps.open(&path).unwrap()),
        &|| assert_eq!(file.refresh().unwrap(), Change::Unchanged),
        &|| drop(file.lease(FAR..FAR + WINDOW).unwrap()),
        &|| assert!(!file.cursor().window_at(FAR).unwrap().is_empty()),
        &|| file.read_exact_at(&mut [0; 10], FAR).unwrap(),
    ];
    let waiting = AtomicUsize::new(calls.len());
    thread::scope(|scope| {
        for call in calls {
            let waiting = &waiting;
            scope.spawn(move || {
                call();
                waiting.fetch_sub(1, Ordering::SeqCst);
            });
        }
        thread::sleep(Duration::from_millis(100));
        for round in 0..20 {
            let local = prompt("an open", || maps.open(&data.path).unwrap());
            let mut cursor = local.cursor();
            let at = round % 8 * WINDOW;
            let bytes = prompt("a window", || cursor.window_at(at).unwrap());
            assert_same(bytes, &data[at as usize..(at + WINDOW) as usize], "another file");
            prompt("a refresh", || local.refresh().unwrap());
            drop(cursor);
            prompt("a close", || maps.close(&data.path));
            local.prefetch(..WINDOW).unwrap();
            let closed = prompt("the close of a directory", || maps.close(dir.path()));
            assert!(closed.unmapped + closed.still_held >= 1, "{closed:?}");
            prompt("stats and collect", || (maps.stats(), maps.collect()));
        }
        let left = waiting.load(Ordering::SeqCst);
        server.hang();
        assert!(left >= 4, "only {left} calls waited for the server");
    });
}

/// The drop of the last handle returns within a second, also if it is the drop of a file.
#[test]
fn manager_of_a_hanging_file_server_is_dropped_within_a_second() {
    if !alone("manager_of_a_hanging_file_server_is_dropped_within_a_second") {
        return;
    }
    let dir = Dir::new();
    let Some(server) = Server::start(&dir) else { return };
    let maps = manager(windows(64));
    let hanging: Vec<_> = (0..20).map(|number| hold(&maps, &server.path(&number.to_string()))).collect();
    let lease = hanging[0].lease(0..WINDOW).unwrap();
    server.hang();
    // A pass of the collector begins.
    thread::sleep(Duration::from_millis(1500));
    prompt("the drop of all handles", || drop((maps, hanging)));
    assert!(collector_threads().is_some_and(|count| count <= 1), "{:?}", collector_threads());
    assert!(lease.iter().all(|&byte| byte == BYTE));
    prompt("the drop of the lease", || drop(lease));
    assert_eq!(mapped_below(&server.mount).map(|mapped| mapped.bytes), Some(0), "a mapping is left");
    server.hang();
    assert!(settles(|| collector_threads() == Some(0)), "a thread is left");
    assert!(settles(|| descriptors_below(&server.mount) == Some(0)), "a descriptor is left");
}

/// The collector waits for the server, because the name of a local file leads through it.
#[test]
fn manager_whose_collector_waits_for_a_server_is_dropped_within_a_second() {
    if !alone("manager_whose_collector_waits_for_a_server_is_dropped_within_a_second") {
        return;
    }
    let dir = Dir::new();
    let Some(server) = Server::start(&dir) else { return };
    let data = dir.file("local", 2 * WINDOW, 1);
    let maps = manager(windows(64));
    let file = maps.open(server.path("link")).unwrap();
    assert_same(file.cursor().window_at(0).unwrap(), &data[..WINDOW as usize], "the local file");
    server.hang();
    // A pass of the collector begins.
    thread::sleep(Duration::from_millis(1500));
    prompt("the drop of all handles", || drop((maps, file)));
    assert_eq!(collector_threads(), Some(1), "the collector does not wait for the server");
    assert_eq!(mapped_below(&data.path).map(|mapped| mapped.bytes), Some(0), "a mapping is left");
    assert_eq!(descriptors_below(&data.path), Some(0), "a descriptor is left");
    server.hang();
    assert!(settles(|| collector_threads() == Some(0)), "a thread is left");
}

/// While the server answers, its descriptors are closed to stay within the limit, and when the last handle is dropped.
#[test]
fn descriptors_of_an_answering_file_server_are_closed_at_once() {
    if !alone("descriptors_of_an_answering_file_server_are_closed_at_once") {
        return;
    }
    let dir = Dir::new();
    let Some(server) = Server::start(&dir) else { return };
    let maps = manager(windows(64).max_open_files(2).overcommit(Overcommit::Fail));
    let files: Vec<_> = (0..8).map(|number| hold(&maps, &server.path(&number.to_string()))).collect();
    assert_eq!(descriptors_below(&server.mount), Some(2));
    assert!(maps.stats().peak_open_files <= 2, "{:?}", maps.stats());
    for file in &files {
        assert!(file.lease(WINDOW..).unwrap().iter().all(|&byte| byte == BYTE));
    }
    assert_eq!(descriptors_below(&server.mount), Some(2));
    drop(files);
    assert_eq!(descriptors_below(&server.mount), Some(0));
    drop(maps);
    assert_eq!(collector_threads(), Some(0));
}
