// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The executions that the memory model allows, of senders against an owner.
//!
//! loom runs each scenario once per way in which its threads can interleave and its loads can read.
//! Each execution is judged by what the interrupt handlers saw, see [`world`]; none may lose an
//! interrupt, deliver one twice, or leave a bit behind.
//!
//! What has few executions is explored in full, and so is one owner each of the host and the guest.
//! Elsewhere threads are preempted up to [`BOUND`] times, to save time; what their loads can read
//! has no bound there either. `Documentation/protocol.rst` says what the bound leaves out.

mod broken;
mod world;

use std::println;

use crate::{
    Descriptor,
    HostState, //
};

use world::{
    explore,
    Scenario,
    World, //
};

/// Two vectors in one word of the descriptor, and one in another.
const A: u8 = 0x40;
const A_TOO: u8 = 0x41;
const B: u8 = 0x80;

/// What two senders post, at the same time.
const SAME: &[&[u8]] = &[&[A], &[A]];
const SAME_WORD: &[&[u8]] = &[&[A], &[A_TOO]];
const OTHER_WORD: &[&[u8]] = &[&[A], &[B]];
/// A sender that posts again, and another.
const AGAIN: &[&[u8]] = &[&[A, A], &[A]];

/// How many preemptions a scenario has where it cannot be explored in full.
const BOUND: Option<usize> = Some(4);
const FULL: Option<usize> = None;

/// Explores an owner against `senders`, and asserts that nothing goes wrong.
fn holds(name: &str, preemptions: Option<usize>, senders: &[&[u8]], owner: fn(&World)) {
    let scenario = Scenario {
        senders: senders.iter().map(|posts| posts.to_vec()).collect(),
        post: Descriptor::post,
        preemptions,
        owner,
    };
    let outcome = explore(scenario, |outcome| !outcome.is_right());

    println!("{name}: {outcome:?}");
    assert!(outcome.is_right(), "{name}: {outcome:?}");
    assert!(outcome.kicked > 0, "{name}: {outcome:?}");
}

/// Makes a test of an owner against each kind of senders.
macro_rules! models {
    ($($name:ident: $extent:ident, $owner:ident, $senders:ident;)+) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name), $extent, $senders, $owner);
            }
        )+
    };
}

/// Running, preempted, running.
fn preempted(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.leave(HostState::Running));
}

/// Running, preempted, running: as the scheduler's context does it, which cannot inject.
fn resumed(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    if world.descriptor.resume(HostState::Running) {
        world.deliver_all(world.descriptor.drain());
    }
}

/// Running, polling in the guest, running.
fn polling(world: &World) {
    world.descriptor.enter_polling();
    world.deliver_all(world.descriptor.leave_polling());
}

/// A guest that finds something while it polls.
fn looking(world: &World) {
    world.descriptor.enter_polling();
    if world.descriptor.has_pending() {
        world.deliver_all(world.descriptor.drain());
    }
    world.deliver_all(world.descriptor.leave_polling());
}

/// A guest that polls, and is preempted meanwhile.
fn preempted_while_polling(world: &World) {
    world.descriptor.enter_polling();
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.leave(HostState::Running));
    world.deliver_all(world.descriptor.leave_polling());
}

/// Running, blocked.
fn blocked(world: &World) {
    world.descriptor.set_host_state(HostState::Blocked);
}

/// Running, polling in the host, blocked.
fn polling_then_blocked(world: &World) {
    world.descriptor.set_host_state(HostState::Polling);
    world.deliver_all(world.descriptor.leave(HostState::Blocked));
}

/// A host that forgets the descriptor of a vCPU that is out of `KVM_RUN`.
fn closed(world: &World) {
    world.descriptor.set_host_state(HostState::Outside);
    world.deliver_all(world.descriptor.close());
}

models! {
    preempted_same: FULL, preempted, SAME;
    preempted_same_word: BOUND, preempted, SAME_WORD;
    preempted_other_word: BOUND, preempted, OTHER_WORD;
    preempted_again: BOUND, preempted, AGAIN;
    resumed_same: BOUND, resumed, SAME;
    polling_same: FULL, polling, SAME;
    polling_same_word: BOUND, polling, SAME_WORD;
    polling_other_word: BOUND, polling, OTHER_WORD;
    looking_same: BOUND, looking, SAME;
    preempted_while_polling_same: BOUND, preempted_while_polling, SAME;
    blocked_same: FULL, blocked, SAME;
    blocked_same_word: FULL, blocked, SAME_WORD;
    blocked_again: FULL, blocked, AGAIN;
    polling_then_blocked_same: BOUND, polling_then_blocked, SAME;
    closed_same: BOUND, closed, SAME;
    closed_same_word: BOUND, closed, SAME_WORD;
}
