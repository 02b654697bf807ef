//! HTTP/1.1, 1.0 and 0.9 as bytes and messages; knows nothing of sockets.

mod error;
mod request;
mod response;
pub mod target;

pub use error::{BackendFailure, ErrorBody};
pub use request::{
    MAX_HEADER_BYTES, MAX_HEADERS, MAX_REQUEST_LINE_BYTES, Method, Request, RequestError, Version,
    host_name, is_local_host, parse,
};
pub use response::{HTML, JSON, ResponseWriter};
