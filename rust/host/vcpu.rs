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
    list::{
        impl_list_arc_safe,
        impl_list_item,
        ListArc,
        ListLinks, //
    },
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
        Arc,
        ArcBorrow,
        UniqueArc, //
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

/// A vCPU.
#[pin_data]
pub(crate) struct Vcpu {
    /// KVM's file.
    real: ARef<File>,
    /// How many times `KVM_RUN` has been called.
    runs: Atomic<u64>,
    vm: Arc<Vm>,
    /// For the list of all vCPUs in [`Statistics`](crate::statistics::Statistics).
    #[pin]
    links: ListLinks,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Vcpu { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Vcpu { using ListLinks { self.links }; }
}

impl Vcpu {
    fn new(real: ARef<File>, vm: Arc<Vm>) -> impl PinInit<Self> {
        pin_init!(Self {
            real,
            runs: Atomic::new(0),
            vm,
            links <- ListLinks::new(),
        })
    }

    /// Creates a vCPU by the call `request` on `real`, KVM's file of `vm`.
    pub(crate) fn create(vm: &Arc<Vm>, real: &File, request: Ioctl<'_>) -> Result<isize> {
        // KVM refuses what is no `int`, and then needs no name.
        let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", request.arg() as i32))?;
        let this = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;

        wrap::create::<Self>(&vm.overlay.kvm, real, request, &name, |real| {
            let Ok(this) = this.pin_init_with(Self::new(real, vm.clone()));
            let list_arc = ListArc::from(this);
            let this = list_arc.clone_arc();

            vm.overlay.statistics.begin_vcpu(list_arc);
            this
        })
    }

    /// Returns how many times `KVM_RUN` has been called.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Relaxed)
    }

    /// Runs the vCPU until the VMM has to do something.
    #[inline]
    fn run(&self, request: Ioctl<'_>) -> Result<isize> {
        self.runs.fetch_add(1, Relaxed);
        self.real.ioctl(request)
    }
}

#[vtable]
impl FileOperations for Vcpu {
    type Data = Arc<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<Vcpu> = FileOps::new();
        &TABLE
    }

    #[inline]
    fn ioctl(this: ArcBorrow<'_, Self>, request: Ioctl<'_>) -> Result<isize> {
        match request.cmd() {
            KVM_RUN => this.run(request),
            _ => this.real.ioctl(request),
        }
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        this.real.mmap(vma)
    }

    fn show_fdinfo(this: ArcBorrow<'_, Self>, m: &SeqFile) {
        this.real.show_fdinfo(m);
        seq_print!(m, "pvirq-runs:\t{}\n", this.runs());
    }

    fn release(this: Arc<Self>) {
        this.vm.overlay.statistics.end_vcpu(&this);
    }
}
