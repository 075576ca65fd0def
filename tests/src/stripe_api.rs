//! Stripe's lists of events and charges as its documentation describes them, over HTTP: keys and modes, filters, pages,
//! errors, limits, thirty days; and trouble on demand.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A secret key of test mode that reads everything.
pub const TEST_KEY: &str = "sk_test_fakestripe";
/// A restricted key of test mode that may read events.
pub const RESTRICTED_KEY: &str = "rk_test_fakestripe";
/// A restricted key of test mode that may not.
pub const POWERLESS_KEY: &str = "rk_test_powerless";
/// A secret key of live mode.
pub const LIVE_KEY: &str = "sk_live_fakestripe";

const DAY: i64 = 86_400;
/// What every list takes.
const PARAMETERS: [&str; 7] = [
    "limit",
    "starting_after",
    "ending_before",
    "created",
    "created[gte]",
    "created[lte]",
    "created[lt]",
];
/// What the list of events takes beside it.
const OF_EVENTS: [&str; 3] = ["delivery_success", "type", "types[]"];

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// This status, with these further headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The answer comes after this time.
    Slow(Duration),
    /// A 200 that is a web page.
    WebPage,
    /// A 200 whose list ends in the middle.
    Half,
    /// The connection is cut without an answer.
    Cut,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// Its query, decoded.
    pub query: HashMap<String, String>,
    /// Who asked.
    pub authorization: String,
}

struct Held {
    created: i64,
    delivered: bool,
    text: String,
    body: Value,
}

#[derive(Default)]
struct State {
    /// In the order in which they were made.
    events: Vec<Held>,
    charges: Vec<Held>,
    troubles: VecDeque<Trouble>,
    asked: Vec<Asked>,
    /// Requests that are answered in a second.
    rate: Option<usize>,
    /// Whether answers show events of the other mode, which Stripe never does.
    mixes_modes: bool,
}

/// A running Stripe; it ends with the test's runtime.
#[derive(Clone)]
pub struct StripeApi {
    /// Its base URL.
    pub url: String,
    /// A webhook that is posted here is one that no endpoint took: its event is in the list from then on.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl StripeApi {
    /// Starts without events.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = Self {
            url: format!("http://{address}"),
            address,
            state: Arc::default(),
        };
        let served = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = served.clone();
                let answer = service_fn(move |request| api.clone().answer(request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
        api
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An event, as it will be listed, that no endpoint has taken yet.
    pub fn happened(&self, text: &str) {
        self.hold(text, 0);
    }

    /// Holds an event, once, as if it were so many seconds older than it says.
    fn hold(&self, text: &str, older_s: i64) {
        let body: Value = serde_json::from_str(text).unwrap();
        let mut state = self.state();
        let is_held = |event: &Held| event.body["id"] == body["id"];
        if !state.events.iter().any(is_held) {
            state.events.push(Held {
                created: body["created"].as_i64().unwrap() - older_s,
                delivered: false,
                text: text.to_owned(),
                body,
            });
        }
    }

    /// A charge of test mode, made at this time, with the money in it.
    pub fn charged(&self, at: Timestamp, charge: &Value) {
        let (created, mut body) = (at.as_second(), charge.clone());
        body["object"] = json!("charge");
        body["created"] = json!(created);
        body["livemode"] = json!(false);
        self.state().charges.push(Held {
            created,
            delivered: true,
            text: body.to_string(),
            body,
        });
    }

    /// An endpoint has taken this event.
    pub fn delivered(&self, id: &str) {
        let mut state = self.state();
        let event = state.events.iter_mut().find(|event| event.body["id"] == id);
        event.unwrap().delivered = true;
    }

    /// The ids of all events that it lists or listed.
    pub fn ids(&self) -> Vec<String> {
        let state = self.state();
        let id = |event: &Held| event.body["id"].as_str().unwrap_or_default().to_owned();
        state.events.iter().map(id).collect()
    }

    /// The next requests go wrong like this, one each.
    pub fn trouble(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.state().troubles.extend(troubles);
    }

    /// Nothing goes wrong any more.
    pub fn recover(&self) {
        self.state().troubles.clear();
    }

    /// Answers so many requests in a second, and the others with 429.
    pub fn limit_rate(&self, per_second: usize) {
        self.state().rate = Some(per_second);
    }

    /// Shows events of the other mode too.
    pub fn mix_modes(&self) {
        self.state().mixes_modes = true;
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        if request.method() == Method::POST {
            let body = request.into_body().collect().await;
            let body = body.map_err(std::io::Error::other)?.to_bytes();
            // As if Stripe had tried for an hour to deliver it.
            self.hold(std::str::from_utf8(&body).unwrap(), 3_600);
            return Ok(Response::default());
        }
        let query = request.uri().query().unwrap_or_default();
        let pairs: Vec<(String, String)> = form_pairs(query);
        let authorization = request.headers().get("authorization");
        let authorization = authorization.map_or("", |value| value.to_str().unwrap());
        let trouble = {
            let mut state = self.state();
            state.asked.push(Asked {
                at: Instant::now(),
                query: pairs.iter().cloned().collect(),
                authorization: authorization.to_owned(),
            });
            state.troubles.pop_front()
        };
        let usual = || {
            let path = request.uri().path();
            self.state().list(path, authorization, &pairs)
        };
        let (status, headers, body) = match trouble {
            None => usual(),
            Some(Trouble::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                usual()
            }
            Some(Trouble::Status(status, headers)) => {
                let error = problem(status, "api_error", None, "An unknown error occurred");
                (status, headers, error.2)
            }
            Some(Trouble::WebPage) => (200, Vec::new(), "<html>Hello</html>".to_owned()),
            Some(Trouble::Half) => {
                let (status, headers, body) = usual();
                (status, headers, body[..body.len() / 2].to_owned())
            }
            Some(Trouble::Cut) => return Err(std::io::Error::other("cut")),
        };
        let mut answer = Response::builder()
            .status(StatusCode::from_u16(status).unwrap())
            .header("content-type", "application/json")
            .header("request-id", format!("req_{:08x}", rand::random::<u32>()));
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
    }
}

/// Status, further headers, body.
type Told = (u16, Vec<(&'static str, &'static str)>, String);

fn problem(status: u16, kind: &str, param: Option<&str>, message: &str) -> Told {
    let mut error = json!({ "type": kind, "message": message });
    if let Some(param) = param {
        error["param"] = json!(param);
    }
    let body = json!({ "error": error });
    (status, Vec::new(), format!("{body:#}"))
}

fn invalid(param: &str, message: &str) -> Told {
    problem(400, "invalid_request_error", Some(param), message)
}

fn form_pairs(query: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://h/?{query}")).unwrap();
    url.query_pairs().into_owned().collect()
}

/// The key of `Bearer key` or of `Basic base64(key:)`.
fn key_of(authorization: &str) -> String {
    match authorization.split_once(' ') {
        Some(("Bearer", key)) => key.to_owned(),
        Some(("Basic", encoded)) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
            let text = String::from_utf8(decoded.unwrap()).unwrap();
            text.split(':').next().unwrap().to_owned()
        }
        _ => String::new(),
    }
}

impl State {
    fn list(&self, path: &str, authorization: &str, pairs: &[(String, String)]) -> Told {
        const KIND: &str = "invalid_request_error";
        let is_of_events = match path {
            "/v1/events" => true,
            "/v1/charges" => false,
            _ => {
                let text = format!("Unrecognized request URL (GET: {path}).");
                return problem(404, KIND, None, &text);
            }
        };
        let livemode = match key_of(authorization).as_str() {
            "" => return problem(401, KIND, None, "You did not provide an API key."),
            TEST_KEY => false,
            RESTRICTED_KEY if is_of_events => false,
            LIVE_KEY => true,
            POWERLESS_KEY | RESTRICTED_KEY => {
                let text = "The provided key 'rk_test_***' does not have the required permissions for this endpoint.";
                return problem(403, KIND, None, text);
            }
            _ => return problem(401, KIND, None, "Invalid API Key provided: sk_test_****wn"),
        };
        let second = Instant::now() - Duration::from_secs(1);
        let recent = self.asked.iter().filter(|asked| asked.at > second).count();
        if self.rate.is_some_and(|rate| recent > rate) {
            let mut told = problem(429, KIND, None, "Request rate limit exceeded.");
            told.1 = vec![
                ("retry-after", "1"),
                ("stripe-rate-limited-reason", "endpoint-rate"),
            ];
            return told;
        }
        let page = self.page(is_of_events, livemode, pairs);
        page.unwrap_or_else(|told| told)
    }

    fn page(
        &self,
        is_of_events: bool,
        livemode: bool,
        pairs: &[(String, String)],
    ) -> Result<Told, Told> {
        check(is_of_events, pairs)?;
        let (all, name) = match is_of_events {
            true => (&self.events, "event"),
            false => (&self.charges, "charge"),
        };
        let get = |name: &str| {
            let found = pairs.iter().find(|(given, _)| given == name);
            found.map(|(_, value)| value.as_str())
        };
        let limit: usize = get("limit").map_or(10, |raw| raw.parse().unwrap());
        let mut found: Vec<&Held> = all
            .iter()
            .filter(|event| self.mixes_modes || event.body["livemode"] == livemode)
            .filter(|event| !is_of_events || event.is_listed())
            .filter(|event| event.matches(pairs))
            .collect();
        // Newest first; of one second, the last one made.
        found.reverse();
        found.sort_by_key(|event| std::cmp::Reverse(event.created));
        let place = |param: &str, id: &str| {
            let text = format!("No such {name}: '{id}'");
            let place = found.iter().position(|event| event.body["id"] == id);
            place.ok_or_else(|| invalid(param, &text))
        };
        let (page, has_more) = match (get("starting_after"), get("ending_before")) {
            (Some(id), _) => first(&found[place("starting_after", id)? + 1..], limit),
            (_, Some(id)) => {
                let newer = &found[..place("ending_before", id)?];
                let from = newer.len().saturating_sub(limit);
                (&newer[from..], from > 0)
            }
            _ => first(&found, limit),
        };
        let texts: Vec<&str> = page.iter().map(|event| event.text.as_str()).collect();
        let body = format!(
            "{{\n  \"object\": \"list\",\n  \"data\": [\n{}\n  ],\n  \"has_more\": {has_more},\n  \"url\": \"/v1/{name}s\"\n}}",
            texts.join(",\n")
        );
        Ok((200, Vec::new(), body))
    }
}

fn first<'a, 'b>(found: &'a [&'b Held], limit: usize) -> (&'a [&'b Held], bool) {
    (&found[..limit.min(found.len())], found.len() > limit)
}

/// What Stripe refuses with 400.
fn check(is_of_events: bool, pairs: &[(String, String)]) -> Result<(), Told> {
    for (name, value) in pairs {
        let is_of_them = is_of_events && OF_EVENTS.contains(&name.as_str());
        if !is_of_them && !PARAMETERS.contains(&name.as_str()) {
            let text = format!("Received unknown parameter: {name}");
            return Err(invalid(name, &text));
        }
        let number = value.parse::<i64>();
        let text = format!("Invalid value: {value}");
        let proper = match name.as_str() {
            "limit" => number.is_ok_and(|limit| (1..=100).contains(&limit)),
            name if name.starts_with("created") => number.is_ok(),
            "delivery_success" => ["true", "false"].contains(&value.as_str()),
            _ => true,
        };
        if !proper {
            return Err(invalid(name, &text));
        }
    }
    let given = |name: &str| pairs.iter().filter(|(given, _)| given == name).count();
    if given("starting_after") + given("ending_before") > 1 {
        let text = "You may only specify one of these parameters: ending_before, starting_after.";
        return Err(invalid("ending_before", text));
    }
    if given("types[]") > 20 || (given("type") > 0 && given("types[]") > 0) {
        return Err(invalid("types", "At most 20 types, and not with type."));
    }
    Ok(())
}

impl Held {
    /// Events are listed for thirty days.
    fn is_listed(&self) -> bool {
        self.created > Timestamp::now().as_second() - 30 * DAY
    }

    fn matches(&self, pairs: &[(String, String)]) -> bool {
        let types: Vec<&str> = pairs
            .iter()
            .filter(|(name, _)| name == "type" || name == "types[]")
            .map(|(_, value)| value.as_str())
            .collect();
        let of_type =
            types.is_empty() || types.contains(&self.body["type"].as_str().unwrap_or_default());
        let within = |(name, value): &(String, String)| {
            let bound = value.parse::<i64>().unwrap_or_default();
            match name.as_str() {
                "created" => self.created == bound,
                "created[gte]" => self.created >= bound,
                "created[lte]" => self.created <= bound,
                "created[lt]" => self.created < bound,
                // Pending counts as undelivered.
                "delivery_success" => self.delivered == (value == "true"),
                _ => true,
            }
        };
        of_type && pairs.iter().all(within)
    }
}
