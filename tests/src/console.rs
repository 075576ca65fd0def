//! The real console as a process, and a visitor that sends what a browser sends.

use std::net::SocketAddr;
use std::path::Path;

use reqwest::header::{HeaderMap, HeaderValue, ORIGIN};
use tokio::process::Child;

use crate::binaries::{free_address, program};
use crate::{TestBed, eventually, stripe};

/// A console; dropping it kills it.
pub struct Console {
    /// Where its pages are.
    pub address: SocketAddr,
    _child: Child,
}

/// What the console answered.
#[derive(Debug)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Page {
    /// Fails unless the text is there.
    pub fn shows(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "no `{text}` in {}", self.text);
        self
    }

    /// Fails if the text is there.
    pub fn hides(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "`{text}` in {}", self.text);
        self
    }

    /// Fails unless it has this status.
    pub fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Where a link with this text before it leads.
    pub fn link(&self, before: &str) -> String {
        let rest = self.text.split(before).nth(1).expect(before);
        let rest = rest.split("href=\"").nth(1).expect("a link");
        let link = rest.split('"').next().unwrap_or_default();
        link.replace("&amp;", "&").replace("&#38;", "&")
    }
}

impl Console {
    /// Starts under the operators' role. `variables` come after the usual ones and win.
    pub async fn start(bed: &TestBed, variables: &[(&str, &str)]) -> Self {
        let address = free_address();
        let mut command = program("ops").await;
        command
            .arg("console")
            .env("DATABASE_URL", bed.ops_url())
            .env("CONSOLE_LISTEN", address.to_string())
            .env("CONSOLE_GATEWAY_ADMIN", "http://127.0.0.1:1")
            .env("CONSOLE_WORKER_ADMIN", "http://127.0.0.1:1")
            .env("USER", "tester")
            .stdout(std::process::Stdio::null());
        for (name, value) in variables {
            command.env(name, value);
        }
        let child = command.spawn().unwrap();
        eventually("the console answers", async || {
            let url = format!("http://{address}/assets/");
            stripe::client().get(url).send().await.ok().map(|_| ())
        })
        .await;
        Self {
            address,
            _child: child,
        }
    }

    /// Looks at a page.
    pub async fn get(&self, path: &str) -> Page {
        self.get_with(path, &[]).await
    }

    /// Looks at a page with further headers.
    pub async fn get_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Page {
        let request = client().get(format!("http://{}{path}", self.address));
        send(request.headers(map(headers))).await
    }

    /// Sends a form as a page of this console does.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        self.post_with(path, form, &[("sec-fetch-site", "same-origin")])
            .await
    }

    /// Sends a form with these headers, and no others that tell where it comes from.
    pub async fn post_with(
        &self,
        path: &str,
        form: &[(&str, &str)],
        headers: &[(&'static str, &str)],
    ) -> Page {
        let body: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let request = client()
            .post(format!("http://{}{path}", self.address))
            .header("content-type", "application/x-www-form-urlencoded")
            .headers(map(headers))
            .body(body.join("&"));
        send(request).await
    }

    /// The `Origin` of its pages.
    pub fn origin(&self) -> (&'static str, String) {
        (ORIGIN.as_str(), format!("http://{}", self.address))
    }
}

/// Writes a file of users `name:role:password`, with the hashes that the real command makes.
pub async fn users_file(path: &Path, users: &[(&str, &str, &str)]) {
    use tokio::io::AsyncWriteExt;
    let mut lines = String::new();
    for (name, role, password) in users {
        let mut command = program("ops").await;
        command
            .args(["console", "hash-password"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(password.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success());
        let hash = String::from_utf8(output.stdout).unwrap();
        lines.push_str(&format!("{name}:{role}:{}\n", hash.trim()));
    }
    std::fs::write(path, lines).unwrap();
}

fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| {
            let name = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

/// Percent-encoded.
pub fn encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

async fn send(request: reqwest::RequestBuilder) -> Page {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    Page {
        status,
        headers,
        text,
    }
}
