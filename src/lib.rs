//! One address in front of several Redis servers that hold the same data.
//!
//! The rooms, from the top to the bottom; each imports only from those below it: [`server`] accepts
//! clients and gives each a thread; [`control`] lets an operator change what runs; `session` talks to one client in its protocol; [`observe`] shows what
//! happens; [`discovery`] says which backends there are; [`balance`] chooses the backend of each read and
//! retries elsewhere; [`cache`] answers hot reads without a backend; [`health`] knows which backends may be read from; [`backend`] is one Redis server and the
//! connections to it; [`login`] knows who clients are; [`policy`] says which commands may pass. [`doctor`] is `lb check`, [`load`] is `seed`, [`top`] is `lb top`, [`manual`] makes man pages.
//! `docs/ARCHITECTURE.md` is the map.

pub mod backend;
pub mod balance;
pub mod cache;
pub mod config;
pub mod control;
pub mod discovery;
pub mod doctor;
pub mod health;
pub mod http;
pub mod load;
pub mod logging;
pub mod login;
pub mod manual;
mod memory;
mod metrics;
mod net;
pub mod observe;
pub mod policy;
pub mod render;
pub mod resp;
pub mod server;
mod session;
mod sync;
mod text;
pub mod top;
