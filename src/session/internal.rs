//! What is served below `/-/`: about the balancer, not about data.

use std::sync::LazyLock;

use super::Side;
use super::http::Reply;
use crate::balancer::Balancer;
use crate::exposition;
use crate::html;
use crate::http;
use crate::http::target::Internal;
use crate::status::Status;

const STYLE: &str = concat!(include_str!("../web/base.css"), include_str!("../web/status.css"));
const SCRIPT: &str = include_str!("../web/status.js");

/// The status page: one document, so that it needs nothing from elsewhere.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("../web/status.html").replacen("/* style */", STYLE, 1).replacen(
        "/* script */",
        SCRIPT,
        1,
    )
});

/// Lets the page's own style and script in, and what it asks us for; nothing else.
static POLICY: LazyLock<String> =
    LazyLock::new(|| html::content_security_policy(STYLE, Some(SCRIPT)));

/// The answer to a request that came in on this side.
pub fn reply(target: &Internal, balancer: &Balancer, side: Side) -> Reply<'static> {
    let config = &balancer.config;
    if side == Side::Public {
        if config.admin_listen.is_some() {
            return Reply::error(404, "what is below /-/ has an address of its own here");
        }
        if config.no_status && matches!(target, Internal::Page | Internal::Status { .. }) {
            return Reply::error(404, "the status page is turned off here (--no-status)");
        }
    }
    match target {
        Internal::Page => Reply::page(PAGE.as_bytes(), &POLICY),
        Internal::Status { since } => status(balancer, *since),
        Internal::Metrics => metrics(balancer),
        Internal::Ping => Reply::text(200, "PONG\n"),
        Internal::Health => Reply::text(200, "OK\n"),
        Internal::Ready if balancer.is_ready() => Reply::text(200, "READY\n"),
        Internal::Ready => Reply::text(503, "NOT READY\n"),
        Internal::Unknown => {
            let why = "nothing is here; /-/ has the status page, and a key that begins with -/ is \
                       reached as /%2D/…";
            Reply::error(404, why)
        }
    }
}

fn status(balancer: &Balancer, since: u64) -> Reply<'static> {
    match serde_json::to_vec(&Status::of(balancer, since)) {
        Ok(mut json) => {
            json.push(b'\n');
            Reply::bytes(http::JSON, json)
        }
        Err(error) => Reply::error(500, error.to_string()),
    }
}

fn metrics(balancer: &Balancer) -> Reply<'static> {
    match exposition::text(balancer) {
        Ok(text) => Reply::bytes(exposition::CONTENT_TYPE, text.into_bytes()),
        Err(error) => Reply::error(500, error.to_string()),
    }
}
