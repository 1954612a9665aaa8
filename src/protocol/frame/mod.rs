//! Frames of the native protocol, close reasons and error codes.

/// Defines an enum together with a table: one row of constants for each variant, and all variants in `ALL`.
macro_rules! enum_table {
    ($(#[$meta:meta])* pub enum $name:ident: $row:ty { $($(#[$doc:meta])* $variant:ident => $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All variants, in the order of the table.
            pub const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];

            const fn row(self) -> $row {
                match self {
                    $(Self::$variant => $value,)*
                }
            }
        }
    };
}

pub mod close;
pub mod command;
pub mod error_code;
pub mod room_frames;
pub mod server_frame;
