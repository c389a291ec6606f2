//! Which API server, and as whom: a kubeconfig or the pod's service account, `--api-server`, and addresses kept on disk.
//!
//! The address of the `kubernetes` Service is never used: on a node without kube-proxy it is we who make it work.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use kube::client::ConfigExt as _;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use kube::{Client, Config};
use tower::{Layer as _, ServiceExt as _};

/// What a person told us of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; without one we are a pod and have a service account.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses that count instead of the kubeconfig's, tried in this order.
    pub servers: Vec<Uri>,
    /// The service account's folder, as the kubelet mounts it.
    pub service_account: PathBuf,
}

/// Where the kubelet puts a pod's service account.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why the API server cannot be asked at all. All of these want a person.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such file.
    #[error("--kubeconfig {}: {source}", path.display())]
    NoKubeconfig {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is none, or leads nowhere.
    #[error("--kubeconfig {}: {}", path.display(), one_line(source))]
    BadKubeconfig {
        /// As given.
        path: PathBuf,
        /// What is wrong.
        source: Box<KubeconfigError>,
    },
    /// Keys, certificates or tokens that cannot be used.
    #[error("{origin}: {message}")]
    Unusable {
        /// Whose.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// Neither files nor a kubeconfig nor a pod.
    #[error(
        "no --state and no --kubeconfig is given, and {}: {source}; expected --state DIR, --kubeconfig FILE, or a pod \
         with a service account (automountServiceAccountToken)",
        path.display()
    )]
    NotInCluster {
        /// What a pod has.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// In a cluster, and nobody says where the API server is.
    #[error(
        "no address of the API server: give --api-server https://HOST:6443 (its own address, or a load balancer's; the \
         Service {service} does not count, because without kube-proxy it is ringway that makes it work){}",
        if *has_run_directory { ", or start once with it: addresses are kept in --run-dir" } else { "" }
    )]
    NoServer {
        /// As the environment names it.
        service: String,
        /// Whether there is a place that keeps addresses.
        has_run_directory: bool,
    },
}

/// An address of an API server and what its certificate has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: Uri,
    /// The name that its certificate is checked for, where it is not the address's host.
    pub(super) name: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.address.to_string();
        f.write_str(text.trim_end_matches('/'))
    }
}

/// What is known: credentials, and where to go in which order.
#[derive(Clone)]
pub(super) struct Known {
    config: Config,
    pub(super) servers: Vec<Server>,
}

impl Access {
    /// Reads the files that it names. `kept` are addresses of API servers that answered before.
    pub(super) async fn read(
        &self,
        kept: &[SocketAddr],
        has_run_directory: bool,
    ) -> Result<Known, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(path) => from_kubeconfig(path).await?,
            None => self.service_account_config().await?,
        };
        config.connect_timeout = Some(CONNECT_PATIENCE);
        // Those who ask pause by themselves, and tell why.
        config.default_retry = false;
        let mut servers: Vec<Server> = self
            .servers
            .iter()
            .map(|address| Server {
                address: address.clone(),
                name: config.tls_server_name.clone(),
            })
            .collect();
        if servers.is_empty() && self.kubeconfig.is_some() {
            servers.push(Server {
                address: config.cluster_url.clone(),
                name: config.tls_server_name.clone(),
            });
        }
        // Kept addresses are those of the API servers themselves. The one name that the certificates of all of them bear is
        // the Service's, by which pods dial them.
        let name = config
            .tls_server_name
            .clone()
            .unwrap_or_else(|| SERVICE_NAME.to_owned());
        let is_plain = servers
            .first()
            .is_some_and(|first| first.address.scheme_str() == Some("http"));
        let scheme = if is_plain { "http" } else { "https" };
        for address in kept {
            let Ok(address) = format!("{scheme}://{address}").parse::<Uri>() else {
                continue;
            };
            if !servers
                .iter()
                .any(|server| server.address.authority() == address.authority())
            {
                servers.push(Server {
                    address,
                    name: Some(name.clone()),
                });
            }
        }
        if servers.is_empty() {
            return Err(AccessError::NoServer {
                service: service_host().unwrap_or_else(|| "kubernetes".to_owned()),
                has_run_directory,
            });
        }
        let known = Known { config, servers };
        // Keys and certificates are looked at now, so that a mistake in them is told at the start.
        known.client(0).map_err(|message| AccessError::Unusable {
            origin: self.origin(),
            message,
        })?;
        Ok(known)
    }

    fn origin(&self) -> String {
        match &self.kubeconfig {
            Some(path) => format!("--kubeconfig {}", path.display()),
            None => format!("service account in {}", self.service_account.display()),
        }
    }

    async fn service_account_config(&self) -> Result<Config, AccessError> {
        let token = self.service_account.join("token");
        let authority = self.service_account.join("ca.crt");
        for path in [&token, &authority] {
            if let Err(source) = std::fs::File::open(path) {
                return Err(AccessError::NotInCluster {
                    path: path.clone(),
                    source,
                });
            }
        }
        let text = |path: &Path| Some(path.to_string_lossy().into_owned());
        let name = || "in-cluster".to_owned();
        let kubeconfig = Kubeconfig {
            clusters: vec![NamedCluster {
                name: name(),
                cluster: Some(Cluster {
                    server: Some("https://kubernetes.default.svc".to_owned()),
                    certificate_authority: text(&authority),
                    ..Cluster::default()
                }),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: name(),
                auth_info: Some(AuthInfo {
                    // Read again by kube while we run: the kubelet renews it.
                    token_file: text(&token),
                    ..AuthInfo::default()
                }),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext {
                name: name(),
                context: Some(Context {
                    cluster: name(),
                    user: Some(name()),
                    ..Context::default()
                }),
                ..NamedContext::default()
            }],
            current_context: Some(name()),
            ..Kubeconfig::default()
        };
        let read = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let mut config = read.map_err(|error| AccessError::Unusable {
            origin: self.origin(),
            message: one_line(&error),
        })?;
        // The authority is renewed, too.
        config.root_cert_file = Some(authority);
        config.proxy_url = None;
        Ok(config)
    }
}

async fn from_kubeconfig(path: &Path) -> Result<Config, AccessError> {
    if let Err(source) = std::fs::File::open(path) {
        return Err(AccessError::NoKubeconfig {
            path: path.to_owned(),
            source,
        });
    }
    let bad = |source| AccessError::BadKubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(bad)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default())
        .await
        .map_err(bad)?;
    let names_proxy = kubeconfig.clusters.iter().any(|named| {
        named
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    if names_proxy {
        return Err(AccessError::Unusable {
            origin: format!("--kubeconfig {}", path.display()),
            message:
                "it has a proxy-url, which is not supported; expected an API server that is reached directly"
                    .to_owned(),
        });
    }
    // What the environment says of proxies is meant for other programs of the node.
    config.proxy_url = None;
    Ok(config)
}

fn service_host() -> Option<String> {
    std::env::var("KUBERNETES_SERVICE_HOST")
        .ok()
        .filter(|host| !host.is_empty())
}

impl Known {
    /// A client of the server at `index`.
    pub(super) fn client(&self, index: usize) -> Result<Client, String> {
        let mut config = self.config.clone();
        if let Some(server) = self.servers.get(index) {
            config.cluster_url.clone_from(&server.address);
            config.tls_server_name.clone_from(&server.name);
        }
        build(&config).map_err(|error| one_line(&error))
    }
}

/// The client that kube would build, on connections that notice when the other end is gone: a watch may be silent for
/// minutes, so only the kernel's probes tell silence from a cut.
fn build(config: &Config) -> kube::Result<Client> {
    let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EACH));
    tcp.set_keepalive_retries(Some(PROBES_MAX));
    // What was sent and is not acknowledged is not probed for.
    tcp.set_tcp_user_timeout(Some(PROBE_AFTER + PROBE_EACH * PROBES_MAX));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build(tls);
    let service = config
        .extra_headers_layer()?
        .layer(http)
        .map_err(tower::BoxError::from);
    let namespace = config.default_namespace.clone();
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(auth) => Client::new(base.layer(auth.layer(service)), namespace),
        None => Client::new(base.layer(service), namespace),
    })
}

/// An error and its causes, without line breaks and without saying one thing twice.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const SERVICE_NAME: &str = "kubernetes.default.svc";
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const PROBE_AFTER: Duration = Duration::from_secs(20);
const PROBE_EACH: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate authority that signs nothing; its key was thrown away.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUZGPTKKDLR5wadmfZtaOn5+rgQFowCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdC1hdXRob3JpdHkwIBcNMjYxMTIyMjM1MzUxWhgPMjEy
NjEwMjkyMzUzNTFaMBkxFzAVBgNVBAMMDnRlc3QtYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE5ZQOzm0oYv4uXsQHNlBGFr3nS+ZZIkIabLEmwxBA
V50P/HvvDVLN2UUpL9fAsYFSnUoz6wUJBpAuCth54iPqcKNTMFEwHQYDVR0OBBYE
FCmRNPN/0nRW924zMSJjBWBFBeTxMB8GA1UdIwQYMBaAFCmRNPN/0nRW924zMSJj
BWBFBeTxMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAIlg73r/
cnUQhiSqiY7HDShqQYUCB8fb6igrwfnAvtlKAiB/IOxIMBa/0apsSHe7UZvtekVm
/wQ1saky4HcZRxpOMg==
-----END CERTIFICATE-----
";

    fn kubeconfig(directory: &Path, cluster: &str) -> Access {
        let path = directory.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        Access {
            kubeconfig: Some(path),
            ..Access::default()
        }
    }

    async fn servers(access: &Access, kept: &[&str]) -> Result<Vec<String>, String> {
        let kept: Vec<SocketAddr> = kept.iter().map(|address| address.parse().unwrap()).collect();
        let known = access
            .read(&kept, true)
            .await
            .map_err(|error| error.to_string())?;
        let text = |server: &Server| match &server.name {
            Some(name) => format!("{server} as {name}"),
            None => server.to_string(),
        };
        Ok(known.servers.iter().map(text).collect())
    }

    #[tokio::test]
    async fn kept_addresses_come_last_and_go_by_the_name_that_all_servers_have() {
        let directory = tempfile::tempdir().unwrap();
        let kept = ["10.0.0.1:6443", "[fd00::1]:6443"];
        let mut access = kubeconfig(directory.path(), "server: 'https://api.example:6443'");
        let expected = [
            "https://api.example:6443",
            "https://10.0.0.1:6443 as kubernetes.default.svc",
            "https://[fd00::1]:6443 as kubernetes.default.svc",
        ];
        assert_eq!(servers(&access, &kept).await.unwrap(), expected);
        // What a person names counts instead of the kubeconfig's, and is not there twice.
        access.servers = vec![Uri::from_static("https://10.0.0.1:6443")];
        let expected = [
            "https://10.0.0.1:6443",
            "https://[fd00::1]:6443 as kubernetes.default.svc",
        ];
        assert_eq!(servers(&access, &kept).await.unwrap(), expected);
        let named = kubeconfig(
            directory.path(),
            "server: 'https://10.0.0.9:6443', tls-server-name: api.example",
        );
        assert_eq!(
            servers(&named, &kept[..1]).await.unwrap(),
            [
                "https://10.0.0.9:6443 as api.example",
                "https://10.0.0.1:6443 as api.example"
            ]
        );
    }

    #[tokio::test]
    async fn a_pod_needs_an_address_that_is_not_the_services() {
        let directory = tempfile::tempdir().unwrap();
        let mut access = Access {
            service_account: directory.path().to_owned(),
            ..Access::default()
        };
        let error = servers(&access, &[]).await.unwrap_err();
        assert!(
            error.contains("no --state and no --kubeconfig") && error.contains("token: No such file"),
            "{error}"
        );
        std::fs::write(directory.path().join("token"), "t").unwrap();
        std::fs::write(directory.path().join("ca.crt"), AUTHORITY).unwrap();
        let error = servers(&access, &[]).await.unwrap_err();
        assert!(error.contains("give --api-server https://HOST:6443"), "{error}");
        assert_eq!(
            servers(&access, &["10.0.0.1:6443"]).await.unwrap(),
            ["https://10.0.0.1:6443 as kubernetes.default.svc"]
        );
        access.servers = vec![Uri::from_static("https://10.0.0.2:6443")];
        assert_eq!(servers(&access, &[]).await.unwrap(), ["https://10.0.0.2:6443"]);
        std::fs::write(directory.path().join("ca.crt"), "no certificate").unwrap();
        let error = servers(&access, &[]).await.unwrap_err();
        assert!(error.contains("service account in "), "{error}");
    }
}
