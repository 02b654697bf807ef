//! The paths below `/-/`, which show the balancer's own state.

use std::fmt::Display;
use std::sync::LazyLock;

use super::response::LocalResponse;
use crate::balance::Balancer;
use crate::http;
use crate::http::target::AdminTarget;
use crate::observe::prometheus;
use crate::observe::status::Status;
use crate::render::html;
use crate::session::client::Endpoint;

const TEXT: &str = "text/plain; charset=utf-8";

const STYLE: &str =
    concat!(include_str!("../../web/base.css"), include_str!("../../web/status.css"));
const SCRIPT: &str = include_str!("../../web/status.js");

/// The status page, in one document: it loads nothing else.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = include_str!("../../web/status.html").replacen("/* style */", STYLE, 1);
    page.replacen("/* script */", SCRIPT, 1)
});

/// The status page at the admin address, where no data is: without the link to the data.
static ADMIN_PAGE: LazyLock<String> = LazyLock::new(|| PAGE.replacen(DATA_LINK, "", 1));

const DATA_LINK: &str = "<a class=\"button\" href=\"/\">Browse the data</a>";

/// Allows the page's own style and script, and its requests to us; nothing else.
static POLICY: LazyLock<String> =
    LazyLock::new(|| html::content_security_policy(STYLE, Some(SCRIPT)));

/// Returns the response to a request that came in on this endpoint.
pub(super) fn respond(
    target: &AdminTarget,
    balancer: &Balancer,
    endpoint: Endpoint,
) -> LocalResponse {
    let config = &balancer.config;
    if endpoint == Endpoint::Public {
        if config.admin_listen.is_some() {
            let why = "/-/ is served at another address here (--admin-listen)";
            return LocalResponse::error(404, why);
        }
        if config.no_status && matches!(target, AdminTarget::Page | AdminTarget::Status { .. }) {
            return LocalResponse::error(404, "the status page is turned off here (--no-status)");
        }
    }
    match target {
        AdminTarget::Page => {
            let page = if endpoint == Endpoint::Admin { &ADMIN_PAGE } else { &PAGE };
            LocalResponse::document(200, http::HTML, page.as_str())
                .with_header("Cache-Control", "no-cache")
                .with_header("Content-Security-Policy", &POLICY)
                .with_header("Referrer-Policy", "no-referrer")
        }
        AdminTarget::Status { since } => {
            let json = serde_json::to_string(&Status::of(balancer, *since));
            document(http::JSON, json.map(|json| json + "\n"))
        }
        AdminTarget::Metrics => document(prometheus::CONTENT_TYPE, prometheus::text(balancer)),
        AdminTarget::Ping => LocalResponse::document(200, TEXT, "PONG\n"),
        AdminTarget::Health => LocalResponse::document(200, TEXT, "OK\n"),
        AdminTarget::Ready if balancer.is_ready() => LocalResponse::document(200, TEXT, "READY\n"),
        AdminTarget::Ready => LocalResponse::document(503, TEXT, "NOT READY\n"),
        AdminTarget::Unknown => {
            let why = "nothing is here; the status page is at /-/, and a key that begins with -/ is at \
                       /%2D/…";
            LocalResponse::error(404, why)
        }
    }
}

/// A document that is made now.
fn document(content_type: &'static str, made: Result<String, impl Display>) -> LocalResponse {
    match made {
        Ok(text) => LocalResponse::document(200, content_type, text)
            .with_header("Cache-Control", "no-cache"),
        Err(error) => LocalResponse::error(500, error.to_string()),
    }
}
