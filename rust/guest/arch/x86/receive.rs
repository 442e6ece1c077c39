// SPDX-License-Identifier: GPL-2.0

//! The vectors by which Linux's CPUs interrupt each other.

use kernel::bindings;
use kernel_ext_cpu::{
    cpuidle::Idle,
    ipi::{
        is_of_devices,
        Ipi, //
    }, //
};
use pvirq_protocol::Vectors;

use crate::arch::Receive;

/// Vectors that have been taken from the CPU's own descriptor.
pub(crate) enum Received {}

impl Receive for Received {
    #[inline]
    fn receive(idle: &Idle, mut vectors: Vectors) {
        let _reserved = vectors.remove_reserved();

        for vector in vectors {
            match u32::from(vector.get()) {
                // The idle loop checks the flag.
                bindings::RESCHEDULE_VECTOR => {}
                bindings::CALL_FUNCTION_VECTOR | bindings::CALL_FUNCTION_SINGLE_VECTOR => {
                    idle.run_queued_calls();
                }
                _ if is_of_devices(vector.get()) => idle.interrupt_self(vector.get()),
                // The others do more than interrupt, and no sender of this kernel's posts them.
                _ => {}
            }
        }
    }
}

// `handle` knows the vector of each `Ipi`.
const _: () = {
    let [a, b, c] = Ipi::ALL;
    assert!(a.vector() as u32 == bindings::RESCHEDULE_VECTOR);
    assert!(b.vector() as u32 == bindings::CALL_FUNCTION_VECTOR);
    assert!(c.vector() as u32 == bindings::CALL_FUNCTION_SINGLE_VECTOR);
};
