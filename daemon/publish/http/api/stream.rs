//! Streams of server-sent events (HTML standard, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Refusal;
use super::caller::Api;
use crate::publish::http::guard::Client;

/// Number of messages that wait for a client that reads slowly. Further events wait in the journal.
const BUFFER: usize = 16;

/// Interval of the comments that show that a silent stream is alive, far below the time limits of
/// proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The sender of a stream's messages.
pub struct Sender(mpsc::Sender<Message>);

impl Sender {
    /// Sends a value as JSON. `id` is what a client returns when it resumes the stream. Returns
    /// false if the client is gone.
    pub async fn send(&self, value: &impl Serialize, id: Option<String>) -> bool {
        let message = id.map_or_else(Message::default, |id| Message::default().id(id));
        match message.json_data(value) {
            Ok(message) => self.0.send(message).await.is_ok(),
            Err(error) => {
                tracing::error!("a message has no JSON: {error}");
                true
            }
        }
    }
}

impl Api {
    /// Runs `work` in a task of its own until it ends, its reader leaves or the daemon stops.
    pub fn stream<F>(
        &self,
        client: &Client,
        work: impl FnOnce(Sender) -> F,
    ) -> Result<Response, Refusal>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = self.place()?;
        let (to, from) = mpsc::channel(BUFFER);
        let (call, stop, work) = (client.begin_call(), self.stop.clone(), work(Sender(to.clone())));
        tokio::spawn(async move {
            let _counted = (permit, call);
            tokio::select! {
                () = work => {}
                // The client is gone. Everything `work` holds is dropped, including an answer.
                () = to.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        let messages = ReceiverStream::new(from).map(Ok::<_, Infallible>);
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Ok(Sse::new(messages).keep_alive(keep_alive).into_response())
    }
}
