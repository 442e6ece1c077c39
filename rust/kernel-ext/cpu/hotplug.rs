// SPDX-License-Identifier: GPL-2.0

//! CPU hotplug callbacks.
//!
//! C header: [`include/linux/cpuhotplug.h`](srctree/include/linux/cpuhotplug.h)
//!
//! # Concurrency
//!
//! The callbacks of one CPU run one after the other, in a thread that is bound to it. While callbacks
//! are registered or removed, no CPU comes online or goes offline.

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

/// The callbacks for CPUs that come online and go offline.
pub trait CpuHotplug: Send + Sync {
    /// The name of the state in `/sys/devices/system/cpu/hotplug/states`.
    const NAME: &'static CStr;

    /// Called on a CPU that is online: the current one. May sleep. An error takes it offline again.
    fn online(&self, cpu: CpuId) -> Result;

    /// Called on a CPU that is going offline: the current one. May sleep.
    fn offline(&self, cpu: CpuId);
}

/// The registration of hotplug callbacks.
///
/// When this is dropped, [`CpuHotplug::offline`] is called for all CPUs that are online.
///
/// # Invariants
///
/// `state` is a state of the hotplug state machine, and `instance` one of its instances.
pub struct Registration<T: CpuHotplug> {
    state: c_int,
    instance: Pin<KBox<Instance<T>>>,
}

/// The part of a registration that the hotplug state machine refers to.
#[pin_data]
struct Instance<T> {
    #[pin]
    node: Opaque<bindings::hlist_node>,
    target: T,
}

// SAFETY: Only the hotplug state machine uses the list's node, under its own locks.
unsafe impl<T: Send> Send for Instance<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Instance<T> {}

impl<T: CpuHotplug> Registration<T> {
    /// Calls [`CpuHotplug::online`] for all CPUs that are online, and the callbacks of `target` for
    /// each change from then on.
    ///
    /// # Errors
    ///
    /// The error of `target` for one of the CPUs. [`CpuHotplug::offline`] has been called for those
    /// before it.
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

        // SAFETY: The name and the callbacks are static. The callbacks are for instances of this
        // type, of which there is none yet.
        let state = unsafe {
            bindings::__cpuhp_setup_state(
                bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
                T::NAME.as_char_ptr(),
                false,
                // The parameter has the type of the callbacks of states without instances.
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
        // SAFETY: The node is in no list, is pinned, and lives as long as it is in this one.
        let added = unsafe { bindings::__cpuhp_state_add_instance(state, node, true) };
        if let Err(err) = to_result(added) {
            // SAFETY: The state was set up above, and has no instances.
            unsafe { bindings::__cpuhp_remove_state(state, false) };
            return Err(err);
        }
        // INVARIANT: Both were just registered.
        Ok(Self { state, instance })
    }

    /// # Safety
    ///
    /// Must only be called by the hotplug state machine, with the node of an instance.
    unsafe extern "C" fn online(cpu: c_uint, node: *mut bindings::hlist_node) -> c_int {
        // SAFETY: By the safety requirements the node is that of a registered instance.
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
    /// `node` must be that of an instance that is registered for `'a`.
    unsafe fn instance<'a>(node: *mut bindings::hlist_node) -> &'a Instance<T> {
        // SAFETY: By the safety requirements it is within an instance.
        unsafe { &*container_of!(Opaque::cast_from(node), Instance<T>, node) }
    }
}

/// A callback as `__cpuhp_setup_state()` takes it.
type Callback = unsafe extern "C" fn(c_uint) -> c_int;
/// A callback as it is called for an instance.
type InstanceCallback = unsafe extern "C" fn(c_uint, *mut bindings::hlist_node) -> c_int;

impl<T: CpuHotplug> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants both are registered. Afterwards nothing refers to the
        // instance.
        unsafe {
            bindings::__cpuhp_state_remove_instance(self.state, self.instance.node.get(), true);
            bindings::__cpuhp_remove_state(self.state, false);
        }
    }
}
