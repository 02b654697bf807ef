//! HTTP/1.1, 1.0 and 0.9 as bytes and messages, without sockets.

mod accept;
pub mod authorization;
mod cursor;
mod encoding;
mod etag;
mod head;
mod links;
mod metrics_form;
mod query;
mod request;
mod response;
pub mod target;
mod timing;

pub use encoding::Encoding;
pub(crate) use head::HeadScan;
pub use metrics_form::MetricsForm;
pub use request::{Method, Request, RequestError, Version, host_name, is_local_host, parse};
pub(crate) use response::{BackendFailure, HTML, JSON};
pub use response::{ErrorBody, ResponseWriter};
pub(crate) use timing::ServerTiming;
