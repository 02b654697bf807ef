//! What changes of a backend at run time: its settings, by a new configuration or by an operator, and whether it is
//! drained or in maintenance.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use log::info;

use super::Balancer;
use super::rows::LeaseTerms;
use crate::backend::BackendId;
use crate::config::backend::BackendSettings;
use crate::health::{Admin, Member, Overrides};
use crate::sync::lock;

impl Balancer {
    /// Takes over the settings that are configured now. What an operator has set goes on to hold. Returns whether
    /// they were others.
    pub fn set_settings(&self, id: BackendId, settings: BackendSettings, now: Instant) -> bool {
        let Some(member) = self.backend(id) else { return false };
        member.settings.configure(settings, |settings| self.apply(id, settings, now))
    }

    /// Sets the weight that overrides the configured one; `None` is the end of that. Returns false if there is no
    /// such backend.
    pub fn set_weight(&self, id: BackendId, weight: Option<u16>, now: Instant) -> bool {
        let Some(member) = self.backend(id) else { return false };
        member.settings.override_weight(weight, |settings| self.apply(id, settings, now));
        match weight {
            Some(weight) => info!("{} has weight {weight}: set by an operator", member.name()),
            None => info!("{} has its configured weight", member.name()),
        }
        true
    }

    /// Drains a backend, takes it into maintenance, or makes it ready again, which is also the end of a weight
    /// that was set at run time. Returns false if there is no such backend.
    pub fn set_admin(&self, id: BackendId, admin: Admin, now: Instant) -> bool {
        let Some(member) = self.backend(id) else { return false };
        if admin == Admin::Ready && member.settings.weight_override().is_some() {
            self.set_weight(id, None, now);
        }
        if member.health.set_admin(admin, now) && admin == Admin::Maint {
            member.close_all();
        }
        true
    }

    /// Begins an update of the list of backends: does its first part, during which no other begins. Returns its number.
    pub fn begin_update<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let mut updates = lock(&self.updates);
        *updates += 1;
        (*updates, work())
    }

    /// Does the rest of the update with this number, unless another has begun since, which does that.
    pub fn go_on_with_update(&self, number: u64, work: impl FnOnce()) {
        let updates = lock(&self.updates);
        if *updates == number {
            work();
        }
    }

    /// Whether no other update has begun since the one with this number.
    pub fn is_current_update(&self, number: u64) -> bool {
        *lock(&self.updates) == number
    }

    /// What an operator has set of a backend.
    pub fn overrides(&self, id: BackendId) -> Overrides {
        let Some(member) = self.backend(id) else { return Overrides::default() };
        Overrides { weight: member.settings.weight_override(), admin: member.health.admin() }
    }

    /// The backends as they are shown: of two with one name, the later one, which takes the other's place.
    pub fn shown_backends(&self) -> Vec<Arc<Member>> {
        let all = self.backends();
        let mut names = HashSet::new();
        let from_last = all.iter().rev();
        let mut shown: Vec<_> = from_last
            .filter(|member| names.insert(Arc::clone(&member.health.name)))
            .cloned()
            .collect();
        shown.reverse();
        shown
    }

    /// Gives the table the settings of a backend.
    pub(super) fn apply(&self, id: BackendId, settings: &BackendSettings, now: Instant) {
        let terms = LeaseTerms {
            weight: settings.weight,
            is_backup: settings.is_backup,
            is_across: self.is_across(settings),
            is_never_read: settings.is_never_read,
        };
        self.table.set_terms(id, terms, now);
        // Whether it is read from at all may have changed.
        if let Some(member) = self.backend(id) {
            self.outages.look(id, member.name(), now);
        }
    }

    /// Whether a backend with these settings is in another zone than `--zone`. One without a zone is, too.
    pub fn is_across(&self, settings: &BackendSettings) -> bool {
        let config = self.config();
        config.zone.is_some() && settings.zone != config.zone
    }
}
