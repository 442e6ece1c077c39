// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the tests: the protocol with one thing left out, made of the same pieces.

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
    blocked,
    polling,
    preempted,
    world::{
        explore,
        Outcome,
        Post,
        Scenario,
        World, //
    },
    A, //
};

/// Explores two senders of the same vector against an owner, until what `failure` says happens.
fn fails(name: &str, failure: fn(&Outcome) -> bool, post: Post, owner: fn(&World)) {
    let scenario = Scenario {
        senders: vec![vec![A], vec![A]],
        post,
        preemptions: None,
        owner,
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

fn post_without_barrier(target: &Descriptor, vector: Vector) -> Posted {
    if target.set(vector) {
        return Posted::Coalesced;
    }
    if target.looker().is_some() || !target.retract(vector) {
        return Posted::Elided;
    }
    Posted::Kick
}

fn post_without_retract(target: &Descriptor, vector: Vector) -> Posted {
    if target.set(vector) {
        return Posted::Coalesced;
    }
    full_barrier_after_rmw();
    if target.looker().is_some() {
        return Posted::Elided;
    }
    Posted::Kick
}

fn post_whatever_the_retract_says(target: &Descriptor, vector: Vector) -> Posted {
    let posted = post_without_retract(target, vector);
    if posted == Posted::Kick {
        target.retract(vector);
    }
    posted
}

fn post_that_looks_first(target: &Descriptor, vector: Vector) -> Posted {
    let will_look = target.looker().is_some();
    full_barrier();
    if target.set(vector) {
        return Posted::Coalesced;
    }
    full_barrier_after_rmw();
    if will_look || !target.retract(vector) {
        return Posted::Elided;
    }
    Posted::Kick
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
        Descriptor::post,
        preempted_without_barrier,
    );
    fails(
        "owner's barrier, polling",
        lost,
        Descriptor::post,
        polling_without_barrier,
    );
}

#[test]
fn without_the_retract_interrupts_come_twice_and_bits_are_stuck() {
    fails("retract, preempted", twice, post_without_retract, preempted);
    fails("retract, blocked", stuck, post_without_retract, blocked);
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
fn a_sender_that_looks_before_it_posts_loses_interrupts() {
    fails("sender looks first", lost, post_that_looks_first, preempted);
}

#[test]
fn an_owner_that_drains_before_its_state_changes_loses_interrupts() {
    fails(
        "drain first",
        lost,
        Descriptor::post,
        preempted_that_drains_first,
    );
}

#[test]
fn an_owner_that_does_not_drain_leaves_bits_behind() {
    fails(
        "no drain",
        stuck,
        Descriptor::post,
        preempted_that_drains_nothing,
    );
}
