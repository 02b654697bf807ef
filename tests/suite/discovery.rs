//! Backends join and leave while clients read. The balancer runs in this process: the test is the source
//! of its list of backends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;

use redis_lb::backend::BackendId;
use redis_lb::balance::{Balancer, Phase, start_rebalancing};
use redis_lb::config::Config;
use redis_lb::config::backend::BackendConfig;
use redis_lb::discovery::{self, ServiceDiscovery};
use redis_lb::health::BackendState;
use redis_lb::health::checker::Peers;
use redis_lb::server::{self, Listeners, PassedOn};

use crate::support::data::Data;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

/// A list that changes.
struct Listed(Mutex<Vec<BackendConfig>>);

impl ServiceDiscovery for Listed {
    fn discover(&self) -> Vec<BackendConfig> {
        self.0.lock().expect("no panic").clone()
    }
}

/// A balancer in this process, and where its backends come from.
struct Local {
    balancer: Arc<Balancer>,
    source: Listed,
    port: u16,
    thread: Option<thread::JoinHandle<()>>,
}

impl Local {
    fn start(servers: &[&RedisServer]) -> Self {
        let args = [
            "lb",
            "--listen=127.0.0.1:0",
            "--quiet",
            "--check-interval=200ms",
            "--drain-timeout=2s",
        ];
        let mut config = Config::from_arguments(args).expect("a configuration");
        let shares = server::raise_limits(&mut config).expect("descriptors");
        let listeners = Listeners::open(&mut config, PassedOn::default()).expect("a port");
        let port = config.listen.port();
        let balancer = Balancer::new(config);
        let source = Listed(Mutex::new(addresses(servers)));
        discovery::start(&balancer, &source);
        start_rebalancing(&balancer);
        let served = Arc::clone(&balancer);
        let serve = move || server::serve(listeners, shares, &served).expect("it serves");
        Self { balancer, source, port, thread: Some(thread::spawn(serve)) }
    }

    /// Takes over this list, and waits until all on it are up and those that were removed are forgotten.
    fn take_over(&self, servers: &[&RedisServer]) {
        let before = self.ids();
        *self.source.0.lock().expect("no panic") = addresses(servers);
        discovery::update(&self.balancer, &self.source);
        wait_until("the new ones are up", || {
            let is_up = |id: &BackendId| self.balancer.table.state(*id) == BackendState::Up;
            self.ids().len() == servers.len() && self.ids().iter().all(is_up)
        });
        let now = self.ids();
        wait_until("the removed ones are forgotten", || {
            before.difference(&now).all(|id| self.balancer.backend(*id).is_none())
        });
    }

    fn ids(&self) -> HashSet<BackendId> {
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

fn addresses(servers: &[&RedisServer]) -> Vec<BackendConfig> {
    servers.iter().map(|server| server.address().parse().expect("an address")).collect()
}

fn clients_of(server: &RedisServer) -> usize {
    let list: String =
        redis::from_redis_value(server.command(&["CLIENT", "LIST"])).expect("a list");
    // Less the one that asks.
    list.lines().count() - 1
}

#[test]
fn backends_join_and_leave_under_load_and_no_read_fails() {
    let data = Arc::new(Data::new());
    let servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    servers.iter().for_each(|server| data.load(server));
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| &servers[index]);
    let lb = Local::start(&[a, b]);
    wait_until("both are up", || lb.balancer.table.serving().len() == 2);
    let crowd = Crowd::start(lb.port, &data, &KINDS, Habits::default(), seed());
    let mut subscriber = RespClient::connect(lb.port);
    subscriber.call("SUBSCRIBE news");
    let rounds: [&[&RedisServer]; 8] =
        [&[a, b, c], &[b, c], &[c], &[c, d], &[d], &[d, a, b, c], &[a, c], &[b, d]];
    for servers in rounds {
        lb.take_over(servers);
    }
    wait_until("the removed servers are left", || clients_of(a) == 0 && clients_of(c) == 0);
    for server in [b, d] {
        server.command(&["PUBLISH", "news", "hello"]);
    }
    assert!(subscriber.reply().ends_with(b"hello\r\n"), "it hears a backend that is there");
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
    let leases: usize = lb.ids().iter().map(|id| lb.balancer.table.leases(*id)).sum();
    assert!(leases <= KINDS.len() + 1, "{leases} leases are left");
}
