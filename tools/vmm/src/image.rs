// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Guest images: ELF programs, or flat memory images.

use std::{fs, io::Cursor, path::Path};

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use crate::{boot::IMAGE_START, error::Error};

/// The mini guest, an ELF program.
const MINI_GUEST: &[u8] = include_bytes!(env!("MINI_GUEST"));

/// A guest image.
pub struct Image {
    name: String,
    bytes: Vec<u8>,
}

impl Image {
    /// The guest that measures and tests, see the crate `mini-guest`.
    pub fn mini_guest() -> Self {
        Image {
            name: "mini guest".into(),
            bytes: MINI_GUEST.into(),
        }
    }

    /// Reads an image from a file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let bytes = fs::read(path).map_err(Error::os(format!("cannot read {name}")))?;
        if bytes.is_empty() {
            return Err(Error::Image(format!("{name} is empty")));
        }
        Ok(Image { name, bytes })
    }

    /// Loads the image, and returns its entry point: an ELF program at the addresses that it names, and a flat image at
    /// [`IMAGE_START`], which is its entry point as well.
    pub fn load(&self, memory: &GuestMemoryMmap) -> Result<GuestAddress, Error> {
        let entry = if self.bytes.starts_with(b"\x7fELF") {
            // The loader takes segments below this address for a mistake, and so do we: it is the VMM's.
            Elf::load(
                memory,
                None,
                &mut Cursor::new(&self.bytes),
                Some(IMAGE_START),
            )
            .map_err(|error| Error::Image(format!("{}: {error}", self.name)))?
            .kernel_load
        } else {
            memory
                .write_slice(&self.bytes, IMAGE_START)
                .map_err(|error| Error::Image(format!("{} does not fit: {error}", self.name)))?;
            IMAGE_START
        };
        if !memory.address_in_range(entry) {
            return Err(Error::Image(format!(
                "{}: entry point {:#x} is outside of memory",
                self.name, entry.0
            )));
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(size: usize) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap()
    }

    fn image(bytes: &[u8]) -> Image {
        Image {
            name: "test".into(),
            bytes: bytes.into(),
        }
    }

    #[test]
    fn the_mini_guest_loads_above_the_vmms_memory() {
        let entry = Image::mini_guest().load(&memory(8 << 20)).unwrap();
        assert!(entry >= IMAGE_START);
    }

    #[test]
    fn a_flat_image_starts_at_its_start() {
        let memory = memory(2 << 20);
        assert_eq!(image(&[0xf4, 0x90]).load(&memory).unwrap(), IMAGE_START);
        assert_eq!(memory.read_obj::<u16>(IMAGE_START).unwrap(), 0x90f4);
    }

    #[test]
    fn images_that_cannot_be_loaded_are_refused() {
        assert!(image(&vec![0x90; 2 << 20]).load(&memory(2 << 20)).is_err());
        assert!(image(b"\x7fELF but not really")
            .load(&memory(2 << 20))
            .is_err());
        assert!(Image::mini_guest().load(&memory(1 << 20)).is_err());
        assert!(Image::from_file(Path::new("/nonexistent")).is_err());
    }
}
