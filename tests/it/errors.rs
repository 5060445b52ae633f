//! Errors name the file, the range and a remedy, and convert to `io::Error`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use smmap::{Error, ErrorKind, Overcommit};

use crate::fixture::three_windows::{LEN, WINDOW, content_file, limited, with_file};
use crate::support::{Dir, manager};

/// Panics unless the message of `error` names the path, both ends of the range, and one word of `advice`.
#[track_caller]
fn assert_message_names(error: &Error, path: &Path, range: &Range<u64>, advice: &[&str]) {
    let said = error.to_string();
    assert!(said.contains(path.to_str().unwrap()), "the message does not name the path: {said}");
    for bound in [range.start, range.end] {
        assert!(said.contains(&bound.to_string()), "the message does not name {bound}: {said}");
    }
    let lower = said.to_lowercase();
    assert!(advice.iter().any(|word| lower.contains(word)), "the message has none of {advice:?}: {said}");
    let debug = format!("{error:?}");
    assert!(debug.contains(&format!("{:?}", error.kind())), "{debug}");
}

#[test]
fn out_of_bounds_error_names_file_range_and_length() {
    let (dir, _maps, file) = with_file();
    let path = dir.path().join("file");
    let range = LEN - 3..LEN + 4;
    let error = file.lease(range.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds);
    assert_eq!((error.path(), error.range()), (Some(&*path), Some(range.clone())));
    // The remedy is the length of the file, or `refresh`.
    assert_message_names(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    let error = file.cursor().slice(range.clone()).unwrap_err();
    assert_message_names(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    let error = file.read_exact_at(&mut [0; 7], LEN - 3).unwrap_err();
    assert_message_names(&error, &path, &range, &[&LEN.to_string(), "refresh"]);
    assert_eq!(error.range(), Some(range));

    let converted = io::Error::from(error);
    assert!(
        converted.to_string().contains(path.to_str().unwrap()),
        "the converted error does not name the path: {converted}"
    );
    assert!(matches!(converted.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof), "{converted:?}");
}

#[test]
fn over_budget_error_names_file_range_and_remedy() {
    let dir = Dir::new();
    let path = content_file(&dir, "file", LEN);
    let maps = manager(limited().max_mapped_bytes(WINDOW).overcommit(Overcommit::Fail));
    let file = maps.open(&path).unwrap();
    let _held = file.lease(0..WINDOW).unwrap();
    let range = WINDOW..2 * WINDOW;
    let error = file.lease(range.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverBudget);
    assert_eq!((error.path(), error.range()), (Some(&*path), Some(range.clone())));
    let advice = ["max_mapped_bytes", "set_limits", "overcommit", "raise", "drop", "release", "let go"];
    assert_message_names(&error, &path, &range, &advice);
    assert!(io::Error::from(error).to_string().contains(path.to_str().unwrap()));
}

/// Reads past the end of a file opened by descriptor. The error has the range but no path.
#[test]
fn error_of_a_file_opened_by_descriptor_has_no_path() {
    let dir = Dir::new();
    let maps = manager(limited());
    let file = maps.open_file(File::open(content_file(&dir, "file", 10)).unwrap()).unwrap();
    let error = file.lease(8..12).unwrap_err();
    assert_eq!((error.kind(), error.path(), error.range()), (ErrorKind::OutOfBounds, None, Some(8..12)));
    let said = error.to_string();
    assert!(said.contains('8') && said.contains("12"), "{said}");
}

#[test]
fn error_converts_to_boxed_and_io_errors() {
    fn travels<T: std::error::Error + Send + Sync + 'static>() {}
    travels::<Error>();
    let (_dir, _maps, file) = with_file();
    let fails = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        file.lease(LEN..LEN + 1)?;
        Ok(())
    };
    let error = fails().unwrap_err();
    assert!(error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfBounds));
    let reads = || -> io::Result<u8> {
        file.lease(LEN..=LEN)?;
        Ok(0)
    };
    assert!(reads().is_err());
}
