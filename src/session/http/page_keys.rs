//! The keys of one page of a listing, found by SCAN.

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, HTTP_READ_BYTES, ReadError};
use super::rights::Rights;
use crate::backend::read_server_info;
use crate::balance::cursor::MAX_SCAN_COUNT;
use crate::http::target::{Cursor, PageQuery};
use crate::memory::Share;
use crate::resp::{self, command, reply};

/// Highest `COUNT` of one SCAN: few enough not to keep Redis from others for long.
const MAX_STEP_KEYS: usize = 1000;
const _: () = assert!(MAX_STEP_KEYS as u64 <= MAX_SCAN_COUNT);

/// A page ends once its keys together are this long, whatever its `limit`.
const PAGE_KEY_BYTES: usize = 4 * 1024 * 1024;

/// Longest keys of one SCAN together. They are held in memory, so more are refused.
const MAX_STEP_BYTES: usize = 64 * 1024 * 1024;

/// A page ends after this time: its keys are rare in a large database.
const PAGE_SCAN_TIME: Duration = Duration::from_secs(10);

/// Reads the reply to `INFO server`: which server process answers.
pub(super) fn read_server_run_id(exchange: &mut Exchange) -> Result<String, ReadError> {
    let (run_id, _) = read_server_info(exchange.replies()?)?;
    // A cursor without it could be taken to another server.
    let not_allowed =
        "NOPERM listings need INFO: the balancer's user lacks the right +info there".to_owned();
    Ok(run_id.ok_or(resp::Error::Redis(not_allowed))?.to_string())
}

/// Reads the keys of one page from the server with this run id. Returns them in natural order, and the
/// link to the next page, if there is one.
pub(super) fn read_page_keys(
    exchange: &mut Exchange,
    query: &PageQuery,
    run_id: String,
    memory: &mut Share,
    rights: Option<&Rights>,
) -> Result<(Vec<Vec<u8>>, Option<String>), ReadError> {
    if query.cursor.as_ref().is_some_and(|cursor| cursor.run_id != run_id) {
        return Err(ReadError::OtherBackend);
    }
    let began = Instant::now();
    let (mut keys, mut bytes, mut scanned) = (Vec::new(), 0, 0);
    let mut position = query.cursor.as_ref().map_or(0, |cursor| cursor.position);
    loop {
        let step = next_step(query.limit - keys.len(), scanned, keys.len());
        scanned += step;
        let mut scan = command("SCAN").number(position);
        if let Some(pattern) = &query.pattern {
            scan = scan.arg("MATCH").arg(pattern);
        }
        let from = exchange.ask(scan.arg("COUNT").number(step).into_bytes())?;
        position = reply::scan_cursor(from)?;
        let most = bytes + MAX_STEP_BYTES;
        for _ in 0..reply::array(from)? {
            let key = match reply::bytes(from, most.saturating_sub(bytes) as u64) {
                Err(resp::Error::TooLong) => return Err(ReadError::KeysTooLong),
                key => key?,
            };
            if rights.is_some_and(|rights| !rights.may_read_key(&key)) {
                continue;
            }
            bytes += key.len() + size_of::<Vec<u8>>();
            keys.push(key);
            memory.set(HTTP_READ_BYTES + bytes).map_err(io::Error::from)?;
        }
        if position == 0
            || keys.len() >= query.limit
            || bytes >= PAGE_KEY_BYTES
            || began.elapsed() >= PAGE_SCAN_TIME
        {
            break;
        }
    }
    keys.sort_unstable_by(|a, b| natural_order(a, b));
    keys.dedup();
    let next = (position != 0).then(|| query.link(&Cursor { run_id, position }));
    Ok((keys, next))
}

/// Returns the `COUNT` that should bring the `wanted` keys, if `found` of those `scanned` did match.
/// A fixed one would take very many exchanges for a small page of rare keys.
fn next_step(wanted: usize, scanned: usize, found: usize) -> usize {
    let expected = wanted.saturating_mul(scanned.max(1)) / found.max(1);
    expected.clamp(1, MAX_STEP_KEYS)
}

/// Compares runs of digits as numbers and all else byte by byte: `actor:2` comes before `actor:10`.
fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number_x, number_y) = (take_number(&mut left), take_number(&mut right));
            number_x.len().cmp(&number_y.len()).then_with(|| number_x.cmp(number_y))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
    // They may differ in zeros before a number. Any order will do if it is always the same.
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Takes the digits at the beginning of `text`; returns them without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    &digits[digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len())..]
}

#[cfg(test)]
#[path = "page_keys_tests.rs"]
mod tests;
