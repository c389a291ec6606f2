//! How a forwarder of one binding is told what to do, by lines: it says `ready`; between `start` and `stop` it forwards; after
//! `stop` it says what it did. It ends where its input does. Shared by programs that can't be linked into one.

use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;

/// Frames of one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rx: u64,
    pub(crate) tx: u64,
    pub(crate) dropped: u64,
}

/// Calls `pass`, one after another, in the turns that standard input tells.
pub(crate) fn serve(mut pass: impl FnMut(&mut Counts)) -> io::Result<()> {
    let running = Arc::new(AtomicBool::new(false));
    let (turn, turns) = channel();
    let told = Arc::clone(&running);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            // Relaxed: nothing else is passed on with it.
            told.store(line == "start", Relaxed);
            if line == "start" && turn.send(()).is_err() {
                return;
            }
        }
        told.store(false, Relaxed);
    });
    say("ready")?;
    for () in turns {
        let mut counts = Counts::default();
        // Relaxed: as where it is stored.
        while running.load(Relaxed) {
            pass(&mut counts);
        }
        let Counts { rx, tx, dropped } = counts;
        say(&format!("rx {rx} tx {tx} dropped {dropped}"))?;
    }
    Ok(())
}

fn say(words: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{words}")?;
    output.flush()
}
