//! Checks across objects: unique names, references that lead somewhere, limits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Invalid, SetKind, Subject, ValidState, field, ip_sets_of};

/// No name twice; no address on two ports.
pub(super) fn unique_names(state: &ValidState) -> Result<(), Invalid> {
    let mut names = HashSet::new();
    let mut addresses = HashMap::new();
    for port in &state.ports {
        let subject = Subject::port(&port.name);
        field::unique(&mut names, &*port.name, &subject, "name", &port.name)?;
        if port.kind != super::PortKind::Pod {
            continue;
        }
        for address in &port.addresses {
            if let Some(other) = addresses.insert(*address, &port.name) {
                let expected = "an address that no other port has";
                return Err(subject.invalid("addresses", expected, format!("{address}, which {other} has")));
            }
        }
    }
    let of_ours = |kind: &'static str, name: &str| Subject::new(kind, "", name);
    each_once(
        &state.remote_nodes,
        "name",
        |node| &node.name,
        |node| of_ours("Node", &node.name),
    )?;
    each_once(
        &state.services,
        "id",
        |service| &service.id,
        |service| Subject::origin(&service.origin),
    )?;
    each_once(
        &state.ip_sets,
        "id",
        |set| &set.id,
        |set| of_ours("IpSet", &set.id),
    )?;
    each_once(
        &state.policies,
        "id",
        |policy| &policy.id,
        |policy| Subject::origin(&policy.origin),
    )?;
    for (kind, prefixes) in [
        (
            "Block",
            state.blocks.iter().map(|block| block.prefix).collect::<Vec<_>>(),
        ),
        ("Pool", state.pools.iter().map(|pool| pool.prefix).collect()),
    ] {
        let mut seen = HashSet::new();
        for prefix in prefixes {
            let shown = prefix.to_string();
            field::unique(
                &mut seen,
                prefix,
                &Subject::new(kind, "", &shown),
                "prefix",
                &shown,
            )?;
        }
    }
    Ok(())
}

/// No name twice. Ours come in order, and then one look at each is enough.
fn each_once<T>(
    objects: &[T],
    field: &str,
    name: impl Fn(&T) -> &Arc<str>,
    subject: impl Fn(&T) -> Subject,
) -> Result<(), Invalid> {
    if objects.is_sorted_by(|a, b| name(a) < name(b)) {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(objects.len());
    for object in objects {
        let shown = &**name(object);
        if !seen.insert(shown) {
            return Err(subject(object).invalid(field, "one of this name", format!("{shown} twice")));
        }
    }
    Ok(())
}

/// Every policy, set and node that is named is there.
pub(super) fn references(state: &ValidState) -> Result<(), Invalid> {
    let nodes: HashSet<_> = state.remote_nodes.iter().map(|node| &*node.name).collect();
    for block in &state.blocks {
        if !nodes.contains(&*block.node) {
            let subject = Subject::new("Block", "", &block.prefix.to_string());
            return Err(subject.invalid("node", "the name of a remote node", format!("{:?}", block.node)));
        }
    }
    let policies: HashSet<_> = state.policies.iter().map(|policy| &*policy.id).collect();
    for port in &state.ports {
        for id in port
            .ingress
            .iter()
            .chain(&port.egress)
            .flat_map(|tier| &tier.policies)
        {
            if !policies.contains(&**id) {
                let subject = Subject::port(&port.name);
                return Err(subject.invalid("policies", "the id of a policy", format!("{id:?}")));
            }
        }
    }
    let sets: HashMap<_, _> = state
        .ip_sets
        .iter()
        .map(|set| (&*set.id, set.members.kind()))
        .collect();
    for policy in &state.policies {
        for (id, kind) in ip_sets_of(policy) {
            set_reference(
                &Subject::origin(&policy.origin),
                &id,
                kind,
                sets.get(&*id).copied(),
            )?;
        }
    }
    Ok(())
}

/// A rule names the set `id` and needs it to be of `kind`.
fn set_reference(subject: &Subject, id: &str, kind: SetKind, found: Option<SetKind>) -> Result<(), Invalid> {
    match found {
        Some(found) if found == kind => Ok(()),
        Some(found) => Err(subject.invalid(
            "ip_set",
            format!("a set of {kind:?}"),
            format!("{id:?} of {found:?}"),
        )),
        None => Err(subject.invalid(
            "ip_set",
            format!("the id of a set of {kind:?}"),
            format!("{id:?}"),
        )),
    }
}

/// Names the object that passes a limit.
pub(super) fn limits(state: &ValidState) -> Result<(), Invalid> {
    let limits = &state.limits;
    count(
        "ports",
        limits.ports,
        &state.ports,
        |_| 1,
        |port| Subject::port(&port.name),
    )?;
    count(
        "services",
        limits.services,
        &state.services,
        |_| 1,
        |service| Subject::origin(&service.origin),
    )?;
    let backends = |service: &super::Service| service.backends.len();
    count(
        "backends",
        limits.backends,
        &state.services,
        backends,
        |service| Subject::origin(&service.origin),
    )?;
    count(
        "policies",
        limits.policies,
        &state.policies,
        |_| 1,
        |policy| Subject::origin(&policy.origin),
    )?;
    let rules = |policy: &super::Policy| policy.ingress.len() + policy.egress.len();
    count("rules", limits.rules, &state.policies, rules, |policy| {
        Subject::origin(&policy.origin)
    })?;
    let members = |set: &super::IpSet| set.members.len();
    count(
        "ip_set_members",
        limits.ip_set_members,
        &state.ip_sets,
        members,
        |set| Subject::new("IpSet", "", &set.id),
    )
}

fn count<T>(
    limit: &str,
    max: u32,
    objects: &[T],
    size: impl Fn(&T) -> usize,
    subject: impl Fn(&T) -> Subject,
) -> Result<(), Invalid> {
    let mut sum = 0;
    for object in objects {
        sum += size(object);
        if sum > max as usize {
            return Err(subject(object).invalid(
                &format!("limits.{limit}"),
                format!("at most {max} in all"),
                sum,
            ));
        }
    }
    Ok(())
}
