//! The paths below `/-/`, which show the balancer's own state.

use std::fmt::Display;
use std::sync::LazyLock;

use super::local_response::LocalResponse;
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

/// The status page, in one document: it loads nothing else.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("../../web/status.html").replacen("/* style */", STYLE, 1).replacen(
        "/* script */",
        SCRIPT,
        1,
    )
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
) -> LocalResponse<'static> {
    let config = &balancer.config;
    if endpoint == Endpoint::Public {
        if config.admin_listen.is_some() {
            return LocalResponse::error(
                404,
                "/-/ is served at another address here (--admin-listen)",
            );
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
        AdminTarget::Status { since } => {
            let json = serde_json::to_string(&Status::of(balancer, *since));
            document(http::JSON, json.map(|json| json + "\n"))
        }
        AdminTarget::Metrics => document(prometheus::CONTENT_TYPE, prometheus::text(balancer)),
        AdminTarget::Ping => LocalResponse::text(200, "PONG\n"),
        AdminTarget::Health => LocalResponse::text(200, "OK\n"),
        AdminTarget::Ready if balancer.is_ready() => LocalResponse::text(200, "READY\n"),
        AdminTarget::Ready => LocalResponse::text(503, "NOT READY\n"),
        AdminTarget::Unknown => {
            let why = "nothing is here; the status page is at /-/, and a key that begins with -/ is at \
                       /%2D/…";
            LocalResponse::error(404, why)
        }
    }
}

/// A document that is made now.
fn document(
    content_type: &'static str,
    made: Result<String, impl Display>,
) -> LocalResponse<'static> {
    match made {
        Ok(text) => LocalResponse::document(content_type, text.into_bytes()),
        Err(error) => LocalResponse::error(500, error.to_string()),
    }
}
