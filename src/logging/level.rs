//! The level of the log, which may change while it is written.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use env_filter::Filter;
use env_logger::Logger;
use log::{LevelFilter, Log, Metadata, Record};

/// The one log of the process.
static LOG: OnceLock<LevelledLog> = OnceLock::new();

/// A log, and the filter before it.
struct LevelledLog {
    logger: Logger,
    filter: ArcSwap<Filter>,
    /// What `RUST_LOG` says of single modules.
    modules: String,
}

impl Log for LevelledLog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.filter.load().enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if self.filter.load().matches(record) {
            self.logger.log(record);
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

/// Makes this the log of the process. Levels for all modules in `RUST_LOG` hold only if no level was chosen.
pub(super) fn start(logger: Logger, rust_log: &str, level: Option<LevelFilter>) {
    let is_of_module = |part: &&str| part.contains('=') || part.parse::<LevelFilter>().is_err();
    let modules = rust_log.split(',').filter(is_of_module).collect::<Vec<_>>().join(",");
    // Info holds also if RUST_LOG names only other modules, or one that does not exist.
    let filter = match level {
        Some(level) => filter(level, &modules),
        None => filter(LevelFilter::Info, rust_log),
    };
    let max_level = filter.filter();
    let log = LevelledLog { logger, filter: ArcSwap::from_pointee(filter), modules };
    if log::set_logger(LOG.get_or_init(|| log)).is_ok() {
        log::set_max_level(max_level);
    }
}

/// Changes the level of the log; modules that `RUST_LOG` names keep theirs.
pub fn set_level(level: LevelFilter) {
    let Some(log) = LOG.get() else { return };
    let filter = filter(level, &log.modules);
    let max_level = filter.filter();
    log.filter.store(Arc::new(filter));
    log::set_max_level(max_level);
}

fn filter(level: LevelFilter, rust_log: &str) -> Filter {
    env_filter::Builder::new().filter_level(level).parse(rust_log).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_holds_for_modules_that_rust_log_does_not_name() {
        let is_logged = |filter: &Filter, module, level| {
            filter.enabled(&Metadata::builder().target(module).level(level).build())
        };
        for level in [LevelFilter::Warn, LevelFilter::Debug] {
            let filter = filter(level, "redis_lb::session=error");
            assert_eq!(
                is_logged(&filter, "redis_lb::health", log::Level::Debug),
                level == LevelFilter::Debug
            );
            assert!(is_logged(&filter, "redis_lb::health", log::Level::Warn));
            assert!(!is_logged(&filter, "redis_lb::session::http", log::Level::Warn));
        }
    }
}
