//! Traits of the public types, clones of the manager, and optional features.

use std::fmt::Debug;
use std::io;

use smmap::{Buffer, Cursor, Error, Lease, MapManager, MappedFile, Windows};

use crate::fixture::opened::{Opened, WINDOW};
use crate::support::assert_same;

#[test]
fn public_types_implement_the_promised_traits() {
    fn shared<T: Clone + Send + Sync + Debug + 'static>() {}
    fn own<T: Clone + Send + Debug + 'static>() {}
    fn sent<T: Send + DoubleEndedIterator<Item = smmap::Result<Lease>> + ExactSizeIterator>() {}
    fn error<T: std::error::Error + Send + Sync + Into<io::Error> + 'static>() {}
    shared::<MapManager>();
    shared::<MappedFile>();
    own::<Cursor>();
    own::<Buffer>();
    sent::<Windows>();
    error::<Error>();

    let opened = Opened::long();
    assert_eq!(opened.handle.len(), opened.file.len());
    assert!(!opened.handle.is_empty());
    assert_eq!(opened.handle.path(), Some(opened.file.path.as_path()));
    let readers = (opened.handle.cursor(), opened.handle.buffer(), opened.handle.windows());
    let count = std::thread::spawn(move || {
        let (mut cursor, mut buffer, windows) = readers;
        let first = cursor.window_at(0).unwrap()[0];
        assert_eq!(buffer.get(0).unwrap(), Some(first));
        windows.map(Result::unwrap).count() as u64
    });
    assert_eq!(count.join().unwrap(), opened.file.len().div_ceil(WINDOW));
}

#[test]
fn clone_of_the_manager_shares_the_cache() {
    let opened = Opened::long();
    let twin = opened.maps.clone();
    let other = twin.open(&opened.file.path).unwrap();
    let mut cursors = (opened.handle.cursor(), other.cursor());
    let (a, b) = (cursors.0.window_at(0).unwrap().as_ptr(), cursors.1.window_at(0).unwrap().as_ptr());
    assert_eq!(a, b, "both cursors read the same mapping");
    assert_eq!(twin.stats().maps, 1);
    drop((opened.maps, opened.handle));
    assert_same(
        cursors.1.window_at(WINDOW).unwrap(),
        &opened.file[WINDOW as usize..2 * WINDOW as usize],
        "through the clone",
    );
    assert_same(
        cursors.0.window_at(5 * WINDOW).unwrap(),
        &opened.file[5 * WINDOW as usize..6 * WINDOW as usize],
        "through the first manager's cursor",
    );
    assert_eq!(twin.stats().files, 1);
}

#[cfg(feature = "serde")]
#[test]
fn limits_and_stats_survive_serde() {
    let opened = Opened::long();
    opened.handle.cursor().window_at(0).unwrap();
    let limits = opened.maps.limits();
    assert_eq!(serde_json::from_str::<smmap::Limits>(&serde_json::to_string(&limits).unwrap()).unwrap(), limits);
    let stats = opened.maps.stats();
    let json = serde_json::to_string(&stats).unwrap();
    assert!(json.contains("\"peak_mapped_bytes\""), "{json}");
    assert_eq!(serde_json::from_str::<smmap::Stats>(&json).unwrap(), stats);
}
