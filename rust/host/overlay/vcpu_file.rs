// SPDX-License-Identifier: GPL-2.0

//! The file of a vCPU.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    list::ListArc,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        Arc,
        ArcBorrow,
        UniqueArc, //
    }, //
};
use kernel_ext::{
    fs::file::FileExt,
    fs::file_operations::{
        FileOperations,
        FileOps, //
    },
    fs::ioctl::Ioctl, //
};
use kvm_glue::VcpuFile;

use super::wrap;
use crate::{
    arch::{
        State,
        StateCall,
        VcpuState, //
    },
    kvm::KVM_RUN,
    vcpu::Vcpu,
    vm::{
        kick_target::KickTarget,
        Vm, //
    }, //
};

/// Creates a vCPU of `vm`: makes the call `request` on `real`, KVM's file of the VM.
pub(crate) fn create(vm: &Arc<Vm>, real: &File, request: Ioctl<'_>) -> Result<isize> {
    // KVM refuses IDs that do not fit an `int`, so the name of such a one does not matter.
    let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", request.arg() as i32))?;
    let this = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
    let target = UniqueArc::pin_init(
        KickTarget::new(request.arg() as u32, vm.host.moderation_ns),
        GFP_KERNEL_ACCOUNT,
    )?;
    let (target, live) = ListArc::pair_from_pin_unique(target);

    wrap::create::<Vcpu>(&vm.host.kvm, real, request, &name, |real| {
        // SAFETY: KVM has just made this file for `KVM_CREATE_VCPU`.
        let real = unsafe { VcpuFile::new(real) };
        let new = Vcpu::new(real, target.clone_arc(), vm.clone());
        let Ok(this) = this.pin_init_with(new);

        vm.add_target(target);
        vm.host.totals.begin_vcpu(live);
        this.into()
    })
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
        if request.cmd() == KVM_RUN {
            return this.run(request);
        }
        match State::call(request.cmd()) {
            Some(StateCall::Save) => this.save(request),
            Some(StateCall::Replace) => this.replace(request),
            Some(StateCall::MayReset) => this.set_registers(request),
            None => this.real.ioctl(request),
        }
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        this.real.file().mmap(vma)
    }

    fn show_fdinfo(this: ArcBorrow<'_, Self>, m: &SeqFile) {
        this.real.file().show_fdinfo(m);
        seq_print!(m, "pvirq-runs:\t{}\n", this.runs());
        this.counters.show(m);
        this.poller.show(m);
    }

    fn release(this: Arc<Self>) {
        this.target.kicker.detach();
        this.vm.host.totals.end_vcpu(&this.target);
    }
}
