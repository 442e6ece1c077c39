// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the models: the protocol with one thing left out or wrong must fail.

use std::{
    println,
    vec, //
};

use crate::{
    atomic::{
        full_barrier,
        full_barrier_after_rmw, //
    },
    Descriptor,
    GuestState,
    HostState,
    Posted,
    Vector, //
};

use super::{
    owners::{
        polling,
        polling_then_blocked,
        preempted, //
    },
    world::{
        explore,
        Outcome,
        Post,
        Scenario,
        Sender,
        World, //
    },
    A, //
};

/// Explores two senders of the same vector against an owner, and asserts that `failure` happens.
fn fails(name: &str, failure: fn(&Outcome) -> bool, post: Post, owner: fn(&World)) {
    let scenario = Scenario {
        senders: vec![Sender::new(&[A], post), Sender::new(&[A], post)],
        once: true,
        preemptions: None,
        owner,
        aside: None,
    };
    let outcome = explore(scenario, failure);

    println!("{name}: {outcome:?}");
    assert!(failure(&outcome), "{name}: {outcome:?}");
}

fn lost(outcome: &Outcome) -> bool {
    outcome.lost > 0
}

fn twice(outcome: &Outcome) -> bool {
    outcome.twice > 0
}

fn stuck(outcome: &Outcome) -> bool {
    outcome.stuck > 0
}

/// As [`Descriptor::post_once`], with another barrier or another kick.
fn post_by(
    target: &Descriptor,
    vector: Vector,
    barrier: fn(),
    kick: fn(&Descriptor, Vector) -> Posted,
) -> Option<Posted> {
    if target.pickup().is_none() {
        return Some(Posted::Kick);
    }
    let was_set = target.set(vector);
    barrier();
    Some(match target.pickup() {
        None => kick(target, vector),
        Some(_) if was_set => Posted::Coalesced,
        Some(_) => Posted::Elided,
    })
}

fn retract(target: &Descriptor, vector: Vector) -> Posted {
    match target.retract(vector) {
        true => Posted::Kick,
        false => Posted::Elided,
    }
}

fn post_without_barrier(target: &Descriptor, vector: Vector) -> Option<Posted> {
    post_by(target, vector, || {}, retract)
}

fn post_without_retract(target: &Descriptor, vector: Vector) -> Option<Posted> {
    post_by(target, vector, full_barrier_after_rmw, |_, _| Posted::Kick)
}

fn post_whatever_the_retract_says(target: &Descriptor, vector: Vector) -> Option<Posted> {
    post_by(target, vector, full_barrier_after_rmw, |target, vector| {
        target.retract(vector);
        Posted::Kick
    })
}

/// Does not read the states again after setting the bit.
fn post_that_reads_states_once(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return Some(Posted::Kick);
    }
    full_barrier();
    Some(match target.set(vector) {
        true => Posted::Coalesced,
        false => Posted::Elided,
    })
}

/// Leaves a vector that is pending already to the sender that has posted it, even if the owner will not poll.
fn post_that_relies_on_others(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return Some(Posted::Kick);
    }
    if target.set(vector) {
        return Some(Posted::Coalesced);
    }
    full_barrier_after_rmw();
    Some(match target.pickup() {
        None => Posted::Kick,
        Some(_) => Posted::Elided,
    })
}

fn once(target: &Descriptor, vector: Vector) -> Option<Posted> {
    Some(target.post_once(vector))
}

fn polling_without_barrier(world: &World) {
    world.descriptor.enter_polling();
    world
        .descriptor
        .guest
        .state
        .store(GuestState::Running.word());
    world.deliver_all(world.descriptor.drain());
}

fn preempted_without_barrier(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.descriptor.set_host_state(HostState::Running);
    world.deliver_all(world.descriptor.drain());
}

fn preempted_that_drains_first(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.deliver_all(world.descriptor.drain());
    world.descriptor.set_host_state(HostState::Running);
    full_barrier();
}

fn preempted_that_drains_nothing(world: &World) {
    world.descriptor.set_host_state(HostState::Preempted);
    world.descriptor.set_host_state(HostState::Running);
    full_barrier();
}

#[test]
fn without_the_senders_barrier_interrupts_are_lost() {
    fails(
        "sender's barrier, preempted",
        lost,
        post_without_barrier,
        preempted,
    );
    fails(
        "sender's barrier, polling",
        lost,
        post_without_barrier,
        polling,
    );
}

#[test]
fn without_the_owners_barrier_interrupts_are_lost() {
    fails(
        "owner's barrier, preempted",
        lost,
        once,
        preempted_without_barrier,
    );
    fails(
        "owner's barrier, polling",
        lost,
        once,
        polling_without_barrier,
    );
}

#[test]
fn without_the_retract_interrupts_come_twice_and_bits_are_stuck() {
    fails("retract, preempted", twice, post_without_retract, preempted);
    fails(
        "retract, blocked",
        stuck,
        post_without_retract,
        polling_then_blocked,
    );
}

#[test]
fn without_the_retracts_answer_interrupts_come_twice() {
    fails(
        "retract's answer",
        twice,
        post_whatever_the_retract_says,
        preempted,
    );
}

#[test]
fn a_sender_that_reads_states_only_before_it_posts_loses_interrupts() {
    fails(
        "sender reads states once",
        lost,
        post_that_reads_states_once,
        preempted,
    );
}

#[test]
fn a_sender_that_relies_on_others_loses_interrupts() {
    // The sender that it relies on leaves its bit behind after its kick.
    fails("sender relies", lost, post_that_relies_on_others, preempted);
}

#[test]
fn an_owner_that_drains_before_its_state_changes_loses_interrupts() {
    fails("drain first", lost, once, preempted_that_drains_first);
}

#[test]
fn an_owner_that_does_not_drain_leaves_bits_behind() {
    fails("no drain", stuck, once, preempted_that_drains_nothing);
}
