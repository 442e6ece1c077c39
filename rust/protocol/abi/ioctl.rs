// SPDX-License-Identifier: GPL-2.0 OR MIT

//! pvirq's ioctls on the file of a VM, beyond KVM's API.
//!
//! Each argument begins with its own size, so that it can grow, and with flags. A host refuses what it does not know.

use super::{
    irq::Vector,
    state::POLL_MAX_NS, //
};

/// The type of these ioctls' numbers.
pub const MAGIC: u32 = 0xbf;

/// The version of this interface. It changes when a VMM of the old version could not go on.
pub const VERSION: u32 = 1;

/// Asks for [`VERSION`], which it returns. No argument.
pub const GET_VERSION: u32 = number(0, 0x00, 0);

/// Sets how a VM's idle vCPUs poll from now on. Argument: [`Poll`].
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: a member is out of its range. Nothing has changed.
pub const SET_POLL: u32 = number(WRITE, 0x01, size_of::<Poll>());

/// Reads how a VM's idle vCPUs poll. Argument: [`Poll`], of which the size must be set.
///
/// - `EFAULT`: the argument is not readable, or not writable.
/// - `EINVAL`: its size is not known.
pub const GET_POLL: u32 = number(READ | WRITE, 0x02, size_of::<Poll>());

/// Binds an eventfd, the source: when it is signalled, an interrupt is posted, or a sink is signalled. Argument: [`Bind`].
///
/// A source that is signalled already is delivered at once. If the call fails, nothing is bound.
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size, a flag or `bottom_half` is not known, there is no flag, or a member that no flag uses is not 0.
/// - `EIO`: another process has made the VM.
/// - `EBADF`: `source` or `sink` is not the descriptor of an open file.
/// - `EBADFD`: `source` or `sink` is open, but not an eventfd.
/// - `ERANGE`: `vector` is reserved, or above 255.
/// - `ENOENT`: there is no vCPU with this number.
/// - `ENXIO`: the guest has registered no descriptor for it.
/// - `ELOOP`: the source is the sink of a binding, or the sink the source of one, or they are the same.
/// - `EEXIST`: the source is bound in this VM already.
/// - `EBUSY`: the source has another exclusive user: KVM's irqfd, or a binding of another VM.
/// - `EINTR`: the task was killed while it waited for the vCPU's thread (without a sink).
/// - `ENOMEM`.
pub const BIND: u32 = number(WRITE, 0x03, size_of::<Bind>());

/// Ends a binding. Argument: [`Unbind`].
///
/// When it returns, no delivery is under way, and none will be. A binding also ends when the eventfd's last descriptor or
/// that of the VM is closed.
///
/// - `EFAULT`, `EINVAL`, `EBADF`, `EBADFD`: as for [`BIND`].
/// - `ENOENT`: the eventfd is not bound in this VM.
pub const UNBIND: u32 = number(WRITE, 0x04, size_of::<Unbind>());

/// Reads a source's counters. Argument: [`Source`], of which size, flags and source must be set.
///
/// Errors as for [`UNBIND`].
pub const GET_SOURCE: u32 = number(READ | WRITE, 0x05, size_of::<Source>());

/// Reads the counters of a CPU's bottom half, for all VMs together, since the module was loaded. Argument: [`BottomHalf`],
/// of which size, flags, cpu and kind must be set.
///
/// - `EFAULT`, `EINVAL`: as for [`BIND`].
/// - `ENOENT`: there is no such CPU.
pub const GET_BOTTOM_HALF: u32 = number(READ | WRITE, 0x06, size_of::<BottomHalf>());

/// Makes a file by which a VMM maps the guest's descriptors, to post to them. Returns its descriptor, which is closed on
/// exec. Argument: [`Map`], of which size and flags must be set.
///
/// Mappings must be shared, and no larger than the array, in whole pages. They belong to this registration: when it ends,
/// for any reason, blank descriptors take the place of the guest's, and each post to them is a
/// [`Kick`](crate::Posted::Kick). So senders need not check anything: on `Kick` they signal a bound eventfd.
///
/// - `EFAULT`: the argument is not readable, or not writable.
/// - `EINVAL`: its size or a flag is not known.
/// - `EIO`: another process has made the VM.
/// - `ENXIO`: the guest has registered no descriptors.
/// - `EMFILE`, `ENFILE`, `ENOMEM`.
pub const MAP_DESCRIPTORS: u32 = number(READ | WRITE, 0x07, size_of::<Map>());

/// Allows posting in a VM, as in a new one, or forbids it. Argument: [`Posting`].
///
/// Forbidding it ends the guest's registration with [`EndReason::Forbidden`]. A guest that registers after that gets
/// [`Status::Forbidden`](crate::registers::Status::Forbidden).
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size, a flag or `allowed` is not known.
/// - `EIO`: another process has made the VM.
pub const SET_POSTING: u32 = number(WRITE, 0x08, size_of::<Posting>());

/// Reads a VM's registration, and how the one before it ended. Argument: [`Registration`], of which size and flags must be
/// set.
///
/// - `EFAULT`: the argument is not readable, or not writable.
/// - `EINVAL`: its size or a flag is not known.
pub const GET_REGISTRATION: u32 = number(READ | WRITE, 0x09, size_of::<Registration>());

/// Ends the guest's registration with [`EndReason::Vmm`], and injects what is pending. The guest may register again. No
/// argument.
///
/// - `EIO`: another process has made the VM.
/// - `ENXIO`: the guest has registered no descriptors.
pub const END_REGISTRATION: u32 = number(0, 0x0a, 0);

/// Reads which interrupts of a vCPU are posted and not yet injected, in the guest's descriptor and in the host. Argument:
/// [`Posted`], of which size, flags and vcpu must be set.
///
/// They stay posted. Those in the guest's descriptor are in guest memory, and a restored guest sends them again. So a VMM
/// that saves that memory, too, [ends the registration](END_REGISTRATION) first. The answer may be outdated at once if the
/// vCPU runs or is interrupted. `KVM_GET_LAPIC` does not need this call: what is posted is in the state that it returns.
///
/// - `EFAULT`, `EINVAL`: as for [`GET_REGISTRATION`].
/// - `ENOENT`: there is no vCPU with this number.
pub const GET_POSTED: u32 = number(READ | WRITE, 0x0b, size_of::<Posted>());

/// Posts interrupts to a vCPU in addition to those that are posted already, as to restore those that [`GET_POSTED`] has
/// read. Argument: [`Posted`].
///
/// They are injected before the vCPU enters its guest. If the vCPU has run before, `KVM_SET_LAPIC` must come first, as it
/// replaces what is posted.
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size or a flag is not known, or a vector is reserved.
/// - `EIO`: another process has made the VM.
/// - `ENOENT`: there is no vCPU with this number.
/// - `ENXIO`: the VM has no local APICs in the kernel, or messages do not reach the one with this number.
/// - `EINTR`: the task was killed while it waited for the vCPU's thread.
/// - `ENOMEM`.
pub const SET_POSTED: u32 = number(WRITE, 0x0c, size_of::<Posted>());

const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of `include/uapi/asm-generic/ioctl.h`.
const fn number(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (MAGIC << 8) | number
}

/// How a VM's idle vCPUs poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Poll {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The ceiling of the guest's poll window, in ns, [`Poll::MAX_NS`] at most.
    pub guest_poll_ns: u32,
    /// The ceiling of the host's poll window, in ns, [`Poll::MAX_NS`] at most.
    pub host_poll_ns: u32,
    /// The share of one CPU that the host may burn by polling for the VM, in percent, [`Poll::BUDGET_MAX`] at most.
    pub budget: u32,
    /// A [`PolicyName`]: how the windows are chosen, up to their ceilings.
    pub policy: u32,
}

impl Poll {
    /// The highest ceiling.
    pub const MAX_NS: u32 = POLL_MAX_NS;

    /// The largest share: all of a CPU.
    pub const BUDGET_MAX: u32 = 100;

    /// Polls in the host only, for `host_poll_ns` whenever a vCPU is idle, with the largest share.
    pub const fn fixed(host_poll_ns: u32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            guest_poll_ns: 0,
            host_poll_ns,
            budget: Self::BUDGET_MAX,
            policy: PolicyName::Fixed.number(),
        }
    }

    /// Returns whether all members are within their ranges.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags == 0
            && self.guest_poll_ns <= Self::MAX_NS
            && self.host_poll_ns <= Self::MAX_NS
            && self.budget <= Self::BUDGET_MAX
            && PolicyName::from_number(self.policy).is_some()
    }
}

numbered! {
    /// How a vCPU's poll windows are chosen, up to their ceilings; see `pvirq_policy::poll_window`.
    pub enum PolicyName: u32 {
        /// As KVM polls in a halt.
        HaltPoll = 0,
        /// Always the ceiling.
        Fixed = 1,
        /// As Linux's haltpoll governor.
        Governor = 2,
        /// The ceiling, or 0: whichever pays.
        Adaptive = 3,
    }
}

numbered! {
    /// A kind of bottom half, which signals sinks.
    pub enum BottomHalfKind: u32 {
        /// The kind in the module's parameter.
        Default = 0,
        /// A tasklet.
        Tasklet = 1,
        /// A work of the bottom-half workqueue.
        Workqueue = 2,
    }
}

/// A binding of an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bind {
    /// The size of this structure.
    pub size: u32,
    /// [`Bind::POST`], [`Bind::SINK`], or both.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// With [`Bind::SINK`], the other eventfd.
    pub sink: i32,
    /// With [`Bind::POST`], the number of a vCPU.
    pub vcpu: u32,
    /// With [`Bind::POST`], a vector.
    pub vector: u32,
    /// A [`BottomHalfKind`], which runs only if there is a sink.
    pub bottom_half: u32,
    /// 0.
    pub reserved: u32,
}

impl Bind {
    /// Flag: a signal is posted to `vcpu`, and is done with if that will poll.
    pub const POST: u32 = 1 << 0;
    /// Flag: otherwise `sink` is signalled. Without this flag the vCPU is kicked.
    pub const SINK: u32 = 1 << 1;

    /// Binds `source` to a vector of a vCPU.
    pub fn to_vcpu(source: i32, vcpu: u32, vector: Vector) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: Self::POST,
            source,
            sink: 0,
            vcpu,
            vector: vector.get().into(),
            bottom_half: BottomHalfKind::Default.number(),
            reserved: 0,
        }
    }

    /// Binds `source` to another eventfd.
    pub fn to_sink(source: i32, sink: i32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: Self::SINK,
            source,
            sink,
            vcpu: 0,
            vector: 0,
            bottom_half: BottomHalfKind::Default.number(),
            reserved: 0,
        }
    }

    /// Returns whether all members are known, and those that no flag uses are 0.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags != 0
            && self.flags & !(Self::POST | Self::SINK) == 0
            && (self.flags & Self::SINK != 0 || self.sink == 0)
            && (self.flags & Self::POST != 0 || (self.vcpu, self.vector) == (0, 0))
            && BottomHalfKind::from_number(self.bottom_half).is_some()
            && self.reserved == 0
    }
}

/// The binding to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Unbind {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// 0.
    pub reserved: u32,
}

impl Unbind {
    /// Ends the binding of `source`.
    pub fn new(source: i32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            source,
            reserved: 0,
        }
    }

    /// Returns whether all members are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// A source's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Source {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// 0.
    pub reserved: u32,
    /// How often the top half has run.
    pub top_halves: u64,
    /// How many of those posts were elided.
    pub elided: u64,
    /// How many of those posts were coalesced.
    pub coalesced: u64,
    /// How often the source was queued for a bottom half.
    pub queued: u64,
    /// How often a bottom half has signalled the sink, or without a sink the vCPU was kicked.
    pub delivered: u64,
}

impl Source {
    /// Asks for the counters of `source`.
    pub fn of(source: i32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            source,
            ..Self::default()
        }
    }

    /// Returns whether the members that the caller sets are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// Where descriptors are in the file that [`MAP_DESCRIPTORS`] makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Map {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The offset of the first descriptor, in bytes, less than a page.
    pub offset: u32,
    /// The number of descriptors.
    pub count: u32,
}

impl Map {
    /// Asks for a file.
    pub fn new() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            ..Self::default()
        }
    }

    /// Returns whether the members that the caller sets are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0
    }
}

/// Whether a VM's guest may register descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Posting {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// 1, or 0 to forbid posting.
    pub allowed: u32,
    /// 0.
    pub reserved: u32,
}

impl Posting {
    /// Allows posting, or forbids it.
    pub fn new(allowed: bool) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            allowed: allowed.into(),
            reserved: 0,
        }
    }

    /// Returns whether all members are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags == 0
            && self.allowed <= 1
            && self.reserved == 0
    }
}

numbered! {
    /// Why a registration has ended.
    pub enum EndReason: u32 {
        /// None has ended yet.
        None = 0,
        /// The guest has unregistered its descriptors.
        Unregistered = 1,
        /// The guest has registered other descriptors.
        Replaced = 2,
        /// The VMM has moved or removed the descriptors' memory.
        MemoryMoved = 3,
        /// The VMM has begun to log writes to the descriptors' memory.
        DirtyLogging = 4,
        /// The VMM has replaced a vCPU's state, as by a reset or a restored snapshot.
        StateReplaced = 5,
        /// The VMM has ended it by [`END_REGISTRATION`].
        Vmm = 6,
        /// The VMM has forbidden posting by [`SET_POSTING`].
        Forbidden = 7,
    }
}

/// A VM's registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registration {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// Whether posting is allowed: 1 or 0.
    pub allowed: u32,
    /// The registration's [epoch](crate::registers::ReadRegister::Epoch), 0 if there is none.
    pub epoch: u32,
    /// The number of descriptors, 0 if there is no registration.
    pub count: u32,
    /// The [`EndReason`] of the last registration that has ended.
    pub ended: u32,
    /// The guest-physical address of the first descriptor, 0 if there is no registration.
    pub address: u64,
    /// How many registrations there have been.
    pub registrations: u64,
}

impl Registration {
    /// Asks for the registration.
    pub fn new() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            ..Self::default()
        }
    }

    /// Returns whether the members that the caller sets are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0
    }
}

/// Interrupts that are posted to a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Posted {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// 0.
    pub reserved: u32,
    /// Vector `v` is bit `v % 64` of word `v / 64`.
    pub vectors: [u64; 4],
}

impl Posted {
    /// Asks for the interrupts of `vcpu`, or holds none yet.
    pub fn of(vcpu: u32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            vcpu,
            ..Self::default()
        }
    }

    /// Returns whether the members that the caller sets are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// The counters of a CPU's bottom half of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BottomHalf {
    /// The size of this structure.
    pub size: u32,
    /// 0: there are none yet.
    pub flags: u32,
    /// The CPU's number.
    pub cpu: u32,
    /// A [`BottomHalfKind`].
    pub kind: u32,
    /// How often a top half has run on the CPU.
    pub top_halves: u64,
    /// How many of those posts were elided.
    pub elided: u64,
    /// How many of those posts were coalesced.
    pub coalesced: u64,
    /// How often sources were queued.
    pub queued: u64,
    /// How often sinks were signalled.
    pub delivered: u64,
    /// How often the bottom half has run.
    pub batches: u64,
    /// The most deliveries in one run.
    pub largest_batch: u64,
    /// How many of its runs were in `ksoftirqd`.
    pub ksoftirqd: u64,
}

impl BottomHalf {
    /// Asks for the counters of a bottom half.
    pub fn of(cpu: u32, kind: BottomHalfKind) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            cpu,
            kind: kind.number(),
            ..Self::default()
        }
    }

    /// Returns whether the members that the caller sets are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags == 0
            && BottomHalfKind::from_number(self.kind).is_some()
    }
}
