//! Tokens of frames that were encoded again, kept for the next question about the same time: a plain
//! value, bounded in bytes; what was used longest ago leaves first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub struct Recalled<K, T> {
    held: HashMap<K, Kept<T>>,
    /// When each was last used, the longest ago first.
    used: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
    most: usize,
}

struct Kept<T> {
    tokens: T,
    bytes: usize,
    used: u64,
}

impl<K: Clone + Eq + Hash, T: Clone> Recalled<K, T> {
    /// Of at most `most` bytes.
    pub fn new(most: usize) -> Recalled<K, T> {
        Recalled { held: HashMap::new(), used: BTreeMap::new(), clock: 0, bytes: 0, most }
    }

    pub fn get(&mut self, key: &K) -> Option<T> {
        self.clock += 1;
        let kept = self.held.get_mut(key)?;
        self.used.remove(&kept.used);
        kept.used = self.clock;
        self.used.insert(self.clock, key.clone());
        Some(kept.tokens.clone())
    }

    /// What is larger than all that may be kept is not kept.
    pub fn put(&mut self, key: K, tokens: T, bytes: usize) {
        self.remove(&key);
        if bytes > self.most {
            return;
        }
        self.clock += 1;
        let used = self.clock;
        self.used.insert(used, key.clone());
        self.held.insert(key, Kept { tokens, bytes, used });
        self.bytes += bytes;
        while self.bytes > self.most {
            let Some((_, oldest)) = self.used.pop_first() else { break };
            self.remove(&oldest);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, key: &K) {
        if let Some(kept) = self.held.remove(key) {
            self.used.remove(&kept.used);
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_used_longest_ago_leaves_first() {
        let mut recalled = Recalled::new(30);
        for key in ['a', 'b', 'c'] {
            recalled.put(key, key, 10);
        }
        assert_eq!(recalled.get(&'a'), Some('a'));
        recalled.put('d', 'd', 10);
        let held = ['a', 'b', 'c', 'd'].map(|key| recalled.get(&key).is_some());
        assert_eq!(held, [true, false, true, true]);
        recalled.put('e', 'e', 31);
        assert_eq!((recalled.get(&'e'), recalled.bytes()), (None, 30));
    }

    proptest! {
        #[test]
        fn its_bytes_are_those_of_what_it_holds(
            steps in prop::collection::vec((0u8..20, 0usize..40, any::<bool>()), 1..200),
            most in 0usize..200,
        ) {
            let mut recalled = Recalled::new(most);
            for (key, bytes, put) in steps {
                if put {
                    recalled.put(key, (key, bytes), bytes);
                } else if let Some((held, _)) = recalled.get(&key) {
                    prop_assert_eq!(held, key);
                }
                let sum: usize = recalled.held.values().map(|kept| kept.bytes).sum();
                prop_assert_eq!(recalled.bytes(), sum);
                prop_assert!(sum <= most);
                prop_assert_eq!(recalled.held.len(), recalled.used.len());
            }
        }
    }
}
