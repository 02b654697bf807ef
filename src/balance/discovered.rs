//! The servers that sources have found, such as DNS and Sentinels.

use std::time::{Duration, Instant};

use crate::config::backend::BackendConfig;
use crate::config::source::SourceConfig;
use crate::sync::{Mutex, lock};

/// Identity of a source that is asked. No other source ever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceId(u64);

/// A source, and what it has found.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// Its identity.
    pub id: SourceId,
    /// The source as it is configured.
    pub source: SourceConfig,
    /// The servers of its last good answer; `None` if it has never given one.
    pub servers: Option<Vec<BackendConfig>>,
    /// When that was.
    pub answered: Option<Instant>,
    /// Reason why it has no list to give now, if so.
    pub error: Option<String>,
}

/// Meaning of a source's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportMeaning {
    /// Its servers are others than before.
    Changed,
    /// Its servers are those of before.
    Same,
    /// It is not configured any more: nobody needs it.
    Unwanted,
}

/// What all sources have found.
#[derive(Debug, Default)]
pub struct Discovered {
    states: Mutex<(u64, Vec<SourceState>)>,
}

impl Discovered {
    /// Takes over the sources that are configured. Those that were there before keep what they have found. Returns the
    /// new ones.
    pub fn configure<'a>(
        &self,
        sources: impl Iterator<Item = &'a SourceConfig>,
    ) -> Vec<(SourceId, SourceConfig)> {
        let mut states = lock(&self.states);
        let (next, old) = &mut *states;
        let mut new = Vec::new();
        let mut kept = Vec::new();
        for source in sources {
            let before = old.iter().position(|state| state.source == *source);
            kept.push(before.map(|at| old.remove(at)).unwrap_or_else(|| {
                *next += 1;
                let id = SourceId(*next);
                new.push((id, source.clone()));
                let source = source.clone();
                SourceState { id, source, servers: None, answered: None, error: None }
            }));
        }
        *old = kept;
        new
    }

    /// Takes note of what a source has answered at `now`.
    pub fn report(
        &self,
        id: SourceId,
        result: Result<Vec<BackendConfig>, String>,
        now: Instant,
    ) -> ReportMeaning {
        let mut states = lock(&self.states);
        let Some(state) = states.1.iter_mut().find(|state| state.id == id) else {
            return ReportMeaning::Unwanted;
        };
        match result {
            Ok(servers) => {
                state.answered = Some(now);
                state.error = None;
                match state.servers.replace(servers) {
                    before if before != state.servers => ReportMeaning::Changed,
                    _ => ReportMeaning::Same,
                }
            }
            Err(error) => {
                state.error = Some(error);
                ReportMeaning::Same
            }
        }
    }

    /// Whether a source is still wanted.
    pub fn wants(&self, id: SourceId) -> bool {
        lock(&self.states).1.iter().any(|state| state.id == id)
    }

    /// Returns the servers of all sources, in the order of the sources.
    pub fn servers(&self) -> Vec<BackendConfig> {
        let states = lock(&self.states);
        states.1.iter().flat_map(|state| state.servers.iter().flatten().cloned()).collect()
    }

    /// Returns the sources as they are now.
    pub fn states(&self) -> Vec<SourceState> {
        lock(&self.states).1.clone()
    }
}

impl SourceState {
    /// Returns how long ago its last good answer was.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.answered.map(|answered| now.saturating_duration_since(answered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_last_list_of_a_source_holds_while_it_fails_and_while_it_is_configured() {
        let urls = |list: &str| {
            let arguments = ["lb".to_owned(), format!("--backend={list}")];
            Config::from_arguments(arguments).expect("right")
        };
        let discovered = Discovered::default();
        let config = urls("dns://a:1,h:1,dns://b:1");
        let new = discovered.configure(config.sources());
        assert_eq!(new.len(), 2);
        assert!(discovered.servers().is_empty());
        let (a, b) = (new[0].0, new[1].0);
        let now = Instant::now();
        let found = |at: usize, host: &str| vec![new[at].1.server(host, 1)];
        assert_eq!(discovered.report(b, Ok(found(1, "y")), now), ReportMeaning::Changed);
        assert_eq!(discovered.report(a, Ok(found(0, "x")), now), ReportMeaning::Changed);
        let names = || -> Vec<String> {
            discovered.servers().iter().map(|server| server.name().to_owned()).collect()
        };
        assert_eq!(names(), ["x:1", "y:1"]);
        let fails = || discovered.report(a, Err("silence".to_owned()), now);
        assert_eq!(fails(), ReportMeaning::Same);
        assert_eq!(discovered.states()[0].error.as_deref(), Some("silence"));
        assert_eq!(names(), ["x:1", "y:1"]);
        assert_eq!(discovered.report(a, Ok(found(0, "x")), now), ReportMeaning::Same);
        assert_eq!(discovered.states()[0].error, None);
        assert_eq!(discovered.report(a, Ok(found(0, "z")), now), ReportMeaning::Changed);

        assert!(discovered.configure(urls("h:1,dns://a:1").sources()).is_empty());
        assert!(!discovered.wants(b) && discovered.wants(a));
        assert_eq!(discovered.report(b, Ok(found(1, "y")), now), ReportMeaning::Unwanted);
        assert_eq!(names(), ["z:1"]);
        let again = discovered.configure(urls("dns://b:1").sources());
        assert!(again.len() == 1 && again[0].0 != b && !discovered.wants(a));
    }
}
