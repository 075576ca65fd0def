//! HTTP over raw sockets, for requests that no client would let pass.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Writes bytes, and reads all that comes back until the connection is closed.
pub async fn exchange(gateway: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    // Whoever refuses early does not read to the end.
    let _ = stream.write_all(bytes).await;
    read(stream).await
}

/// The same by a client that has no more to say.
pub async fn exchange_cut_off(gateway: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    read(stream).await
}

async fn read(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of each answer in what came back.
pub fn statuses(answer: &str) -> Vec<&str> {
    let answers = answer.split("HTTP/1.1 ").skip(1);
    answers
        .map(|line| line.get(..3).unwrap_or_default())
        .collect()
}

/// A webhook with these header lines, each ended by CRLF.
pub fn request(headers: &str, body: &str) -> String {
    format!("POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")
}

/// Requests that hide a second one from whoever reads their length otherwise: 400, and never a second answer.
pub fn smuggled() -> Vec<String> {
    let body = "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = body.len();
    let headers = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 5\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked\r\n"),
        format!("Content-Length: +{length}\r\n"),
        "Content-Length: 5, 5, 6\r\n".to_owned(),
        format!("Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
    ];
    headers
        .iter()
        .map(|headers| request(headers, body))
        .collect()
}

/// A request with too many headers, and one with too large a header: 431, or a closed connection.
pub fn swollen() -> [String; 2] {
    let many: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    let large = format!("X: {}\r\n", "y".repeat(1_000_000));
    [request(&many, ""), request(&large, "")]
}

/// A body of so many bytes in chunks that never end.
pub fn endless(bytes: usize) -> String {
    let chunk = "3e8\r\n".to_owned() + &"x".repeat(1_000) + "\r\n";
    request(
        "Transfer-Encoding: chunked\r\n",
        &chunk.repeat(bytes / 1_000),
    )
}

/// So many bytes of gzip, of zeros: whoever unpacks them gets 150 times as many.
pub fn bomb(bytes: usize) -> Vec<u8> {
    const HEADER: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
    // One block of fixed codes: a zero, then 258 times the byte before, again and again.
    let bits = "11000110000".chars().chain("1100010100000".chars().cycle());
    let bits: Vec<bool> = bits.map(|bit| bit == '1').take(8 * bytes).collect();
    let packed = bits.chunks(8).map(|bits| {
        let lowest_first = bits.iter().rev();
        lowest_first.fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    });
    HEADER.iter().copied().chain(packed).take(bytes).collect()
}
