//! etcd and kube-apiserver, where `KUBEBUILDER_ASSETS` names their folder: on the loopback, in a folder of their own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::source::kubernetes::access::Access;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::Cluster;

/// What a test that needs it is skipped without.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The folder of the programs, or a printed reason to skip; a panic where `RINGWAY_REQUIRE` demands them.
pub fn assets(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(ASSETS).map(PathBuf::from);
    let reason = match &folder {
        None => format!("{ASSETS} names no folder with etcd and kube-apiserver"),
        Some(folder) => {
            let missing = ["etcd", "kube-apiserver"]
                .into_iter()
                .find(|name| !folder.join(name).is_file());
            match missing {
                None => return Some(folder.clone()),
                Some(name) => format!("there is no {name} in {ASSETS}={}", folder.display()),
            }
        }
    };
    let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|what| what.trim() == "kube-apiserver"),
        "RINGWAY_REQUIRE: {reason}"
    );
    println!("SKIPPED: {test}: {reason}");
    None
}

/// The two programs, ended when the test ends.
pub struct RealServer {
    assets: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    etcd: Child,
    server: Option<Child>,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Who may do everything, and who may do nothing before a rule says so.
pub const ADMIN: &str = "admin-token";
pub const NODE_AGENT: &str = "agent-token";

impl RealServer {
    pub async fn start(assets: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [etcd_port, peer_port, port] = free_ports();
        let (client, peer) = (
            format!("http://127.0.0.1:{etcd_port}"),
            format!("http://127.0.0.1:{peer_port}"),
        );
        let etcd = Command::new(assets.join("etcd"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--unsafe-no-fsync",
                "--data-dir",
            ])
            .arg(directory.path().join("etcd"))
            .stdout(log(&directory, "etcd.log"))
            .stderr(log(&directory, "etcd.err"))
            .spawn()
            .unwrap();
        let key = directory.path().join("service-account.key");
        let made = Command::new("openssl")
            .args([
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
            ])
            .arg(&key)
            .output()
            .expect("openssl makes the key that service accounts' tokens are signed with");
        assert!(made.status.success(), "{made:?}");
        fs::write(
            directory.path().join("tokens.csv"),
            format!("{ADMIN},admin,1,\"system:masters\"\n{NODE_AGENT},agent,2\n"),
        )
        .unwrap();
        let mut real = Self {
            assets: assets.to_owned(),
            directory,
            port,
            etcd_port,
            etcd,
            server: None,
        };
        real.start_server().await;
        real
    }

    /// Starts kube-apiserver, and waits until it is ready.
    pub async fn start_server(&mut self) {
        let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        let server = Command::new(self.assets.join("kube-apiserver"))
            .args([
                format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", path("service-account.key")),
                format!(
                    "--service-account-signing-key-file={}",
                    path("service-account.key")
                ),
                format!("--token-auth-file={}", path("tokens.csv")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.port),
                format!("--cert-dir={}", path("certificates")),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
            ])
            .stdout(log(&self.directory, "server.log"))
            .stderr(log(&self.directory, "server.err"))
            .spawn()
            .unwrap();
        self.server = Some(server);
        let patience = Instant::now() + Duration::from_mins(3);
        loop {
            if let Ok(client) = self.client(ADMIN).await {
                let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
                if client.request_text(ready).await.is_ok_and(|text| text == "ok") {
                    return;
                }
            }
            let ended = self.server.as_mut().and_then(|server| server.try_wait().unwrap());
            let told = || fs::read_to_string(self.directory.path().join("server.err")).unwrap_or_default();
            assert!(
                ended.is_none() && Instant::now() < patience,
                "kube-apiserver is not ready: {}",
                told()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills kube-apiserver; etcd keeps what it wrote.
    pub fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// A kubeconfig with a token. The server's own certificate is its authority: it made it by itself.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let authority = self.directory.path().join("certificates/apiserver.crt");
        let path = self.directory.path().join(format!("kubeconfig-{token}"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n",
            self.port,
            authority.display()
        );
        fs::write(&path, text).unwrap();
        path
    }

    async fn client(&self, token: &str) -> Result<Client, Box<dyn std::error::Error>> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(token))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        Ok(Client::try_from(config)?)
    }

    /// As someone who may do everything.
    pub async fn cluster(&self) -> Cluster {
        Cluster::new(self.client(ADMIN).await.unwrap())
    }

    /// As ringway-control has it.
    pub fn access(&self, token: &str) -> Access {
        Access {
            kubeconfig: Some(self.kubeconfig(token)),
            ..Access::default()
        }
    }
}

impl Cluster {
    /// Applies a file of `deploy/`.
    pub async fn apply(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
        let text = fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            self.create(serde_saphyr::from_str::<Value>(document).unwrap())
                .await;
        }
    }

    /// Gives a user the rules of `deploy/rbac.yaml`.
    pub async fn bind(&self, user: &str) {
        self.create(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ringway-control"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }))
        .await;
    }
}

fn log(directory: &tempfile::TempDir, name: &str) -> Stdio {
    File::create(directory.path().join(name)).unwrap().into()
}

/// Ports that nobody listens on right now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}
