// SPDX-License-Identifier: GPL-2.0

//! Being told of CPUs that come and go.
//!
//! C header: [`include/linux/cpuhotplug.h`](srctree/include/linux/cpuhotplug.h)
//!
//! # Concurrency
//!
//! The callbacks of one CPU follow each other, in a thread that is bound to it. While callbacks are
//! registered or taken back, no CPU comes or goes.

use kernel::{
    bindings,
    container_of,
    cpu::CpuId,
    error::to_result,
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*,
    types::Opaque, //
};

/// Who wants to be told.
pub trait CpuHotplug: Send + Sync {
    /// What `/sys/devices/system/cpu/hotplug/states` calls it.
    const NAME: &'static CStr;

    /// A CPU is online: the current one. May sleep. An error takes it offline again.
    fn online(&self, cpu: CpuId) -> Result;

    /// A CPU, the current one, is going offline. May sleep.
    fn offline(&self, cpu: CpuId);
}

/// Tells `target` of each CPU that is online, of those that come, and of those that go.
///
/// When this is dropped, `target` is told that all go.
///
/// # Invariants
///
/// `state` is a state of the hotplug machine, and `instance` one of its instances.
pub struct Registration<T: CpuHotplug> {
    state: c_int,
    instance: Pin<KBox<Instance<T>>>,
}

/// What the hotplug machine has of a registration.
#[pin_data]
struct Instance<T> {
    #[pin]
    node: Opaque<bindings::hlist_node>,
    target: T,
}

// SAFETY: The list's node is for the hotplug machine alone, which has its locks.
unsafe impl<T: Send> Send for Instance<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Instance<T> {}

impl<T: CpuHotplug> Registration<T> {
    /// Tells `target` of all CPUs that are online, and of changes from then on.
    ///
    /// # Errors
    ///
    /// What `target` says of one of the CPUs. It has been told that all others go, then.
    pub fn register(target: T) -> Result<Self> {
        let instance = KBox::pin_init(
            pin_init!(Instance {
                node <- Opaque::ffi_init(|node: *mut bindings::hlist_node| {
                    // SAFETY: It may be written to, and zeroes are a node in no list.
                    unsafe { node.write_bytes(0, 1) }
                }),
                target,
            }),
            GFP_KERNEL,
        )?;

        // SAFETY: The name is static, and so are the callbacks, which are for instances of this
        // type. There is none yet.
        let state = unsafe {
            bindings::__cpuhp_setup_state(
                bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
                T::NAME.as_char_ptr(),
                false,
                // The type is that of the callbacks of states without instances.
                Some(core::mem::transmute::<InstanceCallback, Callback>(
                    Self::online,
                )),
                Some(core::mem::transmute::<InstanceCallback, Callback>(
                    Self::offline,
                )),
                true,
            )
        };
        to_result(state.min(0))?;

        let node = instance.node.get();
        // SAFETY: The node is in no list, is pinned, and stays as long as it is in this one.
        let added = unsafe { bindings::__cpuhp_state_add_instance(state, node, true) };
        if let Err(err) = to_result(added) {
            // SAFETY: The state was set up above, and has no instances.
            unsafe { bindings::__cpuhp_remove_state(state, false) };
            return Err(err);
        }
        // INVARIANT: Both have just been registered.
        Ok(Self { state, instance })
    }

    /// # Safety
    ///
    /// To be called by the hotplug machine alone, with the node of an instance.
    unsafe extern "C" fn online(cpu: c_uint, node: *mut bindings::hlist_node) -> c_int {
        // SAFETY: What the machine gives is the node of an instance that is registered.
        let instance = unsafe { Self::instance(node) };

        CpuId::from_u32(cpu).map_or(0, |cpu| match instance.target.online(cpu) {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        })
    }

    /// # Safety
    ///
    /// As for [`Registration::online`].
    unsafe extern "C" fn offline(cpu: c_uint, node: *mut bindings::hlist_node) -> c_int {
        // SAFETY: As in `online`.
        let instance = unsafe { Self::instance(node) };

        if let Some(cpu) = CpuId::from_u32(cpu) {
            instance.target.offline(cpu);
        }
        0
    }

    /// # Safety
    ///
    /// `node` must be that of an instance that is registered, and stays so for `'a`.
    unsafe fn instance<'a>(node: *mut bindings::hlist_node) -> &'a Instance<T> {
        // SAFETY: By the requirements it is within an instance.
        unsafe { &*container_of!(Opaque::cast_from(node), Instance<T>, node) }
    }
}

/// A callback as `__cpuhp_setup_state()` takes it.
type Callback = unsafe extern "C" fn(c_uint) -> c_int;
/// A callback as it is called if there are instances.
type InstanceCallback = unsafe extern "C" fn(c_uint, *mut bindings::hlist_node) -> c_int;

impl<T: CpuHotplug> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants both are registered. Afterwards nobody refers to the
        // instance.
        unsafe {
            bindings::__cpuhp_state_remove_instance(self.state, self.instance.node.get(), true);
            bindings::__cpuhp_remove_state(self.state, false);
        }
    }
}
