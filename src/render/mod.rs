//! Replies as JSON and as HTML.

pub(crate) mod html;
pub mod json;
pub(crate) mod layout;
