// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Models of senders against an owner, in all executions that the memory model allows.
//!
//! loom executes each scenario once per interleaving of its threads and per value that their loads can read. Each
//! execution is judged by what the interrupt handlers saw, see [`world`]: none may lose an interrupt, and where senders use
//! [`post_once`](crate::Descriptor::post_once), none may deliver one twice or leave a bit behind.
//!
//! Scenarios with few executions are explored in full. In the others threads are preempted up to [`BOUND`] times, to save
//! time, but what their loads can read has no bound. `Documentation/protocol.rst` says what the bound leaves out.

mod broken;
mod owners;
mod stopped;
mod world;

use std::println;

use owners::*;
use world::{
    explore,
    Post,
    Scenario,
    Sender,
    World, //
};

/// Two vectors in one word of the descriptor, and one in another.
const A: u8 = 0x40;
const A_TOO: u8 = 0x41;
const B: u8 = 0x80;

/// The vectors of senders that post at the same time.
const SAME: &[&[u8]] = &[&[A], &[A]];
const SAME_WORD: &[&[u8]] = &[&[A], &[A_TOO]];
const OTHER_WORD: &[&[u8]] = &[&[A], &[B]];
/// A sender that posts again, and another.
const AGAIN: &[&[u8]] = &[&[A, A], &[A]];
const THREE: &[&[u8]] = &[&[A], &[A], &[A]];

/// The bound on preemptions in scenarios that are not explored in full.
const BOUND: Option<usize> = Some(4);
const FEWER: Option<usize> = Some(3);
const FEWEST: Option<usize> = Some(2);
const FULL: Option<usize> = None;

/// A function that posts.
struct Method {
    post: Post,
    /// Whether handlers must not run more often than there are posts.
    once: bool,
}

const ANY: Method = Method {
    post: |target, vector| Some(target.post(vector)),
    once: false,
};
const ONCE: Method = Method {
    post: |target, vector| Some(target.post_once(vector)),
    once: true,
};

/// Whether posts are elided in some executions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Elided {
    /// Some are: the owner polls.
    Some,
    /// None is: the owner never polls.
    None,
}

/// Explores an owner, and perhaps another thread of its side, against senders of `posts`, and asserts that no execution
/// fails.
fn holds(
    name: &str,
    preemptions: Option<usize>,
    posts: &[&[u8]],
    method: Method,
    owner: fn(&World),
    aside: Option<fn(&World)>,
    elided: Elided,
) {
    let scenario = Scenario {
        senders: posts
            .iter()
            .map(|vectors| Sender::new(vectors, method.post))
            .collect(),
        once: method.once,
        preemptions,
        owner,
        aside,
    };
    let outcome = explore(scenario, |outcome| !outcome.is_right());

    println!("{name}: {outcome:?}");
    assert!(outcome.is_right(), "{name}: {outcome:?}");
    assert!(outcome.kicked > 0, "{name}: {outcome:?}");
    assert_eq!(
        outcome.elided > 0,
        elided == Elided::Some,
        "{name}: {outcome:?}"
    );
}

macro_rules! optional {
    () => {
        None
    };
    ($function:ident) => {
        Some($function as fn(&World))
    };
}

/// Makes a test per line, of an owner against senders.
macro_rules! models {
    ($($name:ident: $extent:ident, $owner:ident $(with $aside:ident)?, $posts:ident by $post:ident, $elided:ident;)+) => {
        $(
            #[test]
            fn $name() {
                let aside = optional!($($aside)?);
                holds(stringify!($name), $extent, $posts, $post, $owner, aside, Elided::$elided);
            }
        )+
    };
}

models! {
    preempted_same: FULL, preempted, SAME by ANY, Some;
    preempted_again: BOUND, preempted, AGAIN by ANY, Some;
    preempted_same_word: BOUND, preempted, SAME_WORD by ANY, Some;
    preempted_other_word: BOUND, preempted, OTHER_WORD by ANY, Some;
    preempted_three: FEWEST, preempted, THREE by ANY, Some;
    preempted_twice_same: FEWER, preempted_twice, SAME by ANY, Some;
    resumed_same: BOUND, resumed, SAME by ANY, Some;
    polling_same: BOUND, polling, SAME by ANY, Some;
    polling_three: FEWEST, polling, THREE by ANY, Some;
    preempted_while_polling_same: FEWER, preempted_while_polling, SAME by ANY, Some;
    closed_beside_polling_same: FEWEST, polling with closed_and_registered, SAME by ANY, Some;
    blocked_same: FULL, blocked, SAME by ANY, None;
    polling_then_blocked_same: BOUND, polling_then_blocked, SAME by ANY, Some;
    closed_same: BOUND, closed, SAME by ANY, Some;

    once_preempted_same: BOUND, preempted, SAME by ONCE, Some;
    once_preempted_same_word: BOUND, preempted, SAME_WORD by ONCE, Some;
    once_preempted_other_word: BOUND, preempted, OTHER_WORD by ONCE, Some;
    once_preempted_again: BOUND, preempted, AGAIN by ONCE, Some;
    once_preempted_three: FEWEST, preempted, THREE by ONCE, Some;
    once_preempted_twice_same: FEWER, preempted_twice, SAME by ONCE, Some;
    once_resumed_same: BOUND, resumed, SAME by ONCE, Some;
    once_polling_same: BOUND, polling, SAME by ONCE, Some;
    once_polling_same_word: BOUND, polling, SAME_WORD by ONCE, Some;
    once_preempted_while_polling_same: FEWER, preempted_while_polling, SAME by ONCE, Some;
    once_closed_beside_polling_same: FEWEST, polling with closed_and_registered, SAME by ONCE, Some;
    once_blocked_again: FULL, blocked, AGAIN by ONCE, None;
    once_polling_then_blocked_same: BOUND, polling_then_blocked, SAME by ONCE, Some;
    once_closed_same: BOUND, closed, SAME by ONCE, Some;
    once_closed_same_word: BOUND, closed, SAME_WORD by ONCE, Some;
}
