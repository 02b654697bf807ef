//! What a server's `INFO` says of changes that it sends no invalidation for.

/// What `INFO server commandstats` has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InfoSnapshot {
    run_id: Option<String>,
    version: Option<String>,
    /// How often `SWAPDB` was called, and for how long.
    swaps: Option<String>,
    /// The same of `CONFIG RESETSTAT`, which resets these figures as well: it is the time by which two calls differ.
    resets: Option<String>,
    /// How often `INFO` was called: more often each time, unless the counts were reset.
    infos: Option<u64>,
}

impl InfoSnapshot {
    /// Reads a reply to `INFO`.
    pub fn parse(info: &str) -> Self {
        let mut seen = Self::default();
        for line in info.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name {
                "run_id" => seen.run_id = Some(value.to_owned()),
                "redis_version" => seen.version = Some(value.to_owned()),
                "cmdstat_swapdb" => seen.swaps = Some(value.to_owned()),
                "cmdstat_config|resetstat" => seen.resets = Some(value.to_owned()),
                "cmdstat_info" => seen.infos = calls(value),
                _ => {}
            }
        }
        seen
    }

    /// The reason why the server can't be tracked, if it can't.
    pub fn refusal(&self) -> Option<String> {
        let Some(version) = &self.version else { return Some("it tells no version".to_owned()) };
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(7..) => None,
            _ => Some(format!("its version is {version}, and invalidations need 7 or newer")),
        }
    }
}

/// The number of calls in a line of `commandstats`.
fn calls(value: &str) -> Option<u64> {
    value.strip_prefix("calls=")?.split(',').next()?.parse().ok()
}

/// Whether databases may have been swapped between two replies to `INFO`, or another server has answered.
pub fn needs_flush(before: &InfoSnapshot, now: &InfoSnapshot) -> bool {
    let is_reset = before.infos.is_some() && now.infos <= before.infos;
    is_reset
        || before.run_id != now.run_id
        || before.swaps != now.swaps
        || before.resets != now.resets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> InfoSnapshot {
        InfoSnapshot::parse(&lines.join("\r\n"))
    }

    #[test]
    fn swaps_resets_and_other_servers_flush() {
        let usual = ["run_id:a", "redis_version:7.0.15", "cmdstat_info:calls=5,usec=1"];
        let next = "cmdstat_info:calls=6,usec=2";
        let before = seen(&usual);
        for (lines, expected) in [
            (vec!["run_id:a", next], false),
            (vec!["run_id:a", "cmdstat_info:calls=9,usec=2"], false),
            (vec!["run_id:b", next], true),
            (vec!["run_id:a", next, "cmdstat_swapdb:calls=1,usec=3"], true),
            (vec!["run_id:a", next, "cmdstat_config|resetstat:calls=1,usec=3"], true),
            (vec!["run_id:a", "cmdstat_info:calls=5,usec=1"], true),
            (vec!["run_id:a", "cmdstat_info:calls=1,usec=1"], true),
            (vec!["run_id:a"], true),
        ] {
            assert_eq!(needs_flush(&before, &seen(&lines)), expected, "{lines:?}");
        }
        assert!(needs_flush(
            &seen(&["cmdstat_swapdb:calls=1"]),
            &seen(&["cmdstat_swapdb:calls=2"])
        ));
    }

    #[test]
    fn servers_from_version_7_on_are_tracked() {
        for (version, is_tracked) in [
            ("7.0.15", true),
            ("8.2.1", true),
            ("10.0.0", true),
            ("255.255.255", true),
            ("6.2.14", false),
            ("unknown", false),
        ] {
            let line = format!("redis_version:{version}");
            assert_eq!(seen(&[&line]).refusal().is_none(), is_tracked, "{version}");
        }
        assert!(seen(&[]).refusal().is_some());
    }
}
