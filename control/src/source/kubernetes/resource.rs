//! The kinds that are watched: where the API server has them, what a person has to do so that it shows them, and whether we
//! can do without.

use crate::object::Kind;

/// Where an API server has the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What its objects are.
    pub kind: Kind,
    /// Plural name in paths and in RBAC rules.
    pub plural: &'static str,
    /// `group`, `version`, newest first; the core group is empty.
    versions: &'static [(&'static str, &'static str)],
    /// The file that makes it known to the API server, where it is not part of Kubernetes.
    pub custom_resource: Option<&'static str>,
    /// Whether a cluster may lack it.
    pub is_optional: bool,
}

/// Everything that is watched.
pub const RESOURCES: [Resource; 10] = [
    built_in(Kind::Node, "nodes", &[("", "v1")]),
    built_in(Kind::Namespace, "namespaces", &[("", "v1")]),
    built_in(Kind::Pod, "pods", &[("", "v1")]),
    built_in(Kind::Service, "services", &[("", "v1")]),
    built_in(
        Kind::EndpointSlice,
        "endpointslices",
        &[("discovery.k8s.io", "v1")],
    ),
    built_in(
        Kind::NetworkPolicy,
        "networkpolicies",
        &[("networking.k8s.io", "v1")],
    ),
    Resource {
        // Since Kubernetes 1.33; before, as a beta that could be off.
        is_optional: true,
        ..built_in(
            Kind::ServiceCidr,
            "servicecidrs",
            &[("networking.k8s.io", "v1"), ("networking.k8s.io", "v1beta1")],
        )
    },
    Resource {
        custom_resource: Some("deploy/crds/ippools.yaml"),
        is_optional: true,
        ..built_in(
            Kind::IpPool,
            "ippools",
            &[("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")],
        )
    },
    Resource {
        custom_resource: Some("deploy/crds/ipreservations.yaml"),
        is_optional: true,
        ..built_in(
            Kind::IpReservation,
            "ipreservations",
            &[("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")],
        )
    },
    Resource {
        custom_resource: Some("deploy/crds/blockaffinities.yaml"),
        is_optional: true,
        ..built_in(
            Kind::BlockAffinity,
            "blockaffinities",
            &[("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")],
        )
    },
];

const fn built_in(
    kind: Kind,
    plural: &'static str,
    versions: &'static [(&'static str, &'static str)],
) -> Resource {
    Resource {
        kind,
        plural,
        versions,
        custom_resource: None,
        is_optional: false,
    }
}

impl Resource {
    /// The resource of a kind.
    pub fn of(kind: Kind) -> Self {
        let found = RESOURCES.iter().find(|resource| resource.kind == kind);
        *found.expect("every kind has its row")
    }

    /// Paths of all objects in all namespaces, in the order in which they are tried.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let plural = self.plural;
        self.versions.iter().map(move |(group, version)| match *group {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        })
    }

    /// As RBAC and people name it: `networkpolicies.networking.k8s.io`.
    pub fn name(&self) -> String {
        match self.groups().next() {
            Some("") | None => self.plural.to_owned(),
            Some(group) => format!("{}.{group}", self.plural),
        }
    }

    /// The rule that a `ClusterRole` needs, on one line of YAML.
    pub fn rbac_rule(&self) -> String {
        let groups: Vec<String> = self.groups().map(|group| format!("{group:?}")).collect();
        format!(
            "- {{apiGroups: [{}], resources: [{}], verbs: [get, list, watch]}}",
            groups.join(", "),
            self.plural
        )
    }

    /// API groups, each once.
    pub fn groups(&self) -> impl Iterator<Item = &'static str> {
        let versions = self.versions;
        let is_first =
            move |index: usize, group| versions.iter().take(index).all(|(other, _)| *other != group);
        let groups = versions.iter().map(|(group, _)| *group).enumerate();
        groups
            .filter(move |(index, group)| is_first(*index, *group))
            .map(|(_, group)| group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_path_a_name_and_a_rule() {
        let of = |kind| {
            let resource = Resource::of(kind);
            (
                resource.paths().collect::<Vec<_>>(),
                resource.name(),
                resource.rbac_rule(),
            )
        };
        assert_eq!(
            of(Kind::Pod),
            (
                vec!["/api/v1/pods".to_owned()],
                "pods".to_owned(),
                "- {apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]}".to_owned()
            )
        );
        let (paths, name, rule) = of(Kind::ServiceCidr);
        assert_eq!(
            paths,
            [
                "/apis/networking.k8s.io/v1/servicecidrs",
                "/apis/networking.k8s.io/v1beta1/servicecidrs"
            ]
        );
        assert_eq!(name, "servicecidrs.networking.k8s.io");
        assert_eq!(
            rule,
            "- {apiGroups: [\"networking.k8s.io\"], resources: [servicecidrs], verbs: [get, list, watch]}"
        );
        assert!(
            of(Kind::IpPool)
                .2
                .contains("[\"crd.projectcalico.org\", \"projectcalico.org\"]")
        );
    }

    /// A kind that is forgotten in `deploy/rbac.yaml` is refused in every cluster.
    #[test]
    fn the_rules_that_we_ship_cover_every_kind() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let role: serde_json::Value = serde_saphyr::from_str(text.split("\n---\n").next().unwrap()).unwrap();
        assert_eq!(role["kind"], "ClusterRole");
        let holds = |rule: &serde_json::Value, key: &str, what: &str| {
            rule[key].as_array().unwrap().iter().any(|value| value == what)
        };
        for resource in RESOURCES {
            for group in resource.groups() {
                let covers = |rule: &serde_json::Value| {
                    holds(rule, "apiGroups", group)
                        && holds(rule, "resources", resource.plural)
                        && ["get", "list", "watch"]
                            .iter()
                            .all(|verb| holds(rule, "verbs", verb))
                };
                assert!(
                    role["rules"].as_array().unwrap().iter().any(covers),
                    "{group} {}",
                    resource.plural
                );
            }
            if let Some(file) = resource.custom_resource {
                let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
                let definition: serde_json::Value =
                    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
                assert_eq!(definition["spec"]["names"]["plural"], resource.plural);
                assert!(
                    resource
                        .groups()
                        .any(|group| definition["spec"]["group"] == group)
                );
            }
        }
    }
}
