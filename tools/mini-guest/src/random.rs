// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Random numbers that a seed repeats, in the guest and in its VMM.

/// An xorshift generator.
pub struct Random(u64);

impl Random {
    /// The numbers for a seed.
    pub fn new(seed: u64) -> Self {
        Random((seed | (1 << 63)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The numbers of a vCPU for a seed.
    pub fn of_vcpu(seed: u64, index: u32) -> Self {
        // Not 0, which the generator would repeat.
        Random(((seed << 8) | u64::from(index) | 0x80).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper bits are the better ones.
        (self.0 >> 16) % end.max(1)
    }
}
