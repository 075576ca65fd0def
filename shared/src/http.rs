//! An HTTP/1.1 listener on bare hyper: bounded connections, a time-out for headers, and a drain.

mod places;

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use places::Places;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

/// The bounds of a listener.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Connections at a time. One more takes the place of one that asks for nothing.
    pub max_connections: usize,
    /// How long the headers of a request may take, and how long a connection may idle between requests.
    pub header_timeout: Duration,
    /// How long requests in flight may take to end once the listener stops.
    pub drain: Duration,
}

/// How long a client may leave an answer unread.
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest header section, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Connections that the kernel completes while the listener is busy with others: a burst must not have to knock again.
const BACKLOG: u32 = 4_096;

/// Listens on an address.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`, then drains.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    limits: Limits,
    shutdown: CancellationToken,
    handle: H,
) where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let places = Places::new(limits.max_connections);
    loop {
        let accepted = async {
            let (stream, peer) = next_connection(&listener).await;
            (stream, peer, places.take().await)
        };
        let (stream, peer, place) = tokio::select! {
            next = accepted => next,
            () = shutdown.cancelled() => break,
        };
        let (handle, requests) = (handle.clone(), place.requests());
        let service = service_fn(move |request| {
            let (answer, request_under_way) = (handle(peer, request), requests.begin());
            async move {
                let answer = answer.await;
                request_under_way.end();
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = protocol(limits).serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    debug!(%error, "connection ended");
                },
                () = place.given_up() => debug!("an idle connection made room"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_err()
    {
        warn!("requests were still in flight when the drain ended");
    }
}

fn protocol(limits: Limits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol.max_buf_size(MAX_HEADER_BYTES);
    // An answer is short: copying it costs less than a system call for several pieces.
    protocol.writev(false);
    // Without a timer hyper waits for headers for ever.
    if !crate::sabotaged!("header_timer") {
        let timer = protocol.timer(TokioTimer::new());
        timer.header_read_timeout(limits.header_timeout);
    }
    protocol
}

async fn next_connection(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = prepare(&stream) {
                    debug!(%error, "connection not prepared");
                }
                return (stream, peer);
            }
            // Out of file descriptors, or the peer left: a short pause keeps the loop from spinning.
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    // An answer is one small segment: waiting to fill it would only add latency.
    stream.set_nodelay(true)?;
    // Else a client that sends requests and never reads their answers would hold its slot for good.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT))?;
    Ok(())
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, body, HeaderValue::from_static("application/json"))
}

/// An answer with a body of a type.
pub fn with_type(status: StatusCode, body: impl Into<Bytes>, content_type: HeaderValue) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
