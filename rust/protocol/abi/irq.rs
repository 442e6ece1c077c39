// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Interrupt vectors, and sets of them.

use core::fmt;

/// The error for one of the first 16 vectors, which belong to the CPU's exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedVector;

impl fmt::Display for ReservedVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vectors below 16 cannot be posted")
    }
}

impl core::error::Error for ReservedVector {}

/// A vector that can be posted.
///
/// # Invariants
///
/// It is not below [`Vector::FIRST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vector(u8);

impl Vector {
    /// The first vector that can be posted.
    pub const FIRST: u8 = 16;

    /// Returns a vector, or an error if it is reserved.
    #[inline]
    pub const fn new(vector: u8) -> Result<Self, ReservedVector> {
        if vector < Self::FIRST {
            return Err(ReservedVector);
        }
        // INVARIANT: Checked above.
        Ok(Self(vector))
    }

    /// Returns the vector's number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the word of a descriptor that holds the vector's bit, below [`Vectors::WORDS`].
    #[inline]
    pub(crate) const fn word(self) -> usize {
        self.0 as usize / 64
    }

    /// Returns the number of the bit in that word, below 64.
    #[inline]
    pub(crate) const fn bit(self) -> u32 {
        self.0 as u32 % 64
    }
}

impl TryFrom<u8> for Vector {
    type Error = ReservedVector;

    fn try_from(vector: u8) -> Result<Self, ReservedVector> {
        Self::new(vector)
    }
}

impl From<Vector> for u8 {
    fn from(vector: Vector) -> u8 {
        vector.get()
    }
}

/// A set of vectors, as a drain takes it.
///
/// It comes from shared memory, so it can hold reserved vectors. Iterators do not return those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "drained vectors that are not delivered are lost"]
pub struct Vectors([u64; Self::WORDS]);

impl Vectors {
    /// The number of 64-bit words in a set.
    pub const WORDS: usize = 4;

    /// Makes a set in which vector `v` is bit `v % 64` of word `v / 64`.
    #[inline]
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        Self(words)
    }

    /// Returns the words, as [`Vectors::from_words`] takes them.
    #[inline]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        self.0
    }

    /// Returns whether the set is empty.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;

        a | b | c | d == 0
    }

    /// Returns the number of vectors, reserved ones included.
    #[inline]
    pub const fn len(&self) -> u32 {
        let [a, b, c, d] = self.0;

        a.count_ones() + b.count_ones() + c.count_ones() + d.count_ones()
    }

    /// Returns whether a vector is in the set.
    pub const fn contains(&self, vector: Vector) -> bool {
        self.0[vector.word()] & (1 << vector.bit()) != 0
    }

    /// Removes reserved vectors, and returns how many there were.
    #[inline]
    pub fn remove_reserved(&mut self) -> u32 {
        const RESERVED: u64 = (1 << Vector::FIRST) - 1;

        let reserved = self.0[0] & RESERVED;
        self.0[0] &= !RESERVED;
        reserved.count_ones()
    }
}

impl IntoIterator for Vectors {
    type Item = Vector;
    type IntoIter = HighestFirst;

    #[inline]
    fn into_iter(self) -> HighestFirst {
        HighestFirst(self)
    }
}

/// Iterates over a set from the highest vector to the lowest, the order of their priority.
#[derive(Clone, Debug)]
pub struct HighestFirst(Vectors);

impl Iterator for HighestFirst {
    type Item = Vector;

    #[inline]
    fn next(&mut self) -> Option<Vector> {
        let (index, word) = self
            .0
             .0
            .iter_mut()
            .enumerate()
            .rfind(|(_, word)| **word != 0)?;
        let bit = word.checked_ilog2()?;
        *word &= !(1 << bit);
        // At most 3 * 64 + 63. After a reserved vector all are reserved.
        Vector::new((index * 64) as u8 + bit as u8).ok()
    }
}

impl core::iter::FusedIterator for HighestFirst {}
