// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The parts of a model besides the protocol, and how an execution is judged.
//!
//! The first sender writes a word of its own before it posts, and each interrupt handler reads it. Where senders are alike,
//! what holds for the first holds for all; others may [stop](super::stopped). A kick's handler runs at once in its sender:
//! it sees what that sender knows and nothing more, and so no more than any later delivery of that kick would.
//!
//! - A post is *lost* if no handler for its vector saw what its sender wrote before it.
//!
//! If all senders use [`post_once`](Descriptor::post_once), also:
//!
//! - A vector is delivered *twice* if its handler ran more often than there were posts.
//! - A bit is *stuck* if it is set at the end, when the owner will not poll.

use std::{
    panic::{
        catch_unwind,
        AssertUnwindSafe, //
    },
    sync::{
        Arc,
        Mutex, //
    },
    vec::Vec, //
};

use loom::{
    model::Builder,
    thread, //
};

use crate::{
    atomic::AtomicU32,
    Descriptor,
    Posted,
    Vector,
    Vectors, //
};

/// The record of an execution, of which loom does not know.
#[derive(Default)]
struct Ledger {
    /// Each post's sender, its number there, its vector, and its outcome.
    posts: Vec<(usize, u32, Vector, Posted)>,
    /// Each handler's vector, and the number of the first sender's last post that it saw.
    handlers: Vec<(Vector, u32)>,
}

/// The memory that a scenario's threads share.
pub(super) struct World {
    pub(super) descriptor: Descriptor,
    /// The number of the first sender's last post, and its vector.
    written: AtomicU32,
    watched: Vector,
    ledger: Mutex<Ledger>,
}

impl World {
    fn new(watched: Vector) -> Self {
        Self {
            descriptor: Descriptor::new(),
            written: AtomicU32::new(0),
            watched,
            ledger: Mutex::default(),
        }
    }

    /// Sends an interrupt. Returns whether the sender goes on.
    fn send(&self, sender: usize, number: u32, vector: Vector, post: Post) -> bool {
        if sender == 0 {
            self.written.store(number);
        }
        let Some(posted) = post(&self.descriptor, vector) else {
            return false;
        };
        let record = (sender, number, vector, posted);

        self.ledger.lock().unwrap().posts.push(record);
        if posted == Posted::Kick {
            self.deliver(vector);
        }
        true
    }

    /// Runs a vector's handler.
    fn deliver(&self, vector: Vector) {
        // Handlers of other vectors do not count for the first sender's posts.
        let seen = match vector == self.watched {
            true => self.written.load(),
            false => 0,
        };

        self.ledger.lock().unwrap().handlers.push((vector, seen));
    }

    /// Runs the handlers of drained vectors.
    pub(super) fn deliver_all(&self, vectors: Vectors) {
        vectors.into_iter().for_each(|vector| self.deliver(vector));
    }
}

/// A function that posts. Returns `None` if the sender stops for ever before it is done.
pub(super) type Post = fn(&Descriptor, Vector) -> Option<Posted>;

/// A sender that posts vectors, one after the other.
pub(super) struct Sender {
    vectors: Vec<Vector>,
    post: Post,
}

impl Sender {
    pub(super) fn new(vectors: &[u8], post: Post) -> Self {
        let vectors = vectors.iter().map(|vector| Vector::new(*vector).unwrap());

        Self {
            vectors: vectors.collect(),
            post,
        }
    }
}

/// Senders, one thread each, against an owner.
pub(super) struct Scenario {
    pub(super) senders: Vec<Sender>,
    /// Whether handlers must not run more often than there are posts.
    pub(super) once: bool,
    /// The bound on preemptions: how often another thread may go on while one could have. `None` explores in full.
    pub(super) preemptions: Option<usize>,
    /// The owner, which must end in a state that will not poll.
    pub(super) owner: fn(&World),
    /// Another thread of the owner's side.
    pub(super) aside: Option<fn(&World)>,
}

/// The outcome of a scenario's executions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) executions: usize,
    /// Posts, over all executions.
    pub(super) coalesced: usize,
    pub(super) elided: usize,
    pub(super) kicked: usize,
    /// Executions with a failure of this kind.
    pub(super) lost: usize,
    pub(super) twice: usize,
    pub(super) stuck: usize,
}

impl Outcome {
    pub(super) fn is_right(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.stuck == 0
    }

    fn add(&mut self, world: &World, once: bool) {
        let ledger = world.ledger.lock().unwrap();
        let (posts, handlers) = (&ledger.posts, &ledger.handlers);
        let became = |which| posts.iter().filter(|(.., posted)| *posted == which).count();

        let pending = world.descriptor.drain();
        self.executions += 1;
        self.coalesced += became(Posted::Coalesced);
        self.elided += became(Posted::Elided);
        self.kicked += became(Posted::Kick);

        let unseen = posts.iter().any(|(sender, number, vector, _)| {
            let saw = |(handled, seen): &(Vector, u32)| handled == vector && seen >= number;
            *sender == 0 && !handlers.iter().any(saw)
        });
        let twice = posts.iter().any(|(.., vector, _)| {
            let handled = handlers.iter().filter(|(other, _)| other == vector).count();
            let posted = posts
                .iter()
                .filter(|(.., other, _)| other == vector)
                .count();

            handled > posted
        });
        self.lost += usize::from(unseen);
        self.twice += usize::from(once && twice);
        self.stuck += usize::from(once && !pending.is_empty());
    }
}

/// Runs all executions of a scenario, or those up to the first that `fails`.
pub(super) fn explore(scenario: Scenario, fails: fn(&Outcome) -> bool) -> Outcome {
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let scenario = Arc::new(scenario);
    let result = outcome.clone();
    let mut builder = Builder::new();

    builder.preemption_bound = scenario.preemptions;

    let check = move || {
        let world = Arc::new(World::new(scenario.senders[0].vectors[0]));
        let mut threads: Vec<_> = (0..scenario.senders.len())
            .map(|sender| {
                let (world, scenario) = (world.clone(), scenario.clone());

                thread::spawn(move || {
                    let Sender { vectors, post } = &scenario.senders[sender];
                    (1..)
                        .zip(vectors)
                        .all(|(number, vector)| world.send(sender, number, *vector, *post));
                })
            })
            .collect();
        threads.extend(scenario.aside.map(|aside| {
            let world = world.clone();

            thread::spawn(move || aside(&world))
        }));

        (scenario.owner)(&world);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let outcome = {
            let mut outcome = outcome.lock().unwrap();
            outcome.add(&world, scenario.once);
            *outcome
        };
        // loom has no other way to stop.
        assert!(!fails(&outcome), "{outcome:?}");
    };
    let stopped = catch_unwind(AssertUnwindSafe(|| builder.check(check)));

    let outcome = *result.lock().unwrap();
    assert_eq!(stopped.is_err(), fails(&outcome), "loom itself has failed");
    outcome
}
