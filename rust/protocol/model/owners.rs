// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Owners, each of which ends in a state that will not poll.

use crate::HostState;

use super::world::World;

/// Running, preempted, running.
pub(super) fn preempted(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.leave(HostState::Running));
}

/// The same twice, so that a slow sender may have read the states of the first time.
pub(super) fn preempted_twice(world: &World) {
    preempted(world);
    preempted(world);
}

/// Running, preempted, running, in the scheduler's context, which cannot inject.
pub(super) fn resumed(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    if world.descriptor.resume(HostState::Running) {
        world.deliver_all(world.descriptor.drain());
    }
}

/// A guest that polls, and checks once.
pub(super) fn polling(world: &World) {
    let poll = || world.descriptor.has_pending();
    let (_, vectors) = world.descriptor.poll(poll, |found| *found);

    vectors
        .into_iter()
        .for_each(|vectors| world.deliver_all(vectors));
}

/// A guest that polls, and is preempted meanwhile.
pub(super) fn preempted_while_polling(world: &World) {
    world.descriptor.enter_polling();
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.leave(HostState::Running));
    world.deliver_all(world.descriptor.leave_polling());
}

/// Running, blocked.
pub(super) fn blocked(world: &World) {
    world.descriptor.set_host_state(HostState::Blocked);
}

/// Running, polling in the host, blocked.
pub(super) fn polling_then_blocked(world: &World) {
    world.descriptor.set_host_state(HostState::Polling);
    world.deliver_all(world.descriptor.leave(HostState::Blocked));
}

/// A host that closes the descriptor of a vCPU that is out of `KVM_RUN`, or a guest that closes it when the host is gone.
pub(super) fn closed(world: &World) {
    world.descriptor.set_host_state(HostState::Outside);
    world.deliver_all(world.descriptor.close());
}

/// A host that closes the descriptor and gets it again, with a vCPU that is preempted before and after.
pub(super) fn closed_and_registered(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.close());
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.leave(HostState::Running));
}
