//! Ctrl-C: the run unwinds, and what it made is taken down as after any failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether a signal asked for the end. Cheap to copy; every loop that waits looks at it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP end the run in order.
    ///
    /// # Errors
    /// The kernel's.
    pub fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("catching signals")?;
        }
        Ok(Self(flag))
    }

    /// Looks.
    ///
    /// # Errors
    /// Once a signal came.
    pub fn check(&self) -> Result<()> {
        // Relaxed: nothing else is published with it.
        if self.0.load(Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.0.load(Relaxed)
    }
}
