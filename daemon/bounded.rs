//! What is kept for whoever wants it next: bounded in bytes, and what was used longest ago leaves
//! first.

use std::hash::Hash;

use lru::LruCache;

pub struct Bounded<K: Eq + Hash, V> {
    /// Each with its bytes.
    held: LruCache<K, (V, usize)>,
    bytes: usize,
    most: usize,
}

impl<K: Eq + Hash, V> Bounded<K, V> {
    /// Keeps at most so many bytes; with 0 it keeps nothing.
    pub fn new(most: usize) -> Bounded<K, V> {
        Bounded { held: LruCache::unbounded(), bytes: 0, most }
    }

    /// What is kept under the key, which is now the most recently used.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.held.get_mut(key).map(|(value, _)| value)
    }

    /// Makes room for `bytes` more, and says how many have left; `None`: that much is never kept.
    pub fn make_room(&mut self, bytes: usize) -> Option<usize> {
        if bytes > self.most {
            return None;
        }
        let mut left = 0;
        while self.bytes + bytes > self.most {
            let (_, (_, bytes)) = self.held.pop_lru()?;
            self.bytes -= bytes;
            left += 1;
        }
        Some(left)
    }

    /// What is larger than all that may be kept is not kept.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        if let Some((_, before)) = self.held.pop(&key) {
            self.bytes -= before;
        }
        if self.make_room(bytes).is_some() {
            self.bytes += bytes;
            self.held.put(key, (value, bytes));
        }
    }

    /// Keeps no longer what is kept under the key.
    pub fn forget(&mut self, key: &K) {
        if let Some((_, bytes)) = self.held.pop(key) {
            self.bytes -= bytes;
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
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_leaves() {
        let mut kept = Bounded::new(10);
        for (key, bytes) in [("a", 4), ("b", 4)] {
            assert_eq!(kept.make_room(bytes), Some(0));
            kept.put(key, key, bytes);
        }
        assert_eq!(kept.get(&"a"), Some(&mut "a"));
        assert_eq!(kept.make_room(3), Some(1));
        kept.put("c", "c", 3);
        assert_eq!(kept.get(&"b"), None);
        assert_eq!((kept.count(), kept.bytes()), (2, 7));
        assert_eq!(kept.make_room(11), None, "larger than all room: nothing leaves for it");
        kept.put("d", "d", 11);
        assert_eq!((kept.count(), kept.get(&"d")), (2, None));
        for _ in 0..2 {
            kept.forget(&"c");
            assert_eq!((kept.count(), kept.bytes()), (1, 4));
        }
    }

    proptest! {
        /// Against a plain list, the most recently used last.
        #[test]
        fn as_a_list_would_do(
            most in 0usize..40,
            steps in prop::collection::vec((0u8..6, 1usize..16, any::<bool>()), 0..80),
        ) {
            let mut kept = Bounded::new(most);
            let mut list: Vec<(u8, usize)> = Vec::new();
            let sum = |list: &[(u8, usize)]| list.iter().map(|(_, bytes)| bytes).sum::<usize>();
            for (key, bytes, put) in steps {
                let known = list.iter().position(|(known, _)| *known == key);
                let known = known.map(|at| list.remove(at));
                if put {
                    kept.put(key, bytes, bytes);
                    if bytes <= most {
                        while sum(&list) + bytes > most {
                            list.remove(0);
                        }
                        list.push((key, bytes));
                    }
                } else {
                    prop_assert_eq!(kept.get(&key).copied(), known.map(|(_, bytes)| bytes));
                    list.extend(known);
                }
                prop_assert!(kept.bytes() <= most);
                prop_assert_eq!((kept.bytes(), kept.count()), (sum(&list), list.len()));
            }
        }
    }
}
