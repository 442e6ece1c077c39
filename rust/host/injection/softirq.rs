// SPDX-License-Identifier: GPL-2.0

//! Bottom halves: they deliver in softirq, in batches.
//!
//! Each CPU has a queue for each kind of bottom half, and a top half uses that of its own CPU. The scheme is NAPI's:
//! the first delivery starts the bottom half; those that come before it has run only queue. It takes a bounded batch,
//! first come, first served. If more are left, it runs again after other softirqs; otherwise it stops. A source that is
//! signalled during its delivery goes to the end of the queue.
//!
//! A softirq that is raised in process context would wait for `ksoftirqd`. So the CPU sends itself an interrupt, at the
//! end of which the softirq runs.
//!
//! # Concurrency
//!
//! A queue's lock is a leaf, taken with interrupts off, in any context but NMIs. Bottom halves do not hold it while
//! they deliver.

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

/// How many deliveries a bottom half makes before other softirqs run, as NAPI's weight.
const BATCH: u64 = 64;

/// A mechanism that runs a queue in softirq, on this CPU.
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

/// The queue of a CPU's bottom half.
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
    deliveries: List<Delivery>,
    /// Whether the bottom half runs, or has been started.
    active: bool,
}

impl Queue {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waiting <- new_spinlock_irq!(Waiting::default(), "pvirq_queue"),
            counters: Counters::new(),
            batches: SharedCounter::new(),
            largest_batch: Atomic::new(0),
            ksoftirqd: SharedCounter::new(),
        })
    }

    /// Adds a delivery, and returns whether the bottom half has to be started.
    fn push(&self, delivery: ListArc<Delivery>) -> bool {
        self.counters.queued.add(1);
        delivery.counters.queued.add(1);

        let mut waiting = self.waiting.lock();

        waiting.deliveries.push_back(delivery);
        !core::mem::replace(&mut waiting.active, true)
    }

    fn pop(&self) -> Option<ListArc<Delivery>> {
        self.waiting.lock().deliveries.pop_front()
    }

    /// Ends a batch, and returns whether deliveries are left.
    fn end_batch(&self) -> bool {
        let mut waiting = self.waiting.lock();

        waiting.active = !waiting.deliveries.is_empty();
        waiting.active
    }

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
            let Some(delivery) = self.pop() else {
                break;
            };
            if let Some(again) = Delivery::deliver(delivery) {
                self.push(again);
            }
            self.counters.delivered.add(1);
            batch += 1;
        }
        self.batches.add(1);
        if in_ksoftirqd() {
            self.ksoftirqd.add(1);
        }
        // Only this bottom half writes it.
        if batch > self.largest_batch.load(Relaxed) {
            self.largest_batch.store(batch, Relaxed);
        }
        self.end_batch()
    }
}

/// A CPU's bottom half of one kind. `starter` is dropped before `half`, which it schedules.
struct CpuBottomHalf<B: BottomHalf> {
    queue: Arc<Queue>,
    starter: Pin<KBox<IrqWork<B>>>,
    half: Arc<B>,
}

impl<B: BottomHalf> CpuBottomHalf<B> {
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
        let mut halves = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;

        for _ in 0..nr_cpu_ids() {
            halves.push(Self::new()?, GFP_KERNEL)?;
        }
        Ok(halves)
    }

    /// Queues a delivery on this CPU, and starts the bottom half if necessary. Interrupts are off.
    fn push(&self, delivery: ListArc<Delivery>) {
        if !self.queue.push(delivery) {
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
    tasklets: KVec<CpuBottomHalf<Tasklet<Queue>>>,
    works: KVec<CpuBottomHalf<BhWork<Queue>>>,
}

impl BottomHalves {
    /// Creates the bottom halves. `default` is the number of the kind for VMMs that do not choose.
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
            tasklets: CpuBottomHalf::for_all_cpus()?,
            works: CpuBottomHalf::for_all_cpus()?,
        })
    }

    /// Returns the kind with this number, if there is one.
    pub(crate) fn kind(&self, number: u32) -> Option<Kind> {
        Some(match BottomHalfKind::from_number(number)? {
            BottomHalfKind::Default => self.default,
            BottomHalfKind::Tasklet => Kind::Tasklet,
            BottomHalfKind::Workqueue => Kind::Workqueue,
        })
    }

    /// Queues a delivery on this CPU, and starts the bottom half if necessary. Interrupts are off.
    pub(crate) fn push(&self, kind: Kind, delivery: ListArc<Delivery>) {
        let cpu = CpuId::current().as_u32() as usize;

        // Each possible CPU has its entry.
        match kind {
            Kind::Tasklet => self.tasklets.get(cpu).map(|half| half.push(delivery)),
            Kind::Workqueue => self.works.get(cpu).map(|half| half.push(delivery)),
        };
    }

    fn queue(&self, cpu: u32, kind: Kind) -> Option<&Queue> {
        let cpu = cpu as usize;

        Some(match kind {
            Kind::Tasklet => &self.tasklets.get(cpu)?.queue,
            Kind::Workqueue => &self.works.get(cpu)?.queue,
        })
    }

    /// Counts a run of a top half on this CPU, and the outcome of its post, if there was one.
    #[inline]
    pub(crate) fn count_top_half(&self, kind: Kind, posted: Option<Posted>) {
        if let Some(queue) = self.queue(CpuId::current().as_u32(), kind) {
            queue.counters.count_top_half(posted);
        }
    }

    /// Returns the counters of a CPU, if there is such a CPU.
    pub(crate) fn counted(&self, cpu: u32, kind: Kind) -> Option<ioctl::BottomHalf> {
        self.queue(cpu, kind).map(Queue::counted)
    }
}
