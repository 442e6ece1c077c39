// SPDX-License-Identifier: GPL-2.0

//! Bottom halves: what delivers in softirq, in batches.
//!
//! Each CPU has a queue for each kind of bottom half. A top half puts its source into that of its own
//! CPU. The shape is NAPI's: the first source starts the bottom half, and those that come while it is
//! about to run or runs only queue. It takes a bounded batch, first come, first served; if there is
//! more, it runs again after other softirqs have, and rests when there is nothing left. A source that
//! is signalled while it is delivered for goes to the end of the queue.
//!
//! A softirq that is raised in process context would wait for `ksoftirqd`. So the CPU sends itself an
//! interrupt, at the end of which the softirq runs.
//!
//! # Concurrency
//!
//! A queue's lock is taken with interrupts off, in any context, and is a leaf. Bottom halves run
//! without it.

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    list::{
        List,
        ListArc, //
    },
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock_irq,
        Arc,
        SpinLockIrq, //
    }, //
};
use kernel_ext::irq::softirq::{
    in_interrupt,
    in_ksoftirqd,
    BhWork,
    IrqWork,
    Runs,
    Tasklet, //
};
use pvirq_protocol::{
    ioctl::{
        self,
        BottomHalfKind, //
    },
    Posted, //
};

use super::delivery::{
    Counters,
    Delivery, //
};
use crate::stats::counter::SharedCounter;

/// How many sources a bottom half delivers for before others have their turn, as NAPI's weight.
const BATCH: u64 = 64;

/// What can run a queue in softirq, on this CPU.
pub(crate) trait BottomHalf: Runs {
    fn new(queue: Arc<Queue>) -> Result<Arc<Self>>;
    fn schedule(&self);
}

impl BottomHalf for Tasklet<Queue> {
    fn new(queue: Arc<Queue>) -> Result<Arc<Self>> {
        Arc::pin_init(Tasklet::new(queue), GFP_KERNEL)
    }

    fn schedule(&self) {
        self.schedule();
    }
}

impl BottomHalf for BhWork<Queue> {
    fn new(queue: Arc<Queue>) -> Result<Arc<Self>> {
        let work = BhWork::new(queue, c"pvirq_bottom_half", static_lock_class!());

        Arc::pin_init(work, GFP_KERNEL)
    }

    fn schedule(&self) {
        self.schedule();
    }
}

/// The sources that a CPU's bottom half is to deliver for.
#[pin_data]
pub(crate) struct Queue {
    #[pin]
    waiting: SpinLockIrq<Waiting>,
    counters: Counters,
    batches: SharedCounter,
    largest_batch: Atomic<u64>,
    ksoftirqd: SharedCounter,
}

#[derive(Default)]
struct Waiting {
    sources: List<Delivery>,
    /// Whether the bottom half runs, or is going to.
    active: bool,
}

impl Queue {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waiting <- new_spinlock_irq!(Waiting::default()),
            counters: Counters::new(),
            batches: SharedCounter::new(),
            largest_batch: Atomic::new(0),
            ksoftirqd: SharedCounter::new(),
        })
    }

    /// Adds a source, and returns whether the bottom half has to be started.
    fn push(&self, source: ListArc<Delivery>) -> bool {
        self.counters.queued.add(1);
        source.counters.queued.add(1);

        let mut waiting = self.waiting.lock();

        waiting.sources.push_back(source);
        !core::mem::replace(&mut waiting.active, true)
    }

    fn pop(&self) -> Option<ListArc<Delivery>> {
        self.waiting.lock().sources.pop_front()
    }

    /// Ends a batch, and returns whether there is more.
    fn rest(&self) -> bool {
        let mut waiting = self.waiting.lock();

        waiting.active = !waiting.sources.is_empty();
        waiting.active
    }
}

impl Queue {
    fn counted(&self) -> ioctl::BottomHalf {
        let counters = self.counters.get();

        ioctl::BottomHalf {
            top_halves: counters.top_halves,
            elided: counters.elided,
            coalesced: counters.coalesced,
            queued: counters.queued,
            delivered: counters.delivered,
            batches: self.batches.get(),
            largest_batch: self.largest_batch.load(Relaxed),
            ksoftirqd: self.ksoftirqd.get(),
            ..ioctl::BottomHalf::default()
        }
    }
}

impl Runs for Queue {
    fn run(&self) -> bool {
        let mut batch = 0;

        while batch < BATCH {
            let Some(source) = self.pop() else {
                break;
            };
            if let Some(again) = Delivery::deliver(source) {
                self.push(again);
            }
            self.counters.delivered.add(1);
            batch += 1;
        }
        self.batches.add(1);
        if in_ksoftirqd() {
            self.ksoftirqd.add(1);
        }
        // Nobody else writes it.
        if batch > self.largest_batch.load(Relaxed) {
            self.largest_batch.store(batch, Relaxed);
        }
        self.rest()
    }
}

/// A CPU's bottom half of one kind.
///
/// When it is dropped the interrupt goes first, and then the bottom half itself.
struct Lane<B: BottomHalf> {
    queue: Arc<Queue>,
    starter: Pin<KBox<IrqWork<B>>>,
    half: Arc<B>,
}

impl<B: BottomHalf> Lane<B> {
    fn new() -> Result<Self> {
        let queue = Arc::pin_init(Queue::new(), GFP_KERNEL)?;
        let half = B::new(queue.clone())?;

        Ok(Self {
            queue,
            starter: KBox::pin_init(IrqWork::new(half.clone()), GFP_KERNEL)?,
            half,
        })
    }

    fn for_all_cpus() -> Result<KVec<Self>> {
        let mut lanes = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;

        for _ in 0..nr_cpu_ids() {
            lanes.push(Self::new()?, GFP_KERNEL)?;
        }
        Ok(lanes)
    }

    /// Has the bottom half of this CPU deliver for a source. Interrupts are off.
    fn push(&self, source: ListArc<Delivery>) {
        if !self.queue.push(source) {
            return;
        }
        if in_interrupt() {
            self.half.schedule();
        } else {
            self.starter.queue();
        }
    }
}

/// A kind of bottom half.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tasklet,
    Workqueue,
}

/// The bottom halves of all CPUs.
pub(crate) struct BottomHalves {
    default: Kind,
    tasklets: KVec<Lane<Tasklet<Queue>>>,
    works: KVec<Lane<BhWork<Queue>>>,
}

impl BottomHalves {
    /// Makes them; `default` is the number of the kind that those get who do not choose.
    pub(crate) fn new(default: u32) -> Result<Self> {
        let default = match BottomHalfKind::from_number(default) {
            Some(BottomHalfKind::Tasklet) => Kind::Tasklet,
            Some(BottomHalfKind::Workqueue) => Kind::Workqueue,
            Some(BottomHalfKind::Default) | None => {
                pr_err!("bottom_half={default} is neither 1 (tasklet) nor 2 (workqueue)\n");
                return Err(EINVAL);
            }
        };
        Ok(Self {
            default,
            tasklets: Lane::for_all_cpus()?,
            works: Lane::for_all_cpus()?,
        })
    }

    /// Returns the kind with this number; nothing if there is none.
    pub(crate) fn kind(&self, number: u32) -> Option<Kind> {
        Some(match BottomHalfKind::from_number(number)? {
            BottomHalfKind::Default => self.default,
            BottomHalfKind::Tasklet => Kind::Tasklet,
            BottomHalfKind::Workqueue => Kind::Workqueue,
        })
    }

    /// Has the bottom half of this CPU deliver for a source. Interrupts are off.
    pub(crate) fn push(&self, kind: Kind, source: ListArc<Delivery>) {
        let cpu = CpuId::current().as_u32() as usize;

        // There are as many as there can be CPUs.
        match kind {
            Kind::Tasklet => self.tasklets.get(cpu).map(|lane| lane.push(source)),
            Kind::Workqueue => self.works.get(cpu).map(|lane| lane.push(source)),
        };
    }

    fn queue(&self, cpu: u32, kind: Kind) -> Option<&Queue> {
        let cpu = cpu as usize;

        Some(match kind {
            Kind::Tasklet => &self.tasklets.get(cpu)?.queue,
            Kind::Workqueue => &self.works.get(cpu)?.queue,
        })
    }

    /// Counts a top half that has run on this CPU, and what its post has come to.
    #[inline]
    pub(crate) fn count_top_half(&self, kind: Kind, posted: Option<Posted>) {
        if let Some(queue) = self.queue(CpuId::current().as_u32(), kind) {
            queue.counters.count_top_half(posted);
        }
    }

    /// Returns what has been counted on a CPU; nothing if there is no such CPU.
    pub(crate) fn counted(&self, cpu: u32, kind: Kind) -> Option<ioctl::BottomHalf> {
        self.queue(cpu, kind).map(Queue::counted)
    }
}
