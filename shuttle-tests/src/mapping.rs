//! The mapping of the tests: a copy of the file's bytes, which is overwritten when it is unmapped.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::os::{self, Advice, ReadAhead};
use crate::sync::AtomicU32;

/// The byte that overwrites an unmapped copy. No file of the tests contains it.
const UNMAPPED: u8 = 0xdd;

thread_local! {
    /// The world of the current execution. All of shuttle's threads run on one OS thread.
    static WORLD: RefCell<World> = RefCell::new(World::default());
}

/// The mapped bytes and regions of one execution, their limits, and the failures of the simulated OS.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub mapped_bytes: usize,
    pub regions: usize,
    /// The bytes that may be mapped at once. A map beyond this limit fails the test.
    pub limit_bytes: usize,
    /// The regions that may be mapped at once. A map beyond this limit fails the test.
    pub limit_regions: usize,
    /// If not 0, every `refuse_maps`-th map fails.
    pub refuse_maps: usize,
    /// If not 0, every `refuse_unmaps`-th unmap fails.
    pub refuse_unmaps: usize,
    maps: usize,
    unmaps: usize,
    /// Unmapped copies, still allocated, so that a late read finds [`UNMAPPED`] and not the bytes of another mapping.
    unmapped: Vec<Box<[u8]>>,
}

impl World {
    /// Begins an execution: resets the counts and sets the limits and failures.
    pub fn begin(limit_bytes: usize, limit_regions: usize, refuse_maps: usize, refuse_unmaps: usize) {
        let new = Self { limit_bytes, limit_regions, refuse_maps, refuse_unmaps, ..Self::default() };
        WORLD.with(|world| *world.borrow_mut() = new);
    }

    /// Returns the number of mapped bytes and of mapped regions.
    pub fn mapped() -> (usize, usize) {
        WORLD.with(|world| (world.borrow().mapped_bytes, world.borrow().regions))
    }
}

#[derive(Debug)]
pub(crate) struct Mapping {
    bytes: Option<Box<[u8]>>,
    address: NonNull<u8>,
    len: usize,
    pattern: AtomicU32,
}

// SAFETY: as for the library's `Mapping`: the bytes are only read until the owner unmaps them.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn map(file: &File, start: u64, len: usize, _page: usize) -> io::Result<Self> {
        shuttle::thread::yield_now();
        WORLD.with(|world| {
            let mut world = world.borrow_mut();
            world.maps += 1;
            if world.refuse_maps > 0 && world.maps % world.refuse_maps == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            let mut bytes = vec![0; len].into_boxed_slice();
            assert_eq!(os::read_fully_at(file, &mut bytes, start)?, len, "mapped beyond the end of the file");
            world.mapped_bytes += len.next_multiple_of(os::page_size());
            world.regions += 1;
            assert!(world.mapped_bytes <= world.limit_bytes, "{} bytes mapped", world.mapped_bytes);
            assert!(world.regions <= world.limit_regions, "{} regions mapped", world.regions);
            let address = NonNull::from(&mut bytes[..]).cast();
            Ok(Self { bytes: Some(bytes), address, len, pattern: AtomicU32::new(0) })
        })
    }

    pub(crate) fn unmap(&mut self) -> io::Result<()> {
        shuttle::thread::yield_now();
        WORLD.with(|world| {
            let mut world = world.borrow_mut();
            world.unmaps += 1;
            if world.refuse_unmaps > 0 && world.unmaps % world.refuse_unmaps == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            self.discard(&mut world);
            Ok(())
        })
    }

    /// Overwrites the copy and takes it out of the counts, if that has not happened yet.
    fn discard(&mut self, world: &mut World) {
        if let Some(mut bytes) = self.bytes.take() {
            bytes.fill(UNMAPPED);
            world.unmapped.push(bytes);
            world.mapped_bytes -= self.len.next_multiple_of(os::page_size());
            world.regions -= 1;
        }
    }

    pub(crate) fn addressable(bytes: u64) -> Option<usize> {
        isize::try_from(bytes).ok()?.try_into().ok()
    }

    pub(crate) fn budget_bytes(_start: u64, len: usize, page: usize) -> usize {
        len.next_multiple_of(page)
    }

    /// Never called: the simulated OS maps every file.
    pub(crate) fn copy(_: &File, _: u64, _: usize) -> io::Result<Option<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn is_private(&self) -> bool {
        false
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(crate) fn pattern(&self) -> &AtomicU32 {
        &self.pattern
    }

    pub(crate) fn was_end_accessed(&self) -> bool {
        shuttle::thread::yield_now();
        true
    }

    pub(crate) fn advise(&self, _: Advice) {
        shuttle::thread::yield_now();
    }

    pub(crate) fn will_need(&self, _: Range<usize>) {
        shuttle::thread::yield_now();
    }

    pub(crate) fn read_ahead(&self, _: &File, _: u64, _: usize) -> ReadAhead {
        shuttle::thread::yield_now();
        ReadAhead::NotNeeded
    }

    pub(crate) fn populate(&self, _: Range<usize>) -> io::Result<bool> {
        shuttle::thread::yield_now();
        Ok(false)
    }

    /// Returns `false`: the tests truncate no file.
    pub(crate) fn is_faulted(&self) -> bool {
        false
    }

    pub(crate) fn faulted_part(&self, _: *const u8, _: usize) -> Option<Range<usize>> {
        None
    }

    pub(crate) fn may_end_early(&self, _: *const u8, _: usize) -> bool {
        false
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        WORLD.with(|world| self.discard(&mut world.borrow_mut()));
    }
}
