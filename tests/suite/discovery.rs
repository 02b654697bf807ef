//! Backends join and leave while clients read. The balancer runs in this process: the test is the source
//! of its list of backends.

use std::sync::Arc;

use crate::support::data::Data;
use crate::support::local::Local;
use crate::support::observe::connections_to;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{seed, wait_until};

#[test]
fn backends_join_and_leave_under_load_and_no_read_fails() {
    let data = Arc::new(Data::new());
    let servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    servers.iter().for_each(|server| data.load(server));
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| &servers[index]);
    let lb = Local::start(&[a, b], &[]);
    wait_until("both are up", || lb.balancer.table.serving().len() == 2);
    let crowd = Crowd::start(lb.port, &data, &KINDS, Habits::default(), seed());
    let mut subscriber = RespClient::connect(lb.port);
    subscriber.call("SUBSCRIBE news");
    let rounds: [&[&RedisServer]; 8] =
        [&[a, b, c], &[b, c], &[c], &[c, d], &[d], &[d, a, b, c], &[a, c], &[b, d]];
    for servers in rounds {
        lb.take_over(servers);
    }
    wait_until("the removed servers are left", || connections_to(a) == 0 && connections_to(c) == 0);
    for server in [b, d] {
        server.command(&["PUBLISH", "news", "hello"]);
    }
    assert!(subscriber.reply().ends_with(b"hello\r\n"), "it hears a backend that is there");
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
    let leases: usize = lb.ids().iter().map(|id| lb.balancer.table.leases(*id)).sum();
    assert!(leases <= KINDS.len() + 1, "{leases} leases are left");
}
