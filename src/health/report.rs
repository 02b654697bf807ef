//! What a backend says of itself when it is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How many keys each database of a server has, by its number. One without keys is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<u32, u64>);

/// So many of a hundred keys may be missing in a server that counts as complete: expired ones are
/// not removed everywhere at the same time.
const MISSING_PERCENT: u64 = 1;

impl Keys {
    /// Those of a database, where no more is known.
    pub fn in_one_database(count: u64) -> Self {
        Self(BTreeMap::from([(0, count)]))
    }

    /// Those of one database.
    pub fn in_database(&self, database: i64) -> u64 {
        u32::try_from(database)
            .ok()
            .and_then(|database| self.0.get(&database))
            .copied()
            .unwrap_or(0)
    }

    /// Of all databases together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether some database has notably fewer keys than in `other`.
    pub fn lacks(&self, other: &Self) -> bool {
        other.0.iter().any(|(database, &wanted)| {
            let own = self.0.get(database).copied().unwrap_or(0);
            own.saturating_mul(100) < wanted.saturating_mul(100 - MISSING_PERCENT)
        })
    }

    /// Whether there are fewer than half as many as in `other`.
    pub fn is_below_half_of(&self, other: &Self) -> bool {
        self.total().saturating_mul(2) < other.total()
    }

    /// The larger number for each database.
    pub fn merge(&mut self, other: &Self) {
        for (database, &count) in &other.0 {
            let own = self.0.entry(*database).or_default();
            *own = count.max(*own);
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())
    }
}

/// The outcome of a check that a backend has answered.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the server process calls itself, anew each time it starts; empty where we may not ask.
    pub run_id: Arc<str>,
    /// `None` where we may not ask.
    pub keys: Option<Keys>,
    /// Whether it is a replica.
    pub is_replica: bool,
    /// How long ago a replica has heard from its primary; `None` where it never has.
    pub lag: Option<Duration>,
    /// Why it must not be read from, though it answers.
    pub not_ready: Option<String>,
}

impl Report {
    /// From what `INFO` says. A replica that has not heard from its primary for `max_lag` is not
    /// ready.
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
        report.run_id = fields.get("run_id").copied().unwrap_or_default().into();
        report.is_replica = fields.get("role") == Some(&"slave");
        let field = |name: &str| fields.get(name).copied();
        let silent = silent_seconds(field);
        report.lag = silent.filter(|seconds| *seconds != NEVER).map(Duration::from_secs);
        report.not_ready = not_ready(field, silent, max_lag);
        let is_cut_off = fields.get("master_link_status") == Some(&"down");
        if is_cut_off && report.keys.as_ref().is_some_and(|keys| keys.total() == 0) {
            let why = "it is a replica without keys that has no link to its primary";
            report.not_ready.get_or_insert(why.to_owned());
        }
        report
    }

    /// `db0:keys=1319,expires=0,avg_ttl=0`
    fn add_database(&mut self, database: u32, value: &str) {
        let count = value.split(',').find_map(|field| field.strip_prefix("keys="));
        if let (Some(keys), Some(Ok(count @ 1..))) = (&mut self.keys, count.map(str::parse)) {
            keys.0.insert(database, count);
        }
    }
}

/// The seconds of a replica that has never heard from its primary.
const NEVER: u64 = u64::MAX;

/// For how long a replica has not heard from its primary; `None` for a primary.
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

fn not_ready<'a>(
    field: impl Fn(&str) -> Option<&'a str>,
    silent_seconds: Option<u64>,
    max_lag: Option<Duration>,
) -> Option<String> {
    if field("loading") == Some("1") {
        return Some("it is loading its data".to_owned());
    }
    let is_down = field("master_link_status") == Some("down");
    if is_down && field("master_sync_in_progress") == Some("1") {
        return Some("it is a replica that is getting its data from its primary".to_owned());
    }
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
        Keys(counts.iter().copied().collect())
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
        assert!(!Keys::default().lacks(&Keys::default()));
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
            match (why, &report.not_ready) {
                (None, None) => {}
                (Some(why), Some(said)) => assert!(said.contains(why), "{info}: {said}"),
                (_, said) => panic!("{info}: {said:?}"),
            }
        }
    }
}
