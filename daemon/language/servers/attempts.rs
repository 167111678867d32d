//! Tries the servers for a request, one after the other.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{Problem, Server, Servers};
use crate::language::Failure;
use crate::metrics::{self, ServerResult};

/// The work of one request, which is tried on one server after the other.
pub trait Attempts {
    type Result;

    /// Returns true if this server can do the work. Others are left out.
    fn suits(&self, _server: &Server) -> bool {
        true
    }

    fn attempt(
        &mut self,
        server: &Server,
    ) -> impl Future<Output = Result<Self::Result, Stop>> + Send;
}

/// The reason why one attempt has no result.
pub enum Stop {
    /// Another server may give one.
    Server(Problem),
    /// No server will give one.
    Job(Failure),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Server(problem)
    }
}

impl Servers {
    /// Makes attempts on the servers that are ready, one after the other, within the timeout. The
    /// key chooses the first one.
    pub async fn first_result<A: Attempts>(
        &self,
        key: u64,
        timeout: Duration,
        work: &mut A,
    ) -> Result<A::Result, Failure> {
        let attempts = async {
            let ready = self.ready(key);
            if ready.is_empty() {
                return Err(self.none_ready());
            }
            let mut problems = Vec::new();
            for server in ready {
                if !work.suits(&server) {
                    continue;
                }
                let address = &server.address;
                match work.attempt(&server).await {
                    Ok(result) => {
                        metrics::language_server_request(address, ServerResult::Answered);
                        return Ok(result);
                    }
                    Err(Stop::Job(failure)) => {
                        metrics::language_server_request(address, ServerResult::Refused);
                        return Err(failure);
                    }
                    Err(Stop::Server(Problem::Request(why))) => {
                        metrics::language_server_request(address, ServerResult::Refused);
                        return Err(Failure::Server(format!("language server {address}: {why}")));
                    }
                    Err(Stop::Server(problem)) => {
                        metrics::language_server_request(address, ServerResult::Failed);
                        problems.push(format!("{address}: {problem}"));
                        server.failed(problem);
                    }
                }
            }
            if problems.is_empty() {
                let why = "no language server that is ready can do what the request needs";
                return Err(Failure::Server(why.into()));
            }
            Err(Failure::Server(format!("no language server answered: {}", problems.join("; "))))
        };
        tokio::time::timeout(timeout, attempts).await.unwrap_or_else(|_| {
            let seconds = timeout.as_secs_f64();
            Err(Failure::Server(format!(
                "no language server answered within language.timeout of {seconds} s"
            )))
        })
    }

    /// Returns the results of requests with a common start, in their order. All of them go to the
    /// same server while it works. The first one is sent alone, so that the others find its prefix
    /// in the server's cache. These are sent together.
    pub async fn all_results<A>(
        &self,
        key: u64,
        timeout: Duration,
        requests: impl IntoIterator<Item = A>,
    ) -> Result<Vec<A::Result>, Failure>
    where
        A: Attempts + Send + 'static,
        A::Result: Send + 'static,
    {
        let mut requests = requests.into_iter();
        let Some(mut first) = requests.next() else { return Ok(Vec::new()) };
        let mut results = vec![(0, self.first_result(key, timeout, &mut first).await?)];
        let mut others = JoinSet::new();
        for (at, mut request) in (1usize..).zip(requests) {
            let servers = self.clone();
            others
                .spawn(async move { (at, servers.first_result(key, timeout, &mut request).await) });
        }
        while let Some(joined) = others.join_next().await {
            let (at, result) = joined.map_err(|error| Failure::Run(error.to_string()))?;
            results.push((at, result?));
        }
        results.sort_by_key(|(at, _)| *at);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    /// Returns the failure of a request while no server is ready.
    pub fn none_ready(&self) -> Failure {
        Failure::Server(format!("no language server is ready: {}", self.described()))
    }
}
