// SPDX-License-Identifier: GPL-2.0

//! VMs.
//!
//! # Registration of descriptors
//!
//! The guest registers its [`Descriptors`] in the thread of one vCPU, and all vCPUs find them under
//! RCU. They go when the guest says so or registers others, when a vCPU is reset, when the VMM moves
//! the memory from under them, and when it closes the VM's file. Whatever the reason, whoever takes
//! them away waits until no vCPU uses them, and then [closes](Descriptors::close) them: nothing that
//! was posted is lost, and nothing is left for somebody to look for.
//!
//! # Concurrency
//!
//! [`Vm::memory`] is held while KVM changes a memory slot, so that both agree, and while descriptors
//! are exchanged. Under it KVM's own locks are taken, and RCU is waited for; it is never taken with
//! the VMM's memory map locked. [`Vm::kicks`] is held while memory is mapped. [`Vm::file`] and
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
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
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
    preempt::PreemptNotifiers,
    published::Published, //
};
use pvirq_protocol::port::{
    Array,
    Status, //
};

use crate::{
    descriptors::Descriptors,
    extension,
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
        KVM_X2APIC_API_USE_32BIT_IDS, //
    },
    memory::Memory,
    msi::Messages,
    poller::Polling,
    target::Target,
    vcpu::Vcpu,
    wrap,
    Overlay, //
};

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
    /// Whether messages can have APIC IDs of more than 8 bits.
    long_apic_ids: Atomic<bool>,
    #[pin]
    pub(crate) polling: Polling,
    /// Whether KVM's own polling has been switched off.
    polling_taken: Atomic<bool>,
    #[pin]
    memory: Mutex<Memory>,
    /// KVM's file, as long as the VMM has ours.
    #[pin]
    file: Mutex<Option<ARef<File>>>,
    /// All vCPUs that there have been: KVM makes none twice.
    #[pin]
    targets: Mutex<List<Target>>,
    /// What injects the vectors that vCPUs are kicked for, if they are, as long as the VMM has our file.
    #[pin]
    kicks: Mutex<Option<Arc<Messages>>>,
}

impl Vm {
    fn new(overlay: Arc<Overlay>, file: ARef<File>) -> impl PinInit<Self> {
        overlay.statistics.begin_vm();
        let polling = Polling::new(&overlay.poll);
        pin_init!(Self {
            overlay,
            notifiers: PreemptNotifiers::enable(),
            descriptors: Published::empty(),
            lapics: Atomic::new(false),
            long_apic_ids: Atomic::new(false),
            polling <- polling,
            polling_taken: Atomic::new(false),
            memory <- new_mutex!(Memory::new()),
            file <- new_mutex!(Some(file)),
            targets <- new_mutex!(List::new()),
            kicks <- new_mutex!(None),
        })
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
            let file = self.file.lock().clone().ok_or(ENODEV)?;
            let messages = Messages::new(file, LONG_APIC_IDS)?;
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
        match self.long_apic_ids.load(Relaxed) {
            true => LONG_APIC_IDS,
            false => SHORT_APIC_IDS,
        }
    }

    /// Switches KVM's own polling off, once. In the VMM's process.
    ///
    /// If that fails, vCPUs poll twice before they sleep. A VMM that sets it later has its way.
    pub(crate) fn take_over_polling(&self) {
        if self.polling_taken.load(Relaxed) {
            return;
        }
        self.polling_taken.store(true, Relaxed);
        if let Some(file) = self.file.lock().clone() {
            let _ = kvm_enable_cap::new(KVM_CAP_HALT_POLL, 0).call(&file);
        }
    }

    /// Registers descriptors, in the place of those before them. In the VMM's process.
    pub(crate) fn register(&self, array: Array) -> Result<(), Status> {
        let len = array.check(self.max_descriptors())?;
        if !self.lapics.load(Relaxed) {
            return Err(Status::NoLapic);
        }
        let file = self.file.lock().clone().ok_or(Status::NoMemory)?;
        let user = self.memory.lock().find(array.address, len)?;
        if self.is_registered(array, user) {
            return Ok(());
        }

        // To pin pages can take the VMM's help, so it must not wait for us meanwhile.
        let messages = Messages::new(file, Descriptors::slots(array.count))
            .and_then(|messages| Ok(Arc::new(messages, GFP_KERNEL_ACCOUNT)?))
            .map_err(|_| Status::NoMemory)?;
        let epoch = self.overlay.epochs.next();
        let new = Descriptors::new(array, user, messages, self.polling.first(), epoch)?;
        let new = KBox::new(new, GFP_KERNEL_ACCOUNT).map_err(|_| Status::NoMemory)?;

        let memory = self.memory.lock();
        if memory.find(array.address, len)? != user || self.file.lock().is_none() {
            return Err(Status::NotRam);
        }
        let old = self.descriptors.replace(Some(new));
        drop(memory);
        Self::close(old);
        Ok(())
    }

    /// Returns whether these descriptors are registered, and `user` is where they are in the VMM.
    fn is_registered(&self, array: Array, user: u64) -> bool {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .is_some_and(|descriptors| descriptors.place() == (array, user))
    }

    /// Returns the number of the guest's registration, 0 if there is none.
    pub(crate) fn epoch(&self) -> u32 {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .map_or(0, |descriptors| descriptors.epoch().get())
    }

    /// Forgets the descriptors, and says whether there were any.
    pub(crate) fn unregister(&self) -> bool {
        let memory = self.memory.lock();
        let old = self.descriptors.replace(None);
        drop(memory);
        Self::close(old)
    }

    fn close(old: Option<KBox<Descriptors>>) -> bool {
        old.inspect(|descriptors| descriptors.close()).is_some()
    }

    /// Changes a memory slot by `change`, which calls KVM, and forgets the descriptors if they are
    /// not where they were any more.
    fn change_memory(
        &self,
        region: &kvm_userspace_memory_region,
        change: impl FnOnce() -> Result<isize>,
    ) -> Result<isize> {
        let mut memory = self.memory.lock();
        memory.reserve()?;
        let result = change()?;
        memory.set(region);

        let moved = {
            let guard = rcu::read_lock();
            self.descriptors.get(&guard).is_some_and(|descriptors| {
                let (array, user) = descriptors.place();
                let len = array.check(LONG_APIC_IDS);

                len.and_then(|len| memory.find(array.address, len)) != Ok(user)
            })
        };
        let old = if moved {
            self.descriptors.replace(None)
        } else {
            None
        };
        drop(memory);
        Self::close(old);
        Ok(result)
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
            let Ok(vm) = vm.pin_init_with(Vm::new(overlay.clone(), real.clone()));
            let vm = vm.into();
            KBox::write(this, Self { real, vm })
        })
    }

    /// Passes on `KVM_SET_USER_MEMORY_REGION` or its successor.
    fn set_memory_region(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.ioctl(request);

        match read_argument_at::<kvm_userspace_memory_region>(request, 0) {
            Ok(region) => self.vm.change_memory(&region, forward),
            // What cannot be read is KVM's to refuse.
            Err(_) => forward(),
        }
    }

    /// Passes on `KVM_CREATE_IRQCHIP`.
    fn create_irqchip(&self, request: Ioctl<'_>) -> Result<isize> {
        self.real
            .ioctl(request)
            .inspect(|_| self.vm.lapics.store(true, Relaxed))
    }

    /// Passes on `KVM_ENABLE_CAP`.
    fn enable_cap(&self, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.ioctl(request);

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
                if capability.args[0] & KVM_X2APIC_API_USE_32BIT_IDS != 0 {
                    self.vm.long_apic_ids.store(true, Relaxed);
                }
            }),
            _ => forward(),
        }
    }

    /// Passes on `KVM_ENABLE_CAP` for a capability that names another VM.
    ///
    /// KVM takes nothing but its own files for the VM whose encryption context is to be copied or
    /// moved. So it finds its own behind the descriptor while it looks.
    fn lend(&self, capability: &kvm_enable_cap, request: Ioctl<'_>) -> Result<isize> {
        let forward = || self.real.ioctl(request);
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
            .lend(fd, &file, source.real.clone(), forward)
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
            KVM_CREATE_VCPU => Vcpu::create(&this.vm, &this.real, request),
            KVM_SET_USER_MEMORY_REGION | KVM_SET_USER_MEMORY_REGION2 => {
                this.set_memory_region(request)
            }
            KVM_CREATE_IRQCHIP => this.create_irqchip(request),
            KVM_ENABLE_CAP => this.enable_cap(request),
            _ => extension::ioctl(&this.vm, &this.real, request)
                .unwrap_or_else(|| this.real.ioctl(request)),
        }
    }

    fn release(this: KBox<Self>) {
        // As KVM's irqfds go with the VM's file, what is bound does.
        this.vm.overlay.injector.unbind_all(&this.vm);
        let kicks = this.vm.kicks.lock().take();
        drop(kicks);
        // And so nothing of ours may keep that file.
        let file = this.vm.file.lock().take();
        this.vm.unregister();
        drop(file);
    }
}
