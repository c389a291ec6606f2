//! What `ringway-cni` and control say to each other.
//!
//! A stream socket, one call per connection: the plugin sends a [`Request`], control a [`Reply`], each as 4 bytes of length
//! (big-endian) and that many bytes of JSON. With the first byte of a request comes the open file of the pod's network
//! namespace (`SCM_RIGHTS`), where there is one: control may live in another mount namespace, in which the path that the
//! runtime gave leads nowhere.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment::{Parameters, Verb};
use super::failure::Failure;

/// The version of this protocol.
pub const PROTOCOL: u32 = 1;

/// Longest message, bytes.
pub const MESSAGE_LEN_MAX: u32 = 4 << 20;

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The verb; never VERSION, which the plugin answers by itself.
    pub verb: Verb,
    /// The variables.
    pub parameters: Parameters,
    /// The network configuration, as it came.
    pub configuration: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// What goes to standard output; nothing but for ADD.
    Success(Option<Value>),
    /// The error.
    Failure(Failure),
}

/// Sends a request, with the namespace's file where there is one.
pub fn send_request(
    stream: &mut UnixStream,
    request: &Request,
    namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = encode(request)?;
    let namespaces: Vec<BorrowedFd<'_>> = namespace.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !namespaces.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&namespaces)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            stream.as_fd(),
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    stream.write_all(&bytes[sent..])
}

/// Receives a request and the namespace's file that came with it.
///
/// # Errors
/// The socket's, and `InvalidData` for what is no request.
pub fn receive_request(stream: &mut UnixStream) -> io::Result<(Request, Option<OwnedFd>)> {
    let mut first = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            stream.as_fd(),
            &mut [IoSliceMut::new(&mut first)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut namespace = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            // More than one is closed here.
            namespace = files.last();
        }
    }
    let rest = first.get_mut(received.bytes..).unwrap_or_default();
    stream.read_exact(rest)?;
    let request: Request = read_body(stream, u32::from_be_bytes(first))?;
    Ok((request, namespace))
}

/// Sends an answer.
pub fn send_reply(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    stream.write_all(&encode(reply)?)
}

/// Receives an answer.
pub fn receive_reply(stream: &mut UnixStream) -> io::Result<Reply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    read_body(stream, u32::from_be_bytes(length))
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    if length > MESSAGE_LEN_MAX {
        return Err(too_long(length));
    }
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

fn read_body<T: DeserializeOwned>(stream: &mut UnixStream, length: u32) -> io::Result<T> {
    if length > MESSAGE_LEN_MAX {
        return Err(too_long(length));
    }
    // Memory grows with what comes, not with what is announced.
    let mut bytes = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn too_long(length: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message of {length} bytes, expected at most {MESSAGE_LEN_MAX}"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn request() -> Request {
        Request {
            protocol: PROTOCOL,
            verb: Verb::Add,
            parameters: Parameters::default(),
            configuration: "x".repeat(300_000),
        }
    }

    #[test]
    fn a_request_arrives_with_its_namespace() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/ns/net").unwrap();
        let sender = std::thread::spawn(move || {
            send_request(&mut near, &request(), Some(file.as_fd())).unwrap();
            receive_reply(&mut near).unwrap()
        });
        let (received, namespace) = receive_request(&mut far).unwrap();
        assert_eq!(received, request());
        let there = File::from(namespace.unwrap()).metadata().unwrap().ino();
        assert_eq!(there, std::fs::metadata("/proc/self/ns/net").unwrap().ino());
        let failure = Reply::Failure(Failure::new(super::super::failure::Code::Io, "a", "b"));
        send_reply(&mut far, &failure).unwrap();
        assert_eq!(sender.join().unwrap(), failure);
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x02{}",
            b"\0\0\0\x09{}",
            b"\0\0",
            b"",
        ] {
            let (mut near, mut far) = UnixStream::pair().unwrap();
            near.write_all(bytes).unwrap();
            drop(near);
            assert!(receive_request(&mut far).is_err(), "{bytes:?}");
        }
    }
}
