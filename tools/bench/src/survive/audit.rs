// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is lost and what is repeated, by the ledger of the guest and by that of the VMM.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::{Account, Shared, LEDGER_SOURCES, LEDGER_VCPUS, LEDGER_VECTORS};

use super::events::Events;

/// Reads the ledger each time that no vCPU runs.
pub struct Auditor {
    vcpus: usize,
    patience: Duration,
    /// For each target and source, since when so many have been sent.
    since: Vec<(u64, Instant)>,
    /// Interrupts that did not come in time.
    pub lost: u64,
    /// Interrupts that came once too often.
    pub twice: u64,
    /// Interrupts that had come at the last audit.
    pub handled: u64,
}

impl Auditor {
    pub fn new(vcpus: usize, patience: Duration) -> Self {
        Auditor {
            vcpus,
            patience,
            since: vec![(0, Instant::now()); LEDGER_VCPUS * LEDGER_SOURCES],
            lost: 0,
            twice: 0,
            handled: 0,
        }
    }

    /// Counts what is lost or repeated, and balances the ledger, so that the guest goes on.
    pub fn audit(&mut self, shared: &Shared, events: &Events, note: &mut dyn FnMut(&str)) {
        self.handled = 0;
        for target in 0..self.vcpus {
            for source in 0..LEDGER_SOURCES {
                let mut account = shared.survival.ledgers[target].account(source);
                if source >= LEDGER_VCPUS {
                    account.sent = events.sent(target, source);
                }
                self.handled += account.handled;
                if let Some(what) =
                    self.judge(target * LEDGER_SOURCES + source, account, Instant::now())
                {
                    note(&format!(
                        "{what}: vCPU {target}, vector {:#x}: {account:?}, {:?}",
                        usize::from(LEDGER_VECTORS) + source,
                        shared.descriptors[target]
                    ));
                    let place = &shared.survival.ledgers[target].handled[source];
                    place.value.store(account.sent, SeqCst);
                }
            }
        }
    }

    /// Says what is wrong with an account, if that is known by now, and counts it.
    fn judge(&mut self, index: usize, account: Account, now: Instant) -> Option<&'static str> {
        let (sent, since) = &mut self.since[index];
        if account.missing() == 0 || *sent != account.sent {
            *since = now;
        }
        *sent = account.sent;
        if account.repeated() != 0 {
            self.twice += account.repeated();
            return Some("twice");
        }
        if account.missing() != 0 && now.saturating_duration_since(*since) > self.patience {
            self.lost += account.missing();
            return Some("lost");
        }
        None
    }

    /// What has been found.
    pub fn text(&self) -> String {
        format!(
            "{} interrupts handled, {} lost, {} twice",
            self.handled, self.lost, self.twice
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_lost_and_what_is_more_than_sent_came_twice() {
        const PATIENCE: Duration = Duration::from_secs(1);

        let mut auditor = Auditor::new(2, PATIENCE);
        let account = |sent, handled| Account { sent, handled };
        let begin = Instant::now();
        let late = begin + PATIENCE + Duration::from_millis(1);
        assert_eq!(auditor.judge(0, account(3, 3), begin), None);
        assert_eq!(auditor.judge(0, account(4, 3), begin), None);
        assert_eq!(auditor.judge(0, account(4, 3), begin + PATIENCE), None);
        assert_eq!(auditor.judge(0, account(4, 3), late), Some("lost"));
        assert_eq!(auditor.judge(1, account(4, 5), begin), Some("twice"));
        assert_eq!((auditor.lost, auditor.twice), (1, 1));
    }
}
