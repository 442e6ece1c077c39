// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What each vCPU has of its own: stacks, task state segment, descriptor table.

use core::{arch::asm, cell::UnsafeCell, mem::offset_of};

use mini_guest::MAX_VCPUS;

/// The code segment's selector.
pub const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const TASK_SELECTOR: u16 = 0x18;

/// The IST entry for interrupts.
pub const INTERRUPT_STACK: u8 = 1;
/// The IST entry for exceptions, which can happen while an interrupt is handled.
pub const EXCEPTION_STACK: u8 = 2;

// Present, 64-bit, ring 0.
const CODE_SEGMENT: u64 = 0x00af_9b00_0000_ffff;
const DATA_SEGMENT: u64 = 0x00cf_9300_0000_ffff;
const TASK_PRESENT: u64 = 0x89 << 40;

#[repr(C, align(16))]
struct Stack<const SIZE: usize>([u8; SIZE]);

/// The 64-bit task state segment. Its pointers are not aligned.
#[repr(C, packed(4))]
struct TaskState {
    _reserved0: u32,
    _rsp: [u64; 3],
    _reserved1: u64,
    ist: [u64; 7],
    _reserved2: u64,
    _reserved3: u16,
    io_map: u16,
}

/// One vCPU's own memory.
#[repr(C, align(64))]
pub struct PerCpu {
    stack: Stack<16384>,
    interrupt_stack: Stack<1024>,
    exception_stack: Stack<8192>,
    task: TaskState,
    gdt: [u64; 5],
}

impl PerCpu {
    /// Where the stack starts from, relative to the whole.
    pub const STACK_END: usize = offset_of!(PerCpu, interrupt_stack);
}

/// All vCPUs' own memory.
#[repr(transparent)]
pub struct Areas(UnsafeCell<[PerCpu; MAX_VCPUS]>);

// SAFETY: Each vCPU uses its own element only.
unsafe impl Sync for Areas {}

/// All vCPUs' own memory.
// SAFETY: All fields are integers, for which zero is valid.
pub static AREAS: Areas = Areas(UnsafeCell::new(unsafe { core::mem::zeroed() }));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Gives this vCPU its descriptor table and task state.
///
/// # Safety
///
/// No other vCPU may use area `index`, which must exist, and interrupts must be off.
pub unsafe fn load(index: usize) {
    let area = AREAS.0.get().cast::<PerCpu>().wrapping_add(index);
    // SAFETY: The area exists and is ours by the function's contract. References go to the parts that no other code,
    // and no running stack, uses.
    let (task, gdt) = unsafe { (&mut (*area).task, &mut (*area).gdt) };
    let base = area as u64;

    task.ist[usize::from(INTERRUPT_STACK) - 1] = base + offset_of!(PerCpu, exception_stack) as u64;
    task.ist[usize::from(EXCEPTION_STACK) - 1] = base + offset_of!(PerCpu, task) as u64;
    task.io_map = size_of::<TaskState>() as u16;

    let base = core::ptr::from_ref(task) as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    *gdt = [
        0,
        CODE_SEGMENT,
        DATA_SEGMENT,
        limit | ((base & 0xff_ffff) << 16) | TASK_PRESENT | (((base >> 24) & 0xff) << 56),
        base >> 32,
    ];
    let pointer = TablePointer {
        limit: size_of_val(gdt) as u16 - 1,
        base: gdt.as_ptr() as u64,
    };

    // SAFETY: The table describes flat segments, as the VMM's do, so reloading them changes nothing for Rust. The table
    // and the task state stay where they are.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            pointer = in(reg) &pointer,
            code = const CODE_SELECTOR as u64,
            scratch = out(reg) _,
            data = in(reg) u32::from(DATA_SELECTOR),
            task = in(reg) TASK_SELECTOR,
        )
    };
}

/// The vCPU whose memory contains `address`.
pub fn owner(address: usize) -> usize {
    address.wrapping_sub(AREAS.0.get() as usize) / size_of::<PerCpu>()
}
