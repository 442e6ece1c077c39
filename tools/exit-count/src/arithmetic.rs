// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sums and differences of structures of counts.

/// Adds to a structure, and subtracts from it, field by field.
#[macro_export]
macro_rules! arithmetic {
    ($type:ident: $($field:ident),+) => {
        impl std::ops::AddAssign for $type {
            fn add_assign(&mut self, more: Self) {
                $(self.$field += more.$field;)+
            }
        }

        impl std::ops::Sub for $type {
            type Output = Self;

            fn sub(self, earlier: Self) -> Self {
                $type {
                    $($field: self.$field - earlier.$field,)+
                }
            }
        }
    };
}
