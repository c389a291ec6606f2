//! What measurements ask of the machine: its memory, huge pages lent for a while, and whether someone wants the end.

mod interrupt;
mod memory;
mod pages;

pub use interrupt::Interrupt;
pub use memory::{ensure_available, load, meminfo};
pub use pages::HugePages;
