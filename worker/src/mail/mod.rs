//! Mails: what they say (`render`), and where they go (`Outlet`).

mod outlet;
mod qr;
mod render;

pub use outlet::{Outlet, OutletError};
pub use render::{RenderError, render};
