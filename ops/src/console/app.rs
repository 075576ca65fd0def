//! One request: which host it is for, who sends it, where a change comes from, and which page answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SET_COOKIE, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Request, StatusCode};
use shared::database::StoreError;
use tracing::{info, warn};

use super::auth::{Authenticator, Identity, Refused};
use super::config::Config;
use super::guard::{Hosts, is_same_origin};
use super::live::Live;
use super::probes::Prober;
use super::reply::{self, Reply, secure};
use super::shown::Setting;
use super::sign_ins::SignIns;
use super::visit::{Fields, THEME_COOKIE, Visit, own_path, theme};
use super::{assets, pages};
use crate::OpsError;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest form.
const MAX_FORM: usize = 64 * 1024;

/// What all requests share.
pub struct App {
    authenticator: Authenticator,
    sign_ins: SignIns,
    hosts: Hosts,
    read_only: bool,
    pool: Pool,
    /// How things stand.
    pub live: Live,
    /// Asks services.
    pub prober: Prober,
    /// Admin addresses of gateways.
    pub gateways: Vec<String>,
    /// Admin addresses of workers.
    pub workers: Vec<String>,
    /// What it runs with, as pages may show it.
    pub settings: Vec<Setting>,
}

impl App {
    /// What answers requests.
    pub fn new(config: Config, pool: Pool, live: Live) -> Arc<Self> {
        let on_loopback = config.listen.ip().is_loopback();
        Arc::new(Self {
            settings: config.shown(),
            authenticator: Authenticator::new(config.entry, crate::commands::login()),
            sign_ins: SignIns::default(),
            hosts: Hosts::new(on_loopback, config.hosts),
            read_only: config.read_only,
            pool,
            live,
            prober: Prober::new(),
            gateways: config.gateways,
            workers: config.workers,
        })
    }

    /// A connection to the database.
    pub async fn client(&self) -> Result<Object, OpsError> {
        Ok(self.pool.get().await.map_err(StoreError::from)?)
    }

    /// Answers a request.
    pub async fn handle(self: Arc<Self>, peer: SocketAddr, request: Request<Incoming>) -> Reply {
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(peer, request)).await;
        secure(
            answered.unwrap_or_else(|_| {
                reply::text(StatusCode::SERVICE_UNAVAILABLE, "this took too long")
            }),
        )
    }

    async fn answer(&self, peer: SocketAddr, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        if !self.hosts.allow(&head.headers) {
            let text = "this name is not one of the console's: add it to CONSOLE_HOSTS";
            return reply::text(StatusCode::MISDIRECTED_REQUEST, text);
        }
        if let Some(asset) = assets::find(head.uri.path()) {
            return asset;
        }
        let who = match self.enter(peer, &head.headers).await {
            Ok(who) => who,
            Err(refused) => return refuse(peer, &refused),
        };
        let mut visit = Visit::new(who, self.read_only, &head);
        match head.method {
            Method::GET | Method::HEAD => self.look(&visit).await,
            Method::POST if !is_same_origin(&head.headers) => {
                warn!(%peer, path = visit.path, "a change from elsewhere was refused");
                let text = "a change must come from a page of this console";
                reply::text(StatusCode::FORBIDDEN, text)
            }
            Method::POST => match Limited::new(body, MAX_FORM).collect().await {
                Ok(body) => {
                    visit.form = Fields::parse(&body.to_bytes());
                    self.change(&visit).await
                }
                Err(_) => reply::text(StatusCode::PAYLOAD_TOO_LARGE, "this form is too large"),
            },
            _ => reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"),
        }
    }

    /// Who that is, with a note of those who come in and of wrong passwords.
    async fn enter(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<Identity, Refused> {
        let (client, pool) = (peer.ip(), &self.pool);
        let entered = self.authenticator.identify(client, headers).await;
        match &entered {
            Ok(who) if self.authenticator.asks() => {
                self.sign_ins.note_request(pool, &who.name, client).await;
            }
            Err(Refused::Wrong(name)) => {
                self.sign_ins
                    .note_wrong(pool, name.as_deref(), client)
                    .await;
            }
            _ => {}
        }
        entered
    }

    async fn look(&self, visit: &Visit) -> Reply {
        let segments: Vec<&str> = visit.path.trim_matches('/').split('/').collect();
        let shown = match segments.as_slice() {
            [""] => pages::overview::show(self, visit),
            ["overview", "stream"] => Ok(self.live.stream()),
            ["overview", "charts.json"] => Ok(pages::overview::charts(self)),
            ["events"] => pages::events::show(self, visit).await,
            ["events", id] => pages::event::show(self, visit, id).await,
            ["dead-letters"] => pages::groups::show(self, visit).await,
            ["dead-letters", fingerprint] => pages::group::show(self, visit, fingerprint).await,
            ["replays"] => pages::replays::show(self, visit).await,
            ["replays", "new"] => pages::plan::show(self, visit).await,
            ["replays", id] => pages::replay::show(self, visit, id).await,
            ["reconcile"] => pages::reconcile::show(self, visit).await,
            ["rejections"] => pages::rejections::show(self, visit).await,
            ["audit"] => pages::audit::show(self, visit).await,
            ["settings"] => pages::settings::show(self, visit).await,
            _ => Err(OpsError::NotFound("there is no such page".to_owned())),
        };
        shown.unwrap_or_else(|error| pages::problem::show(visit, &error))
    }

    async fn change(&self, visit: &Visit) -> Reply {
        let segments: Vec<&str> = visit.path.trim_matches('/').split('/').collect();
        let changed = match segments.as_slice() {
            ["theme"] => Ok(keep_theme(visit)),
            ["events", id, "retry"] => pages::event::retry(self, visit, id).await,
            ["events", id, "reveal"] => pages::event::reveal(self, visit, id).await,
            ["events", id, "discard"] => pages::event::discard(self, visit, id).await,
            ["dead-letters", fingerprint] => pages::group::change(self, visit, fingerprint).await,
            ["dead-letters", fingerprint, "discard"] => {
                pages::group::discard(self, visit, fingerprint).await
            }
            ["replays"] => pages::plan::start(self, visit).await,
            ["replays", id, step] => pages::replay::take(self, visit, id, step).await,
            _ => Err(OpsError::NotFound("there is no such page".to_owned())),
        };
        match changed {
            Ok(reply) => {
                let (name, path) = (&visit.who.name, &visit.path);
                info!(actor = name, path, "change");
                reply
            }
            Err(error) => pages::problem::show(visit, &error),
        }
    }
}

fn refuse(peer: SocketAddr, refused: &Refused) -> Reply {
    warn!(%peer, ?refused, "sign-in refused");
    match refused {
        Refused::SignIn | Refused::Wrong(_) => {
            let mut answer = reply::text(StatusCode::UNAUTHORIZED, "sign in");
            let basic = HeaderValue::from_static("Basic realm=\"Tollgate\", charset=\"UTF-8\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, basic);
            answer
        }
        Refused::TooMany(wait) => {
            let text = "too many sign-ins were tried: wait a little";
            reply::retry_after(reply::text(StatusCode::TOO_MANY_REQUESTS, text), *wait)
        }
        Refused::NotThroughProxy => {
            let text = "this console is reached through its proxy only";
            reply::text(StatusCode::FORBIDDEN, text)
        }
        Refused::ThroughUnknownProxy => {
            let text =
                "a proxy brought this request: set CONSOLE_USERS_FILE or CONSOLE_PROXY_HEADER";
            reply::text(StatusCode::FORBIDDEN, text)
        }
    }
}

/// Colours are the browser's own: any role may choose them, also where nothing else may be changed.
fn keep_theme(visit: &Visit) -> Reply {
    let theme = theme(visit.form.get("theme").unwrap_or_default());
    let mut answer = reply::see_other(own_path(visit.form.get("back").unwrap_or("/")));
    let cookie =
        format!("{THEME_COOKIE}={theme}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    answer
}
