//! A port whose frames come from a capture and go to one.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use super::{CaptureError, CaptureReader, PcapngWriter, Record};
use crate::io::{Capabilities, Frame, Memory, PacketIo, checksum};

/// A capture that several ports write to, each as its own interface.
pub type SharedWriter = Arc<Mutex<PcapngWriter<Box<dyn Write + Send>>>>;

/// Receives the packets of a capture, or of one of its interfaces, and writes what it sends.
pub struct CapturePort {
    source: Option<Source>,
    sink: Option<(SharedWriter, u32)>,
    read_error: Option<CaptureError>,
    write_error: Option<io::Error>,
}

struct Source {
    reader: CaptureReader,
    /// Only packets of the interface with this name.
    interface: Option<String>,
    /// Read, but not received: there was no memory for it.
    pending: Record,
    is_pending: bool,
}

impl CapturePort {
    /// A port that receives nothing and forgets what it sends.
    pub fn closed() -> Self {
        Self {
            source: None,
            sink: None,
            read_error: None,
            write_error: None,
        }
    }

    /// Receives the packets of `reader`; with a name those of the interface of that name alone.
    #[must_use]
    pub fn with_source(mut self, reader: CaptureReader, interface: Option<&str>) -> Self {
        let interface = interface.map(str::to_owned);
        self.source = Some(Source {
            reader,
            interface,
            pending: Record::default(),
            is_pending: false,
        });
        self
    }

    /// Writes what it sends to `writer` as `interface`, with the frames' own timestamps.
    #[must_use]
    pub fn with_sink(mut self, writer: SharedWriter, interface: u32) -> Self {
        self.sink = Some((writer, interface));
        self
    }

    /// Everything was received, or reading failed: see [`take_read_error`](Self::take_read_error).
    pub fn is_exhausted(&self) -> bool {
        self.source.is_none()
    }

    /// Why reading stopped before the end of the capture.
    pub fn take_read_error(&mut self) -> Option<CaptureError> {
        self.read_error.take()
    }

    /// The first error in writing; frames after it are counted as sent but are not in the file.
    pub fn take_write_error(&mut self) -> Option<io::Error> {
        self.write_error.take()
    }
}

impl Source {
    /// The next packet of the interface into `pending`; `false` at the end.
    fn advance(&mut self) -> Result<bool, CaptureError> {
        while !self.is_pending {
            if !self.reader.read_into(&mut self.pending)? {
                return Ok(false);
            }
            let name = self.reader.interfaces()[self.pending.interface].name.as_deref();
            self.is_pending = self.interface.is_none() || self.interface.as_deref() == name;
        }
        Ok(true)
    }
}

impl PacketIo for CapturePort {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        for count in 0..room {
            let Some(source) = &mut self.source else {
                return count;
            };
            match source.advance() {
                Ok(true) => {}
                end => {
                    self.read_error = end.err();
                    self.source = None;
                    return count;
                }
            }
            let Some(mut frame) = memory.allocate_copy(&source.pending.bytes) else {
                return count;
            };
            frame.timestamp_ns = source.pending.timestamp_ns;
            source.is_pending = false;
            into.push(frame);
        }
        room
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len();
        for mut frame in frames.drain(..) {
            if let Some((writer, interface)) = &self.sink {
                checksum::complete(memory, &mut frame);
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = writer.write_frame(*interface, memory, &frame, None) {
                    self.write_error.get_or_insert(error);
                }
            }
            memory.release(frame);
        }
        count
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: super::PACKET_LEN_MAX as u32,
            tx_checksum: true,
            multi_buffer: true,
        }
    }

    fn has_input(&mut self) -> bool {
        match self.source.as_mut().map(Source::advance) {
            Some(Ok(more)) => more,
            // `rx` meets the error again and keeps it.
            Some(Err(_)) => true,
            None => false,
        }
    }
}
