//! The data browser: keys and values as HTML pages, without a script, in constant memory.

mod crumbs;
mod databases;
mod element;
mod key_page;
mod listing_page;
mod page;
mod rows;
mod scan_page;
mod value_page;
mod value_text;

pub(super) use self::listing_page::write_listing_page;
pub(super) use self::page::{Frame, write_error_page};
pub(super) use self::value_page::write_key_page;
