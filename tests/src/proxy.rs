//! A TCP proxy in front of a dependency, which cuts it off, freezes it, slows it down or breaks its connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const NARROW_STEPS_PER_S: u32 = 50;

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
    /// Bytes pass only from the client to the dependency.
    Mute,
    /// The client's half of each connection is closed; the dependency may go on talking.
    HalfClosed,
    /// Each piece is late by the first, and up to the second more or less.
    Slow(Duration, Duration),
    /// Pieces of so many bytes pass one by one.
    Sliced(usize),
    /// So many bytes a second pass each way.
    Narrow(usize),
    /// No byte passes on connections from before whose client began with these words.
    Forgotten(&'static str),
}

/// What all connections listen to.
struct Switch {
    mode: watch::Sender<Mode>,
    resets: watch::Sender<u64>,
}

/// A running proxy; it ends with the test's runtime.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    switch: Arc<Switch>,
}

impl Proxy {
    /// A proxy to the server of a URL, and the URL that leads through it.
    pub async fn before(url: &str) -> (Self, String) {
        let target = host_and_port(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let switch = Arc::new(Switch {
            mode: watch::channel(Mode::Open).0,
            resets: watch::channel(0).0,
        });
        let shared = switch.clone();
        tokio::spawn({
            let target = target.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(connect(client, target.clone(), shared.clone()));
                }
            }
        });
        (
            Self { address, switch },
            url.replacen(&target, &address.to_string(), 1),
        )
    }

    /// Closes every connection, and new ones at once.
    pub fn cut(&self) {
        self.switch.mode.send_replace(Mode::Cut);
    }

    /// Resets every connection; new ones pass.
    pub fn reset(&self) {
        self.switch.resets.send_modify(|resets| *resets += 1);
    }

    /// Keeps connections without letting a byte pass.
    pub fn freeze(&self) {
        self.switch.mode.send_replace(Mode::Frozen);
    }

    /// Lets nothing pass from the client.
    pub fn deafen(&self) {
        self.switch.mode.send_replace(Mode::Deaf);
    }

    /// Lets nothing pass from the dependency: what it does is never told.
    pub fn mute(&self) {
        self.switch.mode.send_replace(Mode::Mute);
    }

    /// Tells the dependency that clients have no more to say, and lets nothing pass from them.
    pub fn half_close(&self) {
        self.switch.mode.send_replace(Mode::HalfClosed);
    }

    /// Delays every piece.
    pub fn slow(&self, latency: Duration, jitter: Duration) {
        self.switch.mode.send_replace(Mode::Slow(latency, jitter));
    }

    /// Lets pieces of so many bytes pass one by one.
    pub fn slice(&self, bytes: usize) {
        self.switch.mode.send_replace(Mode::Sliced(bytes));
    }

    /// Lets so many bytes a second pass each way.
    pub fn narrow(&self, bytes_per_s: usize) {
        self.switch.mode.send_replace(Mode::Narrow(bytes_per_s));
    }

    /// Forgets the connections whose client said `words` when it began, as a firewall does that has too many; new ones pass.
    pub fn forget(&self, words: &'static str) {
        self.switch.mode.send_replace(Mode::Forgotten(words));
    }

    /// Lets bytes pass again.
    pub fn open(&self) {
        self.switch.mode.send_replace(Mode::Open);
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

async fn connect(mut client: TcpStream, target: String, switch: Arc<Switch>) {
    let (mut mode, mut resets) = (switch.mode.subscribe(), switch.resets.subscribe());
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let said = Said::default();
    if let Mode::Forgotten(_) = *mode.borrow() {
        said.is_later.store(true, Ordering::Relaxed);
    }
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = pass(from_client, to_server, switch.mode.subscribe(), (true, &said)) => false,
            () = pass(from_server, to_client, switch.mode.subscribe(), (false, &said)) => false,
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => false,
            _ = resets.changed() => true,
        }
    };
    if reset {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// How a client began.
#[derive(Default)]
struct Said {
    words: Mutex<Vec<u8>>,
    /// Whether it came after others were forgotten.
    is_later: AtomicBool,
}

impl Said {
    fn note(&self, bytes: &[u8]) {
        let mut words = self.words.lock().unwrap();
        if words.len() < 4 * 1024 {
            words.extend_from_slice(bytes);
        }
    }

    fn is_forgotten(&self, name: &str) -> bool {
        let words = self.words.lock().unwrap();
        let mut places = words.windows(name.len());
        !self.is_later.load(Ordering::Relaxed) && places.any(|place| place == name.as_bytes())
    }
}

/// Copies as the mode says, until one side ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    (of_client, said): (bool, &Said),
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.ok(),
            () = until_half_closed(&mut mode, of_client) => None,
        };
        let Some(length @ 1..) = read else {
            if *mode.borrow() == Mode::HalfClosed {
                let _ = to.shutdown().await;
                return std::future::pending().await;
            }
            return;
        };
        if of_client {
            said.note(&buffer[..length]);
        }
        let held = |mode: &Mode| match mode {
            Mode::Forgotten(name) => said.is_forgotten(name),
            // What was held back when the connection is cut must not slip out.
            Mode::Frozen | Mode::Cut => true,
            Mode::Deaf | Mode::HalfClosed => of_client,
            Mode::Mute => !of_client,
            _ => false,
        };
        let now = match mode.wait_for(|mode| !held(mode)).await {
            Ok(now) => *now,
            Err(_) => return,
        };
        if write(&mut to, &buffer[..length], now).await.is_err() {
            return;
        }
    }
}

async fn until_half_closed(mode: &mut watch::Receiver<Mode>, of_client: bool) {
    let _ = mode
        .wait_for(|mode| of_client && *mode == Mode::HalfClosed)
        .await;
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    mode: Mode,
) -> std::io::Result<()> {
    match mode {
        Mode::Slow(latency, jitter) => {
            let span = jitter.mul_f64(rand::random_range(0.0..2.0));
            tokio::time::sleep((latency + span).saturating_sub(jitter)).await;
            to.write_all(bytes).await
        }
        Mode::Sliced(size) => {
            for slice in bytes.chunks(size.max(1)) {
                to.write_all(slice).await?;
                to.flush().await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        }
        Mode::Narrow(bytes_per_s) => {
            for slice in bytes.chunks((bytes_per_s / NARROW_STEPS_PER_S as usize).max(1)) {
                to.write_all(slice).await?;
                tokio::time::sleep(Duration::from_secs(1) / NARROW_STEPS_PER_S).await;
            }
            Ok(())
        }
        _ => to.write_all(bytes).await,
    }
}
