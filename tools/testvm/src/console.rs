// SPDX-License-Identifier: GPL-2.0

//! Judges what the kernel printed on its console.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// What the kernel prints, and prints only, when something is wrong with it.
const REPORTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops:",
    "Kernel panic",
    "general protection fault",
    "Unable to handle",
    "kernel BUG at",
    "UBSAN:",
    "KASAN:",
    "KCSAN:",
    "ODEBUG:",
    "INFO: task ",
    "INFO: rcu",
    "rcu_preempt kthread",
    "rcu: INFO:",
    "INFO: possible ",
    "INFO: suspicious",
    "suspicious RCU usage",
    "possible recursive locking",
    "inconsistent lock state",
    "soft lockup",
    "hard LOCKUP",
    "csd: ",
    "list_add corruption",
    "list_del corruption",
    "refcount_t: ",
    "stack-protector:",
    "rust_kernel: panicked",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "unreferenced object",
    "Invalid relocation target",
];

/// Lines that contain a word of [`REPORTS`] on every boot of the stock kernel under QEMU, and mean no harm.
const HARMLESS: &[&str] = &[
    // The stock kernel says so of TCG's CPU.
    "Spectre V2 : WARNING:",
    "WARNING: unsafe",
];

/// Reads a console log; QEMU's line ends and stray bytes are forgiven.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path)
        .with_context(|| format!("cannot read the console log {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

/// The lines of a log in which the kernel reports that something is wrong.
pub fn reports(log: &str) -> Vec<&str> {
    log.lines().filter(|line| is_report(line)).collect()
}

/// The first report of a log with what follows it, `count` lines at the most.
pub fn excerpt(log: &str, count: usize) -> Option<String> {
    let lines: Vec<&str> = log
        .lines()
        .skip_while(|line| !is_report(line))
        .take(count)
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n") + "\n")
}

fn is_report(line: &str) -> bool {
    let contains = |words: &[&str]| words.iter().any(|word| line.contains(word));
    contains(REPORTS) && !contains(HARMLESS)
}

/// Whether the log shows the emulator's known defect and not the kernel's: TCG ran a stale translation of an `int3` that
/// had already been patched away (Documentation/smp-guests.rst).
///
/// The oops names the bytes around the instruction pointer, which stands behind the `int3`. With a real one the byte
/// before it is `cc`.
pub fn stale_int3(log: &str) -> bool {
    let mut lines = log.lines().skip_while(|line| !line.contains("Oops: int3"));
    let code = lines.find_map(|line| line.split_once("Code: ").map(|(_, code)| code));
    let Some((before, _)) = code.and_then(|code| code.split_once(" <")) else {
        return false;
    };
    before.split_whitespace().next_back() != Some("cc")
}

/// Why an emulator has ended, by its own log, to follow a sentence; nothing if it does not say.
///
/// A triple fault leaves no word on the console.
pub fn last_words(emulator_log: &str) -> String {
    if emulator_log.lines().any(|line| line == "Triple fault") {
        return ": a CPU took a triple fault".into();
    }
    let panic = emulator_log
        .lines()
        .find_map(|line| line.split_once(">>PANIC<<"));
    panic.map_or_else(String::new, |(_, why)| format!(": Bochs says:{why}"))
}

/// The last `count` lines of a log.
pub fn tail(log: &str, count: usize) -> impl Iterator<Item = &str> {
    let skip = log.lines().count().saturating_sub(count);
    log.lines().skip(skip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_kind_of_report() {
        for line in [
            "[    3.1] WARNING: CPU: 0 PID: 1 at virt/kvm/eventfd.c:300 irqfd_wakeup+0x10/0x20 [kvm]",
            "[    3.1] BUG: unable to handle page fault for address: ffff888",
            "[    3.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    3.1] WARNING: possible circular locking dependency detected",
            "[    3.1] BUG: sleeping function called from invalid context at mm/slab.h:1",
            "[    3.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s!",
            "[    3.1] Kernel panic - not syncing: Fatal exception",
            "[    3.1] kmemleak: unreferenced object 0xffff88 (size 64):",
        ] {
            assert_eq!(reports(line).len(), 1, "{line}");
        }
    }

    #[test]
    fn passes_a_clean_boot() {
        let log = "[    0.0] Linux version 7.3.4\n[    0.1] pvirq: /dev/pvirq is ready\n[    0.2] debug: off\n";
        assert!(reports(log).is_empty());
    }

    #[test]
    fn tells_a_stale_int3_from_a_real_one() {
        let oops = |code: &str| {
            format!("[ 9.1] Oops: int3: 0000 [#1] SMP NOPTI\n[ 9.1] RIP: 0010:f+0xf0/0x330\n[ 9.1] Code: {code}\n")
        };
        assert!(stale_int3(&oops("84 89 00 00 00 0f <1f> 44 00 00 48 8b")));
        assert!(!stale_int3(&oops("84 89 00 00 00 cc <1f> 44 00 00 48 8b")));
        assert!(!stale_int3(
            "[ 9.1] Oops: 0000 [#1] SMP\n[ 9.1] Code: 84 89 0f <1f> 44\n"
        ));
        assert!(!stale_int3("[ 9.1] Oops: int3: 0000\n"));
    }

    #[test]
    fn an_emulator_says_why_it_ended() {
        assert_eq!(
            last_words("CPU Reset\nTriple fault\n"),
            ": a CPU took a triple fault"
        );
        assert_eq!(
            last_words("00096[CPU0  ] >>PANIC<< exception(): 3rd (14) exception\n"),
            ": Bochs says: exception(): 3rd (14) exception"
        );
        assert_eq!(last_words("CPU Reset\n"), "");
    }

    #[test]
    fn tail_of_a_short_log_is_the_log() {
        assert_eq!(tail("a\nb\n", 20).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tail("a\nb\nc\n", 2).collect::<Vec<_>>(), ["b", "c"]);
    }
}
