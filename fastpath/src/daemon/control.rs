//! The socket that control connects to: one client at a time, messages in, acknowledgements out, never blocking.
//!
//! A newer connection takes the place of an older one: a control process that restarted must not wait until the kernel
//! notices that the former one is gone.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use contract::PROTOCOL;
use contract::frame::{self, Decoder};
use contract::proto::{
    Delta, FromFastpath, State, ToFastpath, Welcome, from_fastpath::Body as Answer, to_fastpath::Body,
};

use crate::io::unix::{own_uid, peer_uid};

/// What control says.
#[derive(Debug)]
pub(super) enum Message {
    /// The whole desired state.
    Snapshot(Box<State>),
    /// Changes.
    Delta(Box<Delta>),
}

/// The listening socket and its client.
pub(super) struct ControlSocket {
    listener: UnixListener,
    client: Option<Client>,
}

struct Client {
    stream: UnixStream,
    decoder: Decoder,
    /// What is read goes through here.
    buffer: Box<[u8]>,
    welcomed: bool,
}

/// Bytes read in one go; a snapshot of a large cluster comes in many.
const READ_BYTES: usize = 256 << 10;

impl ControlSocket {
    /// Listens at `path`, for this user and root alone. What an earlier process left there is replaced.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let listener = listen_private(path)?;
        Ok(Self {
            listener,
            client: None,
        })
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.client.iter().map(|c| c.stream.as_fd()))
    }

    /// Control is connected and welcomed.
    pub(super) fn is_connected(&self) -> bool {
        self.client.as_ref().is_some_and(|c| c.welcomed)
    }

    /// Takes what has arrived. `applied` is the version in force, for the welcome.
    pub(super) fn receive(&mut self, applied: u64) -> Vec<Message> {
        self.accept();
        let mut messages = Vec::new();
        let Some(client) = &mut self.client else {
            return messages;
        };
        match client.receive(applied, &mut messages) {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("control disconnected; forwarding goes on with the last state");
                self.client = None;
            }
            Err(error) => {
                tracing::warn!(%error, "control's connection is closed");
                self.client = None;
            }
        }
        messages
    }

    /// Tells control something; without one it is lost, and the next control asks by its own snapshot.
    pub(super) fn send(&mut self, answer: Answer) {
        let Some(client) = &mut self.client else { return };
        if let Err(error) = client.send(answer) {
            tracing::warn!(%error, "control does not read its answers; its connection is closed");
            self.client = None;
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => match self.admit(stream) {
                    Ok(()) => tracing::info!("control connected"),
                    Err(error) => tracing::warn!(%error, "a connection to the control socket was refused"),
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) -> io::Result<()> {
        let uid = peer_uid(&stream)?;
        if uid != 0 && uid != own_uid() {
            return Err(io::Error::other(format!("user {uid} may not steer this node")));
        }
        stream.set_nonblocking(true)?;
        self.client = Some(Client {
            stream,
            decoder: Decoder::default(),
            buffer: vec![0; READ_BYTES].into(),
            welcomed: false,
        });
        Ok(())
    }
}

impl Client {
    /// `false`: the other side closed.
    fn receive(&mut self, applied: u64, messages: &mut Vec<Message>) -> io::Result<bool> {
        let mut open = true;
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(count) => self.decoder.extend(&self.buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        while let Some(message) = self
            .decoder
            .next_message::<ToFastpath>()
            .map_err(io::Error::other)?
        {
            self.take(message, applied, messages)?;
        }
        Ok(open)
    }

    fn take(&mut self, message: ToFastpath, applied: u64, messages: &mut Vec<Message>) -> io::Result<()> {
        match message.body {
            Some(Body::Hello(hello)) => {
                if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
                    return Err(io::Error::other(format!(
                        "{} speaks protocol {} to {}, expected {PROTOCOL}",
                        hello.software, hello.protocol_min, hello.protocol_max
                    )));
                }
                self.welcomed = true;
                self.send(Answer::Welcome(Welcome {
                    protocol: PROTOCOL,
                    software: super::SOFTWARE.to_owned(),
                    applied_version: applied,
                    needs_snapshot: true,
                }))
            }
            _ if !self.welcomed => Err(io::Error::other("expected Hello as the first message")),
            Some(Body::Snapshot(state)) => {
                messages.push(Message::Snapshot(Box::new(state)));
                Ok(())
            }
            Some(Body::Delta(delta)) => {
                messages.push(Message::Delta(Box::new(delta)));
                Ok(())
            }
            None => Err(io::Error::other(
                "a message of a kind that this version does not know",
            )),
        }
    }

    /// Answers are small: one that does not fit the socket's buffer means that nobody reads.
    fn send(&mut self, answer: Answer) -> io::Result<()> {
        let bytes = frame::encode(&FromFastpath { body: Some(answer) }).map_err(io::Error::other)?;
        self.stream.write_all(&bytes)
    }
}

/// A listening Unix socket of mode 0600 that does not block, in a folder that is made when it is not there.
pub(super) fn listen_private(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Only a socket, which no process serves any more, may be in the way.
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is something else, expected a socket or nothing",
            ));
        }
        _ => {}
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use contract::proto::Hello;

    use super::*;

    fn hello(min: u32, max: u32) -> ToFastpath {
        let hello = Hello {
            protocol_min: min,
            protocol_max: max,
            software: "test".to_owned(),
        };
        ToFastpath {
            body: Some(Body::Hello(hello)),
        }
    }

    fn snapshot(version: u64) -> ToFastpath {
        ToFastpath {
            body: Some(Body::Snapshot(State {
                version,
                ..State::default()
            })),
        }
    }

    fn answer(stream: &mut UnixStream) -> Option<Answer> {
        frame::read::<FromFastpath>(stream).unwrap().and_then(|m| m.body)
    }

    #[test]
    fn a_client_is_welcomed_and_heard_and_a_newer_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fastpath.sock");
        let mut socket = ControlSocket::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let mut first = UnixStream::connect(&path).unwrap();
        frame::write(&mut first, &hello(1, 3)).unwrap();
        frame::write(&mut first, &snapshot(7)).unwrap();
        let messages = socket.receive(5);
        assert!(
            matches!(messages.as_slice(), [Message::Snapshot(s)] if s.version == 7),
            "{messages:?}"
        );
        assert!(matches!(answer(&mut first), Some(Answer::Welcome(w)) if w.applied_version == 5));

        let mut second = UnixStream::connect(&path).unwrap();
        frame::write(&mut second, &hello(1, 1)).unwrap();
        assert!(socket.receive(7).is_empty());
        assert!(answer(&mut second).is_some());
        assert!(answer(&mut first).is_none(), "the first is closed");
    }

    #[test]
    fn another_protocol_and_a_missing_hello_end_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fastpath.sock");
        let mut socket = ControlSocket::listen(&path).unwrap();
        for first in [hello(PROTOCOL + 1, PROTOCOL + 2), snapshot(1)] {
            let mut stream = UnixStream::connect(&path).unwrap();
            frame::write(&mut stream, &first).unwrap();
            assert!(socket.receive(0).is_empty());
            assert!(!socket.is_connected());
            assert!(answer(&mut stream).is_none());
        }
    }
}
