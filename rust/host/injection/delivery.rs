// SPDX-License-Identifier: GPL-2.0

//! What the bottom halves deliver for.
//!
//! A source is signalled by its top half, in any context and on any CPU, and delivered by a bottom
//! half. However often it is signalled, it is in one queue at most, and one bottom half at most
//! delivers for it: all signals that came before a delivery began are covered by that, and one that
//! comes later leads to another.
//!
//! # Concurrency
//!
//! All that is known of a source is one word, [`Delivery::state`], which only read-modify-write
//! operations with full barriers change:
//!
//! - `OWNED`: somebody has the source in a queue or delivers for it. Whoever sets it puts the source
//!   into a queue; the bottom half that clears it is done.
//! - `SIGNALLED`: there is something to deliver. The owner clears it, and then delivers; it stays
//!   owner if it is set again.
//! - `STOPPING`: somebody waits for the owner to be done.
//!
//! So a source's deliveries happen one after the other, each after the signals that it is for. A
//! bottom half may be the last to drop a source: nothing in it sleeps when it is dropped.

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

/// What is bound to something.
#[pin_data]
pub(crate) struct Delivery {
    sink: Sink,
    state: Atomic<u32>,
    pub(crate) counters: Counters,
    #[pin]
    stopped: Completion,
    #[pin]
    tracker: AtomicTracker,
    /// For the queue of a bottom half.
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

    /// Returns where its interrupt goes.
    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Changes the state, and returns what it was.
    fn update(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut old = self.state.load(Relaxed);

        while let Err(now) = self.state.cmpxchg(old, change(old), Full) {
            old = now;
        }
        old
    }

    /// Notes a signal. If the source is in no queue yet, it is the caller's to put it into one.
    pub(crate) fn signal(this: &Arc<Self>) -> Option<ListArc<Self>> {
        let old = this.update(|state| state | OWNED | SIGNALLED);

        if old & OWNED != 0 {
            return None;
        }
        // Only the owner makes one of these, and gives it up before it ceases to be.
        ListArc::try_from_arc(this.clone()).ok()
    }

    /// Delivers for a source that came out of a queue, and returns it if it is to be queued again.
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

    /// Waits until nobody delivers for the source any more. What it was signalled for is delivered by
    /// then. ReadOnce; nobody may signal it any more. Process context.
    pub(crate) fn stop(&self) {
        if self.update(|state| state | STOPPING) & OWNED != 0 {
            self.stopped.wait_for_completion();
        }
    }
}

counters! {
    /// What is counted of a source, and of the sources of a bottom half.
    struct Counters of SharedCounter {
        /// Signals.
        top_halves: "top-halves",
        /// Those whose vector the vCPU will pick up by itself.
        elided: "elided",
        /// Those whose vector was pending already.
        coalesced: "coalesced",
        /// How often a source was put into a queue.
        queued: "queued",
        /// Deliveries.
        delivered: "delivered",
    }
}

impl Counters {
    /// Counts a top half, and what its post has come to, if there was one.
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
