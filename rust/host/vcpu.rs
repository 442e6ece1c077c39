// SPDX-License-Identifier: GPL-2.0

//! vCPUs and their run loop.
//!
//! `KVM_RUN` on our file makes KVM run the vCPU, again and again, until there is an exit that
//! concerns the VMM. Before each entry, what has been posted is injected. Meanwhile senders learn
//! from the vCPU's descriptor where it is:
//!
//! | state       | from                                   | to                                       |
//! |-------------|----------------------------------------|------------------------------------------|
//! | `Outside`   | the return to the VMM for I/O          | the next `KVM_RUN`                       |
//! | `Running`   | `KVM_RUN`, and each other return       | one of the other states begins           |
//! | `Preempted` | another task takes the CPU             | this one has it back                     |
//! | `Blocked`   | the task sleeps, in a halt for example | it is awake and has a CPU                |
//! | `Polling`   | the guest's idle call                  | the return to the guest                  |
//!
//! A VMM may save a vCPU that is in no I/O which KVM completes when it is entered, and then what the guest's memory holds
//! is somewhere else. So the vCPU does not promise anything then: it is `Running`, and what was pending has been injected.
//!
//! A vCPU that is preempted in its guest's user mode on a host with APICv stays `Running`, see
//! [`VcpuFile::yield_needs_interrupt`].
//!
//! The scheduler says when `Preempted` and `Blocked` begin and end. If the task comes back and something is
//! pending, KVM may be about to enter the guest, and the scheduler's context is none to inject
//! in. So the task gets a signal that is none (`TIF_NOTIFY_SIGNAL`): KVM checks for signals last
//! thing before it enters, and `KVM_RUN` returns `EINTR` to us. The VMM sees that only if there is
//! a real signal, or a task work, or it has asked for it.
//!
//! # Concurrency
//!
//! KVM runs a vCPU in one thread at a time, and keeps others waiting. So do we, in [`Vcpu::turn`],
//! because the descriptor's state belongs to the thread that runs. It is taken only once the guest
//! has used its interface on the vCPU, or something is bound to it: a VMM that has another thread wait in KVM from before that
//! gets a state that is wrong for its own guest. All of [`Vcpu::run`] is process
//! context; [`PreemptNotified`](kernel_ext::preempt::PreemptNotified) is the scheduler's. Both find the descriptors under RCU. Threads that save or replace the
//! vCPU's state ([`state`]) take its turn as well. The order of locks is in [`registration`](crate::registration).

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        ListArc,
        ListLinks, //
    },
    mm::virt::VmaNew,
    new_mutex,
    pr_warn_once,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    static_lock_class,
    str::CString,
    sync::{
        atomic::Atomic,
        rcu,
        Arc,
        ArcBorrow,
        Mutex,
        UniqueArc, //
    }, //
};
use kernel_ext::{
    file::FileExt,
    file_operations::{
        FileOperations,
        FileOps, //
    },
    ioctl::Ioctl,
    killable::KillableMutex,
    kvm::{
        Running,
        VcpuFile, //
    },
    once::Once,
    thread_flags, //
};
use pvirq_protocol::{
    Descriptor,
    HostState,
    HostStatistics,
    Vectors, //
};

use crate::{
    counter::Counter,
    guest_interface::Registers,
    kvm::{
        KVM_GET_LAPIC,
        KVM_GET_MP_STATE,
        KVM_GET_VCPU_EVENTS,
        KVM_RUN,
        KVM_SET_LAPIC,
        KVM_SET_SREGS,
        KVM_SET_SREGS2, //
    },
    msi::Messages,
    poller::Poller,
    ports::Ports,
    run_area::{
        PortAccess,
        RunArea, //
    },
    target::Target,
    vm::Vm,
    wrap, //
};

mod idle;
mod state;

/// A vCPU.
#[pin_data]
pub(crate) struct Vcpu {
    /// KVM's file.
    real: VcpuFile,
    target: Arc<Target>,
    /// How many times `KVM_RUN` has been called; a VMM whose threads take turns at it is counted right.
    runs: Counter,
    vm: Arc<Vm>,
    /// Held by the thread that runs the vCPU.
    #[pin]
    turn: KillableMutex,
    /// Whether the scheduler has taken the vCPU out of `KVM_RUN`, or is about to.
    forced: Atomic<bool>,
    poller: Poller,
    ports: Ports,
    /// Nothing if it could not be found.
    area: Option<RunArea>,
    #[pin]
    registers: Mutex<Registers>,
    counters: Counters,
    /// For the list of all vCPUs in [`Statistics`](crate::statistics::Statistics).
    #[pin]
    links: ListLinks,
}

/// What there is to count. Only the thread that runs the vCPU does.
struct Counters {
    injected: Counter,
    dropped_reserved: Counter,
    forced_exits: Counter,
    drains: Counter,
}

impl Counters {
    fn new() -> Self {
        Self {
            injected: Counter::new(),
            dropped_reserved: Counter::new(),
            forced_exits: Counter::new(),
            drains: Counter::new(),
        }
    }

    fn get(&self) -> HostStatistics {
        HostStatistics {
            injected: self.injected.get(),
            dropped_reserved: self.dropped_reserved.get(),
            forced_exits: self.forced_exits.get(),
            drains: self.drains.get(),
        }
    }
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Vcpu { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Vcpu { using ListLinks { self.links }; }
}

impl Vcpu {
    /// Takes KVM's file of a vCPU of the current process.
    fn new(real: VcpuFile, target: Arc<Target>, vm: Arc<Vm>) -> impl PinInit<Self> {
        let area = RunArea::find(real.file()).inspect_err(|err| {
            pr_warn_once!(
                "a vCPU's memory is out of reach, and it has no guest interface: error {}\n",
                err.to_errno()
            );
        });

        target.runner.attach(&real);
        pin_init!(Self {
            real,
            target,
            runs: Counter::new(),
            turn <- KillableMutex::new(c"pvirq_vcpu_turn", static_lock_class!()),
            forced: Atomic::new(false),
            poller: Poller::new(vm.polling.first()),
            ports: vm.overlay.ports,
            area: area.ok(),
            registers <- new_mutex!(Registers::new()),
            counters: Counters::new(),
            vm,
            links <- ListLinks::new(),
        })
    }

    /// Creates a vCPU by the call `request` on `real`, KVM's file of `vm`.
    pub(crate) fn create(vm: &Arc<Vm>, real: &File, request: Ioctl<'_>) -> Result<isize> {
        // KVM refuses what is no `int`, and then needs no name.
        let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", request.arg() as i32))?;
        let this = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let target = UniqueArc::pin_init(
            Target::new(request.arg() as u32, vm.overlay.moderation_ns),
            GFP_KERNEL_ACCOUNT,
        )?;
        let target = ListArc::from(target);

        wrap::create::<Self>(&vm.overlay.kvm, real, request, &name, |real| {
            // SAFETY: KVM has just made this file for `KVM_CREATE_VCPU`.
            let real = unsafe { VcpuFile::new(real) };
            let new = Self::new(real, target.clone_arc(), vm.clone());
            let Ok(this) = this.pin_init_with(new);
            let list_arc = ListArc::from(this);
            let this = list_arc.clone_arc();

            vm.add_target(target);
            vm.overlay.statistics.begin_vcpu(list_arc);
            this
        })
    }

    /// Returns how many times `KVM_RUN` has been called.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.get()
    }

    /// Calls `f` with the vCPU's descriptor, under RCU, if the guest has registered one.
    #[inline]
    fn with_descriptor<T>(&self, f: impl FnOnce(&Descriptor) -> T) -> Option<T> {
        self.with_registration(|_, descriptor| f(descriptor))
    }

    /// Calls `f` with the number of the guest's registration and the vCPU's descriptor, under RCU, if there is one.
    #[inline]
    fn with_registration<T>(&self, f: impl FnOnce(u32, &Descriptor) -> T) -> Option<T> {
        let guard = rcu::read_lock();
        let descriptors = self.vm.descriptors.get(&guard)?;

        Some(f(
            descriptors.epoch().get(),
            descriptors.get(self.target.id)?,
        ))
    }

    /// Runs the vCPU until the VMM has to do something.
    ///
    /// A vCPU on which the guest has never used its interface, and that nothing is bound to, costs next
    /// to nothing: its descriptor, if there is one, says `Running`, and senders kick it.
    #[inline(always)]
    fn run(&self, request: Ioctl<'_>) -> Result<isize> {
        self.runs.add(1);
        if self.target.begin_blind() {
            let result = self.real.ioctl(request);
            self.target.end_blind();
            let told = self.target.looks() && self.end_blind_force(&result);
            if !told && (result.is_err() || !self.guest_access()) {
                return result;
            }
            self.target.set_looks();
        }
        self.run_told(request)
    }

    /// Runs the vCPU as [`Vcpu::run`] does, and tells senders where it is.
    fn run_told(&self, request: Ioctl<'_>) -> Result<isize> {
        let _turn = self.turn.lock()?;
        let running = self.target.runner.enter();
        let run = || self.run_for_vmm(&running, request);
        let result = self.vm.notifiers.notify(self, run);

        self.leave(&result);
        result
    }

    /// Gives the vCPU to its VMM, as `KVM_RUN` returns `result`.
    #[inline]
    fn leave(&self, result: &Result<isize>) {
        if result.is_ok() && self.real.completes_on_entry() {
            self.with_descriptor(|descriptor| descriptor.set_host_state(HostState::Outside));
        } else {
            self.settle();
        }
    }

    /// Runs the vCPU until there is an exit that is none of ours.
    fn run_for_vmm(&self, running: &Running<'_>, request: Ioctl<'_>) -> Result<isize> {
        loop {
            self.settle();
            let result = self.real.ioctl(request);
            // Both, as both may have set the flag, which either takes back. Kicks come last: one that came
            // after it was looked for, and lost its flag to the other, would count as made for ever.
            let forced = self.forced.read_once() && self.end_force(&result);
            let kicked = running.is_forced() && self.end_kick(running, &result);

            if !kicked && !forced && (result.is_err() || !self.guest_access()) {
                return result;
            }
        }
    }

    /// Says that the vCPU will not look, and injects what is pending: it is about to enter the guest, or may be saved. By the
    /// thread that has its turn.
    #[inline]
    fn settle(&self) {
        if self.target.has_kicks() {
            self.inject_kicks();
        }
        let guard = rcu::read_lock();
        let Some(descriptors) = self.vm.descriptors.get(&guard) else {
            return;
        };
        let Some(descriptor) = descriptors.get(self.target.id) else {
            return;
        };
        // In another process KVM is not going to run the vCPU, and nothing can be injected.
        if !descriptors.messages().are_current() {
            return;
        }
        let vectors = descriptor.leave(HostState::Running);
        if vectors.is_empty() {
            return;
        }
        let messages = descriptors.messages().clone();
        guard.unlock();

        self.inject(vectors, &messages);
        self.with_descriptor(|descriptor| descriptor.publish(&self.counters.get()));
    }

    /// Injects what the vCPU has been [kicked](Target::kick) for.
    #[cold]
    fn inject_kicks(&self) {
        let messages = self.vm.kicks().filter(|messages| messages.are_current());

        // When the VMM has closed the VM's file, nothing is bound to it any more.
        if let Some(messages) = messages {
            self.inject(self.target.take_kicks(), &messages);
        }
    }

    fn inject(&self, mut vectors: Vectors, messages: &Messages) {
        let reserved = vectors.remove_reserved();

        self.counters.drains.add(1);
        self.counters.dropped_reserved.add(reserved.into());
        for vector in vectors {
            // If the VMM has taken our memory away, its guest has one interrupt less.
            let sent = messages.send(self.target.id, self.target.id, vector);
            if sent.is_ok() {
                self.counters.injected.add(1);
            }
        }
    }

    /// Gets the current task out of `KVM_RUN`.
    fn force(&self) {
        self.forced.write_once(true);
        self.counters.forced_exits.add(1);
        thread_flags::set_notify_signal();
    }

    /// Takes back [`Vcpu::force`], and returns whether it is all that has made `KVM_RUN` return.
    ///
    /// If the scheduler forces the vCPU out again meanwhile, the flag may stay behind. Then this is
    /// called once more than needed, and finds out.
    fn end_force(&self, result: &Result<isize>) -> bool {
        self.forced.write_once(false);
        self.is_alone(thread_flags::clear_notify_signal(), result)
    }

    /// As [`Vcpu::end_force`], of what has been done by [`Runner::force`](kernel_ext::kvm::Runner).
    #[cold]
    fn end_kick(&self, running: &Running<'_>, result: &Result<isize>) -> bool {
        self.is_alone(running.end(), result)
    }

    /// As [`Vcpu::end_force`], of what has been done by [`Target::look`](crate::target::Target::look).
    #[cold]
    fn end_blind_force(&self, result: &Result<isize>) -> bool {
        self.is_alone(thread_flags::clear_notify_signal(), result)
    }

    /// Returns whether nobody but us has made `KVM_RUN` return: no signal, no task work, as `no_signal`
    /// says, and not the VMM.
    fn is_alone(&self, no_signal: bool, result: &Result<isize>) -> bool {
        let interrupted = matches!(result, Err(err) if *err == EINTR);
        let immediate = self.area.as_ref().is_none_or(RunArea::immediate_exit);

        interrupted && no_signal && !immediate
    }

    /// Answers the vCPU if it has exited for an access to the guest interface; returns whether it
    /// has.
    #[inline(always)]
    fn guest_access(&self) -> bool {
        let Some(access) = self.area.as_ref().and_then(RunArea::port_access) else {
            return false;
        };
        let Some(offset) = self.ports.offset(access.port) else {
            return false;
        };
        self.answer(access, offset)
    }

    /// Answers an access to the guest interface. Out of the way of exits that are none.
    #[cold]
    fn answer(&self, access: PortAccess, offset: u16) -> bool {
        let Some(area) = &self.area else {
            return false;
        };

        if access.size != 4 || access.count != 1 {
            area.answer_absent(access);
        } else if access.write {
            let value = area.written();
            let idle = self.registers.lock().write(&self.vm, offset, value);
            if idle {
                let status = self.idle();
                self.registers.lock().set_status(status);
            }
        } else {
            area.answer(self.registers.lock().read(&self.vm, offset));
        }
        true
    }
}

#[vtable]
impl FileOperations for Vcpu {
    type Data = Arc<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<Vcpu> = FileOps::new();
        &TABLE
    }

    #[inline(always)]
    fn ioctl(this: ArcBorrow<'_, Self>, request: Ioctl<'_>) -> Result<isize> {
        match request.cmd() {
            KVM_RUN => this.run(request),
            KVM_GET_LAPIC | KVM_GET_VCPU_EVENTS | KVM_GET_MP_STATE => this.save(request),
            KVM_SET_SREGS | KVM_SET_SREGS2 => this.set_sregs(request),
            KVM_SET_LAPIC => this.set_lapic(request),
            _ => this.real.ioctl(request),
        }
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        this.real.file().mmap(vma)
    }

    fn show_fdinfo(this: ArcBorrow<'_, Self>, m: &SeqFile) {
        let statistics = this.counters.get();

        this.real.file().show_fdinfo(m);
        seq_print!(m, "pvirq-runs:\t{}\n", this.runs());
        seq_print!(m, "pvirq-drains:\t{}\n", statistics.drains);
        seq_print!(m, "pvirq-injected:\t{}\n", statistics.injected);
        seq_print!(
            m,
            "pvirq-dropped-reserved:\t{}\n",
            statistics.dropped_reserved
        );
        seq_print!(m, "pvirq-forced-exits:\t{}\n", statistics.forced_exits);
        this.poller.show(m);
    }

    fn release(this: Arc<Self>) {
        this.target.runner.detach();
        this.vm.overlay.statistics.end_vcpu(&this);
    }
}
