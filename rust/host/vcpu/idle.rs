// SPDX-License-Identifier: GPL-2.0

//! Idle vCPUs: the guest's idle call, and the scheduler's callbacks in their threads. See
//! [`poller`](crate::vcpu::poller).

use kernel_ext::sched::preempt::{
    PreemptNotified,
    SchedOut, //
};
use pvirq_protocol::{
    registers::Status,
    Descriptor,
    HostState,
    IdleEnd, //
};

use super::{
    poller::PollEvents,
    Vcpu, //
};
use crate::vm::polling::Windows;

impl Vcpu {
    /// Serves the guest's idle call: polls until an event for the vCPU is pending or the vCPU should sleep.
    ///
    /// If the registration ends meanwhile, so does the call. The descriptor then tells the guest to halt, since it was
    /// [closed](crate::posting::descriptors::Descriptors::close).
    pub(super) fn idle(&self) -> Status {
        let began = self.with_registration(|epoch, descriptor| {
            descriptor.enter_host_polling();
            epoch
        });
        let Some(epoch) = began else {
            return Status::NotRegistered;
        };
        if self.poller.begin(epoch, self.vm.polling.first()) {
            self.vm.begin_idle_calls(epoch);
        }
        let end = self.poller.poll(&self.vm.polling, self);
        self.with_registration(|now, descriptor| {
            if now == epoch {
                descriptor.set_idle_end(end.unwrap_or(IdleEnd::Expired));
                self.publish_windows(descriptor, self.poller.windows());
            }
        });
        Status::Ok
    }

    fn publish_windows(&self, descriptor: &Descriptor, windows: Windows) {
        descriptor.set_poll_windows(windows.guest_ns, windows.host_ns);
    }
}

impl PollEvents for Vcpu {
    #[inline]
    fn hits(&self) -> Option<u32> {
        self.with_descriptor(Descriptor::idle_hits)
    }

    #[inline]
    fn posted(&self) -> Option<bool> {
        self.with_descriptor(Descriptor::has_pending)
    }

    #[inline]
    fn has_pending_event(&self) -> bool {
        self.real.has_pending_event()
    }
}

impl PreemptNotified for Vcpu {
    fn sched_out(&self, why: SchedOut) {
        match why {
            SchedOut::Preempted => {
                // A sender that spins yields its CPU to this vCPU (KVM's directed yield), but possibly only for an
                // interrupt that KVM sees, which a post is not. Both would wait for the end of a time slice. So the
                // state stays `Running`, as it is in `KVM_RUN`, and senders kick.
                let posts = !self.real.yield_needs_interrupt();

                self.with_registration(|epoch, descriptor| {
                    if posts {
                        descriptor.set_host_state(HostState::Preempted);
                    }
                    if let Some(windows) = self.poller.preempt(epoch) {
                        self.publish_windows(descriptor, windows);
                    }
                });
            }
            SchedOut::Blocked => {
                self.with_registration(|epoch, descriptor| {
                    descriptor.set_host_state(HostState::Blocked);
                    self.poller.sleep(epoch);
                });
            }
        }
    }

    fn sched_in(&self) {
        let pending = self.with_registration(|epoch, descriptor| {
            if let Some(windows) = self.poller.wake(&self.vm.polling, self, epoch) {
                self.publish_windows(descriptor, windows);
            }
            descriptor.resume(HostState::Running)
        });

        if pending == Some(true) {
            self.counters.forced_exits.add(1);
            self.target.kicker.kick_current();
        }
    }
}
