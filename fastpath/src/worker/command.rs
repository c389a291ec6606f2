//! Commands: what other threads ask of a worker, done at a batch boundary.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::Worker;
use crate::counters::Counters;
use crate::io::bpf::Heartbeats;
use crate::io::{PacketIo, Waker};
use crate::observe::Observer;
use crate::port::PortId;

/// What a worker can be asked to do.
pub enum Command<P> {
    /// Take this port, in place of one of the same number.
    AddPort(PortId, P),
    /// Close the port, and give it back on this channel once every chunk is out of its rings.
    RemovePort(PortId, Sender<P>),
    /// Tell the program on an uplink that this worker lives.
    Beat(Heartbeats),
}

/// Another thread's way to a worker.
pub struct Handle<P> {
    commands: Sender<Command<P>>,
    counters: Arc<Counters>,
    waker: Waker,
}

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            counters: Arc::clone(&self.counters),
            waker: self.waker.clone(),
        }
    }
}

impl<P> Handle<P> {
    pub(super) fn new(counters: Arc<Counters>) -> (Self, Receiver<Command<P>>) {
        let (commands, receiver) = unbounded();
        let waker = Waker::new().expect("a descriptor for an eventfd");
        (
            Self {
                commands,
                counters,
                waker,
            },
            receiver,
        )
    }

    /// Asks; the worker does it before its next batch. False when the worker is gone.
    pub fn send(&self, command: Command<P>) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.waker.wake();
        sent
    }

    /// Ends the worker's sleep, for instance after a snapshot was published.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl<P: PacketIo, O: Observer> Worker<P, O> {
    /// Does what was asked since the last batch.
    pub(super) fn obey(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::AddPort(port, io) => self.add_port(port, io),
                Command::RemovePort(port, reply) => {
                    if let Some(io) = self.remove_port(port) {
                        self.closing.push((io, reply));
                    }
                }
                Command::Beat(heartbeats) => self.beats.push(heartbeats),
            }
        }
    }

    /// Takes chunks back from the ports that are being closed; the kernel may still send some.
    pub(super) fn close_ports(&mut self) {
        let memory = &mut self.memory;
        for at in (0..self.closing.len()).rev() {
            if self.closing[at].0.close(memory) == 0 {
                let (io, reply) = self.closing.swap_remove(at);
                // Who asked may have gone.
                let _ = reply.send(io);
            }
        }
    }

    /// Takes a port, between batches.
    pub fn add_port(&mut self, port: PortId, io: P) {
        if self.ports.len() <= port.index() {
            self.ports.resize_with(port.index() + 1, || None);
        }
        self.outbox.add_port(port, io.capabilities());
        self.gates.add_port(port);
        self.ways.outdate();
        if let Some(old) = self.ports[port.index()].replace(io) {
            // Its chunks come back as from one that was asked for, though nobody wants the port itself.
            let (nobody, _) = crossbeam::channel::bounded(1);
            self.closing.push((old, nobody));
        }
        if !self.order.contains(&port) {
            self.order.push(port);
        }
    }

    /// Gives a port back, between batches. It has to be [closed](PacketIo::close): chunks may be in its rings.
    pub fn remove_port(&mut self, port: PortId) -> Option<P> {
        let io = self.ports.get_mut(port.index())?.take();
        self.outbox.remove_port(port);
        self.ways.outdate();
        self.order.retain(|known| *known != port);
        self.turn = 0;
        io
    }
}
