// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The interrupt handler, and the ways to raise the interrupt.

use core::{
    arch::{asm, global_asm},
    mem::offset_of,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use mini_guest::{
    ledger_source, storm_senders, Arrival, Mechanism, Number, Shared, Slot, Source, Storm,
    DEVICE_VECTORS, IPI_VECTOR, LEDGER_SOURCES, MAX_VCPUS,
};
use pvirq_protocol::{post_all, Posted, Tally, Vector};

use crate::{apic, cpu, status::fail};

/// The vector that ends a HLT and does nothing else.
pub const WAKE_VECTOR: u8 = IPI_VECTOR + 1;

/// [`IPI_VECTOR`], to be sent.
pub const IPI: Vector = sendable(IPI_VECTOR);
/// A vector of ours, to be sent.
pub const fn sendable(vector: u8) -> Vector {
    match Vector::new(vector) {
        Ok(vector) => vector,
        Err(_) => panic!("the vector is reserved"),
    }
}

const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
const KVM_HC_SEND_IPI: u64 = 10;

/// Whether this is Intel's CPU. CPUID costs an exit, so it is asked once.
static IS_INTEL: AtomicBool = AtomicBool::new(false);

/// Finds out how this CPU calls its hypervisor.
pub fn init() {
    IS_INTEL.store(cpu::is_intel(), SeqCst);
}

/// Wakes all other vCPUs up.
pub fn wake_others() {
    apic::send_to_others(WAKE_VECTOR);
}

// The IPI's notes the time, acknowledges the sequence number that the sender left in this vCPU's slot, which `gs` points to,
// counts, and ends the interrupt: by KVM's word if it says that this is enough, else by the register. KVM touches the word only while
// this vCPU is out of guest mode, so the test needs no lock prefix.
//
// All of them run on one stack, from its top. If a CPU took another interrupt here, though they are off, that would
// overwrite what is needed to return, and go on for ever. So the first that is taken while they are off ends the guest.
global_asm!(
    ".macro enter_handler",
    "push rcx",
    "push rdx",
    "test byte ptr [rsp + {flags} + 1], {interrupts_on}",
    "jz masked_entry",
    ".endm",
    ".globl ipi_entry",
    "ipi_entry:",
    "push rax",
    "enter_handler",
    "inc qword ptr gs:[{interrupts}]",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov qword ptr gs:[{arrived}], rax",
    "mov rax, qword ptr gs:[{sent}]",
    "cmp rax, qword ptr gs:[{acknowledged}]",
    "jne 1f",
    "inc qword ptr gs:[{duplicates}]",
    "1: mov qword ptr gs:[{acknowledged}], rax",
    "2: btr dword ptr gs:[{pv_eoi}], 0",
    "jc 3f",
    "mov ecx, {eoi}",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "3: pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
    // The end of an interrupt that has done its work by being there.
    ".globl wake_entry",
    "wake_entry:",
    "push rax",
    "enter_handler",
    "jmp 2b",
    // Acknowledges the numbers of all senders.
    ".globl storm_entry",
    "storm_entry:",
    "push rax",
    "enter_handler",
    "inc qword ptr gs:[{interrupts}]",
    "mov rdx, qword ptr gs:[{storm}]",
    "mov ecx, {vcpus}",
    "4: mov rax, qword ptr [rdx + rcx * 8 + {storm_sent} - 8]",
    "mov qword ptr [rdx + rcx * 8 + {storm_acknowledged} - 8], rax",
    "dec ecx",
    "jnz 4b",
    "jmp 2b",
    // Acknowledges the numbers of the sender whose index is in rax, which has been pushed.
    ".globl storm_own_entry",
    "storm_own_entry:",
    "enter_handler",
    "inc qword ptr gs:[{interrupts}]",
    "mov rdx, qword ptr gs:[{storm}]",
    "mov rcx, qword ptr [rdx + rax * 8 + {storm_sent}]",
    "mov qword ptr [rdx + rax * 8 + {storm_acknowledged}], rcx",
    "jmp 2b",
    // Notes the time, and acknowledges the number of the source whose index is in rax, which has been pushed.
    ".globl arrival_entry",
    "arrival_entry:",
    "enter_handler",
    "inc qword ptr gs:[{interrupts}]",
    "imul ecx, eax, {arrival_size}",
    "add rcx, qword ptr gs:[{arrivals}]",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov qword ptr [rcx + {arrival_at}], rax",
    "mov rax, qword ptr [rcx + {arrival_sent}]",
    "cmp rax, qword ptr [rcx + {arrival_acknowledged}]",
    "jne 5f",
    "inc qword ptr [rcx + {arrival_duplicates}]",
    "5: mov qword ptr [rcx + {arrival_acknowledged}], rax",
    "jmp 2b",
    // Counts in the ledger, for the source whose index is in rax, which has been pushed.
    ".globl ledger_entry",
    "ledger_entry:",
    "enter_handler",
    "inc qword ptr gs:[{interrupts}]",
    "mov rdx, qword ptr gs:[{ledger}]",
    "shl eax, {ledger_shift}",
    "inc qword ptr [rdx + rax]",
    "jmp 2b",
    // An NMI that was sent is handled as the IPI. It has no EOI, and comes also while interrupts are off.
    ".globl nmi_entry",
    "nmi_entry:",
    "push rax",
    "mov rax, qword ptr gs:[{sent}]",
    "cmp rax, qword ptr gs:[{acknowledged}]",
    "je 6f",
    "inc qword ptr gs:[{interrupts}]",
    "mov qword ptr gs:[{acknowledged}], rax",
    "pop rax",
    "iretq",
    "6: pop rax",
    "push 0",
    "push {nmi}",
    "jmp exception_entry",
    // Interrupts that were gone when the CPU asked have no EOI.
    ".globl spurious_entry",
    "spurious_entry:",
    "iretq",
    // Reports what the CPU pushed, without an error code or a vector that it would have.
    "masked_entry:",
    "add rsp, {pushed}",
    "push 0",
    "push {masked}",
    "jmp exception_entry",
    pushed = const PUSHED,
    flags = const PUSHED + 2 * size_of::<u64>(),
    interrupts_on = const RFLAGS_IF >> 8,
    masked = const cpu::MASKED,
    nmi = const cpu::NMI,
    interrupts = const offset_of!(Slot, interrupts),
    arrived = const offset_of!(Slot, arrived),
    sent = const offset_of!(Slot, sent),
    acknowledged = const offset_of!(Slot, acknowledged),
    duplicates = const offset_of!(Slot, duplicates),
    pv_eoi = const offset_of!(Slot, pv_eoi),
    storm = const offset_of!(Slot, storm),
    storm_sent = const offset_of!(Storm, sent),
    storm_acknowledged = const offset_of!(Storm, acknowledged),
    arrivals = const offset_of!(Slot, arrivals),
    ledger = const offset_of!(Slot, ledger),
    ledger_shift = const size_of::<Number>().trailing_zeros(),
    arrival_size = const size_of::<Arrival>(),
    arrival_at = const offset_of!(Arrival, at),
    arrival_sent = const offset_of!(Arrival, sent),
    arrival_acknowledged = const offset_of!(Arrival, acknowledged),
    arrival_duplicates = const offset_of!(Arrival, duplicates),
    vcpus = const MAX_VCPUS,
    eoi = const apic::MSR_X2APIC_EOI,
);

/// What the handlers push: three registers. Behind that is what the CPU pushed, the flags third.
const PUSHED: usize = 3 * size_of::<u64>();

/// The flag that lets interrupts in.
const RFLAGS_IF: u64 = 1 << 9;

/// Takes an interrupt while interrupts are off, as an emulated CPU may that delivers one again.
pub fn interrupt_masked() {
    // SAFETY: The handler ends the machine.
    unsafe { asm!("cli", "int {}", const IPI_VECTOR) };
}

/// The size of an entry of [`storm_own_stubs`].
pub const STORM_STUB_SIZE: usize = 16;

// One entry for each sender.
global_asm!(
    ".balign {size}",
    ".globl storm_own_stubs",
    "storm_own_stubs:",
    ".set sender, 0",
    ".rept {vcpus}",
    ".balign {size}, 0xcc",
    "pushq %rax",
    "movl $sender, %eax",
    "jmp storm_own_entry",
    ".set sender, sender + 1",
    ".endr",
    size = const STORM_STUB_SIZE,
    vcpus = const MAX_VCPUS,
    options(att_syntax),
);

/// The size of an entry of [`arrival_stubs`].
pub const ARRIVAL_STUB_SIZE: usize = 16;

// One entry for each source.
global_asm!(
    ".balign {size}",
    ".globl arrival_stubs",
    "arrival_stubs:",
    ".set source, 0",
    ".rept {sources}",
    ".balign {size}, 0xcc",
    "pushq %rax",
    "movl $source, %eax",
    "jmp arrival_entry",
    ".set source, source + 1",
    ".endr",
    size = const ARRIVAL_STUB_SIZE,
    sources = const Source::COUNT,
    options(att_syntax),
);

/// The size of an entry of [`ledger_stubs`].
pub const LEDGER_STUB_SIZE: usize = 16;

// One entry for each source.
global_asm!(
    ".balign {size}",
    ".globl ledger_stubs",
    "ledger_stubs:",
    ".set source, 0",
    ".rept {sources}",
    ".balign {size}, 0xcc",
    "pushq %rax",
    "movl $source, %eax",
    "jmp ledger_entry",
    ".set source, source + 1",
    ".endr",
    size = const LEDGER_STUB_SIZE,
    sources = const LEDGER_SOURCES,
    options(att_syntax),
);

extern "C" {
    /// Where the CPU enters for the vectors of a ledger's sources. Not for Rust to call.
    pub fn ledger_stubs();
    /// Where the CPU enters for the vectors of an idle vCPU's sources. Not for Rust to call.
    pub fn arrival_stubs();
    /// Where the CPU enters for the storm's vectors of single senders. Not for Rust to call.
    pub fn storm_own_stubs();
    /// Where the CPU enters for the IPI's vector. Not for Rust to call.
    pub fn ipi_entry();
    /// Where the CPU enters for the storm's vector. Not for Rust to call.
    pub fn storm_entry();
    /// Where the CPU enters for an NMI. Not for Rust to call.
    pub fn nmi_entry();
    /// Where the CPU enters for the wake-up's vector. Not for Rust to call.
    pub fn wake_entry();
    /// Where the CPU enters for the spurious vector. Not for Rust to call.
    pub fn spurious_entry();
}

/// Handles an interrupt that the vCPU `index`, this one, has found in its descriptor, as the handlers do. Interrupts must
/// be off.
pub fn handle(shared: &Shared, index: u32, vector: Vector) {
    let slot = &shared.slots[index as usize];
    if vector == IPI || DEVICE_VECTORS.contains(&vector.get()) {
        handle_ipi(slot);
    }
    if let Some(source) = Source::of_vector(vector.get()) {
        add_one(&slot.interrupts);
        handle_arrival(&shared.arrivals.of[source as usize]);
    }
    if let Some(source) = ledger_source(vector.get()) {
        add_one(&slot.interrupts);
        add_one(&shared.survival.ledgers[index as usize].handled[source].value);
    }
    if let Some(senders) = storm_senders(vector.get()) {
        let storm = &shared.storms[index as usize];
        add_one(&slot.interrupts);
        for sender in senders {
            let sent = storm.sent[sender].load(Relaxed);
            storm.acknowledged[sender].store(sent, Relaxed);
        }
    }
}

fn handle_ipi(slot: &Slot) {
    slot.arrived.store(cpu::cycles(), Relaxed);
    let sent = slot.sent.load(SeqCst);
    add_one(&slot.interrupts);
    if sent == slot.acknowledged.load(Relaxed) {
        add_one(&slot.duplicates);
    }
    slot.acknowledged.store(sent, SeqCst);
}

fn handle_arrival(arrival: &Arrival) {
    let sent = arrival.sent.load(SeqCst);
    arrival.at.store(cpu::cycles(), Relaxed);
    if sent == arrival.acknowledged.load(Relaxed) {
        add_one(&arrival.duplicates);
    }
    arrival.acknowledged.store(sent, SeqCst);
}

/// Counts something that only this vCPU counts.
pub fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// What it took to send.
#[derive(Default)]
pub struct Sends {
    /// How posts ended.
    pub posts: Tally,
    /// How often the register or the hypercall was used, for one target or for several.
    pub native: u64,
}

impl Sends {
    /// Adds what a vCPU has sent to shared memory and to its descriptor.
    pub fn publish(&self, shared: &Shared, vcpu: u32) {
        shared.posts.add(&self.posts);
        shared.native_sends.fetch_add(self.native, SeqCst);
        shared.descriptors[vcpu as usize].count_posts(&self.posts);
    }
}

/// How this CPU raises interrupts.
#[derive(Clone, Copy)]
pub enum IpiMethod {
    /// The interrupt command register.
    Icr,
    /// The hypercall.
    Hypercall(Hypercall),
    /// Posts, and what has to be kicked as above.
    Post(Hypercall),
}

/// How this CPU calls its hypervisor.
#[derive(Clone, Copy)]
pub enum Hypercall {
    /// By Intel's instruction.
    Vmcall,
    /// By AMD's instruction.
    Vmmcall,
}

impl IpiMethod {
    /// How this CPU raises interrupts by a mechanism.
    pub fn new(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::X2Apic => IpiMethod::Icr,
            Mechanism::PvIpi => IpiMethod::Hypercall(Hypercall::new()),
            Mechanism::Pvirq => IpiMethod::Post(Hypercall::new()),
        }
    }

    /// Interrupts one vCPU.
    pub fn raise(self, shared: &Shared, vector: Vector, target: u32, sends: &mut Sends) {
        if let IpiMethod::Post(_) = self {
            let posted = shared.descriptors[target as usize].post_once(vector);
            sends.posts.add(posted);
            if posted != Posted::Kick {
                return;
            }
        }
        sends.native += 1;
        match self {
            IpiMethod::Icr | IpiMethod::Post(_) => apic::send(vector.get(), target),
            IpiMethod::Hypercall(hypercall) => hypercall.send_ipi(vector, 1, target),
        }
    }

    /// Interrupts the vCPUs from 1 to `targets`, on vCPU 0's behalf.
    pub fn raise_all(self, shared: &Shared, vector: Vector, targets: u32, sends: &mut Sends) {
        match self {
            IpiMethod::Icr => {
                sends.native += 1;
                apic::send_to_others(vector.get());
            }
            IpiMethod::Hypercall(hypercall) => {
                sends.native += 1;
                hypercall.send_ipi(vector, u64::MAX >> (64 - targets), 1);
            }
            IpiMethod::Post(hypercall) => {
                let mut kicked = 0;
                let descriptors = (0..targets).zip(&shared.descriptors[1..]);
                let tally = post_all(
                    descriptors,
                    |target| target.post_once(vector),
                    |index| kicked |= 1 << index,
                );

                sends.posts.coalesced += tally.coalesced;
                sends.posts.elided += tally.elided;
                sends.posts.kicked += tally.kicked;
                if kicked != 0 {
                    sends.native += 1;
                    hypercall.send_ipi(vector, kicked, 1);
                }
            }
        }
    }
}

impl Hypercall {
    /// The instruction of this CPU.
    pub fn new() -> Self {
        if IS_INTEL.load(SeqCst) {
            Hypercall::Vmcall
        } else {
            Hypercall::Vmmcall
        }
    }

    /// Calls `KVM_HC_VAPIC_POLL_IRQ`, which does nothing.
    pub fn nothing(self) {
        self.call(KVM_HC_VAPIC_POLL_IRQ, 0, 0, 0);
    }

    /// Calls `KVM_HC_SEND_IPI` for the vCPUs of `bitmap`, whose lowest bit is vCPU `first`. If the hypervisor refuses, the
    /// machine ends.
    fn send_ipi(self, vector: Vector, bitmap: u64, first: u32) {
        let result = self.call(KVM_HC_SEND_IPI, bitmap, first.into(), vector.get().into());

        // The number of vCPUs that took it, or a negative error.
        if result as i64 <= 0 {
            fail(format_args!(
                "the hypervisor refused to send an interrupt: {}",
                result as i64
            ));
        }
    }

    /// Makes a call with `low` in rbx, and in rcx, rdx and rsi what `KVM_HC_SEND_IPI` takes there.
    fn call(self, number: u64, low: u64, first: u64, vector: u64) -> u64 {
        let mut result = number;
        // LLVM keeps rbx for itself.
        macro_rules! hypercall {
            ($instruction:literal) => {
                // SAFETY: The hypervisor has this call, or answers with an error, and changes only rax.
                unsafe {
                    asm!(
                        "xchg rbx, {low}",
                        $instruction,
                        "xchg rbx, {low}",
                        low = inout(reg) low => _,
                        inout("rax") result,
                        in("rcx") 0_u64,
                        in("rdx") first,
                        in("rsi") vector,
                        options(nostack),
                    )
                }
            };
        }
        match self {
            Hypercall::Vmcall => hypercall!("vmcall"),
            Hypercall::Vmmcall => hypercall!("vmmcall"),
        }
        result
    }
}
