//! A port around a port that writes what passes to a capture.

use std::{
    io,
    os::fd::RawFd,
    sync::{MutexGuard, PoisonError},
};

use super::{Capabilities, Frame, Memory, PacketIo, pcap::PcapngWriter, pcap::SharedWriter};

/// Passes everything to the port inside and writes what was received and what was taken for sending, in that order, with the
/// frames' own timestamps and the comment `rx` or `tx`.
pub struct Tap<P> {
    port: P,
    writer: SharedWriter,
    interface: u32,
    error: Option<io::Error>,
    /// Packets of the frames to be sent: the port may be done with them, and their memory be gone, once it took them.
    offered: Vec<(u64, Vec<u8>)>,
}

impl<P> Tap<P> {
    /// Writes what passes `port` to `writer` as `interface`.
    pub fn new(port: P, writer: SharedWriter, interface: u32) -> Self {
        Self {
            port,
            writer,
            interface,
            error: None,
            offered: Vec::new(),
        }
    }

    /// The port inside.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// The first error in writing. The port goes on: a full disk stops no traffic.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    fn write(&mut self, write: impl FnOnce(&mut PcapngWriter<Box<dyn io::Write + Send>>) -> io::Result<u64>) {
        let mut writer: MutexGuard<'_, _> = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write(&mut writer) {
            self.error.get_or_insert(error);
        }
    }
}

impl<P: PacketIo> PacketIo for Tap<P> {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let before = into.len();
        let count = self.port.rx(memory, into, room);
        let interface = self.interface;
        for frame in &into[before..] {
            self.write(|writer| writer.write_frame(interface, memory, frame, Some("rx")));
        }
        count
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let mut offered = std::mem::take(&mut self.offered);
        offered.extend(
            frames
                .iter()
                .map(|frame| (frame.timestamp_ns, memory.to_vec(frame))),
        );
        let count = self.port.tx(memory, frames);
        let interface = self.interface;
        for (timestamp_ns, bytes) in offered.drain(..).take(count) {
            self.write(|writer| writer.write(interface, timestamp_ns, &bytes, Some("tx")));
        }
        self.offered = offered;
        count
    }

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn has_input(&mut self) -> bool {
        self.port.has_input()
    }

    fn close(&mut self, memory: &mut Memory) -> usize {
        self.port.close(memory)
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        self.port.wait_fds()
    }
}
