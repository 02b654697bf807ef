//! One address in front of several Redis servers that hold the same data.
//!
//! The way of a client: [`listener`] accepts it and gives it a thread; [`session`] finds out what it
//! speaks and talks to it, in the messages of [`http`] or the commands of [`resp`], of which
//! [`policy`] says what may pass; [`balance`] leases it the backend with the fewest leases, of those
//! whose [`health`] allows it; [`failover`] goes on to others;
//! [`backend`] makes exchanges with that, over the connections of a [`pool`]. HTTP gets the reply
//! as [`json`], Redis clients get its bytes. [`start`] says what is served, [`mod@check`] whether the
//! backends are as they should be. The loader is [`dataset`] and [`seed`].
//! `docs/ARCHITECTURE.md` is the map.

pub mod access_log;
pub mod address;
pub mod backend;
pub mod balance;
pub mod balancer;
pub mod check;
pub mod checker;
pub mod cli;
pub mod config;
pub mod cursor;
pub mod dataset;
pub mod exposition;
pub mod failover;
pub mod guess;
pub mod health;
pub mod history;
pub mod html;
pub mod http;
pub mod json;
pub mod large;
pub mod listener;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod policy;
pub mod pool;
pub mod protocol;
pub mod replays;
pub mod resp;
pub mod seed;
pub mod session;
pub mod slow;
pub mod start;
pub mod status;
pub mod table;
pub mod text;
pub mod usage;
pub mod value;
pub mod workers;
