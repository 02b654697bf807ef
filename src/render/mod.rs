//! Replies as JSON and as HTML.

pub mod html;
pub mod json;
