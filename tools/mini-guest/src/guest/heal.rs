// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a guest does that may have been saved and restored: it asks for the epoch, and if that is not its own, makes its
//! descriptors harmless, sends what is pending in them natively, and registers anew.

use core::sync::atomic::Ordering::SeqCst;

use mini_guest::{Answer, Request, Shared};
use pvirq_protocol::{
    registers::{Array, Command, Status, ABSENT, VERSION},
    IdleEnd,
};

use crate::{apic, ipi::add_one, pvirq};

/// Checks that the registration is still the guest's own, and heals if it is not. Returns whether it was.
///
/// Call it now and then on any vCPU. An interrupt that is pending because an older state promised a poll waits until then.
pub fn check(shared: &Shared) -> bool {
    let survival = &shared.survival;

    survival.checks.fetch_add(1, SeqCst);
    if is_own(shared) {
        return true;
    }
    // Another vCPU does it, or has done it meanwhile.
    if survival.healing.swap(1, SeqCst) != 0 {
        return false;
    }
    let was_own = is_own(shared);
    if !was_own {
        heal(shared);
    }
    survival.healing.store(0, SeqCst);
    was_own
}

/// Whether the host has the registration that the guest believes in, or is still not there.
fn is_own(shared: &Shared) -> bool {
    let epoch = pvirq::epoch();
    epoch != 0 && epoch == shared.survival.epoch.load(SeqCst)
}

fn heal(shared: &Shared) {
    let survival = &shared.survival;
    let vcpus = shared.vcpus.load(SeqCst);

    add_one(&survival.heals);
    for (index, descriptor) in (0..vcpus).zip(&*shared.descriptors) {
        descriptor.set_poll_windows(0, 0);
        descriptor.set_idle_end(IdleEnd::Expired);
        for vector in descriptor.close() {
            add_one(&survival.healed);
            apic::send(vector.get(), index);
        }
    }
    survival.epoch.store(register(shared, vcpus), SeqCst);
}

/// Registers, and returns the registration's epoch: 0 if that cannot be now, all ones if there is no host.
fn register(shared: &Shared, vcpus: u32) -> u32 {
    let array = Array {
        // Memory is mapped one to one.
        address: core::ptr::from_ref(&shared.descriptors) as u64,
        count: vcpus,
    };
    let command = Command::Register { version: VERSION }.encode();

    match pvirq::ask(&Request { array, command }) {
        Answer::Host(Status::Ok) => {
            add_one(&shared.survival.registrations);
            pvirq::epoch()
        }
        Answer::NoHost | Answer::NoPosting => ABSENT,
        _ => 0,
    }
}
