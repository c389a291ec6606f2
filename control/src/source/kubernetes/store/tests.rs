//! Events in, objects and effects out.

use super::*;
use crate::object::write::ObjectRef;

fn object(kind: Kind, json: &str) -> Object {
    kind.read(&mut serde_json::Deserializer::from_str(json)).unwrap()
}

fn node(name: &str) -> Object {
    object(
        Kind::Node,
        &format!(
            r#"{{"metadata":{{"name":"{name}"}},"status":{{"addresses":[{{"type":"InternalIP","address":"10.0.0.1"}}]}}}}"#
        ),
    )
}

fn pod(name: &str, node: &str) -> Object {
    object(
        Kind::Pod,
        &format!(r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{"nodeName":"{node}"}}}}"#),
    )
}

struct Case {
    store: Store,
    objects: Objects,
}

impl Case {
    fn new(has_copy: bool) -> Self {
        Self {
            store: Store::new("a", has_copy),
            objects: Objects::default(),
        }
    }

    fn apply(&mut self, event: Event) -> Effect {
        self.store.apply(&mut self.objects, event)
    }

    fn list(&mut self, kind: Kind, objects: Vec<Object>) -> Effect {
        let mut effect = self.apply(Event::Page {
            kind,
            is_first: true,
            objects,
            refused: Vec::new(),
        });
        effect |= self.apply(Event::Listed {
            kind,
            server: "s".to_owned(),
        });
        effect
    }

    /// Every kind, with two nodes and a pod on each.
    fn settled() -> Self {
        let mut case = Self::new(false);
        for kind in Kind::ALL {
            assert!(!case.store.is_settled());
            let objects = match kind {
                Kind::Node => vec![node("a"), node("b")],
                Kind::Pod => vec![pod("p", "a"), pod("q", "b")],
                _ => Vec::new(),
            };
            assert!(
                case.list(kind, objects).scope.is_some(),
                "{kind}: it may have been the last one to wait for"
            );
        }
        assert!(case.store.is_settled() && case.store.is_current());
        case
    }

    fn names(&self) -> Vec<String> {
        self.objects
            .iter()
            .map(|object| {
                let value = serde_json::to_value(object).unwrap();
                value["metadata"]["name"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

#[test]
fn a_list_replaces_what_was_there_and_changes_only_what_differs() {
    let mut case = Case::settled();
    assert_eq!(case.names(), ["a", "b", "p", "q"]);
    assert_eq!(
        case.list(Kind::Pod, vec![pod("p", "a"), pod("q", "b")]),
        Effect::default(),
        "the same again"
    );
    assert!(
        case.list(Kind::Pod, vec![pod("p", "a"), pod("r", "b")])
            .scope
            .is_some()
    );
    assert_eq!(case.names(), ["a", "b", "p", "r"]);
    // A list that is begun anew forgets what its first attempt saw.
    case.apply(Event::Page {
        kind: Kind::Pod,
        is_first: true,
        objects: vec![pod("p", "a")],
        refused: Vec::new(),
    });
    assert!(case.list(Kind::Pod, vec![pod("r", "b")]).scope.is_some());
    assert_eq!(case.names(), ["a", "b", "r"]);
}

#[test]
fn changes_come_one_by_one() {
    let mut case = Case::settled();
    assert!(
        case.apply(Event::Applied(Box::new(pod("x", "b"))))
            .scope
            .is_some()
    );
    assert!(
        case.apply(Event::Applied(Box::new(pod("x", "b"))))
            .scope
            .is_none(),
        "equal as far as we look"
    );
    assert!(
        case.apply(Event::Removed(Kind::Pod, ObjectName::new("n", "x")))
            .scope
            .is_some()
    );
    assert!(
        case.apply(Event::Removed(Kind::Pod, ObjectName::new("n", "x")))
            .scope
            .is_none()
    );
    assert_eq!(case.names(), ["a", "b", "p", "q"]);
}

#[test]
fn what_makes_no_sense_leaves_what_was_known_of_it() {
    let mut case = Case::settled();
    let refused = |message: &str| Refused {
        name: ObjectName::new("n", "q"),
        message: message.to_owned(),
    };
    assert_eq!(
        case.apply(Event::Refused(Kind::Pod, refused("no"))),
        Effect::default()
    );
    assert_eq!(case.names(), ["a", "b", "p", "q"]);
    assert_eq!(
        case.store.problems(),
        ["Pod n/q is refused, what was known of it before stays: no"]
    );
    // It is in the list all the same.
    case.apply(Event::Page {
        kind: Kind::Pod,
        is_first: true,
        objects: vec![pod("p", "a")],
        refused: vec![refused("still no")],
    });
    case.apply(Event::Listed {
        kind: Kind::Pod,
        server: String::new(),
    });
    assert_eq!(case.names(), ["a", "b", "p", "q"]);
    assert!(case.store.problems()[0].ends_with("still no"));
    case.apply(Event::Removed(Kind::Pod, ObjectName::new("n", "q")));
    assert_eq!(case.names(), ["a", "b", "p"]);
    assert!(case.store.problems().is_empty());
}

#[test]
fn our_own_node_stays_and_its_pods_with_it() {
    for is_listed in [false, true] {
        let mut case = Case::settled();
        let effect = if is_listed {
            case.list(Kind::Node, vec![node("b")])
        } else {
            case.apply(Event::Removed(Kind::Node, ObjectName::new("", "a")))
        };
        assert!(effect.ask_for_node && effect.scope.is_none());
        assert!(
            case.store.problems()[0].contains("asking for it"),
            "{:?}",
            case.store.problems()
        );
        case.apply(Event::OwnNode(None));
        assert!(
            case.store.problems()[0].contains("404 Not Found"),
            "{:?}",
            case.store.problems()
        );
        // The pods of a Node that is gone are deleted; ours still run.
        for name in ["p", "q"] {
            case.apply(Event::Removed(Kind::Pod, ObjectName::new("n", name)));
        }
        assert_eq!(case.names(), ["a", "b", "p"]);
        // It is back, and with it the truth about its pods.
        assert!(case.apply(Event::Applied(Box::new(node("a")))).scope.is_some());
        assert_eq!(case.names(), ["a", "b"]);
        assert!(case.store.problems().is_empty());
    }
}

#[test]
fn a_node_that_answers_to_its_name_was_never_gone() {
    let mut case = Case::settled();
    assert!(
        case.apply(Event::Removed(Kind::Node, ObjectName::new("", "a")))
            .ask_for_node
    );
    assert!(
        case.apply(Event::OwnNode(Some(Box::new(node("a")))))
            .scope
            .is_none()
    );
    assert!(case.store.problems().is_empty());
    assert!(
        case.apply(Event::Removed(Kind::Pod, ObjectName::new("n", "p")))
            .scope
            .is_some()
    );
}

#[test]
fn a_refused_kind_is_told_with_the_rule_to_add() {
    let mut case = Case::new(false);
    case.apply(Event::Trouble(
        Kind::NetworkPolicy,
        Trouble::Forbidden("no way".to_owned()),
    ));
    let told = case.store.denied().unwrap();
    assert!(
        told.contains("networkpolicies.networking.k8s.io (no way)")
            && told.contains("- {apiGroups: [\"networking.k8s.io\"], resources: [networkpolicies], verbs: [get, list, watch]}"),
        "{told}"
    );
    assert_eq!(case.store.problems(), [told]);
    case.list(Kind::NetworkPolicy, Vec::new());
    assert_eq!(case.store.denied(), None);
}

#[test]
fn a_kind_that_the_cluster_lacks_is_no_trouble_until_it_had_it() {
    let mut case = Case::new(false);
    for kind in Kind::ALL {
        if matches!(kind, Kind::IpPool | Kind::ServiceCidr) {
            case.apply(Event::Trouble(kind, Trouble::NotFound));
        } else {
            case.list(kind, Vec::new());
        }
    }
    assert!(case.store.is_settled() && case.store.is_current() && case.store.problems().is_empty());
    let pool = object(
        Kind::IpPool,
        r#"{"metadata":{"name":"v4"},"spec":{"cidr":"10.0.0.0/8"}}"#,
    );
    case.list(Kind::IpPool, vec![pool]);
    case.apply(Event::Trouble(Kind::IpPool, Trouble::NotFound));
    assert_eq!(case.names(), ["v4"], "its objects stay");
    assert!(
        case.store.problems()[0].contains("kubectl apply -f deploy/crds/ippools.yaml"),
        "{:?}",
        case.store.problems()
    );
}

#[test]
fn a_copy_is_something_to_go_by() {
    let mut case = Case::new(true);
    for kind in Kind::ALL {
        assert!(!case.store.is_settled());
        if kind == Kind::Service {
            case.apply(Event::Trouble(kind, Trouble::Forbidden(String::new())));
        } else {
            case.list(kind, Vec::new());
        }
    }
    assert!(case.store.is_settled() && !case.store.is_current());
    // Servers that do not answer settle nothing.
    let mut case = Case::new(true);
    for kind in Kind::ALL {
        case.apply(Event::Trouble(kind, Trouble::Unreachable("cut".to_owned())));
    }
    assert!(!case.store.is_settled());
    assert_eq!(
        case.store.problems().len(),
        1,
        "one server, one sentence: {:?}",
        case.store.problems()
    );
}

#[test]
fn slices_of_the_api_servers_are_noticed() {
    let mut case = Case::settled();
    let slice = |namespace: &str| {
        object(
            Kind::EndpointSlice,
            &format!(
                r#"{{"metadata":{{"name":"kubernetes","namespace":"{namespace}","labels":{{"kubernetes.io/service-name":"kubernetes"}}}},
                    "addressType":"IPv4","endpoints":[{{"addresses":["10.0.0.9"]}}],"ports":[{{"name":"https","port":6443}}]}}"#
            ),
        )
    };
    let effect = case.apply(Event::Applied(Box::new(slice("default"))));
    assert!(effect.api_servers);
    let name = ObjectName::new("default", "kubernetes");
    assert_eq!(
        effect.scope,
        Some(Scope::Slices([name].into())),
        "no other kind depends on slices"
    );
    assert!(!case.apply(Event::Applied(Box::new(slice("other")))).api_servers);
    assert!(
        serde_json::to_string(&ObjectRef::from(&slice("default")))
            .unwrap()
            .contains("10.0.0.9")
    );
}
