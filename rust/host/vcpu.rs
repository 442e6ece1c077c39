// SPDX-License-Identifier: GPL-2.0

//! vCPUs and their run loop.
//!
//! # Concurrency
//!
//! KVM runs a vCPU in one thread at a time and keeps others waiting, in `KVM_RUN` itself. So
//! several threads can be in [`Vcpu::run`] of one vCPU.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};
use kernel_ext::{
    file::FileExt,
    file_operations::{
        FileOperations,
        FileOps, //
    },
    ioctl::Ioctl, //
};

use crate::{
    kvm::KVM_RUN,
    vm::Vm,
    wrap, //
};

/// The file of a vCPU.
pub(crate) struct Vcpu {
    /// KVM's file.
    real: ARef<File>,
    vm: Arc<Vm>,
    /// How many times `KVM_RUN` has been called.
    runs: Atomic<u64>,
}

impl Vcpu {
    fn new(real: ARef<File>, vm: Arc<Vm>) -> Self {
        vm.overlay.statistics.vcpus.begin();
        Self {
            real,
            vm,
            runs: Atomic::new(0),
        }
    }

    /// Creates a vCPU by the call `request` on `real`, KVM's file of `vm`.
    pub(crate) fn create(vm: &Arc<Vm>, real: &File, request: Ioctl<'_>) -> Result<isize> {
        // KVM refuses what is no `int`, and then needs no name.
        let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", request.arg() as i32))?;
        let this = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;

        wrap::create::<Self>(&vm.overlay.kvm, real, request, &name, |real| {
            KBox::write(this, Self::new(real, vm.clone()))
        })
    }

    /// Runs the vCPU until the VMM has to do something.
    fn run(&self, request: Ioctl<'_>) -> Result<isize> {
        self.runs.fetch_add(1, Relaxed);
        self.vm.overlay.statistics.runs.add(1);
        self.real.ioctl(request)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.vm.overlay.statistics.vcpus.end();
    }
}

#[vtable]
impl FileOperations for Vcpu {
    type Data = KBox<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<Vcpu> = FileOps::new();
        &TABLE
    }

    fn ioctl(this: &Self, request: Ioctl<'_>) -> Result<isize> {
        match request.cmd() {
            KVM_RUN => this.run(request),
            _ => this.real.ioctl(request),
        }
    }

    fn mmap(this: &Self, vma: &VmaNew) -> Result {
        this.real.mmap(vma)
    }

    fn show_fdinfo(this: &Self, m: &SeqFile) {
        this.real.show_fdinfo(m);
        seq_print!(m, "pvirq-runs:\t{}\n", this.runs.load(Relaxed));
    }
}
