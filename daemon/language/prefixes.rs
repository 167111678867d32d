//! What several prompts begin with, read once and kept: bounded in bytes, and what was least
//! recently used leaves first. Pure rules; what is kept is anything with a size.

use std::collections::HashMap;
use std::hash::Hash;

pub struct Prefixes<K, V> {
    kept: HashMap<K, Kept<V>>,
    bytes: usize,
    most: usize,
    clock: u64,
}

struct Kept<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Eq + Hash + Clone, V> Prefixes<K, V> {
    /// Keeps at most so many bytes; with 0 it keeps nothing.
    pub fn new(most: usize) -> Prefixes<K, V> {
        Prefixes { kept: HashMap::new(), bytes: 0, most, clock: 0 }
    }

    /// What is kept under the key, which is now the most recently used.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.clock;
        Some(&mut kept.value)
    }

    /// Makes room for `bytes` more, and says how many have left; `None`: that much is never kept.
    pub fn make_room(&mut self, bytes: usize) -> Option<usize> {
        if bytes > self.most {
            return None;
        }
        let mut left = 0;
        while self.bytes + bytes > self.most {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used)?.0.clone();
            self.remove(&oldest);
            left += 1;
        }
        Some(left)
    }

    /// After [`Prefixes::make_room`] for as much.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        debug_assert!(self.bytes + bytes <= self.most);
        self.clock += 1;
        self.bytes += bytes;
        self.kept.insert(key, Kept { value, bytes, used: self.clock });
    }

    fn remove(&mut self, key: &K) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.bytes;
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that may be kept.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_leaves() {
        let mut prefixes = Prefixes::new(10);
        for (key, bytes) in [("a", 4), ("b", 4)] {
            assert_eq!(prefixes.make_room(bytes), Some(0));
            prefixes.put(key, key, bytes);
        }
        assert_eq!(prefixes.get(&"a"), Some(&mut "a"));
        assert_eq!(prefixes.make_room(3), Some(1));
        prefixes.put("c", "c", 3);
        assert_eq!(prefixes.get(&"b"), None);
        assert_eq!((prefixes.count(), prefixes.bytes()), (2, 7));
        assert_eq!(prefixes.make_room(11), None, "larger than all room: nothing leaves for it");
        assert_eq!(prefixes.count(), 2);
    }

    proptest! {
        /// Against a plain list, the most recently used last.
        #[test]
        fn as_a_list_would_do(
            most in 0usize..40,
            steps in prop::collection::vec((0u8..6, 1usize..16, any::<bool>()), 0..80),
        ) {
            let mut prefixes = Prefixes::new(most);
            let mut list: Vec<(u8, usize)> = Vec::new();
            for (key, bytes, put) in steps {
                let at = list.iter().position(|(known, _)| *known == key);
                let found = prefixes.get(&key).map(|bytes| *bytes);
                prop_assert_eq!(found, at.map(|at| list[at].1));
                if let Some(at) = at {
                    let used = list.remove(at);
                    list.push(used);
                } else if put && prefixes.make_room(bytes).is_some() {
                    prefixes.put(key, bytes, bytes);
                    let sum = |list: &[(u8, usize)]| list.iter().map(|(_, bytes)| bytes).sum::<usize>();
                    while sum(&list) + bytes > most {
                        list.remove(0);
                    }
                    list.push((key, bytes));
                }
                prop_assert!(prefixes.bytes() <= most);
                prop_assert_eq!(prefixes.bytes(), list.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert_eq!(prefixes.count(), list.len());
            }
        }
    }
}
