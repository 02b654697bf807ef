//! Lets web pages of other origins read the data: CORS, as the Fetch standard has it (`--cors-origin`). What the balancer
//! says of itself, below `/-/`, is for no page but its own.

use std::io::Write;

use super::response::LocalResponse;
use crate::config::Config;
use crate::http::target;
use crate::http::{Request, ResponseWriter};
use crate::metrics::Refusal;

/// The headers of an answer that a page may look at, beside those that it always may.
const EXPOSED: &str = "Age, ETag, Retry-After, Server-Timing, X-Cache, X-Served-By, X-Staleness";

/// The headers that a page may send, beside those that it always may.
const ALLOWED_HEADERS: &str = "Authorization, If-None-Match, Max-Staleness";

/// Seconds for which a browser may keep the answer to its question. Chrome keeps none for longer.
const MAX_AGE: &str = "7200";

/// Adds what the browser of a page has to know of an answer to this request.
pub(super) fn add_headers<W: Write>(
    response: &mut ResponseWriter<W>,
    request: &Request,
    config: &Config,
) {
    if config.http.cors_origins.is_empty() || target::is_admin(&request.target) {
        return;
    }
    let is_for_all = config.http.allows_all_origins();
    if !is_for_all {
        response.header("Vary", "Origin");
    }
    let Some(origin) = &request.origin else { return };
    if config.http.allows_origin(origin) {
        let origin = if is_for_all { "*" } else { origin.as_str() };
        response.header("Access-Control-Allow-Origin", origin);
        response.header("Access-Control-Expose-Headers", EXPOSED);
    }
}

/// The response to OPTIONS, by which browsers ask whether a page may send a request.
pub(super) fn options_response(request: &Request, config: &Config) -> LocalResponse {
    let options = LocalResponse::empty(204).with_header("Allow", "GET, HEAD, OPTIONS");
    let refused = |why| LocalResponse::error(403, why).because(Refusal::NotPermitted);
    match &request.origin {
        None => options,
        Some(_) if target::is_admin(&request.target) => {
            refused("no page of another origin may read what is below /-/")
        }
        Some(origin) if config.http.allows_origin(origin) => options
            .with_header("Access-Control-Allow-Methods", "GET, HEAD")
            .with_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
            .with_header("Access-Control-Max-Age", MAX_AGE),
        Some(_) => refused("pages of this Origin may not read here; --cors-origin ORIGIN adds it"),
    }
}
