// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Enums whose numbers are an interface: in memory, registers and ioctls.

/// Makes an enum that converts to and from its numbers.
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
            /// All variants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the variant's number.
            #[inline]
            pub const fn number(self) -> $number {
                self as $number
            }

            /// Returns the variant with this number.
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
