//! The protocol: concurrency without I/O. All of take, load, retire, drain, reserve and wake is here, and nothing else.
//!
//! These files see no path, file, mapping, map of files, clock or error type, only [`crate::sync`]; so `loom-tests/`
//! compiles the very same files against loom's types and explores their interleavings.
//!
//! | file | what it is |
//! |---|---|
//! | [`slot`] | [`Slot<P>`](slot::Slot): one place for a payload, the count of its clients, and who may unmap it |
//! | [`radix_table`] | [`RadixTable<T>`](radix_table::RadixTable): slots by index; grows without moving |
//! | [`hazard`] | [`HazardDomain`](hazard::HazardDomain): who reads a slot without being counted |
//! | [`slab`] | [`Slab<T>`](slab::Slab): places with numbers, taken and left |
//! | [`clock_ring`] | [`ClockRing<T>`](clock_ring::ClockRing): the slots that could be evicted; walked without a lock, under the epoch |
//! | [`budget`] | [`Budget`](budget::Budget): reserve before mapping, give back after unmapping |
//! | [`wake_event`] | [`WakeEvent`](wake_event::WakeEvent): wake, sleep and stop of the collector |
//! | [`address_table`] | [`AddressTable`](address_table::AddressTable): the addresses that are ours, for a signal handler to ask |
//! | [`atomics`] | small words of one atomic each: [`FencedU64`](atomics::FencedU64), [`UserCount`](atomics::UserCount), [`Clock`](atomics::Clock) |
//!
//! # The states of a slot
//!
//! ```text
//!  VACANT ── begin_load ─▶ LOADING ── publish ─▶ MAPPED(1..n) ⟲ take / clone / release
//!     ▲                       │ abandon             │ retire, n = 0
//!     ├───────────────────────┘                     ▼
//!     └──────────── vacate, after the unmap ◀─── RETIRING ── restore ─▶ MAPPED(0)
//!
//!  + draining, a bit in any phase: no new client; whoever takes MAPPED+draining to 0 owns the unmap
//!  + detached, a bit from birth: in no table; its owner frees the slot
//! ```
//!
//! | verb | from → to | who, how | ordering | its partner |
//! |---|---|---|---|---|
//! | `begin_load` | VACANT, draining or not → LOADING | anyone with a handle; exchange | AcqRel | `vacate`, `drain` |
//! | `publish` | LOADING → MAPPED(1), keeps draining | the loader; addition | AcqRel | `take`, `retire`, `drain` |
//! | abandon (drop of `Loading`) | LOADING → VACANT | the loader; swap | AcqRel | `begin_load` |
//! | `take` | MAPPED(n) → MAPPED(n + 1), never while draining | anyone with the slot; exchange | Acquire | `publish` |
//! | `join` | MAPPED(n) → MAPPED(n + 1), n ≥ 1, draining or not | anyone with the slot; exchange | Acquire | `publish` |
//! | clone of a `SlotRef` | MAPPED(n) → MAPPED(n + 1), n ≥ 1 | a client; addition | Relaxed | – |
//! | release (drop of a `SlotRef`) | n → n − 1; (draining, 1) → (draining, 0) *owns* | a client; subtraction | Release, and an Acquire load if it owns | `retire`, `drain` |
//! | `retire` | MAPPED(0), not draining → RETIRING | an evictor, pinned; exchange | AcqRel | release, `restore` |
//! | `restore` | RETIRING → MAPPED(0), from exactly that | the owner; exchange | Release | `retire`, `take` |
//! | `protect` ([`HazardPointer`](hazard::HazardPointer)) | none; reads in MAPPED, never while draining | a cursor; a store in its own record, the light barrier, a load | Acquire | `publish`; the owner's heavy barrier |
//! | `drain` | + draining; on MAPPED(0) it *owns* | anyone with the slot; or | AcqRel | all |
//! | `vacate` | RETIRING or (draining, 0) → VACANT | the owner, after the unmap; swap | AcqRel | `begin_load` |
//!
//! *Owning* is the duty to unmap, a value of type [`UnmapToken`](slot::UnmapToken): look who has announced it, take it off its seat, unmap,
//! pay back, `vacate`. `(draining, 0)` **is** ownership; there is no second step in which two could meet. `drain` and release are
//! wait-free; the others retry only because somebody else got on.
//!
//! # The rules
//!
//! 1. **One loader.** Only who wins `begin_load` maps. The others read meanwhile, or look again.
//! 2. **Nothing is overwritten.** Every change of the word is a read-modify-write. A refused `take` leaves no trace; a
//!    `drain` is kept by `publish` and seen by the next `begin_load`.
//! 3. **The cell** of the payload is written by the loader in LOADING and by the owner; it is read by clients (n ≥ 1), by who
//!    has announced it (rule 7), and by the owner; by nobody else, at no other time.
//! 4. **Bytes first.** A reservation is made before a mapping and given back after its unmap ([`budget`]).
//! 5. **The payload keeps the slot.** A payload holds whatever keeps its slot's memory (a counted reference to the file,
//!    whose table the slot stands in), from before `publish` until after `vacate`. So clients and owners need nothing but
//!    a pointer to the slot, and a releaser that does not own must not touch the slot after its subtraction: it may be
//!    gone.
//! 6. **Evictors look at slots that they do not keep.** A slot takes its seat in the [`clock_ring`] before `publish`, leaves it
//!    before the unmap, and its table is freed through the epoch. A pinned evictor may so find a slot that is vacant, or
//!    mapped anew, or whose file is gone: its word is the truth, and `retire` fails or wins something real.
//!
//! 7. **An owner looks before it unmaps.** Whoever has won a slot (by `retire`, `drain`, the last release) issues the heavy
//!    barrier and looks at all announcements. What is announced is restored; if it drains, it stays owned, in limbo, until it is
//!    not announced any more, and who brought it there looks once more. What the barrier failed for is treated as announced. A
//!    slot that was never in a table needs no look: only its clients know it. ([`hazard`] has the steps and why they are
//!    right.)
//!
//! # The races to be feared
//!
//! - *The last release against a drain.* Both are single steps on one word. If the drain comes first, the release finds
//!   the bit and takes (draining, 1) to (draining, 0): it owns. If the release comes first, the drain finds MAPPED(0): it
//!   owns. Never both, never neither.
//! - *A take against a retire.* Both exchange from MAPPED(0): one wins. The reader loses to RETIRING and goes the slow
//!   way; the evictor loses to a client and goes on.
//! - *A drain against a publish.* If the drain comes first, the addition keeps its bit: the loader is the only client
//!   there will be, and unmaps. If it comes later, it is the race above.
//! - *A release against the end of the file.* The releaser that does not own has touched the slot for the last time in
//!   its subtraction; the one that owns still has the payload, which keeps the slot until after `vacate`.
//! - *A reader that acts on old bytes of the cell.* `publish` writes it before its Release; every way to see MAPPED is an
//!   Acquire. `vacate` empties it before its Release; `begin_load` is an Acquire. A client's reads come before its
//!   Release; `retire`, `drain` and the load in release are Acquires, and a chain of subtractions in between does not
//!   break it, since each is a read-modify-write (a release sequence).

#[cfg(all(unix, feature = "fault-guard"))]
pub(crate) mod address_table;
pub(crate) mod atomics;
pub(crate) mod budget;
pub(crate) mod clock_ring;
pub(crate) mod hazard;
pub(crate) mod radix_table;
pub(crate) mod slab;
pub(crate) mod slot;
pub(crate) mod wake_event;
