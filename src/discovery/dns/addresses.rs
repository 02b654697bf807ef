//! The addresses of a name, of both families, and what counts while one of the families can't be asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::message::{Absence, RecordType, Records};
use super::resolver::{LookupError, Resolver};

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::Aaaa];

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Those of IPv4 first.
    pub all: Vec<IpAddr>,
    /// How long they are good.
    pub time_to_live: Duration,
}

/// What the last good answer for one family of a name was.
#[derive(Debug, Default)]
struct KnownFamily {
    addresses: Vec<IpAddr>,
    /// Whether the last question had no answer, which has been logged.
    fails: bool,
}

/// The addresses that names had, for the time when one of their families can't be asked.
#[derive(Debug, Default)]
pub(super) struct KnownAddresses(HashMap<(String, RecordType), KnownFamily>);

impl KnownAddresses {
    /// Asks for both families of a whole name, by `deadline`. No family takes more than half of the time, so that both are
    /// asked.
    ///
    /// While one family has no answer, the addresses that it had last go on to count: a resolver that stumbles over AAAA
    /// makes no server of IPv6 vanish, and none of IPv4 either.
    ///
    /// # Errors
    /// Neither family has records now.
    pub fn look_up(
        &mut self,
        resolver: &mut Resolver,
        name: &str,
        deadline: Instant,
    ) -> Result<Addresses, LookupError> {
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let mut ask = |family| resolver.look_up(name, family, deadline.min(Instant::now() + half));
        let first = ask(RecordType::A);
        let second = match &first {
            Err(LookupError::Absent(Absence::NoSuchName)) => first.clone(),
            _ => ask(RecordType::Aaaa),
        };
        self.joined(name, [first, second])
    }

    /// Joins the answers of both families with what is known.
    fn joined(
        &mut self,
        name: &str,
        answers: [Result<Records, LookupError>; 2],
    ) -> Result<Addresses, LookupError> {
        if answers.iter().all(Result::is_err) {
            return Err(worst(answers));
        }
        let mut joined = Addresses { all: Vec::new(), time_to_live: Duration::MAX };
        for (family, answer) in FAMILIES.into_iter().zip(answers) {
            let known = self.0.entry((name.to_owned(), family)).or_default();
            known.note(name, family, answer.as_ref().err());
            match answer {
                Ok(records) => {
                    joined.time_to_live = joined.time_to_live.min(records.time_to_live);
                    known.addresses = records.addresses;
                }
                Err(LookupError::Absent(_)) => known.addresses.clear(),
                Err(LookupError::Failed(_)) => {}
            }
            joined.all.extend(&known.addresses);
        }
        Ok(joined)
    }

    /// Logs, once, that a name whose addresses go on to count has no answer.
    pub fn note_failure(&mut self, name: &str, reason: &str) {
        let error = LookupError::Failed(reason.to_owned());
        let known = self.0.entry((name.to_owned(), RecordType::A)).or_default();
        known.note(name, RecordType::A, Some(&error));
    }

    /// Takes over addresses that came along with another answer.
    pub fn set(&mut self, name: &str, addresses: &[IpAddr]) {
        for family in FAMILIES {
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == RecordType::A);
            let addresses = addresses.iter().filter(of_family).copied().collect();
            let known = KnownFamily { addresses, fails: false };
            self.0.insert((name.to_owned(), family), known);
        }
    }

    /// Returns what a name had last.
    pub fn get(&self, name: &str) -> Vec<IpAddr> {
        let of_family = |family| self.0.get(&(name.to_owned(), family));
        FAMILIES
            .into_iter()
            .filter_map(of_family)
            .flat_map(|known| &known.addresses)
            .copied()
            .collect()
    }

    /// Forgets all names but these.
    pub fn retain(&mut self, is_needed: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _), _| is_needed(name));
    }
}

impl KnownFamily {
    /// Logs that one family has no answer while the other has, and that it has one again.
    fn note(&mut self, name: &str, family: RecordType, error: Option<&LookupError>) {
        let family = family.name();
        let had_failed = self.fails;
        self.fails = matches!(error, Some(LookupError::Failed(_)));
        match error {
            Some(LookupError::Failed(reason)) if !had_failed => warn!(
                "{name}: the {family} records can't be had, so those that were last known count: {reason}"
            ),
            Some(LookupError::Failed(_)) => {}
            _ if had_failed => info!("{name}: the {family} records can be had again"),
            _ => {}
        }
    }
}

/// Returns which of the errors is told: that it is not known comes before that there is nothing.
fn worst([first, second]: [Result<Records, LookupError>; 2]) -> LookupError {
    let [first, second] = [first, second].map(|answer| answer.err());
    let is_failure = |error: &LookupError| matches!(error, LookupError::Failed(_));
    let failure = [&first, &second].into_iter().flatten().find(|error| is_failure(error)).cloned();
    failure.or(first).or(second).unwrap_or(LookupError::Absent(Absence::NoRecords))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Records, LookupError> {
        match text {
            "no name" => Err(LookupError::Absent(Absence::NoSuchName)),
            "none" => Err(LookupError::Absent(Absence::NoRecords)),
            "fails" => Err(LookupError::Failed("silence".to_owned())),
            addresses => Ok(Records {
                addresses: addresses.split(' ').map(|ip| ip.parse().expect(ip)).collect(),
                services: Vec::new(),
                additional: Vec::new(),
                time_to_live: Duration::from_secs(addresses.len() as u64),
            }),
        }
    }

    #[test]
    fn a_family_that_fails_keeps_its_addresses_while_the_other_has_some() {
        let mut known = KnownAddresses::default();
        // One after the other: what is joined depends on what was before.
        for (a, aaaa, joined) in [
            ("10.0.0.1", "fails", "10.0.0.1"),
            ("10.0.0.1", "none", "10.0.0.1"),
            ("10.0.0.1 10.0.0.2", "fd00::1", "10.0.0.1 10.0.0.2 fd00::1"),
            ("10.0.0.1", "fails", "10.0.0.1 fd00::1"),
            ("fails", "fd00::2", "10.0.0.1 fd00::2"),
            ("none", "fails", "fails"),
            ("fails", "no name", "fails"),
            ("fails", "fails", "fails"),
            ("none", "none", "none"),
            ("no name", "no name", "no name"),
            ("10.0.0.3", "fails", "10.0.0.3 fd00::2"),
            ("none", "fd00::2", "fd00::2"),
            ("fails", "fd00::2", "fd00::2"),
        ] {
            let result = known.joined("redis", [answer(a), answer(aaaa)]);
            let expected = answer(joined);
            assert_eq!(
                result.map(|addresses| addresses.all),
                expected.map(|records| records.addresses),
                "{a}, {aaaa}"
            );
        }
        assert_eq!(known.get("redis"), ["fd00::2".parse::<IpAddr>().expect("an address")]);
        known.retain(|name| name != "redis");
        assert!(known.get("redis").is_empty());
    }

    #[test]
    fn the_shortest_time_to_live_counts() {
        let both = [answer("10.0.0.1"), answer("fd00::1")];
        let joined = KnownAddresses::default().joined("redis", both).expect("records");
        assert_eq!(joined.time_to_live, Duration::from_secs(7));
    }
}
