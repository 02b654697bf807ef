//! How much is read from a backend: as configured, and what an operator has set in its place.

use std::fmt;

use super::Admin;
use crate::config::backend::BackendSettings;
use crate::sync::{Mutex, lock};

/// The settings of one backend. What was set at run time overrides what is configured.
#[derive(Debug)]
pub struct Settings(Mutex<Layers>);

#[derive(Debug)]
struct Layers {
    configured: BackendSettings,
    /// The weight that an operator has set.
    weight: Option<u16>,
}

/// What an operator has set at run time, and a reload leaves as it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Overrides {
    /// The weight in place of the configured one.
    pub weight: Option<u16>,
    /// Whether it is drained or in maintenance.
    pub admin: Admin,
}

impl fmt::Display for Overrides {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let admin = match self.admin {
            Admin::Ready => None,
            Admin::Drain => Some("draining".to_owned()),
            Admin::Maint => Some("in maintenance".to_owned()),
        };
        let parts: Vec<String> = weight.into_iter().chain(admin).collect();
        to.write_str(&parts.join(", "))
    }
}

impl Settings {
    /// Returns the settings of a backend that is as configured.
    pub fn new(configured: BackendSettings) -> Self {
        Self(Mutex::new(Layers { configured, weight: None }))
    }

    /// Returns the settings as they are configured.
    pub fn configured(&self) -> BackendSettings {
        lock(&self.0).configured.clone()
    }

    /// Returns the settings that hold.
    pub fn effective(&self) -> BackendSettings {
        lock(&self.0).effective()
    }

    /// Returns the weight that was set at run time.
    pub fn weight_override(&self) -> Option<u16> {
        lock(&self.0).weight
    }

    /// Sets the configured ones, and lets `apply` take over those that hold then. Returns whether they were others.
    pub(crate) fn configure(
        &self,
        configured: BackendSettings,
        apply: impl FnOnce(&BackendSettings),
    ) -> bool {
        let mut layers = lock(&self.0);
        let was = std::mem::replace(&mut layers.configured, configured);
        // With the lock, so that of two changes the last one holds.
        apply(&layers.effective());
        was != layers.configured
    }

    /// Sets the weight that overrides the configured one, and lets `apply` take over the settings that hold then.
    pub(crate) fn override_weight(
        &self,
        weight: Option<u16>,
        apply: impl FnOnce(&BackendSettings),
    ) {
        let mut layers = lock(&self.0);
        layers.weight = weight;
        apply(&layers.effective());
    }
}

impl Layers {
    fn effective(&self) -> BackendSettings {
        let weight = self.weight.unwrap_or(self.configured.weight);
        BackendSettings { weight, ..self.configured.clone() }
    }
}
