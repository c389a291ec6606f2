//! Services with their backends, one entry per Service port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use contract::proto;
use contract::proto::BackendState;

use crate::object::field::PortOrName;
use crate::object::{EndpointSlice, Kind, Labels, ObjectName, Selector, Service, ServiceKind, ServicePort};

use super::cluster::{Cluster, LivePod};
use super::{Mode, ResolveError, Subject, encode};

/// Backends by address and port, each in its best state.
type Backends = BTreeMap<(IpAddr, u16), (BackendState, bool)>;

/// Every Service port that has a cluster IP.
pub(super) fn services(
    cluster: &Cluster<'_>,
    node: &str,
    mode: Mode,
    warnings: &mut Vec<String>,
) -> Result<Vec<proto::Service>, ResolveError> {
    let mut slices: BTreeMap<&ObjectName, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in cluster.objects.endpoint_slices.values() {
        if let Some(service) = &slice.service {
            slices.entry(service).or_default().push(slice);
        }
    }
    // Where local pods are, for endpoints that do not name their node.
    let local: BTreeSet<IpAddr> = cluster
        .local_pods(node)
        .flat_map(|pod| pod.addresses.iter().copied())
        .collect();
    let pods = ByLabel::new(cluster);
    let mut owners: BTreeMap<(IpAddr, u32, u16), &ObjectName> = BTreeMap::new();
    let mut services = BTreeMap::new();
    for (name, service) in &cluster.objects.services {
        if service.headless || service.kind == ServiceKind::ExternalName || service.proxied_elsewhere() {
            continue;
        }
        if service.cluster_ips.is_empty() {
            warnings.push(format!(
                "Service {name}: it has no cluster IP yet, so it is not served"
            ));
            continue;
        }
        warn_of_what_is_missing(name, service, warnings);
        for port in &service.ports {
            let key = |address: &IpAddr| (*address, port.protocol.number(), port.port);
            let shared = service
                .cluster_ips
                .iter()
                .find_map(|address| Some((*address, *owners.get(&key(address))?)));
            if let Some((address, other)) = shared {
                let subject = |name| Subject::new(cluster.objects, Kind::Service, name);
                let error = ResolveError::SharedServiceAddress {
                    address,
                    port: format!("{}/{}", port.protocol, port.port),
                    service: subject(name),
                    other: Box::new(subject(other)),
                };
                if !mode.is_lenient() {
                    return Err(error);
                }
                warnings.push(format!("{error}; the first one is served"));
                continue;
            }
            owners.extend(service.cluster_ips.iter().map(|address| (key(address), name)));
            let backends = match slices.get(name) {
                Some(slices) => from_slices(slices, port, node, &local),
                None => from_selector(&pods, service, port, node),
            };
            let entry = entry(name, service, port, backends);
            services.insert(entry.id.clone(), entry);
        }
    }
    Ok(services.into_values().collect())
}

/// What fastpath hears of one port.
fn entry(name: &ObjectName, service: &Service, port: &ServicePort, backends: Backends) -> proto::Service {
    let label = if port.name.is_empty() {
        port.port.to_string()
    } else {
        port.name.clone()
    };
    proto::Service {
        id: format!("{name}:{label}"),
        origin: Some(encode::origin("", "Service", name)),
        protocol: port.protocol.number(),
        port: u32::from(port.port),
        cluster_ips: encode::addresses(&service.cluster_ips),
        backends: backends.into_iter().map(backend).collect(),
        affinity_s: service.affinity_s,
    }
}

/// Whether a Service has cluster IPs that are ours to serve.
fn is_served(service: &Service) -> bool {
    let is_ours =
        !service.headless && service.kind != ServiceKind::ExternalName && !service.proxied_elsewhere();
    is_ours && !service.cluster_ips.is_empty()
}

/// The entries of a Service whose endpoints are in `slices`: what [`services`] gives for it, if no other has its addresses.
pub(super) fn of_slices(
    name: &ObjectName,
    service: &Service,
    slices: &[&EndpointSlice],
    node: &str,
    local: &BTreeSet<IpAddr>,
) -> Vec<proto::Service> {
    if !is_served(service) {
        return Vec::new();
    }
    let ports = service.ports.iter();
    ports
        .map(|port| entry(name, service, port, from_slices(slices, port, node, local)))
        .collect()
}

fn warn_of_what_is_missing(name: &ObjectName, service: &Service, warnings: &mut Vec<String>) {
    if matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer) {
        warnings.push(format!(
            "Service {name}: only its cluster IPs are served, not what type {:?} adds",
            service.kind
        ));
    }
    if service.internal_local {
        warnings.push(format!(
            "Service {name}: internalTrafficPolicy Local has no effect yet, all endpoints are used"
        ));
    }
}

fn backend(((address, port), (state, local)): ((IpAddr, u16), (BackendState, bool))) -> proto::Backend {
    proto::Backend {
        address: encode::address(address),
        port: u32::from(port),
        state: state.into(),
        local,
    }
}

/// An endpoint may be in several slices for a moment; it counts with its best state.
fn add(backends: &mut Backends, key: (IpAddr, u16), state: BackendState, local: bool) {
    let entry = backends.entry(key).or_insert((state, local));
    if i32::from(state) < i32::from(entry.0) {
        entry.0 = state;
    }
    entry.1 |= local;
}

fn state(ready: bool, serving: bool, terminating: bool) -> BackendState {
    match (ready, serving && terminating) {
        (true, _) => BackendState::Ready,
        (false, true) => BackendState::ServingTerminating,
        (false, false) => BackendState::NotReady,
    }
}

fn from_slices(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    node: &str,
    local: &BTreeSet<IpAddr>,
) -> Backends {
    let mut backends = Backends::new();
    for slice in slices {
        let ports = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in ports.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let here = match &endpoint.node {
                    Some(name) => name == node,
                    None => local.contains(&endpoint.address),
                };
                let state = state(endpoint.ready, endpoint.serving, endpoint.terminating);
                add(&mut backends, (endpoint.address, number), state, here);
            }
        }
    }
    backends
}

/// Live pods by namespace, label and value, so that a Service looks at its own pods alone.
struct ByLabel<'c, 'a>(HashMap<[&'a str; 3], Vec<&'c LivePod<'a>>>);

impl<'c, 'a> ByLabel<'c, 'a> {
    fn new(cluster: &'c Cluster<'a>) -> Self {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for pod in cluster.pods.values() {
            for (key, value) in pod.pod.meta.labels.iter() {
                index
                    .entry([pod.name().namespace.as_str(), key, value])
                    .or_default()
                    .push(pod);
            }
        }
        Self(index)
    }

    /// At least the pods that have all the labels: those that have the rarest.
    fn candidates<'s>(&'s self, namespace: &'s str, labels: &'s Labels) -> &'s [&'c LivePod<'a>] {
        let lists = labels.iter().map(|(key, value)| {
            self.0
                .get(&[namespace, key, value])
                .map_or(&[][..], Vec::as_slice)
        });
        lists.min_by_key(|pods| pods.len()).unwrap_or_default()
    }
}

fn from_selector(pods: &ByLabel<'_, '_>, service: &Service, port: &ServicePort, node: &str) -> Backends {
    let mut backends = Backends::new();
    let selector = Selector::of_labels(&service.selector);
    // An empty selector has no candidates: it selects nothing.
    for pod in pods.candidates(&service.meta.name.namespace, &service.selector) {
        if !selector.matches(&pod.pod.meta.labels) {
            continue;
        }
        let Some(number) = target(pod, port) else { continue };
        let ready = service.publish_not_ready || (pod.pod.ready && !pod.pod.meta.deleting);
        let state = state(ready, pod.pod.ready, pod.pod.meta.deleting);
        for address in pod.addresses.iter() {
            add(&mut backends, (*address, number), state, pod.is_on(node));
        }
    }
    backends
}

/// The port on this pod, if it has one of the name.
fn target(pod: &LivePod<'_>, port: &ServicePort) -> Option<u16> {
    match &port.target {
        PortOrName::Number(number) => Some(*number),
        PortOrName::Name(name) => {
            let named = pod
                .pod
                .named_ports
                .iter()
                .find(|p| p.name == *name && p.protocol == port.protocol);
            named.map(|p| p.port)
        }
    }
}
