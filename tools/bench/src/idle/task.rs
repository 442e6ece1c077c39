// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A task on the CPU of the vCPU that idles.

use std::{
    hint,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{channel, Sender},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use vmm::{cpus, error::Error};

/// A task that computes.
pub struct Task {
    shared: Arc<(AtomicU64, AtomicBool)>,
    begin: Sender<()>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Task {
    /// Makes it on a CPU, where it waits.
    pub fn new(cpu: usize) -> Result<Self, Error> {
        let (begin, begun) = channel();
        let (ready, is_ready) = channel();
        let shared = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
        let its = shared.clone();
        let compute = move || {
            cpus::pin(cpu)?;
            // If the task ends before this, recv() fails below.
            let _ = ready.send(());
            if begun.recv().is_err() {
                return Ok(());
            }
            let mut work = 0_u64;
            while !its.1.load(Relaxed) {
                for _ in 0..1000 {
                    work = hint::black_box(work.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
                }
                its.0.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        let thread = thread::Builder::new()
            .name("neighbour".into())
            .spawn(compute)
            .map_err(Error::os("cannot start a thread"))?;
        let task = Task {
            shared,
            begin,
            thread: Some(thread),
        };
        is_ready.recv().map_err(|_| gone())?;
        Ok(task)
    }

    /// Has it compute from now on.
    pub fn begin(&self) -> Result<(), Error> {
        self.begin.send(()).map_err(|_| gone())
    }

    /// How often it has been round its loop.
    pub fn loops(&self) -> u64 {
        self.shared.0.load(Relaxed)
    }

    /// Waits until it has computed something.
    pub fn await_first(&self) -> Result<(), Error> {
        while self.loops() == 0 {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(gone());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.1.store(true, Relaxed);
        // It may still wait.
        let _ = self.begin.send(());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn gone() -> Error {
    Error::Os(
        "the neighbour has ended".into(),
        std::io::ErrorKind::BrokenPipe.into(),
    )
}
