//! The values of flags: how each is written, and within which bounds it has to be.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use log::LevelFilter;

use crate::memory;
use crate::policy::users::KeyGlob;
use crate::text::figures::size;

/// Longest time that a flag may have.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Port of a nameserver, as in RFC 1035.
pub const NAMESERVER_PORT: u16 = 53;

/// Longest silence before the kernel probes a connection. Linux takes 32,767 s at most.
const MAX_KEEPALIVE: Duration = Duration::from_secs(9 * 60 * 60);

/// Smallest near cache that is not off: less would hold a few of the longest entries only.
const MIN_CACHE_BYTES: u64 = 1024 * 1024;

/// Bounds of `--cache-max-silence`. A quarter of it is the time between two PINGs: 25 ms is as much as a server and a
/// network should be asked for. Data that are a minute old are no copy that anybody should call right.
const CACHE_SILENCE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

/// What becomes of a Redis client whose subscriptions have a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnGap {
    /// It goes on at another server.
    Continue,
    /// It is closed.
    Close,
}

/// Parses the address of a nameserver.
pub(super) fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_usual_port = ip.parse().map(|ip| SocketAddr::new(ip, NAMESERVER_PORT));
    let address = with_usual_port.or_else(|_| text.parse());
    address
        .map_err(|_| "write an address, such as 10.0.0.53, 10.0.0.53:5353 or [::1]:53".to_owned())
}

/// Parses a level of the log.
pub(super) fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    let levels = PossibleValuesParser::new(["error", "warn", "info", "debug"]);
    levels.try_map(|level| level.parse::<LevelFilter>())
}

/// Parses a time, which may be zero.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= MAX_TIMEOUT => Ok(time),
        Ok(_) => Err("at most 24h".to_owned()),
        Err(_) => Err("write a number with its unit, such as 500ms, 30s or 5m".to_owned()),
    }
}

/// Parses a time that a socket takes for a timeout.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match time(text)? {
        short if short < Duration::from_millis(1) => Err("at least 1ms".to_owned()),
        time => Ok(time),
    }
}

/// Parses the budget of memory for all clients.
pub(super) fn memory_size(text: &str) -> Result<usize, String> {
    size_within(text, memory::MIN_BYTES..=1 << 46)
}

/// Parses the number of bytes that are read of one client while it takes no replies.
pub(super) fn backlog_size(text: &str) -> Result<usize, String> {
    size_within(text, 64 * 1024..=1 << 30)
}

/// Parses the number of bytes that a replica may lack.
pub(super) fn lag_size(text: &str) -> Result<u64, String> {
    size_within(text, 0..=1 << 46).map(|bytes| bytes as u64)
}

fn size_within(text: &str, range: RangeInclusive<u64>) -> Result<usize, String> {
    let bytes = bytes(text)?;
    match usize::try_from(bytes) {
        Ok(fitting) if range.contains(&bytes) => Ok(fitting),
        _ => Err(format!("between {} and {}", size(*range.start()), size(*range.end()))),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>();
    Ok(size.map_err(|_| "write a number with its unit, such as 64MiB or 2GiB")?.as_u64())
}

/// Parses a time that the kernel takes for its probes of a connection, which are off if it is zero.
pub(super) fn keepalive(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time.is_zero() || (Duration::from_secs(1)..=MAX_KEEPALIVE).contains(&time) => {
            Ok(time)
        }
        _ => Err("1s to 9h, or 0s".to_owned()),
    }
}

/// Parses the size of the near cache, which is off if it is zero.
pub(super) fn cache_size(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    match bytes {
        1..MIN_CACHE_BYTES => {
            Err(format!("at least {}, or 0B to turn it off", size(MIN_CACHE_BYTES)))
        }
        _ => Ok(bytes),
    }
}

/// Parses how long the near cache trusts a backend that says nothing.
pub(super) fn cache_silence(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if CACHE_SILENCE.contains(&time) => Ok(time),
        _ => Err("between 100ms and 60s".to_owned()),
    }
}

/// Parses a pattern of keys, which may be any bytes.
pub(super) fn key_glob() -> impl TypedValueParser<Value = KeyGlob> {
    OsStringValueParser::new().try_map(|text| KeyGlob::parse(text.as_encoded_bytes()))
}
