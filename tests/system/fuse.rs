//! A file system of one file, `file`, served over `/dev/fuse` by a thread of the test: just enough of the protocol that
//! the kernel documents in `include/uapi/linux/fuse.h`.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Open flag: reads go to the server, and shared mappings are refused with ENODEV.
const FOPEN_DIRECT_IO: u32 = 1;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// The content of the file, and the second of its last change.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) changed: u64,
}

/// Mounts the file system at `directory` and serves it until the mount ends. Its file is opened with `FOPEN_DIRECT_IO`.
pub(crate) fn serve(directory: &Path, content: Arc<Mutex<Content>>) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let (target, options) = (CString::new(directory.as_os_str().as_bytes())?, CString::new(options)?);
    // SAFETY: each pointer is that of a string that ends with NUL.
    let mounted =
        unsafe { libc::mount(c"smmap".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast()) };
    if mounted != 0 {
        return Err(io::Error::last_os_error());
    }
    thread::spawn(move || answer_all(device, &content));
    Ok(())
}

/// Answers requests until the mount ends.
fn answer_all(mut device: File, content: &Mutex<Content>) {
    let mut request = vec![0; 1 << 20];
    while let Ok(len) = device.read(&mut request) {
        let request = &request[..len];
        let (opcode, node) = (u32_at(request, 4), u64_at(request, 16));
        if matches!(opcode, FORGET | BATCH_FORGET) {
            continue;
        }
        let (error, body) = match answer(opcode, node, &request[40..], content) {
            Ok(body) => (0, body),
            Err(number) => (number, Vec::new()),
        };
        let mut reply = Vec::new();
        reply.extend((16 + body.len() as u32).to_ne_bytes());
        reply.extend((-error).to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(body);
        // A request may have been interrupted; the kernel then refuses the answer.
        let _ = device.write(&reply);
    }
}

fn answer(opcode: u32, node: u64, arguments: &[u8], content: &Mutex<Content>) -> Result<Vec<u8>, i32> {
    let content = content.lock().unwrap();
    let mut body = Vec::new();
    match opcode {
        INIT => {
            body.extend([7_u32, 31, 1 << 17, 0].map(u32::to_ne_bytes).concat());
            body.extend([16_u16, 12].map(u16::to_ne_bytes).concat());
            body.extend([1_u32 << 17, 1].map(u32::to_ne_bytes).concat());
            body.resize(64, 0);
        }
        LOOKUP if arguments == b"file\0" => {
            body.extend([FILE, 0, 0, 0].map(u64::to_ne_bytes).concat());
            body.extend([0; 8]);
            body.extend(attributes(FILE, &content));
        }
        LOOKUP => return Err(libc::ENOENT),
        GETATTR => {
            body.extend([0; 16]);
            body.extend(attributes(node, &content));
        }
        OPEN => {
            body.extend(0_u64.to_ne_bytes());
            body.extend([FOPEN_DIRECT_IO, 0].map(u32::to_ne_bytes).concat());
        }
        READ => {
            let (offset, len) = (u64_at(arguments, 8) as usize, u32_at(arguments, 16) as usize);
            let rest = content.bytes.get(offset..).unwrap_or_default();
            body.extend(&rest[..len.min(rest.len())]);
        }
        RELEASE | FLUSH => {}
        _ => return Err(libc::ENOSYS),
    }
    Ok(body)
}

/// Returns the attributes of a node, as the kernel's `struct fuse_attr`.
fn attributes(node: u64, content: &Content) -> Vec<u8> {
    let (len, mode) = match node {
        ROOT => (0, libc::S_IFDIR | 0o755),
        _ => (content.bytes.len() as u64, libc::S_IFREG | 0o644),
    };
    let mut attributes = [node, len, len.div_ceil(512), content.changed, content.changed, content.changed]
        .map(u64::to_ne_bytes)
        .concat();
    attributes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32].map(u32::to_ne_bytes).concat());
    attributes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
