//! Compares the data of the servers.

use std::collections::BTreeSet;

use super::Asked;
use super::content::{Content, Fingerprint, fingerprint};
use super::findings::Findings;
use super::sample::{self, ComparedServer, Comparison, Database, SampledKey};
use super::status::shown;
use crate::backend::Keys;
use crate::config::Config;
use crate::observe::misconfiguration::databases_differ;

/// How a key differs that a server lacks.
const MISSING: &str = "missing there";

impl Findings {
    /// Compares the servers that can be read from, each once. Returns for each backend whether it
    /// differs; `None` if that is not known.
    pub(super) fn compare(
        &mut self,
        config: &Config,
        servers: &mut [Asked],
        duplicates: &[(usize, usize)],
    ) -> Vec<Option<bool>> {
        let mut differ = vec![None; servers.len()];
        let mut servers = comparable(servers, duplicates);
        if servers.len() < 2 {
            return differ;
        }
        self.compare_counts(&mut servers);
        for server in &servers {
            differ[server.index] = server.is_short.then_some(true);
        }
        servers.retain(|server| server.status.may_be_sampled());
        if servers.len() < 2 {
            return differ;
        }
        let databases = match databases_differ(&config.backends) {
            true => vec![Database::OfUrl],
            false => databases_with_keys(&servers),
        };
        let comparison = sample::compare(&mut servers, &databases, config.check_timeout);
        let odd = self.report_comparison(&servers, &comparison);
        for (server, is_odd) in servers.iter().zip(odd) {
            if is_odd || server.failure.is_none() {
                differ[server.index] = Some(is_odd || server.is_short);
            }
        }
        differ
    }

    /// Finds servers with too few keys, by the same rule as health checks.
    fn compare_counts(&mut self, servers: &mut [ComparedServer]) {
        let counts: Vec<Keys> =
            servers.iter().filter_map(|server| server.status.report.keys.clone()).collect();
        let mut fullest = Keys::default();
        counts.iter().for_each(|keys| fullest.merge(keys));
        let least = counts.iter().map(Keys::total).min().unwrap_or(0);
        let range = match least == fullest.total() {
            true => format!("{fullest} keys each"),
            false => format!("{least} to {fullest} keys"),
        };
        self.compared = Some(format!("{} servers with {range}", servers.len()));
        let expiring = servers.iter().map(|server| server.status.expiring()).max().unwrap_or(0);
        for (server, keys) in servers.iter_mut().zip(&counts) {
            let name = server.name;
            let missing = fullest.total().saturating_sub(keys.total());
            if !keys.lacks(&fullest) {
                continue;
            }
            if missing <= expiring && !keys.is_below_half_of(&fullest) {
                self.notes.push(format!(
                    "{name} has {keys} keys, the fullest {fullest}; keys that expire may be why."
                ));
                continue;
            }
            server.is_short = true;
            self.problems.push(format!(
                "{name} lacks keys: {keys} there, {fullest} elsewhere. Load it again, or make it a \
                 replica of one that is complete."
            ));
        }
    }

    /// Reports the servers whose values are not those of most; returns for each whether it is one.
    fn report_comparison(
        &mut self,
        servers: &[ComparedServer],
        comparison: &Comparison,
    ) -> Vec<bool> {
        if let Some(compared) = &mut self.compared {
            *compared += &format!("; {}", summary(comparison));
        }
        for ComparedServer { name, failure, .. } in servers {
            if let Some(error) = failure {
                self.problems.push(format!("{name} failed while keys were compared: {error}."));
            }
        }
        let differences: Vec<_> =
            (0..servers.len()).map(|index| differences(servers, comparison, index)).collect();
        let counted = |differences: &[(&SampledKey, String)]| {
            format!("{} of {} sampled keys differ", differences.len(), comparison.compared)
        };
        if let ([one, other], [of_one, of_other]) = (servers, &differences[..])
            && let Some((key, _)) = of_one.first()
            && of_one.len() == of_other.len()
        {
            self.problems.push(format!(
                "{} and {} hold different data: {}, such as \"{}\". Load the wrong one again, or \
                 make it a replica of the other.",
                one.name,
                other.name,
                counted(of_one),
                shown(&key.name),
            ));
            return vec![true; 2];
        }
        for (server, differences) in servers.iter().zip(&differences) {
            let Some((key, how)) = differences.first() else { continue };
            if server.is_short && differences.iter().all(|(_, how)| how == MISSING) {
                // The missing keys have been reported already.
                continue;
            }
            self.problems.push(format!(
                "{} holds other data than the others: {}, such as \"{}\" ({how}). Load it again, or \
                 make it a replica of one that is right.",
                server.name,
                counted(differences),
                shown(&key.name),
            ));
        }
        differences.iter().map(|differences| !differences.is_empty()).collect()
    }
}

/// The servers that can be read from and say how many keys they have.
fn comparable<'a>(
    servers: &'a mut [Asked],
    duplicates: &[(usize, usize)],
) -> Vec<ComparedServer<'a>> {
    let servers = servers.iter_mut().enumerate().filter_map(|(index, asked)| {
        let Asked { backend, status } = asked;
        let status = status.as_mut().ok().filter(|status| status.has_counted())?;
        let is_duplicate = duplicates.iter().any(|(_, again)| *again == index);
        (!is_duplicate).then(|| ComparedServer {
            index,
            name: backend.name(),
            status,
            url_database: backend.own_mode().database,
            is_short: false,
            failure: None,
        })
    });
    servers.collect()
}

fn databases_with_keys(servers: &[ComparedServer]) -> Vec<Database> {
    let numbers = servers.iter().flat_map(|server| server.status.databases.keys().copied());
    numbers.collect::<BTreeSet<i64>>().into_iter().map(Database::Numbered).collect()
}

fn summary(comparison: &Comparison) -> String {
    let unequal = comparison.differing.len() + comparison.expiring + comparison.changing;
    let equal = comparison.compared.saturating_sub(unequal);
    if comparison.compared == 0 {
        return "there are no keys to compare".to_owned();
    }
    let mut text = format!("{equal} of {} sampled keys are equal", comparison.compared);
    for (count, what) in [
        (comparison.by_type, "compared by type only (large values, and types of modules)"),
        (comparison.expiring, "expired on some"),
        (comparison.changing, "being written"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// The keys of which the server with this index has other content than most, and how that differs.
fn differences<'a>(
    servers: &[ComparedServer],
    comparison: &'a Comparison,
    index: usize,
) -> Vec<(&'a SampledKey, String)> {
    let differences = comparison.differing.iter().filter_map(|(key, row)| {
        let content = row[index].as_ref()?;
        let how = match majority(servers, row) {
            Some(usual) if usual == fingerprint(content, row) => return None,
            _ if content.is_missing() => MISSING.to_owned(),
            Some((kind, _)) if kind == content.kind => "another value there".to_owned(),
            _ => format!("a {} there", shown(content.kind.as_bytes())),
        };
        Some((key, how))
    });
    differences.collect()
}

/// The content on most of the servers that don't lack keys; `None` if no content has a majority.
fn majority(servers: &[ComparedServer], row: &[Option<Content>]) -> Option<Fingerprint> {
    let voters = servers.iter().zip(row).filter(|(server, _)| !server.is_short);
    let votes: Vec<_> =
        voters.filter_map(|(_, content)| Some(fingerprint(content.as_ref()?, row))).collect();
    let count = |wanted: &Fingerprint| votes.iter().filter(|vote| *vote == wanted).count();
    votes.iter().find(|vote| count(vote) * 2 > votes.len()).cloned()
}
