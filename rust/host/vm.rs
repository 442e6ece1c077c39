// SPDX-License-Identifier: GPL-2.0

//! VMs.
//!
//! # Concurrency
//!
//! [`Vm::memory`] and its place among other locks are described in [`registration`](crate::registration). It is never
//! taken with the VMM's memory map locked. [`Vm::kicks`] is held while memory is mapped. [`Vm::file`] and
//! [`Vm::targets`] are leaves.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    list::{
        List,
        ListArc, //
    },
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        UniqueArc, //
    },
    transmute::FromBytes,
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
    ioctl::Ioctl,
    kvm,
    preempt::PreemptNotifiers,
    published::Published, //
};
use pvirq_protocol::ioctl::EndReason;

use crate::{
    descriptors::Descriptors,
    extension,
    halt_poll::{
        HaltPoll,
        Need, //
    },
    kvm::{
        kvm_enable_cap,
        kvm_userspace_memory_region,
        KVM_CAP_HALT_POLL,
        KVM_CAP_SPLIT_IRQCHIP,
        KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
        KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        KVM_CAP_X2APIC_API,
        KVM_CREATE_IRQCHIP,
        KVM_CREATE_VCPU,
        KVM_ENABLE_CAP,
        KVM_SET_USER_MEMORY_REGION,
        KVM_SET_USER_MEMORY_REGION2,
        KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
        KVM_X2APIC_API_USE_32BIT_IDS,
        KVM_X86_DEFAULT_VM, //
    },
    memory::Memory,
    msi::Messages,
    polling::Polling,
    registration::History,
    target::Target,
    vcpu::Vcpu,
    wrap,
    Overlay, //
};

/// The flags of `KVM_CAP_X2APIC_API` with which a message reaches one APIC, whatever its ID. With the first alone, 255 still
/// means all of them.
const LONG_APIC_ID_FLAGS: u64 =
    KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// The APIC IDs that a message reaches if the VMM has not enabled longer ones. The last of 8 bits
/// means all of them.
const SHORT_APIC_IDS: u32 = 255;

/// `KVM_MAX_VCPU_IDS`.
const LONG_APIC_IDS: u32 = 4096;

/// What the files of one VM share.
///
/// It lives as long as any of them, as the VM does in KVM.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) notifiers: PreemptNotifiers,
    pub(crate) descriptors: Published<Descriptors>,
    /// Whether there are local APICs in KVM.
    lapics: Atomic<bool>,
    /// The flags of `KVM_CAP_X2APIC_API` that the VMM has enabled.
    x2apic_api: Atomic<u64>,
    /// Whether the guest's memory is its own: the VM is not of KVM's default type.
    pub(crate) is_private: bool,
    #[pin]
    pub(crate) polling: Polling,
    #[pin]
    halt_poll: HaltPoll,
    #[pin]
    pub(crate) memory: Mutex<Memory>,
    /// Whether the VMM allows registrations. Written with `memory` locked.
    pub(crate) allowed: Atomic<bool>,
    #[pin]
    pub(crate) history: History,
    /// KVM's file, as long as the VMM has ours.
    #[pin]
    file: Mutex<Option<kvm::VmFile>>,
    /// All vCPUs that there have been: KVM makes none twice.
    #[pin]
    targets: Mutex<List<Target>>,
    /// What injects the vectors that vCPUs are kicked for, if they are, as long as the VMM has our file.
    #[pin]
    kicks: Mutex<Option<Arc<Messages>>>,
}

impl Vm {
    /// Makes one of a VM that KVM has made with this type.
    fn new(overlay: Arc<Overlay>, file: kvm::VmFile, vm_type: usize) -> impl PinInit<Self> {
        overlay.statistics.begin_vm();
        let polling = Polling::new(&overlay.poll);
        pin_init!(Self {
            overlay,
            notifiers: PreemptNotifiers::enable(),
            descriptors: Published::empty(),
            lapics: Atomic::new(false),
            x2apic_api: Atomic::new(0),
            is_private: vm_type != KVM_X86_DEFAULT_VM,
            polling <- polling,
            halt_poll <- HaltPoll::new(),
            memory <- new_mutex!(Memory::new()),
            allowed: Atomic::new(true),
            history <- History::new(),
            file <- new_mutex!(Some(file)),
            targets <- new_mutex!(List::new()),
            kicks <- new_mutex!(None),
        })
    }

    /// Returns KVM's file, if the VMM still has ours.
    pub(crate) fn file(&self) -> Option<kvm::VmFile> {
        self.file.lock().clone()
    }

    /// Returns whether there are local APICs in KVM.
    pub(crate) fn has_lapics(&self) -> bool {
        self.lapics.load(Relaxed)
    }

    /// Adds a vCPU.
    pub(crate) fn add_target(&self, target: ListArc<Target>) {
        self.targets.lock().push_back(target);
    }

    /// Returns the vCPU with this number.
    pub(crate) fn target(&self, id: u32) -> Option<Arc<Target>> {
        let targets = self.targets.lock();

        let target = targets.iter().find(|target| target.id == id)?;
        Some(target.into())
    }

    /// Makes sure that a vCPU can be [kicked](Target::kick). In the VMM's process.
    pub(crate) fn prepare_kicks(&self, target: &Target) -> Result {
        let mut kicks = self.kicks.lock();

        if kicks.is_none() {
            let file = self.file().ok_or(ENODEV)?;
            let messages = Messages::new(file.file().clone(), LONG_APIC_IDS)?;
            *kicks = Some(Arc::new(messages, GFP_KERNEL_ACCOUNT)?);
        }
        drop(kicks);
        target.look()
    }

    /// Returns what injects the vectors that vCPUs are kicked for, each vCPU in the slot of its number.
    pub(crate) fn kicks(&self) -> Option<Arc<Messages>> {
        self.kicks.lock().clone()
    }

    /// Returns how many descriptors the guest can register.
    pub(crate) fn max_descriptors(&self) -> u32 {
        match self.x2apic_api.load(Relaxed) & LONG_APIC_ID_FLAGS {
            LONG_APIC_ID_FLAGS => LONG_APIC_IDS,
            _ => SHORT_APIC_IDS,
        }
    }

    /// Notes that the guest has made an idle call in the registration `epoch`.
    pub(crate) fn begin_idle_calls(&self, epoch: u32) {
        if let Some(file) = self.file() {
            self.halt_poll.idle(&file, epoch, || self.need_of_polling());
        }
    }

    /// Looks again for how long KVM should poll, as the registration or the windows have changed.
    pub(crate) fn update_halt_poll(&self) {
        if let Some(file) = self.file() {
            self.halt_poll.update(&file, || self.need_of_polling());
        }
    }

    fn need_of_polling(&self) -> Need {
        Need {
            epoch: self.epoch(),
            windows: self.polling.has_windows(),
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        self.overlay.statistics.end_vm();
    }
}

/// The file of a VM.
pub(crate) struct VmFile {
    /// KVM's file.
    real: kvm::VmFile,
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
            // SAFETY: KVM has just made this file for `KVM_CREATE_VM`.
            let real = unsafe { kvm::VmFile::new(real) };
            let new = Vm::new(overlay.clone(), real.clone(), request.arg());
            let Ok(vm) = vm.pin_init_with(new);
            let vm = vm.into();
            KBox::write(this, Self { real, vm })
        })
    }

    /// Passes on `KVM_SET_USER_MEMORY_REGION` or its successor.
    fn set_memory_region(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);

        match read_argument_at::<kvm_userspace_memory_region>(request, 0) {
            Ok(region) => self.vm.change_memory(self.real.file(), &region, forward),
            // What cannot be read is KVM's to refuse.
            Err(_) => forward(),
        }
    }

    /// Passes on `KVM_CREATE_IRQCHIP`.
    fn create_irqchip(&self, request: Ioctl<'_>) -> Result<isize> {
        self.real
            .file()
            .ioctl(request)
            .inspect(|_| self.vm.lapics.store(true, Relaxed))
    }

    /// Passes on `KVM_ENABLE_CAP`.
    fn enable_cap(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);

        // What cannot be read is KVM's to refuse.
        let Ok(capability) = read_argument_at::<kvm_enable_cap>(request, 0) else {
            return forward();
        };
        match capability.cap {
            KVM_CAP_VM_COPY_ENC_CONTEXT_FROM | KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM => {
                self.lend(&capability, request)
            }
            KVM_CAP_SPLIT_IRQCHIP => {
                forward().inspect(|_| self.vm.lapics.store(true, Relaxed)) //
            }
            KVM_CAP_X2APIC_API => forward().inspect(|_| {
                // KVM takes none of them back.
                let flags = self.vm.x2apic_api.load(Relaxed) | capability.args[0];
                self.vm.x2apic_api.store(flags, Relaxed);
            }),
            KVM_CAP_HALT_POLL => forward().inspect(|_| {
                // KVM takes no more than 32 bits.
                let max_ns = capability.args[0] as u32;
                let need = || self.vm.need_of_polling();
                self.vm.halt_poll.set(&self.real, max_ns, need);
            }),
            _ => forward(),
        }
    }

    /// Passes on `KVM_ENABLE_CAP` for a capability that names another VM.
    ///
    /// KVM takes nothing but its own files for the VM whose encryption context is to be copied or
    /// moved. So it finds its own behind the descriptor while it looks.
    fn lend(&self, capability: &kvm_enable_cap, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.file().ioctl(request);
        // KVM takes the lower half as well.
        let fd = capability.args[0] as u32;
        // Without the lock, the end of one such call would take KVM's file away from another with
        // the same source.
        let _guard = self.vm.overlay.lending.lock();
        // What is no descriptor of a VM of ours is KVM's to judge.
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

/// Reads what is at `offset` in the argument of an ioctl.
pub(crate) fn read_argument_at<T: FromBytes>(request: Ioctl<'_>, offset: usize) -> Result<T> {
    let address = UserPtr::from_addr(request.arg()).wrapping_byte_add(offset);

    UserSlice::new(address, size_of::<T>()).reader().read()
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
            KVM_CREATE_VCPU => Vcpu::create(&this.vm, this.real.file(), request),
            KVM_SET_USER_MEMORY_REGION | KVM_SET_USER_MEMORY_REGION2 => {
                this.set_memory_region(request)
            }
            KVM_CREATE_IRQCHIP => this.create_irqchip(request),
            KVM_ENABLE_CAP => this.enable_cap(request),
            _ => extension::ioctl(&this.vm, this.real.file(), request)
                .unwrap_or_else(|| this.real.file().ioctl(request)),
        }
    }

    fn show_fdinfo(this: &Self, m: &SeqFile) {
        this.real.file().show_fdinfo(m);
        this.vm.history.show(m);
    }

    fn release(this: KBox<Self>) {
        // As KVM's irqfds go with the VM's file, what is bound does.
        this.vm.overlay.injector.unbind_all(&this.vm);
        let kicks = this.vm.kicks.lock().take();
        drop(kicks);
        // And so nothing of ours may keep that file.
        let file = this.vm.file.lock().take();
        this.vm.end(EndReason::Vmm);
        // vCPUs may go on.
        this.vm
            .halt_poll
            .update(&this.real, || this.vm.need_of_polling());
        drop(file);
    }
}
