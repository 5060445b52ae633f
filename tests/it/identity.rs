//! Identity of a file: device and inode decide, not the path.
#![cfg(unix)]

use std::fs::{self, File};
use std::io;
use std::thread;

use smmap::{Change, ErrorKind};

use crate::fixture::seeded::{SMALL, TICK, assert_bytes, assert_reads, file_in, small, visit};
use crate::fixture::three_windows::{LEN, SEED, WINDOW, content, content_file, limited, with_file};
use crate::support::{Dir, manager};

/// Opens a file by hard links, symlinks, relative names and descriptors. The cache has one entry for it and maps each
/// window once.
#[test]
fn file_opened_by_many_names_is_one_entry() {
    let dir = Dir::new();
    let path = file_in(&dir, "name", 24, 2 * SMALL);
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink(&path, dir.path().join("symlink")).unwrap();
    fs::hard_link(&path, dir.path().join("sub/hardlink")).unwrap();
    std::os::unix::fs::symlink("sub", dir.path().join("subway")).unwrap();

    let maps = manager(small());
    let mut files = vec![maps.open_file(fs::File::open(&path).unwrap()).unwrap()];
    assert_eq!(files[0].path(), None);
    for name in ["name", "./name", "sub/../name", "symlink", "sub/hardlink", "subway/hardlink"] {
        files.push(maps.open(dir.path().join(name)).unwrap());
    }
    files.push(maps.open_file(fs::File::open(dir.path().join("symlink")).unwrap()).unwrap());
    files.push(files[3].clone());

    let leases: Vec<_> = files.iter().map(|file| file.lease(0..SMALL).unwrap()).collect();
    for (lease, file) in leases.iter().zip(&files) {
        assert_bytes(lease, 24, 0);
        assert_eq!(lease.as_ptr(), leases[0].as_ptr());
        visit(file, SMALL, 24, 0..2);
    }
    let stats = maps.stats();
    assert_eq!((stats.files, stats.maps, stats.regions), (1, 2, 2), "{stats:?}");
    assert_eq!((stats.pinned_regions, stats.mapped_bytes), (1, 2 * SMALL), "{stats:?}");

    // Two files with the same content have two entries.
    let twin = maps.open(file_in(&dir, "twin", 24, 2 * SMALL)).unwrap();
    visit(&twin, SMALL, 24, 0..2);
    assert_eq!((maps.stats().files, maps.stats().maps), (2, 4));
}

/// Replaces a file by rename, as git, editors and databases do. The old handle keeps reading the old file, and a new
/// `open` reads the new one.
#[test]
fn file_replaced_by_rename_is_another_file() {
    let dir = Dir::new();
    let path = file_in(&dir, "index", 16, 4 * SMALL);
    let maps = manager(small());
    let old = maps.open(&path).unwrap();
    let lease = old.lease(0..SMALL).unwrap();
    assert_eq!(old.refresh().unwrap(), Change::Unchanged);

    fs::rename(file_in(&dir, "index.lock", 17, 3 * SMALL), &path).unwrap();
    let new = maps.open(&path).unwrap();
    assert_eq!((new.len(), old.len()), (3 * SMALL, 4 * SMALL));
    visit(&new, SMALL, 17, 0..3);
    assert_eq!(maps.stats().files, 2);

    assert_eq!(old.refresh().unwrap(), Change::Replaced);
    assert_eq!(new.refresh().unwrap(), Change::Unchanged);
    assert_eq!(old.len(), 4 * SMALL);
    assert_bytes(&lease, 16, 0);
    visit(&old, SMALL, 16, 0..4);
    assert_reads(&old, 16, SMALL, 5000);
    assert_eq!(old.refresh().unwrap(), Change::Replaced);
    drop((old, lease));
    visit(&new, SMALL, 17, 0..3);
}

#[test]
fn file_deleted_after_open_stays_readable() {
    let (dir, maps, file) = with_file();
    let descriptor = maps.open_file(File::open(dir.path().join("file")).unwrap()).unwrap();
    fs::remove_file(dir.path().join("file")).unwrap();
    assert_eq!(file.path(), Some(&*dir.path().join("file")));
    assert_eq!(descriptor.path(), None);
    for file in [&file, &descriptor] {
        assert_eq!(file.cursor().window_at(WINDOW).unwrap(), content(WINDOW..2 * WINDOW));
        assert_eq!(&*file.lease(2 * WINDOW..LEN).unwrap(), content(2 * WINDOW..LEN));
        let mut copy = vec![0; 2000];
        file.read_exact_at(&mut copy, WINDOW - 1000).unwrap();
        assert_eq!(copy, content(WINDOW - 1000..WINDOW + 1000));
        file.refresh().unwrap();
        assert_eq!(file.len(), LEN);
    }
    let error = maps.open(dir.path().join("file")).unwrap_err();
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

/// Reads a new file with the inode number of a deleted one. The cache never returns the bytes of the deleted file.
#[test]
fn file_with_a_reused_inode_gives_its_own_bytes() {
    use std::os::unix::fs::MetadataExt as _;
    const LEN: u64 = SMALL + 1234;
    let dir = Dir::new();
    let maps = manager(small());
    let mut reused = 0;
    for round in 0..200u32 {
        let old = file_in(&dir, &format!("a-{round}"), 1, LEN);
        let inode = fs::metadata(&old).unwrap().ino();
        let first = maps.open(&old).unwrap();
        visit(&first, SMALL, 1, 0..2);
        match round % 4 {
            0 => {
                drop(first);
                maps.close(&old);
                fs::remove_file(&old).unwrap();
            }
            1 => {
                drop(first);
                fs::remove_file(&old).unwrap();
                maps.collect();
            }
            2 => {
                fs::remove_file(&old).unwrap();
                drop(first); // The mapped regions still keep the inode from being reused.
            }
            _ => {
                fs::remove_file(&old).unwrap();
                maps.collect();
                drop(first);
            }
        }
        // Creates the new file under the old name and under another one.
        let name = if round % 8 < 4 { "a" } else { "b" };
        let new = file_in(&dir, &format!("{name}-{round}"), 2, LEN);
        reused += usize::from(fs::metadata(&new).unwrap().ino() == inode);
        let second = maps.open(&new).unwrap();
        assert_eq!(second.len(), LEN);
        visit(&second, SMALL, 2, 0..2);
        assert_reads(&second, 2, 0, LEN as usize);
        assert_bytes(&second.lease(100..5000).unwrap(), 2, 100);
        drop(second);
        maps.close(&new);
        fs::remove_file(&new).unwrap();
    }
    eprintln!("{reused} of 200 inodes were reused");
}

/// Closes the descriptor of a deleted file to stay within `max_open_files`, so that its inode number can be reused.
/// A read through the old handle may fail, but never returns the bytes of the new file.
#[test]
fn handle_without_descriptor_never_reads_a_file_with_its_inode() {
    let dir = Dir::new();
    let maps = manager(small().max_open_files(1));
    let other = maps.open(file_in(&dir, "other", 9, SMALL)).unwrap();
    for round in 0..40 {
        let path = file_in(&dir, "a", 1, SMALL);
        let first = maps.open(&path).unwrap();
        visit(&first, SMALL, 1, 0..1);
        assert_reads(&other, 9, 0, 10);
        visit(&other, SMALL, 9, 0..1);
        maps.collect();
        fs::remove_file(&path).unwrap();
        thread::sleep(TICK);

        let new = file_in(&dir, "b", 2, SMALL);
        let second = maps.open(&new).unwrap();
        visit(&second, SMALL, 2, 0..1);
        assert_reads(&second, 2, 7, 1000);

        let mut copy = [0; 100];
        match first.read_exact_at(&mut copy, 50) {
            Ok(()) => assert_bytes(&copy, 1, 50),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Replaced | ErrorKind::Io), "round {round}: {error:?}")
            }
        }
        if let Ok(found) = first.cursor().window_at(0) {
            assert_bytes(found, 1, 0);
        }
        drop((first, second));
        fs::remove_file(&new).unwrap();
        maps.collect();
    }
    assert_reads(&other, 9, 0, 1000);
}

/// Replaces a file by a symlink to another file after its descriptor was closed. Reads through the old handle fail.
#[test]
fn handle_whose_path_became_a_link_says_replaced() {
    let dir = Dir::new();
    let (path, secret) = (content_file(&dir, "file", 5000), dir.file("secret", 5000, SEED + 1).path);
    let other = content_file(&dir, "other", 10);
    let maps = manager(limited().max_open_files(1));
    let file = maps.open(&path).unwrap();
    // Opening `other` closes the descriptor of `file`, which can be reopened by its path.
    let other = maps.open(&other).unwrap();
    other.refresh().unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    assert_eq!(file.lease(..).unwrap_err().kind(), ErrorKind::Replaced);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap_err().kind(), ErrorKind::Replaced);
    assert_eq!(file.refresh().unwrap(), Change::Replaced);
    // A link to a file that is already open leads to the same entry.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
    let again = maps.open(&path).unwrap();
    assert_eq!((again.len(), maps.stats().files), (10, 2));
}
