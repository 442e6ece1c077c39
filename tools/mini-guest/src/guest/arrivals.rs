// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Being idle while interrupts come from everywhere, see [`Arrivals`].

use core::{
    fmt::Write,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use mini_guest::{port, Arrivals, Job, Random, Shared, Source};
use pvirq_protocol::Vector;

use crate::{
    apic,
    console::Console,
    cpu,
    idle::Idle,
    ipi::{self, add_one, sendable, IpiMethod, Sends},
    sender::spin_until,
};

/// The vCPU that idles.
pub const TARGET: u32 = 1;

/// The vector of vCPU 0's interrupts.
const VECTOR: Vector = sendable(Source::Ipi.vector());

/// One in so many periods has interrupts from several sources, if there are some. In the others none can make good for one
/// that is missed.
const SEVERAL: u64 = 4;

/// Idles for as many periods as the job wants. Interrupts are off before and afterwards.
pub fn idle(shared: &Shared, job: &Job) {
    let arrivals = &shared.arrivals;
    let interrupts = &shared.slots[TARGET as usize].interrupts;
    let stopped = || shared.stop.load(SeqCst) != 0;
    let timer = &arrivals.of[Source::Timer as usize];
    let mut idle = Idle::new(shared, job, TARGET);
    let mut random = Random::of_vcpu(job.seed, TARGET);

    if arrivals.sources.load(Relaxed) & Source::Timer.bit() != 0 {
        apic::enable_timer(Source::Timer.vector());
    }
    for period in 1..=u64::from(job.sends) {
        let due = draw(arrivals, job.gap, &mut random);
        for (place, due) in arrivals.due.iter().zip(due) {
            place.store(due, SeqCst);
        }
        arrivals.period.store(period, SeqCst);
        if [Source::Ipi, Source::Event].map(|source| due[source as usize]) != [Arrivals::NEVER; 2] {
            wake_sender(arrivals);
        }
        let delay = due[Source::Timer as usize];
        let deadline = cpu::cycles().saturating_add(delay);
        if delay != Arrivals::NEVER {
            timer.sent.store(period, SeqCst);
            apic::set_deadline(deadline);
        }
        while arrivals.missing(period) != 0 && !stopped() {
            let (before, seen) = (interrupts.load(SeqCst), arrivals.acknowledged());
            idle.begin();
            let step = idle.wait(|| interrupts.load(SeqCst) == before && !stopped()) as usize;
            for (source, (now, before)) in arrivals.acknowledged().into_iter().zip(seen).enumerate()
            {
                if now != before {
                    add_one(&arrivals.ended[source][step]);
                }
            }
        }
        if stopped() {
            return;
        }
        // Without a timer, the VMM measures.
        let place = shared.cycles.get(period as usize - 1);
        if let Some(cycles) = place.filter(|_| delay != Arrivals::NEVER) {
            let late = timer.at.load(SeqCst).saturating_sub(deadline);
            cycles.store(late, Relaxed);
        }
        shared.events.store(period, SeqCst);
    }
    arrivals.period.store(Arrivals::END, SeqCst);
    wake_sender(arrivals);
}

/// Wakes vCPU 0, which sleeps where it shares this one's CPU.
fn wake_sender(arrivals: &Arrivals) {
    if arrivals.together.load(Relaxed) != 0 {
        apic::send(ipi::WAKE_VECTOR, 0);
    }
}

/// Waits until `done`, for `cycles` at most, and says whether it came true: sleeps, woken by its timer at the latest, if
/// the vCPUs share a CPU.
fn wait(arrivals: &Arrivals, cycles: u64, done: impl Fn() -> bool) -> bool {
    if arrivals.together.load(Relaxed) == 0 {
        return spin_until(cycles, done);
    }
    let deadline = cpu::cycles().saturating_add(cycles);
    loop {
        cpu::disable_interrupts();
        let is_done = done();
        if is_done || cpu::cycles() >= deadline {
            cpu::enable_interrupts();
            return is_done;
        }
        apic::set_deadline(deadline);
        cpu::halt();
    }
}

/// Draws which sources interrupt the vCPU in the next period, and when.
fn draw(arrivals: &Arrivals, longest: u64, random: &mut Random) -> [u64; Source::COUNT] {
    let sources = arrivals.sources.load(Relaxed);
    let halvings = u64::from(arrivals.halvings.load(Relaxed));
    let least = arrivals.least.load(Relaxed);
    let all = 1 << Source::COUNT;
    let several = random.below(SEVERAL) == 0 || sources.is_power_of_two();
    let set = loop {
        let set = (random.below(all) as u32) & sources;
        if set != 0 && (several || set.is_power_of_two()) {
            break set;
        }
    };

    Source::ALL.map(|source| match set & source.bit() {
        0 => Arrivals::NEVER,
        _ => {
            let longest = longest >> random.below(halvings + 1);
            least + random.below(longest.max(1))
        }
    })
}

/// vCPU 0's part: it sends what is due of its own interrupts and of the VMM's, and waits for the end of each period.
pub fn interrupt(shared: &Shared, job: &Job) {
    let arrivals = &shared.arrivals;
    let method = IpiMethod::new(job.mechanism);
    let mut sends = Sends::default();
    let mut period = 0;

    apic::enable_timer(ipi::WAKE_VECTOR);
    loop {
        let last = period;
        if !wait(arrivals, job.patience, || {
            arrivals.period.load(SeqCst) != last
        }) {
            give_up(shared, last);
            break;
        }
        period = arrivals.period.load(SeqCst);
        if period == Arrivals::END {
            break;
        }
        let start = cpu::cycles();
        let [ipi, _, event] = Source::ALL.map(|source| arrivals.due[source as usize].load(SeqCst));
        let mut turns = [(ipi, Source::Ipi), (event, Source::Event)];
        if event < ipi {
            turns.reverse();
        }
        for (due, source) in turns {
            if due == Arrivals::NEVER {
                continue;
            }
            let left = (start + due).saturating_sub(cpu::cycles());
            wait(arrivals, left, || false);
            arrivals.of[source as usize].sent.store(period, SeqCst);
            match source {
                Source::Event => ring(),
                _ => method.raise(shared, VECTOR, TARGET, &mut sends),
            }
        }
    }
    cpu::disable_interrupts();
    sends.publish(shared, 0);
}

/// Idles until vCPU 0 says that it is over. Interrupts are off before and afterwards.
pub fn idle_on(shared: &Shared, job: &Job) {
    let interrupts = &shared.slots[TARGET as usize].interrupts;
    let over = || shared.arrivals.period.load(SeqCst) == Arrivals::END;
    let mut idle = Idle::new(shared, job, TARGET);

    while !over() {
        let before = interrupts.load(SeqCst);
        idle.begin();
        idle.wait(|| interrupts.load(SeqCst) == before && !over());
    }
}

/// vCPU 0's part of that: it interrupts the other at a steady rate, whether or not it answers.
pub fn tick(shared: &Shared, job: &Job) {
    let sent = &shared.arrivals.of[Source::Ipi as usize].sent;
    let method = IpiMethod::new(job.mechanism);
    let mut sends = Sends::default();
    let mut next = cpu::cycles();

    for _ in 0..job.sends {
        while cpu::cycles() < next {}
        add_one(sent);
        method.raise(shared, VECTOR, TARGET, &mut sends);
        // If this vCPU has not had a CPU for a while, it does not make up for that.
        next = cpu::cycles().max(next + job.gap);
    }
    shared.arrivals.period.store(Arrivals::END, SeqCst);
    ipi::wake_others();
    sends.publish(shared, 0);
    shared.events.store(job.sends.into(), SeqCst);
}

/// Has the VMM signal its eventfd.
fn ring() {
    // SAFETY: The VMM touches no memory but what is shared, which is atomics.
    unsafe { cpu::out(port::RING, 0) };
}

/// Counts what is missing of a period, and stops the other vCPU.
fn give_up(shared: &Shared, period: u64) {
    let arrivals = &shared.arrivals;
    let _ = writeln!(
        Console::lock(),
        "mini-guest: period {period} does not end: {:?} acknowledged, {:?} sent, due after {:?} cycles, {} interrupts, {:?}",
        arrivals.acknowledged(),
        Source::ALL.map(|source| arrivals.of[source as usize].sent.load(SeqCst)),
        Source::ALL.map(|source| arrivals.due[source as usize].load(SeqCst)),
        shared.slots[TARGET as usize].interrupts.load(SeqCst),
        shared.descriptors[TARGET as usize],
    );
    // At least the one that made this vCPU give up.
    let lost = arrivals.missing(period).max(1);
    shared.lost.store(lost, SeqCst);
    shared.stop.store(1, SeqCst);
    ipi::wake_others();
}
