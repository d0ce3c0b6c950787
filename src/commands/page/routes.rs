//! One request, one answer: what there is to ask for.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/page.css`, `/page.js`, `/icon.svg` | the page |
//! | `/events` | what it shows, whenever it changes |
//! | `/api/state` | the same, once |
//! | `/api/held?folder=NAME&next=…` | a page of what is held; with the token |
//! | `POST /api/act` | a decision; with the token |
//! | `/metrics` | for Prometheus |
//! | `/healthz`, `/readyz` | alive; every folder level or not late |

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::base::offload::Offload;
use crate::commands::page::acts::{self, Ask, Refused};
use crate::commands::page::body::Body;
use crate::commands::page::events::Events;
use crate::commands::page::guard::{Knows, NO_TOKEN};
use crate::commands::page::{Page, ready};
use crate::report::metrics;

/// The longest body of a request, bytes.
const BODY_MOST: usize = 16 << 10;
/// How long a body may take.
const BODY: Duration = Duration::from_secs(10);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// What each answer says to browsers: nothing of others is loaded, nothing is kept, and nobody shows the page inside theirs.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Answers one request. `beats` counts what a stream says.
pub async fn answer(
    page: Arc<Page>,
    request: Request<Incoming>,
    beats: Arc<AtomicU64>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let knows = match page.guard.judge(&head) {
        Ok(knows) => knows,
        Err(refusal) => return said(refusal.status, refusal.why),
    };
    let path = head.uri.path();
    let wanted = match path {
        "/api/act" => Method::POST,
        _ => Method::GET,
    };
    if head.method != wanted && !(head.method == Method::HEAD && wanted == Method::GET) {
        let mut answer = said(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
        let allow = if wanted == Method::GET {
            "GET, HEAD"
        } else {
            "POST"
        };
        let allow = HeaderValue::from_static(allow);
        answer.headers_mut().insert(header::ALLOW, allow);
        return answer;
    }
    match path {
        "/" => whole(StatusCode::OK, HTML, include_str!("page.html")),
        "/page.css" => whole(StatusCode::OK, CSS, include_str!("page.css")),
        "/page.js" => whole(StatusCode::OK, SCRIPT, include_str!("page.js")),
        "/icon.svg" => whole(StatusCode::OK, SVG, include_str!("icon.svg")),
        "/events" if head.method == Method::GET => events(&page, knows, beats),
        "/events" => whole(StatusCode::OK, EVENTS, ""),
        "/api/state" => whole(StatusCode::OK, JSON, page.state(knows).await),
        "/api/held" => held(&page, knows, head.uri.query().unwrap_or_default()).await,
        "/api/act" => act(&page, body).await,
        "/metrics" => {
            let scrape = page.scrape().await;
            whole(StatusCode::OK, metrics::TYPE, metrics::text(scrape))
        }
        "/healthz" => whole(StatusCode::OK, TEXT, "alive\n"),
        "/readyz" => is_ready(&page),
        _ => said(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn is_ready(page: &Page) -> Response<Body> {
    let reasons = ready::reasons(&page.board.snapshots(), page.board.stuck());
    if reasons.is_empty() {
        return whole(StatusCode::OK, TEXT, "ready\n");
    }
    let text = reasons.join("\n") + "\n";
    whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn events(page: &Arc<Page>, knows: Knows, beats: Arc<AtomicU64>) -> Response<Body> {
    let Ok(place) = page.listeners.clone().try_acquire_owned() else {
        return said(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many listen already; close another window",
        );
    };
    let events = Events::new(page.clone(), knows, beats, place);
    respond(StatusCode::OK, EVENTS, Body::stream(events))
}

async fn held(page: &Page, knows: Knows, query: &str) -> Response<Body> {
    if knows == Knows::Counts {
        return said(StatusCode::UNAUTHORIZED, NO_TOKEN);
    }
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        let value = percent_decode_str(value).decode_utf8().ok()?;
        Some(value.into_owned())
    };
    let seat = value("folder").and_then(|name| acts::seat(&page.board, &name));
    let Some(seat) = seat else {
        return said(StatusCode::NOT_FOUND, "there is no such folder");
    };
    let Some(after) = acts::after(value("next").as_deref()) else {
        return said(StatusCode::BAD_REQUEST, "`next` is not what a page said");
    };
    let dir = page.state_dir.clone();
    let read = Offload::Pool.run(move || acts::held(&dir, &seat, &after));
    match read.await {
        Ok(list) => json(StatusCode::OK, &list),
        Err(why) => said(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("could not {why}"),
        ),
    }
}

async fn act(page: &Page, body: Incoming) -> Response<Body> {
    let too_large = || said(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    if body.size_hint().lower() > BODY_MOST as u64 {
        return too_large();
    }
    let all = Limited::new(body, BODY_MOST).collect();
    let text = match tokio::time::timeout(BODY, all).await {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(_)) => return said(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => return said(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    let ask: Ask = match serde_json::from_slice(&text) {
        Ok(ask) => ask,
        Err(error) => {
            let why = format!("could not understand the request: {error}");
            return said(StatusCode::BAD_REQUEST, &why);
        }
    };
    match acts::act(&page.board, ask).await {
        Ok(count) => whole(StatusCode::OK, JSON, format!("{{\"count\":{count}}}")),
        Err(Refused::Missing) => said(StatusCode::NOT_FOUND, "there is no such folder"),
        Err(Refused::Unseen) => said(
            StatusCode::BAD_REQUEST,
            "a decision has to say how many were seen: `held`",
        ),
        Err(Refused::Changed(held)) => {
            let why = format!("{held} are held by now: look at the list again");
            said(StatusCode::CONFLICT, &why)
        }
        Err(Refused::Failed(why)) => said(StatusCode::BAD_GATEWAY, &format!("could not {why}")),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Plain structs of text and numbers have a form in JSON.
    let text = serde_json::to_string(value).unwrap_or_default();
    whole(status, JSON, text)
}

/// Answers with a few words, as `{"error": …}`.
fn said(status: StatusCode, why: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct Why<'a> {
        error: &'a str,
    }
    let mut answer = json(status, &Why { error: why });
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    answer
}

fn whole(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    respond(status, kind, Body::Whole(Some(bytes.into())))
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
