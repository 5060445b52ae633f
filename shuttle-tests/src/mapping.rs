//! A mapping that maps nothing: a copy of the file's bytes, which is spoilt when it is unmapped.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::os::{self, Advice};

/// What stands where something was unmapped.
const SPOILT: u8 = 0xdd;

thread_local! {
    /// Of the run at hand. All of shuttle's threads are one for the system.
    static WORLD: RefCell<World> = RefCell::new(World::default());
}

/// What the system has mapped, and how it behaves.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub mapped_bytes: usize,
    pub regions: usize,
    /// More than this at once is an error of the cache.
    pub limit_bytes: usize,
    pub limit_regions: usize,
    /// Each so many-th map, and unmap, is refused; 0: none.
    pub refuse_maps: usize,
    pub refuse_unmaps: usize,
    maps: usize,
    unmaps: usize,
    /// Kept so that who reads too late reads what is spoilt, and not what is another's by now.
    graves: Vec<Box<[u8]>>,
}

impl World {
    pub fn begin(limit_bytes: usize, limit_regions: usize, refuse_maps: usize, refuse_unmaps: usize) {
        let new = Self { limit_bytes, limit_regions, refuse_maps, refuse_unmaps, ..Self::default() };
        WORLD.with(|world| *world.borrow_mut() = new);
    }

    pub fn look() -> (usize, usize) {
        WORLD.with(|world| (world.borrow().mapped_bytes, world.borrow().regions))
    }
}

#[derive(Debug)]
pub(crate) struct Mapping {
    bytes: Option<Box<[u8]>>,
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: as in the library.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn map(file: &File, start: u64, len: usize) -> io::Result<Self> {
        shuttle::thread::yield_now();
        WORLD.with(|world| {
            let mut world = world.borrow_mut();
            world.maps += 1;
            if world.refuse_maps > 0 && world.maps % world.refuse_maps == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            let mut bytes = vec![0; len].into_boxed_slice();
            assert_eq!(os::read_fully_at(file, &mut bytes, start)?, len, "mapped beyond the end");
            world.mapped_bytes += Self::pages(len);
            world.regions += 1;
            assert!(world.mapped_bytes <= world.limit_bytes, "{} bytes mapped", world.mapped_bytes);
            assert!(world.regions <= world.limit_regions, "{} regions mapped", world.regions);
            let address = NonNull::from(&mut bytes[..]).cast();
            Ok(Self { bytes: Some(bytes), address, len })
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
            self.leave(&mut world);
            Ok(())
        })
    }

    fn leave(&mut self, world: &mut World) {
        if let Some(mut bytes) = self.bytes.take() {
            bytes.fill(SPOILT);
            world.graves.push(bytes);
            world.mapped_bytes -= Self::pages(self.len);
            world.regions -= 1;
        }
    }

    pub(crate) fn addressable(bytes: u64) -> Option<usize> {
        isize::try_from(bytes).ok()?.try_into().ok()
    }

    pub(crate) fn pages(len: usize) -> usize {
        len.next_multiple_of(os::page_size())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(crate) fn advise(&self, _: Advice) {
        shuttle::thread::yield_now();
    }

    pub(crate) fn read_ahead(&self, _: &File, _: u64) -> bool {
        shuttle::thread::yield_now();
        false
    }

    pub(crate) fn populate(&self, _: Range<usize>) -> io::Result<bool> {
        shuttle::thread::yield_now();
        Ok(false)
    }

    /// Nothing is cut short here.
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
        WORLD.with(|world| self.leave(&mut world.borrow_mut()));
    }
}
