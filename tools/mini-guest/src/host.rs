// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the VMM has the guest ask of its pvirq host, and what the host answers.

use pvirq_protocol::registers::{Array, Status};

/// A command for the host, with what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where the descriptors are.
    pub array: Array,
    /// The command, which need not be one that the host knows.
    pub command: u32,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No host answers at the ports.
    NoHost,
    /// The host does not do what the guest needs.
    NoPosting,
    /// The host has answered.
    Host(Status),
    /// The host has given a status that does not exist.
    Unknown(u32),
}

impl Answer {
    const NO_HOST: u32 = u32::MAX;
    const NO_POSTING: u32 = u32::MAX - 1;

    /// The number that stands for it in shared memory.
    pub fn to_wire(self) -> u32 {
        match self {
            Answer::NoHost => Answer::NO_HOST,
            Answer::NoPosting => Answer::NO_POSTING,
            Answer::Host(status) => status.number(),
            Answer::Unknown(number) => number,
        }
    }

    /// What a number in shared memory, or a status that was read from the host, stands for.
    pub fn from_wire(number: u32) -> Self {
        match number {
            Answer::NO_HOST => Answer::NoHost,
            Answer::NO_POSTING => Answer::NoPosting,
            _ => Status::from_number(number).map_or(Answer::Unknown(number), Answer::Host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back() {
        let answers = [
            Answer::NoHost,
            Answer::NoPosting,
            Answer::Host(Status::Ok),
            Answer::Host(Status::NotRegistered),
            Answer::Unknown(77),
        ];
        for answer in answers {
            assert_eq!(Answer::from_wire(answer.to_wire()), answer);
        }
    }
}
