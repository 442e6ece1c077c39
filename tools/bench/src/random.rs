// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Random numbers that a seed repeats.

/// An xorshift generator.
pub struct Random(u64);

impl Random {
    /// Numbers for a seed.
    pub fn new(seed: u64) -> Self {
        Random((seed | (1 << 63)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end.max(1)
    }
}
