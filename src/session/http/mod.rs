//! The conversation with an HTTP client: requests in, responses out, one line a request in the log.
//!
//! The first read of a process goes another way than the second. A key's type decides which command
//! reads its value, so the first read takes a connection from the pool, asks for the type, and then
//! sends the command ([`balanced`], [`json`]). It leaves a type hint at its backend: keys that begin
//! alike mostly have values of one type. The next read of such a key sends its command at once, on a
//! connection that many clients share, and that connection's thread writes the response
//! ([`shared_read`]). If the hint was wrong, or the value is long, or the backend fails, the read
//! falls back to the first way.

mod balanced;
mod browse;
mod cached_read;
mod conversation;
mod cors;
mod exchange;
mod freshness;
mod json;
mod login;
mod page_keys;
mod response;
mod rights;
mod shared_read;

pub(super) use self::conversation::converse;
pub use self::response::probe_response;
