//! Which web pages may read: CORS, as the Fetch standard has it (`--cors-origin`).

use std::io::Write;

use super::response::LocalResponse;
use crate::config::Config;
use crate::http::{Request, ResponseWriter};

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
    if config.http.cors_origins.is_empty() {
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

/// The response to OPTIONS, by which browsers ask whether a page may send a request, and whether it may.
pub(super) fn options_response(request: &Request, config: &Config) -> (LocalResponse, bool) {
    let options = LocalResponse::empty(204).with_header("Allow", "GET, HEAD, OPTIONS");
    match &request.origin {
        None => (options, true),
        Some(origin) if config.http.allows_origin(origin) => {
            let options = options
                .with_header("Access-Control-Allow-Methods", "GET, HEAD")
                .with_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
                .with_header("Access-Control-Max-Age", MAX_AGE);
            (options, true)
        }
        Some(_) => {
            let why = "pages of this Origin may not read here; --cors-origin ORIGIN adds it";
            (LocalResponse::error(403, why), false)
        }
    }
}
