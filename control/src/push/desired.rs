//! What fastpath should have: a whole state, and the Services in which it has changed since, so that one endpoint's change
//! costs neither a copy of the state nor a comparison with all of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::proto;
use contract::proto::change::Change;

use crate::diff;

/// A desired state. Cheap to make from the one before.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Services in the order of their ids.
    base: Arc<proto::State>,
    /// In place of the ones of `base` with the same id; every id is there.
    services: BTreeMap<String, Arc<proto::Service>>,
}

impl From<proto::State> for Desired {
    fn from(mut state: proto::State) -> Self {
        state.services.sort_by(|a, b| a.id.cmp(&b.id));
        Self {
            base: Arc::new(state),
            services: BTreeMap::new(),
        }
    }
}

/// Whatever is laid over what.
impl PartialEq for Desired {
    fn eq(&self, other: &Self) -> bool {
        self.whole() == other.whole()
    }
}

impl Desired {
    /// The Service port of this id.
    pub fn service(&self, id: &str) -> Option<&proto::Service> {
        self.services
            .get(id)
            .map(Arc::as_ref)
            .or_else(|| of(&self.base, id))
    }

    /// Ports in the order of their names.
    pub fn ports(&self) -> &[proto::Port] {
        &self.base.ports
    }

    /// The same with other Services; `None` if one of them is new.
    pub fn with(&self, services: Vec<proto::Service>) -> Option<Self> {
        let mut changed = self.clone();
        for service in services {
            of(&self.base, &service.id)?;
            changed.services.insert(service.id.clone(), Arc::new(service));
        }
        if changed.services.len() > OVERLAY_MIN.max(self.base.services.len() / 8) {
            changed = Self::from(changed.whole().into_owned());
        }
        Some(changed)
    }

    /// As one state.
    pub fn whole(&self) -> Cow<'_, proto::State> {
        if self.services.is_empty() {
            return Cow::Borrowed(&self.base);
        }
        let mut state = (*self.base).clone();
        for service in &mut state.services {
            if let Some(other) = self.services.get(&service.id) {
                *service = (**other).clone();
            }
        }
        Cow::Owned(state)
    }

    /// The fewest changes that lead here from `old`.
    pub fn changes_since(&self, old: &Self) -> Vec<proto::Change> {
        if !Arc::ptr_eq(&self.base, &old.base) {
            return diff::delta(&old.whole(), &self.whole()).changes;
        }
        let ids: BTreeSet<&String> = old.services.keys().chain(self.services.keys()).collect();
        let services = ids.into_iter().filter_map(|id| {
            let new = self.service(id)?;
            (old.service(id) != Some(new)).then(|| Change::Service(new.clone()))
        });
        services
            .map(|change| proto::Change { change: Some(change) })
            .collect()
    }
}

fn of<'s>(state: &'s proto::State, id: &str) -> Option<&'s proto::Service> {
    let at = state
        .services
        .binary_search_by(|service| service.id.as_str().cmp(id))
        .ok()?;
    state.services.get(at)
}

/// Fewer Services than this that differ from the whole state are always kept apart from it.
const OVERLAY_MIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use contract::merge;
    use proptest::prelude::*;

    fn service(id: usize, port: u32) -> proto::Service {
        proto::Service {
            id: format!("s{id:04}"),
            port,
            ..proto::Service::default()
        }
    }

    fn state(count: usize) -> proto::State {
        proto::State {
            version: 1,
            services: (0..count).map(|id| service(id, 1)).collect(),
            ..proto::State::default()
        }
    }

    #[test]
    fn a_service_that_is_new_needs_a_whole_state() {
        let desired = Desired::from(state(2));
        assert!(desired.with(vec![service(2, 1)]).is_none());
        assert_eq!(
            desired
                .with(vec![service(1, 7)])
                .unwrap()
                .service("s0001")
                .unwrap()
                .port,
            7
        );
    }

    proptest! {
        // Each case is long: so many Services change that they become part of the whole.
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// Whatever changes in whatever order, the changes from any state to any later or earlier one lead there.
        #[test]
        fn changes_lead_from_any_state_to_any_other(steps in prop::collection::vec((0_usize..400, 1_u32..4), 1..600), a in 0_usize..600, b in 0_usize..600) {
            let mut all = vec![Desired::from(state(400))];
            for (id, port) in steps {
                let next = all[all.len() - 1].with(vec![service(id, port)]).unwrap();
                all.push(next);
            }
            let (old, new) = (&all[a % all.len()], &all[b % all.len()]);
            let delta = proto::Delta { base_version: 1, version: 2, changes: new.changes_since(old) };
            let mut expected = new.whole().into_owned();
            expected.version = 2;
            prop_assert_eq!(merge::apply(&old.whole(), &delta).unwrap(), expected);
            prop_assert!(new.changes_since(new).is_empty());
        }
    }
}
