//! `close`: unmaps the unused windows of a file or directory, and counts those still held.

use std::fs;
#[cfg(unix)]
use std::path::Path;

use smmap::{Admission, MapManager, Window};

use crate::fixture::seeded::{
    SMALL, SOON, assert_bytes, assert_reads, file_in, poll, poll_kernel_agrees, small, visit,
};
#[cfg(unix)]
use crate::support::alone;
use crate::support::{Dir, manager};

/// Closes a file by hard link, symlink and relative name, as Python smmap's `force_map_handle_removal_win` does by its
/// path. Handles stay usable and map windows again.
#[cfg(unix)]
#[test]
fn close_by_any_name_of_a_file_unmaps_it() {
    let dir = Dir::new();
    let path = file_in(&dir, "name", 25, 3 * SMALL);
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink(&path, dir.path().join("symlink")).unwrap();
    fs::hard_link(&path, dir.path().join("hardlink")).unwrap();
    let maps = manager(small());
    let bystander = maps.open(file_in(&dir, "name2", 26, SMALL)).unwrap();
    visit(&bystander, SMALL, 26, 0..1);
    let file = maps.open(&path).unwrap();
    for name in ["name", "symlink", "hardlink", "sub/../name"] {
        let before = maps.stats().maps;
        visit(&file, SMALL, 25, 0..3);
        assert_eq!(maps.stats().maps, before + 3, "closed windows are mapped again, before close by {name}");
        let closed = maps.close(dir.path().join(name));
        assert_eq!((closed.unmapped, closed.still_held), (3, 0), "by {name}");
        assert_eq!(maps.stats().regions, 1, "by {name}");
        assert!(dir.mapped().is_none_or(|mapped| mapped.bytes == SMALL), "by {name}: {:?}", dir.mapped());
        assert_reads(&file, 25, 10, 1000);
        assert_bytes(&file.lease(SMALL + 1..2 * SMALL).unwrap(), 25, SMALL + 1);
        let used = maps.stats().regions - 1;
        assert!(used > 0);
        assert_eq!(maps.close(&path).unmapped, used, "windows mapped after the close by {name}");
    }
    // A missing path and a directory without open files have nothing to close.
    for name in ["missing", "sub"] {
        let closed = maps.close(dir.path().join(name));
        assert_eq!((closed.unmapped, closed.still_held), (0, 0), "{name}");
    }
    assert_eq!(maps.stats().regions, 1);
}

/// Closes a directory. Only files below it are closed: `/tmp/ab` does not match `/tmp/abc/x`.
#[test]
fn close_of_a_directory_matches_whole_components() {
    let dir = Dir::new();
    for name in ["ab", "ab/deep", "abc"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let maps = manager(small());
    let inside = ["ab/x", "ab/y", "ab/deep/z"];
    let outside = ["abc/x", "abx", "x"];
    let open = |name: &&str| {
        let file = maps.open(file_in(&dir, name, 27, 2 * SMALL)).unwrap();
        visit(&file, SMALL, 27, 0..2);
        file
    };
    let inside: Vec<_> = inside.iter().map(open).collect();
    let outside: Vec<_> = outside.iter().map(open).collect();
    let held = inside[2].lease(SMALL..SMALL + 10).unwrap();

    let closed = maps.close(dir.path().join("ab"));
    assert_eq!((closed.unmapped, closed.still_held), (5, 1));
    assert_eq!(maps.stats().regions, 6 + 1);
    let before = maps.stats().maps;
    outside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.stats().maps, before, "files beside the directory were closed");
    assert_bytes(&held, 27, SMALL);
    drop(held);
    assert_eq!(maps.stats().regions, 6);

    inside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.stats().maps, before + 6, "the handles of closed files map windows again");
    // A trailing separator does not change the directory. Its parent contains every file.
    assert_eq!(maps.close(dir.path().join("ab/")).unmapped, 6);
    inside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
    assert_eq!(maps.close(dir.path()).unmapped, 12);
    assert_eq!(maps.stats().regions, 0);
    outside.iter().for_each(|file| visit(file, SMALL, 27, 0..2));
}

/// Closes a file with two leased windows. `close` counts both as held, both stay readable, and each is unmapped when
/// its last client is dropped.
#[test]
fn close_counts_leased_windows_as_held() {
    let dir = Dir::new();
    let path = file_in(&dir, "held", 28, 6 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 28, 0..6);
    let lease = file.lease(SMALL + 5..SMALL + 500).unwrap();
    let part = lease.slice(10..20);
    let whole = file.lease(3 * SMALL..4 * SMALL).unwrap();

    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (4, 2));
    assert_eq!(maps.stats().regions, 2);
    poll_kernel_agrees(&maps, &dir);

    // The handle maps the window again. The old mappings do not change.
    let fresh = file.lease(SMALL + 5..SMALL + 500).unwrap();
    assert_eq!(&*fresh, &*lease);
    assert_bytes(&lease, 28, SMALL + 5);
    drop(fresh);
    maps.collect();
    assert_eq!(maps.stats().regions, 2);

    drop(lease);
    assert_eq!(maps.stats().regions, 2, "a slice of the dropped lease still holds its window");
    assert_bytes(&part, 28, SMALL + 15);
    drop(part);
    assert_eq!(maps.stats().regions, 1);
    drop(whole);
    let stats = maps.stats();
    assert_eq!((stats.regions, stats.mapped_bytes), (0, 0), "{stats:?}");
    poll_kernel_agrees(&maps, &dir);
    visit(&file, SMALL, 28, 0..6);
}

#[test]
fn held_window_after_close_counts_as_pinned() {
    let dir = Dir::new();
    let file = dir.file("held", 100, 1);
    let maps = manager(MapManager::builder().admission(Admission::Always));
    let lease = maps.open(&file.path).unwrap().lease(..).unwrap();
    assert_eq!(maps.close(&file.path).still_held, 1);
    assert_eq!((maps.stats().pinned_regions, maps.stats().regions), (1, 1));
    drop(lease);
    assert_eq!((maps.stats().pinned_regions, maps.stats().regions), (0, 0));
}

#[test]
fn close_counts_a_detached_region_and_keeps_the_descriptor() {
    let dir = Dir::new();
    let long = dir.file("long", 20 * SMALL, 1);
    let maps = manager(MapManager::builder().window(Window::Sliding { bytes: SMALL }).admission(Admission::Always));
    let file = maps.open(&long.path).unwrap();
    let across = file.lease(10..9 * SMALL).unwrap();
    let within = file.lease(15 * SMALL..15 * SMALL + 10).unwrap();
    file.cursor().window_at(17 * SMALL).unwrap();
    let closed = maps.close(&long.path);
    assert_eq!((closed.unmapped, closed.still_held), (1, 2));
    #[cfg(unix)]
    assert_eq!(maps.stats().open_files, 1);
    drop((across, within));
    assert_eq!(maps.stats().regions, 0);
}

/// Closes a file while a cursor stands in one of its windows. The cursor holds that window as a lease would.
#[test]
fn close_under_a_cursor_keeps_its_window_mapped() {
    let dir = Dir::new();
    let path = file_in(&dir, "cursor", 29, 4 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    visit(&file, SMALL, 29, 0..4);
    let mut cursor = file.cursor();
    let window = cursor.window_at(2 * SMALL).unwrap();
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (3, 1));
    assert_bytes(window, 29, 2 * SMALL);
    assert_eq!(maps.stats().regions, 1);

    // The cursor reads on in the same window, and in another one.
    assert_bytes(cursor.window_at(2 * SMALL + 9).unwrap(), 29, 2 * SMALL + 9);
    assert_bytes(cursor.window_at(0).unwrap(), 29, 0);
    assert_bytes(cursor.window_at(2 * SMALL).unwrap(), 29, 2 * SMALL);
    cursor.release();
    poll(&maps, SOON, "every region is unmapped after the cursor was released", || {
        maps.collect();
        maps.stats().regions == 0
    });
    poll_kernel_agrees(&maps, &dir);
}

/// Releases a cursor after `close`. The window is unmapped without a call of `collect`.
#[test]
fn window_released_by_a_cursor_after_close_is_unmapped() {
    let dir = Dir::new();
    let path = file_in(&dir, "cursor", 30, 2 * SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    let mut cursor = file.cursor();
    assert_bytes(cursor.window_at(0).unwrap(), 30, 0);
    let closed = maps.close(&path);
    assert_eq!((closed.unmapped, closed.still_held), (0, 1));
    cursor.release();
    poll(&maps, SOON, "the window is unmapped", || maps.stats().regions == 0);
}

/// Closes paths that lead to nothing. None of them is a name of a known file, or a directory above one.
#[cfg(unix)]
#[test]
fn close_of_a_path_that_leads_to_nothing_closes_nothing() {
    if !alone("close::close_of_a_path_that_leads_to_nothing_closes_nothing") {
        return;
    }
    let dir = Dir::new();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let path = file_in(&dir, "sub/name", 29, SMALL);
    let maps = manager(small());
    let file = maps.open(&path).unwrap();
    let close = |path: &str| {
        visit(&file, SMALL, 29, 0..1);
        maps.close(path).unmapped
    };
    // From the root, from the file's directory, and from a directory that does not exist any more.
    let gone = dir.path().join("gone");
    fs::create_dir(&gone).unwrap();
    for current in [Path::new("/"), &dir.path().join("sub"), &gone] {
        std::env::set_current_dir(current).unwrap();
        if current == gone {
            fs::remove_dir(&gone).unwrap();
        }
        let nothing =
            ["", " ", "nowhere", "nowhere/", "nowhere/..", "nowhere/../sub", "./nowhere", "~", "*", "\\0", "name/x"];
        for path in nothing {
            assert_eq!(close(path), 0, "{path:?} from {}", current.display());
        }
    }
    let file_as_directory = ["/", "/.", "/x", "/..", "/../name"].map(|end| format!("{}{end}", path.display()));
    for path in &file_as_directory {
        assert_eq!(close(path), 0, "{path:?}");
    }
    assert_eq!((close("."), close("..")), (0, 0), "the current directory is gone");
    std::env::set_current_dir(dir.path().join("sub")).unwrap();
    for path in [".", "./", "..", "name", "./name", "../sub", "../sub/./name", "/"] {
        assert_eq!(close(path), 1, "{path:?}");
    }
}

/// Closes a file that is deleted, and one below a directory that is deleted, by their known names.
// Windows does not delete a file that is open.
#[cfg(unix)]
#[test]
fn close_of_a_deleted_path_finds_files_by_their_names() {
    let dir = Dir::new();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let maps = manager(small());
    let files = ["name", "sub/name"].map(|name| maps.open(file_in(&dir, name, 30, SMALL)).unwrap());
    let visit_all = || files.iter().for_each(|file| visit(file, SMALL, 30, 0..1));
    visit_all();
    fs::remove_file(dir.path().join("name")).unwrap();
    fs::remove_dir_all(dir.path().join("sub")).unwrap();
    for name in ["name", "sub", "sub/", "sub/name"] {
        visit_all();
        assert_eq!(maps.close(dir.path().join(name)).unmapped, 1, "{name}");
    }
}
