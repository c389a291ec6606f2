//! A port around a port that does what the network does on a bad day, by a seed.

use std::os::fd::RawFd;

use super::{Capabilities, Frame, Memory, PacketIo};

/// How often each thing goes wrong: one time in so many, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls of `tx` that find the ring full.
    pub tx_full_one_in: u32,
    /// Frames lost on reception.
    pub rx_lost_one_in: u32,
    /// Frames lost on sending, after the port took them.
    pub tx_lost_one_in: u32,
    /// Frames received that are cut at a random length.
    pub truncated_one_in: u32,
    /// Sleeps that end at once without input.
    pub spurious_wake_one_in: u32,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Calls of `tx` that took nothing.
    pub tx_full: u64,
    /// Frames lost on reception.
    pub rx_lost: u64,
    /// Frames lost on sending.
    pub tx_lost: u64,
    /// Frames cut.
    pub truncated: u64,
    /// Sleeps cut short.
    pub spurious_wakes: u64,
}

/// Passes everything to the port inside, but for the faults it injects. The same seed and calls give the same faults.
pub struct Fault<P> {
    port: P,
    faults: Faults,
    counts: FaultCounts,
    state: u64,
}

impl<P> Fault<P> {
    /// Injects `faults` around `port`.
    pub fn new(port: P, faults: Faults, seed: u64) -> Self {
        Self {
            port,
            faults,
            counts: FaultCounts::default(),
            state: seed,
        }
    }

    /// The port inside.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// What went wrong so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// `SplitMix64`: small, seeded, and good enough to choose faults.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn strikes(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.random().is_multiple_of(u64::from(one_in))
    }
}

impl<P: PacketIo> PacketIo for Fault<P> {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let before = into.len();
        self.port.rx(memory, into, room);
        for mut frame in into.split_off(before) {
            if self.strikes(self.faults.rx_lost_one_in) {
                self.counts.rx_lost += 1;
                memory.release(frame);
                continue;
            }
            if self.strikes(self.faults.truncated_one_in) && !frame.is_empty() {
                self.counts.truncated += 1;
                let len = self.random() % frame.len() as u64;
                memory.truncate(&mut frame, len as usize);
            }
            into.push(frame);
        }
        into.len() - before
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        if self.strikes(self.faults.tx_full_one_in) {
            self.counts.tx_full += 1;
            return 0;
        }
        if self.faults.tx_lost_one_in == 0 {
            return self.port.tx(memory, frames);
        }
        // One at a time: a frame is lost only if it would have been taken, so order and backpressure stay true.
        let mut taken = 0;
        let mut rest = std::mem::take(frames).into_iter();
        for frame in rest.by_ref() {
            if self.strikes(self.faults.tx_lost_one_in) {
                self.counts.tx_lost += 1;
                memory.release(frame);
                taken += 1;
                continue;
            }
            frames.push(frame);
            if self.port.tx(memory, frames) == 0 {
                break;
            }
            taken += 1;
        }
        frames.extend(rest);
        taken
    }

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn has_input(&mut self) -> bool {
        if self.strikes(self.faults.spurious_wake_one_in) {
            self.counts.spurious_wakes += 1;
            return true;
        }
        self.port.has_input()
    }

    fn close(&mut self, memory: &mut Memory) -> usize {
        self.port.close(memory)
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        self.port.wait_fds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::RingPort;

    #[test]
    fn every_frame_is_either_delivered_or_counted_as_lost() {
        let mut memory = Memory::heap(64, 2048);
        let faults = Faults {
            tx_full_one_in: 3,
            rx_lost_one_in: 4,
            tx_lost_one_in: 5,
            truncated_one_in: 6,
            spurious_wake_one_in: 2,
        };
        let mut port = Fault::new(RingPort::new(16), faults, 7);
        let (mut frames, mut delivered) = (Vec::new(), 0);
        for _ in 0..200 {
            assert!(port.inner_mut().feed_copy(&mut memory, &[7; 60], 0));
            port.has_input();
            port.rx(&mut memory, &mut frames, 8);
            port.tx(&mut memory, &mut frames);
            while port.inner_mut().take_sent_bytes(&mut memory).is_some() {
                delivered += 1;
            }
        }
        let counts = port.counts();
        assert_eq!(
            delivered + counts.rx_lost + counts.tx_lost + frames.len() as u64,
            200
        );
        assert_eq!(memory.free_chunks() + frames.len(), 64);
        assert!(
            counts.tx_full > 0 && counts.truncated > 0 && counts.spurious_wakes > 0,
            "{counts:?}"
        );
        for frame in frames {
            memory.release(frame);
        }
    }
}
