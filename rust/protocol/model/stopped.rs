// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Senders that stop for ever in the middle of a post: their process is killed, their vCPU is frozen.
//!
//! Another sender's interrupts must not be lost by that, nor wait for it.

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

/// Stops when it has set its bit.
pub(super) fn after_the_bit(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return Some(Posted::Kick);
    }
    target.set(vector);
    None
}

/// Stops when it has seen that the target does not look any more, and before its kick.
pub(super) fn before_the_kick(target: &Descriptor, vector: Vector) -> Option<Posted> {
    if target.pickup().is_none() {
        return None;
    }
    target.set(vector);
    full_barrier_after_rmw();
    target.pickup().map(|_| Posted::Elided)
}

/// Stops when it has taken a bit back, in [`Descriptor::post_once`].
fn with_the_bit(target: &Descriptor, vector: Vector) -> Option<Posted> {
    let posted = before_the_kick(target, vector);
    if posted.is_none() && !target.retract(vector) {
        return Some(Posted::Elided);
    }
    posted
}

/// Explores one that posts by `post`, and others that stop, until what `failure` says happens.
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
        // Those that stop may deliver nothing.
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
    ($($name:ident: $extent:ident, $owner:ident, $post:ident beside $($stopped:ident),+;)+) => {
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
    preempted_and_one_with_a_bit: BOUND, preempted, ANY beside after_the_bit;
    preempted_and_one_without_its_kick: BOUND, preempted, ANY beside before_the_kick;
    preempted_twice_and_one_without_its_kick: FEWER, preempted_twice, ANY beside before_the_kick;
    preempted_and_two: FEWEST, preempted, ANY beside after_the_bit, before_the_kick;
    polling_and_one_with_a_bit: BOUND, polling, ANY beside after_the_bit;
    polling_and_one_without_its_kick: BOUND, polling, ANY beside before_the_kick;
    closed_and_one_with_a_bit: BOUND, closed, ANY beside after_the_bit;
    polling_then_blocked_and_one_with_a_bit: BOUND, polling_then_blocked, ANY beside after_the_bit;
    once_and_one_with_a_bit: BOUND, preempted, ONCE beside after_the_bit;
}

/// The price of taking bits back, see [`Descriptor::post_once`].
#[test]
fn one_that_stops_with_another_ones_bit_loses_it() {
    for (name, post) in [("any", ANY.post), ("once", ONCE.post)] {
        let outcome = run(post, &[with_the_bit], None, preempted_twice, lost);
        println!("{name}: {outcome:?}");
        assert!(lost(&outcome), "{name}: {outcome:?}");
    }
}

/// What coalescing relied on before senders finished for themselves.
#[test]
fn one_that_relies_on_another_ones_bit_loses_its_own() {
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
