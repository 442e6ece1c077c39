// SPDX-License-Identifier: GPL-2.0

//! Pages that processes map by a file until the kernel revokes them.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! # Concurrency
//!
//! The lock of [`RevocablePages`] is taken in page faults, under the process's mmap or VMA lock, and
//! held while a page is mapped, or while all of them are unmapped. Under it are the locks of the
//! files' address spaces and of page tables. So after [`RevocablePages::close`] no process has the
//! pages mapped, and none can map them. All of it is process context.

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

/// The inode of a file that maps the pages.
///
/// # Invariants
///
/// This owns a reference to the inode.
struct Inode(NonNull<bindings::inode>);

// SAFETY: An inode may be used and put by any task.
unsafe impl Send for Inode {}

impl Inode {
    fn of(file: &File) -> Result<Self> {
        // SAFETY: A file's inode does not change, and the file holds a reference to it.
        let inode = NonNull::new(unsafe { (*file.as_ptr()).f_inode }).ok_or(EINVAL)?;

        // SAFETY: The inode is valid.
        unsafe { bindings::ihold(inode.as_ptr()) };
        // INVARIANT: `ihold` has just taken the reference.
        Ok(Self(inode))
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.0.as_ptr()).i_mapping }
    }

    /// Unmaps all pages from all processes.
    fn unmap(&self) {
        // SAFETY: The address space is that of a valid inode. A length of 0 is all of it.
        unsafe { bindings::unmap_mapping_range(self.mapping(), 0, 0, 1) };
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this owns the reference.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}

/// The pages that mappings show.
enum View {
    /// The pages at this address in the kernel.
    Pages(NonNull<u8>),
    /// As many zeroed pages from `vmalloc`, allocated at the first page fault.
    Blank(Option<VVec<u8>>),
}

// SAFETY: The address is only used to look up page frames.
unsafe impl Send for View {}

/// Pages that processes can map until they are revoked. From then on mappings show zeroed pages,
/// which live as long as a mapping.
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
    /// Lets processes map `count` pages at `address`.
    ///
    /// # Safety
    ///
    /// The pages must be in the kernel's `vmalloc` range, and stay there until
    /// [`RevocablePages::close`] has returned.
    pub(crate) unsafe fn new(address: NonNull<u8>, count: usize) -> Result<Arc<Self>> {
        // INVARIANT: By the safety requirements.
        Arc::pin_init(
            pin_init!(Self {
                count,
                inner <- new_mutex!(Inner {
                    view: View::Pages(address),
                    inodes: KVec::new(),
                }, "revocable_pages"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Revokes the pages: when this returns, no process has them mapped, and none can map them.
    pub fn close(&self) {
        let mut inner = self.inner.lock();

        if let View::Pages(_) = inner.view {
            inner.view = View::Blank(None);
            inner.inodes.iter().for_each(Inode::unmap);
        }
    }

    /// Lets `file`, which must have an inode of its own, map the pages.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the pages have been revoked, and `ENOMEM`.
    pub fn open(self: &Arc<Self>, file: &File) -> Result<Opened> {
        let inode = Inode::of(file)?;
        let mapping = inode.mapping();
        let mut inner = self.inner.lock();

        if let View::Blank(_) = inner.view {
            return Err(ENXIO);
        }
        inner.inodes.push(inode, GFP_KERNEL_ACCOUNT)?;
        Ok(Opened {
            pages: self.clone(),
            mapping,
        })
    }

    /// Maps the page at `index` into a process.
    ///
    /// # Safety
    ///
    /// `vma` must be that of a page fault at `address`, and have been set up by [`Opened::mmap`].
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

        // SAFETY: By the type invariants there are so many pages, in the `vmalloc` range. They stay
        // mapped no longer than they live: `close` unmaps the pages, and blank ones live until the
        // last mapping, which holds a reference to this, is gone.
        unsafe {
            let pfn = bindings::vmalloc_to_pfn(first.add(index * PAGE_SIZE).cast());
            bindings::vmf_insert_pfn(vma, address, pfn)
        }
    }

    /// # Safety
    ///
    /// `vma` must have been set up by [`Opened::mmap`], or be a copy of one that was.
    unsafe fn of<'a>(vma: *mut bindings::vm_area_struct) -> ArcBorrow<'a, Self> {
        // SAFETY: Each of them owns a reference.
        unsafe { <Arc<Self> as ForeignOwnable>::borrow((*vma).vm_private_data) }
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, for a mapping with these operations that has been copied.
    unsafe extern "C" fn open_vma(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The pointer is a copy of the original's, which owns a reference. This one gets its
        // own.
        unsafe { (*vma).vm_private_data = Arc::from(Self::of(vma)).into_foreign() };
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, for a mapping with these operations that is removed.
    unsafe extern "C" fn close_vma(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The mapping owns a reference, which goes with it.
        drop(unsafe { <Arc<Self> as ForeignOwnable>::from_foreign((*vma).vm_private_data) });
    }

    /// # Safety
    ///
    /// Must only be called by the kernel, for a fault in a mapping with these operations.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The fault is valid.
        let fault = unsafe { (*fault).__bindgen_anon_1 };

        // SAFETY: The mapping has these operations, so `Opened::mmap` has set it up.
        unsafe { Self::of(fault.vma).insert(fault.vma, fault.address, fault.pgoff) }
    }
}

/// The operations of mappings of [`RevocablePages`].
struct Operations(bindings::vm_operations_struct);

// SAFETY: The table is never written to.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::vm_operations_struct {
    open: Some(RevocablePages::open_vma),
    close: Some(RevocablePages::close_vma),
    fault: Some(RevocablePages::fault),
    ..pin_init::zeroed()
});

/// The permission of a file to map [`RevocablePages`]. The file owns it as long as it is open.
pub struct Opened {
    pages: Arc<RevocablePages>,
    /// The address space of the file's inode.
    mapping: *mut bindings::address_space,
}

// SAFETY: The address space is only compared.
unsafe impl Send for Opened {}
// SAFETY: As above.
unsafe impl Sync for Opened {}

impl Opened {
    /// Sets up a mapping of the file.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not shared, goes beyond the pages, or is of another file.
    pub fn mmap(&self, vma: &VmaNew) -> Result {
        let vma_ptr = vma.as_ptr();
        // SAFETY: A mapping that is being set up has a file, unless it is anonymous.
        let (first, mapping) = unsafe {
            let file = NonNull::new((*vma_ptr).vm_file).ok_or(EINVAL)?;
            ((*vma_ptr).vm_pgoff, (*file.as_ptr()).f_mapping)
        };
        let len = (vma.end() - vma.start()) / PAGE_SIZE;
        let fits = first
            .checked_add(len)
            .is_some_and(|end| end <= self.pages.count);

        if !fits || mapping != self.mapping || vma.flags() & flags::SHARED == 0 {
            return Err(EINVAL);
        }
        vma.set_dontexpand();
        vma.set_dontdump();
        // SAFETY: The mapping is being set up. It is shared, as one of page frames must be. The
        // callbacks of the operations expect a reference to `RevocablePages`.
        unsafe {
            (*vma_ptr).__bindgen_anon_2.vm_flags |= flags::PFNMAP;
            (*vma_ptr).vm_ops = &raw const OPERATIONS.0;
            (*vma_ptr).vm_private_data = self.pages.clone().into_foreign();
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut inner = self.pages.inner.lock();
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
