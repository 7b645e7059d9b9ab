//! Who is let in: so many clients in all, of a tenant, and from an address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most clients connected at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub all: usize,
    pub per_tenant: usize,
    pub per_address: usize,
}

/// Counts clients and what they got.
#[derive(Debug)]
pub struct Door {
    limits: Limits,
    inside: Mutex<Inside>,
    events: AtomicU64,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    tenants: HashMap<Arc<str>, usize>,
    addresses: HashMap<IpAddr, usize>,
}

impl Inside {
    fn of(&self, tenant: &Arc<str>) -> usize {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

impl Door {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inside: Mutex::default(),
            events: AtomicU64::new(0),
        }
    }

    /// A client's place among those that may be connected; `None` when all are taken. `tenant` and
    /// `address` are where they are known.
    pub fn admit(
        self: &Arc<Self>,
        tenant: Option<&Arc<str>>,
        address: Option<IpAddr>,
    ) -> Option<Admission> {
        let mut inside = self.lock();
        let there = address.and_then(|address| inside.addresses.get(&address));
        let from_there = there.copied().unwrap_or_default();
        if inside.all >= self.limits.all
            || tenant.is_some_and(|tenant| inside.of(tenant) >= self.limits.per_tenant)
            || from_there >= self.limits.per_address
        {
            return None;
        }
        inside.all += 1;
        if let Some(tenant) = tenant {
            *inside.tenants.entry(tenant.clone()).or_default() += 1;
        }
        if let Some(address) = address {
            *inside.addresses.entry(address).or_default() += 1;
        }
        Some(Admission {
            door: self.clone(),
            tenant: tenant.cloned(),
            address,
        })
    }

    pub fn clients(&self) -> u64 {
        self.lock().all as u64
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Nothing under the lock can leave the counts half changed.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client is counted as long as this lives.
#[derive(Debug)]
pub struct Admission {
    door: Arc<Door>,
    tenant: Option<Arc<str>>,
    address: Option<IpAddr>,
}

impl Admission {
    /// It is being handed so many events.
    pub fn count(&self, events: usize) {
        self.door.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Counts the client as this tenant's from now on; `false` when the tenant has all it may have.
    pub fn move_to(&mut self, tenant: &Arc<str>) -> bool {
        if self.tenant.as_ref() == Some(tenant) {
            return true;
        }
        let mut inside = self.door.lock();
        if inside.of(tenant) >= self.door.limits.per_tenant {
            return false;
        }
        *inside.tenants.entry(tenant.clone()).or_default() += 1;
        if let Some(before) = self.tenant.replace(tenant.clone()) {
            one_less(&mut inside.tenants, &before);
        }
        true
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.all -= 1;
        if let Some(tenant) = &self.tenant {
            one_less(&mut inside.tenants, tenant);
        }
        if let Some(address) = self.address {
            one_less(&mut inside.addresses, &address);
        }
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_client_has_left() {
        let door = Arc::new(Door::new(Limits {
            all: 3,
            per_tenant: 2,
            per_address: 2,
        }));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (here, there) = (
            Some(IpAddr::from([127, 0, 0, 1])),
            Some(IpAddr::from([1; 4])),
        );
        let first = door.admit(Some(&a), here).expect("room");
        let second = door.admit(Some(&a), there).expect("room");
        assert!(door.admit(Some(&a), None).is_none(), "its tenant has two");
        let third = door.admit(Some(&b), here).expect("room");
        assert!(door.admit(Some(&b), None).is_none(), "three in all");
        drop(second);
        assert!(door.admit(Some(&b), here).is_none(), "two from there");
        assert!(door.admit(Some(&b), there).is_some());
        drop((first, third));
        assert_eq!(door.clients(), 0);
        let inside = door.lock();
        assert!(inside.tenants.is_empty() && inside.addresses.is_empty());
    }

    #[test]
    fn a_client_that_changes_its_tenant_takes_a_place_of_the_new_one_alone() {
        let door = Arc::new(Door::new(Limits {
            all: 3,
            per_tenant: 1,
            per_address: 3,
        }));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut first = door.admit(None, None).expect("room");
        assert!(first.move_to(&a) && first.move_to(&a), "it is its own");
        let mut second = door.admit(None, None).expect("room");
        assert!(!second.move_to(&a), "its tenant has one");
        assert!(first.move_to(&b) && second.move_to(&a));
        assert!(!second.move_to(&b));
        assert_eq!(door.clients(), 2);
        drop((first, second));
        assert!(door.lock().tenants.is_empty());
    }
}
