//! An API server behind TLS, reached at an address that its certificate does not name.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::cluster::follower::{Follower, config, kubeconfig};
use super::{ports, set_up};
use control::source::Source as _;
use control::source::kubernetes::Kubernetes;
use control::source::kubernetes::access::Access;

/// An authority (`ca.pem`), and a certificate of it for the one name that all API servers have.
fn certificates(directory: &Path) -> Option<()> {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory)
            .output()
            .ok()?;
        assert!(output.status.success(), "{arguments}: {output:?}");
        Some(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"
    ))?;
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=kube-apiserver"
    ))?;
    std::fs::write(
        directory.join("names"),
        "subjectAltName=DNS:kubernetes.default.svc\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    )
}

/// Takes TLS and passes on what is inside.
async fn door(directory: &Path, to: SocketAddr) -> SocketAddr {
    let chain = CertificateDer::pem_file_iter(directory.join("server.pem"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let (Ok(mut near), Ok(mut far)) =
                    (acceptor.accept(stream).await, TcpStream::connect(to).await)
                {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_kept_address_is_verified_by_the_name_that_all_servers_have() {
    let (server, _cluster) = set_up().await;
    let directory = tempfile::tempdir().unwrap();
    if certificates(directory.path()).is_none() {
        println!("SKIPPED: there is no openssl");
        return;
    }
    let address = door(directory.path(), server.address()).await;
    let path = directory.path().join("kubeconfig");
    // Where it leads there is nobody.
    let text = kubeconfig("https://127.0.0.1:1").replace("server:", "certificate-authority: ca.pem, server:");
    std::fs::write(&path, text).unwrap();
    let access = Access {
        kubeconfig: Some(path),
        ..Access::default()
    };
    let kept = format!("{{\"version\": 1, \"api_servers\": [\"{address}\"]}}");
    std::fs::write(directory.path().join("api-servers-a.json"), kept).unwrap();
    let follower = Follower::start(config(access.clone(), Some(directory.path())))
        .await
        .unwrap();
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
    assert_eq!(
        follower.source.condition().api_server,
        Some(format!("https://{address}"))
    );

    // An address that a person names has to be in the certificate.
    let named = Access {
        servers: vec![format!("https://{address}").parse().unwrap()],
        ..access
    };
    let mut source = Kubernetes::start(config(named, None)).await.unwrap();
    let mut objects = control::object::Objects::default();
    let told = loop {
        let waited =
            tokio::time::timeout(std::time::Duration::from_millis(50), source.first(&mut objects)).await;
        assert!(waited.is_err(), "there is nothing to begin with");
        let problems = source.condition().problems.join("\n");
        if problems.contains("no answer from an API server") {
            break problems;
        }
    };
    assert!(told.contains("not valid for name \"127.0.0.1\""), "{told}");
}
