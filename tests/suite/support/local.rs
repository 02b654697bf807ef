//! A balancer in the process of the test, which is the source of its list of backends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;

use redis_lb::backend::BackendId;
use redis_lb::balance::{Balancer, Phase, start_rebalancing};
use redis_lb::config::Config;
use redis_lb::config::backend::BackendConfig;
use redis_lb::discovery::{self, Changes};
use redis_lb::health::BackendState;
use redis_lb::health::checker::Peers;
use redis_lb::server::{self, Listeners, PassedOn};
use serde_json::Value;

use super::redis::RedisServer;
use super::wait_until;

/// A balancer in this process, and where its backends come from.
pub struct Local {
    pub balancer: Arc<Balancer>,
    listed: Mutex<Vec<BackendConfig>>,
    pub port: u16,
    thread: Option<thread::JoinHandle<()>>,
}

impl Local {
    /// In front of these servers, with more arguments.
    pub fn start(servers: &[&RedisServer], arguments: &[&str]) -> Self {
        Self::start_at(addresses(servers), arguments)
    }

    /// In front of these backends.
    pub fn start_at(backends: Vec<BackendConfig>, arguments: &[&str]) -> Self {
        let args = [
            "lb",
            "--listen=127.0.0.1:0",
            "--quiet",
            "--check-interval=200ms",
            "--drain-timeout=2s",
        ];
        let args = args.into_iter().chain(arguments.iter().copied());
        let mut config = Config::from_arguments(args).expect("a configuration");
        let shares = server::raise_limits(&mut config).expect("descriptors");
        let listeners = Listeners::open(&mut config, PassedOn::default()).expect("a port");
        let port = config.listen.port();
        let balancer = Balancer::new(config);
        discovery::start(&balancer, || backends.clone());
        let listed = Mutex::new(backends);
        start_rebalancing(&balancer);
        let served = Arc::clone(&balancer);
        let serve = move || server::serve(listeners, shares, &served).expect("it serves");
        Self { balancer, listed, port, thread: Some(thread::spawn(serve)) }
    }

    /// Takes over this list, and waits until all on it are up and those that were removed are forgotten.
    pub fn take_over(&self, servers: &[&RedisServer]) {
        let before = self.ids();
        self.update(addresses(servers));
        wait_until("the new ones are up", || {
            let is_up = |id: &BackendId| self.balancer.table.state(*id) == BackendState::Up;
            self.ids().len() == servers.len() && self.ids().iter().all(is_up)
        });
        let now = self.ids();
        wait_until("the removed ones are forgotten", || {
            before.difference(&now).all(|id| self.balancer.backend(*id).is_none())
        });
    }

    /// Takes over this list.
    pub fn update(&self, backends: Vec<BackendConfig>) -> Changes {
        self.listed.lock().expect("no panic").clone_from(&backends);
        discovery::update(&self.balancer, || backends)
    }

    /// The identity of the backend at this server.
    pub fn id(&self, server: &RedisServer) -> BackendId {
        let members = self.balancer.members();
        members.iter().find(|member| member.name() == server.address()).expect("it is listed").id
    }

    /// The leases of the backends at these servers.
    pub fn leases(&self, servers: &[&RedisServer]) -> Vec<usize> {
        servers.iter().map(|server| self.balancer.table.leases(self.id(server))).collect()
    }

    /// The document at `/-/status.json`.
    pub fn status(&self) -> Value {
        let url = format!("http://127.0.0.1:{}/-/status.json", self.port);
        let mut answer = ureq::get(url).call().expect("200");
        let text = answer.body_mut().read_to_string().expect("text");
        serde_json::from_str(&text).expect("JSON")
    }

    /// What the status says of a server.
    pub fn status_of(&self, server: &RedisServer) -> Value {
        let mut status = self.status();
        let backends = status["backends"].as_array_mut().expect("a list");
        let at = backends.iter().position(|backend| backend["name"] == server.address());
        backends.swap_remove(at.expect("it is listed"))
    }

    pub fn ids(&self) -> HashSet<BackendId> {
        self.balancer.members().iter().map(|member| member.id).collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.balancer.enter(Phase::Leaving);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// The backends at these servers.
pub fn addresses(servers: &[&RedisServer]) -> Vec<BackendConfig> {
    servers.iter().map(|server| server.address().parse().expect("an address")).collect()
}
