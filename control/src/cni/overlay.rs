//! Attachments as the cluster's objects: a pod with an interface has the addresses that it got here, whatever its object
//! says yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ipam::Assignments;
use crate::object::{Metadata, ObjectName, Objects, Phase, Pod, Text};

/// Pods of this node with an interface, put over the objects while a state is resolved from them.
#[derive(Clone, Debug, Default)]
pub struct Overlay(Arc<Mutex<BTreeMap<ObjectName, Plugged>>>);

/// What the runtime's call said of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plugged {
    pub(super) node: Text,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: [u8; 6],
    /// Its object as it was last: while the pod ends, its object goes before its interface.
    pub(super) last: Option<Pod>,
    /// Whether there is a port for a pod without an object. Where objects come from an API server each pod has one, and
    /// without its labels nobody could tell what policy says.
    pub(super) is_enough: bool,
}

/// What is to be put back.
#[must_use]
#[derive(Debug, Default)]
pub struct Undo(Vec<(ObjectName, Option<Pod>)>);

impl Overlay {
    pub(super) fn plug(&self, pod: ObjectName, plugged: Plugged) {
        self.lock().insert(pod, plugged);
    }

    /// Returns whether it was there.
    pub(super) fn unplug(&self, pod: &ObjectName) -> bool {
        self.lock().remove(pod).is_some()
    }

    /// Puts the pods over `objects`. Addresses of `assignments` stay where they are: whoever hands them out does it again.
    pub fn apply(&self, objects: &mut Objects, assignments: &Assignments) -> Undo {
        let mut undo = Undo::default();
        for (name, plugged) in self.lock().iter_mut() {
            let there = objects.pods.get(name);
            if there.is_some() && there != plugged.last.as_ref() {
                plugged.last = there.cloned();
            }
            let Some(mut pod) = plugged.pod(name) else {
                continue;
            };
            if assignments.addresses(name) == plugged.addresses
                && there.is_some_and(|pod| pod.addresses.is_empty())
            {
                pod.addresses = Box::default();
            } else {
                pod.addresses = plugged.addresses.as_slice().into();
            }
            undo.0
                .push((name.clone(), objects.pods.insert(name.clone(), pod)));
        }
        undo
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectName, Plugged>> {
        // Every change leaves it whole, so it is good even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plugged {
    /// The pod but for its addresses, if it may have a port.
    fn pod(&self, name: &ObjectName) -> Option<Pod> {
        let mut pod = match &self.last {
            Some(last) => last.clone(),
            None if self.is_enough => Pod {
                meta: Metadata {
                    name: name.clone(),
                    ..Metadata::default()
                },
                node: None,
                host_network: false,
                named_ports: Box::default(),
                addresses: Box::default(),
                host_addresses: Box::default(),
                phase: Phase::Running,
                ready: true,
                mac: None,
            },
            None => return None,
        };
        pod.node = Some(self.node.clone());
        pod.mac = Some(self.mac);
        Some(pod)
    }
}

impl Undo {
    /// Puts everything back as it was.
    pub fn revert(self, objects: &mut Objects) {
        for (name, before) in self.0 {
            match before {
                Some(pod) => drop(objects.pods.insert(name, pod)),
                None => drop(objects.pods.remove(&name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Object;

    fn plugged(address: &str, is_enough: bool) -> Plugged {
        Plugged {
            node: "n".into(),
            addresses: vec![address.parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
            last: None,
            is_enough,
        }
    }

    fn with_pod(text: &str) -> Objects {
        let mut objects = Objects::default();
        objects.insert(Object::Pod(serde_saphyr::from_str(text).unwrap()));
        objects
    }

    #[test]
    fn a_pod_has_the_address_that_it_got() {
        let mut objects = with_pod("{metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.9}}");
        let before = objects.clone();
        let (overlay, web) = (Overlay::default(), ObjectName::new("default", "web"));
        overlay.plug(web.clone(), plugged("10.0.0.5", true));
        let other = ObjectName::new("cni", "c1");
        overlay.plug(other.clone(), plugged("10.0.0.6", true));
        let undo = overlay.apply(&mut objects, &Assignments::default());
        assert_eq!(objects.pods[&web].addresses[0].to_string(), "10.0.0.5");
        assert_eq!(objects.pods[&web].node.as_deref(), Some("n"));
        assert!(objects.pods[&web].meta.labels.contains_key("app"));
        assert_eq!(objects.pods[&other].addresses[0].to_string(), "10.0.0.6");
        undo.revert(&mut objects);
        assert_eq!(objects, before);

        // Its object goes before its interface does: labels stay.
        objects.pods.clear();
        let undo = overlay.apply(&mut objects, &Assignments::default());
        assert!(objects.pods[&web].meta.labels.contains_key("app"));
        undo.revert(&mut objects);
        assert!(objects.is_empty() && overlay.unplug(&web) && !overlay.unplug(&web));
    }

    #[test]
    fn a_pod_that_must_be_known_has_no_port_before_it_is() {
        let (overlay, web) = (Overlay::default(), ObjectName::new("default", "web"));
        overlay.plug(web.clone(), plugged("10.0.0.5", false));
        let mut objects = Objects::default();
        overlay
            .apply(&mut objects, &Assignments::default())
            .revert(&mut objects);
        let undo = overlay.apply(&mut objects, &Assignments::default());
        assert!(objects.pods.is_empty());
        undo.revert(&mut objects);
    }
}
