// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a VMM can ask of pvirq on the file of a VM, beyond KVM's API.
//!
//! Each argument begins with its own size, so that it can grow, and with flags. What a host does not
//! know it refuses.

use crate::window::{
    Budget,
    PolicyName, //
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
    /// The share of one CPU that the host may burn by polling for the VM, in percent, 100 at most.
    pub budget: u32,
    /// A [`PolicyName`](crate::window::PolicyName): how the times are found, up to the longest.
    pub policy: u32,
}

impl Poll {
    /// The longest time of all. Whoever wants to poll for longer wants a vCPU that never sleeps.
    pub const MAX_NS: u32 = 10_000_000;

    /// Polls in the host, for `host_poll_ns` whenever a vCPU is idle, whatever that burns.
    pub const fn fixed(host_poll_ns: u32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            guest_poll_ns: 0,
            host_poll_ns,
            budget: Budget::PERCENT_MAX,
            policy: PolicyName::Fixed.number(),
        }
    }

    /// Whether all members are known and within their ranges.
    pub fn is_valid(&self) -> bool {
        self.size as usize == size_of::<Self>()
            && self.flags == 0
            && self.guest_poll_ns <= Self::MAX_NS
            && self.host_poll_ns <= Self::MAX_NS
            && self.budget <= Budget::PERCENT_MAX
            && PolicyName::from_number(self.policy).is_some()
    }
}
