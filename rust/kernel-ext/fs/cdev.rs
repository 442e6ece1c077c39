// SPDX-License-Identifier: GPL-2.0

//! Character devices.
//!
//! C headers: [`include/linux/cdev.h`](srctree/include/linux/cdev.h) and
//! [`include/linux/device/class.h`](srctree/include/linux/device/class.h)
//!
//! Unlike a misc device's, their `open` does not run under a global mutex.

use core::ptr::{
    null_mut,
    NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_char,
        c_int, //
    },
    fs::File,
    module::this_module,
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::fs::file_operations::{
    FileOperations,
    FileOps, //
};

impl<T: CharDevice> FileOps<T> {
    /// Makes the table for a character device.
    pub const fn for_device() -> Self {
        // SAFETY: `open` stores what `into_foreign` returned, or fails.
        unsafe { Self::with_open(open::<T>) }
    }
}

/// A character device with a single instance, and its own node in `/dev`.
pub trait CharDevice: FileOperations {
    /// The data that all opens of the device share.
    type Context: Send + Sync;

    /// The name of the device, of its node and of its class.
    const NAME: &'static CStr;

    /// The permissions of the node.
    const MODE: u16;

    /// Opens the device, and returns the private data of `file`.
    fn open(context: &Self::Context, file: &File) -> Result<Self::Data>;
}

/// The registration of a character device.
///
/// The device can be opened as soon as it is registered, so modules do that last. Dropping the
/// registration removes the device; open files of it stay.
///
/// # Invariants
///
/// `inner` is valid, its `device` and `cdev` have been added, and this owns a reference to `device`,
/// which keeps `inner` alive.
pub struct Registration<T: CharDevice> {
    inner: NonNull<Inner<T>>,
    // Dropped in this order.
    _class: Class,
    _number: Number,
}

// SAFETY: Any thread may remove the device, its class and its number, and the context is `Send`.
unsafe impl<T: CharDevice> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: CharDevice> Sync for Registration<T> {}

/// The part of a registration that open files keep alive.
///
/// It is freed with the last reference to `device`. Each open file holds a reference to `cdev`,
/// which holds one to `device`.
#[pin_data]
struct Inner<T: CharDevice> {
    #[pin]
    device: Opaque<bindings::device>,
    #[pin]
    cdev: Opaque<bindings::cdev>,
    context: T::Context,
}

impl<T: CharDevice> Registration<T> {
    /// Registers the device and creates its node.
    pub fn register(context: T::Context) -> Result<Self> {
        // With another table, open files would have no private data.
        if !T::table().is_for_device() {
            return Err(EINVAL);
        }

        let number = Number::alloc(T::NAME)?;
        let class = Class::create::<T>()?;
        let inner = KBox::pin_init(Inner::<T>::new(context, class.0, number.0), GFP_KERNEL)?;
        // SAFETY: It is leaked, and not moved until `Inner::release` frees it.
        let inner = NonNull::from(KBox::leak(unsafe { Pin::into_inner_unchecked(inner) }));
        // SAFETY: `inner` is valid.
        let (device, cdev) = unsafe { (inner.as_ref().device.get(), inner.as_ref().cdev.get()) };

        // SAFETY: Both have been initialised. The format takes one string.
        let added = unsafe {
            to_result(bindings::dev_set_name(
                device,
                c"%s".as_char_ptr(),
                T::NAME.as_char_ptr(),
            ))
            .and_then(|()| to_result(bindings::cdev_device_add(cdev, device)))
        };
        if let Err(err) = added {
            // SAFETY: This drops the reference from `device_initialize`.
            unsafe { bindings::put_device(device) };
            return Err(err);
        }

        // INVARIANT: Just added.
        Ok(Self {
            inner,
            _class: class,
            _number: number,
        })
    }
}

impl<T: CharDevice> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `inner` is valid until this gives up its reference, and
        // both of its parts have been added.
        unsafe {
            let device = self.inner.as_ref().device.get();

            bindings::cdev_device_del(self.inner.as_ref().cdev.get(), device);
            bindings::put_device(device);
        }
    }
}

impl<T: CharDevice> Inner<T> {
    fn new(
        context: T::Context,
        class: *mut bindings::class,
        number: bindings::dev_t,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            device <- Opaque::ffi_init(move |device: *mut bindings::device| {
                // SAFETY: `device` may be written to and is pinned, and all zeroes is what
                // `device_initialize` expects.
                unsafe {
                    device.write_bytes(0, 1);
                    bindings::device_initialize(device);
                    (*device).class = class;
                    (*device).devt = number;
                    (*device).release = Some(Self::release);
                }
            }),
            cdev <- Opaque::ffi_init(|cdev: *mut bindings::cdev| {
                // SAFETY: `cdev` may be written to and is pinned. The table is static.
                unsafe {
                    bindings::cdev_init(cdev, T::table().as_ptr());
                    (*cdev).owner = this_module::<T::OwnerModule>().as_ptr();
                }
            }),
            context,
        })
    }

    /// # Safety
    ///
    /// Must only be called by the driver core, when the last reference to `device` is gone.
    unsafe extern "C" fn release(device: *mut bindings::device) {
        // SAFETY: Only `Inner::new` sets this callback, for the device within itself.
        let inner = unsafe { kernel::container_of!(Opaque::cast_from(device), Self, device) };

        // SAFETY: `Registration::register` leaked the box, and there is no reference to it left.
        drop(unsafe { KBox::from_raw(inner.cast_mut()) });
    }
}

/// Opens a device.
///
/// # Safety
///
/// Must only be called by the kernel, as `open` of a file on a device that a `Registration<T>` has
/// registered.
pub(crate) unsafe extern "C" fn open<T: CharDevice>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The inode of a character device that is being opened refers to its `cdev`, to which
    // the kernel holds a reference.
    let cdev = unsafe { (*inode).__bindgen_anon_5.i_cdev };
    // SAFETY: The table belongs to a `Registration<T>`, whose `cdev` this is.
    let inner = unsafe { &*kernel::container_of!(Opaque::cast_from(cdev), Inner<T>, cdev) };

    // SAFETY: The file is valid for the duration of the call. It has no descriptor yet that could
    // be used for its position.
    match T::open(&inner.context, unsafe { File::from_raw_file(file) }) {
        Ok(data) => {
            // SAFETY: The file is still being opened: nothing else accesses its private data.
            unsafe { (*file).private_data = data.into_foreign() };
            0
        }
        Err(err) => err.to_errno(),
    }
}

/// A reserved device number.
struct Number(bindings::dev_t);

impl Number {
    fn alloc(name: &'static CStr) -> Result<Self> {
        let mut number = 0;

        // SAFETY: `number` may be written to, and `name` is static.
        to_result(unsafe { bindings::alloc_chrdev_region(&mut number, 0, 1, name.as_char_ptr()) })?;
        Ok(Self(number))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: The number has been reserved.
        unsafe { bindings::unregister_chrdev_region(self.0, 1) };
    }
}

/// The device's class.
struct Class(*mut bindings::class);

impl Class {
    fn create<T: CharDevice>() -> Result<Self> {
        // SAFETY: The name is static.
        let class = Self(from_err_ptr(unsafe {
            bindings::class_create(T::NAME.as_char_ptr())
        })?);

        // SAFETY: The class is new: it has no device that the callback could be called for.
        unsafe { (*class.0).devnode = Some(devnode::<T>) };
        Ok(class)
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        // SAFETY: The class exists, and its only device is gone.
        unsafe { bindings::class_destroy(self.0) };
    }
}

/// Sets the permissions of the node.
///
/// # Safety
///
/// `mode` must be null or valid for writes.
unsafe extern "C" fn devnode<T: CharDevice>(
    _device: *const bindings::device,
    mode: *mut bindings::umode_t,
) -> *mut c_char {
    if !mode.is_null() {
        // SAFETY: By the safety requirements it is valid for writes.
        unsafe { *mode = T::MODE };
    }

    // The node has the device's name.
    null_mut()
}
