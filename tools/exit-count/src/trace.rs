// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The exits of a vCPU's thread, one by one, from KVM's tracepoint.
//!
//! `kvm:kvm_exit` says why the vCPU left the guest. It cannot say which interrupt of the host's it was that made it
//! leave, because the host takes the interrupt only afterwards. So the tracepoints of the interrupts that matter are
//! recorded into the same ring, which is in order: the first one after an exit is its cause.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use perf_event_open_sys::{bindings as perf, ioctls};

use crate::{
    error::Error,
    exits::{Exits, Reason},
    ring::Ring,
};

/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// `KVM_ISA_SVM` of the tracepoint's field `isa`.
const ISA_SVM: u32 = 2;

/// A tracepoint, and where its fields are in a record.
struct Tracepoint {
    directory: PathBuf,
    id: u16,
}

impl Tracepoint {
    fn find(name: &str) -> Result<Self, Error> {
        let directories = TRACEFS.map(|root| Path::new(root).join("events").join(name));
        let mut error = None;
        for directory in directories {
            match fs::read_to_string(directory.join("id")) {
                Ok(text) => {
                    let id = text
                        .trim()
                        .parse()
                        .map_err(|_| Error::Count(format!("{name} has no valid id")))?;
                    return Ok(Tracepoint { directory, id });
                }
                Err(new) => error = error.or(Some(new)),
            }
        }
        let error = error.map_or(String::new(), |error| format!(": {error}"));
        Err(Error::Count(format!(
            "no tracepoint {name} in {}{error}; is tracefs mounted there, and may you read it (root may)?",
            TRACEFS[0]
        )))
    }

    /// Where a 32-bit field is in a record.
    fn field(&self, name: &str) -> Result<usize, Error> {
        let path = self.directory.join("format");
        let text = fs::read_to_string(&path)
            .map_err(Error::os(format!("cannot read {}", path.display())))?;
        field_offset(&text, name)
            .ok_or_else(|| Error::Count(format!("{} has no 32-bit field {name}", path.display())))
    }

    /// Lets the calling thread's hits of the tracepoint be recorded.
    fn open(&self) -> Result<OwnedFd, Error> {
        let mut attributes = perf::perf_event_attr {
            type_: perf::PERF_TYPE_TRACEPOINT,
            size: size_of::<perf::perf_event_attr>() as u32,
            config: self.id.into(),
            sample_type: perf::PERF_SAMPLE_RAW.into(),
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_period = 1;
        // SAFETY: The attributes are valid for the call, and no pointer is kept.
        let fd = unsafe {
            perf_event_open_sys::perf_event_open(
                &mut attributes,
                0,
                -1,
                -1,
                perf::PERF_FLAG_FD_CLOEXEC.into(),
            )
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(Error::Count(format!(
                "perf_event_open of {} failed: {error}; root may, or CAP_PERFMON",
                self.directory.display()
            )));
        }
        // SAFETY: The file descriptor is new and ours.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Finds a 32-bit field in a tracepoint's `format` file.
fn field_offset(format: &str, name: &str) -> Option<usize> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let field = parts.next()?.strip_prefix("field:")?;
        if field.split_whitespace().last() != Some(name) {
            return None;
        }
        let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
        (parts.next()? == "size:4").then_some(offset)
    })
}

/// How to read the records.
struct Format {
    exit: u16,
    timer: u16,
    exit_reason: usize,
    isa: usize,
}

/// The recorder of a thread's exits.
pub struct ExitTrace {
    format: Format,
    ring: Ring,
    /// Kept open, for the ring is the first one's.
    _events: Vec<OwnedFd>,
}

impl ExitTrace {
    /// Starts to record the calling thread's exits.
    pub fn start() -> Result<Self, Error> {
        let exit = Tracepoint::find("kvm/kvm_exit")?;
        let timer = Tracepoint::find("irq_vectors/local_timer_entry")?;
        let format = Format {
            exit: exit.id,
            timer: timer.id,
            exit_reason: exit.field("exit_reason")?,
            isa: exit.field("isa")?,
        };

        let first = exit.open()?;
        let ring = Ring::map(&first)?;
        let mut events = vec![first];
        let interrupts = [
            "reschedule_entry",
            "call_function_entry",
            "call_function_single_entry",
            "irq_work_entry",
        ];
        let interrupts = interrupts
            .into_iter()
            .map(|name| Tracepoint::find(&format!("irq_vectors/{name}")));
        for tracepoint in [Ok(timer)].into_iter().chain(interrupts) {
            let event = tracepoint?.open()?;
            // SAFETY: Both file descriptors are open perf events.
            if unsafe { ioctls::SET_OUTPUT(event.as_raw_fd(), events[0].as_raw_fd()) } < 0 {
                let error = io::Error::last_os_error();
                return Err(Error::Count(format!(
                    "perf events cannot share a ring: {error}"
                )));
            }
            events.push(event);
        }
        Ok(ExitTrace {
            format,
            ring,
            _events: events,
        })
    }

    /// Takes the exits since the last call.
    pub fn take(&mut self) -> Result<Exits, Error> {
        let mut tally = Tally::new(&self.format);
        self.ring.drain(|raw| tally.record(raw))?;
        Ok(tally.exits)
    }
}

/// Counts exits, record by record.
struct Tally<'a> {
    format: &'a Format,
    exits: Exits,
    /// The last record was an exit because of an interrupt, so the next one says which.
    cause_wanted: bool,
}

impl<'a> Tally<'a> {
    fn new(format: &'a Format) -> Self {
        Tally {
            format,
            exits: Exits::default(),
            cause_wanted: false,
        }
    }

    fn record(&mut self, raw: &[u8]) -> Option<()> {
        let word = |offset: usize| {
            Some(u32::from_ne_bytes(
                raw.get(offset..offset + 4)?.try_into().ok()?,
            ))
        };
        // Every record begins with its tracepoint's ID.
        let id = u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?);

        if id == self.format.exit {
            let code = word(self.format.exit_reason)?;
            let reason = if word(self.format.isa)? == ISA_SVM {
                Reason::from_svm(code)
            } else {
                Reason::from_vmx(code)
            };
            self.exits.count(reason);
            self.cause_wanted = reason == Reason::Intr;
        } else if self.cause_wanted {
            self.exits.timer += u64::from(id == self.format.timer);
            self.cause_wanted = false;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        exit: 300,
        timer: 40,
        exit_reason: 8,
        isa: 24,
    };

    fn exit(code: u32, isa: u32) -> Vec<u8> {
        let mut raw = vec![0; 32];
        raw[..2].copy_from_slice(&FORMAT.exit.to_ne_bytes());
        raw[8..12].copy_from_slice(&code.to_ne_bytes());
        raw[24..28].copy_from_slice(&isa.to_ne_bytes());
        raw
    }

    fn interrupt(id: u16) -> Vec<u8> {
        let mut raw = vec![0; 12];
        raw[..2].copy_from_slice(&id.to_ne_bytes());
        raw
    }

    fn tally(records: &[Vec<u8>]) -> Exits {
        let mut tally = Tally::new(&FORMAT);
        records.iter().for_each(|raw| tally.record(raw).unwrap());
        tally.exits
    }

    #[test]
    fn an_exit_was_a_tick_if_the_timer_follows_first() {
        let intr = || exit(0x60, ISA_SVM);
        let exits = tally(&[
            interrupt(40),
            intr(),
            interrupt(40),
            interrupt(40),
            intr(),
            interrupt(50),
            interrupt(40),
            exit(0x78, ISA_SVM),
            interrupt(40),
            intr(),
            intr(),
        ]);
        assert_eq!(exits[Reason::Intr], 4);
        assert_eq!(exits[Reason::Hlt], 1);
        assert_eq!(exits.timer, 1);
        assert_eq!(exits.total(), 5);
    }

    #[test]
    fn codes_are_the_vendors() {
        let exits = tally(&[
            exit(0x7c, ISA_SVM),
            exit(32, 1),
            exit(12, 1),
            exit(0x8000_0021, 1),
        ]);
        assert_eq!(
            (exits[Reason::Msr], exits[Reason::Hlt], exits[Reason::Other]),
            (2, 1, 1)
        );
    }

    #[test]
    fn short_records_are_noticed() {
        let mut tally = Tally::new(&FORMAT);
        assert_eq!(tally.record(&[1]), None);
        assert_eq!(tally.record(&exit(0x60, ISA_SVM)[..20]), None);
    }

    #[test]
    fn fields_are_found_in_the_kernels_description() {
        let format = "name: kvm_exit\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
            \tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;\n\
            \tfield:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;\n";
        assert_eq!(field_offset(format, "exit_reason"), Some(8));
        assert_eq!(field_offset(format, "guest_rip"), None);
        assert_eq!(field_offset(format, "isa"), None);
    }
}
