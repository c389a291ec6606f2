//! The client against a fastpath made of a Unix socket and the reference merge.

use super::*;
use contract::frame::{Decoder, encode};
use contract::merge;
use proto::from_fastpath::Body as From;
use proto::to_fastpath::Body as To;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// One accepted connection of the fake fastpath.
struct Peer {
    stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    async fn accept(listener: &UnixListener, applied_version: u64) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut peer = Self {
            stream,
            decoder: Decoder::default(),
        };
        assert!(matches!(peer.receive().await, To::Hello(hello) if hello.protocol_max == contract::PROTOCOL));
        let protocol = contract::PROTOCOL;
        let welcome = proto::Welcome {
            protocol,
            applied_version,
            needs_snapshot: true,
            ..Default::default()
        };
        peer.send(From::Welcome(welcome)).await;
        peer
    }

    async fn receive(&mut self) -> To {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message::<proto::ToFastpath>().unwrap() {
                return message.body.unwrap();
            }
            let len = timeout(PATIENCE, self.stream.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(len, 0, "the client hung up");
            self.decoder.extend(&buffer[..len]);
        }
    }

    async fn send(&mut self, body: From) {
        self.stream
            .write_all(&encode(&proto::FromFastpath { body: Some(body) }).unwrap())
            .await
            .unwrap();
    }

    async fn snapshot(&mut self) -> proto::State {
        match self.receive().await {
            To::Snapshot(state) => state,
            other => panic!("expected a snapshot, found {other:?}"),
        }
    }

    async fn delta(&mut self) -> proto::Delta {
        match self.receive().await {
            To::Delta(delta) => delta,
            other => panic!("expected a delta, found {other:?}"),
        }
    }

    async fn apply(&mut self, version: u64) {
        self.send(From::Applied(proto::Applied {
            version,
            ..Default::default()
        }))
        .await;
    }

    async fn refuse(&mut self, version: u64) {
        let refused = proto::Refused {
            version,
            kind: "Pod".into(),
            name: "web".into(),
            ..Default::default()
        };
        self.send(From::Refused(refused)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn state(ports: &[&str]) -> Arc<Desired> {
    let port = |name: &&str| proto::Port {
        name: (*name).to_owned(),
        ..Default::default()
    };
    Arc::new(Desired::from(proto::State {
        ports: ports.iter().map(port).collect(),
        ..Default::default()
    }))
}

fn names(state: &proto::State) -> Vec<&str> {
    state.ports.iter().map(|p| p.name.as_str()).collect()
}

struct Client {
    listener: UnixListener,
    desired: watch::Sender<Arc<Desired>>,
    reports: mpsc::Receiver<Report>,
    task: tokio::task::JoinHandle<()>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Client {
    fn start(first: Arc<Desired>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("fastpath.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (desired, receiver) = watch::channel(first);
        let (sender, reports) = mpsc::channel(64);
        let task = tokio::spawn(push(socket.clone(), receiver, sender));
        Self {
            listener,
            desired,
            reports,
            task,
            socket,
            _directory: directory,
        }
    }

    async fn report(&mut self) -> Report {
        timeout(PATIENCE, self.reports.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_snapshot_is_followed_by_deltas() {
    let mut client = Client::start(state(&["a"]));
    let mut peer = Peer::accept(&client.listener, 0).await;
    assert!(matches!(
        client.report().await,
        Report::Connected {
            applied_version: 0,
            ..
        }
    ));
    let first = peer.snapshot().await;
    assert_eq!((first.version, names(&first)), (1, vec!["a"]));
    // While the first is on its way, newer ones replace each other.
    client.desired.send(state(&["a", "b"])).unwrap();
    client.desired.send(state(&["a", "c"])).unwrap();
    peer.apply(1).await;
    assert!(
        matches!(client.report().await, Report::Applied(applied, state) if applied.version == 1 && names(&state.whole()) == ["a"])
    );
    let delta = peer.delta().await;
    let second = merge::apply(&first, &delta).unwrap();
    assert_eq!((second.version, names(&second)), (2, vec!["a", "c"]));
    peer.apply(2).await;
    peer.send(From::PortEvent(proto::PortEvent {
        port: "c".into(),
        live: true,
        ..Default::default()
    }))
    .await;
    assert!(matches!(client.report().await, Report::Applied(..)));
    assert!(matches!(client.report().await, Report::Port(event) if event.live && event.port == "c"));
    // Nobody desires anything any more: it ends by itself.
    drop(client.desired);
    timeout(PATIENCE, client.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_version_leaves_the_one_before() {
    let mut client = Client::start(state(&["a"]));
    let mut peer = Peer::accept(&client.listener, 0).await;
    let first = peer.snapshot().await;
    peer.apply(first.version).await;
    client.desired.send(state(&["a", "bad"])).unwrap();
    let refused = peer.delta().await;
    peer.refuse(refused.version).await;
    // The same again is not sent; the next that differs starts from what is in force.
    client.desired.send(state(&["a", "bad"])).unwrap();
    client.desired.send(state(&["a", "good"])).unwrap();
    let mended = peer.delta().await;
    assert!(mended.version > refused.version);
    assert_eq!(names(&merge::apply(&first, &mended).unwrap()), ["a", "good"]);
    client.report().await;
    client.report().await;
    assert!(matches!(client.report().await, Report::Refused(refused) if refused.name == "web"));
}

#[tokio::test]
async fn fastpath_may_ask_for_everything_again() {
    let mut client = Client::start(state(&["a"]));
    let mut peer = Peer::accept(&client.listener, 0).await;
    let first = peer.snapshot().await;
    peer.apply(first.version).await;
    client.desired.send(state(&["b"])).unwrap();
    peer.delta().await;
    peer.send(From::Resync(proto::Resync {
        reason: "lost my place".into(),
    }))
    .await;
    let again = peer.snapshot().await;
    assert_eq!(names(&again), ["b"]);
    // A second demand in place of an answer ends the connection, and the next begins anew.
    peer.send(From::Resync(proto::Resync::default())).await;
    let mut peer = Peer::accept(&client.listener, 0).await;
    assert_eq!(names(&peer.snapshot().await), ["b"]);
    for _ in 0..2 {
        client.report().await;
    }
    assert!(matches!(client.report().await, Report::Resync { reason } if reason == "lost my place"));
    assert!(matches!(client.report().await, Report::Disconnected { .. }));
}

#[tokio::test]
async fn a_restarted_fastpath_gets_a_snapshot_with_a_newer_version() {
    let mut client = Client::start(state(&["a"]));
    let mut peer = Peer::accept(&client.listener, 41).await;
    assert!(matches!(
        client.report().await,
        Report::Connected {
            applied_version: 41,
            ..
        }
    ));
    let first = peer.snapshot().await;
    assert_eq!(first.version, 42);
    drop(peer);
    drop(client.listener);
    std::fs::remove_file(&client.socket).unwrap();
    let report = timeout(PATIENCE, client.reports.recv()).await.unwrap().unwrap();
    assert!(matches!(report, Report::Disconnected { .. }), "{report:?}");
    client.desired.send(state(&["a", "b"])).unwrap();
    let listener = UnixListener::bind(&client.socket).unwrap();
    let mut peer = Peer::accept(&listener, 0).await;
    let second = peer.snapshot().await;
    assert_eq!((second.version, names(&second)), (43, vec!["a", "b"]));
    let report = timeout(PATIENCE, client.reports.recv()).await.unwrap().unwrap();
    assert!(
        matches!(report, Report::Connected { .. }),
        "one disconnection is told once: {report:?}"
    );
}
