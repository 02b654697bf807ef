//! The requests of one client, one after the other.

use std::io::Write;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::Level;

use super::balanced::{HttpRead, ReadQuery, send_balanced};
use super::cached_read::CachedReads;
use super::cors;
use super::freshness::MaxStaleness;
use super::login::HttpLogin;
use super::response::{LocalResponse, SentResponse, admin_response, complete};
use super::rights::Caller;
use super::shared_read::{ReadProgress, SharedReads, UnsentEnd};
use crate::backend::is_timeout;
use crate::balance::Balancer;
use crate::balance::failover::Failover;
use crate::balance::slow::ReadProfile;
use crate::config::Config;
use crate::http::target::{self, Target};
use crate::http::{self, ErrorBody, HeadScan, Method, Request, ResponseWriter};
use crate::logging::access_log::Event;
use crate::memory::Share;
use crate::metrics::{Outcome, Refusal};
use crate::session::client::{Client, Endpoint, TICK};

/// How often what a head says is in memory while its request is answered: as it came, its target, the parameters of that,
/// and the key, each at most once.
const HEAD_COPIES: usize = 4;

/// Responds to requests until the client or we end the connection. `buffer` holds what the client
/// has sent so far; its first byte came at `since`.
#[inline(never)]
pub(crate) fn converse(
    mut client: Client,
    mut buffer: Vec<u8>,
    since: Instant,
    balancer: &Arc<Balancer>,
) {
    let mut since = Some(since);
    let mut login = HttpLogin::default();
    let mut shared_reads = SharedReads::new(client.socket, client.address, balancer);
    let mut cached_reads = CachedReads::default();
    let mut memory = client.share();
    while wait_for_shared_read(&mut client, &mut shared_reads, &mut buffer) {
        let next = next_request(&mut client, &mut buffer, since.take(), &mut memory);
        let (mut request, length) = match next {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err((status, why)) => return refuse_bytes(&mut client, status, why),
        };
        // It may have come at the moment in which the client was chosen to make room.
        request.keep_alive &= !client.socket.is_leaving();
        buffer.drain(..length);
        // An empty line after a request does not begin another.
        let has_more = !(buffer.is_empty() || buffer == b"\r\n");
        if !has_more {
            // An idle client holds no buffer.
            buffer = Vec::new();
        }
        // A read on a shared connection leaves this thread free to wait for the next request. If
        // that has come already, nothing is gained.
        let shared_reads = if has_more { None } else { Some(&mut shared_reads) };
        if !respond(&mut client, request, &mut login, &mut cached_reads, shared_reads) {
            return;
        }
    }
}

/// Waits for the read that is under way on a shared connection, if there is one, or for the next
/// request, whichever comes first. Returns whether the conversation goes on.
fn wait_for_shared_read(
    client: &mut Client,
    shared_reads: &mut SharedReads,
    buffer: &mut Vec<u8>,
) -> bool {
    let (mut has_more, mut is_gone) = (false, false);
    loop {
        match shared_reads.progress(has_more, client.balancer) {
            ReadProgress::Idle => return true,
            ReadProgress::UnderWay if has_more => {}
            ReadProgress::UnderWay => {
                match client.read_beside(shared_reads.wake_pipe(), TICK, buffer) {
                    Err(error) if is_timeout(&error) => shared_reads.renew_wake_pipe(),
                    // The read of a client that has left is still answered, and logged.
                    read => (has_more, is_gone) = (true, !matches!(read, Ok(1..))),
                }
            }
            ReadProgress::Responded(UnsentEnd { bytes, is_last }) => {
                let is_sent = client.write_all(&bytes).and_then(|()| client.flush()).is_ok();
                if is_sent && is_last && !is_gone {
                    client.linger(true);
                }
                return is_sent && !is_last;
            }
            ReadProgress::Unanswered(read, failover) => {
                client.begin_answer();
                return respond_balanced(client, read, failover);
            }
        }
    }
}

/// Waits for the next whole head; `None` if the client leaves, or is idle for too long. An error is the
/// status, and what is wrong.
fn next_request(
    client: &mut Client,
    buffer: &mut Vec<u8>,
    since: Option<Instant>,
    memory: &mut Share,
) -> Result<Option<(Request, usize)>, (u16, String)> {
    // The request before this one is gone.
    let _ = memory.set(buffer.len());
    if buffer.is_empty() && !matches!(client.read_more(buffer), Ok(1..)) {
        return Ok(None);
    }
    let since = since.unwrap_or_else(Instant::now);
    let mut scan = HeadScan::default();
    loop {
        // A client that is over the budget is closed.
        if memory.set(buffer.len()).is_err() {
            return Ok(None);
        }
        if scan.may_decide(buffer) {
            match http::parse(buffer) {
                Ok(None) => {}
                Ok(Some((request, length))) => {
                    let is_closed = memory.set(HEAD_COPIES * length).is_err();
                    return Ok(Some((request, length)).filter(|_| !is_closed));
                }
                Err(error) => return Err((error.status(), error.to_string())),
            }
        }
        match client.read_head(since, buffer) {
            Ok(1..) => {}
            Err(error) if since.elapsed() >= client.head_timeout || is_timeout(&error) => {
                let seconds = client.head_timeout.as_secs();
                return Err((
                    408,
                    format!("the request's head took longer than {seconds} seconds"),
                ));
            }
            Ok(_) | Err(_) => return Ok(None),
        }
    }
}

/// Responds to bytes that are no request. The connection ends.
fn refuse_bytes(client: &mut Client, status: u16, why: String) {
    let (balancer, address) = (client.balancer, client.address);
    let reason = why.clone();
    balancer.access_log.write(|| Event::Refused { client: address, status, reason });
    if client.endpoint == Endpoint::Public {
        let why = if status == 408 { Refusal::TooSlow } else { Refusal::BadRequest };
        complete(&balancer.metrics, None, status, Outcome::Refused(why));
    }
    let mut response = ResponseWriter::to_no_request(&mut *client, SystemTime::now);
    response.status(status);
    if response.json(&ErrorBody::new(why)).and_then(|()| response.finish()).is_ok() {
        client.linger(true);
    }
}

/// Responds to one request, or has that done on a shared connection. Returns whether the conversation
/// goes on.
fn respond(
    client: &mut Client,
    request: Request,
    login: &mut HttpLogin,
    cached_reads: &mut CachedReads,
    shared_reads: Option<&mut SharedReads>,
) -> bool {
    let balancer = client.balancer;
    client.begin_answer();
    let began = Instant::now();
    let target = route(&request, &balancer.config(), client.endpoint);
    let (caller, target) = match target.and_then(|target| login.admit(&request, target, client)) {
        Ok((caller, target)) => (caller, Ok(target)),
        Err(refusal) => (Caller::default(), Err(refusal)),
    };
    let query = match target {
        Ok(Target::Key(key, listing)) => {
            balancer.metrics.http_keys.add_one();
            ReadQuery::Key(key, listing)
        }
        Ok(Target::Keys(keys)) => {
            balancer.metrics.http_keys.add_one();
            ReadQuery::Keys(keys)
        }
        Ok(Target::Page(page)) => {
            balancer.metrics.http_listings.add_one();
            ReadQuery::Page(page)
        }
        other => {
            let sent = respond_here(client, &request, &caller, other);
            return end_request(client, &request, &caller, began, sent);
        }
    };
    let key = query.read_key(&balancer.slow_lane.kinds);
    let profile = match key.map_or(Ok(ReadProfile::QUICK), |key| balancer.profile_of(&key)) {
        Ok(profile) => profile,
        Err(why) => {
            let sent = LocalResponse::error(503, why).send_refusal(client, &request);
            return end_request(client, &request, &caller, began, sent);
        }
    };
    let max_staleness = MaxStaleness::asked(&request, balancer);
    let read = HttpRead {
        request,
        caller,
        query,
        began,
        lease: None,
        key,
        profile,
        max_staleness,
        staleness: None,
    };
    respond_with_data(client, Box::new(read), cached_reads, shared_reads)
}

/// Responds to a read: from the near cache, on a shared connection, or by way of the pool. Returns whether the
/// conversation goes on.
fn respond_with_data(
    client: &mut Client,
    read: Box<HttpRead>,
    cached_reads: &mut CachedReads,
    shared_reads: Option<&mut SharedReads>,
) -> bool {
    let balancer = client.balancer;
    let read = match cached_reads.respond(client, read) {
        Ok((read, sent)) => {
            let HttpRead { request, caller, began, .. } = &*read;
            return end_request(client, request, caller, *began, sent);
        }
        Err(read) => read,
    };
    let unsent = match shared_reads {
        Some(shared_reads) => shared_reads.send(read),
        None => Some(read),
    };
    unsent.is_none_or(|read| {
        let failover = Failover::new(balancer, read.profile, Instant::now());
        respond_balanced(client, read, failover)
    })
}

/// Responds to a request for what is no data.
fn respond_here(
    client: &mut Client,
    request: &Request,
    caller: &Caller,
    target: Result<Target, LocalResponse>,
) -> SentResponse {
    let is_admin = client.endpoint == Endpoint::Admin || target::is_admin(&request.target);
    match target {
        Ok(Target::Admin(target)) => {
            let shows_keys = caller.sees_all_keys();
            let (balancer, endpoint) = (client.balancer, client.endpoint);
            let response = admin_response(request, &target, balancer, endpoint, shows_keys);
            // The status page asks every half second. That and probes would drown the rest.
            response.send(client, request, Level::Debug)
        }
        Ok(Target::Options) => {
            let response = cors::options_response(request, &client.balancer.config());
            match response.is_error() {
                _ if is_admin => response.send(client, request, Level::Debug),
                true => response.send_refusal(client, request),
                false => response.send_as(client, request, Outcome::Answered),
            }
        }
        Ok(_) => LocalResponse::empty(204).send_as(client, request, Outcome::Answered),
        Err(refusal) if is_admin => refusal.send(client, request, Level::Debug),
        Err(refusal) => refusal.send_refusal(client, request),
    }
}

/// Returns what the request asks for, or the response that refuses it.
pub(super) fn route(
    request: &Request,
    config: &Config,
    endpoint: Endpoint,
) -> Result<Target, LocalResponse> {
    let is_options = request.is_options() && !config.http.cors_origins.is_empty();
    if request.method == Method::Other && !is_options {
        let why = "only GET and HEAD are served: nobody can write here";
        return Err(LocalResponse::error(405, why).with_header("Allow", "GET, HEAD"));
    }
    let target = target::parse_request(request);
    // Probes name the host by whatever address they reach it.
    let is_open = matches!(&target, Ok(Target::Admin(target)) if target.is_open());
    let is_unknown = |host: &String| !is_open && !is_served_host(host, config, endpoint);
    if request.host.as_ref().is_some_and(is_unknown) {
        let why = "this Host is not served here; --allow-host NAME adds it";
        return Err(LocalResponse::error(421, why));
    }
    if is_options {
        return Ok(Target::Options);
    }
    if let Err(why) = request.max_staleness {
        return Err(LocalResponse::error(400, why));
    }
    match target {
        Ok(target) if endpoint == Endpoint::Public || matches!(target, Target::Admin(_)) => {
            Ok(target)
        }
        Ok(Target::Page(_)) => Err(LocalResponse::empty(302).with_header("Location", "/-/")),
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

/// Responds to a read by way of the pool. Returns whether the conversation goes on.
fn respond_balanced(client: &mut Client, mut read: Box<HttpRead>, failover: Failover) -> bool {
    let sent = send_balanced(client, &mut read, failover);
    end_request(client, &read.request, &read.caller, read.began, sent)
}

/// Logs a request, and charges its user. Returns whether the conversation goes on.
fn end_request(
    client: &mut Client,
    request: &Request,
    caller: &Caller,
    began: Instant,
    sent: SentResponse,
) -> bool {
    caller.charge(client.answer_bytes);
    sent.log(client.balancer, client.address, request, caller, began, client.taken_bytes());
    // A response that was cut must not end like a whole one.
    if !sent.keep_alive && sent.cut.is_none() {
        client.linger(true);
    }
    sent.keep_alive
}
