//! The near cache: what is kept so that hot reads need no backend.

pub mod hot_keys;
