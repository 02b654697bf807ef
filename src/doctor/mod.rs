//! `lb check`: whether the backends can be read from, and hold the same data. It reads, and serves
//! nothing.

mod sample;
mod server;

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use console::Style;

use crate::backend::{BackendError, Keys};
use crate::balance::Balancer;
use crate::config::Config;
use crate::health::Member;
use crate::health::checker::Peers;
use crate::logging;
use crate::text::table::{Alignment, table};
use sample::{Compared, Content, Database, Essence, Outcome, Place, essence};
use server::{ServerProfile, shown};

/// How long after the deadline we still wait for a server that keeps it.
const GRACE: Duration = Duration::from_millis(50);

/// What has been found out.
#[derive(Debug)]
pub struct Findings {
    rows: Vec<Vec<String>>,
    /// What has to be done something about.
    wrong: Vec<String>,
    /// What is worth knowing.
    notes: Vec<String>,
    /// What was compared, and with which result.
    compared: Option<String>,
}

/// Asks all backends at the same time, each of which has the check timeout to say how it is; then
/// those that can be read from are compared.
pub fn check(config: Config) -> Findings {
    // A connect has all of it, too.
    let config = Config { backend_timeout: config.check_timeout, ..config };
    let balancer = Balancer::new(config);
    balancer.add_all(&balancer.config.backends);
    let mut looks = look_at_all(&balancer);
    let mut findings =
        Findings { rows: Vec::new(), wrong: Vec::new(), notes: Vec::new(), compared: None };
    findings.each_alone(&balancer, &looks);
    findings.emptiness(&balancer, &looks);
    let doubled = findings.doubled(&balancer, &looks);
    let mut differ = findings.compare(&balancer, &mut looks, &doubled);
    for (first, other) in doubled {
        differ[other] = differ[first];
    }
    findings.rows = balancer
        .backends()
        .iter()
        .zip(&looks)
        .zip(differ)
        .map(|((backend, look), differs)| row(backend, look, differs))
        .collect();
    findings
}

/// How a key can differ.
const MISSING: &str = "missing there";

/// What came of asking a backend.
type Look = Result<ServerProfile, BackendError>;

fn look_at_all(balancer: &Arc<Balancer>) -> Vec<Look> {
    let deadline = Instant::now() + balancer.config.check_timeout;
    let (to_us, looks) = channel();
    let backends = balancer.backends();
    for (index, backend) in backends.iter().enumerate() {
        let (backend, to_us) = (Arc::clone(backend), to_us.clone());
        let max_lag = balancer.config.max_lag;
        // Not in a scope: a resolver may take longer than we want to wait. Where there is no thread
        // to be had, the backend counts as silent.
        let _ = thread::Builder::new().name("check".to_owned()).spawn(move || {
            _ = to_us.send((index, ServerProfile::look(backend.backend(), deadline, max_lag)));
        });
    }
    drop(to_us);
    let mut found: Vec<Look> = backends.iter().map(|_| Err(BackendError::TimedOut)).collect();
    let left = || (deadline + GRACE).saturating_duration_since(Instant::now());
    while let Ok((index, look)) = looks.recv_timeout(left()) {
        found[index] = look;
    }
    found
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// What HTTP clients would look for in vain: they read the database that is in the URL.
    fn emptiness(&mut self, balancer: &Balancer, looks: &[Look]) {
        let mut is_empty = true;
        for (backend, look) in balancer.backends().iter().zip(looks) {
            let server = look.as_ref().ok().filter(|server| server.no_database.is_none());
            let server = server.filter(|server| server.report.unserved.is_none());
            let Some(keys) = server.and_then(|server| server.report.keys.as_ref()) else { return };
            let (name, database) = (backend.name(), backend.own_mode().database);
            is_empty &= keys.total() == 0;
            if keys.total() > 0 && keys.in_database(database) == 0 {
                self.wrong.push(format!(
                    "{name} has no keys in database {database}, where HTTP clients read. Name \
                     another one in its URL."
                ));
            }
        }
        if is_empty {
            self.wrong.push("there are no keys at all. Load them first.".to_owned());
        }
        if databases_differ(&balancer.members()) {
            self.notes.push(DATABASES_DIFFER.to_owned());
        }
    }

    /// What is wrong with each server, the others apart.
    fn each_alone(&mut self, balancer: &Balancer, looks: &[Look]) {
        let timeout = humantime::format_duration(balancer.config.check_timeout);
        for (backend, look) in balancer.backends().iter().zip(looks) {
            let name = backend.name();
            let server = match look {
                Ok(server) => server,
                Err(error) => {
                    let what = advice(error, &timeout.to_string());
                    let error = error.to_string();
                    let error = error.trim_end_matches('.');
                    self.wrong.push(format!("{name} cannot be read from: {error}. {what}"));
                    continue;
                }
            };
            if let Some(why) = &server.report.unserved {
                self.wrong.push(format!("{name} can't be served from: {why}. Leave it out."));
                continue;
            }
            if let Some(why) = &server.report.not_ready {
                let why = logging::escaped(why);
                self.wrong
                    .push(format!("{name} is not ready: {why}. Nothing is read from it yet."));
            } else if server.is_cut_off {
                let primary = server.primary.as_deref().unwrap_or("its primary");
                self.wrong.push(format!(
                    "{name} is a replica whose link to {primary} is down, so its data may be old. \
                     See its log: can it reach its primary, and log in there (masterauth)?"
                ));
            } else if let Some(why) = &server.report.stale {
                self.wrong.push(format!("{name} may have old data: {why}."));
            }
            if let Some(why) = &server.no_database {
                let database = backend.own_mode().database;
                self.wrong.push(format!(
                    "{name} has no database {database} ({why}). Name another one in its URL."
                ));
            }
            if !server.lacks.is_empty() {
                let lacks = server.lacks.join(" ");
                self.wrong.push(format!(
                    "{name} lets its user do too little: lb needs {lacks} there (ACL SETUSER)."
                ));
            }
            if !server.lacks_for_redis_clients.is_empty() {
                let lacks = server.lacks_for_redis_clients.join(" ");
                self.notes.push(format!(
                    "{name}: HTTP clients can be served, Redis clients need {lacks} too."
                ));
            }
        }
    }

    /// Says which addresses lead to one server, and returns their places.
    fn doubled(&mut self, balancer: &Balancer, looks: &[Look]) -> Vec<(usize, usize)> {
        let run_id = |look: &Look| match look {
            Ok(server) if !server.report.run_id.is_empty() => {
                Some(Arc::clone(&server.report.run_id))
            }
            _ => None,
        };
        let run_ids: Vec<_> = looks.iter().map(run_id).collect();
        let doubled = doubled(&run_ids);
        let backends = balancer.members();
        for &(one, other) in &doubled {
            let (one, other) = (backends[one].name(), backends[other].name());
            self.wrong.push(format!("{one} and {other} {SAME_SERVER}"));
        }
        doubled
    }

    /// Compares those that can be read from, each server once; returns of each backend whether it
    /// differs, `None` where that is not known.
    fn compare(
        &mut self,
        balancer: &Balancer,
        looks: &mut [Look],
        doubled: &[(usize, usize)],
    ) -> Vec<Option<bool>> {
        let mut differ = vec![None; looks.len()];
        let backends = balancer.members();
        let databases: Vec<i64> =
            backends.iter().map(|backend| backend.own_mode().database).collect();
        let mut compared = Vec::new();
        for (index, look) in looks.iter_mut().enumerate() {
            let name = backends[index].name();
            let is_again = doubled.iter().any(|(_, other)| *other == index);
            if let Ok(server) = look
                && server.has_counted()
                && !is_again
            {
                let of_url = databases[index];
                let is_short = false;
                compared.push(Compared { index, name, server, of_url, is_short, failure: None });
            }
        }
        if compared.len() < 2 {
            return differ;
        }
        self.count(&mut compared);
        for one in &compared {
            differ[one.index] = one.is_short.then_some(true);
        }
        compared.retain(|one| one.server.may_be_sampled());
        if compared.len() < 2 {
            return differ;
        }
        let databases = databases_of(&databases, &compared);
        let outcome = sample::compare(&mut compared, &databases, balancer.config.check_timeout);
        let odd = self.values(&compared, &outcome);
        for (one, is_odd) in compared.iter().zip(odd) {
            if is_odd || one.failure.is_none() {
                differ[one.index] = Some(is_odd || one.is_short);
            }
        }
        differ
    }

    /// Finds those that have fewer keys than they should, as `lb` itself would judge it.
    fn count(&mut self, servers: &mut [Compared]) {
        let counts: Vec<Keys> =
            servers.iter().filter_map(|one| one.server.report.keys.clone()).collect();
        let mut fullest = Keys::default();
        counts.iter().for_each(|keys| fullest.merge(keys));
        let least = counts.iter().map(Keys::total).min().unwrap_or(0);
        let range = match least == fullest.total() {
            true => format!("{fullest} keys each"),
            false => format!("{least} to {fullest} keys"),
        };
        self.compared = Some(format!("{} servers with {range}", servers.len()));
        let expiring = servers.iter().map(|one| one.server.expiring()).max().unwrap_or(0);
        for (one, keys) in servers.iter_mut().zip(&counts) {
            let name = one.name;
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
            one.is_short = true;
            self.wrong.push(format!(
                "{name} lacks keys: {keys} there, {fullest} elsewhere. Load it again, or make it a \
                 replica of one that is complete."
            ));
        }
    }

    /// Says whose values are not those of most; returns that of each.
    fn values(&mut self, servers: &[Compared], outcome: &Outcome) -> Vec<bool> {
        if let Some(compared) = &mut self.compared {
            *compared += &format!("; {}", in_words(outcome));
        }
        for one in servers {
            if let Some(error) = &one.failure {
                let name = one.name;
                self.wrong.push(format!("{name} failed while keys were compared: {error}."));
            }
        }
        let unlike: Vec<_> =
            (0..servers.len()).map(|index| unlike(servers, outcome, index)).collect();
        let of = format!("of {} sampled keys differ", outcome.compared);
        if let ([one, other], [(place, _), ..]) = (servers, &unlike[0][..])
            && unlike[0].len() == unlike[1].len()
        {
            self.wrong.push(format!(
                "{} and {} hold different data: {} {of}, such as \"{}\". Load the wrong one again, \
                 or make it a replica of the other.",
                one.name,
                other.name,
                unlike[0].len(),
                shown(&place.key),
            ));
            return vec![true; 2];
        }
        for (one, unlike) in servers.iter().zip(&unlike) {
            let Some((place, how)) = unlike.first() else { continue };
            if one.is_short && unlike.iter().all(|(_, how)| how == MISSING) {
                // That was said.
                continue;
            }
            self.wrong.push(format!(
                "{} holds other data than the others: {} {of}, such as \"{}\" ({how}). Load it again, \
                 or make it a replica of one that is right.",
                one.name,
                unlike.len(),
                shown(&place.key),
            ));
        }
        unlike.iter().map(|unlike| !unlike.is_empty()).collect()
    }

    /// All of it, as text that may be coloured.
    pub fn text(&self) -> String {
        let (left, right) = (Alignment::Left, Alignment::Right);
        let head = [
            ("backend", left),
            ("reachable", left),
            ("role", left),
            ("redis", left),
            ("keys", right),
            ("ping", right),
            ("data", left),
        ];
        let mut text = table(&head, &self.rows);
        text.push('\n');
        for wrong in &self.wrong {
            _ = writeln!(text, "{} {wrong}", bad().apply_to("wrong:"));
        }
        for note in &self.notes {
            _ = writeln!(text, "{} {note}", Style::new().yellow().apply_to("note:"));
        }
        let good = good().apply_to("good:");
        _ = match &self.compared {
            Some(compared) if self.is_good() => writeln!(text, "{good} {compared}."),
            Some(compared) => writeln!(text, "compared: {compared}."),
            None if self.is_good() => {
                writeln!(text, "{good} it can be read from. There is no other to compare it with.")
            }
            None => Ok(()),
        };
        text
    }
}

/// Whether the URLs name different databases.
pub fn databases_differ(backends: &[Arc<Member>]) -> bool {
    let databases = backends.iter().map(|backend| backend.own_mode().database);
    databases.collect::<HashSet<_>>().len() > 1
}

/// What is said of URLs that name different databases.
pub const DATABASES_DIFFER: &str = "the URLs name different databases: HTTP clients read another \
    one of each server.";

/// What is said of two addresses that lead to one server.
pub const SAME_SERVER: &str = "are the same server: its reads are not spread, and when it fails, \
    both do. Name each server once.";

/// Which are equal to an earlier one, and to which.
pub fn doubled(run_ids: &[Option<Arc<str>>]) -> Vec<(usize, usize)> {
    let earlier = |index: usize| {
        let run_id = run_ids[index].as_ref()?;
        run_ids[..index].iter().position(|other| other.as_ref() == Some(run_id))
    };
    (0..run_ids.len()).filter_map(|index| Some((earlier(index)?, index))).collect()
}

fn in_words(outcome: &Outcome) -> String {
    let unequal = outcome.differing.len() + outcome.expiring + outcome.changing;
    let equal = outcome.compared.saturating_sub(unequal);
    if outcome.compared == 0 {
        return "there are no keys to compare".to_owned();
    }
    let mut text = format!("{equal} of {} sampled keys are equal", outcome.compared);
    for (count, what) in [
        (outcome.by_type, "compared by type only (large values, and types of modules)"),
        (outcome.expiring, "expired on some"),
        (outcome.changing, "being written"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// Those that have keys; or, where the URLs name different ones, those that they name.
fn databases_of(of_urls: &[i64], servers: &[Compared]) -> Vec<Database> {
    if of_urls.iter().any(|database| *database != of_urls[0]) {
        return vec![Database::OfUrl];
    }
    let mut numbers: Vec<i64> =
        servers.iter().flat_map(|one| one.server.databases.keys().copied()).collect();
    numbers.sort();
    numbers.dedup();
    numbers.into_iter().map(Database::Numbered).collect()
}

/// Where the server with this index has something else than most, and what.
fn unlike<'a>(
    servers: &[Compared],
    outcome: &'a Outcome,
    index: usize,
) -> Vec<(&'a Place, String)> {
    let differing = outcome.differing.iter().filter_map(|(place, row)| {
        let content = row[index].as_ref()?;
        let how = match usual(servers, row) {
            Some(usual) if usual == essence(content, row) => return None,
            _ if content.is_missing() => MISSING.to_owned(),
            Some((kind, _)) if kind == content.kind => "another value there".to_owned(),
            _ => format!("a {} there", shown(content.kind.as_bytes())),
        };
        Some((place, how))
    });
    differing.collect()
}

/// What most of the servers have that don't lack keys; `None` where no one thing is had by most.
fn usual(servers: &[Compared], row: &[Option<Content>]) -> Option<Essence> {
    let voters = servers.iter().zip(row).filter(|(server, _)| !server.is_short);
    let votes: Vec<_> =
        voters.filter_map(|(_, content)| Some(essence(content.as_ref()?, row))).collect();
    let count = |wanted: &Essence| votes.iter().filter(|vote| *vote == wanted).count();
    votes.iter().find(|vote| count(vote) * 2 > votes.len()).cloned()
}

fn advice(error: &BackendError, timeout: &str) -> String {
    let text = match error {
        BackendError::Unresolved(_) => "Is the name right?",
        BackendError::Connect(_) => "Does Redis run there, and is the address right?",
        BackendError::Protocol(_) => "Is that a Redis server?",
        BackendError::Redis(why) if why.starts_with("NOAUTH") => {
            "It wants a password: write redis://:PASSWORD@HOST:PORT."
        }
        BackendError::Redis(why) if why.starts_with("WRONGPASS") => {
            "Check the user and the password in its URL."
        }
        BackendError::Redis(why) if why.contains("AUTH") => {
            "It has no password: leave it out of the URL."
        }
        error if error.is_timeout() => {
            return format!(
                "Is it frozen or overloaded, or is there a firewall? It had {timeout} \
                 (--check-timeout)."
            );
        }
        _ => "See its log.",
    };
    text.to_owned()
}

fn good() -> Style {
    Style::new().green()
}

fn bad() -> Style {
    Style::new().red()
}

/// One line of the table.
fn row(backend: &Member, look: &Look, differs: Option<bool>) -> Vec<String> {
    let unknown = || "-".to_owned();
    let name = backend.name().to_owned();
    let Ok(server) = look else {
        let no = bad().apply_to("no").to_string();
        return [name, no].into_iter().chain((0..5).map(|_| unknown())).collect();
    };
    let or_unknown = |text: &str| if text.is_empty() { unknown() } else { text.to_owned() };
    vec![
        name,
        good().apply_to("yes").to_string(),
        server.role(),
        or_unknown(&server.version),
        server.report.keys.as_ref().map_or_else(unknown, Keys::to_string),
        format!("{:.2} ms", server.latency.as_secs_f64() * 1000.0),
        match differs {
            None => unknown(),
            Some(true) => bad().apply_to("differs").to_string(),
            Some(false) => good().apply_to("same").to_string(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_server_is_named_with_the_first() {
        let ids = ["a", "b", "a", "", "a"];
        let ids = ids.map(|id| (!id.is_empty()).then(|| Arc::from(id)));
        assert_eq!(doubled(&ids), [(0, 2), (0, 4)]);
        assert_eq!(doubled(&[None, None]), []);
    }
}
