// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A job: what the VMM asks the guest's vCPUs to do between two parks.

/// Defines an enumeration that travels through shared memory as a number.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Reads the number back, if it is one of ours.
            pub fn from_wire(value: u32) -> Option<Self> {
                $(if value == Self::$variant as u32 { return Some(Self::$variant); })+
                None
            }
        }
    };
}

wire_enum! {
    /// What a job does.
    JobKind {
        /// vCPU 0 sends interrupts, the others acknowledge them.
        Ipi,
        /// All vCPUs send interrupts to each other at random, and rest at random meanwhile. See [`Storm`](crate::Storm).
        Storm,
        /// vCPU 0 writes to [`port::NULL`](crate::port::NULL), the others rest.
        Exit,
        /// vCPU 0 makes hypercalls that do nothing, the others rest.
        Hypercall,
        /// vCPU 0 gives the [command](crate::Request) that the VMM has left to its pvirq host, the others rest.
        Host,
        /// The vCPUs but the first acknowledge interrupts that the VMM sends.
        Inject,
        /// The vCPUs but the first touch memory that is not there.
        Crash,
        /// The vCPUs but the first take an interrupt as no CPU should: with interrupts off.
        Masked,
        /// vCPU 1 idles, and is interrupted from everywhere. See [`Arrivals`](crate::Arrivals). The others rest.
        Arrivals,
        /// vCPU 1 idles, and vCPU 0 interrupts it at a steady rate. The others rest.
        Tick,
        /// vCPU 0 interrupts vCPU 1 at the intervals that the VMM has left, and vCPU 1 is idle meanwhile. The others rest.
        Wake,
        /// All vCPUs interrupt each other while the VMM saves and restores them. See [`Survival`](crate::Survival).
        Survive,
        /// vCPU 0 interrupts vCPU 1, as others do that stop in their posts. See [`Frozen`](crate::Frozen).
        Frozen,
    }
}

wire_enum! {
    /// How the sender sends.
    Mechanism {
        /// A write of the x2APIC's interrupt command register.
        X2Apic,
        /// KVM's `KVM_HC_SEND_IPI` hypercall.
        PvIpi,
        /// A post in the target's descriptor, and where it has to be kicked, one of the above: the register for a
        /// single target, the hypercall for several.
        Pvirq,
    }
}

wire_enum! {
    /// Whom the sender sends to.
    Pattern {
        /// One target at a time, in turn.
        Unicast,
        /// All of them at once.
        Broadcast,
    }
}

wire_enum! {
    /// What a target does while no interrupt is there.
    IdleMode {
        /// It computes.
        Busy,
        /// It executes HLT.
        Halted,
        /// It polls its descriptor, with interrupts on.
        Polling,
        /// It lets its pvirq host poll, and executes HLT if the host thinks that it should.
        PollingHost,
        /// One of the above: the targets differ.
        Mixed,
        /// It idles as its pvirq host wants it to: it polls its descriptor, lets the host poll, and executes HLT.
        Idle,
        /// It idles as it sees fit itself: it always polls for the same time, and then executes HLT.
        Spin,
        /// It idles as Linux's haltpoll governor does: it polls for a time that it adapts, and then executes HLT.
        Governor,
    }
}

impl IdleMode {
    /// What the vCPU `target`, not 0, does.
    pub fn of(self, target: u32) -> Self {
        match (self, target % 3) {
            (IdleMode::Mixed, 0) => IdleMode::Busy,
            (IdleMode::Mixed, 1) => IdleMode::Halted,
            (IdleMode::Mixed, _) => IdleMode::Polling,
            (idle_mode, _) => idle_mode,
        }
    }
}

/// A job for all vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What to do.
    pub kind: JobKind,
    /// How to send.
    pub mechanism: Mechanism,
    /// Whom to send to.
    pub pattern: Pattern,
    /// What targets do meanwhile.
    pub idle_mode: IdleMode,
    /// How often to send, each vCPU in a storm, or to exit.
    pub sends: u32,
    /// TSC cycles that the sender waits before each send, once the targets rest; in a storm, the longest rest.
    pub gap: u64,
    /// What a storm's random numbers begin with, and whether it [merges](Job::merges).
    pub seed: u64,
    /// TSC cycles after which an interrupt counts as lost.
    pub patience: u64,
    /// For how long, in ns, a target polls at most that decides so itself.
    pub window: u32,
}

impl Job {
    /// A job of no sends: unicast by the x2APIC, to vCPUs that compute.
    pub fn new(kind: JobKind) -> Self {
        Job {
            kind,
            mechanism: Mechanism::X2Apic,
            pattern: Pattern::Unicast,
            idle_mode: IdleMode::Busy,
            sends: 0,
            gap: 0,
            seed: 0,
            patience: 0,
            window: 0,
        }
    }

    /// Whether interrupts merge in a storm: which [kind](crate::Storm) of storm it is.
    pub fn merges(&self) -> bool {
        self.seed % 2 == 0
    }

    /// The number of interrupts that the job delivers if all goes well.
    pub fn events(&self, targets: u32) -> u64 {
        match (self.kind, self.pattern) {
            (JobKind::Ipi, Pattern::Broadcast) => u64::from(self.sends) * u64::from(targets),
            _ => u64::from(self.sends),
        }
    }

    /// The target, from 1 to `targets`, of the send `sequence` of a unicast job.
    pub fn unicast_target(sequence: u32, targets: u32) -> u32 {
        (sequence - 1) % targets + 1
    }

    /// The last send that reaches `target`, 0 if there is none: what it has to wait for.
    pub fn last_sequence(&self, target: u32, targets: u32) -> u32 {
        match (self.kind, self.pattern) {
            (
                JobKind::Storm
                | JobKind::Exit
                | JobKind::Hypercall
                | JobKind::Host
                | JobKind::Crash
                | JobKind::Masked,
                _,
            ) => 0,
            (JobKind::Arrivals | JobKind::Tick | JobKind::Survive | JobKind::Frozen, _) => 0,
            (JobKind::Wake, _) if target == 1 => self.sends,
            (JobKind::Wake, _) => 0,
            (JobKind::Ipi, Pattern::Broadcast) => self.sends,
            (JobKind::Ipi, Pattern::Unicast) if self.sends < target => 0,
            (JobKind::Ipi, Pattern::Unicast) => self.sends - (self.sends - target) % targets,
            // The VMM counts those of each target on their own.
            (JobKind::Inject, _) => self.sends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(kind: JobKind, pattern: Pattern, sends: u32) -> Job {
        Job {
            pattern,
            sends,
            ..Job::new(kind)
        }
    }

    #[test]
    fn the_last_sequence_is_the_last_that_the_sender_picks() {
        for targets in 1..=15 {
            for sends in 0..=40 {
                let job = job(JobKind::Ipi, Pattern::Unicast, sends);
                for target in 1..=targets {
                    let expected = (1..=sends)
                        .filter(|&s| Job::unicast_target(s, targets) == target)
                        .max()
                        .unwrap_or(0);
                    assert_eq!(
                        job.last_sequence(target, targets),
                        expected,
                        "{sends} sends, {target} of {targets}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_broadcast_reaches_every_target_every_time() {
        let job = job(JobKind::Ipi, Pattern::Broadcast, 7);
        assert_eq!(job.events(15), 105);
        assert!((1..=15).all(|target| job.last_sequence(target, 15) == 7));
    }

    #[test]
    fn targets_have_nothing_to_wait_for_while_the_sender_exits() {
        for kind in [JobKind::Exit, JobKind::Hypercall] {
            let job = job(kind, Pattern::Unicast, 7);
            assert_eq!(job.events(1), 7);
            assert_eq!(job.last_sequence(1, 1), 0);
        }
        let wake = job(JobKind::Wake, Pattern::Unicast, 7);
        assert_eq!(
            [1, 2, 3].map(|target| wake.last_sequence(target, 3)),
            [7, 0, 0]
        );
        let inject = job(JobKind::Inject, Pattern::Unicast, 7);
        assert_eq!([1, 2].map(|target| inject.last_sequence(target, 2)), [7, 7]);
    }

    #[test]
    fn only_known_numbers_are_read_back() {
        assert_eq!(
            IdleMode::from_wire(IdleMode::Halted as u32),
            Some(IdleMode::Halted)
        );
        assert_eq!(IdleMode::from_wire(8), None);
    }

    #[test]
    fn mixed_targets_are_of_all_kinds() {
        assert_eq!(
            [1, 2, 3, 4].map(|target| IdleMode::Mixed.of(target)),
            [
                IdleMode::Halted,
                IdleMode::Polling,
                IdleMode::Busy,
                IdleMode::Halted
            ]
        );
        assert_eq!(IdleMode::Halted.of(2), IdleMode::Halted);
    }
}
