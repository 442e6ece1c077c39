// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A device's process, which posts to a vCPU until it is killed.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsRawFd,
    ptr::null_mut,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use nix::sys::mman::{mmap_anonymous, MapFlags, ProtFlags};
use pvirq::{
    extension::{Extension, Route},
    mapped::MappedDescriptors,
};
use pvirq_protocol::{Posted, Vector};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm::{error::Error, machine::Machine};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// A word that parent and child share.
struct SharedWord(*mut AtomicU32);

// SAFETY: The word is atomic.
unsafe impl Sync for SharedWord {}
// SAFETY: It belongs to no thread.
unsafe impl Send for SharedWord {}

impl SharedWord {
    fn new() -> Result<Self, Error> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::MIN.saturating_add(size_of::<AtomicU32>() - 1);
        // SAFETY: This is a new mapping, wherever there is room.
        let mapping = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_SHARED) };
        match mapping {
            Ok(address) => Ok(SharedWord(address.as_ptr().cast())),
            Err(errno) => Err(Error::os("cannot share memory")(errno.into())),
        }
    }

    fn get(&self) -> &AtomicU32 {
        // SAFETY: The mapping is as large, zero is valid, and it is there as long as this.
        unsafe { &*self.0 }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: Nothing borrows from it any more.
        unsafe { libc::munmap(self.0.cast(), size_of::<AtomicU32>()) };
    }
}

/// What such processes have: the guest's descriptors, and an eventfd for the interrupts that must be kicked.
pub(super) struct Device {
    target: u32,
    vector: Vector,
    descriptors: MappedDescriptors,
    event: EventFd,
    /// How often the process has posted.
    posts: SharedWord,
}

impl Device {
    /// Gets ready to interrupt a vCPU by a vector.
    pub fn new(machine: &Machine, target: usize, vector: Vector) -> Result<Self, Error> {
        let memory = machine.memory();
        let extension = Extension::new(machine.vm())?;
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::os("cannot make an eventfd"))?;

        keep_from_children(&memory, machine.memory_size() as usize)?;
        extension.bind(&event, &Route::to_vcpu(target as u32, vector))?;
        Ok(Device {
            target: target as u32,
            vector,
            descriptors: extension.map_descriptors()?,
            event,
            posts: SharedWord::new()?,
        })
    }

    /// Takes the eventfd's binding back.
    pub fn unbind(&self, machine: &Machine) -> Result<(), Error> {
        Ok(Extension::new(machine.vm())?.unbind(&self.event)?)
    }

    /// Makes a process that posts, kills it after a while, and says whether a post is pending that it has left.
    pub fn run_and_kill(&self, alive: Duration) -> Result<bool, Error> {
        /// The interval between two checks whether the process has begun.
        const CHECK: Duration = Duration::from_micros(100);

        self.posts.get().store(0, SeqCst);
        // SAFETY: The child calls nothing that is not safe after fork(2) in a process with threads.
        let child = match unsafe { libc::fork() } {
            -1 => {
                return Err(Error::os("cannot make a process")(
                    io::Error::last_os_error(),
                ))
            }
            0 => self.post_for_ever(),
            child => child,
        };
        let mut status = 0;
        // SAFETY: It is a child of this process, which waits for no other.
        let ended = || unsafe { libc::waitpid(child, null_mut(), libc::WNOHANG) != 0 };
        while self.posts.get().load(SeqCst) == 0 {
            if ended() {
                return Err(Error::Memory("a process that posts has ended".into()));
            }
            thread::sleep(CHECK);
        }
        thread::sleep(alive);
        // SAFETY: As above, and the status is writable.
        let waited = unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, &mut status, 0)
        };
        if waited != child || libc::WTERMSIG(status) != libc::SIGKILL {
            return Err(Error::Memory(
                "a process that posts has ended by itself".into(),
            ));
        }
        Ok(self.is_pending())
    }

    /// Whether the vector is pending in the target's descriptor.
    fn is_pending(&self) -> bool {
        let descriptor = self.descriptors.get(self.target);
        descriptor.is_some_and(|descriptor| descriptor.pending().contains(self.vector))
    }

    /// Posts until it is killed. It neither allocates, nor locks, nor returns.
    fn post_for_ever(&self) -> ! {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: Both are system calls, with valid arguments.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            let posted = self.descriptors.post(self.target, self.vector);
            self.posts.get().fetch_add(1, SeqCst);
            if posted == Posted::Kick {
                // SAFETY: As above.
                unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            }
        }
    }
}

/// Keeps guest memory out of child processes, so that no page has to be copied for them.
fn keep_from_children(memory: &GuestMemoryMmap, size: usize) -> Result<(), Error> {
    let address = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| Error::Memory(error.to_string()))?;
    // SAFETY: It is the machine's memory, all of it, which children do not use.
    match unsafe { libc::madvise(address.cast(), size, libc::MADV_DONTFORK) } {
        0 => Ok(()),
        _ => Err(Error::os("cannot keep memory from children")(
            io::Error::last_os_error(),
        )),
    }
}
