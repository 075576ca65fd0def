//! Headless Chromium behind its driver, with the verbs of somebody who sits in front of it.

use std::path::Path;
use std::process::Stdio;

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use harness::console::Console;
use harness::eventually;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::Screen;

/// Finds what keeps people from using a page: github.com/dequelabs/axe-core.
const AXE: &str = include_str!("axe.min.js");

/// A browser; dropping it ends it.
pub struct Browser {
    client: Client,
    driver: Child,
    origin: OnceCell<String>,
}

impl Browser {
    /// Starts one with a screen of that size.
    pub async fn start(screen: Screen) -> Self {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: run ./deploy/test --browser");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--window-size=1400,1000",
        ];
        let mut options = json!({ "args": arguments });
        if matches!(screen, Screen::Phone) {
            // A window cannot be as narrow.
            options["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 1.0 } });
        }
        let mut capabilities = Map::new();
        capabilities.insert("goog:chromeOptions".into(), options);
        let client = eventually("the browser starts", async || {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities.clone());
            builder
                .connect(&format!("http://127.0.0.1:{port}"))
                .await
                .ok()
        })
        .await;
        Self {
            client,
            driver,
            origin: OnceCell::new(),
        }
    }

    /// Ends it in an orderly way.
    pub async fn stop(self) {
        self.client.clone().close().await.unwrap();
    }

    /// Signs in to a console, and opens its first page.
    pub async fn sign_in(&self, console: &Console, name: &str, password: &str) {
        let address = console.address;
        let with_password = format!("http://{name}:{password}@{address}/");
        self.client.goto(&with_password).await.unwrap();
        self.origin.set(format!("http://{address}")).unwrap();
        self.open("/").await;
        self.until(".user", name).await;
    }

    /// Opens a page.
    pub async fn open(&self, path: &str) {
        let url = format!("{}{path}", self.origin.get().unwrap());
        self.client.goto(&url).await.unwrap();
    }

    /// Clicks on the first that fits, once it is there.
    pub async fn click(&self, css: &str) {
        eventually(&format!("{css} is clicked"), async || {
            let found = self.client.find(Locator::Css(css)).await.ok()?;
            found.click().await.ok()
        })
        .await;
    }

    /// Writes into a field, in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        eventually(&format!("{css} is filled"), async || {
            let field = self.client.find(Locator::Css(css)).await.ok()?;
            field.clear().await.ok()?;
            let text = text.replace('\n', &Key::Enter.to_string());
            field.send_keys(&text).await.ok()
        })
        .await;
    }

    /// Presses a key on the page.
    pub async fn press(&self, key: &str) {
        let body = self.client.find(Locator::Css("body")).await.unwrap();
        body.send_keys(key).await.unwrap();
    }

    /// The text of the first that fits.
    pub async fn text(&self, css: &str) -> String {
        let found = self.client.find(Locator::Css(css)).await.unwrap();
        found.text().await.unwrap()
    }

    /// Waits until the first that fits shows a text.
    pub async fn until(&self, css: &str, text: &str) {
        let mut last = String::new();
        eventually(&format!("{css} shows `{text}`"), async || {
            let found = self.client.find(Locator::Css(css)).await.ok()?;
            last = found.text().await.ok()?;
            last.contains(text).then_some(())
        })
        .await;
    }

    /// How many fit.
    pub async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.unwrap().len()
    }

    /// The page's title.
    pub async fn title(&self) -> String {
        self.client.title().await.unwrap()
    }

    /// What axe finds serious or critical, in a line each.
    pub async fn serious_findings(&self) -> Vec<String> {
        self.client.execute(AXE, vec![]).await.unwrap();
        let run = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations))";
        let found = self.client.execute_async(run, vec![]).await.unwrap();
        let violations = found.as_array().cloned().unwrap_or_default();
        let serious = |violation: &&Value| {
            ["serious", "critical"].contains(&violation["impact"].as_str().unwrap_or_default())
        };
        violations
            .iter()
            .filter(serious)
            .map(|violation| format!("{}: {}", violation["id"], violation["nodes"][0]["html"]))
            .collect()
    }

    /// Has the page believe that its tab is hidden.
    pub async fn hide_tab(&self) {
        let script = "Object.defineProperty(document, 'hidden', { value: true });
            document.dispatchEvent(new Event('visibilitychange'))";
        self.client.execute(script, vec![]).await.unwrap();
    }

    /// How many requests the page's scripts send within three seconds.
    pub async fn requests(&self) -> i64 {
        let script = "const done = arguments[arguments.length - 1];
            const sent = () => performance.getEntriesByType('resource').length;
            const before = sent();
            setTimeout(() => done(sent() - before), 3000)";
        let sent = self.client.execute_async(script, vec![]).await.unwrap();
        sent.as_i64().unwrap()
    }

    /// Whether the page is wider than its screen.
    pub async fn is_wider_than_its_screen(&self) -> bool {
        let script =
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        let wider = self.client.execute(script, vec![]).await.unwrap();
        wider.as_bool().unwrap_or(true)
    }

    /// Keeps a picture of the page for people to look at.
    pub async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}

impl Drop for Browser {
    /// The driver ends its browser with it, unless it is killed.
    fn drop(&mut self) {
        if let Some(pid) = self.driver.id() {
            let pid = pid.to_string();
            let _ = std::process::Command::new("kill").arg(pid).status();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
