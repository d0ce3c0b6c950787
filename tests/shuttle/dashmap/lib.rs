//! What the product uses of `DashMap`, with one lock for all of it: an entry holds the lock as long as it lives, as an entry
//! of a `DashMap` holds that of its shard.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use shuttle::sync::{Mutex, MutexGuard};

/// A map that is shared.
pub struct DashMap<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for DashMap<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K, V> fmt::Debug for DashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DashMap")
    }
}

impl<K: Eq + Hash + Clone, V> DashMap<K, V> {
    fn all(&self) -> MutexGuard<'_, HashMap<K, V>> {
        self.0.lock().expect("nobody panics with it")
    }

    /// Returns the place of a key.
    pub fn entry(&self, key: K) -> mapref::entry::Entry<'_, K, V> {
        use mapref::entry::{Entry, Place};
        let all = self.all();
        if all.contains_key(&key) {
            Entry::Occupied(Place { all, key })
        } else {
            Entry::Vacant(Place { all, key })
        }
    }

    /// Takes a key out.
    pub fn remove(&self, key: &K) -> Option<(K, V)> {
        self.all().remove_entry(key)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Returns true if there is none.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

/// As in the crate of that name.
pub mod mapref {
    /// As in the crate of that name.
    pub mod entry {
        use std::collections::HashMap;
        use std::hash::Hash;

        use shuttle::sync::MutexGuard;

        /// A key's place, locked.
        pub enum Entry<'a, K, V> {
            /// Something is there.
            Occupied(Place<'a, K, V>),
            /// Nothing is there.
            Vacant(Place<'a, K, V>),
        }

        /// A key's place.
        pub struct Place<'a, K, V> {
            pub(crate) all: MutexGuard<'a, HashMap<K, V>>,
            pub(crate) key: K,
        }

        impl<K: Eq + Hash + Clone, V> Place<'_, K, V> {
            /// Returns what is there.
            pub fn get_mut(&mut self) -> &mut V {
                self.all.get_mut(&self.key).expect("it is occupied")
            }

            /// Puts something there.
            pub fn insert(mut self, value: V) {
                self.all.insert(self.key.clone(), value);
            }
        }
    }
}
