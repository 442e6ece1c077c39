// SPDX-License-Identifier: GPL-2.0

//! Pages that processes map by a file, until they are taken away.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! # Concurrency
//!
//! A window's lock is taken in page faults, with the memory map of the process locked, and held while a
//! page is put into that, or while all of them are taken out. Under it are the locks of the files'
//! mappings and of page tables. So whoever has taken the pages away knows that they are in no memory
//! map, and come into none any more. All of it is process context.

use core::ptr::NonNull;
use kernel::{
    alloc::flags::{
        GFP_KERNEL_ACCOUNT,
        __GFP_ZERO, //
    },
    bindings,
    ffi::c_ulong,
    fs::File,
    mm::virt::{
        flags,
        VmaNew, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    },
    types::ForeignOwnable, //
};

/// An inode of a file that pages are mapped by.
///
/// # Invariants
///
/// This owns a reference to it.
struct Inode(NonNull<bindings::inode>);

// SAFETY: An inode may be used and put by any task.
unsafe impl Send for Inode {}

impl Inode {
    fn of(file: &File) -> Result<Self> {
        // SAFETY: A file's inode does not change, and the file holds a reference to it.
        let inode = NonNull::new(unsafe { (*file.as_ptr()).f_inode }).ok_or(EINVAL)?;

        // SAFETY: It is valid.
        unsafe { bindings::ihold(inode.as_ptr()) };
        // INVARIANT: This is the reference.
        Ok(Self(inode))
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.0.as_ptr()).i_mapping }
    }

    /// Takes all pages out of all memory maps.
    fn unmap(&self) {
        // SAFETY: The mapping is that of a valid inode. A length of 0 is all of it.
        unsafe { bindings::unmap_mapping_range(self.mapping(), 0, 0, 1) };
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours to give up.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}

/// What is to be seen.
enum View {
    /// Pages that are mapped in the kernel from here on.
    Pages(NonNull<u8>),
    /// As many blank ones, if anybody has looked. They are zero, and as `vmalloc` has made them.
    Blank(Option<VVec<u8>>),
}

// SAFETY: The pages are not used by way of this, but for finding out where they are.
unsafe impl Send for View {}

/// Pages that may be taken away, and what is seen in their place then: blank ones, which stay as long as
/// anybody has them mapped.
///
/// # Invariants
///
/// While `view` is `Pages`, there are `count` of them.
#[pin_data]
pub struct RevocablePages {
    count: usize,
    #[pin]
    inner: Mutex<Inner>,
}

struct Inner {
    view: View,
    inodes: KVec<Inode>,
}

impl RevocablePages {
    /// Makes a window.
    ///
    /// # Safety
    ///
    /// `address` is that of `count` pages in the kernel's `vmalloc` range, which stay there until
    /// [`RevocablePages::close`] has returned.
    pub(crate) unsafe fn new(address: NonNull<u8>, count: usize) -> Result<Arc<Self>> {
        // INVARIANT: The caller vouches for it.
        Arc::pin_init(
            pin_init!(Self {
                count,
                inner <- new_mutex!(Inner {
                    view: View::Pages(address),
                    inodes: KVec::new(),
                }),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Takes the pages away: when this returns, no process has them, or gets them any more.
    pub fn close(&self) {
        let mut inner = self.inner.lock();

        if let View::Pages(_) = inner.view {
            inner.view = View::Blank(None);
            inner.inodes.iter().for_each(Inode::unmap);
        }
    }

    /// Lets `file` be mapped. It must have an inode of its own.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the pages have been taken away, and `ENOMEM`.
    pub fn open(self: &Arc<Self>, file: &File) -> Result<Opened> {
        let inode = Inode::of(file)?;
        let mapping = inode.mapping();
        let mut inner = self.inner.lock();

        if let View::Blank(_) = inner.view {
            return Err(ENXIO);
        }
        inner.inodes.push(inode, GFP_KERNEL_ACCOUNT)?;
        Ok(Opened {
            window: self.clone(),
            mapping,
        })
    }

    /// Puts what is to be seen at `index` into a memory map.
    ///
    /// # Safety
    ///
    /// `vma` is that of a page fault at `address`, and of a file that the window was opened for.
    unsafe fn insert(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: c_ulong,
        index: usize,
    ) -> bindings::vm_fault_t {
        if index >= self.count {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        let mut inner = self.inner.lock();
        let first = match &mut inner.view {
            View::Pages(first) => first.as_ptr(),
            View::Blank(Some(pages)) => pages.as_mut_ptr(),
            View::Blank(blank) => {
                let size = self.count * PAGE_SIZE;
                let Ok(pages) = VVec::with_capacity(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO) else {
                    return bindings::vm_fault_reason_VM_FAULT_OOM;
                };
                blank.insert(pages).as_mut_ptr()
            }
        };

        // SAFETY: By the type invariants there are so many pages, which are mapped where `vmalloc` does.
        // They stay in the memory map no longer than they stay here: pages are taken out by `close`, and
        // blank ones stay until the mapping has gone, which holds a reference to this.
        unsafe {
            let pfn = bindings::vmalloc_to_pfn(first.add(index * PAGE_SIZE).cast());
            bindings::vmf_insert_pfn(vma, address, pfn)
        }
    }

    /// # Safety
    ///
    /// `vma` must have been made by [`Opened::mmap`], or be a copy of one that was.
    unsafe fn of<'a>(vma: *mut bindings::vm_area_struct) -> ArcBorrow<'a, Self> {
        // SAFETY: Each of them owns a reference.
        unsafe { <Arc<Self> as ForeignOwnable>::borrow((*vma).vm_private_data) }
    }

    /// # Safety
    ///
    /// To be called by the kernel alone, for a mapping with these operations that has been copied.
    unsafe extern "C" fn open_vma(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The one that it was copied from has a reference, and this one is to get its own.
        unsafe { (*vma).vm_private_data = Arc::from(Self::of(vma)).into_foreign() };
    }

    /// # Safety
    ///
    /// To be called by the kernel alone, for a mapping with these operations that goes.
    unsafe extern "C" fn close_vma(vma: *mut bindings::vm_area_struct) {
        // SAFETY: Its reference goes with it.
        drop(unsafe { <Arc<Self> as ForeignOwnable>::from_foreign((*vma).vm_private_data) });
    }

    /// # Safety
    ///
    /// To be called by the kernel alone, for a fault in a mapping with these operations.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The fault is valid.
        let fault = unsafe { (*fault).__bindgen_anon_1 };

        // SAFETY: The mapping has these operations, and so is of a file that the window was opened for.
        unsafe { Self::of(fault.vma).insert(fault.vma, fault.address, fault.pgoff) }
    }
}

/// What a window's mappings do.
struct Operations(bindings::vm_operations_struct);

// SAFETY: The table is never written to.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::vm_operations_struct {
    open: Some(RevocablePages::open_vma),
    close: Some(RevocablePages::close_vma),
    fault: Some(RevocablePages::fault),
    ..pin_init::zeroed()
});

/// What a file has that a window was opened for.
pub struct Opened {
    window: Arc<RevocablePages>,
    /// That of the file's inode.
    mapping: *mut bindings::address_space,
}

// SAFETY: The mapping is only compared.
unsafe impl Send for Opened {}
// SAFETY: As above.
unsafe impl Sync for Opened {}

impl Opened {
    /// Sets up a mapping of the file.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not shared, larger than the window, or of another file.
    pub fn mmap(&self, vma: &VmaNew) -> Result {
        let vma_ptr = vma.as_ptr();
        // SAFETY: A mapping that is being set up has a file, if it is to be that of one.
        let (first, mapping) = unsafe {
            let file = NonNull::new((*vma_ptr).vm_file).ok_or(EINVAL)?;
            ((*vma_ptr).vm_pgoff, (*file.as_ptr()).f_mapping)
        };
        let pages = (vma.end() - vma.start()) / PAGE_SIZE;
        let fits = first
            .checked_add(pages)
            .is_some_and(|end| end <= self.window.count);

        if !fits || mapping != self.mapping || vma.flags() & flags::SHARED == 0 {
            return Err(EINVAL);
        }
        vma.set_dontexpand();
        vma.set_dontdump();
        // SAFETY: The mapping is being set up. It is shared, so that it may be one of page frames. The
        // operations' callbacks expect a reference to the window.
        unsafe {
            (*vma_ptr).__bindgen_anon_2.vm_flags |= flags::PFNMAP;
            (*vma_ptr).vm_ops = &raw const OPERATIONS.0;
            (*vma_ptr).vm_private_data = self.window.clone().into_foreign();
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut inner = self.window.inner.lock();
        let mapping = self.mapping;
        let index = inner
            .inodes
            .iter()
            .position(|inode| inode.mapping() == mapping);
        let inode = index.and_then(|index| inner.inodes.remove(index).ok());

        drop(inner);
        drop(inode);
    }
}
