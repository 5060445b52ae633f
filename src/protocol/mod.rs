//! The concurrency protocol of the cache, without I/O: take, load, retire, drain, protect, reserve and wake.
//!
//! These files use no path, file, mapping, clock or error type, only [`crate::sync`]. So `loom-tests/` compiles the
//! very same files against loom's types and explores their interleavings.
//!
//! | file | content |
//! |---|---|
//! | [`slot`] | [`Slot<P>`](slot::Slot): a payload, the count of its clients, and the state that decides which thread may unmap it |
//! | [`sparse_table`] | [`SparseTable<T>`](sparse_table::SparseTable): elements by 64-bit index; grows without moving them |
//! | [`hazard`] | [`HazardDomain`](hazard::HazardDomain): hazard records of uncounted readers |
//! | [`slab`] | [`Slab<T>`](slab::Slab): numbered entries, claimed and released without a lock |
//! | [`clock_ring`] | [`ClockRing<T>`](clock_ring::ClockRing): the candidates for eviction, walked without a lock under the epoch |
//! | [`budget`] | [`Budget`](budget::Budget): bytes are reserved before the map and released after the unmap |
//! | [`wake_event`] | [`WakeEvent`](wake_event::WakeEvent): wake, sleep and stop of the collector |
//! | `address_table` | `AddressTable` (feature `fault-guard`): the mapped address ranges, for a signal handler to look up |
//! | [`atomics`] | one-word atomics: [`FencedU64`](atomics::FencedU64), [`UserCount`](atomics::UserCount), [`ThreadIds`](atomics::ThreadIds), [`Clock`](atomics::Clock) |
//!
//! # Actors
//!
//! A *client* is a counted reference ([`SlotRef`](slot::SlotRef)). A *reader* is a cursor: it protects the slot in its
//! own hazard record and is not counted. A *loader* maps a vacant slot ([`Loading`](slot::Loading)). An *evicting
//! thread* retires a slot without clients. A *drainer* closes a slot to new clients. The *owner* is the thread that has
//! to unmap: it holds the [`UnmapToken`](slot::UnmapToken).
//!
//! # The states of a slot
//!
//! The number in parentheses is the number of clients.
//!
//! ```text
//!  VACANT ── begin_load ─▶ LOADING ── publish ─▶ MAPPED(1..n) ⟲ take / clone / release
//!     ▲                       │ abandon             │ retire, n = 0
//!     ├───────────────────────┘                     ▼
//!     └──────────── vacate, after the unmap ◀─── RETIRING ── restore ─▶ MAPPED(0)
//!
//!  + draining, a flag in any state: no new client; the thread that takes MAPPED+draining to 0 clients is the owner
//!  + detached, a flag from birth: the slot is in no table; its owner frees it
//! ```
//!
//! | verb | from → to | actor, operation | ordering | its partner |
//! |---|---|---|---|---|
//! | `begin_load` | VACANT, draining or not → LOADING, not draining | a loader; exchange | AcqRel | `vacate`, `drain`, abandon |
//! | `publish` | LOADING → MAPPED(1), keeps draining | the loader; addition | AcqRel | `take`, `join`, `protect`, `retire`, `drain` |
//! | abandon (drop of `Loading`) | LOADING → VACANT, not draining | the loader; swap | AcqRel | `begin_load` |
//! | `take` | MAPPED(n) → MAPPED(n + 1), never while draining | any thread with the slot; exchange | Acquire | `publish`, `restore` |
//! | `join` | MAPPED(n) → MAPPED(n + 1), n ≥ 1, draining or not | any thread with the slot; exchange | Acquire | `publish`, `restore` |
//! | clone of a `SlotRef` | MAPPED(n) → MAPPED(n + 1), n ≥ 1 | a client; addition | Relaxed | none |
//! | release (drop of a `SlotRef`) | n → n − 1; makes the thread the *owner* at (draining, 1) → (draining, 0) | a client; subtraction | Release; then an Acquire load, if it is the owner | `retire`, `drain` |
//! | `retire` | MAPPED(0), not draining → RETIRING; makes the thread the *owner* | an evicting thread, pinned; exchange | AcqRel | release, `restore`; `begin_load`, `Budget::in_transit` |
//! | `restore` | RETIRING, not draining → MAPPED(0) | the owner; exchange | Release | `retire`, `drain`, `take` |
//! | `protect` ([`HazardPointer`](hazard::HazardPointer)) | none; succeeds in MAPPED, never while draining | a reader; a store to its record, the light barrier, a load | Acquire | `publish`; the owner's heavy barrier |
//! | `drain` | + draining; at MAPPED(0) it makes the thread the *owner* | any thread with the slot; or | AcqRel | all |
//! | `vacate` | RETIRING or (draining, 0) → VACANT, not draining | the owner, after the unmap; swap | AcqRel | `begin_load` |
//!
//! The owner scans the hazard records (rule 7), removes the slot from the ring, unmaps, vacates the slot, and releases
//! the reservation. `(draining, 0)` **is** ownership: one atomic step both takes the last client away and names the
//! owner, so two threads cannot both become the owner. `drain` and release are wait-free. The other verbs retry only if
//! another thread's verb succeeded.
//!
//! # The rules
//!
//! 1. **One loader.** Only the thread whose `begin_load` succeeds maps. Other threads read the file in the meantime, or
//!    try again.
//! 2. **No change is overwritten.** Every change of the word is a read-modify-write. A refused `take` changes nothing.
//!    `publish` keeps a drain, and the next `begin_load` synchronizes with it.
//! 3. **The payload cell** is written by the loader in LOADING and by the owner. It is read by clients (n ≥ 1), by
//!    readers that protect the slot (rule 7), and by the owner. No other thread accesses it.
//! 4. **Reserve first.** A reservation is made before the map and released after the unmap ([`budget`]).
//! 5. **The payload keeps the slot.** From before `publish` until after `vacate`, a payload holds a counted reference
//!    that keeps its slot's memory: the file, whose table contains the slot. So clients and owners need only a pointer
//!    to the slot. A releasing client that does not become the owner must not access the slot after its subtraction:
//!    the memory may be freed.
//! 6. **Evicting threads visit slots that they do not keep.** A slot enters the [`clock_ring`] before `publish` and
//!    leaves it before the unmap. Its table is freed through the epoch. So a pinned evicting thread may find a slot
//!    that is vacant, or was mapped again, or belongs to a file that is closed. The word decides: `retire` fails, or it
//!    makes the thread the owner of a real mapping.
//! 7. **An owner scans before it unmaps.** After it has become the owner of a slot (by `retire`, `drain`, or the last
//!    release), the owner issues the heavy barrier and scans all hazard records. A protected slot is restored. If it
//!    drains, its token stays on the deferred list until no record protects it, and the owner that deferred it scans
//!    again. If the OS refuses the barrier, every slot counts as protected. A detached slot needs no scan: only clients
//!    can reach it. [`hazard`] has the steps.
//!
//! `docs/soundness.md` discusses the races and has the proof of rule 7.

#[cfg(all(unix, feature = "fault-guard"))]
pub(crate) mod address_table;
pub(crate) mod atomics;
pub(crate) mod budget;
pub(crate) mod clock_ring;
pub(crate) mod hazard;
pub(crate) mod slab;
pub(crate) mod slot;
pub(crate) mod sparse_table;
pub(crate) mod wake_event;
