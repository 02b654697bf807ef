//! Problems of each server, and mistakes in the list of servers.

use std::sync::Arc;

use super::Asked;
use super::findings::Findings;
use super::status::ServerStatus;
use crate::backend::{Backend, advice_on_failure, advice_on_unserved};
use crate::balance::Balancer;
use crate::config::Config;
use crate::discovery::advice_on_source;
use crate::logging;
use crate::observe::misconfiguration::{
    DATABASES_DIFFER, SAME_SERVER, databases_differ, duplicates,
};

impl Findings {
    /// Says what the sources of servers have found.
    pub(super) fn examine_sources(&mut self, balancer: &Balancer) {
        for state in balancer.discovered.states() {
            let name = state.source.name();
            match (state.servers, state.error) {
                (Some(servers), _) => {
                    self.sources.push(format!("{name}: {} servers", servers.len()))
                }
                (None, error) => {
                    let error = error.unwrap_or_else(|| "no answer in time".to_owned());
                    let advice = advice_on_source(&state.source.kind, &error);
                    let error = error.trim_end_matches('.');
                    self.problems.push(format!("{name} names no servers: {error}. {advice}"));
                }
            }
        }
    }

    /// Finds the problems of each server by itself.
    pub(super) fn examine_each(&mut self, config: &Config, servers: &[Asked]) {
        for Asked { backend, status } in servers {
            match status {
                Ok(server) => self.examine(backend, server),
                Err(error) => {
                    let advice = advice_on_failure(error, &backend.address, config.check_timeout);
                    let (name, error) = (backend.name(), error.to_string());
                    let error = error.trim_end_matches('.');
                    self.problems.push(format!("{name} cannot be read from: {error}. {advice}"));
                }
            }
        }
    }

    fn examine(&mut self, backend: &Backend, server: &ServerStatus) {
        let name = backend.name();
        if let Some(why) = server.report.unserved {
            let advice = advice_on_unserved(why);
            self.problems.push(format!("{name} can't be served from: {why}. {advice}"));
            return;
        }
        self.problems.extend(stale_data(server).map(|problem| format!("{name} {problem}")));
        if let Some(why) = &server.no_database {
            let database = backend.own_mode().database;
            self.problems.push(format!(
                "{name} has no database {database} ({why}). Name another one in its URL."
            ));
        }
        if !server.lacks.is_empty() {
            let lacks = server.lacks.join(" ");
            self.problems.push(format!(
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

    /// Finds databases without keys: HTTP clients read the database in the URL.
    pub(super) fn examine_databases(&mut self, config: &Config, servers: &[Asked]) {
        let mut is_empty = true;
        for Asked { backend, status } in servers {
            let server = status.as_ref().ok().filter(|server| server.no_database.is_none());
            let server = server.filter(|server| server.report.unserved.is_none());
            let Some(keys) = server.and_then(|server| server.report.keys.as_ref()) else { return };
            let (name, database) = (backend.name(), backend.own_mode().database);
            is_empty &= keys.total() == 0;
            let in_database = u32::try_from(database).map_or(0, |number| keys.count(number));
            if keys.total() > 0 && in_database == 0 {
                self.problems.push(format!(
                    "{name} has no keys in database {database}, where HTTP clients read. Name \
                     another one in its URL."
                ));
            }
        }
        if is_empty && !servers.is_empty() {
            self.problems.push("there are no keys at all. Load them first.".to_owned());
        }
        if databases_differ(&config.backends) {
            self.notes.push(DATABASES_DIFFER.to_owned());
        }
    }

    /// Finds addresses of the same server; returns the indices of each pair.
    pub(super) fn examine_duplicates(&mut self, servers: &[Asked]) -> Vec<(usize, usize)> {
        let run_id = |server: &Asked| {
            let run_id = &server.status.as_ref().ok()?.report.run_id;
            (!run_id.is_empty()).then(|| Arc::clone(run_id))
        };
        let run_ids: Vec<_> = servers.iter().map(run_id).collect();
        let duplicates = duplicates(&run_ids);
        for &(first, again) in &duplicates {
            let (first, again) = (servers[first].backend.name(), servers[again].backend.name());
            self.problems.push(format!("{first} and {again} {SAME_SERVER}"));
        }
        duplicates
    }
}

/// Says why a server's data are missing or old, if they are.
fn stale_data(server: &ServerStatus) -> Option<String> {
    if let Some(why) = &server.report.not_ready {
        let why = logging::escaped(why);
        return Some(format!("is not ready: {why}. Nothing is read from it yet."));
    }
    if server.report.is_cut_off {
        let primary = server.primary.as_deref().unwrap_or("its primary");
        return Some(format!(
            "is a replica whose link to {primary} is down, so its data may be old. See its log: can \
             it reach its primary, and log in there (masterauth)?"
        ));
    }
    let why = server.report.stale.as_ref()?;
    Some(format!("may have old data: {why}."))
}
