//! A TCP proxy in front of a dependency, which cuts it off or freezes it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes pass.
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay, but no byte passes.
    Frozen,
    /// Bytes pass only from the dependency to the client.
    Deaf,
}

/// A running proxy; it ends with the test's runtime.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    /// A proxy to the server of a URL, and the URL that leads through it.
    pub async fn before(url: &str) -> (Self, String) {
        let target = host_and_port(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::channel(Mode::Open).0);
        let modes = mode.clone();
        tokio::spawn({
            let target = target.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(connect(client, target.clone(), modes.clone()));
                }
            }
        });
        (
            Self { address, mode },
            url.replacen(&target, &address.to_string(), 1),
        )
    }

    /// Closes every connection, and new ones at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Keeps connections without letting a byte pass.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen);
    }

    /// Lets nothing pass from the client.
    pub fn deafen(&self) {
        self.mode.send_replace(Mode::Deaf);
    }

    /// Lets bytes pass again.
    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

fn host_and_port(url: &str) -> String {
    let authority = url
        .split_once("://")
        .unwrap()
        .1
        .split(['/', '?'])
        .next()
        .unwrap();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
        .to_owned()
}

async fn connect(client: TcpStream, target: String, mode: Arc<watch::Sender<Mode>>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = mode.subscribe();
    tokio::select! {
        () = pass(from_client, to_server, mode.subscribe(), &[Mode::Open]) => {}
        () = pass(from_server, to_client, mode.subscribe(), &[Mode::Open, Mode::Deaf]) => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Copies while the mode is one of `passing`.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    passing: &[Mode],
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if mode.wait_for(|mode| passing.contains(mode)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
