//! IP sets. A changed member costs that member, and bumps the flows of its address if some policy names the set.

use std::net::IpAddr;

use contract::valid::{IpSet, IpSetDelta, Member, Members, Subject};

use super::node::missing;
use super::{CompileError, Work, within};
use crate::snapshot::Shard;
use crate::snapshot::table::{SetId, SetRecord};
use crate::table::ip_set;
use crate::table::trie::Trie;

impl Work {
    /// A whole set. Members that stay are not touched.
    pub(super) fn ip_set(&mut self, source: IpSet) -> Result<(), CompileError> {
        let subject = Subject::new("IpSet", "", &source.id);
        let Some(id) = self.snapshot.set_names.get(&source.id).copied() else {
            let mut set = ip_set::IpSet::new(source.members.kind());
            source.members.each(|member| {
                set.insert(member);
            });
            self.count_members(&subject, 0, set.len())?;
            let record = SetRecord {
                id: source.id.clone(),
                set,
                policies: Trie::default(),
            };
            let id = SetId(self.snapshot.sets.insert(record));
            self.snapshot.set_names.insert(source.id, id);
            return Ok(());
        };
        // Looked at first: a set that did not change is not copied.
        if self
            .snapshot
            .sets
            .get(id.0)
            .is_some_and(|record| record.set.equals(&source.members))
        {
            return Ok(());
        }
        let record = self.record_mut(id);
        let (had, kind) = (record.set.len(), record.set.kind());
        if kind != source.members.kind() {
            if !record.policies.is_empty() {
                let found = format!("{:?}", source.members.kind());
                let expected = format!("{kind:?}, as the policies that name it");
                return Err(subject.invalid("kind", expected, found).into());
            }
            record.set = ip_set::IpSet::new(source.members.kind());
        }
        let mut gone = Vec::new();
        let mut wanted = ip_set::IpSet::new(source.members.kind());
        source.members.each(|member| {
            wanted.insert(member);
        });
        record.set.each(|member| {
            if !wanted.has(&member) {
                gone.push(member);
            }
        });
        let mut come = Vec::new();
        for member in &gone {
            record.set.remove(member);
        }
        source.members.each(|member| {
            // Looked up first: a set that did not change is not copied.
            if !record.set.has(&member) {
                record.set.insert(member);
                come.push(member);
            }
        });
        let has = record.set.len();
        self.count_members(&subject, had, has)?;
        self.bump_members(id, &gone, &come);
        Ok(())
    }

    pub(super) fn ip_set_delta(&mut self, delta: &IpSetDelta) -> Result<(), CompileError> {
        let subject = Subject::new("IpSet", "", &delta.id);
        let Some(id) = self.snapshot.set_names.get(&delta.id).copied() else {
            return Err(missing("IpSet", &delta.id));
        };
        let record = self.record_mut(id);
        let (had, kind) = (record.set.len(), record.set.kind());
        for member in &delta.removed {
            if !record.set.remove(member) {
                return Err(subject
                    .invalid("removed", "a member that is there", shown(member))
                    .into());
            }
        }
        for member in &delta.added {
            if !record.set.insert(*member) {
                let expected = format!("a member of {kind:?} that is not there yet");
                return Err(subject.invalid("added", expected, shown(member)).into());
            }
        }
        let has = record.set.len();
        self.count_members(&subject, had, has)?;
        self.bump_members(id, &delta.removed, &delta.added);
        Ok(())
    }

    pub(super) fn ip_set_removed(&mut self, name: &str) -> Result<(), CompileError> {
        let Some(id) = self.snapshot.set_names.get_name(name).copied() else {
            return Err(missing("IpSet", name));
        };
        let user = self
            .snapshot
            .sets
            .get(id.0)
            .and_then(|record| record.policies.iter().next());
        if let Some((policy, ())) = user {
            let policy = self
                .snapshot
                .policies
                .get(*policy)
                .map_or("a policy", |policy| &policy.source.id);
            let subject = Subject::new("IpSet", "", name);
            return Err(subject
                .invalid("id", "no policy that names a set which goes", policy)
                .into());
        }
        if let Some(record) = self.snapshot.sets.remove(id.0) {
            self.snapshot.totals.members -= record.set.len();
            self.snapshot.set_names.remove(&record.id);
        }
        Ok(())
    }

    fn record_mut(&mut self, id: SetId) -> &mut SetRecord {
        self.snapshot
            .sets
            .get_mut(id.0)
            .expect("an index that a name has is taken")
    }

    fn count_members(&mut self, subject: &Subject, had: usize, has: usize) -> Result<(), CompileError> {
        let members = self.snapshot.totals.members - had + has;
        within(
            subject,
            "ip_set_members",
            members,
            self.snapshot.limits.ip_set_members,
        )?;
        self.snapshot.totals.members = members;
        Ok(())
    }

    /// Bumps the flows of the addresses that came or went; those of all endpoints that a policy naming this set is attached to
    /// where these are prefixes, or very many.
    fn bump_members(&mut self, id: SetId, gone: &[Member], come: &[Member]) {
        let is_used = |record: &SetRecord| !record.policies.is_empty();
        if !self.snapshot.sets.get(id.0).is_some_and(is_used) {
            return;
        }
        let addresses = gone.iter().chain(come).map(address_of);
        match addresses.collect::<Option<Vec<IpAddr>>>() {
            Some(addresses) if addresses.len() <= SINGLY_MAX => {
                for address in addresses {
                    self.bump_address(address);
                }
            }
            _ => self.bump_users(id),
        }
    }

    /// Bumps every endpoint that a policy naming this set is attached to.
    fn bump_users(&mut self, id: SetId) {
        let Some(record) = self.snapshot.sets.get(id.0) else {
            return;
        };
        for (policy, ()) in &record.policies {
            if let Some(policy) = self.snapshot.policies.get(*policy) {
                for (port, ()) in &policy.ports {
                    self.bumps.add(Shard::endpoint(crate::port::PortId(*port as u16)));
                }
            }
        }
    }
}

/// `None`: more than one.
fn address_of(member: &Member) -> Option<IpAddr> {
    match member {
        Member::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => Some(prefix.addr()),
        Member::Prefix(_) => None,
        Member::AddressPort(member) => Some(member.address),
    }
}

fn shown(member: &Member) -> String {
    match member {
        Member::Prefix(prefix) => prefix.to_string(),
        Member::AddressPort(member) => format!(
            "{} protocol {} port {}",
            member.address, member.protocol, member.port
        ),
    }
}

/// Visits the members one by one.
trait Each {
    fn each(&self, visit: impl FnMut(Member));
}

impl Each for Members {
    fn each(&self, visit: impl FnMut(Member)) {
        match self {
            Self::Addresses(members) => members.iter().copied().map(Member::Prefix).for_each(visit),
            Self::AddressPorts(members) => members.iter().copied().map(Member::AddressPort).for_each(visit),
        }
    }
}

/// Members whose flows are bumped one by one; their shards are looked at one by one too, between two batches of the workers.
const SINGLY_MAX: usize = 4096;
