//! The short way leads where the long one does, whatever happens to slices.

use super::*;
use crate::object::{EndpointSlice, Object};
use crate::push::Desired;
use proptest::prelude::*;

const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: s0}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: s1}
spec: {clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: s2}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
";

/// Services of these names; the last one is not there.
const NAMES: [Option<&str>; 5] = [Some("s0"), Some("s1"), Some("s2"), Some("s9"), None];

fn slice(name: &str, service: Option<&str>, endpoints: &[(u8, bool)]) -> EndpointSlice {
    let labels = service.map_or(String::new(), |name| {
        format!("labels: {{kubernetes.io/service-name: {name}}}")
    });
    let endpoint = |(last, ready): &(u8, bool)| {
        format!("{{addresses: [10.244.1.{last}], conditions: {{ready: {ready}}}}}")
    };
    let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
    let text = format!(
        "metadata: {{name: {name}, {labels}}}\naddressType: IPv4\nendpoints: [{}]\nports: [{{name: http, port: 8080}}]\n",
        endpoints.join(", ")
    );
    serde_saphyr::from_str(&text).unwrap()
}

proptest! {
    #[test]
    fn endpoints_alone_lead_to_the_same_state(
        steps in prop::collection::vec(
            (0_usize..4, prop::option::weighted(0.8, (0_usize..5, prop::collection::vec((4_u8..8, any::<bool>()), 0..4)))),
            1..40,
        )
    ) {
        let text = format!("{NODES}{SERVICES}{}", pod("default/web", "a", "10.244.1.5", "app: web", ""));
        let mut objects = objects(&text);
        let whole = |objects: &Objects| resolve(objects, "a", &Options::default()).unwrap().state;
        let first = whole(&objects);
        let mut endpoints = Endpoints::new(&objects, "a", &first);
        let mut desired = Desired::from(first);
        for (index, change) in steps {
            let name = ObjectName::new("default", format!("slice{index}"));
            match change {
                Some((service, found)) => {
                    objects.insert(Object::EndpointSlice(slice(&name.name, NAMES[service], &found)));
                }
                None => {
                    objects.remove(Kind::EndpointSlice, &name);
                }
            }
            let expected = whole(&objects);
            let update = endpoints.update(&objects, &[name].into()).and_then(|services| desired.with(services));
            desired = if let Some(next) = update {
                prop_assert_eq!(next.whole().into_owned(), expected);
                next
            } else {
                endpoints = Endpoints::new(&objects, "a", &expected);
                Desired::from(expected)
            };
        }
    }
}
