// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a model consists of besides the protocol, and how an execution of it is judged.
//!
//! The first sender writes a word of its own before it posts, and each interrupt handler reads it.
//! The senders are alike, so what holds for the first holds for both. A kick's handler runs in its
//! sender, at once: it knows what that sender knows and nothing more, so it sees no more than any
//! later delivery of that kick would.
//!
//! - A post is *lost* if no handler for its vector saw what its sender wrote before it, or if its
//!   handler ran less often than its bit was set.
//! - A vector is delivered *twice* if its handler ran more often than its bit was set.
//! - A bit is *stuck* if it is set at the end, when no owner looks.

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

/// What happened, kept out of loom's sight.
#[derive(Default)]
struct Ledger {
    /// Each post's sender, its number there, and what became of it.
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

    fn send(&self, sender: usize, number: u32, vector: Vector, post: Post) {
        if sender == 0 {
            self.written.store(number);
        }
        let posted = post(&self.descriptor, vector);
        let record = (sender, number, vector, posted);

        self.ledger.lock().unwrap().posts.push(record);
        if posted == Posted::Kick {
            self.deliver(vector);
        }
    }

    /// Runs a vector's handler.
    fn deliver(&self, vector: Vector) {
        // What other vectors' handlers see of the first sender is of no interest.
        let seen = match vector == self.watched {
            true => self.written.load(),
            false => 0,
        };

        self.ledger.lock().unwrap().handlers.push((vector, seen));
    }

    /// Runs the handlers of what was drained.
    pub(super) fn deliver_all(&self, vectors: Vectors) {
        vectors.into_iter().for_each(|vector| self.deliver(vector));
    }
}

/// A way to post.
pub(super) type Post = fn(&Descriptor, Vector) -> Posted;

/// Senders, one thread each, against an owner.
pub(super) struct Scenario {
    /// What each of them posts, one after the other.
    pub(super) senders: Vec<Vec<u8>>,
    pub(super) post: Post,
    /// How often a thread may be interrupted by another where it could have gone on, if not always.
    pub(super) preemptions: Option<usize>,
    /// What the owner does. At the end it must be in a state in which it will not look.
    pub(super) owner: fn(&World),
}

/// What the executions of a scenario came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) executions: usize,
    /// Posts, over all executions.
    pub(super) coalesced: usize,
    pub(super) elided: usize,
    pub(super) kicked: usize,
    /// Executions in which this happened.
    pub(super) lost: usize,
    pub(super) twice: usize,
    pub(super) stuck: usize,
}

impl Outcome {
    pub(super) fn is_right(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.stuck == 0
    }

    fn add(&mut self, world: &World) {
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
        let (mut missing, mut twice) = (false, false);
        for (.., vector, _) in posts {
            let handled = handlers.iter().filter(|(other, _)| other == vector).count();
            let set = posts
                .iter()
                .filter(|(.., other, posted)| other == vector && *posted != Posted::Coalesced)
                .count();

            missing |= handled < set;
            twice |= handled > set;
        }
        self.lost += usize::from(unseen || missing);
        self.twice += usize::from(twice);
        self.stuck += usize::from(!pending.is_empty());
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
        let world = Arc::new(World::new(Vector::new(scenario.senders[0][0]).unwrap()));
        let senders: Vec<_> = (0..scenario.senders.len())
            .map(|sender| {
                let (world, scenario) = (world.clone(), scenario.clone());

                thread::spawn(move || {
                    for (number, vector) in (1..).zip(&scenario.senders[sender]) {
                        let vector = Vector::new(*vector).unwrap();
                        world.send(sender, number, vector, scenario.post);
                    }
                })
            })
            .collect();

        (scenario.owner)(&world);
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        let outcome = {
            let mut outcome = outcome.lock().unwrap();
            outcome.add(&world);
            *outcome
        };
        // loom has no other way to stop.
        assert!(!fails(&outcome), "{outcome:?}");
    };
    let stopped = catch_unwind(AssertUnwindSafe(|| builder.check(check)));

    let outcome = *result.lock().unwrap();
    assert_eq!(
        stopped.is_err(),
        !outcome.is_right(),
        "loom itself has failed"
    );
    outcome
}
