// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A virtual machine: memory, vCPUs with their threads, ports.

pub mod snapshot;

use std::{
    io::Write,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::{
        atomic::Ordering::SeqCst,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use exit_count::stats::VcpuStats;
use kvm_bindings::{kvm_enable_cap, kvm_userspace_memory_region, KVM_CAP_HALT_POLL};
use kvm_ioctls::{VcpuFd, VmFd};
use mini_guest::{Answer, Job, JobKind, Mode, Request, Shared, MAX_VCPUS};
use pvirq::{device::Device, extension::Extension};
use pvirq_protocol::{
    ioctl::Poll,
    registers::{Command, Status, VERSION},
};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::{
    boot,
    error::Error,
    image::Image,
    kick::{self, kick},
    msi::{self, FIRST_GSI},
    ports::{Bell, Ports, Transcript},
    vcpu::{Counts, Event, Order, Report, Stop, Vcpu},
};

/// Where Intel's KVM wants three pages for itself.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// The least time that vCPUs get to stop once they were kicked.
const KICK_LIMIT: Duration = Duration::from_secs(10);

/// What a machine shall be like.
pub struct Config<'a> {
    /// What to run.
    pub image: &'a Image,
    /// Bytes of memory.
    pub memory: usize,
    /// The CPU of each vCPU.
    pub cpus: &'a [usize],
    /// What the mini guest is for. Other guests ignore it.
    pub mode: Mode,
    /// Whether the mini guest shall use KVM's paravirtual EOI.
    pub pv_eoi: bool,
    /// Whether exits are counted.
    pub count: bool,
}

struct VcpuThread {
    /// Dropped to end the thread.
    orders: Option<Sender<Order>>,
    /// Keeps it out of `KVM_RUN`.
    thread: Option<JoinHandle<()>>,
}

/// A virtual machine.
pub struct Machine {
    vcpus: Vec<VcpuThread>,
    reports: Receiver<Report>,
    transcript: Transcript,
    tsc_khz: u32,
    ports: Arc<Ports>,
    /// The vCPUs' files, which their threads own.
    files: Vec<RawFd>,
    vm: VmFd,
    // Declared behind the VM, so that it goes when KVM no longer refers to it.
    memory: GuestMemoryMmap,
}

impl Machine {
    /// Makes a machine whose console is kept in memory, to be shown if something goes wrong.
    pub fn new(device: &Device, config: &Config<'_>) -> Result<Self, Error> {
        let transcript = Transcript::default();
        let mut machine = Machine::with_console(device, config, Box::new(transcript.clone()))?;
        machine.transcript = transcript;
        Ok(machine)
    }

    /// Makes a machine whose console writes to `console`.
    pub fn with_console(
        device: &Device,
        config: &Config<'_>,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, Error> {
        let count = config.cpus.len();
        let max = device.max_vcpus().min(MAX_VCPUS);
        if !(1..=max).contains(&count) {
            return Err(Error::VcpuCount {
                device: device.path().to_owned(),
                vcpus: count,
                max,
            });
        }
        let memory = blank_memory(config.memory)?;
        boot::set_up_memory(&memory, count, config.mode, config.pv_eoi)?;
        let entry = config.image.load(&memory)?;
        let cpuid = device.supported_cpuid()?;
        Machine::build(device, config, memory, console, |vcpu, index| {
            boot::set_up_vcpu(vcpu, cpuid.clone(), index, count, entry)
        })
    }

    /// Makes a machine of memory that is in its first state, and vCPUs that `set_up` puts there.
    fn build(
        device: &Device,
        config: &Config<'_>,
        memory: GuestMemoryMmap,
        console: Box<dyn Write + Send>,
        set_up: impl Fn(&VcpuFd, usize) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let count = config.cpus.len();
        kick::install()?;
        let vm = device
            .kvm()
            .create_vm()
            .map_err(Error::kvm("KVM_CREATE_VM"))?;
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(Error::kvm("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip()
            .map_err(Error::kvm("KVM_CREATE_IRQCHIP"))?;
        map(&vm, &memory)?;

        let ports = Arc::new(Ports::new(console));
        let (report, reports) = mpsc::channel();
        let mut machine = Machine {
            vcpus: Vec::with_capacity(count),
            reports,
            transcript: Transcript::default(),
            tsc_khz: 0,
            ports: ports.clone(),
            files: Vec::with_capacity(count),
            vm,
            memory,
        };
        for (index, &cpu) in config.cpus.iter().enumerate() {
            let fd = machine
                .vm
                .create_vcpu(index as u64)
                .map_err(Error::kvm("KVM_CREATE_VCPU"))?;
            set_up(&fd, index)?;
            machine.tsc_khz = fd.get_tsc_khz().map_err(Error::kvm("KVM_GET_TSC_KHZ"))?;
            machine.files.push(fd.as_raw_fd());
            let stats = config.count.then(|| VcpuStats::open(&fd)).transpose()?;
            let vcpu = Vcpu {
                index,
                cpu,
                fd,
                ports: ports.clone(),
                stats,
            };
            machine.spawn(vcpu, report.clone())?;
        }
        machine.shared()?.tsc_khz.store(machine.tsc_khz, SeqCst);
        drop(report);
        for _ in 0..count {
            machine
                .reports
                .recv()
                .map_or_else(|_| Err(machine.threads_gone()), |report| report.event)?;
        }
        Ok(machine)
    }

    fn spawn(&mut self, vcpu: Vcpu, reports: Sender<Report>) -> Result<(), Error> {
        let (orders, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("vcpu{}", vcpu.index))
            .spawn(move || vcpu.serve(receiver, reports))
            .map_err(Error::os("cannot start a thread"))?;
        self.vcpus.push(VcpuThread {
            orders: Some(orders),
            thread: Some(thread),
        });
        Ok(())
    }

    /// The number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// Bytes of memory, from address 0.
    pub fn memory_size(&self) -> u64 {
        self.memory.last_addr().0 + 1
    }

    /// What the guest has written to its console, if that is kept.
    pub fn console(&self) -> String {
        self.transcript.text()
    }

    /// The guest's clock rate.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// What the VMM and the mini guest share.
    pub fn shared(&self) -> Result<&Shared, Error> {
        boot::shared(&self.memory)
    }

    /// Sets how long KVM polls before a halted vCPU sleeps, at most.
    pub fn set_halt_poll(&self, ns: u32) -> Result<(), Error> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_HALT_POLL,
            args: [ns.into(), 0, 0, 0],
            ..Default::default()
        };
        self.vm
            .enable_cap(&cap)
            .map_err(Error::kvm("KVM_ENABLE_CAP of KVM_CAP_HALT_POLL"))
    }

    /// Sets how pvirq polls for this machine's idle vCPUs.
    pub fn set_poll(&self, poll: &Poll) -> Result<(), Error> {
        Ok(Extension::new(&self.vm)?.set_poll(poll)?)
    }

    /// How pvirq polls for this machine's idle vCPUs.
    pub fn poll(&self) -> Result<Poll, Error> {
        Ok(Extension::new(&self.vm)?.poll()?)
    }

    /// Makes an eventfd that interrupts a vCPU by a message, by KVM's irqfd.
    pub fn event(&self, vcpu: u32, vector: u8) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::os("cannot make an eventfd"))?;
        msi::set_routes(&self.vm, &[msi::route(FIRST_GSI, vcpu, vector)])?;
        self.vm
            .register_irqfd(&event, FIRST_GSI)
            .map_err(Error::kvm("KVM_IRQFD"))?;
        Ok(event)
    }

    /// Has `bell` called when the mini guest [rings](mini_guest::port::RING), in the vCPU's thread.
    pub fn set_bell(&self, bell: Bell) {
        self.ports.set_bell(bell);
    }

    /// The guest's memory, for other threads.
    pub fn memory(&self) -> GuestMemoryMmap {
        self.memory.clone()
    }

    /// The path of a vCPU's fdinfo.
    pub fn fdinfo(&self, vcpu: usize) -> PathBuf {
        format!("/proc/self/fdinfo/{}", self.files[vcpu]).into()
    }

    /// Whether [`Machine::set_halt_poll`] works.
    pub fn has_halt_poll(&self) -> bool {
        self.vm.check_extension_raw(KVM_CAP_HALT_POLL.into()) > 0
    }

    /// Lets the mini guest do a job, or get ready for the first, and returns each vCPU's exits.
    ///
    /// After an error the machine is of no more use.
    pub fn run_job(&mut self, job: Option<&Job>, limit: Duration) -> Result<Vec<Counts>, Error> {
        if let Some(job) = job {
            self.shared()?.set_job(job);
        }
        self.run_vcpus(limit)
    }

    /// Lets all vCPUs run until they have parked, and returns each one's exits.
    fn run_vcpus(&mut self, limit: Duration) -> Result<Vec<Counts>, Error> {
        self.resume();
        let mut counts = vec![Counts::default(); self.vcpus.len()];
        let deadline = Instant::now() + limit;
        for stopped in 0..counts.len() {
            let stop = self
                .next_stop(deadline)
                .map_err(|error| self.lost_or(error));
            match stop? {
                Some((vcpu, Stop::Parked, count)) => counts[vcpu] = count,
                Some((vcpu, stop, _)) => {
                    self.kick_out(counts.len() - stopped - 1);
                    return Err(self.failure(vcpu, stop));
                }
                None => return Err(self.hung(limit, counts.len() - stopped)),
            }
        }
        Ok(counts)
    }

    /// Lets the mini guest do a job while `sender` runs in a thread of its own, and returns what both return.
    ///
    /// After an error the machine is of no more use.
    pub fn run_job_with<T: Send>(
        &mut self,
        job: &Job,
        limit: Duration,
        sender: impl FnOnce(&Shared) -> T + Send,
    ) -> Result<(Vec<Counts>, T), Error> {
        let memory = self.memory.clone();
        // Before the sender starts, which acts on the job.
        self.shared()?.set_job(job);

        thread::scope(|scope| {
            let sender = scope.spawn(move || boot::shared(&memory).map(sender));
            let counts = self.run_vcpus(limit);
            let sent = sender.join().map_err(|_| self.threads_gone())?;
            Ok((counts?, sent?))
        })
    }

    /// The VM, for calls that the machine does not make itself.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Lets the mini guest give a command to its pvirq host, and returns the answer.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Answer, Error> {
        self.shared()?.set_request(request);
        self.run_job(Some(&Job::new(JobKind::Host)), limit)?;
        Ok(self.shared()?.answer())
    }

    /// Lets the mini guest register the descriptors of all vCPUs, and returns the answer.
    pub fn register(&mut self, limit: Duration) -> Result<Answer, Error> {
        let command = Command::Register { version: VERSION };
        let request = Request {
            array: boot::descriptors(self.vcpus()),
            command: command.encode(),
        };
        self.ask(&request, limit)
    }

    /// Lets the mini guest register as [`Machine::register`] does, where that has to succeed.
    pub fn register_or_fail(&mut self, limit: Duration) -> Result<(), Error> {
        match self.register(limit)? {
            Answer::Host(Status::Ok) => Ok(()),
            answer => Err(Error::NotRegistered(answer)),
        }
    }

    /// Runs the guest until it ends the machine, and returns its status, or until all vCPUs have parked.
    pub fn run(&mut self) -> Result<u8, Error> {
        self.resume();
        for stopped in 0..self.vcpus.len() {
            let report = self.reports.recv().map_err(|_| self.threads_gone())?;
            let Event::Stopped(stop, _) = report.event? else {
                continue;
            };
            if matches!(stop, Stop::Parked) {
                continue;
            }
            self.kick_out(self.vcpus.len() - stopped - 1);
            return match stop {
                Stop::Exit(status) => Ok(status),
                stop => Err(self.failure(report.vcpu, stop)),
            };
        }
        Ok(0)
    }

    fn resume(&self) {
        for vcpu in &self.vcpus {
            // A thread that is gone has left a report, which will be found.
            let _ = vcpu.orders.as_ref().map(|orders| orders.send(Order::Run));
        }
    }

    /// Waits for the next vCPU that stops, until a deadline.
    fn next_stop(&self, deadline: Instant) -> Result<Option<(usize, Stop, Counts)>, Error> {
        loop {
            match self
                .reports
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(Report { vcpu, event }) => match event? {
                    Event::Ready | Event::Saved(_) => {}
                    Event::Stopped(stop, counts) => return Ok(Some((vcpu, stop, *counts))),
                },
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(self.threads_gone()),
            }
        }
    }

    /// Kicks all vCPUs, of which `running` still run, and returns the states of those that were kicked out. Something has
    /// gone wrong already, so what else does is part of that.
    fn kick_out(&self, running: usize) -> String {
        self.kick_all();
        let deadline = Instant::now() + KICK_LIMIT;
        let mut states = String::new();
        for _ in 0..running {
            match self.next_stop(deadline) {
                Ok(Some((vcpu, Stop::Kicked(state), _))) => {
                    states += &format!("vCPU {vcpu}:\n{state}");
                }
                Ok(Some(_)) => {}
                Ok(None) => return states
                    + "and at least one vCPU does not even leave KVM_RUN when it is signalled\n",
                Err(error) => states += &format!("a vCPU: {error}\n"),
            }
        }
        states
    }

    fn kick_all(&self) {
        self.vcpus
            .iter()
            .filter_map(|vcpu| vcpu.thread.as_ref())
            .for_each(kick);
    }

    /// The error to show if exits could not be counted, because the guest has waited too long for what was lost.
    fn lost_or(&self, error: Error) -> Error {
        let lost = self.shared().map_or(0, |shared| shared.lost.load(SeqCst));
        match error {
            Error::Count(_) if lost != 0 => Error::Lost {
                lost,
                console: self.transcript.text(),
            },
            error => error,
        }
    }

    fn hung(&self, limit: Duration, running: usize) -> Error {
        let states = self.kick_out(running);
        Error::Hung {
            limit,
            states,
            console: self.transcript.text(),
        }
    }

    fn failure(&self, vcpu: usize, stop: Stop) -> Error {
        let console = self.transcript.text();
        match stop {
            Stop::Exit(status) => Error::Ended { status, console },
            Stop::Parked => Error::Ended { status: 0, console },
            Stop::Kicked(state) => Error::Guest {
                vcpu,
                what: "it left KVM_RUN by a signal that this VMM did not send".into(),
                state,
                console,
            },
            Stop::Failed(what, state) => Error::Guest {
                vcpu,
                what,
                state,
                console,
            },
        }
    }

    fn threads_gone(&self) -> Error {
        Error::Os(
            "the vCPUs' threads are gone".into(),
            std::io::ErrorKind::BrokenPipe.into(),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for vcpu in &mut self.vcpus {
            vcpu.orders = None;
        }
        self.kick_all();
        for thread in self.vcpus.iter_mut().filter_map(|vcpu| vcpu.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Memory that nothing has been written to.
fn blank_memory(size: usize) -> Result<GuestMemoryMmap, Error> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)])
        .map_err(|error| Error::Memory(error.to_string()))
}

/// Gives the VM its memory.
fn map(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Error> {
    let address = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| Error::Memory(error.to_string()))?;
    let region = kvm_userspace_memory_region {
        memory_size: memory.last_addr().0 + 1,
        userspace_addr: address as u64,
        ..Default::default()
    };
    // SAFETY: The machine keeps this memory as long as the VM, and the guest may do with it what it wants.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))
}
