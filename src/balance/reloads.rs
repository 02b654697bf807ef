//! What has become of the attempts to read the configuration again.

use std::time::SystemTime;

use crate::sync::{Mutex, lock};

/// The reloads of the configuration, one at a time.
#[derive(Debug)]
pub struct Reloads {
    running: Mutex<()>,
    record: Mutex<ReloadRecord>,
}

/// What is known of past reloads.
#[derive(Debug, Clone)]
pub struct ReloadRecord {
    /// When the configuration that is in effect was read.
    pub loaded_at: SystemTime,
    /// Number of reloads that were taken over.
    pub done: u64,
    /// Number of reloads that were refused.
    pub failed: u64,
    /// When the last reload was refused, and why; `None` once one was taken over.
    pub refused: Option<(SystemTime, String)>,
}

impl Default for Reloads {
    fn default() -> Self {
        let (done, failed) = (0, 0);
        let record = ReloadRecord { loaded_at: SystemTime::now(), done, failed, refused: None };
        Self { running: Mutex::new(()), record: Mutex::new(record) }
    }
}

impl Reloads {
    /// Runs a reload when no other runs, and takes note of its result: why it was refused is in lines.
    pub fn run<T>(
        &self,
        reload: impl FnOnce() -> Result<T, Vec<String>>,
    ) -> Result<T, Vec<String>> {
        let _running = lock(&self.running);
        let result = reload();
        let mut record = lock(&self.record);
        match &result {
            Ok(_) => {
                record.done += 1;
                (record.loaded_at, record.refused) = (SystemTime::now(), None);
            }
            Err(reasons) => {
                record.failed += 1;
                record.refused = Some((SystemTime::now(), reasons.join("; ")));
            }
        }
        result
    }

    /// Returns what is known of them.
    pub fn record(&self) -> ReloadRecord {
        lock(&self.record).clone()
    }
}
