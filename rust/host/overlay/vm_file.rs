// SPDX-License-Identifier: GPL-2.0

//! The file of a VM.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        Arc,
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
use pvirq_protocol::ioctl::EndReason;

use super::{
    vcpu_file,
    vm_ioctl,
    wrap,
    Overlay, //
};
use crate::{
    arch::VmEvents,
    kvm::{
        kvm_enable_cap,
        kvm_userspace_memory_region,
        KVM_CAP_HALT_POLL,
        KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
        KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        KVM_CREATE_VCPU,
        KVM_ENABLE_CAP,
        KVM_SET_USER_MEMORY_REGION,
        KVM_SET_USER_MEMORY_REGION2, //
    },
    vm::Vm, //
};

/// The file of a VM.
pub(crate) struct VmFile {
    /// KVM's file.
    real: kvm_glue::VmFile,
    vm: Arc<Vm>,
    overlay: Arc<Overlay>,
}

impl VmFile {
    /// Creates a VM: makes the call `request` on `device`, the real `/dev/kvm`.
    pub(crate) fn create(
        overlay: &Arc<Overlay>,
        device: &File,
        request: Ioctl<'_>,
    ) -> Result<isize> {
        let vm = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let this = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;

        wrap::create::<Self>(&overlay.host.kvm, device, request, c"kvm-vm", |real| {
            // SAFETY: KVM has just made this file for `KVM_CREATE_VM`.
            let real = unsafe { kvm_glue::VmFile::new(real) };
            let new = Vm::new(overlay.host.clone(), real.clone(), request.arg());
            let Ok(vm) = vm.pin_init_with(new);
            let new = Self {
                real,
                vm: vm.into(),
                overlay: overlay.clone(),
            };
            KBox::write(this, new)
        })
    }

    /// Forwards `KVM_SET_USER_MEMORY_REGION` or its successor.
    fn set_memory_region(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);

        match request.read_at::<kvm_userspace_memory_region>(0) {
            Ok(region) => self.vm.change_memory(self.real.file(), &region, forward),
            // KVM refuses an argument that cannot be read.
            Err(_) => forward(),
        }
    }

    /// Forwards any other ioctl, unknown ones included.
    fn forward(&self, request: Ioctl<'_>) -> Result<isize> {
        self.real
            .file()
            .ioctl(request)
            .inspect(|_| self.vm.irqchip.note_ioctl(request.cmd()))
    }

    /// Forwards `KVM_ENABLE_CAP`.
    fn enable_cap(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);

        // KVM refuses an argument that cannot be read.
        let Ok(capability) = request.read_at::<kvm_enable_cap>(0) else {
            return forward();
        };
        match capability.cap {
            KVM_CAP_VM_COPY_ENC_CONTEXT_FROM | KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM => {
                self.lend(&capability, request)
            }
            KVM_CAP_HALT_POLL => forward().inspect(|_| {
                // KVM refuses more than 32 bits.
                let max_ns = capability.args[0] as u32;
                let state = || self.vm.polling_state();
                self.vm.halt_poll.set(&self.real, max_ns, state);
            }),
            _ => forward().inspect(|_| self.vm.irqchip.note_capability(&capability)),
        }
    }

    /// Forwards `KVM_ENABLE_CAP` for a capability that names another VM.
    ///
    /// KVM accepts only its own files for the VM whose encryption context it copies or moves. So for the time of the
    /// call the file descriptor refers to KVM's file.
    fn lend(&self, capability: &kvm_enable_cap, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);
        // KVM uses the lower half only, too.
        let fd = capability.args[0] as u32;
        // Without the lock, the end of one such call would take KVM's file away from another with the same source.
        let _guard = self.overlay.lending.lock();
        // KVM handles a descriptor that is not of one of our VMs.
        let Ok(file) = request.fget(fd) else {
            return forward();
        };
        let Some(source) = Self::table().data(&file) else {
            return forward();
        };
        request
            .lend(fd, &file, source.real.file().clone(), forward)
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
            KVM_CREATE_VCPU => vcpu_file::create(&this.vm, this.real.file(), request),
            KVM_SET_USER_MEMORY_REGION | KVM_SET_USER_MEMORY_REGION2 => {
                this.set_memory_region(request)
            }
            KVM_ENABLE_CAP => this.enable_cap(request),
            _ => vm_ioctl::ioctl(&this.vm, &this.overlay.bindings, this.real.file(), request)
                .unwrap_or_else(|| this.forward(request)),
        }
    }

    fn show_fdinfo(this: &Self, m: &SeqFile) {
        this.real.file().show_fdinfo(m);
        this.vm.history.show(m);
    }

    fn release(this: KBox<Self>) {
        // Bindings end with the VM's file, as KVM's irqfds do.
        this.overlay.bindings.unbind_all(&this.vm);
        // Any other reference to KVM's file would keep its irqfds.
        this.vm.close_file();
        this.vm.end(EndReason::Vmm);
        // vCPUs may still run, so KVM's own polling is restored.
        this.vm
            .halt_poll
            .update(&this.real, || this.vm.polling_state());
    }
}
