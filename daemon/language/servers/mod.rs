//! The servers that run the language model: which of them are ready, and which one gets a request.
//!
//! Guarantees:
//! - A request goes only to a server that has passed its proof. A server on which a request failed
//!   must pass it again, after a pause that grows with every failure. Between requests every server
//!   is asked for its models, so that one which was restarted is noticed.
//! - Requests with the same key go to the same server, as long as it is ready, so that they find its
//!   cache. When a server comes or goes, only the keys of that server move.

mod attempts;
mod http;
mod lines;
mod models;
mod sequences;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::metrics;
use crate::sync::lock;

pub use attempts::{Attempts, Stop};
pub use http::{Http, Problem, parse};
pub use lines::Events;
pub use models::{ServedModel, served_model};
pub use sequences::{Outputs, Sequences};

/// Time between two checks of a server that is ready.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum pause before a server that failed is proved again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A server and its state.
pub struct Server {
    pub address: String,
    state: Mutex<State>,
    has_failed: Notify,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// The server has passed its proof, which found this.
    Ready(String),
    Failed(Problem),
}

/// The servers of one model.
#[derive(Clone)]
pub struct Servers {
    servers: Vec<Arc<Server>>,
}

/// Proves that a server runs the right model, and checks it while it is ready.
pub trait Proof: Send + Sync + 'static {
    /// Proves that the server runs the right model, completely. Returns what was found, in words.
    fn prove(&self, address: &str) -> impl Future<Output = Result<String, Problem>> + Send;

    /// Checks that it is still there, at little cost.
    fn check(&self, address: &str) -> impl Future<Output = Result<(), Problem>> + Send;
}

impl Server {
    fn new(address: &str) -> Server {
        let state = State::Failed(Problem::Unreachable("it was not contacted yet".into()));
        metrics::language_server_ready(address, false);
        Server { address: address.into(), state: Mutex::new(state), has_failed: Notify::new() }
    }

    /// Records that a request failed for a reason of the server.
    pub fn failed(&self, problem: Problem) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Failed(problem.clone()));
        metrics::language_server_ready(&self.address, false);
        if matches!(before, State::Ready(_)) {
            tracing::warn!("language server {}: {problem}", self.address);
            self.has_failed.notify_one();
        }
    }

    fn proved(&self, found: String) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Ready(found.clone()));
        metrics::language_server_ready(&self.address, true);
        if matches!(before, State::Failed(_)) {
            tracing::info!("language server {} is ready: it {found}", self.address);
        }
    }

    /// Returns what the proof found, or the problem for which the server is not ready.
    fn result(&self) -> Result<String, Problem> {
        match &*lock(&self.state) {
            State::Ready(found) => Ok(found.clone()),
            State::Failed(problem) => Err(problem.clone()),
        }
    }

    fn problem(&self) -> Option<Problem> {
        self.result().err()
    }
}

impl Servers {
    pub fn new(addresses: &[String]) -> Servers {
        Servers { servers: addresses.iter().map(|a| Arc::new(Server::new(a))).collect() }
    }

    /// Proves every server once, all at the same time.
    pub async fn prove(&self, proof: &Arc<impl Proof>) {
        let mut proofs = tokio::task::JoinSet::new();
        for server in self.servers.iter().cloned() {
            let proof = proof.clone();
            proofs.spawn(async move {
                match proof.prove(&server.address).await {
                    Ok(found) => server.proved(found),
                    Err(problem) => server.failed(problem),
                }
            });
        }
        while proofs.join_next().await.is_some() {}
    }

    /// Watches the servers, each in a task of its own. Call it on a tokio runtime.
    pub fn watch(&self, proof: &Arc<impl Proof>) {
        for server in self.servers.iter().cloned() {
            tokio::spawn(watch(server, proof.clone()));
        }
    }

    /// Returns the servers that are ready, in the order in which a request with this key tries them.
    pub fn ready(&self, key: u64) -> Vec<Arc<Server>> {
        let ready = self.servers.iter().filter(|server| server.problem().is_none());
        let mut ready: Vec<_> = ready.cloned().collect();
        ready.sort_by_cached_key(|server| std::cmp::Reverse(weight(key, &server.address)));
        ready
    }

    /// Returns the problems of the servers that are not ready, with their addresses.
    pub fn problems(&self) -> Vec<(String, Problem)> {
        let problem = |server: &Arc<Server>| Some((server.address.clone(), server.problem()?));
        self.servers.iter().filter_map(problem).collect()
    }

    /// Describes the problems of the servers that are not ready, in one line.
    pub fn described(&self) -> String {
        let describe = |(address, problem)| format!("{address}: {problem}");
        self.problems().into_iter().map(describe).collect::<Vec<_>>().join("; ")
    }

    /// Returns the number of servers.
    pub fn count(&self) -> usize {
        self.servers.len()
    }
}

async fn watch(server: Arc<Server>, proof: Arc<impl Proof>) {
    let mut backoff = Backoff::new(LONGEST_PAUSE);
    loop {
        if server.problem().is_none() {
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = server.has_failed.notified() => continue,
            }
            match proof.check(&server.address).await {
                Ok(()) => backoff.reset(),
                Err(problem) => server.failed(problem),
            }
        } else {
            tokio::time::sleep(backoff.pause(rand::random())).await;
            match proof.prove(&server.address).await {
                Ok(found) => server.proved(found),
                Err(problem) => server.failed(problem),
            }
        }
    }
}

/// The states of the servers, for those who report them.
#[derive(Clone)]
pub struct ServerHealth(pub Servers);

impl ServerHealth {
    /// Returns a sentence for each server that is not ready.
    pub fn troubles(&self) -> Vec<String> {
        let sentence = |(address, problem)| format!("language server {address}: {problem}");
        self.0.problems().into_iter().map(sentence).collect()
    }

    /// Returns the address of each server, with what its proof found or the problem for which it is
    /// not ready.
    pub fn states(&self) -> Vec<(String, Result<String, String>)> {
        let state = |server: &Arc<Server>| {
            (server.address.clone(), server.result().map_err(|problem| problem.to_string()))
        };
        self.0.servers.iter().map(state).collect()
    }
}

/// Returns the weight of a server for a key (rendezvous hashing): the server with the largest one
/// gets the request.
fn weight(key: u64, address: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, address).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Servers {
        let addresses: Vec<String> = (0..count).map(|at| format!("http://gpu-{at}:8000")).collect();
        let servers = Servers::new(&addresses);
        servers.servers.iter().for_each(|server| server.proved("works".into()));
        servers
    }

    fn first(servers: &Servers, key: u64) -> String {
        servers.ready(key)[0].address.clone()
    }

    #[test]
    fn keys_are_spread_and_only_those_of_a_lost_server_move() {
        let servers = servers(4);
        let before: Vec<String> = (0..400).map(|key| first(&servers, key)).collect();
        for server in &servers.servers {
            let share = before.iter().filter(|address| **address == server.address).count();
            assert!((60..140).contains(&share), "{share} of 400 go to {}", server.address);
        }
        let lost = &servers.servers[1];
        lost.failed(Problem::Unreachable("refused".into()));
        for (key, address) in before.iter().enumerate() {
            let now = first(&servers, key as u64);
            assert!(now != lost.address, "{key}");
            assert!(now == *address || *address == lost.address, "{key} moved");
        }
        assert_eq!(servers.described(), "http://gpu-1:8000: refused");
        lost.proved("works".into());
        assert!((0..400).all(|key| first(&servers, key as u64) == before[key]));
    }
}
