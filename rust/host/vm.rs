// SPDX-License-Identifier: GPL-2.0

//! VMs.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        UniqueArc, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
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
    kvm::{
        kvm_enable_cap,
        KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
        KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        KVM_CREATE_VCPU,
        KVM_ENABLE_CAP, //
    },
    vcpu::Vcpu,
    wrap,
    Overlay, //
};

/// What the files of one VM share.
///
/// It lives as long as any of them, as the VM does in KVM.
pub(crate) struct Vm {
    pub(crate) overlay: Arc<Overlay>,
}

impl Vm {
    fn new(overlay: Arc<Overlay>) -> Self {
        overlay.statistics.begin_vm();
        Self { overlay }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.overlay.statistics.end_vm();
    }
}

/// The file of a VM.
pub(crate) struct VmFile {
    /// KVM's file.
    real: ARef<File>,
    vm: Arc<Vm>,
}

impl VmFile {
    /// Creates a VM by the call `request` on `device`, KVM's own.
    pub(crate) fn create(
        overlay: &Arc<Overlay>,
        device: &File,
        request: Ioctl<'_>,
    ) -> Result<isize> {
        let vm = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let this = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;

        wrap::create::<Self>(&overlay.kvm, device, request, c"kvm-vm", |real| {
            let vm = vm.write(Vm::new(overlay.clone())).into();
            KBox::write(this, Self { real, vm })
        })
    }

    /// Passes on `KVM_ENABLE_CAP`.
    ///
    /// KVM takes nothing but its own files for the VM whose encryption context is to be copied or
    /// moved. So it finds its own behind the descriptor while it looks.
    fn enable_cap(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.ioctl(request);
        let argument = UserSlice::new(
            UserPtr::from_addr(request.arg()),
            size_of::<kvm_enable_cap>(),
        );

        // What cannot be read, or is no descriptor of a VM of ours, is KVM's to judge.
        let Ok(capability) = argument.reader().read::<kvm_enable_cap>() else {
            return forward();
        };
        if !matches!(
            capability.cap,
            KVM_CAP_VM_COPY_ENC_CONTEXT_FROM | KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM
        ) {
            return forward();
        }

        // KVM takes the lower half as well.
        let fd = capability.args[0] as u32;
        // Without the lock, the end of one such call would take KVM's file away from another with
        // the same source.
        let _guard = self.vm.overlay.lending.lock();
        let Ok(file) = request.fget(fd) else {
            return forward();
        };
        let Some(source) = Self::table().data(&file) else {
            return forward();
        };
        request
            .lend(fd, &file, source.real.clone(), forward)
            .unwrap_or_else(forward)
    }
}

#[vtable]
impl FileOperations for VmFile {
    type Data = KBox<Self>;

    fn table() -> &'static FileOps<Self> {
        static TABLE: FileOps<VmFile> = FileOps::new();
        &TABLE
    }

    fn ioctl(this: &Self, request: Ioctl<'_>) -> Result<isize> {
        match request.cmd() {
            KVM_CREATE_VCPU => Vcpu::create(&this.vm, &this.real, request),
            KVM_ENABLE_CAP => this.enable_cap(request),
            _ => this.real.ioctl(request),
        }
    }
}
