//! HTTP/1.1, 1.0 and 0.9 as bytes and messages, without sockets.

mod error;
mod headers;
mod host;
mod request;
mod response;
pub mod target;

pub(crate) use error::BackendFailure;
pub use error::ErrorBody;
pub use host::{host_name, is_local_host};
pub(crate) use request::MAX_REQUEST_LINE_BYTES;
pub use request::{Method, Request, RequestError, Version, parse};
pub use response::ResponseWriter;
pub(crate) use response::{HTML, JSON};
