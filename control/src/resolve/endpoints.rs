//! The short way of the change that is by far the most frequent: endpoints of a Service. Nothing else depends on
//! `EndpointSlices`, so the Service is resolved again by itself, for the price of its own endpoints.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use contract::proto;

use super::service::of_slices;
use crate::object::{EndpointSlice, ObjectName, Objects};

/// Which slices belong to which Service, as of the last whole resolve and the changes since.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    node: String,
    service_of: HashMap<ObjectName, ObjectName>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// Where local pods are, for endpoints that do not name their node.
    local: BTreeSet<IpAddr>,
}

impl Endpoints {
    /// Of the objects that `state` is resolved from.
    pub fn new(objects: &Objects, node: &str, state: &proto::State) -> Self {
        let pods = state
            .ports
            .iter()
            .filter(|port| port.kind() == proto::PortKind::Pod);
        let mut endpoints = Self {
            node: node.to_owned(),
            local: pods
                .flat_map(|port| &port.addresses)
                .filter_map(|bytes| address(bytes))
                .collect(),
            ..Self::default()
        };
        for (name, slice) in &objects.endpoint_slices {
            endpoints.put(name, slice.service.as_ref());
        }
        endpoints
    }

    /// Takes in that these slices of `objects` changed, came or went. The entries of the Services concerned, as
    /// [`super::resolve`] would make them; `None` where that takes a whole resolve.
    pub fn update(
        &mut self,
        objects: &Objects,
        changed: &BTreeSet<ObjectName>,
    ) -> Option<Vec<proto::Service>> {
        let mut services = BTreeSet::new();
        for name in changed {
            let before = self.service_of.get(name).cloned();
            let now = objects
                .endpoint_slices
                .get(name)
                .and_then(|slice| slice.service.clone());
            if before != now {
                self.put(name, now.as_ref());
            }
            services.extend(before);
            services.extend(now);
        }
        let mut entries = Vec::new();
        for name in &services {
            let Some(service) = objects.services.get(name) else {
                continue;
            };
            // Without a slice its selector counts, and with it all pods.
            let slices = self.slices_of.get(name).filter(|slices| !slices.is_empty())?;
            let slices: Vec<&EndpointSlice> = slices
                .iter()
                .filter_map(|slice| objects.endpoint_slices.get(slice))
                .collect();
            entries.extend(of_slices(name, service, &slices, &self.node, &self.local));
        }
        Some(entries)
    }

    fn put(&mut self, slice: &ObjectName, service: Option<&ObjectName>) {
        let before = match service {
            Some(service) => self.service_of.insert(slice.clone(), service.clone()),
            None => self.service_of.remove(slice),
        };
        if let Some(before) = before
            && let Some(slices) = self.slices_of.get_mut(&before)
        {
            slices.remove(slice);
        }
        if let Some(service) = service {
            self.slices_of
                .entry(service.clone())
                .or_default()
                .insert(slice.clone());
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
