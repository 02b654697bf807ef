//! What the control socket does.

use std::sync::Arc;
use std::time::Instant;

use log::{LevelFilter, info};
use serde::Serialize;

use super::Control;
use super::clients::{self, Clients};
use super::routes::{Change, Operation, PATHS, Refusal};
use crate::balance::Balancer;
use crate::config::backend::BackendConfig;
use crate::discovery::{self, Changes, ListError};
use crate::health::{Admin, Member};
use crate::http::target::NO_HISTORY;
use crate::logging;
use crate::observe::status::Status;
use crate::sync::lock;

/// Most names of backends that an error repeats.
const MAX_NAMED: usize = 8;

/// A response: its status and its document.
pub(super) type Response = (u16, String);

/// The document of a change that is done.
#[derive(Serialize)]
struct Done<'a> {
    done: &'a str,
}

fn document(value: &impl Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| (200, text + "\n")).map_err(|error| Refusal::new(500, error.to_string()))
}

impl Control {
    /// Does what is asked for; `by` says who asks.
    pub fn perform(&self, operation: Operation, by: &str) -> Result<Response, Refusal> {
        let change = match operation {
            Operation::Index => {
                let paths = PATHS.into_iter().collect::<std::collections::BTreeMap<_, _>>();
                return document(&paths);
            }
            Operation::Status { since } => {
                return document(&Status::of(&self.balancer, since, true));
            }
            Operation::Backends => {
                return document(&Status::of(&self.balancer, NO_HISTORY, true).of_backends());
            }
            Operation::Overrides => {
                let left = discovery::left_in_place(&self.balancer).into_iter();
                let left = left.map(|(name, what)| format!("{name}: {what}"));
                return document(&left.collect::<Vec<_>>());
            }
            Operation::Clients { limit } => {
                return document(&Clients::of(&self.balancer, &*self.clients, limit));
            }
            Operation::Change(change) => change,
        };
        let wish = change.to_string();
        let (status, mut done) = self.change(change)?;
        info!("control: {by}: {}", logging::escaped(&wish));
        if !self.balancer.table.can_serve(|_| true) {
            done += "; no backend is up now";
        }
        document(&Done { done: &done }).map(|(_, text)| (status, text))
    }

    /// Makes a change. Returns the status of the response, and what was done.
    fn change(&self, change: Change) -> Result<(u16, String), Refusal> {
        let balancer = &self.balancer;
        let done = match change {
            Change::SetAdmin(name, Admin::Ready) if discovery::restore(balancer, &name) => {
                format!("{name} is in the list again; it is read from once it has proved its data")
            }
            Change::SetAdmin(name, admin) => self.set_admin(&name, admin)?,
            Change::SetWeight(name, weight) => {
                let member = self.member(&name)?;
                balancer.set_weight(member.id, Some(weight), Instant::now());
                format!("{name} has weight {weight}")
            }
            Change::Add(backend) => self.add(*backend)?,
            Change::Remove(name) => return self.remove(&name),
            Change::Reload => match (self.reload)() {
                Ok(lines) => lines.join("\n"),
                Err(reasons) => return Err(Refusal::new(409, reasons.join("\n"))),
            },
            Change::SetLogLevel(level) => set_log_level(balancer, level),
            Change::Kill(client) => clients::kill(&*self.clients, &client).ok_or_else(|| {
                Refusal::new(
                    404,
                    "there is no such client; GET /clients lists those that there are",
                )
            })?,
        };
        Ok((200, done))
    }

    fn set_admin(&self, name: &str, admin: Admin) -> Result<String, Refusal> {
        let member = self.member(name)?;
        self.balancer.set_admin(member.id, admin, Instant::now());
        Ok(match admin {
            Admin::Ready => format!("{name} is ready, with what is configured"),
            Admin::Drain => {
                format!("{name} is draining: it gets no new clients, its sessions move to others")
            }
            Admin::Maint => format!("{name} is in maintenance: neither read from nor checked"),
        })
    }

    fn add(&self, mut backend: BackendConfig) -> Result<String, Refusal> {
        let name = backend.name().to_owned();
        let config = self.balancer.config();
        let refused = config.refuse_itself(&backend.address);
        refused.map_err(|reason| Refusal::new(409, reason))?;
        let completed = config.complete(&mut backend);
        drop(config);
        completed.map_err(|reason| Refusal::new(409, reason))?;
        discovery::add_listed(&self.balancer, backend).map_err(|error| self.refuse(&error))?;
        Ok(format!("{name} is added; it is read from once it has proved its data"))
    }

    fn remove(&self, name: &str) -> Result<(u16, String), Refusal> {
        let removed = discovery::remove_listed(&self.balancer, name);
        let Changes { staying, .. } = removed.map_err(|error| self.refuse(&error))?;
        Ok(match staying.iter().any(|staying| staying == name) {
            false => (200, format!("{name} is removed")),
            true => (202, format!("{name} is removed as soon as another backend is up")),
        })
    }

    fn refuse(&self, error: &ListError) -> Refusal {
        match error {
            ListError::Missing(name) => self.missing(name),
            error => Refusal::new(409, error.to_string()),
        }
    }

    /// Returns the backend of this name.
    fn member(&self, name: &str) -> Result<Arc<Member>, Refusal> {
        if lock(&self.balancer.overlay).has_removed(name) {
            return Err(Refusal::new(409, ListError::Removed(name.to_owned()).to_string()));
        }
        let members = self.balancer.shown_backends();
        let found = members.into_iter().find(|member| member.name() == name);
        found.ok_or_else(|| self.missing(name))
    }

    /// Refuses a name that no backend has.
    fn missing(&self, name: &str) -> Refusal {
        let overlay = lock(&self.balancer.overlay).clone();
        let members = self.balancer.shown_backends();
        let names = members.iter().map(|member| member.name().to_owned());
        let names: Vec<String> = names.filter(|name| !overlay.has_removed(name)).collect();
        let shown = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if names.len() > MAX_NAMED { ", …" } else { "" };
        let those = if names.is_empty() { "" } else { "; there are " };
        let name = logging::escaped(name);
        let error = format!("there is no backend {name}{those}{shown}{more}");
        Refusal { backends: names, ..Refusal::new(404, error) }
    }
}

fn set_log_level(balancer: &Balancer, level: Option<LevelFilter>) -> String {
    lock(&balancer.overlay).log_level = level;
    let holds = level.unwrap_or(balancer.config().log_level);
    logging::set_level(holds);
    format!("the log has the level {}", holds.as_str().to_lowercase())
}
