//! The tokens that a running daemon knows, read again when their file changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::store::{StoreError, StoredToken, TokenStore, Version};
use super::token::TokenHash;
use super::{Access, Role};
use crate::config::TokenLimits;
use crate::sync::lock;

/// Interval at which the file is checked.
const CHECK: Duration = Duration::from_secs(1);

/// A token in use.
pub struct Known {
    stored: StoredToken,
    pub access: Arc<Access>,
    /// Cancelled when the token is revoked or expires, or the daemon stops.
    pub ended: CancellationToken,
    questions: DefaultDirectRateLimiter,
    pub streams: Arc<Semaphore>,
}

impl Known {
    fn new(stored: StoredToken, limits: TokenLimits, stop: &CancellationToken) -> Known {
        let access = Access {
            name: (*stored.name).into(),
            role: stored.role,
            cameras: stored.cameras.clone(),
        };
        Known {
            stored,
            access: Arc::new(access),
            ended: stop.child_token(),
            questions: RateLimiter::direct(Quota::per_minute(limits.questions_per_minute)),
            streams: Arc::new(Semaphore::new(limits.streams)),
        }
    }

    /// Counts a question, or returns the time until the next one is permitted.
    pub fn count_question(&self) -> Result<(), Duration> {
        let checked = self.questions.check();
        checked.map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

/// The tokens, and what each may use.
pub struct Tokens {
    store: TokenStore,
    pub limits: TokenLimits,
    stop: CancellationToken,
    /// The version of the file when it was read first.
    first_version: Version,
    known: Mutex<Vec<Arc<Known>>>,
}

impl Tokens {
    /// Reads the tokens. `stop` ends the streams of all of them.
    pub fn read(
        store: TokenStore,
        limits: TokenLimits,
        stop: CancellationToken,
    ) -> Result<Tokens, StoreError> {
        // Taken before the file is read, so that a change in between is noticed.
        let first_version = store.version();
        let tokens = Tokens { store, limits, stop, first_version, known: Mutex::default() };
        let stored = tokens.store.list()?;
        if !stored.iter().any(|token| token.role == Role::Admin) {
            tracing::warn!("access: no token has the role admin; `lookout token add` makes one");
        }
        tokens.take(stored);
        Ok(tokens)
    }

    /// Replaces the tokens. A token that is stored unchanged keeps its streams and its counts.
    fn take(&self, stored: Vec<StoredToken>) {
        let mut known = lock(&self.known);
        let mut before = std::mem::take(&mut *known);
        for token in stored {
            let same = before.iter().position(|known| known.stored == token);
            let next = match same {
                Some(place) => before.swap_remove(place),
                None => Arc::new(Known::new(token, self.limits, &self.stop)),
            };
            known.push(next);
        }
        for revoked in before {
            tracing::info!(token = %revoked.access.name, "access: the token was revoked or changed");
            revoked.ended.cancel();
        }
    }

    /// Returns the token with this text, unless it has expired.
    pub fn find(&self, text: &str) -> Option<Arc<Known>> {
        let hash = TokenHash::of(text);
        let known = lock(&self.known);
        // Every token is compared, so that the time does not depend on which one matches.
        let matching = known.iter().fold(None, |found, known| {
            if known.stored.hash.matches(&hash) { Some(known) } else { found }
        })?;
        let now = SystemTime::now();
        (!matching.stored.has_expired(now) && !matching.ended.is_cancelled())
            .then(|| matching.clone())
    }

    /// Follows changes of the file, and ends the streams of expired tokens, until the daemon stops.
    /// While the file cannot be read, the tokens stay as they are.
    pub async fn follow(&self) {
        let mut version = self.first_version;
        let mut tick = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let now = SystemTime::now();
            for known in lock(&self.known).iter().filter(|known| known.stored.has_expired(now)) {
                known.ended.cancel();
            }
            let found = self.store.version();
            if found == version {
                continue;
            }
            version = found;
            match self.store.list() {
                Ok(stored) => self.take(stored),
                Err(why) => tracing::error!("access: the tokens stay as they are: {why}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::store::NewToken;
    use super::*;

    const LIMITS: TokenLimits =
        TokenLimits { questions_per_minute: NonZeroU32::new(3).unwrap(), streams: 2 };

    fn add(store: &TokenStore, name: &str, expires_at: Option<SystemTime>) -> String {
        let new = NewToken { name: name.into(), role: Role::View, cameras: None, expires_at };
        store.add(new).unwrap()
    }

    #[tokio::test]
    async fn changes_reach_a_running_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        let kept = add(&store, "kept", None);
        let gone = add(&store, "gone", None);
        let stop = CancellationToken::new();
        let tokens = Arc::new(Tokens::read(store.clone(), LIMITS, stop.clone()).unwrap());
        let following = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.follow().await }
        });
        let (first, second) = (tokens.find(&kept).unwrap(), tokens.find(&gone).unwrap());
        store.revoke("gone").unwrap();
        let late = add(&store, "late", None);
        tokio::time::timeout(Duration::from_secs(20), second.ended.cancelled()).await.unwrap();
        assert!(tokens.find(&gone).is_none());
        assert!(tokens.find(&late).is_some());
        assert!(Arc::ptr_eq(&first, &tokens.find(&kept).unwrap()), "the token keeps its streams");
        // A damaged file changes nothing.
        std::fs::write(folder.path().join("tokens.json"), "[").unwrap();
        tokio::time::sleep(2 * CHECK).await;
        assert!(tokens.find(&kept).is_some());
        stop.cancel();
        following.await.unwrap();
        assert!(first.ended.is_cancelled());
    }

    #[tokio::test]
    async fn a_token_expires() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        let text = add(&store, "short", Some(SystemTime::now() + Duration::from_secs(2)));
        let past = add(&store, "past", Some(SystemTime::UNIX_EPOCH));
        let tokens = Tokens::read(store, LIMITS, CancellationToken::new()).unwrap();
        assert!(tokens.find(&past).is_none());
        let known = tokens.find(&text).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                () = tokens.follow() => {}
                () = known.ended.cancelled() => {}
            }
        });
        ended.await.unwrap();
        assert!(tokens.find(&text).is_none());
    }

    #[test]
    fn questions_are_limited_by_token() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path());
        let texts = [add(&store, "one", None), add(&store, "two", None)];
        let tokens = Tokens::read(store, LIMITS, CancellationToken::new()).unwrap();
        let [one, two] = texts.map(|text| tokens.find(&text).unwrap());
        assert!((0..3).all(|_| one.count_question().is_ok()));
        let wait = one.count_question().unwrap_err();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(20), "{wait:?}");
        assert!(two.count_question().is_ok());
    }
}
