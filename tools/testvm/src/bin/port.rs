// SPDX-License-Identifier: GPL-2.0

//! In a machine on Bochs: sends to the host, through the emulator's debug port.
//!
//!     port run COMMAND [ARGUMENT...]   runs a command on a terminal of its own; sends what it prints; exits as it does
//!     port send output|files|status    sends what comes on standard input
//!     port kernel                      sends the kernel's messages, up to the one that says `testvm: end of the log`
//!
//! Several may run at a time: a lock keeps their frames apart.

use std::{
    arch::asm,
    env,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, ExitCode, ExitStatus},
    thread,
};

use anyhow::{bail, ensure, Context, Result};
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{poll, PollFd, PollFlags, PollTimeout},
    pty::openpty,
    sys::termios::{self, SetArg},
    unistd::pipe,
};

use testvm::frame::{self, Kind};

/// Bochs's `port_e9_hack`.
const PORT: u16 = 0xe9;

/// The kernel's message after which there is nothing more to send. Init writes it.
const END_OF_LOG: &str = "testvm: end of the log";

/// The longest record that `/dev/kmsg` has (`PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

/// The way to the host.
struct Port(Option<Flock<File>>);

impl Port {
    fn open() -> Result<Self> {
        // SAFETY: It touches no memory.
        let status = unsafe { libc::ioperm(PORT.into(), 1, 1) };
        ensure!(status == 0, "ioperm: {}", io::Error::last_os_error());
        Ok(Self(None))
    }

    /// Sends bytes, in as many frames as it takes. None of another process comes between a frame's bytes.
    fn send(&mut self, kind: Kind, bytes: &[u8]) -> Result<()> {
        for payload in bytes.chunks(frame::MAX) {
            let lock = File::create("/run/port.lock").context("cannot make the lock")?;
            self.0 = Some(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?);
            out(&frame::header(kind, payload.len()));
            out(payload);
            self.0 = None;
        }
        Ok(())
    }
}

/// Writes bytes to the port.
fn out(bytes: &[u8]) {
    // SAFETY: `rep outsb` reads that many bytes from there, and the process has been given the port.
    unsafe {
        asm!(
            "rep outsb",
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            in("dx") PORT,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Sends what comes from a reader, up to its end.
fn send_all(port: &mut Port, kind: Kind, mut from: impl Read) -> Result<()> {
    let mut buffer = [0; frame::MAX];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => port.send(kind, &buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends what comes from a terminal until `ended` is closed and nothing more is there. Processes that the command left
/// behind may keep the terminal open for ever.
fn send_terminal(port: &mut Port, mut terminal: File, ended: OwnedFd) -> Result<()> {
    let mut buffer = [0; frame::MAX];
    let mut over = false;
    loop {
        let mut fds = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::empty()),
        ];
        let timeout = if over {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        poll(&mut fds, timeout)?;
        let [output, end] = fds.each_ref().map(|fd| fd.any().unwrap_or(false));
        if output {
            match terminal.read(&mut buffer) {
                // EIO means that no process has the terminal open.
                Ok(0) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(length) => port.send(Kind::Output, &buffer[..length])?,
                Err(error) => return Err(error.into()),
            }
        } else if over {
            return Ok(());
        }
        over = over || end;
    }
}

/// Runs a command on a terminal of its own, sends what it prints, and returns how it ended.
fn run(mut port: Port, command: &[String]) -> Result<ExitStatus> {
    let terminal = openpty(None, None).context("cannot make a terminal")?;
    let mut attributes = termios::tcgetattr(&terminal.slave)?;
    termios::cfmakeraw(&mut attributes);
    termios::tcsetattr(&terminal.slave, SetArg::TCSANOW, &attributes)?;
    let (ended, running) = pipe()?;
    // setsid makes standard input the controlling terminal.
    let mut child = Command::new("setsid")
        .arg("-c")
        .args(command)
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave.try_clone()?)
        .stderr(terminal.slave)
        .spawn()
        .context("cannot run setsid")?;
    let output = File::from(terminal.master);
    let sender = thread::spawn(move || send_terminal(&mut port, output, ended));
    let status = child.wait()?;
    drop(running);
    sender.join().expect("the sender does not panic")?;
    Ok(status)
}

/// Sends the kernel's messages, as its console would show them.
fn kernel(mut port: Port) -> Result<()> {
    let mut messages = File::open("/dev/kmsg").context("/dev/kmsg")?;
    let mut record = [0; RECORD_MAX];
    loop {
        let length = match messages.read(&mut record) {
            Ok(length) => length,
            // The ring has gone round.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => continue,
            Err(error) => return Err(error).context("/dev/kmsg"),
        };
        let record = String::from_utf8_lossy(&record[..length]);
        let Some((prefix, text)) = record.split_once(';') else {
            continue;
        };
        // Further lines begin with a blank and hold the device that the message is about.
        let text = text.lines().next().unwrap_or_default();
        let time: u64 = prefix
            .split(',')
            .nth(2)
            .and_then(|time| time.parse().ok())
            .unwrap_or(0);
        let line = format!("[{:5}.{:06}] {text}\n", time / 1_000_000, time % 1_000_000);
        port.send(Kind::Kernel, line.as_bytes())?;
        if text == END_OF_LOG {
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = Port::open().and_then(|mut port| match arguments[..] {
        ["run", ..] if arguments.len() > 1 => {
            let command: Vec<String> = env::args().skip(2).collect();
            let status = run(port, &command)?;
            // As a shell says it.
            let signal = status.signal().map(|signal| 128 + signal);
            Ok(status
                .code()
                .or(signal)
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1))
        }
        ["kernel"] => kernel(port).map(|()| 0),
        ["send", what] => {
            let kind = match what {
                "output" => Kind::Output,
                "files" => Kind::Files,
                "status" => Kind::Status,
                _ => bail!("cannot send {what}"),
            };
            send_all(&mut port, kind, io::stdin().lock()).map(|()| 0)
        }
        _ => bail!("usage: port run COMMAND... | port send output|files|status | port kernel"),
    });
    done.map_or_else(
        |error| {
            let _ = writeln!(io::stderr(), "port: {error:#}");
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}
