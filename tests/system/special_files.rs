//! Files that the OS does not map, or that behave unlike regular files on a disk.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::BufRead as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::{Arc, Mutex};

use smmap::{Change, ErrorKind, MapManager, MapManagerBuilder, MappedFile, Window};

use crate::fuse::{self, Content};
use crate::support::{assert_same, bytes, manager, say};
use crate::{DONE, WINDOW, child_dir, run};

const HUGE: u64 = 2 << 20;

/// Windows of 64 KiB, with the usual admission: some reads of a window come from the file before one maps it.
fn adaptive() -> MapManagerBuilder {
    MapManager::builder().window(Window::Sliding { bytes: WINDOW }).max_mapped_bytes(16 << 20).max_open_files(8)
}

/// Reads the file in every way that asks for at most one window at a time, several times each.
fn assert_reads_everywhere(file: &MappedFile, expected: &[u8]) {
    let len = expected.len() as u64;
    assert_eq!(file.len(), len);
    let part = |start: u64, end: u64| &expected[start as usize..end.min(len) as usize];
    for round in 0..12 {
        let mut cursor = file.cursor();
        for start in (0..len).step_by(WINDOW as usize) {
            let end = (start + WINDOW).min(len);
            let at = start + round % (end - start);
            let what = |how| format!("{how} at {at}, round {round}");
            let mut read = vec![0; (end - at).min(100) as usize];
            file.read_exact_at(&mut read, at).unwrap();
            assert_same(&read, part(at, at + 100), what("a copy"));
            assert_same(&file.lease(at..end.min(at + 100)).unwrap(), part(at, at + 100), what("a short lease"));
            assert_same(&file.lease(start..end).unwrap(), part(start, end), what("the lease of a window"));
            assert_same(cursor.slice(at..end.min(at + 50)).unwrap(), part(at, at + 50), what("a slice"));
            let window = cursor.window_at(at).unwrap();
            assert!(window.len() as u64 >= end - at);
            assert_same(window, part(at, at + window.len() as u64), what("the window"));
        }
        file.verify(..).unwrap();
        file.prefetch(..).unwrap();
    }
    let windows: Vec<u8> = file.windows().flat_map(|window| window.unwrap().to_vec()).collect();
    assert_same(&windows, expected, "all windows");
    let mut buffer = file.buffer();
    let tail = &expected[expected.len().saturating_sub(9)..];
    let at = expected.windows(tail.len()).position(|window| window == tail);
    assert_eq!(buffer.find(tail).unwrap(), at.map(|at| at as u64));
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut file.cursor(), &mut all).unwrap();
    assert_same(&all, expected, "all bytes of a cursor");
}

/// Asserts that a manager has nothing mapped once its unused regions are unmapped, and that the OS agrees.
fn assert_nothing_is_mapped(maps: &MapManager, path: &Path) {
    maps.collect();
    assert_eq!((maps.stats().mapped_bytes, maps.stats().regions), (0, 0));
    let mappings = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!mappings.contains(path.to_str().unwrap()), "{mappings}");
}

#[test]
fn file_without_shared_mappings_is_mapped_privately() {
    run("special_files::child_file_without_shared_mappings", "mkdir mount && test -w /dev/fuse");
}

#[test]
#[ignore = "a child of file_without_shared_mappings_is_mapped_privately"]
fn child_file_without_shared_mappings() {
    let Some(dir) = child_dir() else { return };
    let (mount, path) = (dir.join("mount"), dir.join("mount/file"));
    let content = Arc::new(Mutex::new(Content { bytes: bytes(1, 300_000), changed: 1 }));
    if let Err(error) = fuse::serve(&mount, Arc::clone(&content)) {
        say(format!("SKIPPED: child_file_without_shared_mappings: cannot mount: {error}"));
        return println!("{DONE}");
    }
    let maps = manager(adaptive());
    let file = maps.open(&path).unwrap();
    assert_reads_everywhere(&file, &bytes(1, 300_000));
    let stats = maps.stats();
    assert!(stats.hits > 0 && stats.unmappable_files == 0, "{stats:?}");

    // A private mapping keeps the old bytes. After `refresh`, no reader finds them.
    *content.lock().unwrap() = Content { bytes: bytes(2, 300_000), changed: 2 };
    assert_eq!(file.refresh().unwrap(), Change::Modified);
    assert_reads_everywhere(&file, &bytes(2, 300_000));
    drop(file);
    assert_nothing_is_mapped(&maps, &path);
    println!("{DONE}");
}

/// Makes the OS refuse each later mapping of a file that is only read, in this thread and its children.
fn forbid_mappings_of_files() {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    #[cfg(target_pointer_width = "64")]
    const MMAP: libc::c_long = libc::SYS_mmap;
    #[cfg(target_pointer_width = "32")]
    const MMAP: libc::c_long = libc::SYS_mmap2;
    let load = |field: u32| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, field);
    let skip_unless = |value: u32, skipped: u8| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skipped, value);
    let argument = |index: u32| 16 + 8 * index;
    let filter = [
        load(0),
        skip_unless(MMAP as u32, 4),
        load(argument(2)),
        skip_unless(libc::PROT_READ as u32, 2),
        load(argument(4)),
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::MAX),
        (libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
        (libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
    ];
    let mut filter = filter.map(|(code, jt, jf, k)| libc::sock_filter { code: code as u16, jt, jf, k });
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the flag takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the kernel copies the program, which is a valid one.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }, 0);
}

#[test]
fn file_that_a_filter_forbids_to_map_is_read() {
    run("special_files::child_file_that_a_filter_forbids_to_map", "true");
}

#[test]
#[ignore = "a child of file_that_a_filter_forbids_to_map_is_read"]
fn child_file_that_a_filter_forbids_to_map() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("file");
    let content = bytes(3, 300_000);
    fs::write(&path, &content).unwrap();
    let maps = manager(adaptive());
    let whole = manager(MapManager::builder().window(Window::WholeFile).max_mapped_bytes(1 << 20));
    forbid_mappings_of_files();

    let file = maps.open(&path).unwrap();
    assert_reads_everywhere(&file, &content);
    let mut cursor = file.cursor();
    assert_same(cursor.window_at(WINDOW).unwrap(), &content[WINDOW as usize..2 * WINDOW as usize], "a window");
    let stats = maps.stats();
    assert_eq!((stats.unmappable_files, stats.mapped_bytes, stats.pinned_regions), (1, WINDOW, 1), "{stats:?}");
    drop(cursor);
    let error = file.lease(..).unwrap_err();
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(source.and_then(std::io::Error::raw_os_error), Some(libc::EACCES));
    assert_eq!((error.kind(), error.path(), error.range()), (ErrorKind::Unmappable, Some(&*path), Some(0..300_000)));
    // The copy of a window is made anew for each reader, so it has the bytes of now.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"new", 0).unwrap();
    assert_eq!(&file.cursor().window_at(0).unwrap()[..3], b"new");
    assert_eq!(maps.stats().mapped_bytes, 0);

    // A range of exactly one window, which does not start at a page.
    let (mib, long) = (1 << 20, dir.join("long"));
    let content_of_long = bytes(4, 3 << 20);
    fs::write(&long, &content_of_long).unwrap();
    let wide = manager(MapManager::builder().window(Window::Sliding { bytes: mib }));
    let file = wide.open(&long).unwrap();
    let lease = file.lease(100..100 + mib).unwrap();
    assert_same(&lease, &content_of_long[100..100 + mib as usize], "a range of the length of a window");
    assert_eq!(file.lease(100..4196 + mib).unwrap_err().kind(), ErrorKind::Unmappable);
    drop((lease, file));

    // Whole files: the copy is the file, as far as the budget goes.
    let small = whole.open(&path).unwrap();
    assert_same(&small.lease(3..).unwrap(), &content[3..], "a lease of the whole file");
    let large = dir.join("large");
    File::create(&large).unwrap().set_len(2 << 20).unwrap();
    let error = whole.open(&large).unwrap().cursor().window_at(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}");
    println!("{DONE}");
}

/// Reads an attribute of sysfs, whose length is 4096 whatever its content, and which cannot be mapped.
#[test]
fn sysfs_file_has_the_length_of_its_content() {
    let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    let Ok(content) = fs::read(path) else { return say("SKIPPED: sysfs_file_has_the_length_of_its_content: no sysfs") };
    assert_eq!(fs::metadata(path).unwrap().len(), 4096);
    let maps = manager(adaptive());
    let file = maps.open(path).unwrap();
    assert_reads_everywhere(&file, &content);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
    assert_eq!(file.cursor().lines().next().unwrap().unwrap().as_bytes(), content.trim_ascii_end());
    let error = file.lease(..4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{error}");
    assert_eq!(maps.stats().unmappable_files, 1);
}

/// Returns the number of free blocks of a file system.
fn free_blocks(path: &Path) -> u64 {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: all zeros are a valid value of this structure of integers.
    let mut info: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with NUL, and the kernel writes one `statvfs64`.
    assert_eq!(unsafe { libc::statvfs64(path.as_ptr(), &raw mut info) }, 0);
    info.f_bfree
}

#[test]
fn holes_of_a_tmpfs_file_are_read_without_allocation() {
    let prepare = "mkdir mount && mount -t tmpfs -o size=1m tmpfs mount";
    run("special_files::child_holes_of_a_tmpfs_file", prepare);
}

#[test]
#[ignore = "a child of holes_of_a_tmpfs_file_are_read_without_allocation"]
fn child_holes_of_a_tmpfs_file() {
    let Some(dir) = child_dir() else { return };
    let (mount, path) = (dir.join("mount"), dir.join("mount/sparse"));
    let mut content = vec![0; 4 << 20];
    let on_disk = File::create(&path).unwrap();
    on_disk.set_len(content.len() as u64).unwrap();
    for at in [100, 70_000, 3_000_000] {
        content[at..at + 50].fill(7);
        on_disk.write_all_at(&[7; 50], at as u64).unwrap();
    }
    let free = free_blocks(&mount);
    for builder in [adaptive(), MapManager::builder(), MapManager::builder().window(Window::WholeFile)] {
        let maps = manager(builder);
        let file = maps.open(&path).unwrap();
        assert_reads_everywhere(&file, &content);
        assert_eq!(free_blocks(&mount), free, "a read has allocated pages");
        assert_eq!(maps.stats().unmappable_files, 0);
    }

    // A file without holes is mapped.
    let dense = dir.join("mount/dense");
    fs::write(&dense, &content[..200_000]).unwrap();
    let maps = manager(adaptive());
    let file = maps.open(&dense).unwrap();
    assert_reads_everywhere(&file, &content[..200_000]);
    let lease = file.lease(..WINDOW).unwrap();
    assert!(fs::read_to_string("/proc/self/maps").unwrap().contains(dense.to_str().unwrap()));
    drop(lease);

    // Holes that are punched under a mapping: neither `verify` nor the read-ahead of a cursor allocates their pages.
    file.prefetch(..).unwrap();
    let mut cursor = file.cursor();
    assert!(!cursor.window_at(0).unwrap().is_empty());
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let on_disk = OpenOptions::new().write(true).open(&dense).unwrap();
    // SAFETY: the call takes no pointer.
    assert_eq!(unsafe { libc::fallocate(on_disk.as_raw_fd(), flags, 0, 200_000) }, 0);
    let free = free_blocks(&mount);
    file.verify(..).unwrap();
    assert!(!cursor.window_at(WINDOW).unwrap().is_empty() && !cursor.window_at(2 * WINDOW).unwrap().is_empty());
    assert_eq!(free_blocks(&mount), free, "a call has allocated pages");
    assert_eq!(maps.stats().regions, 4, "the windows were mapped");
    drop((cursor, file));
    assert_nothing_is_mapped(&maps, &dense);
    println!("{DONE}");
}

/// Reserves huge pages for a test, and returns them at the end.
struct HugePages {
    before: String,
}

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl HugePages {
    fn reserve(count: u64) -> Option<Self> {
        let before = fs::read_to_string(HUGE_PAGES).ok()?.trim().to_owned();
        let wanted = before.parse::<u64>().ok()? + count;
        fs::write(HUGE_PAGES, wanted.to_string()).ok()?;
        let reserved = Self { before };
        (fs::read_to_string(HUGE_PAGES).ok()?.trim() == wanted.to_string()).then_some(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(HUGE_PAGES, &self.before);
    }
}

#[test]
fn hugetlbfs_file_is_mapped_in_huge_pages() {
    let Some(_pages) = HugePages::reserve(8) else {
        return say("SKIPPED: hugetlbfs_file_is_mapped_in_huge_pages: no huge pages can be reserved");
    };
    let prepare = "mkdir mount && mount -t hugetlbfs -o pagesize=2M,size=16M none mount";
    run("special_files::child_hugetlbfs_file", prepare);
}

#[test]
#[ignore = "a child of hugetlbfs_file_is_mapped_in_huge_pages"]
fn child_hugetlbfs_file() {
    let Some(dir) = child_dir() else { return };
    let (mount, path) = (dir.join("mount"), dir.join("mount/file"));
    let content = bytes(5, 3 * HUGE);
    fill_hugetlbfs(&path, &content);
    let free = free_blocks(&mount);
    for builder in [adaptive(), MapManager::builder(), MapManager::builder().window(Window::WholeFile)] {
        let maps = manager(builder);
        let file = maps.open(&path).unwrap();
        assert_reads_everywhere(&file, &content);
        let lease = file.lease(..100_000).unwrap();
        assert!(maps.stats().mapped_bytes > 0 && maps.stats().mapped_bytes % HUGE == 0, "{:?}", maps.stats());
        drop((lease, file));
        assert_nothing_is_mapped(&maps, &path);
    }
    // A window of 64 KiB takes a huge page of the budget.
    let maps = manager(adaptive());
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    let window = cursor.window_at(WINDOW).unwrap();
    assert_same(window, &content[WINDOW as usize..2 * WINDOW as usize], "a window inside a huge page");
    assert_eq!((maps.stats().mapped_bytes, maps.stats().regions), (HUGE, 1));
    drop((cursor, file));
    assert_nothing_is_mapped(&maps, &path);

    // Holes are read without huge pages, of which there are too few.
    let sparse = dir.join("mount/sparse");
    File::create(&sparse).unwrap().set_len(16 * HUGE).unwrap();
    let maps = manager(adaptive());
    assert_reads_everywhere(&maps.open(&sparse).unwrap(), &vec![0; 16 * HUGE as usize]);
    assert_eq!(free_blocks(&mount), free, "a read has allocated huge pages");
    println!("{DONE}");
}

/// Writes a file of hugetlbfs, which can be written through a mapping only.
fn fill_hugetlbfs(path: &Path, content: &[u8]) {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: this maps a file at an address of the OS's choice.
    let address = unsafe { libc::mmap(ptr::null_mut(), content.len(), protection, flags, file.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED);
    // SAFETY: the mapping is new and has this length.
    unsafe { address.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), content.len()) };
    // SAFETY: the mapping is this function's own.
    assert_eq!(unsafe { libc::munmap(address, content.len()) }, 0);
}

/// A loop device that ends with the test.
struct LoopDevice(String);

impl LoopDevice {
    fn of(path: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Reads a loop device by two nodes. It is one file, with the length of the device.
#[test]
fn block_device_is_read_like_a_file() {
    let dir = crate::support::Dir::new();
    let content = bytes(6, 300_032);
    let backing = dir.path().join("backing");
    fs::write(&backing, &content).unwrap();
    let Some(device) = LoopDevice::of(&backing) else {
        return say("SKIPPED: block_device_is_read_like_a_file: no loop device");
    };
    let path = Path::new(&device.0);
    let maps = manager(adaptive());
    let file = maps.open(path).unwrap();
    assert_reads_everywhere(&file, &content);
    assert!(maps.stats().hits > 0, "{:?}", maps.stats());
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);

    let node = dir.path().join("node");
    let name = CString::new(node.as_os_str().as_bytes()).unwrap();
    let number = fs::metadata(path).unwrap().rdev();
    // SAFETY: the name ends with NUL.
    assert_eq!(unsafe { libc::mknod(name.as_ptr(), libc::S_IFBLK | 0o600, number) }, 0);
    match maps.open(&node) {
        Ok(second) => {
            assert_reads_everywhere(&second, &content);
            assert_eq!(maps.stats().files, 1);
        }
        // The temporary directory may be mounted without devices.
        Err(error) => say(format!("SKIPPED: a second node of a block device: {error}")),
    }
    // The descriptor can be closed and opened again.
    maps.set_limits(smmap::Limits { max_open_files: 1, ..maps.limits() }).unwrap();
    let _other = maps.open(&backing).unwrap();
    assert_eq!(maps.stats().open_files, 1);
    assert_reads_everywhere(&file, &content);
    assert_eq!(file.refresh().unwrap(), Change::Unchanged);
}

#[test]
fn map_of_a_process_that_locks_its_memory_names_the_limit() {
    run("special_files::child_map_of_a_process_that_locks_its_memory", "true");
}

#[test]
#[ignore = "a child of map_of_a_process_that_locks_its_memory_names_the_limit"]
fn child_map_of_a_process_that_locks_its_memory() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("file");
    let content = bytes(7, 8 << 20);
    fs::write(&path, &content).unwrap();
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: 4 << 20 }));
    let file = maps.open(&path).unwrap();
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: the kernel reads one `rlimit`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
    // Root may lock more than the limit. The system call changes the user of this thread only.
    // SAFETY: the call takes no pointer.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
    let error = file.cursor().window_at(0).unwrap_err();
    let message = error.to_string();
    assert!(error.kind() == ErrorKind::OutOfMaps && message.contains("ulimit -l"), "{message}");
    let mut copy = [0; 100];
    file.read_exact_at(&mut copy, 5_000_000).unwrap();
    assert_same(&copy, &content[5_000_000..5_000_100], "a copy");
    println!("{DONE}");
}
