// SPDX-License-Identifier: GPL-2.0

//! Files: character devices, anonymous inodes, file operations, ioctls, eventfds.

pub mod anon_inode;
pub mod cdev;
pub mod eventfd;
mod fd;
pub mod file;
pub mod file_operations;
pub mod ioctl;
