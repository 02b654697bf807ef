//! What a request asks for, and which requests are refused before a backend is asked.

use super::local_response::LocalResponse;
use crate::config::Config;
use crate::http::target::{self, Target};
use crate::http::{self, Method, Request};
use crate::session::client::Endpoint;

/// Returns what the request asks for, or the response that refuses it.
pub(super) fn route(
    request: &Request,
    config: &Config,
    endpoint: Endpoint,
) -> Result<Target, LocalResponse<'static>> {
    if request.method == Method::Other {
        let why = "only GET and HEAD are served: nobody can write here";
        return Err(LocalResponse::error(405, why).with_header("Allow", "GET, HEAD"));
    }
    if request.host.as_ref().is_some_and(|host| !is_served_host(host, config, endpoint)) {
        let why = "this Host is not served here; --allow-host NAME adds it";
        return Err(LocalResponse::error(421, why));
    }
    let html = target::wants_html(&request.target, request.accepts_html);
    match target::parse(&request.target, html) {
        Ok(target) if endpoint == Endpoint::Public || matches!(target, Target::Admin(_)) => {
            Ok(target)
        }
        Ok(Target::Page(_)) => Err(LocalResponse::redirect("/-/")),
        Ok(_) => Err(LocalResponse::error(404, "only /-/ is served at this address")),
        Err(why) => Err(LocalResponse::error(400, why)),
    }
}

/// Whether a request for this host is served. On a loopback address other names are refused: a web
/// page from elsewhere could make a browser on this machine ask us under a name of its own.
fn is_served_host(host: &str, config: &Config, endpoint: Endpoint) -> bool {
    let listen = match endpoint {
        Endpoint::Public => config.listen,
        Endpoint::Admin => config.admin_listen.unwrap_or(config.listen),
    };
    let name = http::host_name(host);
    !listen.ip().is_loopback()
        || http::is_local_host(&name)
        || config.allow_hosts.iter().any(|allowed| *allowed == name)
}
