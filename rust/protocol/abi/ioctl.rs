// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a VMM can ask of pvirq on the file of a VM, beyond KVM's API.
//!
//! Each argument begins with its own size, so that it can grow, and with flags. What a host does not
//! know it refuses.

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

/// Sets how a VM's idle vCPUs poll, from now on. [`Poll`].
///
/// `EINVAL` if a member is out of its range, and nothing has changed then.
pub const SET_POLL: u32 = number(WRITE, 0x01, size_of::<Poll>());

/// Gets it. [`Poll`], of which the size must be set.
pub const GET_POLL: u32 = number(READ | WRITE, 0x02, size_of::<Poll>());

/// Binds an eventfd: when it is signalled, an interrupt is posted or a sink is signalled. [`Bind`].
///
/// If it is signalled already, that counts. If the call fails, nothing is bound.
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size, a flag or `bottom_half` is not known, there is neither flag, or a member that no
///   flag asks for is not 0.
/// - `EIO`: another process has made the VM.
/// - `EBADF`: `source` or `sink` is no descriptor of an open file.
/// - `EBADFD`: it is one, but of no eventfd.
/// - `ERANGE`: `vector` is reserved, or none.
/// - `ENOENT`: there is no vCPU with this number.
/// - `ENXIO`: the guest has registered no descriptor for it.
/// - `ELOOP`: the source is the sink of something bound, or the sink a source, or they are the same.
/// - `EEXIST`: the source is bound in this VM already.
/// - `EBUSY`: somebody else has the source to himself: KVM's irqfd, or another VM.
/// - `ENOMEM`.
pub const BIND: u32 = number(WRITE, 0x03, size_of::<Bind>());

/// Takes a binding back. [`Unbind`].
///
/// When it returns, no delivery is under way, and none will be. The same happens when the eventfd's last
/// descriptor or that of the VM is closed.
///
/// - `EFAULT`, `EINVAL`, `EBADF`, `EBADFD`: as for [`BIND`].
/// - `ENOENT`: the eventfd is not bound in this VM.
pub const UNBIND: u32 = number(WRITE, 0x04, size_of::<Unbind>());

/// Reads what a source has counted. [`Source`], of which size, flags and source must be set.
///
/// Errors as for [`UNBIND`].
pub const GET_SOURCE: u32 = number(READ | WRITE, 0x05, size_of::<Source>());

/// Reads what a CPU's bottom half has counted, for all VMs together, since the module was loaded.
/// [`BottomHalf`], of which size, flags, cpu and kind must be set.
///
/// - `EFAULT`, `EINVAL`: as for [`BIND`].
/// - `ENOENT`: there is no such CPU.
pub const GET_BOTTOM_HALF: u32 = number(READ | WRITE, 0x06, size_of::<BottomHalf>());

/// Makes a file to be mapped, by which a VMM posts to the descriptors that the guest has registered.
/// Returns its descriptor, which is closed on exec. [`Map`], of which size and flags must be set.
///
/// Mappings must be shared, and no larger than the array, in whole pages. They are of this registration:
/// when it ends, for whatever reason, blank descriptors take the place of the guest's, in which each post
/// says [`Kick`](crate::Posted::Kick). So whoever posts has nothing to look for, and signals a bound
/// eventfd on `Kick`.
///
/// - `EFAULT`: the argument is not readable, or not writable.
/// - `EINVAL`: its size or a flag is not known.
/// - `EIO`: another process has made the VM.
/// - `ENXIO`: the guest has registered no descriptors.
/// - `EMFILE`, `ENFILE`, `ENOMEM`.
pub const MAP_DESCRIPTORS: u32 = number(READ | WRITE, 0x07, size_of::<Map>());

/// Allows posting in a VM, as a new VM does, or forbids it. [`Posting`].
///
/// To forbid it ends the guest's registration, for the reason [`EndReason::Forbidden`]. A guest that registers
/// meanwhile gets [`Status::Forbidden`](crate::registers::Status::Forbidden).
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size, a flag or `allowed` is not known.
/// - `EIO`: another process has made the VM.
pub const SET_POSTING: u32 = number(WRITE, 0x08, size_of::<Posting>());

/// Reads which registration a VM has, and how the one before it ended. [`Registration`], of which size and
/// flags must be set.
///
/// - `EFAULT`: the argument is not readable, or not writable.
/// - `EINVAL`: its size or a flag is not known.
pub const GET_REGISTRATION: u32 = number(READ | WRITE, 0x09, size_of::<Registration>());

/// Ends the guest's registration, for the reason [`EndReason::Vmm`]. What is pending is injected. The guest may
/// register again. No argument.
///
/// - `EIO`: another process has made the VM.
/// - `ENXIO`: the guest has registered no descriptors.
pub const END_REGISTRATION: u32 = number(0, 0x0a, 0);

/// Reads which interrupts of a vCPU are posted and not yet injected, in the guest's descriptor and in the host.
/// [`Posted`], of which size, flags and vcpu must be set.
///
/// They stay posted. Those in the guest's descriptor are in the guest's memory as well, and a guest that is restored sends
/// them again, so that a VMM which saves that memory too asks when the registration has
/// [ended](END_REGISTRATION). While the vCPU runs, or is interrupted, the answer is old when it comes. `KVM_GET_LAPIC` needs
/// no such call before it: it moves what is posted into the local APIC.
///
/// - `EFAULT`, `EINVAL`: as for [`GET_REGISTRATION`].
/// - `ENOENT`: there is no vCPU with this number.
pub const GET_POSTED: u32 = number(READ | WRITE, 0x0b, size_of::<Posted>());

/// Posts interrupts to a vCPU, besides those that are posted already: what [`GET_POSTED`] has read in a VM that is
/// restored. [`Posted`]. They are injected before the vCPU enters its guest. If the vCPU has run before, `KVM_SET_LAPIC`
/// goes first, as it replaces what is posted.
///
/// - `EFAULT`: the argument is not readable.
/// - `EINVAL`: its size or a flag is not known, or a vector is reserved.
/// - `EIO`: another process has made the VM.
/// - `ENOENT`: there is no vCPU with this number.
/// - `ENXIO`: the VM has no local APICs in the kernel, or messages do not reach the one with this number.
/// - `EINTR`, `ENOMEM`.
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
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The longest time that a vCPU polls in the guest, in ns, [`Poll::MAX_NS`] at most.
    pub guest_poll_ns: u32,
    /// The longest time that the host then polls for it, in ns, [`Poll::MAX_NS`] at most.
    pub host_poll_ns: u32,
    /// The share of one CPU that the host may burn by polling for the VM, in percent, [`Poll::BUDGET_MAX`] at most.
    pub budget: u32,
    /// A [`PolicyName`]: how the times are found, up to the longest.
    pub policy: u32,
}

impl Poll {
    /// The longest time of all.
    pub const MAX_NS: u32 = POLL_MAX_NS;

    /// The largest share: all of a CPU.
    pub const BUDGET_MAX: u32 = 100;

    /// Polls in the host, for `host_poll_ns` whenever a vCPU is idle, whatever that burns.
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

    /// Whether all members are known and within their ranges.
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
    /// How the times are found for which a vCPU polls, up to the longest; see `pvirq_policy::poll_window`.
    pub enum PolicyName: u32 {
        /// As KVM polls in a halt.
        HaltPoll = 0,
        /// Always the longest time.
        Fixed = 1,
        /// As Linux's haltpoll governor.
        Governor = 2,
        /// The longest time, or none: whichever pays.
        Adaptive = 3,
    }
}

numbered! {
    /// What delivers an interrupt that has not been elided.
    pub enum BottomHalfKind: u32 {
        /// What the module's parameter says.
        Default = 0,
        /// A tasklet.
        Tasklet = 1,
        /// A work of the workqueue for bottom halves.
        Workqueue = 2,
    }
}

/// What an eventfd is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bind {
    /// The size of this.
    pub size: u32,
    /// [`Bind::POST`], [`Bind::SINK`], or both.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// With [`Bind::SINK`], another eventfd.
    pub sink: i32,
    /// With [`Bind::POST`], the number of a vCPU.
    pub vcpu: u32,
    /// With [`Bind::POST`], a vector.
    pub vector: u32,
    /// A [`BottomHalfKind`].
    pub bottom_half: u32,
    /// 0.
    pub reserved: u32,
}

impl Bind {
    /// A flag: the interrupt is posted to `vcpu`, and is done with if that will look.
    pub const POST: u32 = 1 << 0;
    /// A flag: what is not done with is delivered by signalling `sink`. Without it, the vCPU is made to
    /// look.
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

    /// Whether all members are known, and none is set that nobody asks for.
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

/// An eventfd that is no longer to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Unbind {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// 0.
    pub reserved: u32,
}

impl Unbind {
    /// Takes the binding of `source` back.
    pub fn new(source: i32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            source,
            reserved: 0,
        }
    }

    /// Whether all members are known.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// What a source has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Source {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The eventfd.
    pub source: i32,
    /// 0.
    pub reserved: u32,
    /// How often the top half has run.
    pub top_halves: u64,
    /// How often that was all, as the vCPU will look.
    pub elided: u64,
    /// How often that was all, as the vector was pending.
    pub coalesced: u64,
    /// How often the source was queued for a bottom half.
    pub queued: u64,
    /// How often a bottom half has delivered, or, without a sink, the vCPU was kicked.
    pub delivered: u64,
}

impl Source {
    /// Asks for what `source` has counted.
    pub fn of(source: i32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            source,
            ..Self::default()
        }
    }

    /// Whether all members are known that are set by who asks.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// Where descriptors are in the file that [`MAP_DESCRIPTORS`] makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Map {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The offset of the first descriptor, in bytes, less than a page.
    pub offset: u32,
    /// How many there are.
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

    /// Whether all members are known that are set by who asks.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0
    }
}

/// Whether a VM's guest may register descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Posting {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// 1, or 0 to forbid it.
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

    /// Whether all members are known.
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
        /// The guest has un-registered its descriptors.
        Unregistered = 1,
        /// The guest has registered others.
        Replaced = 2,
        /// The VMM has moved or removed the memory that they are in.
        MemoryMoved = 3,
        /// The VMM has begun to log writes to the memory that they are in.
        DirtyLogging = 4,
        /// The VMM has replaced a vCPU's state, as a reset or a restored snapshot does.
        StateReplaced = 5,
        /// The VMM has asked for it, by [`END_REGISTRATION`].
        Vmm = 6,
        /// The VMM has forbidden posting, by [`SET_POSTING`].
        Forbidden = 7,
    }
}

/// A VM's registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registration {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
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
    /// Asks for it.
    pub fn new() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            ..Self::default()
        }
    }

    /// Whether all members are known that are set by who asks.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0
    }
}

/// Interrupts that are posted to a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Posted {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// 0.
    pub reserved: u32,
    /// Vector `v` is bit `v % 64` of word `v / 64`.
    pub vectors: [u64; 4],
}

impl Posted {
    /// Asks for those of `vcpu`, or holds none yet.
    pub fn of(vcpu: u32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            vcpu,
            ..Self::default()
        }
    }

    /// Whether all members are known that are set by who asks.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>() && self.flags == 0 && self.reserved == 0
    }
}

/// What a CPU's bottom half of one kind has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BottomHalf {
    /// The size of this.
    pub size: u32,
    /// None yet: 0.
    pub flags: u32,
    /// The CPU's number.
    pub cpu: u32,
    /// A [`BottomHalfKind`].
    pub kind: u32,
    /// How often a top half has run on the CPU.
    pub top_halves: u64,
    /// How many of those were all, as the vCPU will look.
    pub elided: u64,
    /// How many of those were all, as the vector was pending.
    pub coalesced: u64,
    /// How many sources were queued.
    pub queued: u64,
    /// How many were delivered.
    pub delivered: u64,
    /// How often the bottom half has run.
    pub batches: u64,
    /// The most that it has delivered in one run.
    pub largest_batch: u64,
    /// How many of its runs were in `ksoftirqd`.
    pub ksoftirqd: u64,
}

impl BottomHalf {
    /// Asks for what a bottom half has counted.
    pub fn of(cpu: u32, kind: BottomHalfKind) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            cpu,
            kind: kind.number(),
            ..Self::default()
        }
    }

    /// Whether all members are known that are set by who asks.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags == 0
            && BottomHalfKind::from_number(self.kind).is_some()
    }
}
