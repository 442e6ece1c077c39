// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Senders that stop for ever in the middle of a post, as their process is killed or their vCPU is frozen.
//!
//! Other senders' interrupts must be neither lost nor delayed by that.

use std::{
    println,
    vec, //
};

use crate::{
    atomic::full_barrier_after_rmw,
    Descriptor,
    Posted,
    Vector, //
};

use super::{
    owners::*,
    world::{
        explore,
        Outcome,
        Post,
        Scenario,
        Sender,
        World, //
    },
    A,
    ANY,
    BOUND,
    FEWER,
    FEWEST,
    ONCE, //
};

/// Stops after it has set its bit.
pub(super) fn after_the_bit(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return Some(Posted::Kick);
    }
    target.set(vector);
    None
}

/// Stops before its kick, after it has seen that the target will not poll.
pub(super) fn before_the_kick(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return None;
    }
    target.set(vector);
    full_barrier_after_rmw();
    target.pickup().map(|_| Posted::Elided)
}

/// Stops in [`Descriptor::post_once`], after it has taken a bit back.
fn with_the_bit(target: &Descriptor, vector: Vector) -> Option<Posted> {
    let posted = before_the_kick(target, vector);
    if posted.is_none() && !target.retract(vector) {
        return Some(Posted::Elided);
    }
    posted
}

/// Explores a sender that posts by `post`, and others that stop, until `failure` happens.
fn run(
    post: Post,
    stopped: &[Post],
    preemptions: Option<usize>,
    owner: fn(&World),
    failure: fn(&Outcome) -> bool,
) -> Outcome {
    let mut senders = vec![Sender::new(&[A], post)];
    senders.extend(stopped.iter().map(|post| Sender::new(&[A], *post)));
    let scenario = Scenario {
        senders,
        // Senders that stop may leave bits behind.
        once: false,
        preemptions,
        owner,
        aside: None,
    };
    explore(scenario, failure)
}

fn lost(outcome: &Outcome) -> bool {
    outcome.lost > 0
}

macro_rules! models {
    ($($name:ident: $extent:ident, $owner:ident, $post:ident with $($stopped:ident),+;)+) => {
        $(
            #[test]
            fn $name() {
                let outcome = run($post.post, &[$($stopped),+], $extent, $owner, lost);
                println!("{}: {outcome:?}", stringify!($name));
                assert!(!lost(&outcome), "{outcome:?}");
                assert!(outcome.elided > 0 && outcome.kicked > 0, "{outcome:?}");
            }
        )+
    };
}

models! {
    preempted_and_one_with_a_bit: BOUND, preempted, ANY with after_the_bit;
    preempted_and_one_without_its_kick: BOUND, preempted, ANY with before_the_kick;
    preempted_twice_and_one_without_its_kick: FEWER, preempted_twice, ANY with before_the_kick;
    preempted_and_two: FEWEST, preempted, ANY with after_the_bit, before_the_kick;
    polling_and_one_with_a_bit: BOUND, polling, ANY with after_the_bit;
    polling_and_one_without_its_kick: BOUND, polling, ANY with before_the_kick;
    closed_and_one_with_a_bit: BOUND, closed, ANY with after_the_bit;
    polling_then_blocked_and_one_with_a_bit: BOUND, polling_then_blocked, ANY with after_the_bit;
    once_and_one_with_a_bit: BOUND, preempted, ONCE with after_the_bit;
}

/// The weakness of [`Descriptor::post_once`].
#[test]
fn a_sender_that_stops_with_anothers_bit_loses_it() {
    for (name, post) in [("any", ANY.post), ("once", ONCE.post)] {
        let outcome = run(post, &[with_the_bit], None, preempted_twice, lost);
        println!("{name}: {outcome:?}");
        assert!(lost(&outcome), "{name}: {outcome:?}");
    }
}

/// Why a sender must not rely on a bit that it finds set, as the protocol's first version did.
#[test]
fn a_sender_that_relies_on_anothers_bit_loses_its_own() {
    fn post_that_relies(target: &Descriptor, vector: Vector) -> Option<Posted> {
        if target.pickup().is_none() {
            return Some(Posted::Kick);
        }
        if target.set(vector) {
            return Some(Posted::Coalesced);
        }
        full_barrier_after_rmw();
        Some(match target.pickup() {
            Some(_) => Posted::Elided,
            None => Posted::Kick,
        })
    }
    let outcome = run(post_that_relies, &[after_the_bit], None, preempted, lost);
    println!("relies: {outcome:?}");
    assert!(lost(&outcome), "{outcome:?}");
}
