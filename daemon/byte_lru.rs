//! A least-recently-used cache bounded by bytes.

use std::hash::Hash;

use lru::LruCache;

/// A map that evicts the least recently used entries to stay within a byte budget.
pub struct ByteLru<K: Eq + Hash, V> {
    /// The values, each with its size in bytes.
    held: LruCache<K, (V, usize)>,
    bytes: usize,
    most: usize,
}

impl<K: Eq + Hash, V> ByteLru<K, V> {
    /// Creates a cache that keeps at most `most` bytes. With 0, entries of one byte or more are not
    /// kept.
    pub fn new(most: usize) -> ByteLru<K, V> {
        ByteLru { held: LruCache::unbounded(), bytes: 0, most }
    }

    /// Returns the value of the key and marks it as the most recently used.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.held.get_mut(key).map(|(value, _)| value)
    }

    /// Evicts entries until `bytes` more fit. Returns the number of evicted entries, or `None` if
    /// `bytes` exceeds the whole budget; then nothing is evicted.
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

    /// Stores a value of this size, replacing the key's previous one. A value larger than the whole
    /// budget is not stored.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        if let Some((_, before)) = self.held.pop(&key) {
            self.bytes -= before;
        }
        if self.make_room(bytes).is_some() {
            self.bytes += bytes;
            self.held.put(key, (value, bytes));
        }
    }

    /// Removes the key's value, if there is one.
    pub fn forget(&mut self, key: &K) {
        if let Some((_, bytes)) = self.held.pop(key) {
            self.bytes -= bytes;
        }
    }

    /// Removes the entries for whose key `is_kept` returns false.
    pub fn retain(&mut self, is_kept: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let removed: Vec<K> =
            self.held.iter().map(|(key, _)| key).filter(|key| !is_kept(key)).cloned().collect();
        removed.iter().for_each(|key| self.forget(key));
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The budget in bytes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_entry_is_evicted() {
        let mut kept = ByteLru::new(10);
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
        /// The cache behaves like a plain list whose last element is the most recently used.
        #[test]
        fn the_cache_behaves_like_a_plain_list(
            most in 0usize..40,
            steps in prop::collection::vec((0u8..6, 1usize..16, any::<bool>()), 0..80),
        ) {
            let mut kept = ByteLru::new(most);
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
