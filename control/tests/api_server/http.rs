//! As much of HTTP/1.1 (RFC 9112) as it takes: heads, bodies of known length, answers in chunks, and ways to break them.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Connection {
    stream: BufReader<TcpStream>,
}

pub struct Request {
    pub method: String,
    pub path: String,
    query: String,
    pub body: Value,
}

impl Request {
    /// A field of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| decode(value))
            .next()
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, rest.get(..2)) {
            (b'%', Some(hex)) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
                rest = &rest[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The next request; `None` when the other end is gone.
    pub async fn request(&mut self) -> Option<Request> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut len = 0;
        loop {
            let mut header = String::new();
            self.stream.read_line(&mut header).await.ok()?;
            match header.trim_end().split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    len = value.trim().parse().unwrap();
                }
                Some(_) => {}
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).await.ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Some(Request {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        })
    }

    /// Answers with one value. Cut short, if so demanded.
    pub async fn whole(
        &mut self,
        code: u16,
        value: &Value,
        slow: Option<(usize, Duration)>,
        is_cut: bool,
    ) -> io::Result<()> {
        let body = value.to_string();
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).await?;
        if is_cut {
            stream.write_all(&body.as_bytes()[..body.len() / 2]).await?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        write(stream, body.as_bytes(), slow).await
    }

    /// Begins an answer of unknown length.
    pub async fn begin(&mut self, slow: Option<(usize, Duration)>) -> io::Result<Response<'_>> {
        let stream = self.stream.get_mut();
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await?;
        Ok(Response { stream, slow })
    }
}

/// An answer on its way.
pub struct Response<'c> {
    stream: &'c mut TcpStream,
    slow: Option<(usize, Duration)>,
}

impl Response<'_> {
    /// One line of JSON, as a chunk.
    pub async fn line(&mut self, value: &Value) -> io::Result<()> {
        let text = format!("{value}\n");
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        write(self.stream, chunk.as_bytes(), self.slow).await
    }

    pub async fn end(self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n").await
    }
}

async fn write(stream: &mut TcpStream, bytes: &[u8], slow: Option<(usize, Duration)>) -> io::Result<()> {
    let Some((len, pause)) = slow else {
        return stream.write_all(bytes).await;
    };
    for piece in bytes.chunks(len) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
