//! What has to hold against any API server.

use std::net::SocketAddr;
use std::time::Duration;

use contract::proto;
use control::source::kubernetes::Config;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::follower::Follower;
use super::{Cluster, namespace, node, pod, policy, pool, service, slice};

/// How many namespaces [`fill`] makes where the server makes none by itself.
pub const NAMESPACES: usize = 1;

/// Two nodes and a pod on each.
pub async fn fill(cluster: &Cluster) {
    if !cluster.has("/api/v1/namespaces/default").await {
        cluster.create(namespace("default", "g")).await;
    }
    cluster.create(node("a", "10.0.0.1", "10.244.1.0/24")).await;
    cluster.create(node("b", "10.0.0.2", "10.244.2.0/24")).await;
    cluster.create(pod("default", "web", "a", "10.244.1.5")).await;
    cluster.create(pod("default", "far", "b", "10.244.2.5")).await;
}

/// A Service with endpoints and a policy, in a namespace of their own.
pub async fn fill_more(cluster: &Cluster) {
    cluster.create(namespace("team", "red")).await;
    cluster.create(pod("team", "client", "b", "10.244.2.6")).await;
    cluster.create(service("team", "api", "10.96.0.10")).await;
    cluster
        .create(slice("team", "api", &["10.244.1.5", "10.244.2.5"]))
        .await;
    let red = json!({"namespaceSelector": {"matchLabels": {"group": "red"}}, "podSelector": {}});
    cluster.create(policy("default", "from-red", "web", &red)).await;
}

/// Whether all of [`fill_more`] is there.
pub fn is_more(state: &proto::State) -> bool {
    backends(state) == [vec![10, 244, 1, 5], vec![10, 244, 2, 5]] && members(state) == [vec![10, 244, 2, 6]]
}

/// Of the Services that we made: a real cluster has one more.
fn backends(state: &proto::State) -> Vec<Vec<u8>> {
    let ours = state
        .services
        .iter()
        .filter(|service| service.id.starts_with("team/"));
    let backends = ours.flat_map(|service| &service.backends);
    backends.map(|backend| backend.address.clone()).collect()
}

fn members(state: &proto::State) -> Vec<Vec<u8>> {
    let members = state.ip_sets.iter().flat_map(|set| &set.members);
    members
        .filter_map(|member| Some(member.prefix.as_ref()?.address.clone()))
        .collect()
}

fn port_names(state: &proto::State) -> Vec<&str> {
    state.ports.iter().map(|port| port.name.as_str()).collect()
}

/// Create, alter and delete of each kind reaches the resolved state.
pub async fn every_kind(cluster: &Cluster, config: Config) {
    let mut follower = Follower::start(config).await.unwrap();
    follower
        .until_state("the pod", |state| {
            port_names(state) == ["host", "pod:default/web", "uplink"]
        })
        .await;
    fill_more(cluster).await;
    follower.until_state("Service, slice, policy", is_more).await;

    // Pods: one more, its address later than itself, its end.
    cluster.create(pod("default", "late", "a", "")).await;
    let late =
        json!({"status": {"phase": "Running", "podIP": "10.244.1.6", "podIPs": [{"ip": "10.244.1.6"}]}});
    cluster
        .patch("/api/v1/namespaces/default/pods/late/status", late)
        .await;
    follower
        .until_state("a pod with its address", |state| {
            port_names(state).contains(&"pod:default/late")
        })
        .await;
    cluster.delete("/api/v1/namespaces/default/pods/late").await;
    follower
        .until_state("a pod's end", |state| state.ports.len() == 3)
        .await;

    // Labels of a pod and of a namespace move it in and out of policies.
    cluster
        .patch(
            "/api/v1/namespaces/team",
            json!({"metadata": {"labels": {"group": "blue"}}}),
        )
        .await;
    follower
        .until_state("a namespace's label", |state| members(state).is_empty())
        .await;
    cluster
        .patch(
            "/api/v1/namespaces/team",
            json!({"metadata": {"labels": {"group": "red"}}}),
        )
        .await;
    follower.until_state("a namespace's label", is_more).await;
    cluster
        .patch(
            "/api/v1/namespaces/default/pods/web",
            json!({"metadata": {"labels": {"app": "other"}}}),
        )
        .await;
    follower
        .until_state("a pod's label", |state| state.policies.is_empty())
        .await;
    cluster
        .patch(
            "/api/v1/namespaces/default/pods/web",
            json!({"metadata": {"labels": {"app": "web"}}}),
        )
        .await;
    follower.until_state("a pod's label", is_more).await;

    // Policies.
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/from-red";
    let types = json!({"spec": {"policyTypes": ["Ingress", "Egress"]}});
    cluster.patch(path, types).await;
    let has_egress = |state: &proto::State| {
        state.ports.iter().any(|port| {
            port.egress
                .as_ref()
                .is_some_and(|egress| !egress.tiers.is_empty())
        })
    };
    follower.until_state("a policy's types", has_egress).await;
    cluster.delete(path).await;
    follower
        .until_state("a policy's end", |state| {
            state.policies.is_empty() && state.ip_sets.is_empty()
        })
        .await;

    // Slices and Services.
    let path = "/apis/discovery.k8s.io/v1/namespaces/team/endpointslices/api-1";
    let ends = json!({"endpoints": [{"addresses": ["10.244.1.5"], "conditions": {"ready": false, "serving": true, "terminating": true}}]});
    cluster.patch(path, ends).await;
    follower
        .until_state("an endpoint ends", |state| {
            let ours = state
                .services
                .iter()
                .filter(|service| service.id.starts_with("team/"));
            let backends: Vec<_> = ours.flat_map(|service| &service.backends).collect();
            backends.len() == 1 && backends[0].state() == proto::BackendState::ServingTerminating
        })
        .await;
    assert!(follower.short_changes > 0, "endpoints alone changed");
    cluster.delete(path).await;
    // Without a slice the selector counts, and no pod of the namespace has the label.
    follower
        .until_state("a slice's end", |state| {
            backends(state).is_empty() && state.services.iter().any(|s| s.id == "team/api:http")
        })
        .await;
    let affinity = json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}});
    cluster
        .patch("/api/v1/namespaces/team/services/api", affinity)
        .await;
    follower
        .until_state("a Service's affinity", |state| {
            state.services.iter().any(|service| service.affinity_s == 60)
        })
        .await;
    cluster.delete("/api/v1/namespaces/team/services/api").await;
    let mine = |state: &proto::State| {
        state
            .services
            .iter()
            .filter(|service| service.id.starts_with("team/"))
            .count()
    };
    follower
        .until_state("a Service's end", |state| mine(state) == 0)
        .await;

    // Pools decide the encapsulation.
    let encaps = |state: &proto::State| state.blocks.iter().map(proto::Block::encap).collect::<Vec<_>>();
    follower
        .until_state("no pool", |state| encaps(state) == [proto::Encap::Vxlan])
        .await;
    cluster.create(pool("v4", "10.244.0.0/16", "Never")).await;
    follower
        .until_state("a pool", |state| encaps(state) == [proto::Encap::None])
        .await;
    let pools = "/apis/crd.projectcalico.org/v1/ippools/v4";
    cluster
        .patch(pools, json!({"spec": {"vxlanMode": "Always"}}))
        .await;
    follower
        .until_state("a pool's mode", |state| {
            encaps(state) == [proto::Encap::Vxlan] && !state.pools[0].nat_outgoing
        })
        .await;
    cluster.delete(pools).await;
    follower
        .until_state("a pool's end", |state| {
            state.pools.iter().any(|pool| pool.nat_outgoing)
        })
        .await;

    // Service ranges, where the server knows them: Kubernetes 1.33.
    if cluster.has("/apis/networking.k8s.io/v1/servicecidrs").await {
        cluster
            .create(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]},
            }))
            .await;
        let has_range = |state: &proto::State| {
            state
                .service_ranges
                .iter()
                .any(|range| range.address == [10, 97, 0, 0])
        };
        follower.until_state("a range", has_range).await;
        cluster
            .delete("/apis/networking.k8s.io/v1/servicecidrs/more")
            .await;
        follower
            .until_state("a range's end", |state| !has_range(state))
            .await;
    }

    // Nodes.
    cluster.create(node("c", "10.0.0.3", "10.244.3.0/24")).await;
    follower
        .until_state("a node", |state| {
            state.remote_nodes.len() == 2 && state.blocks.len() == 2
        })
        .await;
    let moved = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.4"}]}});
    cluster.patch("/api/v1/nodes/c/status", moved).await;
    follower
        .until_state("a node's address", |state| {
            state.remote_nodes[1].addresses == [[10, 0, 0, 4]]
        })
        .await;
    cluster.delete("/api/v1/nodes/c").await;
    follower
        .until_state("a node's end", |state| {
            state.remote_nodes.len() == 1 && state.blocks.len() == 1
        })
        .await;
    cluster.delete("/api/v1/namespaces/team/pods/client").await;
    follower
        .until("all is well", |follower| follower.problems().is_empty())
        .await;
}

/// A deleted own Node changes nothing for the pods that run; everything else goes on.
pub async fn own_node(cluster: &Cluster, config: Config) {
    let mut follower = Follower::start(config).await.unwrap();
    follower
        .until_state("the pod", |state| state.ports.len() == 3)
        .await;
    cluster.delete("/api/v1/nodes/a").await;
    follower
        .until("it is noticed", |follower| {
            follower.problems().contains("asked for by name: 404")
        })
        .await;
    cluster.delete("/api/v1/namespaces/default/pods/web").await;
    cluster.delete("/api/v1/namespaces/default/pods/far").await;
    cluster.create(service("default", "api", "10.96.0.11")).await;
    follower
        .until_state("what others do", |state| {
            state
                .services
                .iter()
                .any(|service| service.id == "default/api:http")
        })
        .await;
    follower
        .until("a remote pod's end", |follower| follower.objects.pods.len() == 1)
        .await;
    let state = follower.state().unwrap();
    assert_eq!(port_names(&state), ["host", "pod:default/web", "uplink"]);
    cluster.create(node("a", "10.0.0.1", "10.244.1.0/24")).await;
    follower
        .until_state("the truth", |state| port_names(state) == ["host", "uplink"])
        .await;
    follower
        .until("all is well", |follower| follower.problems().is_empty())
        .await;
}

/// A way to a server that can be shut: connections are passed on, byte by byte.
pub struct Door {
    address: SocketAddr,
    listener: Option<AbortHandle>,
}

impl Door {
    pub async fn open(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self {
            address,
            listener: Some(task.abort_handle()),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
