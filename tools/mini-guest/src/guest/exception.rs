// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The interrupt descriptor table, and the end of guests that take an exception.

use core::{
    arch::{asm, global_asm},
    cell::UnsafeCell,
    fmt::Write,
    ptr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use mini_guest::{
    ledger_source, storm_senders, Source, ARRIVAL_VECTORS, DEVICE_VECTORS, IPI_VECTOR,
    LEDGER_VECTORS, STATUS_MASKED, STORM_VECTOR, STORM_VECTORS,
};

use crate::{
    apic,
    console::Console,
    cpu::{self, MASKED, NMI},
    ipi, percpu,
    status::STATUS_CRASHED,
};

const VECTORS: usize = 256;
const STUB_SIZE: usize = 16;

/// Exceptions that push an error code: 8, 10 to 14, 17, 21, 29 and 30.
const HAS_ERROR_CODE: u32 = 0x6022_7d00;

/// What lies on the stack: what the entry stub pushed, then what the CPU did.
#[repr(C)]
struct Frame {
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// One entry for each vector, all of one size, which pushes its number behind an error code, real or not.
global_asm!(
    ".balign {size}",
    "exception_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign {size}, 0xcc",
    ".if vector >= 32 || !(({has_error_code} >> vector) & 1)",
    "pushq $0",
    ".endif",
    "pushq $vector",
    "jmp exception_entry",
    ".set vector, vector + 1",
    ".endr",
    ".globl exception_entry",
    "exception_entry:",
    "cld",
    "mov %rsp, %rdi",
    "and $-16, %rsp",
    "call {report}",
    size = const STUB_SIZE,
    has_error_code = const HAS_ERROR_CODE,
    report = sym report,
    options(att_syntax),
);

extern "C" {
    fn exception_stubs();
}

/// A 64-bit interrupt gate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    _reserved: u32,
}

impl Gate {
    const INTERRUPT: u8 = 0x8e;

    fn new(entry: usize, ist: u8) -> Self {
        Gate {
            offset_low: entry as u16,
            selector: percpu::CODE_SELECTOR,
            ist,
            kind: Gate::INTERRUPT,
            offset_middle: (entry >> 16) as u16,
            offset_high: (entry >> 32) as u32,
            _reserved: 0,
        }
    }
}

#[repr(C, align(4096))]
struct Table(UnsafeCell<[Gate; VECTORS]>);

// SAFETY: All vCPUs write the same, before they let interrupts in.
unsafe impl Sync for Table {}

// SAFETY: All fields are integers, for which zero is valid.
static TABLE: Table = Table(UnsafeCell::new(unsafe { core::mem::zeroed() }));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Fills the table, which is the same for all vCPUs, and loads it on this one.
pub fn load_table() {
    let table = TABLE.0.get().cast::<Gate>();
    for vector in 0..VECTORS {
        let stub = exception_stubs as usize + vector * STUB_SIZE;
        let gate = match vector as u8 {
            // It may interrupt the others.
            NMI => Gate::new(ipi::nmi_entry as usize, percpu::EXCEPTION_STACK),
            IPI_VECTOR => Gate::new(ipi::ipi_entry as usize, percpu::INTERRUPT_STACK),
            device if DEVICE_VECTORS.contains(&device) => {
                Gate::new(ipi::ipi_entry as usize, percpu::INTERRUPT_STACK)
            }
            STORM_VECTOR => Gate::new(ipi::storm_entry as usize, percpu::INTERRUPT_STACK),
            own if storm_senders(own).is_some() => Gate::new(
                ipi::storm_own_stubs as usize
                    + usize::from(own - STORM_VECTORS) * ipi::STORM_STUB_SIZE,
                percpu::INTERRUPT_STACK,
            ),
            arrival if Source::of_vector(arrival).is_some() => Gate::new(
                ipi::arrival_stubs as usize
                    + usize::from(arrival - ARRIVAL_VECTORS) * ipi::ARRIVAL_STUB_SIZE,
                percpu::INTERRUPT_STACK,
            ),
            ledger if ledger_source(ledger).is_some() => Gate::new(
                ipi::ledger_stubs as usize
                    + usize::from(ledger - LEDGER_VECTORS) * ipi::LEDGER_STUB_SIZE,
                percpu::INTERRUPT_STACK,
            ),
            ipi::WAKE_VECTOR => Gate::new(ipi::wake_entry as usize, percpu::INTERRUPT_STACK),
            apic::SPURIOUS_VECTOR => {
                Gate::new(ipi::spurious_entry as usize, percpu::INTERRUPT_STACK)
            }
            _ => Gate::new(stub, percpu::EXCEPTION_STACK),
        };
        // SAFETY: The index is inside the table. Another vCPU that reads or writes it does so with equal bytes.
        unsafe { ptr::write_volatile(table.add(vector), gate) };
    }
    let pointer = TablePointer {
        limit: (VECTORS * size_of::<Gate>() - 1) as u16,
        base: table as u64,
    };
    // SAFETY: The table is complete and stays where it is.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };
}

/// The vCPU that reports an exception, plus one.
static REPORTING: AtomicUsize = AtomicUsize::new(0);

/// Says what happened and ends the machine.
extern "C" fn report(frame: &Frame) -> ! {
    let vcpu = percpu::owner(ptr::from_ref(frame) as usize);

    if let Err(reporting) = REPORTING.compare_exchange(0, vcpu + 1, SeqCst, SeqCst) {
        if reporting == vcpu + 1 {
            // An exception within the report: there is nothing more to say.
            cpu::exit(STATUS_CRASHED);
        }
        // The other one ends the machine.
        cpu::stop();
    }
    let cr2: u64;
    // SAFETY: Reading the register has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    let name = match frame.vector {
        0 => "divide error",
        2 => "unexpected NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        14 => "page fault",
        MASKED => "interrupt while interrupts were off",
        vector if vector < 32 => "exception",
        _ => "unexpected interrupt",
    };
    let _ = writeln!(
        Console::seize(),
        "mini-guest: {name} (vector {}) on vCPU {vcpu}: rip {:#x}, error code {:#x}, cr2 {cr2:#x}, rsp {:#x}, rflags {:#x}",
        frame.vector, frame.rip, frame.error_code, frame.rsp, frame.rflags,
    );
    cpu::exit(match frame.vector {
        MASKED => STATUS_MASKED,
        _ => STATUS_CRASHED,
    })
}
