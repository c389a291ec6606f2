//! Asks fastpath's status socket whether a live flow has an address.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::allocator::LiveFlows;

/// The fastpath behind a status socket.
#[derive(Clone, Debug)]
pub struct Fastpath {
    socket: PathBuf,
}

/// What matters of its answer.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Flows { flows: Vec<Row> },
    Error(String),
}

#[derive(Deserialize)]
struct Row {
    orig: String,
    reply: String,
}

impl Fastpath {
    /// The one that listens at `socket`.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    async fn ask(&self, address: IpAddr) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let question = json!({"ask": "flows", "limit": ROWS_MAX, "contains": address.to_string()});
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream.take(ANSWER_LEN_MAX))
            .read_line(&mut line)
            .await?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl LiveFlows for Fastpath {
    async fn has(&self, address: IpAddr) -> Result<bool, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.socket.display());
        let answer = tokio::time::timeout(PATIENCE, self.ask(address)).await;
        match answer {
            Ok(Ok(Answer::Flows { flows })) => {
                let has = |row: &Row| [&row.orig, &row.reply].iter().any(|tuple| names(tuple, address));
                // Rows of addresses that only begin or end alike may fill the answer: then nobody knows, and it waits.
                Ok(flows.len() >= ROWS_MAX || flows.iter().any(has))
            }
            Ok(Ok(Answer::Error(message))) => Err(told(&message)),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(told(&"no answer")),
        }
    }
}

/// Whether `tcp 10.0.0.1:4000 > [fd00::1]:80`, `icmp 10.0.0.1 > 10.0.0.2 id 7` or `ip proto 47 A > B` names `address`.
fn names(tuple: &str, address: IpAddr) -> bool {
    tuple.split(' ').any(|word| {
        let bare = word.parse::<IpAddr>().ok();
        let with_port = || {
            word.parse::<std::net::SocketAddr>()
                .ok()
                .map(|socket| socket.ip())
        };
        bare.or_else(with_port) == Some(address)
    })
}

/// One is enough; the others may be of addresses whose text has this one's in it.
const ROWS_MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);
/// Far beyond that many rows, bytes.
const ANSWER_LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_every_form_of_a_flow() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        for (tuple, address, expected) in [
            ("tcp 10.0.0.1:4000 > 10.0.0.2:80", v4, true),
            ("tcp 110.0.0.1:4000 > 10.0.0.11:80", v4, false),
            ("icmp 10.0.0.2 > 10.0.0.1 id 7", v4, true),
            ("ip proto 47 10.0.0.1 > 10.0.0.3", v4, true),
            ("udp [fd00::1]:53 > [fd00::2]:99", v6, true),
            ("udp [fd00::11]:53 > [fd00::2]:99", v6, false),
        ] {
            assert_eq!(names(tuple, address), expected, "{tuple}");
        }
    }

    /// Answers one question with `answer`.
    async fn asked(answer: &'static str) -> Result<bool, String> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("status.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; 512];
            let len = stream.read(&mut question).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&question[..len]).unwrap()
        };
        let fastpath = Fastpath::at(&socket);
        let (answer, question) = tokio::join!(fastpath.has("10.0.0.1".parse().unwrap()), server);
        assert_eq!(
            (&question["ask"], &question["contains"]),
            (&json!("flows"), &json!("10.0.0.1"))
        );
        answer
    }

    #[tokio::test]
    async fn it_asks_and_says_when_it_cannot() {
        let row = "{\"flows\":{\"live\":3,\"flows\":[{\"orig\":\"tcp 1.1.1.1:1 > 10.96.0.1:2\",\"reply\":\"tcp 10.0.0.1:2 > 1.1.1.1:1\",\
                   \"state\":\"x\",\"idle_ms\":0,\"packets\":[0,0],\"bytes\":[0,0],\"policy\":null}]}}\n";
        assert_eq!(asked(row).await, Ok(true));
        assert_eq!(asked("{\"flows\":{\"live\":3,\"flows\":[]}}\n").await, Ok(false));
        assert!(
            asked("{\"error\":\"what?\"}\n")
                .await
                .unwrap_err()
                .contains("what?")
        );
        let nobody = Fastpath::at("/nonexistent/status.sock");
        assert!(
            nobody
                .has("10.0.0.1".parse().unwrap())
                .await
                .unwrap_err()
                .contains("/nonexistent")
        );
    }
}
