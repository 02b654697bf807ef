//! A backend's answers to a health check.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::links::Links;

/// The number of keys in each database of a server. A database without keys is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    counts: BTreeMap<u32, u64>,
    /// Whether only database 0 is known.
    is_partial: bool,
}

/// Number of keys in a hundred that may be missing in a server that counts as complete. Expired keys are not
/// removed everywhere at the same time, and counts are read at different moments.
const MISSING_PERCENT: u64 = 1;

/// Least number of keys of which one may be missing. A smaller database must have all of them.
const MIN_KEYS_FOR_TOLERANCE: u64 = 20;

/// Most keys a second that clients add or delete. More are added by a server's primary that fills it.
const STEADY_KEYS_PER_SECOND: f64 = 200.0;

/// Number of keys that clients may add or delete at once.
pub const STEADY_KEYS_AT_ONCE: u64 = 16;

/// Returns whether `has` keys are notably fewer than `wanted`.
pub fn lacks(has: u64, wanted: u64) -> bool {
    let tolerated = match wanted {
        MIN_KEYS_FOR_TOLERANCE.. => wanted.div_ceil(100 / MISSING_PERCENT),
        _ => 0,
    };
    has.saturating_add(tolerated) < wanted
}

/// Returns whether `has` keys are fewer than half of `wanted`.
pub fn is_below_half(has: u64, wanted: u64) -> bool {
    has.saturating_mul(2) < wanted
}

impl Keys {
    /// Returns the keys of database 0, where no more is known.
    pub fn in_one_database(count: u64) -> Self {
        Self { counts: BTreeMap::from([(0, count)]), is_partial: true }
    }

    /// Returns the keys of these databases.
    #[cfg(test)]
    pub fn of(counts: &[(u32, u64)]) -> Self {
        Self { counts: counts.iter().copied().collect(), is_partial: false }
    }

    /// Returns the number of keys in one database.
    pub fn count(&self, database: u32) -> u64 {
        self.counts.get(&database).copied().unwrap_or(0)
    }

    /// Returns whether the number of keys in this database is known.
    pub fn knows(&self, database: u32) -> bool {
        !self.is_partial || database == 0
    }

    /// Returns the databases that have keys.
    pub fn databases(&self) -> impl Iterator<Item = u32> {
        self.counts.iter().filter(|(_, count)| **count > 0).map(|(database, _)| *database)
    }

    /// Returns the number of keys in all databases together.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Returns whether some database has notably fewer keys than in `other`.
    pub fn lacks(&self, other: &Self) -> bool {
        other.counts.iter().any(|(database, &wanted)| lacks(self.count(*database), wanted))
    }

    /// Returns whether the counts are about those of `before`, `elapsed` ago, but for the keys that clients write
    /// in that time.
    pub fn keeps(&self, before: &Self, elapsed: Duration) -> bool {
        let steady = STEADY_KEYS_AT_ONCE + (elapsed.as_secs_f64() * STEADY_KEYS_PER_SECOND) as u64;
        self.databases().chain(before.databases()).all(|database| {
            let (now, then) = (self.count(database), before.count(database));
            now.abs_diff(then) <= steady || !lacks(now.min(then), now.max(then))
        })
    }

    /// Takes the larger number for each database.
    pub fn merge(&mut self, other: &Self) {
        for (database, &count) in &other.counts {
            let own = self.counts.entry(*database).or_default();
            *own = count.max(*own);
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())
    }
}

/// Reason why a server is none to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// It is a Sentinel.
    #[error("it is a Sentinel, which has no data")]
    Sentinel,
    /// It is a node of a Cluster of so many shards, and has a part of the data.
    #[error(
        "it is a node of a Redis Cluster of {0} shards and has only some of the keys; a Cluster of one shard could be \
         read from"
    )]
    PartOfCluster(u32),
}

/// Result of a check that a backend has answered.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The `run_id` of the server process, another one each time it starts; empty where we may not ask.
    pub run_id: Arc<str>,
    /// The history of writes to which its data belong (`master_replid`); empty where unknown.
    pub replication_id: Arc<str>,
    /// The history that this one continues (`master_replid2`); empty or zeros where there is none.
    pub previous_replication_id: Arc<str>,
    /// First byte of its history that the one before does not have (`second_repl_offset`).
    pub previous_end: Option<u64>,
    /// How many bytes of its history it has: those that a primary has written, or a replica has applied.
    pub offset: Option<u64>,
    /// The numbers of its keys; `None` where we may not ask.
    pub keys: Option<Keys>,
    /// Whether it is a replica.
    pub is_replica: bool,
    /// Whether it is a replica that gets all of its data from its primary.
    pub is_syncing: bool,
    /// Whether it is a replica whose link to its primary is down.
    pub is_cut_off: bool,
    /// Time since a replica has heard from its primary; `None` where it never has.
    pub lag: Option<Duration>,
    /// Reason why it is read from only while no fresher server is up: it has not heard from its primary
    /// for longer than `--max-lag`, or lacks too much of its primary's writes.
    pub stale: Option<String>,
    /// How many bytes of its data it has, and of how many, while it is loading them, or gets them from its primary.
    pub loaded_bytes: Option<(u64, u64)>,
    /// Reason why its data are not there, though it answers.
    pub not_ready: Option<String>,
    /// Reason why it is no server to read from.
    pub unserved: Option<Unserved>,
    /// Whether it is a node of a Redis Cluster.
    pub is_cluster_node: bool,
    /// Its replication links.
    pub links: Links,
    /// The rights that its user lacks for a check.
    pub lacks: Vec<&'static str>,
}

impl Report {
    /// Reads the text of `INFO`. A replica that has not heard from its primary for `max_lag` is stale.
    ///
    /// The names are those of <https://redis.io/docs/latest/commands/info/>.
    pub fn from_info(info: &str, max_lag: Option<Duration>) -> Self {
        let mut report = Self { keys: Some(Keys::default()), ..Self::default() };
        let mut fields = BTreeMap::new();
        for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            match name.strip_prefix("db").and_then(|number| number.parse().ok()) {
                Some(database) => report.add_database(database, value),
                None => _ = fields.insert(name, value),
            }
        }
        let field = |name: &str| fields.get(name).copied();
        let id = |name: &str| Arc::from(field(name).unwrap_or_default());
        report.run_id = id("run_id");
        report.replication_id = id("master_replid");
        report.previous_replication_id = id("master_replid2");
        report.is_replica = field("role") == Some("slave");
        let number = |name| field(name).and_then(|value| value.parse().ok());
        report.previous_end = number("second_repl_offset");
        report.offset = match report.is_replica {
            true => number("slave_repl_offset"),
            false => number("master_repl_offset"),
        };
        report.is_cut_off = field("master_link_status") == Some("down");
        report.is_syncing = report.is_cut_off && field("master_sync_in_progress") == Some("1");
        report.is_cluster_node = field("cluster_enabled") == Some("1");
        report.links = Links::read(field);
        let silent = silent_seconds(field);
        report.lag = silent.filter(|seconds| *seconds != NEVER).map(Duration::from_secs);
        report.stale = stale(silent, max_lag);
        let progress =
            |has, of| number(has).zip(number(of)).filter(|(has, of)| has <= of && *of > 0);
        if field("loading") == Some("1") {
            report.loaded_bytes = progress("loading_loaded_bytes", "loading_total_bytes");
            report.not_ready = Some("it is loading its data".to_owned());
        } else if report.is_syncing {
            report.loaded_bytes = progress("master_sync_read_bytes", "master_sync_total_bytes");
            let why = "it is a replica that is getting its data from its primary";
            report.not_ready = Some(why.to_owned());
        }
        if report.is_cut_off && report.keys.as_ref().is_some_and(|keys| keys.total() == 0) {
            let why = "it is a replica without keys that has no link to its primary";
            report.not_ready.get_or_insert(why.to_owned());
        }
        if field("redis_mode") == Some("sentinel") {
            report.unserved = Some(Unserved::Sentinel);
        }
        report
    }

    /// Reads the text of `CLUSTER INFO`: a node that has only some of the data is not read from.
    pub fn add_cluster_info(&mut self, info: &str) {
        let size = info.lines().find_map(|line| line.strip_prefix("cluster_size:"));
        if let Some(shards @ 2..) = size.and_then(|size| size.trim().parse::<u32>().ok()) {
            self.unserved.get_or_insert(Unserved::PartOfCluster(shards));
        }
    }

    /// Returns whether its data continue the history with this ID; true where that is not known.
    pub fn continues(&self, replication_id: &str) -> bool {
        replication_id.is_empty()
            || self.replication_id.is_empty()
            || *self.replication_id == *replication_id
            || *self.previous_replication_id == *replication_id
    }

    /// `db0:keys=1319,expires=0,avg_ttl=0`
    fn add_database(&mut self, database: u32, value: &str) {
        let count = value.split(',').find_map(|field| field.strip_prefix("keys="));
        if let (Some(keys), Some(Ok(count @ 1..))) = (&mut self.keys, count.map(str::parse)) {
            keys.counts.insert(database, count);
        }
    }
}

/// The seconds of a replica that has never heard from its primary.
const NEVER: u64 = u64::MAX;

/// Returns the seconds since a replica has heard from its primary; `None` for a primary.
fn silent_seconds<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Option<u64> {
    let is_down = field("master_link_status") == Some("down");
    let silent = match is_down {
        true => field("master_link_down_since_seconds"),
        false => field("master_last_io_seconds_ago"),
    };
    // A replica that has never been linked says -1.
    Some(match silent?.parse::<i64>().ok()? {
        never @ ..0 if is_down || never < -1 => NEVER,
        seconds => seconds.unsigned_abs(),
    })
}

fn stale(silent_seconds: Option<u64>, max_lag: Option<Duration>) -> Option<String> {
    let silent = silent_seconds?;
    let max_lag = max_lag.filter(|max_lag| silent > max_lag.as_secs())?;
    let max_lag = humantime::format_duration(max_lag);
    Some(match silent {
        NEVER => "it is a replica that has not reached its primary yet".to_owned(),
        _ => format!(
            "it is a replica and has not heard from its primary for {silent} s (--max-lag {max_lag})"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(counts: &[(u32, u64)]) -> Keys {
        Keys::of(counts)
    }

    #[test]
    fn keys_are_counted_in_each_database() {
        let info = "# Server\r\nrun_id:abc\r\n# Replication\r\nrole:master\r\n# Keyspace\r\n\
            db0:keys=1319,expires=0,avg_ttl=0\r\ndb12:keys=7,expires=7,avg_ttl=100,subexpiry=0\r\n";
        let report = Report::from_info(info, None);
        assert_eq!(&*report.run_id, "abc");
        assert_eq!(report.keys, Some(keys(&[(0, 1319), (12, 7)])));
        assert!(!report.is_replica);
        assert_eq!(report.not_ready, None);
    }

    #[test]
    fn one_key_in_a_hundred_may_be_missing_in_each_database() {
        let full = keys(&[(0, 1000), (1, 10)]);
        assert!(!keys(&[(0, 990), (1, 10)]).lacks(&full));
        assert!(!keys(&[(0, 2000), (1, 10), (2, 5)]).lacks(&full));
        assert!(keys(&[(0, 989), (1, 10)]).lacks(&full));
        assert!(keys(&[(0, 2000)]).lacks(&full), "a database is empty");
        assert!(keys(&[(0, 1000), (1, 9)]).lacks(&full), "of a few none may be missing");
        assert!(!keys(&[(0, 24)]).lacks(&keys(&[(0, 25)])), "one more was written elsewhere");
        assert!(keys(&[(0, 23)]).lacks(&keys(&[(0, 25)])));
        assert!(!Keys::default().lacks(&Keys::default()));
    }

    #[test]
    fn a_server_keeps_its_keys_while_clients_write_and_not_while_it_is_filled() {
        let (full, second) = (keys(&[(0, 10_000)]), Duration::from_secs(1));
        assert!(keys(&[(0, 10_100)]).keeps(&full, Duration::ZERO));
        assert!(!keys(&[(0, 10_200)]).keeps(&full, Duration::ZERO));
        assert!(!keys(&[(0, 10_000), (1, 17)]).keeps(&full, Duration::ZERO));
        assert!(keys(&[(0, 67)]).keeps(&Keys::default(), second), "a SET every 15 ms");
        assert!(!keys(&[(0, 1319)]).keeps(&Keys::default(), second), "it is filled");
        assert!(!Keys::default().keeps(&full, second));
    }

    #[test]
    fn a_replica_that_waits_for_its_first_keys_is_not_ready() {
        let waits = "role:slave\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n";
        assert!(Report::from_info(waits, None).not_ready.is_some());
        let has_some = format!("{waits}db0:keys=1,expires=0,avg_ttl=0\r\n");
        assert_eq!(Report::from_info(&has_some, None).not_ready, None);
        let is_linked = waits.replace("down", "up");
        assert_eq!(Report::from_info(&is_linked, None).not_ready, None);
    }

    #[test]
    fn a_server_that_has_not_got_its_data_is_not_ready() {
        let replica = |fields: &str| format!("role:slave\r\n{fields}\r\n");
        let linked = "db0:keys=1\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:9";
        let cut_off = "db0:keys=1\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n\
            master_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:40";
        let never = "db0:keys=1\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n\
            master_link_down_since_seconds:-1";
        let syncing = "master_link_status:down\r\nmaster_sync_in_progress:1\r\n\
            master_link_down_since_seconds:-1";
        let lag = |seconds| Some(Duration::from_secs(seconds));
        for (info, max_lag, why) in [
            ("loading:0".to_owned(), None, None),
            ("loading:1".to_owned(), None, Some("loading")),
            (replica(linked), None, None),
            (replica(linked), lag(9), None),
            (replica(linked), lag(8), Some("for 9 s (--max-lag 8s)")),
            (replica(cut_off), None, None),
            (replica(cut_off), lag(30), Some("for 40 s")),
            (replica(never), None, None),
            (replica(never), lag(30), Some("not reached its primary")),
            (replica(syncing), None, Some("getting its data")),
        ] {
            let report = Report::from_info(&info, max_lag);
            // One that is stale has its data, though they may be old.
            assert!(report.not_ready.is_none() || report.stale.is_none(), "{info}");
            match (why, report.not_ready.as_ref().or(report.stale.as_ref())) {
                (None, None) => {}
                (Some(why), Some(said)) => assert!(said.contains(why), "{info}: {said}"),
                (_, said) => panic!("{info}: {said:?}"),
            }
        }
    }

    #[test]
    fn a_sentinel_and_a_part_of_a_cluster_are_not_served_from() {
        let sentinel = Report::from_info("run_id:a\r\nredis_mode:sentinel\r\n", None);
        assert_eq!(sentinel.unserved, Some(Unserved::Sentinel));
        let node = || Report::from_info("run_id:a\r\ncluster_enabled:1\r\n", None);
        assert!(node().is_cluster_node);
        for (size, is_served) in [("0", true), ("1", true), ("2", false), ("3", false)] {
            let mut node = node();
            node.add_cluster_info(&format!("cluster_state:ok\r\ncluster_size:{size}\r\n"));
            assert_eq!(node.unserved.is_none(), is_served, "{size}");
        }
    }

    #[test]
    fn a_primary_says_what_it_has_written_and_a_replica_what_it_has_applied() {
        let fields = "master_replid:a\r\nmaster_replid2:b\r\nmaster_repl_offset:70\r\n\
            second_repl_offset:51\r\n";
        let replica =
            format!("role:slave\r\nslave_read_repl_offset:69\r\nslave_repl_offset:60\r\n{fields}");
        let offset = |info: &str| Report::from_info(info, None).offset;
        assert_eq!(offset(&format!("role:master\r\n{fields}")), Some(70));
        assert_eq!(offset(&replica), Some(60), "what it has read counts for nothing");
        assert_eq!(offset("role:slave\r\nmaster_repl_offset:70\r\n"), None);
        assert_eq!(Report::from_info(&replica, None).previous_end, Some(51));
        assert_eq!(Report::from_info("second_repl_offset:-1\r\n", None).previous_end, None);
    }

    #[test]
    fn a_history_that_goes_on_under_another_name_is_the_same() {
        let report = |id: &str, previous: &str| {
            let info = format!("master_replid:{id}\r\nmaster_replid2:{previous}\r\n");
            Report::from_info(&info, None)
        };
        assert!(report("a", "0").continues("a"));
        assert!(report("b", "a").continues("a"), "its primary was replaced by a replica");
        assert!(!report("b", "0").continues("a"), "it was filled anew");
        assert!(report("b", "0").continues(""));
    }
}
