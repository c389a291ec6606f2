//! An API server of the cluster's size: lists in pages, made while they are sent, and watches that say what they are told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::cluster::Size;

/// It serves until the process ends.
pub struct Server {
    pub address: SocketAddr,
    size: Size,
    version: u64,
    watches: Watches,
}

/// Connections that watch, by plural name of what they watch.
type Watches = Arc<Mutex<Vec<(String, TcpStream)>>>;

impl Server {
    pub fn start(size: Size) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        let watches = Watches::default();
        let server = Self {
            address,
            size,
            version: FIRST_VERSION,
            watches: Arc::clone(&watches),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let watches = Arc::clone(&watches);
                std::thread::spawn(move || serve(stream, size, &watches));
            }
        });
        server
    }

    /// How many kinds are watched.
    pub fn watched(&self) -> usize {
        self.watches.lock().expect("no panic before").len()
    }

    /// Tells the watches of slices that the first endpoint of a service is ready, or not.
    pub fn change_slice(&mut self, service: usize, is_ready: bool) {
        self.version += 1;
        let mut slice = self.size.slice(service, is_ready);
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": slice}));
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        for (plural, stream) in &mut *self.watches.lock().expect("no panic before") {
            if plural == "endpointslices" {
                stream.write_all(chunk.as_bytes()).expect("it watches");
            }
        }
    }
}

/// Requests of one connection, up to a watch.
fn serve(stream: TcpStream, size: Size, watches: &Watches) {
    stream.set_nodelay(true).expect("TCP");
    let mut writer = stream.try_clone().expect("descriptors");
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).is_ok_and(|len| len > 2) {
            header.clear();
        }
        let target = request.split_whitespace().nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plural = path.rsplit('/').next().unwrap_or_default();
        if query.contains("watch=true") {
            writer
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                .expect("it listens");
            let mut watches = watches.lock().expect("no panic before");
            watches.push((plural.to_owned(), writer));
            return;
        }
        let first = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("continue="))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let (code, body) = page(size, plural, first);
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(body.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

fn page(size: Size, plural: &str, first: usize) -> (u16, String) {
    let count = match plural {
        "nodes" => size.nodes,
        "namespaces" => size.namespaces,
        "pods" => size.pods,
        "services" | "endpointslices" => size.services,
        "networkpolicies" => size.policies,
        _ => {
            return (
                404,
                json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "none"}).to_string(),
            );
        }
    };
    let last = count.min(first + PAGE);
    let item = |index: usize| match plural {
        "nodes" => Size::node(index),
        "namespaces" => size.namespace_object(index),
        "pods" => size.pod(index, true),
        "services" => size.service(index),
        "endpointslices" => size.slice(index, true),
        _ => size.policy(index, 9000),
    };
    let items: Vec<Value> = (first..last).map(item).collect();
    let next = if last < count {
        last.to_string()
    } else {
        String::new()
    };
    let metadata = json!({"resourceVersion": FIRST_VERSION.to_string(), "continue": next});
    (
        200,
        json!({"kind": "List", "metadata": metadata, "items": items}).to_string(),
    )
}

const PAGE: usize = 500;
const FIRST_VERSION: u64 = 1000;
