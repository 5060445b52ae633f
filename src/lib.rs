//! A lock-free concurrent cache of read-only, memory-mapped file regions, for many threads.
//!
//! A [`MapManager`] maps *windows* of files, shares every mapped region between all threads, counts its clients, and stays
//! inside a budget (bytes, regions, open files) by unmapping what nobody uses. A program reads files of any size through it,
//! in whatever memory it is given. It is the Rust successor of Python's `smmap`.
//!
//! ```
//! use smmap::{MapManager, Window};
//!
//! // SAFETY: nobody changes or truncates the files of this example.
//! let maps = unsafe {
//!     MapManager::builder()
//!         .window(Window::Sliding { bytes: 1 << 20 })
//!         .max_mapped_bytes(64 << 20)
//!         .build()?
//! };
//! let file = maps.open("src/lib.rs")?;
//!
//! // One thread that reads here and there: no copy, and in its window no more than a slice costs.
//! let mut cursor = file.cursor();
//! assert_eq!(cursor.slice(4..10)?, b"A lock");
//!
//! // Bytes to keep and to hand to other threads.
//! let lease = file.lease(4..10)?;
//! std::thread::spawn(move || assert_eq!(&lease[..], b"A lock")).join().unwrap();
//!
//! // A small record: copied, from what is mapped or from the file, whichever is cheaper.
//! let mut record = [0; 6];
//! file.read_exact_at(&mut record, 4)?;
//! assert_eq!(&record, b"A lock");
//! # Ok::<(), smmap::Error>(())
//! ```
//!
//! # Who holds what
//!
//! | | gives | keeps its region mapped | may copy instead of mapping |
//! |---|---|---|---|
//! | [`Cursor`] | `&[u8]` until its next call; `Read`, `BufRead`, `Seek` | one window, until it moves on | `slice`, `Read`: yes; `window_at`, `BufRead`: no |
//! | [`Lease`] | owned bytes at a fixed address, [`Send`], [`Sync`], `'static` | until it is dropped | up to 256 KiB |
//! | [`MappedFile::read_at`] | bytes in your buffer | no | yes |
//! | [`Windows`], `par_windows` | a lease of each window | as leases do | no |
//! | [`Buffer`] | bytes, slices, searches, lines | one window, as a cursor | `slice`, `get`: yes |
//!
//! All of them are [`Send`] and [`Sync`]. Managers, files and leases are used through `&self`; cursors, buffers and iterators
//! through `&mut self`, so one for each thread. Any call may wait for the disk, and so may touching mapped bytes: in async
//! code, use a thread that may block.
//!
//! A range that crosses windows comes in one piece all the same: up to 256 KiB are copied, more gets a mapping of its own.
//! What is mapped counts in the budget. Copies do not: a copying lease takes up to 256 KiB of memory for as long as it lives, a
//! cursor one buffer of that size until it is released. [`Admission`] says when a small range of a cold
//! window is read rather than mapped, also with room in the budget, and
//! [`Overcommit`] what happens when everything in the budget is in use.
//!
//! # What is promised
//!
//! - What the kernel has mapped for a manager never exceeds [`Limits`], wherever they have room for what clients hold and
//!   one window for each thread that is mapping; beyond that `Overcommit` decides. Regions are unmapped when they are given
//!   up, not when a list forgets them.
//! - In user space, after a thread's first and a cursor's second window (which takes 12 KiB), a hit takes no lock,
//!   allocates nothing and makes no system call (who reads window after window also asks the system, once for each,
//!   whether it is in memory). A cursor writes nothing that another reader
//!   waits for, neither within its window nor when it goes to another one that is mapped: it says in a cache line
//!   of its own what it reads, and whoever would unmap that looks there. A miss that has to map waits for the
//!   loader of its window, for other threads that are just unmapping (20 ms at most), and for room if
//!   `Overcommit::Wait` says so. What may copy does not wait for a loader, nor for room: it reads. Opening a file
//!   takes a short lock of a table of files.
//! - Whatever was handed out stays valid for its own life, whatever becomes of the manager, the limits, the file's handles
//!   and its name.
//!
//! And what is not: the *files* must hold still while they are borrowed, which is what the one `unsafe` function,
//! [`MapManagerBuilder::build`], is about. [`guarantees`] has all of it, fault by fault, with the test that shows it.
//!
//! # What it takes for itself
//!
//! On 64 bit: a manager 2.9 KB and its thread; an open file 1.1 KB, with a path of 48 bytes; a mapped window 83 bytes beside
//! others, 2.6 KB by itself (the nearest one a thousand windows away); a cursor 160 bytes and a record of 128 (these come in
//! sixteens), and 12 KiB more once it has changed windows twice; a lease 40. A window's slot stays, unmapped, as long as its file.
//! (2026-11-21; `cargo bench --bench scale -- ratios` for files and windows.)
//!
//! # The house
//!
//! ```text
//!  9  integrations/   bytes · rayon · stable_deref_trait                  guests, in by the front
//!  8  read/           cursor · lease · buffer · windows                   what a reader holds
//!  7  manager         MapManager · its builder · MappedFile               the front door
//!  6  cache/          load · copy · read_in · check · evict ·             the one floor that decides
//!                     residents · registry · collector · wait
//!  5  file/           key · FileEntry                                     one file and its slots
//!  4  region          Region (a slot's payload) · RegionRef · Reading     where the columns meet
//!  3  mapping         a span of a file, mapped                            I/O without concurrency
//!  2  fault_guard/    holes in mappings, by way of SIGBUS
//!     stats           what happened, counted
//!  1  protocol/ (slot · announce · table · seats · ring · budget ·        the pure columns
//!     signal · ranges · words) | policy/
//!  0  sync · os/ (unix · sigbus · windows) · error · window · config      plain values and the platform
//! ```
//!
//! Dependencies point down only. `protocol/` is concurrency without I/O, and what the models in `loom-tests/`
//! compile; `mapping` and `os/` are I/O without concurrency; `policy/` and `window` decide without either. Each
//! dependency has one door: memmap2 in `mapping`, dashmap in `cache/registry`, arc-swap in `config`, the epoch in
//! `sync`, libc and windows-sys in `os/` (and in `sync/barrier`). `unsafe` is there, in `mapping`, `region`, and
//! the `slot`, `protect` and `ring` of `protocol/`, and in two places that only make a promise: `build`, and the
//! impls of `stable_deref_trait`. `tests/it/architecture.rs` holds the sources to this.
//!
//! ```text
//! open   manager ─▶ identity (device, inode) ─▶ registry ─▶ MappedFile
//! hit    cursor: inside the region it holds? ─▶ bytes
//!        else the window's slot ─▶ touch, announce (or take) ─▶ bytes
//! miss   worth mapping? ─▶ begin_load ─▶ reserve [make room] ─▶ map ─▶ publish      (not worth it: read)
//! evict  the policy proposes ─▶ the slot's word disposes ─▶ who has announced it? ─▶ unmap ─▶ the reservation pays back
//! ```
//!
//! # Features
//!
//! None is on by default. `rayon`: [`MappedFile`]`::par_windows`. `bytes`: `From<Lease> for bytes::Bytes`.
//! `stable_deref_trait`: its traits for [`Lease`]. `serde`: [`Limits`] and [`Stats`]. `fault-guard` (Unix): the module
//! `fault_guard`, by which a file that is cut short under its map is an error and not the end of the process.

mod config;
mod error;
mod os;
mod stats;
mod sync;

mod geometry;
mod policy;
mod protocol;

#[cfg(all(unix, feature = "fault-guard"))]
pub mod fault_guard;
#[cfg(not(all(unix, feature = "fault-guard")))]
#[path = "fault_guard/off.rs"]
mod fault_guard;

mod mapping;

mod file;

mod cache;

mod manager;

mod read;

mod integrations;

#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

pub use cache::{Change, Closed, Collected};
pub use config::{Admission, Limits, Overcommit, Revalidate, Window};
pub use error::{Error, ErrorKind, Result};
pub use file::MappedFile;
#[cfg(feature = "rayon")]
pub use integrations::rayon::ParWindows;
pub use manager::{MapManager, MapManagerBuilder};
pub use read::{Buffer, Cursor, FindIter, Lease, Lines, Split, Windows};
pub use stats::Stats;

/// The front page's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
