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

impl Door {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inside: Mutex::default(),
            events: AtomicU64::new(0),
        }
    }

    /// A client's place among those that may be connected; `None` when all are taken. `address` is
    /// where it is known.
    pub fn admit(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        address: Option<IpAddr>,
    ) -> Option<Admission> {
        let mut inside = self.lock();
        let of_tenant = inside.tenants.get(tenant).copied().unwrap_or_default();
        let there = address.and_then(|address| inside.addresses.get(&address));
        let from_there = there.copied().unwrap_or_default();
        if inside.all >= self.limits.all
            || of_tenant >= self.limits.per_tenant
            || from_there >= self.limits.per_address
        {
            return None;
        }
        inside.all += 1;
        *inside.tenants.entry(tenant.clone()).or_default() += 1;
        if let Some(address) = address {
            *inside.addresses.entry(address).or_default() += 1;
        }
        Some(Admission {
            door: self.clone(),
            tenant: tenant.clone(),
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
    tenant: Arc<str>,
    address: Option<IpAddr>,
}

impl Admission {
    /// It is being handed so many events.
    pub fn count(&self, events: usize) {
        self.door.events.fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.all -= 1;
        one_less(&mut inside.tenants, &self.tenant);
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
        let first = door.admit(&a, here).expect("room");
        let second = door.admit(&a, there).expect("room");
        assert!(door.admit(&a, None).is_none(), "its tenant has two");
        let third = door.admit(&b, here).expect("room");
        assert!(door.admit(&b, None).is_none(), "three in all");
        drop(second);
        assert!(door.admit(&b, here).is_none(), "two from there");
        assert!(door.admit(&b, there).is_some());
        drop((first, third));
        assert_eq!(door.clients(), 0);
        let inside = door.lock();
        assert!(inside.tenants.is_empty() && inside.addresses.is_empty());
    }
}
