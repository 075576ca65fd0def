//! A mail server that keeps what it is sent, and refuses on demand. Just enough of RFC 5321.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A running mail server; it ends with the test's runtime.
pub struct MailServer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mails: Mutex<Vec<String>>,
    refusals: AtomicUsize,
    drops: AtomicUsize,
    stalls: AtomicUsize,
    pause_ms: AtomicU64,
}

impl MailServer {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { serve(stream, &state).await });
            }
        });
        Self { address, state }
    }

    /// For `SMTP_URL`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Refuses the next mails for a passing reason.
    pub fn refuse(&self, mails: usize) {
        self.state.refusals.store(mails, Ordering::SeqCst);
    }

    /// Takes the next mails, and ends the connection without an answer.
    pub fn drop_after_taking(&self, mails: usize) {
        self.state.drops.store(mails, Ordering::SeqCst);
    }

    /// Waits before it answers a mail, from now on.
    pub fn pause(&self, pause: Duration) {
        let pause_ms = pause.as_millis().try_into().unwrap();
        self.state.pause_ms.store(pause_ms, Ordering::SeqCst);
    }

    /// Leaves the next mails without any answer, over a connection that stays open.
    pub fn stall(&self, mails: usize) {
        self.state.stalls.store(mails, Ordering::SeqCst);
    }

    /// Every mail taken, headers and all.
    pub fn mails(&self) -> Vec<String> {
        self.state.mails.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, state: &State) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await.ok()?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 test\r\n",
            "DATA" if counted_down(&state.refusals) => "451 try again later\r\n",
            "DATA" if counted_down(&state.stalls) => std::future::pending().await,
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mail = read_mail(&mut stream).await?;
                state.mails.lock().unwrap().push(mail);
                if counted_down(&state.drops) {
                    return None;
                }
                let pause_ms = state.pause_ms.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                "250 taken\r\n"
            }
            "QUIT" => return None,
            _ => "250 ok\r\n",
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Whether there was one left, which is now taken.
fn counted_down(left: &AtomicUsize) -> bool {
    let order = Ordering::SeqCst;
    left.fetch_update(order, order, |n| n.checked_sub(1))
        .is_ok()
}

async fn read_mail(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut mail = String::new();
    loop {
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        if line == ".\r\n" {
            return Some(mail);
        }
        mail.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
