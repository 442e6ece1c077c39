// SPDX-License-Identifier: GPL-2.0

//! Character devices.
//!
//! C headers: [`include/linux/cdev.h`](srctree/include/linux/cdev.h) and
//! [`include/linux/device/class.h`](srctree/include/linux/device/class.h)
//!
//! Unlike those of a misc device, the operations of these do not run under a lock when the device
//! is opened.

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
        // SAFETY: `open` does that.
        unsafe { Self::with_open(open::<T>) }
    }
}

/// A kind of character device of which there is one, with a node of its own in `/dev`.
pub trait CharDevice: FileOperations {
    /// What all opens of the device share.
    type Context: Send + Sync;

    /// The name of the device, of its node and of its class.
    const NAME: &'static CStr;

    /// The permissions that the node is created with.
    const MODE: u16;

    /// Opens the device.
    fn open(context: &Self::Context, file: &File) -> Result<Self::Data>;
}

/// The registration of a character device.
///
/// The device can be opened from when it is registered, so modules do that last. Dropping the
/// registration removes it; files that are open on it stay.
///
/// # Invariants
///
/// `inner` is valid, its `device` and `cdev` have been added, and the reference to `device` that
/// keeps it belongs to this.
pub struct Registration<T: CharDevice> {
    inner: NonNull<Inner<T>>,
    // The order of these is the order in which they are taken down.
    _class: Class,
    _number: Number,
}

// SAFETY: All parts may be taken down by any thread, and the context may be sent.
unsafe impl<T: CharDevice> Send for Registration<T> {}
// SAFETY: Nothing can be got at through a shared reference.
unsafe impl<T: CharDevice> Sync for Registration<T> {}

/// What open files of the device keep alive.
///
/// It is freed when the last reference to `device` is gone. Open files hold one to `cdev`, which
/// holds one to `device`.
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
        // Files that nobody opened would have no private data.
        if !T::table().is_for_device() {
            return Err(EINVAL);
        }

        let number = Number::alloc(T::NAME)?;
        let class = Class::create::<T>()?;
        let inner = KBox::pin_init(Inner::<T>::new(context, class.0, number.0), GFP_KERNEL)?;
        // SAFETY: From here on the references to `device` keep it where it is.
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
            // SAFETY: This gives up the reference that `device` was initialised with.
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
    /// To be called by the kernel alone, when the last reference to `device` is gone.
    unsafe extern "C" fn release(device: *mut bindings::device) {
        // SAFETY: Only `Inner::new` sets this callback, for the device within itself.
        let inner = unsafe { kernel::container_of!(Opaque::cast_from(device), Self, device) };

        // SAFETY: `Registration::register` leaked the box, and nobody refers to it any more.
        drop(unsafe { KBox::from_raw(inner.cast_mut()) });
    }
}

/// Opens a device.
///
/// # Safety
///
/// To be called by the kernel alone, as `open` of a file on a device that a `Registration<T>` has
/// registered.
pub(crate) unsafe extern "C" fn open<T: CharDevice>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The inode of a character device that is being opened refers to its `cdev`, which the
    // kernel holds a reference to.
    let cdev = unsafe { (*inode).__bindgen_anon_5.i_cdev };
    // SAFETY: The table belongs to a `Registration<T>`, whose `cdev` this is.
    let inner = unsafe { &*kernel::container_of!(Opaque::cast_from(cdev), Inner<T>, cdev) };

    // SAFETY: The file is valid for the duration of the call. It has no descriptor yet that could
    // be used for its position.
    match T::open(&inner.context, unsafe { File::from_raw_file(file) }) {
        Ok(data) => {
            // SAFETY: The file is still being opened, so that nobody else looks at its private
            // data.
            unsafe { (*file).private_data = data.into_foreign() };
            0
        }
        Err(err) => err.to_errno(),
    }
}

/// A device number, reserved.
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

/// A class of devices.
struct Class(*mut bindings::class);

impl Class {
    fn create<T: CharDevice>() -> Result<Self> {
        // SAFETY: The name is static.
        let class = Self(from_err_ptr(unsafe {
            bindings::class_create(T::NAME.as_char_ptr())
        })?);

        // SAFETY: The class has just been made and has no devices that the callback would be called
        // for.
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

/// Tells the permissions of the node.
///
/// # Safety
///
/// `mode` must be null or valid for writes.
unsafe extern "C" fn devnode<T: CharDevice>(
    _device: *const bindings::device,
    mode: *mut bindings::umode_t,
) -> *mut c_char {
    if !mode.is_null() {
        // SAFETY: The caller says so.
        unsafe { *mode = T::MODE };
    }

    // The name is that of the device.
    null_mut()
}
