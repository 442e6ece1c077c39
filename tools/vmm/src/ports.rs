// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The machine's devices: a serial console, and ports to end the machine and to measure.

use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use mini_guest::port;
use vm_superio::{serial::NoEvents, Serial, Trigger};

/// The serial port's interrupt, which is not connected: guests poll.
struct NotConnected;

impl Trigger for NotConnected {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What a write to a port means for the vCPU that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It goes on.
    Continue,
    /// It has finished its job.
    Parked,
    /// It ends the machine with a status.
    Exit(u8),
}

/// The ports of a machine, used by all of its vCPUs.
pub struct Ports {
    serial: Mutex<Serial<NotConnected, NoEvents, Box<dyn Write + Send>>>,
    bell: Mutex<Option<Bell>>,
}

/// What happens when a guest writes to [`port::RING`].
pub type Bell = Box<dyn FnMut() + Send>;

impl Ports {
    const SERIAL_LAST: u16 = port::SERIAL + 7;

    /// Makes the ports, with a console that writes to `console`.
    pub fn new(console: Box<dyn Write + Send>) -> Self {
        Ports {
            serial: Mutex::new(Serial::new(NotConnected, console)),
            bell: Mutex::new(None),
        }
    }

    /// Has `bell` called when a vCPU writes to [`port::RING`], in its thread.
    pub fn set_bell(&self, bell: Bell) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
    }

    /// A vCPU writes `data` to a port: one byte, or several in a row by a string instruction.
    pub fn write(&self, address: u16, data: &[u8]) -> Written {
        match address {
            port::NULL => Written::Continue,
            port::RING => {
                let mut bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bell) = bell.as_mut() {
                    bell();
                }
                Written::Continue
            }
            port::PARK => Written::Parked,
            port::EXIT => Written::Exit(data.first().copied().unwrap_or_default()),
            port::SERIAL..=Self::SERIAL_LAST => {
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                for &byte in data {
                    // A console without a reader is not the guest's fault.
                    let _ = serial.write((address - port::SERIAL) as u8, byte);
                }
                Written::Continue
            }
            _ => Written::Continue,
        }
    }

    /// A vCPU reads a port.
    pub fn read(&self, address: u16, data: &mut [u8]) {
        match address {
            port::SERIAL..=Self::SERIAL_LAST => {
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                data.fill_with(|| serial.read((address - port::SERIAL) as u8));
            }
            _ => data.fill(0xff),
        }
    }
}

/// A console that is kept in memory.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Vec<u8>>>);

impl Transcript {
    /// What has been written.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_takes_strings() {
        let transcript = Transcript::default();
        let ports = Ports::new(Box::new(transcript.clone()));
        assert_eq!(ports.write(port::SERIAL, b"hello, "), Written::Continue);
        assert_eq!(ports.write(port::SERIAL, b"world"), Written::Continue);
        assert_eq!(transcript.text(), "hello, world");

        // The line status register says that the transmitter is empty.
        let mut status = [0];
        ports.read(port::SERIAL + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }

    #[test]
    fn ports_of_our_own_tell_the_vcpu_what_to_do() {
        let ports = Ports::new(Box::new(io::sink()));
        assert_eq!(ports.write(port::NULL, &[0]), Written::Continue);
        assert_eq!(ports.write(port::PARK, &[0]), Written::Parked);
        assert_eq!(ports.write(port::EXIT, &[7]), Written::Exit(7));
    }

    #[test]
    fn a_bell_rings_once_it_is_there() {
        let ports = Ports::new(Box::new(io::sink()));
        assert_eq!(ports.write(port::RING, &[0]), Written::Continue);
        let (rung, rings) = std::sync::mpsc::channel();
        ports.set_bell(Box::new(move || rung.send(()).unwrap()));
        ports.write(port::RING, &[0]);
        ports.write(port::RING, &[0]);
        assert_eq!(rings.try_iter().count(), 2);
    }

    #[test]
    fn nobody_answers_on_other_ports() {
        let ports = Ports::new(Box::new(io::sink()));
        let mut data = [0; 4];
        ports.read(0x510, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(ports.write(0x510, &[1]), Written::Continue);
    }
}
