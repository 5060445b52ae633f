//! A lock-free concurrent cache of read-only, memory-mapped file regions, for many threads.
//!
//! A [`MapManager`] maps *windows* of files: fixed, aligned parts, of up to 16 MiB by default. All threads share each
//! mapped region. The manager unmaps regions that are not in use, to stay inside a budget of bytes, regions and open
//! files. A program can therefore read files of any size with a fixed amount of mapped memory. The crate is the Rust
//! successor of Python's `smmap`.
//!
//! ```
//! use smmap::{MapManager, Window};
//!
//! // SAFETY: no process changes or truncates the files of this example.
//! let maps = unsafe {
//!     MapManager::builder()
//!         .window(Window::Sliding { bytes: 1 << 20 })
//!         .max_mapped_bytes(64 << 20)
//!         .build()?
//! };
//! let file = maps.open("src/lib.rs")?;
//!
//! // One thread that reads at many offsets: no copy, and inside its window a read costs about as much as a slice.
//! let mut cursor = file.cursor();
//! assert_eq!(cursor.slice(4..10)?, b"A lock");
//!
//! // Bytes to keep, and to send to other threads.
//! let lease = file.lease(4..10)?;
//! std::thread::spawn(move || assert_eq!(&lease[..], b"A lock")).join().unwrap();
//!
//! // A small record: copied from the mapping or from the file, whichever is cheaper.
//! let mut record = [0; 6];
//! file.read_exact_at(&mut record, 4)?;
//! assert_eq!(&record, b"A lock");
//! # Ok::<(), smmap::Error>(())
//! ```
//!
//! # Ways to read
//!
//! | | returns | cost of a hit | keeps mapped | copies instead of mapping |
//! |---|---|---|---|---|
//! | [`Cursor`] | `&[u8]`, valid until the next call; `Read`, `BufRead`, `Seek` | none inside its window; one private store to enter another | one window, until the cursor moves to another, is released or is dropped | `slice` and `Read`: small ranges; `BufRead`: up to 64 KiB at a time; `window_at`: only unmappable files |
//! | [`Lease`] | owned bytes at a fixed address; [`Send`], [`Sync`], `'static` | two shared writes | its region, until it is dropped | small ranges |
//! | [`MappedFile::read_at`] | bytes in the caller's buffer | two shared writes and the copy | nothing | always copies |
//! | [`Windows`], `par_windows` | one lease for each window | two shared writes | as leases do | only unmappable files |
//! | [`Buffer`] | bytes, slices, searches, lines | as a cursor | one window, as a cursor does | `slice` and `get`: small ranges |
//!
//! *Small* is at most 256 KiB. A small range is copied if it crosses windows, or if its window is not mapped and a
//! mapping would not pay off. [`Admission`] decides the latter, even if the budget has room. A larger range is always
//! mapped: as part of its window or, if it crosses windows, as a *detached region*, a mapping for this range alone. In
//! each case the caller gets the range in one piece. If the OS [does not map](ErrorKind::Unmappable) a file, or a
//! mapping would allocate the holes of a file in memory, the file is *unmappable*: a copy inside the budget takes the
//! place of a window.
//!
//! All these types are [`Send`] and [`Sync`]. The methods of managers, files and leases take `&self`. Cursors, buffers
//! and iterators take `&mut self`, so each thread needs its own. Any call can wait for the disk, and so can an access
//! to mapped bytes: in async code, use a thread that may block.
//!
//! Mapped bytes count in the budget, and so do copies of windows; other copies do not. A lease that is such a copy
//! takes up to 256 KiB of memory until it is dropped. A cursor keeps one copy buffer of up to 256 KiB until it is
//! released.
//!
//! # Guarantees
//!
//! - **The budget limits the mappings of the kernel.** The mappings of a manager stay within [`Limits`] as long as
//!   these have room for all regions held by clients and one window for each thread that maps. Beyond that,
//!   [`Overcommit`] decides. A region counts until it is unmapped.
//! - **A hit takes no lock, allocates nothing and makes no system call.** The exceptions:
//!     - The first call of a thread may allocate.
//!     - [`Windows`] asks the OS once for each mapping whether the window is in memory (`mincore` on Linux; `madvise` on
//!       other Unix systems). If it is not, the iterator has it read ahead (`madvise`, or reads of the file), and ends
//!       that at the next window. (Linux tells only processes that own the file or may write it. For others, nothing is
//!       read ahead.)
//!     - A window that small reads in no order have mapped is read page by page, without read-ahead. A reader in it whose
//!       reads are contiguous, several in a row, makes a few calls to read ahead (`madvise`), at most until the rest of
//!       the window was read once. So does [`Cursor::window_at`] at the start of such a window, once for each mapping.
//!     - The last client of a detached region, or of a window of a closed or truncated file, unmaps it.
//!     - If `fault_guard` is installed, bytes that end in zeros at the end of a page are verified against the file.
//! - **Readers do not wait for each other on a hit.** A cursor protects its window by one store to its own hazard
//!   record, and may store the access frequency of the window, until that is saturated. Inside its window, it writes
//!   nothing that another thread reads. Taking a lease is one *shared write*, an atomic write to a word that all
//!   clients of the window share, and so is dropping it. Taking it may also store the window's access frequency. With
//!   more than two threads for each CPU, threads share the counters of [`Stats`].
//! - **A miss waits only if it must map.** It then waits for the thread that already loads the window, for unmaps in
//!   progress (about 20 ms each for regions and descriptors), and for room and a descriptor if [`Overcommit::Wait`] is
//!   set. A read that may copy waits for none of these: it reads the file. If its descriptor was closed, it waits for
//!   the thread that opens the file again. Opening a file takes short locks on tables of files and names.
//! - **Borrowed and leased bytes stay mapped.** This holds when the limits change, when the file is closed, renamed or
//!   deleted, and, for leases, when the manager and all handles of the file are dropped.
//!
//! The crate cannot guarantee that the *files* keep their content while bytes of them are borrowed. The caller promises
//! that in the one `unsafe` function, [`MapManagerBuilder::build`]. The module [`guarantees`] lists each kind of fault,
//! its outcome, and the test that shows it.
//!
//! # Memory use
//!
//! The cache's own memory, on 64-bit systems, approximately:
//!
//! | | bytes |
//! |---|---|
//! | a manager | 2.7 KB; for each CPU 512 of counters (16 KiB at most) and 512 of the file table; 32 KiB to 1 MiB of access counts, with the budget; and a thread |
//! | an open file | 1.2 KB, with a path of 48 bytes |
//! | a mapped window | 83 if its neighbours are mapped too; 1.2 KB if no other window near it is |
//! | a cursor | 240, and a hazard record of 128 |
//! | a lease | 40 |
//!
//! The number of CPUs is rounded up to a power of two. The slot of a window (64 bytes, allocated for 16 windows at
//! once) remains until its file is forgotten, even after the window was unmapped. Hazard records are allocated 16 at
//! once, reused by later cursors, and freed with the manager.
//!
//! # Features
//!
//! No feature is on by default.
//!
//! | feature | adds |
//! |---|---|
//! | `rayon` | `MappedFile::par_windows`: the windows of a file as a parallel iterator |
//! | `bytes` | `From<Lease> for bytes::Bytes`, without a copy |
//! | `stable_deref_trait` | `StableDeref` and `CloneStableDeref` for [`Lease`] |
//! | `serde` | `Serialize` and `Deserialize` for [`Limits`] and [`Stats`] |
//! | `fault-guard` (Unix) | the module `fault_guard`: reading a file that was truncated while mapped is an error instead of the end of the process |

// Dependencies point down only: each module uses those above it. docs/architecture.md has the job of each module, and
// the paths of an open, a hit, a miss and an eviction through them.

mod config;
mod error;
mod geometry;
mod os;
mod sync;

mod policy;
mod protocol;

#[cfg(all(unix, feature = "fault-guard"))]
pub mod fault_guard;
#[cfg(not(all(unix, feature = "fault-guard")))]
#[path = "fault_guard/off.rs"]
mod fault_guard;
mod stats;

mod mapping;

mod cache;

mod file;
mod manager;

mod read;

mod integrations;

#[doc = include_str!("../docs/guarantees.md")]
#[cfg_attr(
    not(all(unix, feature = "fault-guard")),
    allow(rustdoc::private_intra_doc_links, reason = "`fault_guard` is private without its feature")
)]
pub mod guarantees {}

pub use cache::{Change, Closed, Collected};
pub use config::{Admission, Advice, Limits, OpenOptions, Overcommit, Revalidate, Window};
pub use error::{Error, ErrorKind, Result};
pub use file::MappedFile;
#[cfg(feature = "rayon")]
pub use integrations::rayon::ParWindows;
pub use manager::{MapManager, MapManagerBuilder};
pub use read::{Buffer, Cursor, FindIter, Lease, Lines, Split, Windows};
pub use stats::Stats;

/// Runs the examples of the README as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
