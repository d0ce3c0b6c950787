//! What is under a prefix that is met for the first time, as far as a plan needs it: of which size is each key's object.
//!
//! Of each key only a hash is kept, 16 bytes with the size, so that a plan for ten million objects fits any machine. Two
//! keys with one hash (once in two million plans of that size) would move one file from one line of the plan to another;
//! what is done does not depend on it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::store::Listed;
use crate::store::key::KeyMap;

/// The most keys that are named.
const NAMED: usize = 20;

/// The objects of a prefix, but the agent's own.
#[derive(Default)]
pub(in crate::commands::sync) struct There {
    /// Sizes in bytes, by the keys' hashes.
    sizes: HashMap<u64, u64>,
    hasher: RandomState,
    /// How many there are, with markers.
    pub objects: u64,
    /// Empty objects whose keys end with `/`, with which tools and consoles show folders.
    pub markers: u64,
    /// Keys that no file can have.
    pub odd: u64,
    /// The first of them.
    pub odd_names: Vec<String>,
}

/// What is under a file's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::commands::sync) enum Found {
    Nothing,
    SameSize,
    OtherSize,
}

impl There {
    /// Takes an object of the listing.
    pub fn add(&mut self, keys: &KeyMap, object: &Listed) {
        if keys.is_reserved(&object.key) {
            return;
        }
        self.objects += 1;
        if object.size == 0 && object.key.ends_with('/') {
            self.markers += 1;
            return;
        }
        if keys.path(&object.key).is_none() {
            self.odd += 1;
            if self.odd_names.len() < NAMED {
                self.odd_names.push(object.key.clone());
            }
        }
        let hash = self.hasher.hash_one(&object.key);
        self.sizes.insert(hash, object.size);
    }

    /// Takes away what is under `key` and says what a file of `size` bytes finds there.
    pub fn take(&mut self, key: &str, size: u64) -> Found {
        let hash = self.hasher.hash_one(key);
        match self.sizes.remove(&hash) {
            None => Found::Nothing,
            Some(theirs) if theirs == size => Found::SameSize,
            Some(_) => Found::OtherSize,
        }
    }

    /// Returns how many objects no file has taken, markers not counted, and their bytes.
    pub fn left(&self) -> (u64, u64) {
        (self.sizes.len() as u64, self.sizes.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_counted_for_what_it_is() {
        let keys = KeyMap::new("p/");
        let mut there = There::default();
        for (key, size) in [
            ("p/a", 1),
            ("p/b", 2),
            ("p/c", 3),
            ("p/folder/", 0),
            ("p/", 0),
            ("p/x//y", 4),
            ("p/not-empty/", 5),
            ("p/.tidewatch/lease.json", 6),
        ] {
            let (key, etag) = (key.to_owned(), String::new());
            there.add(&keys, &Listed { key, size, etag });
        }
        assert_eq!((there.objects, there.markers, there.odd), (7, 2, 2));
        assert_eq!(there.odd_names, ["p/x//y", "p/not-empty/"]);
        assert_eq!(there.take("p/a", 1), Found::SameSize);
        assert_eq!(there.take("p/b", 1), Found::OtherSize);
        assert_eq!(there.take("p/n", 1), Found::Nothing);
        assert_eq!(there.left(), (3, 12));
    }
}
