//! The data browser: keys and values as HTML pages, without a script, in constant memory.

mod element;
mod error_page;
mod key_page;
mod layout;
mod listing_page;
mod rows;
mod units;

pub(super) use self::error_page::write_error_page;
pub(super) use self::key_page::write_key_page;
pub(super) use self::layout::Frame;
pub(super) use self::listing_page::write_listing_page;
