//! What is served below `/-/`: about the balancer, not about data.

use std::sync::LazyLock;

use super::LocalResponse;
use crate::balance::Balancer;
use crate::http;
use crate::http::target::AdminTarget;
use crate::observe::prometheus;
use crate::observe::status::Status;
use crate::render::html;
use crate::session::client::Endpoint;

const STYLE: &str =
    concat!(include_str!("../../web/base.css"), include_str!("../../web/status.css"));
const SCRIPT: &str = include_str!("../../web/status.js");

/// The status page: one document, so that it needs nothing from elsewhere.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("../../web/status.html").replacen("/* style */", STYLE, 1).replacen(
        "/* script */",
        SCRIPT,
        1,
    )
});

/// The same without what leads to the data, which is not at the admin address.
static ADMIN_PAGE: LazyLock<String> = LazyLock::new(|| PAGE.replacen(DATA_LINK, "", 1));

const DATA_LINK: &str = "<a class=\"button\" href=\"/\">Browse the data</a>";

/// Lets the page's own style and script in, and what it asks us for; nothing else.
static POLICY: LazyLock<String> =
    LazyLock::new(|| html::content_security_policy(STYLE, Some(SCRIPT)));

/// The answer to a request that came in on this endpoint.
pub fn reply(
    target: &AdminTarget,
    balancer: &Balancer,
    endpoint: Endpoint,
) -> LocalResponse<'static> {
    let config = &balancer.config;
    if endpoint == Endpoint::Public {
        if config.admin_listen.is_some() {
            return LocalResponse::error(404, "what is below /-/ has an address of its own here");
        }
        if config.no_status && matches!(target, AdminTarget::Page | AdminTarget::Status { .. }) {
            return LocalResponse::error(404, "the status page is turned off here (--no-status)");
        }
    }
    match target {
        AdminTarget::Page => {
            let page = if endpoint == Endpoint::Admin { &ADMIN_PAGE } else { &PAGE };
            LocalResponse::page(page.as_bytes(), &POLICY)
        }
        AdminTarget::Status { since } => status(balancer, *since),
        AdminTarget::Metrics => metrics(balancer),
        AdminTarget::Ping => LocalResponse::text(200, "PONG\n"),
        AdminTarget::Health => LocalResponse::text(200, "OK\n"),
        AdminTarget::Ready if balancer.is_ready() => LocalResponse::text(200, "READY\n"),
        AdminTarget::Ready => LocalResponse::text(503, "NOT READY\n"),
        AdminTarget::Unknown => {
            let why = "nothing is here; /-/ has the status page, and a key that begins with -/ is \
                       reached as /%2D/…";
            LocalResponse::error(404, why)
        }
    }
}

fn status(balancer: &Balancer, since: u64) -> LocalResponse<'static> {
    match serde_json::to_vec(&Status::of(balancer, since)) {
        Ok(mut json) => {
            json.push(b'\n');
            LocalResponse::bytes(http::JSON, json)
        }
        Err(error) => LocalResponse::error(500, error.to_string()),
    }
}

fn metrics(balancer: &Balancer) -> LocalResponse<'static> {
    match prometheus::text(balancer) {
        Ok(text) => LocalResponse::bytes(prometheus::CONTENT_TYPE, text.into_bytes()),
        Err(error) => LocalResponse::error(500, error.to_string()),
    }
}
