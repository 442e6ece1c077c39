// SPDX-License-Identifier: GPL-2.0

//! Does one thing wrong, to prove that the debug kernel notices.
//!
//! Each parameter selects one mistake, made when the module is loaded. `tools/testvm/test-debug` loads it once for each
//! and wants a report. It is built for the debug kernel only, and for nothing else.

use kernel::{
    new_mutex, new_spinlock,
    prelude::*,
    sync::{Mutex, SpinLock},
};

module! {
    type: Broken,
    name: "broken",
    authors: ["The pvirq developers"],
    description: "Mistakes on demand",
    license: "GPL",
    params: {
        use_after_free: bool {
            default: false,
            description: "Read memory that has been freed",
        },
        lock_inversion: bool {
            default: false,
            description: "Take two locks in both orders",
        },
        sleep_in_atomic: bool {
            default: false,
            description: "Take a mutex with a spinlock held",
        },
        leak: bool {
            default: false,
            description: "Lose the last pointers to allocations",
        },
    },
}

#[pin_data]
struct Locks {
    #[pin]
    first: Mutex<u32>,
    #[pin]
    second: Mutex<u32>,
    #[pin]
    spin: SpinLock<u32>,
}

struct Broken {
    _locks: Pin<KBox<Locks>>,
}

impl kernel::Module for Broken {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let locks = KBox::pin_init(
            pin_init!(Locks {
                first <- new_mutex!(1, "broken::first"),
                second <- new_mutex!(2, "broken::second"),
                spin <- new_spinlock!(3, "broken::spin"),
            }),
            GFP_KERNEL,
        )?;

        if module_parameters::use_after_free.value() {
            use_after_free()?;
        }
        if module_parameters::lock_inversion.value() {
            lock_inversion(&locks);
        }
        if module_parameters::sleep_in_atomic.value() {
            sleep_in_atomic(&locks);
        }
        if module_parameters::leak.value() {
            leak()?;
        }
        Ok(Self { _locks: locks })
    }
}

fn use_after_free() -> Result {
    let allocated = KBox::new(0u64, GFP_KERNEL)?;
    let freed: *const u64 = &raw const *allocated;
    drop(allocated);

    // SAFETY: There is none: the allocation is gone, which is the mistake to be found.
    let value = unsafe { freed.read_volatile() };
    pr_info!("read {} after free\n", value);
    Ok(())
}

fn lock_inversion(locks: &Locks) {
    {
        let first = locks.first.lock();
        let second = locks.second.lock();
        pr_info!("{} before {}\n", *first, *second);
    }
    let second = locks.second.lock();
    let first = locks.first.lock(); // Inverted.
    pr_info!("{} before {}\n", *second, *first);
}

fn sleep_in_atomic(locks: &Locks) {
    let spin = locks.spin.lock();
    let first = locks.first.lock(); // In atomic context.
    pr_info!("{} inside {}\n", *first, *spin);
}

/// Loses so many allocations because SLUB's sheaves, which kmemleak looks into, keep stale pointers to the last few.
const LOST: usize = 256;

fn leak() -> Result {
    for _ in 0..LOST {
        core::mem::forget(KBox::new([0xa5u8; 200], GFP_KERNEL)?);
    }
    Ok(())
}
