// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Numbers with names: what travels through memory, registers and ioctls.

/// Makes an enum of numbers that can be found by its number.
macro_rules! numbered {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident: $number:ty {
            $($(#[$variant_attribute:meta])* $variant:ident = $value:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr($number)]
        pub enum $name {
            $($(#[$variant_attribute])* $variant = $value,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its number.
            #[inline]
            pub const fn number(self) -> $number {
                self as $number
            }

            /// The one with this number.
            #[inline]
            pub const fn from_number(number: $number) -> Option<Self> {
                match number {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
