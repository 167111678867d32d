//! Adapts the listener's connections to tonic and counts the open calls of each.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::server::Connected;
use tower_layer::Layer;

use crate::publish::Listener;
use crate::publish::connection::{Call, Calls, Connection};

/// Length in bytes of the HTTP/2 connection preface (RFC 9113, 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

type Accepting = Pin<Box<dyn Future<Output = Connection> + Send>>;

/// An endless stream of accepted connections.
pub struct Incoming {
    listener: Listener,
    next: Accepting,
}

impl Incoming {
    pub fn new(listener: Listener) -> Incoming {
        Incoming { next: accepting(&listener), listener }
    }
}

fn accepting(listener: &Listener) -> Accepting {
    let listener = listener.clone();
    Box::pin(async move { listener.accept(PREFACE).await })
}

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = self.get_mut();
        let accepted = me.next.as_mut().poll(cx);
        if accepted.is_ready() {
            me.next = accepting(&me.listener);
        }
        accepted.map(|connection| Some(Ok(connection)))
    }
}

/// The client of a connection.
#[derive(Clone)]
pub struct Peer {
    calls: Calls,
    /// `None` if the connection is broken.
    pub address: Option<IpAddr>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { calls: self.calls().clone(), address: self.peer_address() }
    }
}

/// A layer that counts a call on its connection from the request to the end of the reply.
#[derive(Clone)]
pub struct CountCalls;

impl<S> Layer<S> for CountCalls {
    type Service = Counting<S>;

    fn layer(&self, service: S) -> Counting<S> {
        Counting(service)
    }
}

#[derive(Clone)]
pub struct Counting<S>(S);

impl<S> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = request.extensions().get::<Peer>().map(|peer| peer.calls.begin());
        let reply = self.0.call(request);
        Box::pin(async move {
            let reply = reply.await?;
            Ok(reply.map(|body| Body::new(Counted { body, _call: call })))
        })
    }
}

/// A reply's body. Its call is open while this value lives.
struct Counted {
    body: Body,
    _call: Option<Call>,
}

impl tonic::codegen::Body for Counted {
    type Data = <Body as tonic::codegen::Body>::Data;
    type Error = <Body as tonic::codegen::Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        tonic::codegen::Body::is_end_stream(&self.body)
    }
}
