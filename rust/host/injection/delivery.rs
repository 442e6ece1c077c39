// SPDX-License-Identifier: GPL-2.0

//! The delivery of a source's signals to its sink.
//!
//! The top half signals a delivery, in any context and on any CPU, and a bottom half carries it out. However often a
//! delivery is signalled, it is in at most one queue, and at most one bottom half carries it out: that covers all
//! signals which came before it began, and a later signal leads to another one.
//!
//! # Concurrency
//!
//! [`Delivery::state`] is one word, which only read-modify-write operations with full barriers change:
//!
//! - `OWNED`: the delivery is in a queue, or a bottom half carries it out. The top half that sets the bit puts the
//!   delivery into a queue; the bottom half that clears it is done with it.
//! - `SIGNALLED`: there is a signal to deliver. The owner clears the bit and then delivers; it stays the owner if the
//!   bit is set again.
//! - `STOPPING`: a thread waits until there is no owner.
//!
//! So a source is delivered for by one CPU at a time, each time after the signals that it covers. A bottom half may
//! drop the last reference to a delivery: to drop one does not sleep.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        ListArc,
        ListLinks,
        TryNewListArc, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Completion, //
    }, //
};
use pvirq_protocol::{
    ioctl,
    Posted, //
};

use super::sink::Sink;
use crate::stats::counter::{
    counters,
    SharedCounter, //
};

const OWNED: u32 = 1 << 0;
const SIGNALLED: u32 = 1 << 1;
const STOPPING: u32 = 1 << 2;

/// The delivery of one source.
#[pin_data]
pub(crate) struct Delivery {
    sink: Sink,
    state: Atomic<u32>,
    pub(crate) counters: Counters,
    #[pin]
    stopped: Completion,
    #[pin]
    tracker: AtomicTracker,
    /// Links in the queue of a bottom half.
    #[pin]
    links: ListLinks,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Delivery { tracked_by tracker: AtomicTracker; }
}
impl_list_item! {
    impl ListItem<0> for Delivery { using ListLinks { self.links }; }
}

impl Delivery {
    pub(crate) fn new(sink: Sink) -> impl PinInit<Self> {
        pin_init!(Self {
            sink,
            state: Atomic::new(0),
            counters: Counters::new(),
            stopped <- Completion::new(),
            tracker <- AtomicTracker::new(),
            links <- ListLinks::new(),
        })
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Changes the state, and returns the old one.
    fn update(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut old = self.state.load(Relaxed);

        while let Err(now) = self.state.cmpxchg(old, change(old), Full) {
            old = now;
        }
        old
    }

    /// Notes a signal. If this returns the delivery, the caller has to put it into a queue.
    pub(crate) fn signal(this: &Arc<Self>) -> Option<ListArc<Self>> {
        let old = this.update(|state| state | OWNED | SIGNALLED);

        if old & OWNED != 0 {
            return None;
        }
        // This succeeds: only the owner has a `ListArc`, and gives it up before it clears `OWNED`.
        ListArc::try_from_arc(this.clone()).ok()
    }

    /// Delivers. Called by a bottom half that has taken `this` from its queue. If this returns it, it has to be queued
    /// again.
    pub(crate) fn deliver(this: ListArc<Self>) -> Option<ListArc<Self>> {
        this.update(|state| state & !SIGNALLED);
        this.sink.deliver();
        this.counters.delivered.add(1);

        let this = this.into_arc();
        let old = this.update(|state| match state & SIGNALLED {
            0 => state & !OWNED,
            _ => state,
        });
        if old & SIGNALLED != 0 {
            return ListArc::try_from_arc(this).ok();
        }
        if old & STOPPING != 0 {
            this.stopped.complete_all();
        }
        None
    }

    /// Waits until all signals have been delivered, and no bottom half uses the delivery. Called once, after the last
    /// signal. Process context.
    pub(crate) fn stop(&self) {
        if self.update(|state| state | STOPPING) & OWNED != 0 {
            self.stopped.wait_for_completion();
        }
    }
}

counters! {
    /// Counters of a source, or of all sources of a bottom half.
    struct Counters of SharedCounter {
        /// Signals: runs of the top half.
        top_halves: "top-halves",
        /// Signals whose vector the vCPU picks up without a kick.
        elided: "elided",
        /// Signals whose vector was pending already.
        coalesced: "coalesced",
        /// Insertions into a queue.
        queued: "queued",
        /// Deliveries: signals of a sink, or kicks.
        delivered: "delivered",
    }
}

impl Counters {
    /// Counts a run of a top half, and the outcome of its post, if there was one.
    #[inline]
    pub(crate) fn count_top_half(&self, posted: Option<Posted>) {
        self.top_halves.add(1);
        match posted {
            Some(Posted::Elided) => self.elided.add(1),
            Some(Posted::Coalesced) => self.coalesced.add(1),
            Some(Posted::Kick) | None => {}
        }
    }

    pub(crate) fn get(&self) -> ioctl::Source {
        ioctl::Source {
            top_halves: self.top_halves.get(),
            elided: self.elided.get(),
            coalesced: self.coalesced.get(),
            queued: self.queued.get(),
            delivered: self.delivered.get(),
            ..ioctl::Source::default()
        }
    }
}
