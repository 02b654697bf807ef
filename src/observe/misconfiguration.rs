//! Mistakes in the list of backends, of which `lb` warns at its start and `lb check` tells.

use std::sync::Arc;

use crate::config::source::BackendEntry;

/// Warning about two addresses of one server.
pub const SAME_SERVER: &str = "are the same server: its reads are not spread, and when it fails, \
    both do. Name each server once.";

/// Warning about URLs that name different databases.
pub const DATABASES_DIFFER: &str = "the URLs name different databases, so HTTP clients read a \
    different one on each server.";

/// Whether the URLs name different databases.
pub fn databases_differ(backends: &[BackendEntry]) -> bool {
    let database = |backend: &BackendEntry| backend.target().database();
    backends.iter().any(|backend| database(backend) != database(&backends[0]))
}

/// Finds servers that are in the list twice, by their `run_id`. Returns the indices of their first
/// and of each later occurrence.
pub fn duplicates(run_ids: &[Option<Arc<str>>]) -> Vec<(usize, usize)> {
    let first = |index: usize| {
        let run_id = run_ids[index].as_ref()?;
        run_ids[..index].iter().position(|other| other.as_ref() == Some(run_id))
    };
    (0..run_ids.len()).filter_map(|index| Some((first(index)?, index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_server_is_named_with_the_first() {
        let ids = ["a", "b", "a", "", "a"];
        let ids = ids.map(|id| (!id.is_empty()).then(|| Arc::from(id)));
        assert_eq!(duplicates(&ids), [(0, 2), (0, 4)]);
        assert_eq!(duplicates(&[None, None]), []);
    }
}
